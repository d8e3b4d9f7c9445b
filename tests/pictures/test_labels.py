"""Sheets with words on them."""

import numpy as np
import pytest

from dcgan.pictures import labels
from dcgan.pictures.faces import GAP, grid


def plain(*shades, size=16):
    """Return faces (n, size, size, 3), each of one shade of grey."""
    shades = np.array(shades, np.uint8)[:, None, None, None]
    return np.broadcast_to(shades, (len(shades), size, size, 3))


def pixels(picture):
    return np.asarray(picture)


@pytest.mark.parametrize("count", [1, 3, 5, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_without_words_a_sheet_is_a_grid_to_the_pixel(count, channels):
    faces = np.random.default_rng(1).integers(0, 256, (count, 8, 8, channels), np.uint8)
    for columns in (1, 3, 9):
        sheet = labels.sheet(faces, [""] * count, columns, 3)
        assert np.array_equal(pixels(sheet), pixels(grid(faces, columns, 3)))


def test_words_stand_under_their_faces_and_leave_the_faces_as_they_are():
    faces = plain(10, 20, 30, 40, 50, size=32)
    sheet = pixels(labels.sheet(faces, ["1", "", "3", "", ""], 3))
    high = (
        sheet.shape[0] - 2 * 32 - 2 * GAP
    )  # of the line of words; the last row has none
    assert sheet.shape[1] == 3 * (32 + GAP) - GAP
    for place in range(3):
        left = place * (32 + GAP)
        assert (sheet[:32, left : left + 32] == faces[place, 0, 0]).all()
        line = sheet[32 + GAP : 32 + GAP + high - GAP, left : left + 32]
        assert (line.min() < 128) == (place != 1)  # black ink, or none
    below = 32 + high + 2 * GAP
    assert (sheet[below:, :32] == 40).all()
    assert (sheet[below:, 32 + GAP : 64 + GAP] == 50).all()


def test_a_word_wider_than_its_face_is_whole_and_no_face_leaves_its_column():
    def dark(words):
        sheet = labels.sheet(plain(*[200] * len(words), size=16), words, 2)
        lines = pixels(sheet)
        return sheet, (lines < 128).all(2).sum()

    alone, ink = dark(["100000"])
    wide = labels._text("100000", labels._size(16))
    assert wide.width > 16
    assert alone.width == wide.width
    assert ink == (np.asarray(wide) < 128).all(2).sum()
    sheet, inks = dark(["100000", "100000", ""])
    assert inks == 2 * ink
    step = wide.width + GAP
    first, third = (pixels(sheet)[row, :step] == 200 for row in (8, -8))
    assert np.array_equal(first, third)
    headed = labels.headed(grid(plain(9, size=16), 1), "less of it", "more of it")
    assert headed.width > 2 * labels._text("more of it", 10).width


def test_different_words_look_different():
    sheets = {
        labels.sheet(plain(9, size=32), [word], 1).tobytes()
        for word in ("3", "8", "17", "\u00e4", "\u00df", "\u0416")
    }
    assert len(sheets) == 6


def test_a_picture_is_headed_by_words_at_both_ends():
    picture = grid(plain(9, 9, 9, size=64), 3)
    headed = pixels(labels.headed(picture, "less", "more"))
    line = headed[: -picture.height]
    assert np.array_equal(headed[-picture.height :], pixels(picture))
    third = picture.width // 3
    parts = [line[:, :third], line[:, third:-third], line[:, -third:]]
    assert [part.min() < 128 for part in parts] == [True, False, True]


def shades_of(sheet):
    """Return the shades of grey of which there are whole faces, 16 x 16."""
    counts = np.bincount(pixels(sheet)[..., 0].ravel(), minlength=256)
    return {shade: int(count) for shade, count in enumerate(counts) if count >= 16**2}


def test_a_sum_shows_every_face_every_mean_and_the_result():
    terms = [
        labels.Term("", plain(10, 20, 30), ["1", "2", "3"], plain(40)[0]),
        labels.Term("-", plain(50, 60, 70, 80, 90), [*"45678"], plain(100)[0]),
        labels.Term("+", plain(110), ["9"], plain(120)[0]),
    ]
    result = plain(*range(130, 220, 10))
    sheet = labels.sum_sheet(terms, result)
    shades = shades_of(sheet)
    for shade in range(10, 220, 10):
        assert 16**2 <= shades.pop(shade) < 16**2 + 20  # edges of letters are grey, too
    assert shades.keys() == {255}
    places = {
        shade: np.argwhere(pixels(sheet)[..., 0] == shade).mean(0)
        for shade in (40, 100, 120, 130, 170)
    }
    rows = {round(places[mean][0]) for mean in (40, 100, 120)}
    assert max(rows) - min(rows) <= 1  # the means stand in one line
    columns = [places[shade][1] for shade in (40, 100, 120, 130, 170)]
    assert columns == sorted(columns)


def test_the_signs_of_a_sum_differ():
    sheets = [
        labels.sum_sheet(
            [labels.Term(sign, plain(9), ["1"], plain(9)[0])] * 2, plain(*[9] * 9)
        ).tobytes()
        for sign in ("-", "+")
    ]
    assert sheets[0] != sheets[1]
