"""Pictures, folders and archives that the tests of this folder draw."""

import functools
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

import helper
from dcgan.pictures import sources, workers

ORANGE, BLUE, WHITE = (240, 120, 40), (20, 60, 200), (255, 255, 255)

read_faces = functools.partial(workers.read_faces, crop=helper.crop_face)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def plain(colour, size=(20, 20)):
    return encoded(Image.new("RGB", size, colour))


def halves(size=(40, 30)):
    """A picture that is orange on the left and blue on the right."""
    image = Image.new("RGB", size, ORANGE)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def put(folder, files):
    for name, data in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def pack(path, files, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def read(source, size=4):
    """Return the faces (n, S, S, 3) of a source, and {name: reason} of the others."""
    pixels, unreadable = read_faces(sources.list_pictures(source), size)
    return np.frombuffer(pixels, np.uint8).reshape(-1, size, size, 3), dict(unreadable)


def colours(faces):
    return [tuple(int(value) for value in face[0, 0]) for face in faces]


def near(values, expected, tolerance=3):
    return np.abs(np.subtract(values, expected, dtype=int)).max() <= tolerance
