import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import train
from dcgan.common.options import current
from dcgan.runs import checkpoints, curves, folder, fork, generators
from dcgan.runs.run import Run
from preprocess import Prepared
from tests.runs.saved import (
    contents,
    delete_checkpoints,
    flip_a_bit,
    make_old,
    make_old_checkpoint,
    sign,
)
from tests.tiny import (
    assert_same_bits,
    constants_of,
    final,
    log_of,
    progress_of,
    set_constants,
)

ORIGIN = Path("runs/tiny")
FACTS = {"source": "", "crop": "", "filter": ""}
PICTURES = Prepared(Path("data/x.npy"), "cartoons", 40, FACTS)


@pytest.fixture(autouse=True)
def origin(tiny, monkeypatch):
    """Work beside a copy of the tiny run, of two epochs, and draw no losses.png."""
    monkeypatch.setattr(curves, "save_losses", lambda *_: None)


@contextlib.contextmanager
def forked(built, run="runs/new", begun=(), **changes):
    """Begin a run that goes on from the tiny one, for the block; it trains nothing."""
    constants = {**current(train), "EPOCHS": 3, "FROM": str(ORIGIN), **changes}
    constants["RUN"] = run
    begun_with = {**constants_of(ORIGIN)["begun_with"], **dict(begun)}
    run = Run(run, constants, constants["FROM"])
    run.check(begun_with)
    with run.begin(begun_with, "A device", PICTURES, built):
        yield run


def fork_off(built, *given, **changes):
    with forked(built, *given, **changes):
        pass


def go_on(monkeypatch, *options, run="runs/new", epochs=3):
    """Train a run that goes on from the tiny one."""
    set_constants(monkeypatch)  # options of the run before stay set
    given = ["--from", "runs/tiny/", "--run", run, "--epochs", str(epochs), *options]
    train.main(given)


@pytest.mark.usefixtures("quick")
def test_with_nothing_changed_it_ends_as_the_run_would_have(monkeypatch, capsys):
    before = contents(ORIGIN)
    (ORIGIN / folder.LOCK).unlink()
    go_on(monkeypatch)
    assert contents(ORIGIN) == before
    assert not (ORIGIN / folder.LOCK).exists()
    out = capsys.readouterr().out
    assert "From      runs/tiny, 2 epochs: nothing changed" in out
    assert "Continuing runs/new at epoch 3, iteration 1." in out
    train.main(["--from", "", "--run", "runs/tiny", "--epochs", "3"])
    assert_same_bits(final("runs/new"), final())
    scores = [[row["mmd"] for row in log_of(run)] for run in ("runs/new", ORIGIN)]
    assert scores[0] == scores[1]
    assert [row["epoch"] for row in log_of("runs/new")] == ["1", "2", "3"]


@pytest.mark.usefixtures("quick")
def test_another_recipe_goes_on_with_its_own_rates(monkeypatch, capsys):
    go_on(monkeypatch, "--g-learning-rate", "1e-12", "--average-decay", "0.5")
    assert (
        "From      runs/tiny, 2 epochs: G_LEARNING_RATE 1e-12 for 0.0002, "
        "AVERAGE_DECAY 0.5 for 0.999" in capsys.readouterr().out
    )
    assert log_of("runs/new")[:2] == log_of()
    after, before = final("runs/new"), final()
    moved = {name for name in after if (after[name] != before[name]).any()}
    assert any(name.startswith("discriminator.") for name in moved)
    generator = train.build("float32").generator
    for number, variable in enumerate(generator.variables):
        if variable.trainable:  # it stands still, and the average comes up to it
            name = f"{number:03d}"
            weight = after[f"generator.{name}"]
            assert abs(weight - before[f"generator.{name}"]).max() < 1e-9
            was = abs(before[f"average.{name}"] - weight).max()
            assert abs(after[f"average.{name}"] - weight).max() < was / 10
    changes = generators.read("runs/new", "last").facts["changes"]
    assert changes == constants_of("runs/new")["changes"]


