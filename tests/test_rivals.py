import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

import generate
import models
import rivals
from dcgan.common.console import UserError
from dcgan.networks.backend import layers, ops
from dcgan.runs import generators, page

RUN = Path("runs/rival")
METHODS = pytest.mark.parametrize("method", ["vae", "mmd"])


@pytest.fixture
def rival(here, trained, monkeypatch):
    """Set the constants of a tiny run in an empty folder; return its main()."""
    (here / "data").symlink_to(trained / "data")
    tiny = {"DATA": "cartoons", "IMAGE_SIZE": 28, "IMAGES": 40, "WIDTH": 0.25}
    tiny |= {"BATCH_SIZE": 8, "EPOCHS": 2, "SAMPLES": 20, "RUN": str(RUN)}
    for name, value in tiny.items():
        monkeypatch.setattr(rivals, name, value)

    def main(**constants):
        for name, value in constants.items():
            monkeypatch.setattr(rivals, name, value)
        rivals.main([])

    return main


def arrays_of(run):
    model, facts = models.load_generator(run, "last")
    return model.get_weights(), facts


@METHODS
def test_a_rival_leaves_what_generate_draws_from(rival, method, capsys):
    rival(METHOD=method)
    names = ["epoch-001.png", "epoch-002.png"]
    assert sorted(path.name for path in (RUN / "samples").iterdir()) == names
    with open(RUN / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert page.told(RUN, {})["finished"]
    generate.main(["--run", str(RUN)])
    assert "10 faces of 28 x 28" in capsys.readouterr().out
    facts = generators.read(RUN).facts
    assert (facts["method"], facts["epochs"]) == (method, 2)


@METHODS
def test_a_rival_in_two_parts_ends_as_in_one(rival, method):
    rival(METHOD=method, RUN="runs/whole")
    rival(METHOD=method, RUN=str(RUN), EPOCHS=1)
    rival(METHOD=method, RUN=str(RUN), EPOCHS=2)
    (whole, _), (parts, facts) = arrays_of("runs/whole"), arrays_of(RUN)
    assert facts["epochs"] == 2
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.01, atol=1e-4)
    begun, _ = arrays_of_epoch(rival, method)
    assert not all(np.allclose(*pair) for pair in zip(whole, begun, strict=True))


def arrays_of_epoch(rival, method):
    rival(METHOD=method, RUN="runs/short", EPOCHS=1)
    return arrays_of("runs/short")


def test_a_rival_begun_differently_is_refused(rival):
    rival(METHOD="vae", EPOCHS=1)
    with pytest.raises(UserError, match="METHOD was 'vae' and is 'mmd'"):
        rival(METHOD="mmd", EPOCHS=2)
    path = RUN / "constants.json"
    written = json.loads(path.read_text())
    del written["constants"]["METHOD"]
    path.write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"^runs/rival is a run of train\.py"):
        rival(METHOD="vae", EPOCHS=2)


def test_a_rival_whose_state_is_damaged_says_so(rival):
    rival(METHOD="mmd", EPOCHS=1)
    state = RUN / rivals.STATE
    state.write_bytes(state.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"state.npz is damaged. .* --run runs/rival-2"):
        rival(METHOD="mmd", EPOCHS=2)


def test_a_rival_that_diverges_keeps_what_it_had(rival):
    rival(METHOD="vae", EPOCHS=1)
    before = (RUN / "generator.weights.h5").read_bytes()
    state = dict(np.load(RUN / rivals.STATE))
    state = {
        name: array * np.float32("nan") if array.dtype == "float32" else array
        for name, array in state.items()
    }
    np.savez(RUN / rivals.STATE, **state)
    with pytest.raises(UserError, match=r"diverged in epoch 2. .* --learning-rate"):
        rival(METHOD="vae", EPOCHS=2)
    assert (RUN / "generator.weights.h5").read_bytes() == before


