import csv
import hashlib
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import models
import preprocess
import train
from dcgan.common.options import current
from dcgan.runs import checkpoints, curves, generators
from dcgan.runs import folder as run_folders
from dcgan.scores import inception
from dcgan.training import batches as feed
from dcgan.training import compiled as fuse
from dcgan.training import devices
from dcgan.training import scoring as watch
from dcgan.training.progress import first

TINY = {
    "DATA": "cartoons",
    "IMAGE_SIZE": 28,
    "IMAGES": 40,
    "BATCH_SIZE": 8,
    "EPOCHS": 2,
    "SAMPLES": 20,
    "STEPS_PER_CALL": 5,  # an epoch
    "SCORE": "mmd",  # on any machine
    "RUN": "runs/tiny",
}

# To be stopped in its second epoch, whose last call is a shorter one
LONGER = {**TINY, "IMAGES": 80, "EPOCHS": 4, "STEPS_PER_CALL": 4}


@pytest.fixture(scope="session")
def arrays(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def tiny(here, arrays, monkeypatch):
    """Set constants for a tiny run in an empty folder; the arrays are shared."""
    monkeypatch.setattr(preprocess, "FOLDER", str(arrays))
    for name, value in {**current(train), **TINY}.items():
        monkeypatch.setattr(train, name, value)
    return here


@pytest.fixture
def gan(tiny):
    return build()


def build():
    return train.build("float32")


def once(gan, real, epoch, iteration):
    """Run the five steps plainly on faces (8, 28, 28, 3); return {score: float}."""
    given = {"real": real, **train.chance(epoch, iteration, 5)}
    given |= {"mirrored": np.zeros(8, bool)}
    batches = {name: keras.ops.convert_to_tensor(given[name][None]) for name in given}
    scores = fuse.plain(gan, train.five_steps)(batches)
    return {name: float(row[0]) for name, row in scores.items()}


def final(run="runs/tiny"):
    """Read the arrays of the newest checkpoint: all weights and optimizer states."""
    with np.load(checkpoints.folders(run)[-1] / "weights.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def assert_same_bits(one, other):
    assert one.keys() == other.keys()
    different = [name for name in one if one[name].tobytes() != other[name].tobytes()]
    assert different == []


def log_of(run="runs/tiny"):
    with open(f"{run}/log.csv", newline="") as file:
        return list(csv.DictReader(file))


def options_of(constants):
    words = []
    for name, value in constants.items():
        words += [f"--{name.lower().replace('_', '-')}", str(value)]
    return words


@pytest.mark.every_backend
def test_a_run_leaves_what_the_readme_promises(tiny, capsys):
    train.main([])
    run = tiny / "runs" / "tiny"
    rows = log_of()
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0]) == [
        "epoch",
        "iterations",
        "d_loss",
        "g_loss",
        "real_accuracy",
        "fake_accuracy",
        "diversity",
        "mmd",
        "pictures_per_second",
        "seconds",
        "waiting_share",
        "alarm",
    ]
    assert [row.pop("alarm") for row in rows] == ["", ""]
    assert [row["iterations"] for row in rows] == ["5", "10"]
    assert all(float(value) >= 0 for row in rows for value in row.values())
    for epoch in (1, 2):
        with Image.open(run / "samples" / f"epoch-00{epoch}.png") as sheet:
            assert sheet.size == (10 * 84 + 9 * 2, 2 * 84 + 2)
    with Image.open(run / "losses.png") as curves:
        assert min(curves.size) > 500
    assert [path.name for path in checkpoints.folders(run)] == [
        "checkpoint-000005",
        "checkpoint-000010",
    ]
    constants = json.loads((run / "constants.json").read_text())
    assert constants["constants"] == current(train)
    assert constants["begun_with"]["count"] == 40
    assert constants["begun_with"]["backend"] == models.keras.backend.backend()
    assert "keras" in constants
    generator, about = generators.load_generator(run, "last")
    assert (about["epochs"], about["pictures_shown"]) == (2, 80)
    assert about["data"]["count"] == 40
    assert about["constants"]["BATCH_SIZE"] == 8
    assert models.draw(generator, train.sheet_noise()).shape == (20, 28, 28, 3)
    assert not list(run.rglob("part-*"))
    told = capsys.readouterr().out
    for words in ("Device", "Backend", "40 of cartoons", "5 iterations of 8"):
        assert words in told
    assert "Scoring   MMD, by pixels, 40 samples against 40 real faces" in told