@pytest.mark.usefixtures("quick")
def test_another_score_begins_its_own_search_for_the_best(monkeypatch):
    go_on(monkeypatch, "--score", "none")
    assert "mmd" not in log_of("runs/new")[0]
    assert constants_of("runs/new")["changes"][0]["constants"] == {
        "SCORE": ["mmd", "none"]
    }
    assert generators.read("runs/new").facts["epochs"] == 3
    assert generators.read("runs/new", "last").facts["epochs"] == 3
    options = ("--from", "runs/new", "--score", "mmd")
    go_on(monkeypatch, *options, run="runs/newer", epochs=5)
    rows = log_of("runs/newer")
    assert [bool(row["mmd"]) for row in rows] == [False, False, False, True, True]
    assert list(rows[0]) == list(log_of()[0])
    best = min(rows[3:], key=lambda row: float(row["mmd"]))
    facts = generators.read("runs/newer").facts
    assert facts["epochs"] == int(best["epoch"])
    assert facts["score"] == float(best["mmd"])


def test_what_others_put_among_the_sheets_stays_behind(built):
    (ORIGIN / "samples/epoch-001 (1).png").write_bytes(b"a copy")
    fork_off(built, LABEL_SMOOTHING=0.1)
    sheets = sorted(path.name for path in Path("runs/new/samples").iterdir())
    assert sheets == ["epoch-001.png", "epoch-002.png"]


def test_all_that_the_run_has_comes_along_and_it_stays_as_it_is(built, capsys):
    before, lock = contents(ORIGIN), (ORIGIN / folder.LOCK).read_bytes()
    with folder.resting(ORIGIN):  # as many may as like
        fork_off(built, LABEL_SMOOTHING=0.1)
    assert contents(ORIGIN) == before
    assert (ORIGIN / folder.LOCK).read_bytes() == lock
    after = contents("runs/new")
    alike = [
        name
        for name in before
        if name.startswith("samples/") or "generator" in name or name == "log.csv"
    ]
    assert len(alike) == 7
    assert {name: after[name] for name in alike} == {
        name: before[name] for name in alike
    }
    assert_same_bits(final("runs/new"), final())
    assert progress_of("runs/new") == progress_of()
    assert [path.name for path in checkpoints.paths("runs/new")] == [
        "checkpoint-000010.npz"
    ]
    told = "From      runs/tiny, 2 epochs: LABEL_SMOOTHING 0.1 for 0.0"
    assert told in capsys.readouterr().out


def test_a_run_of_older_files_is_gone_on_from(built):
    arrays, progress = final(), progress_of()
    for path in checkpoints.paths(ORIGIN):
        make_old_checkpoint(path)
    for which in generators.NAMES:
        make_old(ORIGIN, which)
    fork_off(built)
    assert_same_bits(final("runs/new"), arrays)
    assert progress_of("runs/new") == progress
    for which in generators.NAMES:
        facts = generators.read(ORIGIN, which).facts
        assert generators.read("runs/new", which).facts == facts


def test_what_was_changed_and_when_is_told(built):
    fork_off(built, LOSS="relativistic")
    first = {"from": "runs/tiny", "epochs": 2, "iterations": 10}
    first["constants"] = {"LOSS": ["cross-entropy", "relativistic"]}
    assert constants_of("runs/new")["changes"] == [first]
    changes = {"LOSS": "relativistic", "BETA_1": 0.4, "AUGMENT": "translation"}
    with forked(built, "runs/newer", FROM="runs/new", **changes) as run:
        second = {"from": "runs/new", "epochs": 2, "iterations": 10}
        second["constants"] = {"AUGMENT": ["", "translation"], "BETA_1": [0.5, 0.4]}
        assert run.changes == [first, second]
    assert constants_of("runs/newer")["changes"] == [first, second]
    assert fork.in_words(second) == (
        "From      runs/new, 2 epochs: AUGMENT 'translation' for '', BETA_1 0.4 for 0.5"
    )
    assert generators.read(ORIGIN, "last").facts["changes"] == []


