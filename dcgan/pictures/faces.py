"""Turn a picture's bytes into a face, and faces into a sheet."""

# Worker processes import this file: without numpy they start twice as fast.
import contextlib
import io
import math

from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from dcgan.pictures.archives import Unreadable

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# Where Pillow keeps what tells that a picture was taken with the camera turned
TURNS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}

FILTER = "bilinear"

# Pixels of white between two faces of a grid
GAP = 2


def read_face(data, size, crop):
    """Turn a picture file's bytes into a face: an RGB image of size x size.

    crop: takes the RGB image and returns the square that is to be the face. Any kind of
    picture: turned upright as its camera noted, grey, palette, CMYK and 16 bits made
    RGB, transparency laid on white, cropped, resized. Raises Unreadable when it is no
    picture, and whatever Pillow raises when it is a broken one.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise Unreadable(f"it is no {', '.join(FORMATS)}") from None
    image.load()
    if TURNS & image.info.keys():
        # Viewers show a picture with a broken note as it is, and so do we
        with contextlib.suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
    image = crop(_to_rgb(image))
    return image.resize((size, size), Image.Resampling.BILINEAR)


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
    """Lay faces (n, S, S, 3) uint8 out in rows of `columns`: a PIL image on white.

    Each face is enlarged to S * scale; between two of them are GAP pixels of white.
    """
    side = int(faces.shape[1] * scale)
    columns = max(1, min(columns, len(faces)))
    rows = max(1, math.ceil(len(faces) / columns))
    step = side + GAP
    sheet = Image.new("RGB", (columns * step - GAP, rows * step - GAP), "white")
    for number, face in enumerate(faces):
        image = Image.fromarray(face)
        if scale != 1:
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        row, column = divmod(number, columns)
        sheet.paste(image, (column * step, row * step))
    return sheet
