"""Turning a picture's bytes into a face, and faces into a sheet."""

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import helper
from dcgan.pictures.faces import grid, read_face
from tests.pictures.samples import (
    BLUE,
    ORANGE,
    WHITE,
    encoded,
    halves,
    near,
    plain,
    put,
    read,
)


def uncropped(image):
    return image


def translucent(colour):
    """A picture that is `colour` on the left and transparent on the right."""
    image = Image.new("RGBA", (40, 40), (*colour, 255))
    image.paste((0, 0, 0, 0), (20, 0, 40, 40))
    return image


def with_transparent_colour():
    image = Image.new("RGB", (40, 40), ORANGE)
    image.paste((1, 2, 3), (20, 0, 40, 40))
    return encoded(image, transparency=(1, 2, 3))


def palette_with_hole():
    image = Image.new("P", (40, 40), 0)
    image.putpalette([*ORANGE, 9, 9, 9])
    image.paste(1, (20, 0, 40, 40))
    return encoded(image, transparency=1)


def grey_16_bits():
    grey = np.full((40, 40), 65535, np.uint16)
    grey[:, :20] = 200 * 257
    return encoded(Image.fromarray(grey))


def grey_16_bits_with_hole():
    grey = np.full((40, 40), 40_000, np.uint16)
    grey[:, :20] = 40_001
    return encoded(Image.fromarray(grey), transparency=40_000)


OF_ORANGE = Image.new("RGB", (40, 40), ORANGE)
LEFT_AND_RIGHT = {
    "grey": (encoded(Image.new("L", (40, 40), 90)), (90,) * 3, (90,) * 3),
    "grey of 16 bits": (grey_16_bits(), (200,) * 3, WHITE),
    "grey of 16 bits with a hole": (grey_16_bits_with_hole(), (156,) * 3, WHITE),
    "black and white": (encoded(Image.new("1", (40, 40), 1)), WHITE, WHITE),
    "palette": (encoded(OF_ORANGE.quantize(4)), ORANGE, ORANGE),
    "palette with a hole": (palette_with_hole(), ORANGE, WHITE),
    "alpha": (encoded(translucent(ORANGE)), ORANGE, WHITE),
    "grey with alpha": (
        encoded(translucent((90,) * 3).convert("LA")),
        (90,) * 3,
        WHITE,
    ),
    "a transparent colour": (with_transparent_colour(), ORANGE, WHITE),
    "WebP with alpha": (
        encoded(translucent(ORANGE), "WEBP", lossless=True),
        *(ORANGE, WHITE),
    ),
    "CMYK": (encoded(OF_ORANGE.convert("CMYK"), "JPEG", quality=95), ORANGE, ORANGE),
    "BMP": (encoded(OF_ORANGE, "BMP"), ORANGE, ORANGE),
    "grey JPEG": (encoded(Image.new("L", (40, 40), 90), "JPEG"), (90,) * 3, (90,) * 3),
}


@pytest.mark.parametrize("kind", LEFT_AND_RIGHT)
def test_every_kind_of_picture_becomes_rgb_on_white(kind):
    data, left, right = LEFT_AND_RIGHT[kind]
    face = read_face(data, 40, uncropped)
    assert face.mode == "RGB"
    assert near(face.getpixel((5, 20)), left)
    assert near(face.getpixel((35, 20)), right)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_taken_with_a_turned_camera_is_turned_upright(kind):
    # The camera was turned by a quarter, so the upright picture has orange on top
    turned = Image.Exif()
    turned[0x0112] = 6
    face = read_face(encoded(halves((40, 40)), kind, exif=turned), 8, uncropped)
    assert near(face.getpixel((4, 0)), ORANGE, 12)
    assert near(face.getpixel((4, 7)), BLUE, 12)


def test_a_broken_note_of_the_camera_is_passed_over(tmp_path, recwarn):
    nonsense = PngInfo()
    nonsense.add_text("Raw profile type exif", "\n\n\nnonsense")
    broken = b"Exif\0\0II*\0\xff\xff\xff\xff"
    files = {
        "a.jpg": encoded(halves((40, 40)), "JPEG", exif=broken),
        "a.png": encoded(halves((40, 40)), pnginfo=nonsense),
    }
    faces, failures = read(put(tmp_path, files), 8)
    assert near(faces[0, 4, 0], ORANGE, 12)
    assert near(faces[1, 4, 0], ORANGE, 0)
    assert not failures
    assert not recwarn.list


def test_a_picture_larger_than_pillow_allows_is_unreadable(tmp_path, monkeypatch):
    put(tmp_path, {"a.png": plain(BLUE, (30, 30)), "b.png": plain(BLUE, (40, 40))})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    faces, failures = read(tmp_path)
    assert len(faces) == 1
    assert "exceeds limit of 1000 pixels" in failures["b.png"]


def test_a_face_is_cropped_before_it_is_resized():
    pixels = np.zeros((218, 178, 3), np.uint8)
    pixels[55:163, 35:143] = 255
    face = read_face(encoded(Image.fromarray(pixels)), 64, helper.crop_face)
    assert np.asarray(face).min() == 255


def test_shrinking_averages_the_pixels_that_fall_together():
    board = np.indices((128, 128)).sum(0) % 2 * 255
    image = Image.fromarray(board.astype(np.uint8)).convert("RGB")
    face = np.asarray(read_face(encoded(image), 32, uncropped))
    assert near(face, 127, 2)


def test_a_grid_fills_rows_from_the_left_with_white_between():
    faces = np.stack([np.full((4, 4, 3), shade, np.uint8) for shade in (0, 50, 100)])
    sheet = np.asarray(grid(faces, 2))
    assert sheet.shape == (10, 10, 3)
    assert (sheet[:4, :4] == 0).all()
    assert (sheet[:4, 6:] == 50).all()
    assert (sheet[6:, :4] == 100).all()
    between = sheet.copy()
    between[:4, :4] = between[:4, 6:] = between[6:, :4] = 255
    assert (between == 255).all()


@pytest.mark.parametrize(
    ("count", "columns", "scale", "width", "height"),
    [(1, 5, 1, 8, 8), (5, 5, 2, 88, 16), (6, 5, 1, 48, 18), (0, 5, 1, 8, 8)],
)
def test_a_grid_is_as_large_as_its_faces_need(count, columns, scale, width, height):
    faces = np.zeros((count, 8, 8, 3), np.uint8)
    assert grid(faces, columns, scale).size == (width, height)


def test_a_grid_enlarges_faces_smoothly_but_not_across_the_gaps():
    faces = np.zeros((2, 8, 8, 3), np.uint8)
    faces[:, :, 4:] = 200
    sheet = np.asarray(grid(faces, 2, scale=4))
    assert sheet.shape == (32, 66, 3)
    assert len(np.unique(sheet[:, :32])) > 2
    assert (sheet[:, 32:34] == 255).all()
    assert near(sheet[:, 34:], sheet[:, :32], 0)