def save_progress(path, **changes):
    arrays, progress = checkpoints.read(path)
    progress |= changes
    checkpoints.write(checkpoints.path_of(ORIGIN, progress), arrays, progress)


def test_the_best_generator_so_far_comes_along_unless_another_score_asks(built):
    """With another score the last one is drawn until one of its own is there."""
    sign(ORIGIN, {**generators.read(ORIGIN).facts, "epochs": 1, "score": 0.0})
    save_progress(checkpoints.paths(ORIGIN)[-1], best={"epoch": 1, "score": 0.0})
    fork_off(built)
    assert generators.read("runs/new").facts["epochs"] == 1
    assert progress_of("runs/new")["best"] == {"epoch": 1, "score": 0.0}
    fork_off(built, "runs/none", begun={"score": "none"})
    facts = generators.read("runs/none").facts
    assert facts == generators.read(ORIGIN, "last").facts
    assert facts["epochs"] == 2
    assert progress_of("runs/none")["best"] is None
    assert "mmd" not in log_of("runs/none")[0]
    fork_off(built, "runs/kid", begun={"score": "kid"})
    assert [row["kid"] for row in log_of("runs/kid")] == ["", ""]
    wanted = [name.replace("mmd", "kid") for name in log_of()[0]]
    assert list(log_of("runs/kid")[0]) == wanted


@pytest.mark.usefixtures("built")
def test_what_auto_came_to_in_the_origin_is_what_it_comes_to_here():
    constants = {**current(train), "FROM": "runs/tiny", "EPOCHS": 9}
    new = Run("runs/new", constants, "runs/tiny")
    assert (new.had("score"), new.had("precision")) == ("mmd", "float32")


def test_the_same_command_continues_it(built):
    fork_off(built, LOSS="hinge")
    shutil.rmtree(ORIGIN)  # it is not needed any more
    constants = {**current(train), "LOSS": "hinge", "EPOCHS": 9}
    for origin in ("runs/tiny", ""):
        again = Run("runs/new", {**constants, "FROM": origin}, origin)
        assert again.before["changes"][0]["from"] == "runs/tiny"
        assert again.had("score") == "mmd"
        assert again.had("precision") == "float32"
    other = {**constants, "FROM": "runs/other"}
    with pytest.raises(SystemExit, match="FROM was 'runs/tiny' and is 'runs/other'"):
        Run("runs/new", other, "runs/other")


@pytest.mark.parametrize(
    ("changes", "begun", "message"),
    [
        ({"FROM": "nowhere"}, {}, "FROM = 'nowhere': there is no run."),
        ({"FROM": "runs"}, {}, "FROM = 'runs': there is no run."),
        ({"FROM": "alone"}, {}, "FROM = 'alone': it has a generator alone, no disc"),
        ({"FROM": "runs/vae"}, {}, "FROM = 'runs/vae': it is a run of rivals.py, wi"),
        ({"FROM": "runs/empty"}, {}, "FROM = 'runs/empty': it has no checkpoint of an"),
        ({"SEED": 2}, {}, "that run has SEED 1, not 2. These stay"),
        ({"D_STEPS": 2}, {}, "that run has D_STEPS 1, not 2."),
        ({}, {"batch_size": 4}, "that run has BATCH_SIZE 8, not 4."),
        ({}, {"count": 32}, "that run has COUNT 40, not 32."),
        ({}, {"checksum": "x"}, ", not 'x'. These stay as they are when a run goes on"),
        ({"WIDTH": 0.5}, {}, "that run has WIDTH 0.25, not 0.5."),
        ({"D_NORM": "none", "R1": 1.0}, {}, "that run has D_NORM 'batch', not 'none'."),
        ({"EPOCHS": 2}, {}, "that run has 2 epochs already, so this one needs more"),
    ],
)
def test_what_cannot_be_gone_on_from_is_one_line(built, changes, begun, message):
    Path("runs/empty").mkdir()
    shutil.copy(ORIGIN / folder.CONSTANTS, "runs/empty")
    Path("runs/vae").mkdir()
    written = json.loads(Path("runs/empty", folder.CONSTANTS).read_text())
    written["constants"]["METHOD"] = "vae"
    Path("runs/vae", folder.CONSTANTS).write_text(json.dumps(written))
    Path("alone").mkdir()
    shutil.copy(ORIGIN / "generator.weights.h5", "alone")
    before = contents("runs")
    with pytest.raises(SystemExit) as stopped:
        fork_off(built, begun=begun, **changes)
    assert message in stopped.value.code
    assert "\n" not in stopped.value.code
    # What no option is, none can cure
    assert not (begun and "Try" in stopped.value.code)
    assert contents("runs") == before


