import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import models
from dcgan.runs import generators as runs
from dcgan.scores import metrics as scores
from dcgan.training import scoring as watch
from dcgan.training.progress import first

SEEDS = (1, 16), (1, 17)
ABOUT = {
    "network": "dcgan",
    "image_size": 28,
    "latent": models.LATENT,
    "data": {"name": "toys", "count": 1234},
}


@pytest.fixture(scope="module")
def generator():
    models.keras.utils.set_random_seed(1)
    return models.build_generator("dcgan", 28)


@pytest.fixture
def faces():
    return np.random.default_rng(0).integers(0, 256, (900, 28, 28, 3)).astype("uint8")


def test_mmd_is_that_of_fixed_samples_and_fixed_real_faces(generator, faces):
    scoring = watch.begin("mmd", faces, 2000, SEEDS)
    again = watch.begin("mmd", faces, 2000, SEEDS)
    found = watch.score(scoring, generator)
    assert found == watch.score(again, generator) == watch.score(scoring, generator)
    assert found == scores.mmd(scoring.real, models.draw(generator, scoring.noise))
    assert len(np.unique(scoring.real.reshape(200, -1), axis=0)) == 200
    assert scoring.noise.shape == (200, models.LATENT)
    assert scoring.noise.dtype == np.float32
    assert -1 <= scoring.noise.min() < -0.99
    assert 0.99 < scoring.noise.max() <= 1
    other = watch.begin("mmd", faces, 2000, ((2, 16), (2, 17)))
    assert (other.noise != scoring.noise).any()
    assert (other.real != scoring.real).any()


def test_real_faces_score_better_than_the_fakes(generator, faces):
    scoring = watch.begin("mmd", faces, 2000, SEEDS)
    assert scores.mmd(scoring.real, faces[:300]) < watch.score(scoring, generator)


@pytest.mark.parametrize(
    ("samples", "pictures", "count"),
    [
        (2000, 202_599, 2000),
        (2000, 20_075, 2000),
        (2000, 10_000, 1000),
        (2000, 1000, 200),
        (2000, 40, 40),
        (50, 20_075, 50),
    ],
)
def test_few_pictures_are_scored_by_few_samples(samples, pictures, count):
    assert watch.count_of(samples, pictures) == count


def test_a_process_that_is_not_the_first_draws_and_has_no_score(generator, faces):
    scoring = watch.begin("mmd", faces, 2000, SEEDS, is_first=False)
    assert watch.score(scoring, generator) is None
    assert (scoring.noise == watch.begin("mmd", faces, 2000, SEEDS).noise).all()


def test_a_run_without_scores_begins_none(faces):
    assert watch.begin("none", faces, 2000, SEEDS) is None


def test_auto_is_mmd_without_a_gpu_or_what_the_run_had(here):
    assert watch.has_gpu() or watch.choose("auto") == "mmd"
    before = {"begun_with": {"score": "kid"}}
    assert watch.choose("auto", before) == "kid"
    assert watch.choose("none", before) == "none"
    assert watch.has_gpu() or watch.choose("auto", {"begun_with": {}}) == "mmd"


class Mean:
    """A network of three features: the mean colour."""

    def features(self, faces):
        return faces.mean((1, 2)) / 255


def test_kid_is_computed_from_features(generator, faces):
    scoring = watch.begin("mmd", faces, 300, SEEDS)
    kid = watch.Scoring("kid", scoring.noise, Mean().features(scoring.real), Mean())
    fake = Mean().features(models.draw(generator, scoring.noise))
    assert watch.score(kid, generator) == scores.kid(kid.real, fake)[0]
    assert watch.score(kid, generator) != watch.score(scoring, generator)


def keep(generator, progress, epoch, found):
    about = {**ABOUT, "epochs": epoch, "score": found, "scored_by": "MMD"}
    watch.keep("runs/a", generator, about, progress, found)
    best, last = (json.loads(Path(f"runs/a/{name}.json").read_text()) for name in FILES)
    assert last["epochs"] == epoch
    return best["epochs"], progress["best"] and progress["best"]["epoch"]


FILES = ("generator", "generator-last")


def test_the_best_is_kept_beside_the_last(here, generator):
    progress = first()
    scored = [None, 0.5, 0.3, None, 0.4, 0.3, 0.2]
    kept = [keep(generator, progress, n, found) for n, found in enumerate(scored, 1)]
    assert kept == [(1, None), (2, 2), (3, 3), (3, 3), (3, 3), (3, 3), (7, 7)]
    assert progress["best"] == {"epoch": 7, "score": 0.2}


@pytest.mark.parametrize("name", ["generator.json", "generator.weights.h5"])
def test_a_best_that_is_gone_is_the_best_no_more(here, generator, name):
    progress = first()
    keep(generator, progress, 1, 0.1)
    Path("runs/a", name).unlink()
    assert keep(generator, progress, 2, 0.3) == (2, 2)
    runs.load_generator("runs/a")


def test_a_best_of_another_epoch_than_was_noted_is_replaced(here, generator):
    progress = {**first(), "best": {"epoch": 1, "score": 0.1}}
    keep(generator, {**first()}, 3, 0.2)
    assert keep(generator, progress, 3, 0.3) == (3, 3)


def test_the_run_whose_last_generator_is_newest_is_the_newest(here, generator):
    keep(generator, first(), 1, 0.1)
    shutil.copytree("runs/a", "runs/b")
    progress = {**first(), "best": {"epoch": 1, "score": 0.1}}
    keep(generator, progress, 2, 0.3)
    assert runs.newest_run("runs") == Path("runs/a")


def test_which_weights_were_loaded_and_their_score_are_told(here, generator):
    progress = first()
    keep(generator, progress, 1, 0.1)
    keep(generator, progress, 2, 0.25)
    for which, told in (
        ("best", "for 1 epoch (MMD: 0.10000)"),
        ("last", "for 2 epochs (MMD: 0.25000)"),
    ):
        _, about = runs.load_generator("runs/a", which)
        assert told in runs.describe("runs/a", about)
    with pytest.raises(SystemExit, match="No last generator in runs/none yet"):
        runs.load_generator("runs/none", "last")
