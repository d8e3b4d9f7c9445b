"""Turn a picture's bytes into a face, and faces into a sheet."""

# Worker processes import this file: without numpy they start twice as fast.
import contextlib
import functools
import io
import math
import os

from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from dcgan.pictures.archives import Unreadable

# What a picture may be whatever its name says, as Pillow calls it
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

# Kinds that Pillow knows and cannot draw by itself, or only through another program
CLOSED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

# Where Pillow keeps what tells that a picture was taken with the camera turned
TURNS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}

FILTER = "bilinear"

# Pixels of a sheet, three bytes each, for which there may be memory
LARGEST_SHEET = 10**9

# Pixels of white between two faces of a grid
GAP = 2


@functools.lru_cache
def endings():
    """Return {ending: Pillow's name of the kind} of the pictures that can be read."""
    Image.init()
    return {
        ending: kind
        for ending, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and kind not in CLOSED
    }


def ending_of(name):
    """Return the ending of a file's name, as in ".jpg", or ""."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (ten times as fast)


def read_face(data, size, crop, name="", channels=3):
    """Turn a picture file's bytes into a face: an RGB or grey image of size x size.

    crop: takes the RGB image and returns the square that is to be the face; name: the
    file's, whose ending may tell of a rare kind. Any kind of picture: its first frame,
    turned upright as its camera noted, grey, palette, CMYK and 16 bits made RGB,
    transparency laid on white, cropped, resized. Raises Unreadable when it is no
    picture, and whatever Pillow raises when it is a broken one.
    """
    kind = endings().get(ending_of(name))
    formats = FORMATS if kind in (None, *FORMATS) else (*FORMATS, kind)
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise Unreadable(f"it is no {', '.join(formats)}") from None
    if image.mode == "F":
        raise Unreadable("its pixels are fractions, in no known range")
    image.load()
    if TURNS & image.info.keys():
        # Viewers show a picture with a broken note as it is, and so do we
        with contextlib.suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
    return to_face(image, size, crop, channels)


def to_face(image, size, crop, channels=3):
    """Turn a PIL image of any mode into a face: cropped, size x size, RGB or grey."""
    image = crop(_to_rgb(image)).resize((size, size), Image.Resampling.BILINEAR)
    return image.convert("L") if channels == 1 else image


def _to_rgb(image):
    """Turn an image of any mode to RGB."""
    if image.mode.startswith("I"):  # 16 bits of grey, of which convert() keeps too few
        image = _to_8_bits(image.convert("I"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(deep):
    """Turn 16 bits of grey to 8, and the one grey that is transparent to alpha."""
    image = deep.point(lambda grey: grey * (1 / 257) + 0.5).convert("L")
    hole = image.info.pop("transparency", None)
    if hole is not None:
        # convert() cuts off below 0 and above 255: together 0 at the hole alone
        above = deep.point(lambda grey: grey * 1 + -hole).convert("L")
        below = deep.point(lambda grey: grey * -1 + hole).convert("L")
        alpha = ImageChops.add(above, below).point(lambda step: 255 if step else 0)
        image.putalpha(alpha)
    return image


def grid(faces, columns, scale=1):
    """Lay faces (n, S, S, 1 or 3) uint8 out in rows of `columns`: an image on white.

    Each face is enlarged to S * scale; between two of them are GAP pixels of white.
    """
    side = int(faces.shape[1] * scale)
    columns = max(1, min(columns, len(faces)))
    rows = max(1, math.ceil(len(faces) / columns))
    step = side + GAP
    sheet = Image.new("RGB", (columns * step - GAP, rows * step - GAP), "white")
    for number, face in enumerate(faces):
        image = Image.fromarray(face if face.shape[2] > 1 else face[..., 0])
        if scale != 1:
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        row, column = divmod(number, columns)
        sheet.paste(image, (column * step, row * step))
    return sheet