def test_what_the_constants_tell_is_refused_before_pictures_are_made(built, pair):
    for origin, wrong, message in (
        ("pair", {"CHANNELS": 1}, r"CHANNELS 3, not 1\..* Try --channels 3$"),
        (str(ORIGIN), {"SEED": 2}, r"SEED 1, not 2\..* Try --seed 1$"),
    ):
        constants = {**constants_of(ORIGIN)["constants"], "EPOCHS": 9, **wrong}
        with pytest.raises(SystemExit, match=message):
            Run("runs/new", {**constants, "FROM": origin}, origin)


def test_a_run_does_not_go_on_from_itself(built):
    with pytest.raises(SystemExit, match="FROM was '' and is 'runs/tiny'"):
        fork_off(built, "runs/tiny")


def test_a_damaged_checkpoint_is_not_gone_on_from(built):
    flip_a_bit(checkpoints.paths(ORIGIN)[-1])
    message = r"checkpoint-000010\.npz is damaged .* Continue that run by itself first"
    with pytest.raises(SystemExit, match=message):
        fork_off(built)
    assert not Path("runs/new").exists()


def test_a_run_in_training_is_not_gone_on_from(built):
    refused = pytest.raises(SystemExit, match=f"Process {os.getpid()} on .* Stop that")
    with folder.training(ORIGIN), refused:
        fork_off(built)
    assert not Path("runs/new").exists()


def test_it_goes_on_from_an_epochs_end(built):
    end, newest = checkpoints.paths(ORIGIN)
    save_progress(newest, iteration=2, iterations=7)
    newest.unlink()
    fork_off(built)
    assert constants_of("runs/new")["changes"][0]["epochs"] == 1
    arrays, progress = checkpoints.read(end)
    assert_same_bits(final("runs/new"), arrays)
    # The best generator by now is of a later epoch
    assert progress_of("runs/new") == {**progress, "best": None}
    end.unlink()
    with pytest.raises(SystemExit, match="no checkpoint of an epoch's end"):
        fork_off(built, "runs/newer")


FIRST = "runs/tiny/checkpoint-000005.npz"


@pytest.mark.usefixtures("quick")
def test_a_run_from_an_earlier_checkpoint_learns_what_that_one_did(monkeypatch):
    before = contents(ORIGIN)
    go_on(monkeypatch, "--from", FIRST, epochs=2)
    assert_same_bits(final("runs/new"), final())
    assert [row["mmd"] for row in log_of("runs/new")] == [
        row["mmd"] for row in log_of()
    ]
    assert contents(ORIGIN) == before


def keep_first_epoch():
    """Let the tiny run have kept the generator of its first epoch."""
    for old, new in zip(
        generators.paths(ORIGIN, "last"), generators.paths(ORIGIN, "1"), strict=True
    ):
        shutil.copy(old, new)
    facts = {**generators.read(ORIGIN).facts, "epochs": 1, "score": 0.5}
    sign(ORIGIN, facts, "1")


