"""The experiment on recipes: fair rows, nothing done twice, the order of the scores."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_inception import write_state_dict

import cartoons
import evaluate
import train
from benchmarks import quality, scoring
from benchmarks.workers import SUITE
from dcgan.common.console import UserError
from dcgan.common.options import current
from dcgan.runs import folder
from dcgan.scores import inception, metrics

COUNT = 70  # a batch of 64, and some


@pytest.fixture(autouse=True)
def place(here, monkeypatch):
    """Draw pictures, and let a small network pass for Inception."""
    Path("pictures").mkdir()
    for number, face in enumerate(drawn(COUNT)):
        Image.fromarray(face).save(f"pictures/{number:02d}.png")
    write_state_dict("net.pth")
    digest = hashlib.sha256(Path("net.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "OUT_OF_WHEEL", digest)
    for module in (quality, scoring, evaluate, train):
        for name, value in current(module).items():
            monkeypatch.setattr(module, name, value)


def drawn(count):
    faces = [cartoons.cartoon(1, number, 28) for number in range(count)]
    return np.stack([np.asarray(face) for face in faces])


def compare(recipes, *more):
    given = "--data pictures --epochs 1 --samples 40 --inception net.pth --out out.md"
    quality.main([*given.split(), "--recipes", recipes, *more])
    return Path("out.md").read_text()


def test_every_recipe_is_trained_once_and_scored(capfd):
    page = compare("plain,averaged,batch 32", "--seeds", "1,2")
    rows = [line for line in page.splitlines() if " +- " in line]
    assert [row.split(" | ")[0] for row in rows] == [
        *("| plain",) * 2,
        *("| averaged",) * 2,
        *("| batch 32",) * 2,
    ]
    assert "`--batch-size 32`" in rows[4]
    assert "nothing" in rows[0]
    folders = sorted(path.name for path in Path("runs/quality").iterdir())
    assert len(folders) == 4  # the average was drawn by the plain run
    plain, averaged = (
        json.loads(Path("runs/quality", folders[3], f"quality-{it}.json").read_text())
        for it in ("itself", "average")
    )
    assert plain["kid"] != averaged["kid"]
    begun = folder.read_constants(Path("runs/quality", folders[0]))["constants"]
    assert (begun["BATCH_SIZE"], begun["SEED"]) == (32, 1)
    capfd.readouterr()
    assert compare("plain,averaged,batch 32", "--seeds", "1,2").endswith(
        page[page.index("| recipe") :]
    )
    assert "through Inception" not in capfd.readouterr().err  # all were scored already


def test_scores_of_other_samples_are_not_taken():
    compare("plain")
    before = scored()
    compare("plain", "--samples", "30")
    assert (before["wanted"]["samples"], scored()["wanted"]["samples"]) == (40, 30)
    assert before["kid"] != scored()["kid"]


def scored():
    return json.loads(next(Path("runs/quality").glob("*/quality-*.json")).read_text())


def test_the_generator_itself_is_the_one_that_trained():
    compare("plain")
    folder = next(Path("runs/quality").iterdir())
    itself = quality.generator_of(folder, True).get_weights()
    average = quality.generator_of(folder, False).get_weights()
    with np.load(next(folder.glob("checkpoint-*/weights.npz"))) as kept:
        saved = [kept[name] for name in kept.files if name.startswith("generator.")]
    assert len(saved) == len(itself)
    assert any(not np.array_equal(a, b) for a, b in zip(itself, average, strict=True))
    for ours, theirs in zip(itself, saved, strict=True):
        assert np.array_equal(ours, theirs)


def test_ctrl_c_ends_when_the_training_has_saved():
    code = (
        "import signal, sys, time\n"
        "def save(*_): time.sleep(1); print('saved', flush=True); sys.exit(130)\n"
        "signal.signal(signal.SIGINT, save)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    Path("trains.py").write_text(code)
    program = (
        "import subprocess, sys\n"
        "from benchmarks.quality import ended\n"
        "ended(subprocess.Popen([sys.executable, 'trains.py']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        **{"env": {**os.environ, "PYTHONPATH": str(SUITE)}, "text": True},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to both
    out, error = process.communicate(timeout=60)
    assert out == "saved\n"
    assert "Stopped." in error


def test_the_plain_recipe_leaves_nothing_to_train_pys_defaults():
    told = {
        "DATA",
        "IMAGE_SIZE",
        "IMAGES",
        "EPOCHS",
        "SEED",
        "PRECISION",
        "RUN",
        "FROM",
    }
    alike = {"NETWORK", "FLIP", "SAMPLES", "SCORE_SAMPLES"}  # the same in every row
    spelled = {name.replace("-", "_").upper() for name in quality.PLAIN}
    assert spelled | told | alike | {*train.FREE} == {*current(train)}
    for recipe in quality.KNOWN.values():
        assert {*recipe.changed} <= {*quality.PLAIN}


def test_names_with_commas_are_names():
    quality.RECIPES = "plain,least squares, 1e-3,batch 32, half-life 2,hinge"
    wanted = ["plain", "least squares, 1e-3", "hinge", "batch 32, half-life 2"]
    assert quality.chosen() == wanted
    quality.RECIPES = "batch 32,batch 16"
    assert quality.chosen() == ["batch 32", "batch 16"]


@pytest.mark.parametrize("given", [("--recipes", "plane"), ("--seeds", "1,x")])
def test_a_wrong_choice_is_named(given):
    with pytest.raises(UserError, match=f"{given[0]} {given[1]}: "):
        quality.main(given)


def test_recipes_are_ranked_by_their_mean_against_plain():
    found = {("plain", 1): {"kid": 0.03}, ("plain", 2): {"kid": 0.05}}
    found |= {("batch 32", 1): {"kid": 0.01}}
    assert quality.means(found) == [
        ("batch 32", "1", "0.0100", "0.25"),
        ("plain", "2", "0.0400", "1.00"),
    ]


def test_what_is_less_like_faces_is_further_from_them():
    faces = drawn(160)
    kinds = scoring.kinds(faces[80:])
    found = [metrics.mmd(faces[:80], kind) for kind in kinds.values()]
    assert found[0] == min(found)
    assert found[-1] == max(found)
    assert all(kind.shape == faces[80:].shape for kind in kinds.values())
    sharp = [
        np.abs(np.diff(kind.astype(float), axis=2)).mean() for kind in kinds.values()
    ]
    assert sharp[2] < sharp[1] < sharp[0] < sharp[3] < sharp[4]


def test_the_order_of_the_scores_is_printed():
    given = "--data pictures --samples 30 --inception net.pth --out out.md"
    scoring.main(given.split())
    page = Path("out.md").read_text()
    assert [f"| {name} |" in page for name in scoring.kinds(drawn(2))] == [True] * 5
    with pytest.raises(UserError, match="twice --samples 36"):
        scoring.main([*given.split(), "--samples", "36"])
