import copy
import json
import os
import re
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import train
from dcgan.common import files
from dcgan.common.options import current
from dcgan.networks.losses import LOSSES
from dcgan.runs import checkpoints, curves, generators, page
from dcgan.runs.checkpoints import finite_arrays
from dcgan.runs.run import Run, open_run
from dcgan.training.devices import Device
from dcgan.training.progress import Progress
from preprocess import Prepared
from tests.runs.saved import contents, delete_checkpoints
from tests.tiny import TINY, constants_of

CONSTANTS = {**current(train), **TINY, "RUN": "runs/a", "WIDTH": 0.05}
PICTURES = Prepared(
    Path("data/toys-28.npy"),
    "toys",
    40,
    {"source": "toys.zip", "crop": "none", "filter": "area", "bytes": 3},
)
BEGUN = {
    **{"backend": "tensorflow", "precision": "float32", "batch_size": 8, "count": 40},
    **{"checksum": "abc", "score": "mmd"},
}
SHEET = np.zeros((2, 28, 28, 3), "uint8")


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def quickly(here, monkeypatch):
    draw_no_curves(monkeypatch)


def draw_no_curves(patch):
    """Write something in the place of losses.png, which takes a second to draw."""

    def save_losses(path, *_):
        with files.write_whole(path) as part:
            part.touch()

    patch.setattr(curves, "save_losses", save_losses)


def open_again(**changes):
    constants = {**CONSTANTS, **changes}
    return Run("runs/a", constants, constants["FROM"])


def begin(run, gan, **changes):
    return run.begin({**BEGUN, **changes}, "A device", PICTURES, gan)


def do_epoch(run, gan, progress, score):
    """Do the end of an epoch of five iterations; the weights tell which one it is."""
    first = gan.average.weights[0]
    first.assign(np.full(first.shape, progress.epoch, "float32"))
    numbers = np.full(5, 0.5)
    names = ("d_loss", "g_loss", "real_accuracy", "fake_accuracy")
    progress.add(dict.fromkeys(names, numbers))
    progress.seconds = 2.0
    progress.end_epoch(8, {"diversity": 1.0, "mmd": score}, 0.5)
    run.save_epoch(finite_arrays(gan), gan.average, progress, SHEET, "MMD")


