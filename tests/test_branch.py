import json
import os
import shutil
from pathlib import Path

import pytest

import preprocess
import train
from dcgan.common.options import current
from dcgan.runs import checkpoints, folder, fork, generators
from tests.test_train import TINY, assert_same_bits, final, log_of


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a tiny run of two epochs, once for all tests; return the folder above."""
    folder, before = tmp_path_factory.mktemp("trained"), Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        set_constants(patch, folder)
        train.main([])
    os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def origin(here, trained, monkeypatch):
    """Put a copy of that run into the test's empty folder."""
    set_constants(monkeypatch, trained)
    shutil.copytree(trained / "runs", "runs")
    return here / "runs" / "tiny"


def set_constants(patch, folder):
    patch.setattr(preprocess, "FOLDER", str(folder / "data"))
    for name, value in {**current(train), **TINY}.items():
        patch.setattr(train, name, value)


def go_on(*options, run="runs/new", epochs=3):
    for name, value in TINY.items():  # options of the run before stay set
        setattr(train, name, value)
    given = ["--from", "runs/tiny", "--run", run, "--epochs", str(epochs), *options]
    train.main(given)


def contents(folder):
    """Return {name: bytes} of all files in a run folder but the lock."""
    files = (file for file in sorted(Path(folder).rglob("*")) if file.is_file())
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in files
        if file.name != folder.LOCK
    }


def told(run, name=folder.CONSTANTS):
    return json.loads(Path("runs", run, name).read_text())


def test_with_nothing_changed_it_ends_as_the_run_would_have(origin):
    go_on()
    train.main(["--from", "", "--run", "runs/tiny", "--epochs", "3"])
    assert_same_bits(final("runs/new"), final())
    assert [row["mmd"] for row in log_of("runs/new")] == [
        row["mmd"] for row in log_of()
    ]


def test_another_recipe_goes_on_in_a_folder_of_its_own(origin, capsys):
    before = contents(origin)
    go_on("--augment", "translation", "--average-decay", "0.5")
    assert contents(origin) == before
    out = capsys.readouterr().out
    assert (
        "From      runs/tiny, 2 epochs: AVERAGE_DECAY 0.5 for 0.999, "
        "AUGMENT 'translation' for ''" in out
    )
    assert "Continuing runs/new at epoch 3, iteration 1." in out
    assert log_of("runs/new")[:2] == log_of()
    assert [row["epoch"] for row in log_of("runs/new")] == ["1", "2", "3"]
    after = contents("runs/new")
    for name in ("samples/epoch-001.png", "samples/epoch-002.png"):
        assert after[name] == before[name]
    assert generators.load_generator("runs/new", "last")[1]["epochs"] == 3
    train.main(["--from", "", "--run", "runs/tiny", "--epochs", "3", *PLAIN])
    ours, theirs = final("runs/new"), final()
    assert any((ours[name] != theirs[name]).any() for name in ours)


PLAIN = ("--augment", "", "--average-decay", "0.999")


def test_what_was_changed_and_when_is_told(origin):
    go_on("--loss", "relativistic")
    first = {"from": "runs/tiny", "epochs": 2, "iterations": 10}
    first["constants"] = {"LOSS": ["cross-entropy", "relativistic"]}
    assert told("new")["changes"] == [first]
    assert told("new", "generator-last.json")["changes"] == [first]
    go_on("--from", "runs/new", "--beta-1", "0.4", run="runs/newer", epochs=4)
    second = {"from": "runs/new", "epochs": 3, "iterations": 15}
    second["constants"] = {"BETA_1": [0.5, 0.4]}
    assert told("newer")["changes"] == [first, second]
    assert told("tiny", "generator-last.json")["changes"] == []