def test_the_saved_generator_is_the_averaged_one(tiny, monkeypatch):
    monkeypatch.setattr(train, "G_LEARNING_RATE", 0.01)
    train.main([])
    arrays = final()
    saved, _ = generators.load_generator("runs/tiny", "last")
    for number, weight in enumerate(saved.weights):
        np.testing.assert_array_equal(weight.numpy(), arrays[f"average.{number:03d}"])
    assert (arrays["average.000"] != arrays["generator.000"]).any()


def test_an_average_without_memory_is_the_generator_itself(tiny, monkeypatch):
    monkeypatch.setattr(train, "AVERAGE_DECAY", 0.0)
    train.main(["--epochs", "1"])
    arrays = final()
    names = [name for name in arrays if name.startswith("generator.")]
    for name in names:
        average = arrays[name.replace("generator", "average")]
        np.testing.assert_allclose(average, arrays[name], rtol=1e-4, atol=1e-6)
    assert names


@pytest.mark.every_backend
def test_a_run_in_two_parts_ends_with_the_same_bits(tiny, monkeypatch, capsys):
    train.main([])
    whole, rows = final(), log_of()
    monkeypatch.setattr(train, "RUN", "runs/parts")
    train.main(["--epochs", "1"])
    train.main(["--epochs", "2"])
    assert "Continuing runs/parts at epoch 2, iteration 1" in capsys.readouterr().out
    assert_same_bits(whole, final("runs/parts"))
    scores = ("epoch", "d_loss", "g_loss", "real_accuracy", "diversity", "mmd")
    for row, other in zip(rows, log_of("runs/parts"), strict=True):
        assert [row[name] for name in scores] == [other[name] for name in scores]


def test_the_constants_say_how_fast_a_continued_run_learns(tiny, monkeypatch):
    train.main(["--epochs", "1"])
    path = tiny / "runs" / "tiny" / run_folders.CONSTANTS
    about = json.loads(path.read_text())
    about["constants"] |= {"G_LEARNING_RATE": 1e-4, "D_LEARNING_RATE": 7e-4}
    path.write_text(json.dumps(about))
    monkeypatch.setattr(train, "G_LEARNING_RATE", 1e-4)
    monkeypatch.setattr(train, "D_LEARNING_RATE", 7e-4)
    train.main(["--epochs", "2"])
    rates = {
        name: float(array)
        for name, array in final().items()
        if name in ("g_optimizer.001", "d_optimizer.001")
    }
    wanted = {"g_optimizer.001": 1e-4, "d_optimizer.001": 7e-4}
    assert rates == pytest.approx(wanted)


def wait_for(found, process, seconds=120):
    """Poll until found() is true; fail if the process ends or time runs out first."""
    end = time.monotonic() + seconds
    while not found():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
    return found()