@pytest.mark.parametrize("is_kept", [True, False])
def test_of_an_earlier_epoch_comes_along_what_there_was(built, capsys, is_kept):
    """The generators only if they were kept: best and last are of a later one."""
    if is_kept:
        keep_first_epoch()
    fork_off(built, FROM=FIRST, LOSS="hinge")
    assert f"From      {FIRST}, 1 epoch: LOSS 'hinge' for" in capsys.readouterr().out
    arrays, progress = checkpoints.read(Path(FIRST))
    assert_same_bits(final("runs/new"), arrays)
    assert progress_of("runs/new") == {**progress, "best": None}
    assert log_of("runs/new") == log_of()[:1]
    names = set(contents("runs/new"))
    assert {name for name in names if "sample" in name} == {"samples/epoch-001.png"}
    assert any("generator" in name for name in names) == is_kept
    for which in generators.NAMES if is_kept else ():
        assert generators.read("runs/new", which).facts["epochs"] == 1
    [change] = constants_of("runs/new")["changes"]
    assert (change["from"], change["epochs"], change["iterations"]) == (FIRST, 1, 5)


def test_the_best_of_an_earlier_epoch_comes_along_if_it_still_is(built):
    facts = {**generators.read(ORIGIN).facts, "epochs": 1, "score": 0.0}
    sign(ORIGIN, facts)
    fork_off(built, FROM=FIRST)
    assert generators.read("runs/new").facts["score"] == 0.0
    assert progress_of("runs/new")["best"]["epoch"] == 1


def test_a_checkpoint_that_cannot_be_gone_on_from_is_told_with_those_that_can(built):
    save_progress(checkpoints.paths(ORIGIN)[-1], iteration=2, iterations=12)
    there = r"runs/tiny has .* brackets: checkpoint-000005.npz \(1\), checkpoint-000010"
    for number in (7, 12):
        name = f"runs/tiny/checkpoint-{number:06d}.npz"
        message = f"FROM = '{name}': it is no checkpoint of an epoch's end. {there}"
        with pytest.raises(SystemExit, match=message):
            fork_off(built, FROM=name)


def test_a_run_that_is_named_as_a_checkpoint_is_a_run(built):
    shutil.copytree(ORIGIN, "runs/tiny/checkpoint-000077")
    fork_off(built, FROM="runs/tiny/checkpoint-000077")
    assert constants_of("runs/new")["changes"][0]["epochs"] == 2


def test_what_the_run_did_meanwhile_comes_along(built):
    constants = {**current(train), "EPOCHS": 4, "FROM": str(ORIGIN), "RUN": "runs/new"}
    begun_with = constants_of()["begun_with"]
    run = Run("runs/new", constants, str(ORIGIN))
    newest = checkpoints.paths(ORIGIN)[-1]
    save_progress(newest, epoch=4, iterations=15)
    with run.begin(begun_with, "A device", PICTURES, built):
        pass
    assert constants_of("runs/new")["changes"][0]["epochs"] == 3
    assert progress_of("runs/new")["iterations"] == 15


def test_a_run_that_was_taken_away_before_it_went_on_is_copied_anew(built):
    fork_off(built)
    constants = {**current(train), "EPOCHS": 4, "FROM": str(ORIGIN), "RUN": "runs/new"}
    run = Run("runs/new", constants, str(ORIGIN))
    assert run.origin is None  # for it goes on by itself
    shutil.rmtree("runs/new")
    with run.begin(constants_of()["begun_with"], "A device", PICTURES, built):
        assert run.changes[0]["from"] == "runs/tiny"
    assert progress_of("runs/new") == progress_of()


