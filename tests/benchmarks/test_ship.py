"""benchmarks/ship.py: a run becomes a folder of weights that generate.py draws from."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import generate
import models
import train
from benchmarks import ship
from dcgan.common.console import UserError
from dcgan.common.files import write_json
from dcgan.common.options import current
from dcgan.runs import curves, generators
from dcgan.scores import inception
from dcgan.training.chance import noise

FACTS = {
    **{"network": "dcgan", "image_size": 28, "latent": models.LATENT, "width": 0.05},
    **{"epochs": 7, "averaged": True, "score": 0.5, "scored_by": "MMD"},
    "data": {"name": "photos", "count": 30, "source": "/srv/me/photos"},
    "constants": {"DATA": "/srv/me/photos", "RUN": "runs/a", "EPOCHS": 99, "SEED": 4},
    "changes": [{"from": "/srv/me/runs/a", "epochs": 3, "constants": {}}],
}


@pytest.fixture(autouse=True)
def keep_constants(monkeypatch):
    for module in (ship, generate):
        for name, value in current(module).items():
            monkeypatch.setattr(module, name, value)


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """Leave what a run leaves, runs/a; return the folder and the run's generator."""
    folder = tmp_path_factory.mktemp("finished")
    run = folder / "runs/a"
    models.keras.utils.set_random_seed(3)
    generator = models.build_generator("dcgan", 28, 0.05)
    generators.save(run, generator, FACTS)
    for epoch in range(1, 8):
        curves.save_sheet(run, epoch, np.full((40, 28, 28, 3), 30 * epoch, np.uint8))
    row = {"d_loss": 1.0, "g_loss": 1.0, "real_accuracy": 0.5, "fake_accuracy": 0.5}
    row |= {"diversity": 1.0, "mmd": None}
    rows = [{"epoch": n, "iterations": 600 * n, **row} for n in range(1, 8)]
    rows[4] |= {"diversity": 0.1, "mmd": 0.25}
    curves.save_log(run, [{**each, "alarm": "of old"} for each in rows])
    return folder, generator


@pytest.fixture
def finished(left, monkeypatch):
    """Work where the run is; return its generator."""
    folder, generator = left
    monkeypatch.chdir(folder)
    shutil.rmtree("w", ignore_errors=True)
    return generator


def faces_of(generator):
    shape = (20, models.LATENT)
    return models.draw(generator, noise(1, "generate", shape)).astype(int)


def test_a_shipped_generator_draws_what_the_run_does_and_names_no_folder(finished):
    ship.main(["--run", "runs/a", "--out", "w"])
    shipped, facts = models.load_generator("w")
    assert (faces_of(shipped) == faces_of(finished)).all()
    assert facts["epochs"] == 7
    assert facts["score"] is None  # the run's own is of few samples, or by MMD
    for name in ("faces.png", "samples.png", "losses.png", "epochs.png"):
        with Image.open(Path("w", name)) as picture:
            picture.load()
    with Image.open("w/losses.png") as picture:
        assert picture.width > 900
    assert facts["data"]["source"] == "photos"
    assert facts["constants"] == {"DATA": "photos", "RUN": "a", "EPOCHS": 7, "SEED": 4}
    assert facts["changes"] == [{"from": "a", "epochs": 3, "constants": {}}]
    for path in generators.paths("w", "best"):
        assert b"/srv" not in path.read_bytes()
    score_it(facts["sha256"], kid=0.0123)
    ship.main(["--run", "runs/a", "--out", "w"])
    shipped, facts = models.load_generator("w")
    assert (faces_of(shipped) == faces_of(finished)).all()
    assert facts["score"] == 0.0123


def test_a_run_goes_on_from_what_is_shipped_on_other_pictures(tiny, quick, capsys):
    ship.main(["--run", "runs/tiny", "--out", "w", "--half"])
    train.main(["--from", "w", "--run", "runs/on", "--epochs", "1", "--images", "48"])
    printed = capsys.readouterr().out
    assert "From      w, 2 epochs: both networks" in printed
    assert "Finished: runs/on" in printed
    assert generators.read("runs/on").facts["data"]["count"] == 48
    assert not generators.read("w", "discriminator").facts["score"]