@pytest.fixture(scope="session")
def undisturbed(arrays, tmp_path_factory):
    """Train in one go what the next tests stop; return its arrays and its log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("undisturbed"))
        patch.setattr(preprocess, "FOLDER", "data")
        for name, value in {**current(train), **LONGER}.items():
            patch.setattr(train, name, value)
        train.main([])
        return final(), log_of()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_stopped_in_an_epoch_ends_with_the_same_bits(
    here, script_process, undisturbed, number
):
    constants = {**LONGER, "CHECKPOINT_MINUTES": 1e-6}
    process = script_process("train.py", *options_of(constants))
    in_epoch_2 = here / "runs" / "tiny" / "checkpoint-000014"
    wait_for(in_epoch_2.exists, process)
    process.send_signal(number)
    told = process.communicate(timeout=60)[1]
    if number == signal.SIGKILL:
        assert process.returncode == -9
    else:
        assert process.returncode == 130
        assert "Stopped and saved before epoch" in told
        assert re.search(r"To continue: python \S*train.py --data cartoons", told)
        assert "Traceback" not in told
    newest = checkpoints.folders("runs/tiny")[-1].name
    assert "checkpoint-000014" <= newest < "checkpoint-000040"
    constants["CHECKPOINT_MINUTES"] = 10
    again = script_process("train.py", *options_of(constants))
    out, error = again.communicate(timeout=200)
    assert again.returncode == 0, error
    assert "Continuing runs/tiny at epoch" in out
    arrays, rows = undisturbed
    assert_same_bits(arrays, final())
    scores = ("d_loss", "g_loss", "real_accuracy", "fake_accuracy", "diversity", "mmd")
    for row, other in zip(rows, log_of(), strict=True):
        assert [row[name] for name in scores] == [other[name] for name in scores]


def kept_generators(run="runs/tiny"):
    """Return {file: what is in it} of the generators that a run keeps."""
    found = {}
    for which in generators.NAMES:
        generator, about = generators.load_generator(run, which)
        facts = ("epochs", "iterations", "pictures_shown", "score", "scored_by")
        weights = [weight.numpy().tobytes() for weight in generator.weights]
        found[which] = [about[fact] for fact in facts], weights
    return found


def best_of(run="runs/tiny"):
    path = checkpoints.folders(run)[-1] / "progress.json"
    return json.loads(path.read_text())["progress"]["best"]


def test_the_best_generator_by_its_score_is_kept_and_the_last(tiny):
    train.main(["--epochs", "5", "--g-learning-rate", "0.01"])
    found = [float(row["mmd"]) for row in log_of()]
    best = int(np.argmin(found)) + 1
    assert best < 5  # else this run could not tell them apart
    kept = {which: facts for which, (facts, _) in kept_generators().items()}
    how = "MMD, by pixels, 40 samples against 40 real faces"
    assert kept["best"] == [best, best * 5, best * 40, found[best - 1], how]
    assert kept["last"] == [5, 25, 200, found[4], how]
    assert best_of() == {"epoch": best, "score": found[best - 1]}
    faces = preprocess.open_faces(preprocess.prepare("cartoons", 28, 40))
    generator, about = generators.load_generator("runs/tiny")
    seeds = (train.SEED, train.SCORE_NOISE), (train.SEED, train.SCORE_REAL)
    scoring = watch.begin("mmd", faces, 2000, seeds)
    assert watch.score(scoring, generator) == about["score"]


def test_scores_come_every_so_many_epochs(tiny):
    train.main(["--epochs", "3", "--score-every", "2"])
    assert [bool(row["mmd"]) for row in log_of()] == [False, True, False]
    assert kept_generators()["best"][0][0] == 2
    assert kept_generators()["last"][0][0] == 3
    assert kept_generators()["last"][0][3] is None


def test_without_scores_the_last_generator_is_kept_and_all_else_is_the_same(
    tiny, capsys
):
    train.main([])
    capsys.readouterr()
    train.main(["--score", "none", "--run", "runs/unscored"])
    assert "Scoring   none: the last generator is kept" in capsys.readouterr().out
    assert_same_bits(final(), final("runs/unscored"))
    assert "mmd" not in log_of("runs/unscored")[0]
    assert (
        kept_generators("runs/unscored")["best"]
        == kept_generators("runs/unscored")["last"]
    )
    assert kept_generators("runs/unscored")["best"][0][3:] == [None, None]
    assert best_of("runs/unscored") is None


def test_a_run_goes_on_with_the_score_it_began_with(tiny, monkeypatch):
    train.main(["--epochs", "1"])
    with pytest.raises(SystemExit, match="score was 'mmd' and is 'none'"):
        train.main(["--score", "none"])
    # Where a new run would be scored by KID
    monkeypatch.setattr(watch, "has_gpu", lambda: True)
    monkeypatch.setattr(inception, "FOLDER", str(tiny))
    (tiny / inception.FILES[0].name).write_bytes(b"weights")
    good = {"size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
    files = (inception.FILES[0]._replace(**good),)
    monkeypatch.setattr(inception, "FILES", files)
    assert watch.choose("auto") == "kid"
    train.main(["--score", "auto", "--epochs", "2"])
    assert all(row["mmd"] for row in log_of())


MODULE = {"save_sheet": curves, "save_log": curves, "write_json": generators}


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("writes", [6, 7, 8, 9])
def test_a_kill_at_an_epochs_end_leaves_the_same_generators(tiny, monkeypatch, writes):
    """An epoch's end writes sheet, log, last, best and checkpoint. Killed in the second
    one's: before the log is there, in the midst of the last or the best, or behind it.
    """
    options = ["--g-learning-rate", "0.01"]
    train.main([*options, "--run", "runs/whole"])
    assert best_of("runs/whole")["epoch"] == 2  # else no best would be written there
    done = []

    def deadly(write):
        def instead(*given):
            if len(done) == writes:
                raise Killed
            done.append(write)
            return write(*given)

        return instead

    monkeypatch.setattr(train, "RUN", "runs/tiny")
    with monkeypatch.context() as patch:
        for name in ("save_sheet", "save_log", "write_json"):
            patch.setattr(MODULE[name], name, deadly(getattr(MODULE[name], name)))
        patch.setattr(checkpoints, "save", deadly(checkpoints.save))
        with pytest.raises(Killed):
            train.main(options)
    assert best_of()["epoch"] == 1
    train.main(options)
    assert kept_generators() == kept_generators("runs/whole")
    assert best_of() == best_of("runs/whole")
    assert [row["mmd"] for row in log_of()] == [r["mmd"] for r in log_of("runs/whole")]


HUGE = ["--g-learning-rate", "0.2", "--d-learning-rate", "0.2"]


def test_huge_learning_rates_raise_the_alarm_within_two_epochs(tiny, capsys):
    train.main(HUGE)
    assert any("collapse" in row["alarm"] for row in log_of())
    told = capsys.readouterr().out
    assert re.search("^ALARM in epoch [12]: collapse", told, re.M)
    assert "Finished: runs/tiny" in told


def constant_gan(precision):
    """Build what trains, with a generator that draws one face, and keeps to it."""
    gan = build_gan(precision)
    for network in (gan.generator, gan.average):
        network.weights[0].assign(np.zeros(network.weights[0].shape))
    return gan


build_gan = train.build


def test_a_generator_of_one_constant_raises_the_alarm_at_once(tiny, monkeypatch):
    monkeypatch.setattr(train, "build", constant_gan)
    train.main(["--epochs", "1", "--g-learning-rate", "1e-12"])
    assert log_of()[0]["alarm"] == "collapse"
    assert float(log_of()[0]["diversity"]) == 0


def test_a_healthy_run_raises_no_alarm(undisturbed):
    assert [row["alarm"] for row in undisturbed[1]] == [""] * 4


def test_a_run_may_end_at_an_alarm_and_keeps_the_best(tiny):
    message = (
        r"ALARM in epoch 1: collapse .* Stopped; runs/tiny keeps the best generator "
        r"\(epoch 1, score \d\.\d+\)\. .*: --run runs/tiny-2 --g-learning-rate 0.1 "
        r"--d-learning-rate 0.1. To go on all the same: --no-stop-on-collapse"
    )
    with pytest.raises(SystemExit, match=message) as stopped:
        train.main([*HUGE, "--stop-on-collapse"])
    assert "\n" not in stopped.value.code
    assert len(log_of()) == 1
    assert best_of()["epoch"] == 1
    assert kept_generators()["best"] == kept_generators()["last"]
    train.main([*HUGE, "--no-stop-on-collapse"])
    assert len(log_of()) == 2


def test_the_end_names_the_generator_to_draw_from(tiny, capsys):
    train.main(["--epochs", "1"])
    told = capsys.readouterr().out
    assert told.endswith("Draw faces from it: python generate.py --run runs/tiny\n")
    small = ("--image-size", "64", "--images", "8", "--width", ".1", "--epochs", "1")
    train.main([*small, "--run", "runs/larger"])  # where MMD is no good guide
    told = capsys.readouterr().out
    assert told.endswith("python generate.py --run runs/larger --which last\n")


def test_the_curves_show_scores_and_alarms(tiny):
    train.main(["--epochs", "1"])
    rows = [
        {**row, "mmd": score, "alarm": alarm, "epoch": epoch}
        for row in json.loads(
            (checkpoints.folders("runs/tiny")[-1] / "progress.json").read_text()
        )["progress"]["rows"]
        for epoch, score, alarm in ((1, 0.5, ""), (2, None, "collapse"), (3, 0.2, ""))
    ]
    changes = [{"epochs": 1}, {"epochs": 3}]
    *_, scored = all_axes = curves.draw_losses(rows, changes, shown=3).axes
    assert len(all_axes) == 3
    points = [line.get_xydata().tolist() for line in scored.lines[:2]]
    assert points == [[[1, 0.5], [3, 0.2]], [[3, 0.2]]]
    for axes in all_axes:
        lines = [line for line in axes.lines if len(set(line.get_xdata())) == 1]
        upright = {line.get_label(): list(line.get_xdata()) for line in lines}
        assert upright["alarm"] == [2, 2]
        assert upright["another recipe"] == [1.5, 1.5]
        assert upright["this generator"] == [3, 3]
    rows = [{name: row[name] for name in row if name != "mmd"} for row in rows]
    assert len(curves.draw_losses(rows).axes) == 2


def test_curves_that_coincide_or_go_below_zero_are_all_to_be_seen(tiny):
    row = {"epoch": 1, "diversity": 1, "real_accuracy": 0.9, "fake_accuracy": 0.9}
    rows = [{**row, "epoch": n, "d_loss": 0.5, "g_loss": -3.0} for n in (1, 2)]
    losses, shares = curves.draw_losses(rows).axes
    assert losses.get_ylim()[0] < -3
    styles = {line.get_linestyle() for line in shares.lines[:2]}
    assert styles == {"-", "--"}


def test_a_finished_run_says_how_to_go_on(tiny, capsys):
    train.main([])
    before = final()
    capsys.readouterr()
    train.main([])
    told = capsys.readouterr().out
    assert "runs/tiny is finished: 2 epochs. To train it longer: --epochs 4" in told
    assert "--run runs/tiny-2" in told
    assert_same_bits(before, final())


def test_other_constants_are_named_and_refused(tiny):
    train.main(["--epochs", "1"])
    before = final()
    message = r"runs/tiny was begun differently: SEED was 1 and is 2\. Set it back"
    with pytest.raises(SystemExit, match=message):
        train.main(["--seed", "2"])
    assert_same_bits(before, final())


def test_other_pictures_are_named_and_refused(tiny, monkeypatch):
    train.main(["--epochs", "1"])
    monkeypatch.setattr(preprocess, "CARTOON_SEED", 99)
    with pytest.raises(SystemExit, match="begun differently: checksum was"):
        train.main([])


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tiny, monkeypatch, capsys):
    train.main([])
    whole = final()
    newest = checkpoints.folders("runs/tiny")[-1] / "weights.npz"
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    train.main([])
    told = capsys.readouterr().out
    assert "runs/tiny/checkpoint-000010 is damaged" in told
    assert "checksum" in told
    assert "Continuing runs/tiny at epoch 2, iteration 1" in told
    assert_same_bits(whole, final())


def test_when_all_checkpoints_are_damaged_the_run_is_refused(tiny):
    train.main([])
    for folder in checkpoints.folders("runs/tiny"):
        (folder / "progress.json").write_text("{")
    with pytest.raises(SystemExit, match="All checkpoints in runs/tiny are damaged"):
        train.main(["--epochs", "3"])


def test_a_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tiny):
    train.main(["--epochs", "1"])
    folder = checkpoints.folders("runs/tiny")[-1]
    poison(folder)
    message = (
        r"Training diverged in epoch 2, iteration 1: d_loss is nan\. "
        r"runs/tiny/checkpoint-000005 is the last good checkpoint\. Try lower"
    )
    with pytest.raises(SystemExit, match=message):
        train.main(["--epochs", "2"])
    assert [path.name for path in checkpoints.folders("runs/tiny")] == [folder.name]
    assert len(log_of()) == 1


def poison(folder):
    """Put a NaN into a generator's weight of a checkpoint, with the right checksum."""
    path = folder / "weights.npz"
    with np.load(path) as arrays:
        arrays = {name: arrays[name] for name in arrays.files}
    arrays["generator.000"][0, 0] = np.nan
    np.savez(path, **arrays)
    progress = json.loads((folder / "progress.json").read_text())["progress"]
    written = {
        "progress": progress,
        "checksum": checkpoints._checksum(folder, progress),
    }
    (folder / "progress.json").write_text(json.dumps(written))


