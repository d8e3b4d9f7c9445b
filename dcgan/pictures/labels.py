"""Sheets of faces with words on them: numbers under faces, and sums of faces."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dcgan.pictures.faces import GAP, grid

# Of a group of a sum, faces one above the other at most
TALL = 4


class Term(NamedTuple):
    """A group of faces in a sum.

    sign: "", "-" or "+", before it; faces: (n, S, S, 1 or 3) uint8; words: n, of what
    stands under each; mean: (S, S, 1 or 3) uint8, the face of their mean
    """

    sign: str
    faces: np.ndarray
    words: list
    mean: np.ndarray


def sheet(faces, words, columns, scale=1):
    """Lay faces (n, S, S, 1 or 3) uint8 out as grid() does, n words under them.

    A row of which no face has a word, but "", is as grid() has it. Where a word is
    wider than a face, all stand further apart.
    """
    columns = max(1, min(columns, len(faces)))
    rows, side = [], int(faces.shape[1] * scale)
    texts = [_text(word, _size(side)) for word in words]
    wide = max(side, *(text.width for text in texts))
    for first in range(0, len(faces), columns):
        some = slice(first, first + columns)
        tiles = [_amid(grid(face[None], 1, scale), wide) for face in faces[some]]
        if any(words[some]):
            tiles = [above(pair) for pair in zip(tiles, texts[some], strict=True)]
        rows.append(beside(tiles))
    return above(rows, "left")


def headed(picture, left, right):
    """Lay a picture under a line that has words at its left and at its right end."""
    left, right = (_text(words, _size(picture.width // 8)) for words in (left, right))
    wide = max(picture.width, left.width + left.height + right.width)
    line = Image.new("RGB", (wide, left.height), "white")
    line.paste(left)
    line.paste(right, (wide - right.width, 0))
    return above([line, picture])


def sum_sheet(terms, result, scale=1):
    """Draw a sum: the faces of each Term above that of their mean, and the result.

    result: (n, S, S, 1 or 3) uint8, n a square number, laid out as a square.
    """
    gap, parts = GAP * 8, []
    for term in terms:
        columns = math.ceil(len(term.faces) / TALL)
        group = sheet(term.faces, term.words, columns, scale)
        mean = sheet(term.mean[None], ["mean"], 1, scale)
        parts += [_sign(term.sign, mean.height)] * bool(term.sign)
        parts.append(above([group, mean], gap=gap))
    parts += [_sign("=", mean.height), grid(result, math.isqrt(len(result)), scale)]
    return beside(parts, gap)


def beside(images, gap=GAP):
    """Lay images beside each other on white, their lower ends on one line."""
    high = max(image.height for image in images)
    wide = sum(image.width + gap for image in images) - gap
    picture, left = Image.new("RGB", (wide, high), "white"), 0
    for image in images:
        picture.paste(image, (left, high - image.height))
        left += image.width + gap
    return picture


def above(images, at="middle", gap=GAP):
    """Lay images above each other on white, their middles or left ends on one line."""
    wide = max(image.width for image in images)
    high = sum(image.height + gap for image in images) - gap
    picture, top = Image.new("RGB", (wide, high), "white"), 0
    for image in images:
        spare = wide - image.width
        picture.paste(image, (0 if at == "left" else spare // 2, top))
        top += image.height + gap
    return picture


def _sign(sign, height):
    """Draw a sign in the middle of so high an image."""
    side = max(8, height // 6)
    picture = Image.new("RGB", (side, height), "white")
    # Lines, for the font that comes with Pillow has no minus
    middle, wide = height // 2, max(1, side // 9)
    pen = ImageDraw.Draw(picture)
    for at in (-side // 5, side // 5) if sign == "=" else (0,):
        pen.line([(0, middle + at), (side, middle + at)], "black", wide)
    if sign == "+":
        pen.line(
            [(side // 2, middle - side // 2), (side // 2, middle + side // 2)],
            "black",
            wide,
        )
    return picture


def _amid(image, width):
    """Lay an image in the middle of white of a width."""
    around = Image.new("RGB", (width, image.height), "white")
    around.paste(image, ((width - image.width) // 2, 0))
    return around


def _size(width):
    """Return the size of letters, pixels, under a face of a width."""
    return max(10, min(20, width // 8))


def _font(words, size):
    """Return a font with the letters of words; Pillow's has those of ASCII alone."""
    if words.isascii():
        return ImageFont.load_default(size)
    import matplotlib

    fonts = Path(matplotlib.get_data_path(), "fonts/ttf")
    return ImageFont.truetype(fonts / "DejaVuSans.ttf", size)


def _text(words, size):
    """Draw words in black on white, as small an image as holds any such words."""
    font = _font(words, size)
    width = math.ceil(font.getlength(words))
    text = Image.new("RGB", (max(1, width), round(size * 1.3)), "white")
    ImageDraw.Draw(text).text((0, 0), words, "black", font)
    return text