def test_half_precision_halves_the_bytes_and_moves_no_pixel_by_more_than_one(tiny):
    ship.main(["--run", "runs/tiny", "--out", "w", "--half"])
    whole, half = (generators.paths(run, "best")[0] for run in ("runs/tiny", "w"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    before, shipped = (models.load_generator(run)[0] for run in ("runs/tiny", "w"))
    assert np.abs(faces_of(shipped) - faces_of(before)).max() <= 1
    kinds = set()
    with h5py.File(half) as file:
        file.visititems(
            lambda _, item: (
                kinds.add((item.ndim > 1, item.dtype.name))
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    assert kinds == {(True, "float16"), (False, "float32")}


@pytest.mark.parametrize("half", [True, False])
def test_the_score_of_evaluate_is_told_and_of_no_other_weights(
    finished, half, monkeypatch, capsys
):
    monkeypatch.setattr(ship, "HALF", half)
    checksum = ship.save(Path("w"), finished, FACTS)["sha256"]
    assert ship.score_of(Path("w"), checksum) == {}
    assert "No score yet: python evaluate.py --run w" in capsys.readouterr().out
    score_it(checksum, kid=0.0123)
    how = f"KID, {inception.NAME}, 10,000 samples against 10,000 real faces"
    scored = {"score": 0.0123, "scored_by": how}
    assert ship.score_of(Path("w"), checksum) == scored
    score_it("0" * 64, kid=0.0123)
    assert ship.score_of(Path("w"), checksum) == {}
    score_it(checksum)
    assert ship.score_of(Path("w"), checksum) == {}


def score_it(sha256, **scores):
    """Write what evaluate.py writes of weights, 10,000 fakes and 20,000 real faces."""
    scores["counts"] = {"real": 20000, "fake": 10000, "pairs": 10000}
    scores["protocol"] = {"generator": f"w, sha256 {sha256[:8]}"}
    write_json(Path("w/metrics.json"), scores)


def test_alarms_in_the_curves_are_those_of_today(finished):
    rows = ship.rows_of(Path("runs/a"))
    assert [row["alarm"] for row in rows] == [*[""] * 4, "collapse", "", ""]
    assert [row["mmd"] for row in rows] == [*[None] * 4, 0.25, None, None]
    assert rows[2]["epoch"] == 3


def test_sheets_stand_side_by_side_in_the_order_that_is_wanted(finished, monkeypatch):
    sheets = Path("runs/a/samples").glob("*.png")
    monkeypatch.setattr(ship, "SHEETS", "2,7")
    picture = np.asarray(ship.side_by_side(ship.chosen(sheets, 7), 28))
    middle = picture[picture.shape[0] // 2]
    greys = [int(pixel[0]) for pixel in middle if pixel[0] not in (255,)]
    assert set(greys) == {60, 210}
    assert greys == sorted(greys)


def test_three_sheets_are_shown_and_one_that_there_is_not_is_named(
    finished, monkeypatch
):
    sheets = list(Path("runs/a/samples").glob("*.png"))
    assert list(ship.chosen(sheets, 7)) == [1, 2, 7]
    monkeypatch.setattr(ship, "SHEETS", "1,9")
    with pytest.raises(UserError, match=r"No sheet of epoch 9\. There are 1,2,"):
        ship.chosen(sheets, 7)


def test_of_sheets_between_epochs_of_seconds_the_nearest_are_shown(finished):
    sheets = [Path(f"runs/a/samples/epoch-{epoch:03d}.png") for epoch in (1, 5, 6, 7)]
    assert list(ship.chosen(sheets, 6)) == [1, 6]
    assert list(ship.chosen(sheets[1:], 7)) == [5, 7]