def test_weights_that_are_not_finite_are_not_saved(gan, tiny):
    gan.generator.weights[0].assign(np.full(gan.generator.weights[0].shape, np.inf))
    with pytest.raises(FloatingPointError):
        checkpoints.save("runs/x", gan, first(), 2)
    assert checkpoints.folders("runs/x") == []


def test_only_the_newest_checkpoints_are_kept(gan, tiny):
    mine = tiny / "runs" / "x" / "checkpoint-best"
    mine.mkdir(parents=True)
    for iterations in (1, 2, 999_999, 1_000_000):
        progress = {**first(), "iterations": iterations}
        checkpoints.save("runs/x", gan, progress, 2)
    kept = [path.name for path in checkpoints.folders("runs/x")]
    assert kept == ["checkpoint-999999", "checkpoint-1000000"]
    assert len(list(mine.parent.iterdir())) == 3


def test_the_checkpoint_of_the_last_epochs_end_stays(gan, tiny):
    for iterations in range(5, 14):
        progress = {**first(), "iterations": iterations, "iteration": iterations % 5}
        checkpoints.save("runs/x", gan, progress, 2)
    kept = [path.name for path in checkpoints.folders("runs/x")]
    assert kept == ["checkpoint-000010", "checkpoint-000012", "checkpoint-000013"]


