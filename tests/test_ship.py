"""benchmarks/ship.py: a run becomes a folder of weights that generate.py draws from."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import generate
import models
from benchmarks import ship
from dcgan.common.console import UserError
from dcgan.common.files import write_json
from dcgan.common.options import current
from dcgan.runs import curves, generators
from dcgan.scores import inception

ABOUT = {
    **{"network": "dcgan", "image_size": 28, "latent": models.LATENT, "width": 0.2},
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


@pytest.fixture
def finished(here):
    """Leave what a run leaves; return its generator."""
    models.keras.utils.set_random_seed(3)
    generator = models.build_generator("dcgan", 28, 0.2)
    generators.save_generator("runs/a", generator, ABOUT)
    for epoch in range(1, 8):
        faces = np.full((40, 28, 28, 3), 30 * epoch, np.uint8)
        curves.save_sheet("runs/a", epoch, faces)
    row = {"d_loss": 1.0, "g_loss": 1.0, "real_accuracy": 0.5, "fake_accuracy": 0.5}
    row |= {"diversity": 1.0, "mmd": None}
    rows = [{"epoch": n, "iterations": 600 * n, **row} for n in range(1, 8)]
    rows[4] |= {"diversity": 0.1, "mmd": 0.25}
    curves.save_log("runs/a", [{**each, "alarm": "of old"} for each in rows])
    return generator


def noise():
    random = np.random.default_rng(1)
    return random.uniform(-1, 1, (20, models.LATENT)).astype("float32")


def test_a_shipped_generator_draws_what_the_run_does(finished):
    ship.main(["--run", "runs/a", "--out", "w"])
    shipped, about = generators.load_generator("w")
    drawn = models.draw(shipped, noise())
    assert (drawn == models.draw(finished, noise())).all()
    assert about["epochs"] == 7
    assert about["score"] is None  # the run's own is of few samples, or by MMD
    for name in ("faces.png", "samples.png", "losses.png", "epochs.png"):
        with Image.open(Path("w", name)) as picture:
            picture.load()


def test_half_precision_halves_the_bytes_and_moves_no_pixel_by_more_than_one(finished):
    ship.main(["--run", "runs/a", "--out", "w", "--half"])
    whole, half = (Path(run, generators.GENERATOR) for run in ("runs/a", "w"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    shipped, _ = generators.load_generator("w")
    drawn = models.draw(shipped, noise()).astype(int)
    assert np.abs(drawn - models.draw(finished, noise())).max() <= 1
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


@pytest.mark.parametrize("half", ["--half", "--no-half"])
def test_the_score_of_evaluate_is_told_and_of_no_other_weights(finished, half, capsys):
    words = ["--run", "runs/a", "--out", "w", half]
    ship_anew(words)
    assert "No score yet: python evaluate.py --run w" in capsys.readouterr().out
    _, about = generators.load_generator("w")
    score_it(about["sha256"], kid=0.0123)
    ship_anew(words)
    _, about = generators.load_generator("w")
    assert about["score"] == 0.0123
    assert about["scored_by"] == (
        f"KID, {inception.NAME}, 10,000 samples against 10,000 real faces"
    )
    for sha256, found in (("0" * 64, {"kid": 0.0123}), (about["sha256"], {})):
        score_it(sha256, **found)
        ship_anew(words)
        assert generators.load_generator("w")[1]["score"] is None


def ship_anew(words):
    """Ship as in a process of its own: the layers' names in the file count from 1."""
    models.keras.backend.clear_session()
    ship.main(words)


def score_it(sha256, **found):
    """Write what evaluate.py writes of weights, 10,000 fakes and 20,000 real faces."""
    found["counts"] = {"real": 20000, "fake": 10000, "pairs": 10000}
    found["protocol"] = {"generator": f"w, sha256 {sha256[:8]}"}
    write_json(Path("w/metrics.json"), found)


def test_no_folder_of_this_machine_is_told(finished):
    ship.main(["--run", "runs/a", "--out", "w"])
    _, about = generators.load_generator("w")
    assert about["data"]["source"] == "photos"
    assert about["constants"] == {"DATA": "photos", "RUN": "a", "EPOCHS": 7, "SEED": 4}
    assert about["changes"] == [{"from": "a", "epochs": 3, "constants": {}}]
    assert "/srv" not in Path("w", generators.ABOUT).read_text()


def test_alarms_in_the_curves_are_those_of_today(finished):
    rows = ship.rows_of(Path("runs/a"))
    assert [row["alarm"] for row in rows] == [*[""] * 4, "collapse", "", ""]
    assert [row["mmd"] for row in rows] == [*[None] * 4, 0.25, None, None]
    assert rows[2]["epoch"] == 3
    ship.main(["--run", "runs/a", "--out", "w"])
    with Image.open("w/losses.png") as picture:
        assert picture.width > 900


def test_sheets_stand_side_by_side_in_the_order_that_is_wanted(finished):
    ship.main(["--run", "runs/a", "--out", "w", "--epochs", "2,7"])
    picture = np.asarray(Image.open("w/epochs.png"))
    middle = picture[picture.shape[0] // 2]
    greys = [int(pixel[0]) for pixel in middle if pixel[0] not in (255,)]
    assert set(greys) == {60, 210}
    assert greys == sorted(greys)


def test_a_sheet_that_there_is_not_is_named(finished):
    with pytest.raises(UserError, match="no sheet of epoch 9"):
        ship.main(["--run", "runs/a", "--out", "w", "--epochs", "1,9"])
