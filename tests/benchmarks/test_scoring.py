"""Do the scores put faces in order: what is less like faces is further from them."""

from pathlib import Path

import numpy as np
import pytest

import evaluate
import preprocess
from benchmarks import quality, scoring
from cartoons import cartoon_faces
from dcgan.common.console import UserError
from dcgan.common.files import sha256
from dcgan.common.options import current
from dcgan.scores import inception, metrics
from tests.scores.narrow import write_torchscript


@pytest.fixture(autouse=True)
def keep_constants(monkeypatch):
    for module in (quality, scoring, evaluate):
        for name, value in current(module).items():
            monkeypatch.setattr(module, name, value)


def test_what_is_less_like_faces_is_further_from_them():
    faces = cartoon_faces((1, 0, 160, 28))
    kinds = scoring.kinds(faces[80:])
    scores = [metrics.mmd(faces[:80], kind) for kind in kinds.values()]
    assert scores[0] == min(scores)
    assert scores[-1] == max(scores)
    assert all(kind.shape == faces[80:].shape for kind in kinds.values())
    sharp = [
        np.abs(np.diff(kind.astype(float), axis=2)).mean() for kind in kinds.values()
    ]
    assert sharp[2] < sharp[1] < sharp[0] < sharp[3] < sharp[4]


@pytest.mark.slow
def test_the_order_of_the_scores_is_printed(here, monkeypatch):
    write_torchscript("net.pt")
    monkeypatch.setattr(inception, "OUT_OF_WHEEL", sha256("net.pt"))
    monkeypatch.setattr(preprocess, "CARTOONS", 70)
    given = "--data cartoons --samples 30 --inception net.pt"
    given = [*given.split(), "--out", "out.md"]
    scoring.main(given)
    page = Path("out.md").read_text()
    kinds = scoring.kinds(cartoon_faces((1, 0, 2, 28)))
    assert [f"| {name} |" in page for name in kinds] == [True] * 5
    with pytest.raises(UserError, match="twice --samples 36"):
        scoring.main([*given, "--samples", "36"])