def test_a_damaged_checkpoint_does_not_push_out_a_good_one(gan, tiny):
    def save(iterations):
        progress = {**first(), "iterations": iterations}
        checkpoints.save("runs/x", gan, progress, 1000 if iterations < 7 else 1)

    save(5)
    save(6)
    (tiny / "runs" / "x" / "checkpoint-000006" / "progress.json").write_text("[]")
    assert checkpoints.load("runs/x", gan)["iterations"] == 5
    save(7)
    assert checkpoints.load("runs/x", gan)["iterations"] == 7


def test_a_run_that_saved_nothing_yet_may_begin_with_other_constants(tiny):
    train.main(["--epochs", "1"])  # and was killed before its checkpoint
    for folder in checkpoints.folders("runs/tiny"):
        shutil.rmtree(folder)
    train.main(["--batch-size", "4"])
    constants = json.loads((tiny / "runs" / "tiny" / "constants.json").read_text())
    assert constants["constants"]["BATCH_SIZE"] == 4
    assert len(log_of()) == 1


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_a_run_folder_that_even_root_cannot_make_is_one_line(tiny):
    with pytest.raises(SystemExit, match=r"Cannot make /proc/x: .* Another: --run"):
        train.main(["--run", "/proc/x"])


def test_files_of_ones_own_in_a_run_folder_stay(tiny):
    mine = [tiny / "runs" / "tiny" / name for name in ("part-1.zip", "part-photos")]
    mine[1].mkdir(parents=True)
    mine[0].touch()
    with pytest.raises(SystemExit, match="holds something else"):
        train.main([])
    train.main(["--run", "runs/b", "--epochs", "1"])
    left = tiny / "runs" / "b" / "part-7-log.csv"
    for path in (left, tiny / "runs" / "b" / "part-1.zip"):
        path.touch()
    train.main(["--run", "runs/b", "--epochs", "2"])
    assert not left.exists()
    assert (tiny / "runs" / "b" / "part-1.zip").exists()
    assert all(path.exists() for path in mine)


