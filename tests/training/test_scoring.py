"""The scores of a run: always the same noise, and the same real faces."""

import time

import numpy as np
import pytest

from dcgan.scores import inception, metrics
from dcgan.training import scoring
from dcgan.training.chance import pick
from dcgan.training.devices import Device
from dcgan.training.scoring import Scorer


class Second(Device):
    """The second of two processes; the first has chosen to score by KID."""

    is_first = False

    def from_first(self, _):
        return "kid"


@pytest.fixture
def faces():
    return np.random.default_rng(0).integers(0, 256, (900, 28, 28, 3), "uint8")


def fakes(count=200):
    grey = np.random.default_rng(1).integers(0, 256, (count, 28, 28, 1), "uint8")
    return grey.repeat(3, 3)


def test_mmd_is_that_against_fixed_real_faces(faces):
    scorer, again = (Scorer("mmd", faces, 2000, 1, Device()) for _ in range(2))
    assert scorer.count == 200
    assert len(np.unique(scorer.real.reshape(200, -1), axis=0)) == 200
    score = scorer.score(fakes())
    assert score == scorer.score(fakes()) == again.score(fakes())
    assert score == {"mmd": metrics.mmd(scorer.real, fakes())}
    assert (scorer.real == pick(faces, 200, 1, "score_real")).all()
    other = Scorer("mmd", faces, 2000, 2, Device())
    assert (other.real != scorer.real).any()


def test_real_faces_score_better_than_fakes(faces):
    scorer = Scorer("mmd", faces, 2000, 1, Device())
    assert scorer.score(faces[:300])["mmd"] < scorer.score(fakes())["mmd"]


def test_an_epoch_without_fakes_has_an_empty_score(faces):
    assert Scorer("mmd", faces, 300, 1, Device()).score(None) == {"mmd": None}


def test_a_run_without_scores_has_none(faces):
    scorer = Scorer("none", faces, 300, 1, Device())
    assert (scorer.count, scorer.score(None), scorer.protocol) == (0, {}, None)


def test_a_process_that_is_not_the_first_has_no_score(faces):
    scorer = Scorer("kid", faces, 300, 1, Second())  # and fetches no Inception
    assert scorer.count == 200  # it draws as many fakes as the first
    assert scorer.score(fakes()) == {"kid": None}
    first = Scorer("mmd", faces, 300, 1, Device())
    assert scorer.diversity(fakes()) == first.diversity(fakes()) > 0


class Mean:
    """A network of three features: the mean colour."""

    def features(self, faces, bar=None):
        return faces.mean((1, 2)) / 255


def test_kid_is_computed_from_features(faces, monkeypatch):
    monkeypatch.setattr(inception, "find", lambda folder: f"{folder}/weights")
    monkeypatch.setattr(inception, "load", {"there/weights": Mean()}.get)
    scorer = Scorer("kid", faces, 300, 1, Device(), "there")
    real = Mean().features(pick(faces, 200, 1, "score_real"))
    kid = metrics.kid(real, Mean().features(fakes()))[0]
    assert scorer.score(fakes()) == {"kid": kid}


def test_diversity_is_a_share_of_the_real_faces(faces):
    scorer = Scorer("none", faces, 300, 1, Device())
    assert scorer.diversity(faces[:40]) == pytest.approx(1, abs=0.05)
    assert scorer.diversity(np.repeat(faces[:1], 40, 0)) == 0


def test_pictures_that_are_all_alike_end_with_no_diversity(faces):
    alike = np.repeat(faces[:1], 40, 0)
    scorer = Scorer("mmd", alike, 300, 1, Device())
    assert scorer.diversity(fakes(20)) == 0
    assert np.isfinite(scorer.score(fakes(40))["mmd"])


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
    assert scoring.count_of(samples, pictures) == count


def test_the_line_says_how_it_is_scored():
    line = scoring.protocol_of("kid", 2000, 1000)
    assert line.startswith("KID, ")
    assert line.endswith(", 200 samples against 200 real faces")
    assert scoring.protocol_of("none", 2000, 1000) is None


def test_by_pixels_the_best_of_larger_faces_misleads():
    assert scoring.which_to_draw("mmd", 64) == " --which last"
    assert scoring.which_to_draw("mmd", 32) == ""
    assert scoring.which_to_draw("kid", 64) == ""


@pytest.fixture
def gpu(monkeypatch):
    """Have a GPU, and Inception's weights at hand."""
    monkeypatch.setattr(scoring, "has_gpu", lambda: True)
    monkeypatch.setattr(inception, "find", lambda folder: "weights")


def test_auto_is_mmd_of_small_faces_without_a_gpu_and_else_kid(gpu, monkeypatch):
    assert scoring.kind_of("auto", None, Device(), 28) == "kid"
    assert scoring.kind_of("mmd", None, Device(), 64) == "mmd"
    monkeypatch.setattr(scoring, "has_gpu", lambda: False)
    assert scoring.kind_of("auto", None, Device(), 32) == "mmd"
    assert scoring.kind_of("auto", None, Device(), 40) == "kid"


def test_auto_is_what_the_run_had_and_others_are_what_they_say(gpu):
    assert scoring.kind_of("auto", "mmd", Device(), 28) == "mmd"
    assert scoring.kind_of("auto", "none", Device(), 28) == "none"
    assert scoring.kind_of("none", "mmd", Device(), 28) == "none"


def test_auto_is_mmd_where_inception_is_not_to_be_had(gpu, monkeypatch, capsys):
    def fail(folder):
        raise scoring.UserError("There is no network.")

    monkeypatch.setattr(inception, "find", fail)
    assert scoring.kind_of("auto", None, Device(), 28) == "mmd"
    told = capsys.readouterr().out
    assert "Scoring by MMD, for Inception is not to be had. There is no net" in told


def test_all_processes_score_as_the_first_has_chosen(gpu, monkeypatch):
    monkeypatch.setattr(inception, "find", None)  # only the first fetches anything
    assert scoring.kind_of("auto", None, Second(), 28) == "kid"


@pytest.mark.parametrize("over_after", [0, 1, 3])
def test_a_run_that_is_to_stop_waits_for_no_score(over_after, faces):
    scorer, looked = Scorer("none", faces, 300, 1, Device()), []

    class Network:
        def features(self, faces, bar):
            for face in faces:
                looked.append(face)
                bar.update(1)
            return np.zeros((len(faces), 2))

    scorer.kind, scorer.count, scorer.network = "kid", 3, Network()
    scorer.real = faces[:3]
    scorer.is_over = lambda: len(looked) > over_after
    scorer.real_features = lambda: scorer._features(scorer.real)
    assert scorer.score(faces[:3]) == {"kid": None}
    assert len(looked) == over_after + 1


def test_scores_that_take_long_come_seldom(faces, monkeypatch):
    now = 1000.0

    def take_long(fake):
        nonlocal now
        now += 50 if fake is not None else 1
        return {}

    monkeypatch.setattr(time, "monotonic", lambda: now)
    scorer = Scorer("mmd", faces, 300, 1, Device())
    scorer.score = take_long
    assert scorer.pace.is_due(0.1)
    scorer.scores(faces[:4], fakes(4))
    assert scorer.took == 50
    for passed, is_due in ((0, False), (499, False), (501, True)):
        now = 1050.0 + passed
        assert scorer.pace.is_due(0.1) == is_due
    now = 1060.0
    scorer.scores(faces[:4], None)
    assert scorer.took == 1
    assert not scorer.pace.is_due(0.1)
    assert scorer.pace.is_due(1.0)
