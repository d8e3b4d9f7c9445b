"""benchmarks/preparing.py: pictures like CelebA's, rates and memory, wrong options."""

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import helper
from benchmarks import preparing
from dcgan.common.console import UserError
from dcgan.common.options import current


def test_a_drawn_picture_is_like_celebas():
    files = [preparing.draw_picture(number) for number in range(5)]
    pictures = [Image.open(io.BytesIO(file)) for file in files]
    assert {(it.format, it.size) for it in pictures} == {("JPEG", helper.CELEBA_SIZE)}
    assert 6000 < np.mean([len(file) for file in files]) < 12000
    assert len(set(files)) == 5


@pytest.fixture(autouse=True)
def keep_constants(monkeypatch):
    for name, value in current(preparing).items():
        monkeypatch.setattr(preparing, name, value)


@pytest.mark.slow
def test_preparing_prints_rates_and_memory(here, capsys):
    quick = "--pictures 20 --counts 8,20 --rounds 1 --distinct 4 --image-size 28"
    preparing.main([*quick.split(), "--out", "out.md"])
    printed = capsys.readouterr().out
    assert Path("out.md").read_text() == printed
    for way in (r"preprocess\.py, \d+ cores", "Pillow alone, 1 core", "plain loop"):
        assert re.search(rf"^\| {way} \| [\d,]+ \|", printed, re.M), way
    assert len(re.findall(r"^\| (?:8|20) \| [\d.]+ \| [\d,]+ \| ", printed, re.M)) == 2


def test_preparing_refuses_counts_that_are_none(monkeypatch):
    monkeypatch.setattr(preparing, "COUNTS", "2e5")
    with pytest.raises(UserError, match="--counts 2e5"):
        preparing.main([])


def test_preparing_takes_pictures_of_ones_own(here, monkeypatch):
    with zipfile.ZipFile(here / "own.zip", "w") as archive:
        archive.writestr("a.jpg", preparing.draw_picture(1))
        archive.writestr("notes.txt", "no picture")
    monkeypatch.setattr(preparing, "DATA", str(here / "own.zip"))
    assert preparing.read_pictures() == [preparing.draw_picture(1)]
    monkeypatch.setattr(preparing, "DATA", str(here / "none.zip"))
    with pytest.raises(UserError, match=r"none\.zip"):
        preparing.read_pictures()