def test_a_run_that_came_into_the_folder_meanwhile_is_not_continued(tiny, monkeypatch):
    train.main(["--epochs", "1"])
    shutil.move("runs/tiny", "aside")

    def prepare_slowly(*given):
        shutil.move("aside", "runs/tiny")
        return preprocess.prepare(*given)

    monkeypatch.setattr(train, "prepare", prepare_slowly)
    with pytest.raises(SystemExit, match="SEED was 1 and is 7"):
        train.main(["--seed", "7", "--epochs", "2"])
    told = json.loads((tiny / "runs" / "tiny" / run_folders.CONSTANTS).read_text())
    assert told["constants"]["SEED"] == 1
    assert len(log_of()) == 1


def test_a_run_folder_that_was_taken_away_is_not_begun_anew(tiny, monkeypatch):
    score = watch.score

    def take_away_and_score(*given):
        shutil.move("runs/tiny", "elsewhere")
        return score(*given)

    monkeypatch.setattr(watch, "score", take_away_and_score)
    with pytest.raises(SystemExit, match="runs/tiny was removed or renamed during"):
        train.main([])
    assert not Path("runs/tiny").exists()


def test_a_generator_without_checkpoints_is_not_written_over(tiny):
    train.main([])
    for checkpoint in checkpoints.folders("runs/tiny"):
        shutil.rmtree(checkpoint)
    before = generators.load_generator("runs/tiny", "last")[1]
    refused = "a generator of 2 epochs and no checkpoint.*To begin anew: --run NAME$"
    with pytest.raises(SystemExit, match=refused):
        train.main(["--seed", "7"])
    assert generators.load_generator("runs/tiny", "last")[1] == before


def test_the_pictures_that_it_was_trained_on_are_told_to_the_last(tiny):
    train.main(["--epochs", "1"])
    train.main(["--images", "16", "--run", "runs/few", "--epochs", "1"])
    faces = np.load(Path(preprocess.FOLDER, "cartoons-28.npy"))[:16]
    assert len(faces) == 16
    about = generators.load_generator("runs/few")[1]["data"]
    assert about["count"] == 16
    assert about["checksum"] == hashlib.sha256(faces.tobytes()).hexdigest()


def test_a_second_training_in_one_folder_is_refused(tiny):
    us = rf"Process {os.getpid()} on \S+ trains in runs/tiny"
    refused = pytest.raises(SystemExit, match=us)
    with run_folders.alone("runs/tiny"), refused:
        train.main([])
    train.main(["--epochs", "1"])


def test_pictures_that_are_all_alike_end_with_no_diversity(tiny, monkeypatch):
    monkeypatch.setattr(preprocess, "FOLDER", "data")
    (tiny / "alike").mkdir()
    for number in range(8):
        Image.new("RGB", (40, 40), "orange").save(tiny / "alike" / f"{number}.png")
    train.main(["--data", "alike", "--images", "0", "--epochs", "1"])
    assert float(log_of()[0]["diversity"]) == 0


def test_fewer_pictures_of_a_larger_array_are_the_same_pictures(tiny, monkeypatch):
    monkeypatch.setattr(preprocess, "FOLDER", "data")
    alone = preprocess.checksum_of(preprocess.prepare("cartoons", 28, 40))
    larger = preprocess.prepare("cartoons", 28, 60)
    assert preprocess.checksum_of(preprocess.prepare("cartoons", 28, 40)) == alone
    assert preprocess.checksum_of(larger) != alone