def test_its_own_learning_rates_count(origin):
    go_on("--g-learning-rate", "1e-12")
    ours, before = final("runs/new"), final()
    trained = {name for name in ours if name.startswith("discriminator.")}
    assert any((ours[name] != before[name]).any() for name in trained)
    generator = train.build("float32").generator
    for number, variable in enumerate(generator.variables):
        name = f"generator.{number:03d}"
        if variable.trainable:
            assert abs(ours[name] - before[name]).max() < 1e-9


def test_the_best_generator_so_far_comes_along(origin):
    best = min(log_of(), key=lambda row: float(row["mmd"]))
    go_on("--g-learning-rate", "0.9", "--d-learning-rate", "0.9")
    assert told("new", generators.ABOUT)["epochs"] == int(best["epoch"])
    generator, _ = generators.load_generator("runs/new")
    kept, _ = generators.load_generator("runs/tiny")
    assert all(
        (a == b).all()
        for a, b in zip(generator.get_weights(), kept.get_weights(), strict=True)
    )


def test_another_score_begins_its_own_search_for_the_best(origin):
    go_on("--score", "none")
    assert "mmd" not in log_of("runs/new")[0]
    assert told("new")["changes"][0]["constants"] == {"SCORE": ["mmd", "none"]}
    assert told("new", generators.ABOUT)["epochs"] == 3
    assert told("new", "generator-last.json")["epochs"] == 3
    go_on("--from", "runs/new", "--score", "mmd", run="runs/newer", epochs=5)
    rows = log_of("runs/newer")
    assert [bool(row["mmd"]) for row in rows] == [False, False, False, True, True]
    assert list(rows[0]) == list(log_of()[0])
    best = min(rows[3:], key=lambda row: float(row["mmd"]))
    assert told("newer", generators.ABOUT)["epochs"] == int(best["epoch"])
    assert told("newer", generators.ABOUT)["score"] == float(best["mmd"])


def test_until_another_score_is_there_the_last_is_drawn(origin, monkeypatch):
    worse = {"epoch": 1, "score": 0.0}
    newest = checkpoints.folders(origin)[-1]
    progress = {**checkpoints.read_progress(newest), "best": worse}
    checkpoints.write_progress(newest, progress)
    for end in generators.ENDS:
        (origin / f"generator.{end}").write_bytes(b"of epoch 1")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        go_on("--score", "none")
    assert told("new", generators.ABOUT) == told("tiny", "generator-last.json")


def test_the_same_command_continues_it(origin, capsys):
    go_on("--loss", "hinge", "--from", "runs/tiny/")
    shutil.rmtree(origin)  # it is not needed any more
    go_on("--loss", "hinge", epochs=4)
    assert "Continuing runs/new at epoch 4" in capsys.readouterr().out
    go_on("--loss", "hinge", "--from", "", epochs=5)
    assert "Continuing runs/new at epoch 5" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="FROM was 'runs/tiny' and is 'runs/other'"):
        go_on("--loss", "hinge", "--from", "runs/other")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "nowhere"], "FROM = 'nowhere': there is no run."),
        (["--from", "runs"], "FROM = 'runs': there is no run."),
        (["--from", "alone"], "FROM = 'alone': it has a generator alone, and no check"),
        (["--from", "runs/empty"], "FROM = 'runs/empty': it has no checkpoint of an"),
        (["--seed", "2"], "that run has SEED 1, not 2. These stay"),
        (["--batch-size", "4"], "that run has BATCH_SIZE 8, not 4."),
        (["--images", "32"], "that run has COUNT 40, not 32;"),
        (["--width", "0.5"], "that run has WIDTH 1.0, not 0.5."),
        (["--d-norm", "none", "--r1", "1"], "that run has D_NORM 'batch', not 'none'."),
        (["--epochs", "2"], "that run has 2 epochs already, so this one needs more"),
        (["--run", "runs/tiny"], "begun differently: FROM was '' and is 'runs/tiny'"),
    ],
)
def test_what_cannot_be_gone_on_from_is_one_line(origin, options, message):
    Path("runs/empty").mkdir()
    shutil.copy(origin / folder.CONSTANTS, "runs/empty")
    Path("alone").mkdir()
    shutil.copy(origin / generators.ABOUT, "alone")
    before = contents("runs")
    with pytest.raises(SystemExit) as stopped:
        go_on(*options)
    assert message in stopped.value.code
    assert "\n" not in stopped.value.code
    assert contents("runs") == before


