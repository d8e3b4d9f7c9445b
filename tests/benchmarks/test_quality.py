"""The experiment on recipes: fair rows, nothing done twice, the best recipe first."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import evaluate
import train
from benchmarks import quality
from benchmarks.quality import Recipe
from benchmarks.workers import SUITE
from dcgan.common.console import UserError
from dcgan.common.files import sha256
from dcgan.common.options import current
from dcgan.runs import checkpoints, folder
from dcgan.scores import inception
from tests.scores.narrow import write_torchscript


@pytest.fixture(autouse=True)
def keep_constants(monkeypatch):
    for module in (quality, evaluate):
        for name, value in current(module).items():
            monkeypatch.setattr(module, name, value)


@pytest.fixture
def narrow_inception(here, monkeypatch):
    """Let a narrow network pass for Inception; return its file."""
    write_torchscript("net.pt")
    monkeypatch.setattr(inception, "OUT_OF_WHEEL", sha256("net.pt"))
    return Path("net.pt")


@pytest.mark.slow
def test_scores_are_of_the_last_generator_and_computed_once(
    tiny, narrow_inception, monkeypatch
):
    constants = {"DATA": "cartoons", "IMAGES": 12, "SAMPLES": 8}
    for name, value in constants.items():
        monkeypatch.setattr(quality, name, value)
    network, real = inception.load(narrow_inception), quality.open_real()
    run, recipes = Path("runs/tiny"), (Recipe({}), Recipe({}, itself=True))
    average, itself = (quality.score(each, run, network, real) for each in recipes)
    assert average["kid"] != itself["kid"]
    last = checkpoints.read(checkpoints.paths(run)[-1])[1]["rows"][-1]
    assert average["diversity"] == itself["diversity"] == last["diversity"]
    blind = SimpleNamespace(sha256=network.sha256)
    assert quality.score(recipes[0], run, blind, real) == average
    monkeypatch.setattr(quality, "SAMPLES", 6)
    fewer = quality.score(recipes[0], run, network, real)
    assert (average["wanted"]["samples"], fewer["wanted"]["samples"]) == (8, 6)
    assert fewer["kid"] != average["kid"]


def test_the_generator_itself_is_the_one_that_trained(tiny):
    arrays, _ = checkpoints.read(checkpoints.paths("runs/tiny")[-1])
    average = quality.generator_of(Path("runs/tiny")).get_weights()
    itself = quality.generator_of(Path("runs/tiny"), arrays).get_weights()
    for name, weights in (("average", average), ("generator", itself)):
        saved = [arrays[key] for key in arrays if key.startswith(f"{name}.")]
        assert len(saved) == len(weights)
        assert all(np.array_equal(a, b) for a, b in zip(saved, weights, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(itself, average, strict=True))


@pytest.mark.slow
def test_every_recipe_is_trained_once_and_scored(narrow_inception, monkeypatch):
    monkeypatch.setitem(quality.PLAIN, "width", 0.1)
    given = "--data cartoons --images 70 --epochs 1 --samples 40 --inception net.pt"
    given = [*given.split(), "--out", "out.md"]
    quality.main([*given, "--recipes", "plain,averaged,batch 32"])
    first = rows_of("out.md")
    assert list(first) == [("plain", "1"), ("averaged", "1"), ("batch 32", "1")]
    assert "nothing" in first["plain", "1"]
    assert "`--batch-size 32`" in first["batch 32", "1"]
    runs = sorted(Path("runs/quality").iterdir())
    assert len(runs) == 2  # the average was drawn by the plain run
    plain, averaged = (
        json.loads(Path(runs[1], f"quality-{it}.json").read_text())
        for it in ("itself", "average")
    )
    assert plain["kid"] != averaged["kid"]
    begun = folder.read_constants(runs[0])["constants"]
    assert (begun["BATCH_SIZE"], begun["SEED"]) == (32, 1)
    written = {path: path.stat().st_mtime_ns for path in runs[1].rglob("*.*")}
    quality.main([*given, "--recipes", "plain,averaged", "--seeds", "1,2"])
    rows = rows_of("out.md")
    assert list(rows) == [
        *[("plain", "1"), ("plain", "2")],
        *[("averaged", "1"), ("averaged", "2")],
    ]
    for name in ("plain", "averaged"):
        assert rows[name, "1"] == first[name, "1"]
        assert rows[name, "2"] != first[name, "1"].replace("| 1 |", "| 2 |")
    assert {path: path.stat().st_mtime_ns for path in runs[1].rglob("*.*")} == written


def rows_of(page):
    """Return {(recipe, seed): row} of the first table on a page."""
    rows = [row for row in Path(page).read_text().splitlines() if " +- " in row]
    cells = [row.strip("| ").split(" | ") for row in rows]
    return {(cell[0], cell[3]): row for cell, row in zip(cells, rows, strict=True)}


@pytest.mark.slow
def test_ctrl_c_ends_when_the_training_has_saved(here):
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
    of_the_run = {"DATA", "IMAGE_SIZE", "IMAGES", "EPOCHS", "SEED", "PRECISION"}
    of_the_run |= {"RUN", "FROM", "FIT", "CHANNELS"}
    alike = {"NETWORK", "FLIP", "SAMPLES", "SCORE_SAMPLES"}  # the same in every row
    spelled = {name.replace("-", "_").upper() for name in quality.PLAIN}
    assert spelled | of_the_run | alike | {*folder.FREE} == {*current(train)}
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
    scores = {("plain", 1): {"kid": 0.03}, ("plain", 2): {"kid": 0.05}}
    scores |= {("batch 32", 1): {"kid": 0.01}}
    assert quality.means(scores) == [
        ("batch 32", "1", "0.0100", "0.25"),
        ("plain", "2", "0.0400", "1.00"),
    ]