def test_an_iteration_is_the_five_steps_that_the_readme_tells(gan):
    """Against the same steps by hand, with the noise of the documented streams."""
    other, epoch, iteration = build(), 2, 5
    real = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 3)).astype("uint8")
    ones, zeros = np.ones((8, 1), "float32"), np.zeros((8, 1), "float32")

    def uniform(purpose):
        random = np.random.default_rng((train.SEED, purpose, epoch, iteration))
        return random.uniform(-1, 1, (8, 100)).astype("float32")

    fake = other.generator(uniform(3), training=True)
    both = {"real": keras.ops.convert_to_tensor(real), "fake": fake}
    other.judge.train_on_batch(both, {"real": ones, "fake": zeros})
    g_loss = other.d_on_g.train_on_batch(uniform(4), ones)
    scores = once(gan, real, epoch, iteration)
    assert scores["g_loss"] == g_loss
    for model, by_hand in ((gan.judge, other.judge), (gan.d_on_g, other.d_on_g)):
        for weight, expected in zip(model.variables, by_hand.variables, strict=True):
            np.testing.assert_array_equal(weight.numpy(), expected.numpy())


def test_the_networks_learn_the_colour_of_the_faces(gan, monkeypatch):
    """With any label swapped the generator would move away from the real faces."""
    monkeypatch.setattr(train, "G_LEARNING_RATE", 1e-3)
    gan = build()
    orange = np.array([230, 140, 20], "uint8")
    real = np.broadcast_to(orange, (8, 28, 28, 3)).copy()
    real += np.random.default_rng(0).integers(0, 20, real.shape, "uint8")

    def distance():
        faces = models.to_pixels(models.make_fakes(gan.generator, train.sheet_noise()))
        return np.abs(faces.mean((0, 1, 2)) - real.mean((0, 1, 2))).mean()

    before = distance()
    scores = [once(gan, real, 1, iteration) for iteration in range(40)]
    assert distance() < before / 2
    early = scores[5:15]
    assert np.mean([score["real_accuracy"] for score in early]) > 0.6
    assert np.mean([score["fake_accuracy"] for score in early]) > 0.6


@pytest.mark.parametrize(
    ("size", "expected"), [(28, 32), (32, 32), (64, 32), (128, 64)]
)
def test_the_size_decides_how_large_a_batch_is_unless_it_is_said(
    tiny, monkeypatch, size, expected
):
    monkeypatch.setattr(train, "IMAGE_SIZE", size)
    assert train.batch_size() == 8
    monkeypatch.setattr(train, "BATCH_SIZE", 0)
    assert train.batch_size() == expected
    assert train.noise(train.D_NOISE, 1, 0).shape == (expected, models.LATENT)


def test_noise_is_fresh_in_every_step_and_the_same_in_every_run(tiny, monkeypatch):
    def draws():
        purposes = (train.D_NOISE, train.G_NOISE)
        places = [(1, 0), (1, 1), (2, 0)]
        return [train.noise(step, *place) for step in purposes for place in places]

    first = draws()
    assert len({draw.tobytes() for draw in first}) == len(first)
    assert [draw.tobytes() for draw in draws()] == [draw.tobytes() for draw in first]
    monkeypatch.setattr(train, "SEED", 2)
    assert all((a != b).any() for a, b in zip(first, draws(), strict=True))
    assert first[0].shape == (8, models.LATENT)
    assert first[0].dtype == np.float32
    assert -1 <= first[0].min() < -0.95
    assert 0.95 < first[0].max() <= 1


def test_half_of_the_faces_are_mirrored_unless_flip_is_off(tiny, monkeypatch):
    def mirrored():
        return np.stack([train.chance(1, n, 100)["mirrored"] for n in range(100)])

    assert mirrored().shape == (100, 8)
    assert 0.4 < mirrored().mean() < 0.6
    monkeypatch.setattr(train, "FLIP", False)
    assert not mirrored().any()


def test_calls_get_the_batches_that_are_left_of_an_epoch(tiny, monkeypatch):
    monkeypatch.setattr(train, "STEPS_PER_CALL", 2)
    faces = np.arange(43, dtype="uint8")[:, None, None, None].repeat(28 * 28 * 3, 1)
    faces = faces.reshape(43, 28, 28, 3)
    training = train.Training(None, None, devices.One(), None, faces, None, 1.0)

    def batches(epoch, iteration):
        place = {**first(), "epoch": epoch, "iteration": iteration}
        calls = list(train.batches_ahead(training, place))
        rows = [fuse.unstacked(call) for call in calls]
        sizes = [len(call["real"]) for call in calls]
        return sizes, [batch for row in rows for batch in row]

    sizes, whole = batches(2, 0)
    assert sizes == [2, 2, 1]
    order = feed.order(43, 8, train.SEED, 2)
    for iteration, batch in enumerate(whole):
        shown = np.asarray(batch["real"])
        assert shown.shape == (8, 28, 28, 3)
        assert shown[:, 0, 0, 0].tolist() == order[iteration].tolist()
        expected = train.chance(2, iteration, 5)
        assert set(batch) == {"real", *expected}
        for name, array in expected.items():
            np.testing.assert_array_equal(batch[name], array)
        updates = 5 + iteration + 1  # of the whole run
        decay = models.average_decay(updates, train.AVERAGE_DECAY)
        assert float(batch["decay"]) == pytest.approx(decay)
    sizes, late = batches(2, 3)
    assert sizes == [1, 1]
    for batch, other in zip(late, whole[3:], strict=True):
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