def test_a_damaged_checkpoint_is_not_gone_on_from(origin):
    newest = checkpoints.folders(origin)[-1]
    whole = bytearray((newest / "weights.npz").read_bytes())
    whole[len(whole) // 2] ^= 1
    (newest / "weights.npz").write_bytes(whole)
    with pytest.raises(SystemExit, match=r"checkpoint-000010 is damaged .* Continue"):
        go_on()
    assert not Path("runs/new").exists()


def test_a_run_in_training_is_not_gone_on_from(origin):
    with (
        folder.alone(origin),
        pytest.raises(SystemExit, match=f"Process {os.getpid()} on .* Stop that"),
    ):
        go_on()
    assert not Path("runs/new").exists()


def test_many_may_go_on_from_one_run_that_cannot_be_written(origin):
    before = contents(origin)
    (origin / folder.LOCK).chmod(0o444)
    lock = (origin / folder.LOCK).read_bytes()
    with folder.resting(origin):
        go_on()
    assert contents(origin) == before
    assert (origin / folder.LOCK).read_bytes() == lock
    (origin / folder.LOCK).unlink()
    go_on(run="runs/newer")
    assert_same_bits(final("runs/new"), final("runs/newer"))
    assert not (origin / folder.LOCK).exists()


def test_it_goes_on_from_an_epochs_end(origin, capsys):
    end, middle = checkpoints.folders(origin)
    shutil.rmtree(middle)
    gan = train.build("float32")
    progress = checkpoints.load(origin, gan)
    progress |= {"iteration": 2, "iterations": 7}
    checkpoints.save(origin, gan, progress, 2)
    go_on()
    assert "From      runs/tiny, 1 epoch: nothing changed" in capsys.readouterr().out
    shutil.rmtree(end)
    with pytest.raises(SystemExit, match="no checkpoint of an epoch's end"):
        go_on(run="runs/newer")


def test_what_the_run_did_meanwhile_comes_along(origin, monkeypatch):
    prepare = train.prepare

    def slowly(*given):
        monkeypatch.setattr(train, "prepare", prepare)
        train.main(["--from", "", "--run", "runs/tiny", "--epochs", "3"])
        for name, value in (("RUN", "runs/new"), ("FROM", "runs/tiny"), ("EPOCHS", 4)):
            monkeypatch.setattr(train, name, value)
        return prepare(*given)

    monkeypatch.setattr(train, "prepare", slowly)
    go_on(epochs=4)
    assert told("new")["changes"][0]["epochs"] == 3
    assert len(log_of("runs/new")) == 4


def test_killed_while_copying_the_same_command_begins_again(origin, monkeypatch):
    replace = fork.replace

    def killed(part, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(fork, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        go_on()
    monkeypatch.setattr(fork, "replace", replace)
    with pytest.raises(SystemExit, match="--run NAME, to copy runs/tiny again: --from"):
        train.main(["--from", "", "--run", "runs/new", "--epochs", "3"])
    go_on()
    assert not list(Path("runs/new").glob("part-*"))
    train.main(["--from", "", "--run", "runs/tiny", "--epochs", "3"])
    assert_same_bits(final("runs/new"), final())


def test_a_run_that_lost_its_checkpoints_is_not_copied_over(origin):
    go_on()
    for checkpoint in checkpoints.folders("runs/new"):
        shutil.rmtree(checkpoint)
    before = contents("runs/new")
    with pytest.raises(SystemExit, match="runs/new has a generator of 3 epochs and no"):
        go_on()
    assert contents("runs/new") == before