def test_a_batch_of_one_face_is_refused(rival):
    with pytest.raises(UserError, match="--batch-size 1 has nothing to compare"):
        rival(METHOD="mmd", BATCH_SIZE=1)


def test_too_few_pictures_for_a_batch_are_refused(rival):
    with pytest.raises(UserError, match="40 pictures, too few for a batch of 64"):
        rival(BATCH_SIZE=0)


@pytest.mark.every_backend
def test_the_discrepancy_is_grettons_by_every_pair():
    random = np.random.default_rng(3)
    real, fake = (random.normal(0, scale, (5, 7)) for scale in (1, 2))
    real, fake = real.astype("float32"), fake.astype("float32")
    pairs = [(i, j) for i, j in itertools.product(range(5), repeat=2) if i != j]
    mean = np.mean([np.sum((real[i] - real[j]) ** 2) for i, j in pairs])

    def like(x, y):
        distance = np.sum((x - y) ** 2) / mean
        return np.mean([math.exp(-distance / (2 * width)) for width in rivals.KERNELS])

    within = sum(np.mean([like(x[i], x[j]) for i, j in pairs]) for x in (real, fake))
    between = np.mean([like(x, y) for x in real for y in fake])
    told = ops.convert_to_numpy(rivals.discrepancy(real, fake))
    assert told == pytest.approx(within - 2 * between, rel=1e-3)


class Fixed(layers.Layer):
    """An encoder or a decoder that says the same whatever it is shown."""

    def __init__(self, said):
        super().__init__()
        self.said = np.asarray(said, "float32")

    def call(self, shown, training=False):
        self.shown = shown
        return ops.broadcast_to(self.said, (shown.shape[0], *self.said.shape))


@pytest.mark.every_backend
def test_the_vaes_loss_is_its_terms_by_hand():
    mean, variance = np.array([0.5, -2.0]), np.array([0.25, 3.0])
    face, pixels = np.full((4, 4, 3), 0.5), np.full((6, 4, 4, 3), 255, "uint8")
    vae = rivals.Vae(Fixed([*mean, *np.log(variance)]), Fixed(face))
    told = ops.convert_to_numpy(vae.compute_loss(pixels, None, vae(pixels)))
    kl = sum((mean**2 + variance - 1 - np.log(variance)) / 2)
    assert told == pytest.approx(kl + 48 * 0.5**2 / (2 * rivals.SPREAD**2))


@pytest.mark.every_backend
def test_of_the_prior_the_vaes_generator_gets_uniform_noise():
    decoder = Fixed(np.zeros((4, 4, 3)))
    vae = rivals.Vae(Fixed(np.zeros(200)), decoder)
    vae(np.zeros((500, 4, 4, 3), "uint8"))
    got = np.sort(ops.convert_to_numpy(decoder.shown).ravel())
    assert got.shape == (50_000,)
    # By Kolmogorov and Smirnov it is farther away once in a million times
    assert np.abs(got - np.linspace(-1, 1, len(got))).max() < 2 * 2.7 / len(got) ** 0.5


def test_an_epoch_shows_each_picture_once_and_half_of_them_mirrored(rival):
    rivals.BATCH_SIZE = 4
    faces = np.zeros((400, 2, 2, 3), "uint8")
    faces[:, :, 0], faces[:, :, 1] = np.divmod(np.arange(400), 256)[1][:, None, None], 9
    pictures = rivals.Pictures(faces)
    pictures.begin(1)
    shown = np.concatenate([pictures[n] for n in range(len(pictures))])
    straight = shown[:, 0, 1, 0] == 9
    values = np.where(straight, shown[:, 0, 0, 0], shown[:, 0, 1, 0])
    assert sorted(values) == sorted(faces[:, 0, 0, 0])
    assert 140 < straight.sum() < 260
    before = pictures[0]
    pictures.begin(2)
    assert not np.array_equal(before, pictures[0])
