"""Films: what they show, and how large they are."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan.common.console import UserError
from dcgan.pictures import films

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]


def frames(size=(40, 30)):
    return (Image.new("RGB", size, colour) for colour in COLOURS)


def shown(path):
    """Return (the middle pixel, milliseconds) of each frame."""
    with Image.open(path) as film:
        assert film.info["loop"] == 0  # again and again
        seen = []
        for number in range(film.n_frames):
            film.seek(number)
            film.load()
            middle = film.convert("RGB").getpixel((20, 15))
            seen.append((middle, film.info["duration"]))
        return seen


@pytest.mark.parametrize("kind", ["gif", "webp", "GIF"])
def test_a_film_shows_its_frames_one_after_another(here, kind):
    films.save(f"film.{kind}", frames(), 0.25)
    seen = shown(f"film.{kind}")
    assert [duration for _, duration in seen] == [250] * 3
    apart = np.subtract([colour for colour, _ in seen], COLOURS)
    assert np.abs(apart).max() < 12
    assert [path.name for path in here.iterdir()] == [f"film.{kind}"]


def test_no_frame_of_a_gif_is_so_short_that_browsers_show_it_ten_times_as_long(here):
    films.save("film.gif", frames(), 1 / 60)
    assert [duration for _, duration in shown("film.gif")] == [20] * 3


def test_a_tall_sheet_keeps_its_width_in_a_history(here):
    Image.new("RGB", (600, 2400), "red").save("1.png")
    assert films.history({1: "1.png"})[0].size == (480, 1920 + 22)


def test_sheets_of_several_sizes_are_one_history(here):
    sizes = {1: (40, 60), 2: (80, 20)}
    for epoch, size in sizes.items():
        Image.new("RGB", size, "red").save(f"{epoch}.png")
    first, *_, last = films.history({epoch: f"{epoch}.png" for epoch in sizes})
    assert first.size == last.size == (80, 60 + 22)
    for frame, size in zip((first, last), sizes.values(), strict=True):
        pixels = np.array(frame)[:60] == (255, 0, 0)
        assert pixels.all(2).sum() == size[0] * size[1]
        assert pixels.all(2)[: size[1], : size[0]].all()
    Path("2.png").write_bytes(Path("2.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"^Cannot read 2\.png: .*Move it away"):
        films.history({1: "1.png", 2: "2.png"})


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="there is no ffmpeg")
def test_ffmpeg_writes_the_same_film(here):
    films.save("film.mp4", frames((41, 31)), 0.25)
    raw = subprocess.run(
        [
            "ffmpeg",
            "-v",
            "error",
            "-i",
            "film.mp4",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-",
        ],
        capture_output=True,
        check=True,
    ).stdout
    seen = np.frombuffer(raw, np.uint8).reshape(3, 32, 42, 3)[:, 15, 20]
    assert np.abs(seen.astype(int) - COLOURS).max() < 12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "film.mov",
            r"^film\.mov: a film ends in \.gif, \.webp, \.mp4\. Try ",
        ),
        (
            "film.mp4",
            r"^film\.mp4 needs ffmpeg, which is not there\. Try --out",
        ),
    ],
)
def test_a_film_that_cannot_be_written_is_refused(here, monkeypatch, name, message):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=message):
        films.save(name, frames(), 0.25)
    assert not list(here.iterdir())


def test_a_history_shows_the_first_the_last_and_some_between_with_their_epochs(here):
    for epoch in range(1, 101):
        Image.new("RGB", (960, 240), (2 * epoch, 0, 0)).save(f"{epoch}.png")
    history = films.history({epoch: f"{epoch}.png" for epoch in range(1, 101)})
    reds = [frame.getpixel((240, 60))[0] for frame in history]
    assert len(reds) == films.FRAMES + films.LAST - 1
    assert (reds[0], reds[-films.LAST :]) == (2, [200] * films.LAST)
    assert reds == sorted(reds)
    assert {frame.size for frame in history} == {(480, 120 + 22)}
    words = [np.asarray(frame)[120:].tobytes() for frame in history]
    assert len(set(words)) == films.FRAMES  # each tells another epoch