@pytest.fixture(scope="module")
def begun_once(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        draw_no_curves(patch)
        run, progress = open_again(), Progress()
        with begin(run, built):
            do_epoch(run, built, progress, 0.2)
    return folder / "runs", progress.as_dict()


@pytest.fixture
def begun(here, begun_once):
    """Copy a run of one epoch, with a score of 0.2; return its Progress."""
    folder, saved = begun_once
    shutil.copytree(folder, "runs")
    progress = Progress()
    progress.take_up(copy.deepcopy(saved))
    return progress


def test_a_new_run_writes_what_it_began_with_and_holds_its_folder(gan):
    run = open_again()
    assert run.had("score") is None
    with begin(run, gan):
        written = constants_of("runs/a")
        assert written["constants"] == CONSTANTS
        assert written["begun_with"] == BEGUN
        assert written["device"] == "A device"
        assert "keras" in written
        assert run.load(gan) is None
        with pytest.raises(SystemExit, match="trains in runs/a"), begin(run, gan):
            pass
    assert open_again().had("score") is None  # it may begin with another score, still


def test_an_epochs_end_leaves_all_there_is_to_it(gan, begun):
    assert sorted(contents("runs/a")) == [
        *("checkpoint-000005.npz", "constants.json", "generator-last.json"),
        *("generator-last.weights.h5", "generator.json", "generator.weights.h5"),
        *("index.html", "log.csv", "losses.png", "samples/epoch-001.png"),
    ]
    facts = generators.read("runs/a", "last").facts
    wanted = {
        **{"network": "dcgan", "image_size": 28, "width": 0.05, "seed": 1},
        **{"latent": 100, "backend": "tensorflow", "averaged": True, "epochs": 1},
        **{"iterations": 5, "pictures_shown": 40, "score": 0.2, "scored_by": "MMD"},
        **{"constants": CONSTANTS, "changes": []},
        "data": {
            **{"name": "toys", "count": 40, "source": "toys.zip", "crop": "none"},
            **{"filter": "area", "checksum": "abc"},
        },
    }
    assert {name: facts[name] for name in wanted} == wanted
    shown = page.HELD.search(Path("runs/a/index.html").read_text())[2]
    assert json.loads(shown)["undecided"] == LOSSES["cross-entropy"].undecided
    run = open_again()
    assert run.had("score") == "mmd"
    with begin(run, gan):
        assert run.load(gan) == begun.as_dict()
    assert begun.best == {"epoch": 1, "score": 0.2}


def test_every_so_many_epochs_generator_and_checkpoint_stay(gan):
    run, progress = open_again(KEEP_EVERY=2), Progress()
    with begin(run, gan):
        for epoch in range(1, 6):
            do_epoch(run, gan, progress, 1 / epoch)
    assert generators.kept("runs/a") == [2, 4]
    for epoch in (2, 4):
        facts = generators.read("runs/a", str(epoch)).facts
        assert (facts["epochs"], facts["score"]) == (epoch, 1 / epoch)
        with h5py.File(f"runs/a/generator-00{epoch}.weights.h5") as file:
            assert file["layers/dense/vars/0"][0, 0] == epoch
    ends = [checkpoints.ended_epoch(path) for path in checkpoints.paths("runs/a")]
    assert ends == [2, 4, 5]
    Path("runs/a/generator-004.weights.h5").unlink()  # which the user may
    run = open_again()  # from now on none
    with begin(run, gan):
        progress.take_up(run.load(gan))
        for _ in range(3):
            do_epoch(run, gan, progress, 0.5)
    ends = [checkpoints.ended_epoch(path) for path in checkpoints.paths("runs/a")]
    assert ends == [2, 7, 8]
    assert generators.kept("runs/a") == [2]


def test_each_process_may_have_places_of_its_own(here):
    own = {"DATA", "DATA_FOLDER", "RUN", "FROM", "KEEP_EVERY"}
    own |= {"CHECKPOINT_MINUTES", "KEEP_CHECKPOINTS"}
    assert set(open_again().shared) == {*CONSTANTS} - own


def test_an_epochs_end_is_due_when_it_takes_a_small_share_of_the_time(
    here, monkeypatch
):
    run, now = open_again(KEEP_EVERY=7), 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert run.end_is_due(0.1, Progress())
    run.ends.note(2.0)
    for passed, is_due in ((0, False), (19, False), (21, True)):
        now = 1000 + passed
        assert run.end_is_due(0.1, Progress(epoch=2)) == is_due
    now = 1000.0
    assert run.end_is_due(1.0, Progress(epoch=2))
    assert run.end_is_due(0.1, Progress(epoch=14))


def test_a_disk_without_room_for_what_is_to_be_kept_is_told_first(gan, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 0, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    run = open_again(KEEP_EVERY=10, EPOCHS=10**6)
    with pytest.raises(SystemExit, match=r"needs \d.* MB .* larger --keep-every"):
        begin(run, gan).__enter__()


def test_faces_that_are_shown_in_every_step_of_the_discriminator_count(gan):
    run, progress = open_again(D_STEPS=3), Progress()
    with begin(run, gan):
        do_epoch(run, gan, progress, None)
    facts = generators.read("runs/a").facts
    assert facts["pictures_shown"] == 3 * 40
    assert facts["score"] is None
    assert progress.best is None


def test_a_kill_at_an_epochs_end_leaves_the_same_run(gan, begun, monkeypatch):
    """An epoch's end writes sheet, log, curves, last, best, page and checkpoint. It is
    killed in the second one's, before each of its files gets its name.
    """
    shutil.copytree("runs/a", "begun")
    calls = []

    def deadly(old, new):
        if len(calls) == most:
            raise Killed
        calls.append(Path(new).name)
        os.replace(old, new)

    def go_on(score=0.1):
        run, progress = open_again(), Progress()
        with begin(run, gan):
            progress.take_up(run.load(gan))
            do_epoch(run, gan, progress, score)
        return progress

    monkeypatch.setattr(files, "replace", deadly)
    most = 100
    assert go_on().best == {"epoch": 2, "score": 0.1}
    whole, written = contents_but_times("runs/a"), calls.copy()
    assert written == [
        *("epoch-002.png", "log.csv", "losses.png", "generator-last.weights.h5"),
        *("generator-last.json", "generator.weights.h5", "generator.json"),
        *("index.html", "checkpoint-000010.npz"),
    ]
    for killed_at in range(len(written)):
        shutil.rmtree("runs/a")
        shutil.copytree("begun", "runs/a")
        calls.clear()
        most = killed_at
        with pytest.raises(Killed):
            go_on()
        assert calls == written[:killed_at]
        epochs = [generators.read("runs/a", which).facts["epochs"] for which in NAMES]
        assert epochs == [2 if killed_at > 5 else 1, 2 if killed_at > 3 else 1]
        most = 100
        assert go_on().best == {"epoch": 2, "score": 0.1}
        assert contents_but_times("runs/a") == whole


NAMES = ("best", "last")


def contents_but_times(run):
    """Return contents() without the times of files, which the page tells."""
    found = contents(run)
    times = rb'checksum="\d+"|"ended":[\d.]+|"of":"[^"]+"'
    found["index.html"], count = re.subn(times, b"", found["index.html"])
    assert count == 2 + len(list(Path(run).glob("samples/*.png")))
    return found


def test_other_constants_are_named_and_refused_unless_they_are_free(gan, begun):
    before = contents("runs/a")
    message = r"runs/a was begun differently: SEED was 1 and is 2\. Set it back"
    with pytest.raises(SystemExit, match=message):
        open_again(SEED=2)
    run = open_again(EPOCHS=9, STEPS_PER_CALL=1)
    for changes in ({"count": 39}, {"checksum": "other"}, {"score": "kid"}):
        ((name, value),) = changes.items()
        refused = f"{name} was {BEGUN[name]!r} and is {value!r}"
        with pytest.raises(SystemExit, match=refused):
            run.check({**BEGUN, **changes})
        with pytest.raises(SystemExit, match=refused), begin(run, gan, **changes):
            pass
    with begin(run, gan):
        pass
    assert contents("runs/a") == before


def test_constants_that_came_later_are_those_that_older_runs_had(gan, begun):
    path = Path("runs/a/constants.json")
    written = json.loads(path.read_text())
    for name in ("FROM", "D_STEPS", "G_STEPS"):
        del written["constants"][name]
    path.write_text(json.dumps(written))
    assert open_again().before
    with pytest.raises(SystemExit, match="D_STEPS was 1 and is 2"):
        open_again(D_STEPS=2)


def test_a_run_of_rivals_is_not_taken_over(gan, begun):
    delete_checkpoints("runs/a")
    path = Path("runs/a/constants.json")
    written = json.loads(path.read_text())
    written["constants"]["METHOD"] = "vae"
    path.write_text(json.dumps(written))
    with pytest.raises(SystemExit, match="runs/a is a run of rivals"):
        open_again()


def test_a_run_that_saved_nothing_yet_may_begin_with_other_constants(gan, begun):
    delete_checkpoints("runs/a")  # it was killed before there was one
    run = open_again(SEED=7)
    assert run.before is None
    with begin(run, gan):
        pass
    assert constants_of("runs/a")["constants"]["SEED"] == 7


def test_a_generator_without_checkpoints_is_not_written_over(gan, begun):
    run = open_again()
    with begin(run, gan):
        do_epoch(run, gan, begun, 0.1)
    delete_checkpoints("runs/a")
    before = contents("runs/a")
    refused = "a generator of 2 epochs and no checkpoint.*To begin anew: --run NAME$"
    for changes in ({}, {"SEED": 7}):
        with pytest.raises(SystemExit, match=refused):
            open_again(**changes)
    assert contents("runs/a") == before


def test_a_run_that_came_into_the_folder_meanwhile_is_not_continued(gan, begun):
    shutil.move("runs/a", "aside")
    run = open_again(SEED=7)
    shutil.move("aside", "runs/a")
    before = contents("runs/a")
    with pytest.raises(SystemExit, match="SEED was 1 and is 7"), begin(run, gan):
        pass
    assert contents("runs/a") == before


def test_a_run_folder_that_was_taken_away_is_not_begun_anew(gan, begun):
    run = open_again()
    with begin(run, gan):
        shutil.move("runs/a", "elsewhere")
        gone = pytest.raises(SystemExit, match="runs/a was removed or renamed during")
        with gone:
            do_epoch(run, gan, begun, 0.1)
        with gone:
            run.save_checkpoint(gan, begun)
    assert not Path("runs/a").exists()


def test_what_a_killed_run_left_is_swept_when_it_goes_on(gan, begun):
    left, own = Path("runs/a/part-7-log.csv"), Path("runs/a/part-1.zip")
    for path in (left, own):
        path.touch()
    with begin(open_again(), gan):
        pass
    assert not left.exists()
    assert own.exists()


def test_as_many_checkpoints_stay_as_the_constants_say(gan):
    run, progress = open_again(KEEP_CHECKPOINTS=3), Progress()
    with begin(run, gan):
        for iterations in range(1, 8):
            progress.iteration = progress.iterations = iterations
            run.save_checkpoint(gan, progress)
            assert not run.is_due(10)
            assert run.is_due(0)
    assert [path.name[11:17] for path in checkpoints.paths("runs/a")] == [
        *("000005", "000006", "000007")
    ]


def test_in_all_but_the_first_process_nothing_is_read_or_saved(gan, begun):
    class Other(Device):
        is_first = False

    before = contents("runs/a")
    other = {**CONSTANTS, "SEED": 7, "FROM": "nowhere"}
    run = open_run("runs/a", other, "nowhere", Other())
    run.check(BEGUN)
    with begin(run, gan):
        assert run.load(gan) is None
        assert run.had("score") is None
        assert not run.is_due(0)
        run.save_checkpoint(gan, begun)
        run.save_epoch({}, gan.average, begun, SHEET, "MMD")
    assert contents("runs/a") == before
    first = open_run("runs/a", CONSTANTS, "", Device())
    assert first.had("score") == "mmd"


def test_what_ends_a_training_is_one_line_with_what_may_help(gan, begun):
    run = open_again()
    slower = "--run runs/a-2 --g-learning-rate 0.0001 --d-learning-rate 0.0001"
    with pytest.raises(SystemExit) as ended, run.explain(begun, 8):
        begun.add({"d_loss": np.array([0.5, np.nan])})
    assert ended.value.code == (
        "Training diverged in epoch 2, iteration 2: d_loss is nan. runs/a/"
        "checkpoint-000005.npz is the last good checkpoint. Try lower learning rates: "
        + slower
    )
    with pytest.raises(SystemExit) as ended, run.explain(begun, 8):
        raise RuntimeError("RESOURCE_EXHAUSTED: many words")
    assert ended.value.code == (
        "Out of memory with 8 faces of 28 x 28 a batch. Try --batch-size 4 --run "
        "runs/a-2"
    )
    with pytest.raises(SystemExit, match="Out of memory"), run.explain(begun, 8):
        raise RuntimeError("INTERNAL: CUDA_ERROR_OUT_OF_MEMORY: out of memory")
    with pytest.raises(ZeroDivisionError), run.explain(begun, 8):
        raise ZeroDivisionError
    assert run._stopped_by("ALARM.", begun) == (
        "ALARM. Stopped; runs/a keeps the best generator (epoch 1, score 0.20000). Try "
        f"lower learning rates or another seed: {slower}. To go on all the same: "
        "--no-stop-on-collapse"
    )


def test_a_run_says_where_it_is_and_how_to_go_on(gan, begun, monkeypatch):
    run = open_again()
    monkeypatch.setattr("sys.argv", ["train.py", "--data", "my pictures"])
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert run.saved_at(begun) == (
        "Stopped and saved before epoch 2, iteration 1. To continue: KERAS_BACKEND=jax "
        "python train.py --data 'my pictures'"
    )
    assert run.continuing(begun) == "Continuing runs/a at epoch 2, iteration 1."
    assert run.is_finished(begun) == (
        "runs/a is finished: 1 epoch. To train it longer: --epochs 2. To start another "
        "run: --run runs/a-2"
    )
    assert run.finished(" --which last") == (
        "Finished: runs/a. Draw faces from it: python generate.py --run runs/a --which "
        "last"
    )
