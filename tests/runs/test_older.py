"""Runs that older versions of train.py began go on, with the constants that came."""

import json
import shutil
from pathlib import Path

import pytest

import train
from dcgan.common.files import sha256
from dcgan.common.options import current
from dcgan.runs import checkpoints, folder, fork, generators
from dcgan.training import hardware
from tests.runs.saved import make_old, make_old_checkpoint
from tests.tiny import assert_same_bits, constants_of, final, log_of, set_constants

RUN = Path("runs/tiny")

# What constants.json told at first, and what each version that added to it added: to
# its constants, and to begun_with. Whoever adds a constant to train.py adds a row here
ADDED = {
    "first": (
        "DATA IMAGE_SIZE IMAGES FLIP NETWORK EPOCHS BATCH_SIZE G_LEARNING_RATE "
        "D_LEARNING_RATE BETA_1 AVERAGE_DECAY LABEL_SMOOTHING LABEL_FLIPPING RUN SEED "
        "SAMPLES CHECKPOINT_MINUTES KEEP_CHECKPOINTS",
        "count checksum",
    ),
    "backend": ("", "backend"),
    "calls": ("STEPS_PER_CALL PRECISION DEVICES", "precision"),
    "score": ("SCORE SCORE_EVERY SCORE_SAMPLES STOP_ON_COLLAPSE", "score"),
    "recipe": ("WIDTH D_NORM LEARNING_RATE_HALF_LIFE LOSS AUGMENT R1", ""),
    "hold": ("LEARNING_RATE_HOLD", ""),
    "batch": ("", "batch_size"),
    "from": ("FROM", ""),
    "steps": ("D_STEPS G_STEPS", ""),
    "fit": ("DATA_FOLDER FIT CHANNELS KEEP_EVERY EPOCH_END_SHARE", ""),
    "tensorboard": ("TENSORBOARD", ""),
}
VERSIONS = list(ADDED)

# The columns of the log before there were scores
COLUMNS = ["epoch", "d_loss", "g_loss", "real_accuracy", "fake_accuracy"]
COLUMNS += ["diversity", "seconds"]


@pytest.fixture
def epoch(quick, monkeypatch):
    """Train an epoch of two iterations, at the width that runs had before WIDTH."""
    few = {"IMAGES": 16, "WIDTH": 1.0, "EPOCHS": 1, "SAMPLES": 4, "STEPS_PER_CALL": 2}
    for name, value in few.items():
        monkeypatch.setattr(train, name, value)
    train.main([])


def make_older(version):
    """Make the run one that this version began and left after an epoch."""
    known = VERSIONS[: VERSIONS.index(version) + 1]
    written = json.loads((RUN / folder.CONSTANTS).read_text())
    parts = []
    for place, part in enumerate(("constants", "begun_with")):
        names = " ".join(ADDED[each][place] for each in known).split()
        parts.append({name: written[part][name] for name in names})
    told = "pictures" if version == "first" else "begun_with"
    written = {"constants": parts[0], told: parts[1]}
    (RUN / folder.CONSTANTS).write_text(json.dumps(written))
    if version == VERSIONS[-1]:
        return
    path = checkpoints.paths(RUN)[-1]
    arrays, progress = checkpoints.read(path)
    if "score" not in known:
        for which in generators.paths(RUN, "last"):
            which.unlink()
        progress = {name: progress[name] for name in progress if name != "best"}
        progress["rows"] = [
            {name: row[name] for name in COLUMNS} for row in progress["rows"]
        ]
        checkpoints.write(path, arrays, progress)
    make_old(RUN)
    older = make_old_checkpoint(path)
    if version == "first":
        progress["sha256"] = sha256(older / "weights.npz")
        (older / "progress.json").write_text(json.dumps(progress))


def test_every_constant_came_with_some_version():
    names = " ".join(constants for constants, _ in ADDED.values()).split()
    assert sorted(names) == sorted(current(train))


@pytest.mark.slow
@pytest.mark.usefixtures("epoch")
def test_a_run_of_any_version_goes_on_to_the_same_bits(capsys):
    shutil.copytree(RUN, "whole")
    train.main(["--epochs", "2"])
    expected = final()
    for version in VERSIONS:
        shutil.rmtree(RUN)
        shutil.copytree("whole", RUN)
        make_older(version)
        capsys.readouterr()
        train.main(["--epochs", "2", "--score", "auto"])
        printed = capsys.readouterr().out
        assert "Continuing runs/tiny at epoch 2, iteration 1." in printed, version
        assert_same_bits(expected, final())
        scored = VERSIONS.index(version) >= VERSIONS.index("score")
        assert ("mmd" in log_of()[1]) == scored, version


@pytest.mark.usefixtures("epoch")
@pytest.mark.parametrize("version", VERSIONS)
def test_another_run_may_go_on_from_one_of_any_version(version):
    begun_with = constants_of()["begun_with"]
    make_older(version)
    constants = {**current(train), "EPOCHS": 2}
    origin = fork.read(str(RUN))
    origin.check(constants, begun_with)
    written = {"constants": constants, "begun_with": begun_with}
    [change] = fork.changes(origin, written)
    scored = VERSIONS.index(version) >= VERSIONS.index("score")
    assert change["constants"] == ({} if scored else {"SCORE": ["none", "mmd"]})


def unlimited(monkeypatch):
    """Unset what bfloat16 may be refused for before the run is looked at."""
    for name in hardware.LIMITS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("epoch")
def test_what_an_older_run_did_not_have_yet_is_refused_if_it_is_another(monkeypatch):
    unlimited(monkeypatch)
    make_older("first")
    monkeypatch.setattr(train, "EPOCHS", 2)
    for option, value, message in (
        ("--learning-rate-hold", "5", r"LEARNING_RATE_HOLD was 0\.0 and is 5\.0"),
        ("--score", "mmd", "score was 'none' and is 'mmd'"),
        ("--precision", "bfloat16", "precision was 'float32' and is 'bfloat16'"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(train, "SCORE", "auto")
            for name, now in current(train).items():
                patch.setattr(train, name, now)
            with pytest.raises(SystemExit, match=f"differently: {message}. Set it"):
                train.main([option, value])


@pytest.mark.usefixtures("tiny", "quick")
def test_what_auto_came_to_is_what_may_not_change(monkeypatch, capsys):
    unlimited(monkeypatch)
    train.main(["--precision", "float32"])
    assert "is finished" in capsys.readouterr().out
    set_constants(monkeypatch)
    with pytest.raises(SystemExit, match="precision was 'float32' and is 'bfloat16'"):
        train.main(["--precision", "bfloat16"])