def test_killed_while_copying_the_same_command_begins_again(built, monkeypatch):
    """Killed at any copy, of generators, sheets, log or checkpoint."""
    fork_off(built, "runs/whole")
    whole = contents("runs/whole")
    copy, save_log, done = fork._copy_file, curves.save_log, []

    def deadly(act):
        def instead(*given):
            if len(done) == most:
                raise KeyboardInterrupt
            done.append(act)
            return act(*given)

        return instead

    for most in range(8):
        done.clear()
        with monkeypatch.context() as patch:
            patch.setattr(fork, "_copy_file", deadly(copy))
            patch.setattr(curves, "save_log", deadly(save_log))
            patch.setattr(checkpoints, "write", deadly(checkpoints.write))
            with pytest.raises(KeyboardInterrupt):
                fork_off(built)
        assert len(done) == most
        assert checkpoints.paths("runs/new") == []
        if most > 3:  # a generator of two epochs is there
            again = "--run NAME, to copy runs/tiny again: --from"
            with pytest.raises(SystemExit, match=again):
                fork_off(built, FROM="")
    fork_off(built)
    after = contents("runs/new")
    assert after.keys() == whole.keys()
    same = [name for name in whole if after[name] == whole[name]]
    assert {*whole} - {*same} <= {"constants.json"}


def test_a_run_that_lost_its_checkpoints_is_not_copied_over(built):
    fork_off(built)
    shutil.rmtree("runs/new")
    shutil.copytree(ORIGIN, "runs/new")
    written = constants_of("runs/new")
    written["constants"]["FROM"] = "runs/tiny"
    written["changes"] = [
        {"from": "runs/tiny", "epochs": 1, "iterations": 5, "constants": {}}
    ]
    Path("runs/new/constants.json").write_text(json.dumps(written))
    delete_checkpoints("runs/new")
    before = contents("runs/new")
    with pytest.raises(SystemExit, match="runs/new has a generator of 2 epochs and no"):
        fork_off(built)
    assert contents("runs/new") == before


@pytest.fixture
def pair(built):
    """A folder of weights: what the tiny run draws with, and another discriminator."""
    facts = generators.read(ORIGIN).facts
    for which, network in (
        ("best", built.average),
        ("discriminator", built.discriminator),
    ):
        for number, weight in enumerate(network.weights):
            weight.assign(np.full(weight.shape, number / 8, "float32"))
        generators.save("pair", network, facts, which)
    return facts["constants"]


def test_a_run_begins_with_a_shipped_pair_on_other_pictures(pair, built):
    average, judged = (
        [weight.numpy() for weight in network.weights]
        for network in (built.average, built.discriminator)
    )
    pictures = {"count": 8, "checksum": "of others", "batch_size": 4}
    constants = {"FROM": "pair", "LOSS": "hinge", "EPOCHS": 1}
    with forked(built, begun=pictures, **constants) as run:
        for network in (built.generator, built.average, built.discriminator):
            for weight in network.weights:
                weight.assign(np.zeros(weight.shape))
        assert run.load(built) is None
    assert_same(built.generator, average)
    assert_same(built.average, average)
    assert_same(built.discriminator, judged)
    # Killed before its first checkpoint, it begins once more
    with forked(built, begun=pictures, **constants):
        assert constants_of("runs/new")["constants"]["FROM"] == "pair"


def assert_same(network, values):
    for weight, value in zip(network.weights, values, strict=True):
        assert np.array_equal(weight.numpy(), value)


def test_a_pair_of_other_shapes_or_damaged_is_refused(pair, built):
    message = r"FROM = 'pair': that run has WIDTH .*, not 0.5\. These stay"
    with pytest.raises(SystemExit, match=message):
        fork_off(built, FROM="pair", WIDTH=0.5)
    with pytest.raises(SystemExit, match=r"that run has CHANNELS 3, not 1\. These st"):
        fork_off(built, FROM="pair", CHANNELS=1)
    path = Path("pair/discriminator.weights.h5")
    content = path.read_bytes()
    path.write_bytes(content[:-1000] + content[-1000:][::-1])
    with (
        pytest.raises(SystemExit, match=r"pair/discriminator.weights.h5 is damaged"),
        forked(built, FROM="pair") as run,
    ):
        run.load(built)
    Path("pair/discriminator.weights.h5").unlink()
    with pytest.raises(SystemExit, match="it has a generator alone, no discriminator"):
        fork_off(built, run="runs/newer", FROM="pair")