@pytest.mark.parametrize(
    ("smoothing", "real"), [(0.0, 1.0), (0.1, 0.9)], ids=["plain", "smoothed"]
)
def test_real_is_labelled_1_less_the_smoothing_and_fake_0(
    tiny, monkeypatch, smoothing, real
):
    monkeypatch.setattr(train, "LABEL_SMOOTHING", smoothing)
    labels = train.labels(1, 0)
    assert labels["real_label"].shape == labels["fake_label"].shape == (8, 1)
    assert labels["real_label"].ravel().tolist() == pytest.approx([real] * 8)
    assert labels["fake_label"].ravel().tolist() == [0.0] * 8


def test_flipping_swaps_the_given_share_of_labels(tiny, monkeypatch):
    monkeypatch.setattr(train, "LABEL_FLIPPING", 0.25)
    monkeypatch.setattr(train, "BATCH_SIZE", 4000)
    labels = train.labels(1, 0)
    assert np.mean(labels["real_label"] == 0) == pytest.approx(0.25, abs=0.03)
    assert np.mean(labels["fake_label"] == 1) == pytest.approx(0.25, abs=0.03)
    assert (train.labels(1, 0)["real_label"] == labels["real_label"]).all()
    assert (train.labels(1, 1)["real_label"] != labels["real_label"]).any()


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["--image-size", "50"], 2, "--image-size 50: must be one of 28, 32, 64, 128"),
        (["--loss", "hings"], 2, "--loss hings: must be one of cross-entropy, least"),
        (["--epochs", "-1"], 2, "--epochs -1: must be at least 1"),
        (["--batch-size", "1"], 1, "BATCH_SIZE = 1: batch norm needs 2"),
        (["--epochs", "x"], 2, "--epochs: 'x' is not a whole number"),
        (["--epohcs", "1"], 2, "no option --epohcs, did you mean --epochs?"),
        (["--network", "tutorial"], 1, "tutorial network draws 64 pixels, not 28"),
        (["--images", "3"], 1, "cartoons gives 3 pictures, too few for a batch of 8"),
        (["--data", "nowhere"], 1, "nowhere does not exist"),
        (["--run", "file/run"], 1, "Cannot write into"),
        (["--run", "file"], 1, "Cannot write into"),
        (["--seed", "4294967296"], 2, "--seed 4294967296: must be at least 0 and at"),
        (["--run", "full"], 1, "full holds something else"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tiny, capsys, given, code, message):
    (tiny / "file").touch()
    (tiny / "full").mkdir()
    (tiny / "full" / "letter.txt").touch()
    before = sorted(tiny.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        train.main(given)
    told = capsys.readouterr().err if code == 2 else stopped.value.code
    assert message in told
    assert told.strip().count("\n") == 0
    assert (stopped.value.code == 2) == (code == 2)
    assert sorted(tiny.rglob("*")) == before


DEEP = "[" * 100_000


def test_a_note_nested_without_end_is_damage_like_any_other(gan, tiny, capsys):
    for iterations in (1, 2):
        checkpoints.save("runs/x", gan, {"iterations": iterations}, 2)
    (checkpoints.folders("runs/x")[-1] / "progress.json").write_text(DEEP)
    assert checkpoints.load("runs/x", gan) == {"iterations": 1}
    assert "checkpoint-000002 is damaged" in capsys.readouterr().out
    Path("runs/x/constants.json").write_text(DEEP)
    with pytest.raises(SystemExit, match="cannot be read"):
        run_folders.read_constants("runs/x")


def test_a_disk_without_room_for_the_checkpoints_is_told_first(tiny, monkeypatch):
    nearly_full = shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: nearly_full)
    with pytest.raises(SystemExit, match=r"runs/tiny needs \d+ MB .* 1 MB free"):
        train.main([])
    assert not checkpoints.folders("runs/tiny")


def test_the_lock_of_a_dead_training_does_not_block(tiny):
    Path("runs/tiny").mkdir(parents=True)
    Path("runs/tiny/lock").write_text("999999 on elsewhere")
    train.main(["--epochs", "1"])
    assert checkpoints.folders("runs/tiny")
