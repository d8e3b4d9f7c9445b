"""Draw cartoon faces: a free, endless stand-in for the CelebA photographs.

A face is a pure function of (seed, number): no download, no file, the same at each
size and on each machine (Pillow before 11.3 fills some edges a little differently).
`python cartoons.py` draws a sheet of them to look at.
"""

import colorsys
import functools
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dcgan.common.console import UserError, run
from dcgan.common.files import write_whole
from dcgan.common.options import options, typed
from dcgan.pictures.faces import LARGEST_SHEET

# The sheet that this script draws
COUNT = 40  # [1..] faces on the sheet
COLUMNS = 8  # [1..] faces in a row
SIZE = 128  # [8..1024] pixels, the side of a face
SEED = 0  # [0..] another seed is another crowd
OUT = "cartoons.png"  # the file to write

# No options from here on

# Faces are drawn this many times too large, then reduced: that smooths the edges
OVERSIZE = 4

# Colours, as red, green and blue. A skin lies between two neighbours
SKINS = "ffe2cd f9d0b2 ecb892 d69b70 b47850 8b5839 633e2c"
NATURAL_HAIR = "26232a 3a2822 1e1c24 b0acb0 5c3a26 80502e 964628 be5c2a d6a458 eccc88"
PLAYFUL_HAIR = "ec7aa0 46a8b0 8462be 4c74ce"
IRISES = "5e3a22 7e542c 547c46 4280b2 5c6e80"
LIPS = "c83e4e b2345a d66058"
FRAMES = "282630 783c28 be343e 345896 cea046"
WHITE, INK, BLOOD, GOLD = "ffffff", "2c2028", "8c2c32", "f6cc5c"
MOUTH_INSIDE, TONGUE, GLINT = "782230", "e26e74", "787082"

# Places are complex numbers, x + y j, in halves of the square: x grows to the right,
# y downwards, 0 is the middle, 1 + 1j the lower right corner
EYE, BROW, NOSE, MOUTH, CHEEK = 0.29 + 0.06j, 0.29 - 0.25j, 0.3j, 0.5j, 0.39 + 0.34j

# Outlines are smooth curves through points, x and y in hundredths of half the square;
# "|" repeats the points before it, mirrored. A tail is half of what is behind the head
TAILS = {
    "long": "0 -40, 54 -60, 80 -10, 82 50, 88 120, 0 120",
    "wavy": "0 -40, 54 -60, 78 -10, 90 16, 80 42, 94 68, 84 120, 0 120",
    "bob": "0 -40, 54 -60, 80 -10, 85 40, 74 66, 50 62, 0 40",
    "bun": "0 -104, 26 -82, 0 -60, -26 -82",
    "buns": "60 -92, 83 -69, 60 -46, 37 -69",
    "bunches": "58 -24, 84 -24, 104 10, 98 44, 82 66, 74 40, 70 10",
}
# A crown, from the left temple to the right one, is closed by a hairline
CROWNS = {
    "cap": "-66 5, -71 -28, -52 -68, 0 -84, 52 -68, 71 -28, 66 5",
    "buzz": "-64 0, -67 -30, -48 -64, 0 -77, 48 -64, 67 -30, 64 0",
    "quiff": "-66 5, -69 -28, -58 -66, -34 -86, 20 -97, 58 -82, 70 -28, 66 5",
    "spikes": "-66 5, -72 -30, -80 -62, -50 -66, -44 -94, -14 -80, 6 -102, 24 -80, "
    "54 -92, 54 -64, 80 -58, 72 -28, 66 5",
    "beanie": "-69 -20, -66 -58, -40 -88, 0 -97, 40 -88, 66 -58, 69 -20",
    "scarf": "0 130, -70 120, -72 60, -76 -20, -54 -70, 0 -88, 54 -70, 76 -20, "
    "72 60, 70 120, 0 130",
}
HAIRLINES = {
    "short": "57 -6, 54 -30, 36 -43, 0 -46 |",
    "side": "58 -2, 54 -28, 38 -46, 30 -52, 5 -33, -35 -22, -56 -16, -60 5",
    "fringe": "60 6, 54 -12, 38 -17, 27 -25, 16 -16, 0 -18 |",
    "curtain": "62 34, 57 0, 38 -32, 3 -60 |",
    "swept": "60 -2, 54 -30, 30 -50, 0 -54 |",
    "beanie": "62 -24, 30 -34, 0 -36 |",
    "scarf": "0 74, 30 68, 55 34, 58 -8, 40 -38, 0 -47 |",
}
# Each style's tail, crown and hairline
STYLES = {
    "bald": ("", "", ""),
    "buzz": ("", "buzz", "short"),
    "short": ("", "cap", "short"),
    "side": ("", "cap", "side"),
    "quiff": ("", "quiff", "swept"),
    "spikes": ("", "spikes", "short"),
    "mop": ("", "cap", "fringe"),
    "curls": ("curls", "curls", ""),
    "afro": ("afro", "curls", ""),
    "beanie": ("", "beanie", "beanie"),
    "long": ("long", "cap", "curtain"),
    "wavy": ("wavy", "cap", "side"),
    "bangs": ("long", "cap", "fringe"),
    "bob": ("bob", "cap", "fringe"),
    "page": ("bob", "cap", "side"),
    "bun": ("bun", "cap", "swept"),
    "buns": ("buns", "cap", "curtain"),
    "bunches": ("bunches", "cap", "fringe"),
    "scarf": ("", "scarf", "scarf"),
}
PLAIN_STYLES = "bald buzz short short side side quiff spikes mop curls afro beanie long"
SOFT_STYLES = "curls afro beanie long wavy wavy bangs bob page bun buns bunches scarf"
# Half width, half height, place and number of the bumps of curly hair
CLOUDS = {
    "curls": (0.56, 0.22, -0.56j, 12),
    "behind": (0.72, 0.56, -0.28j, 16),
    "afro": (0.88, 0.84, -0.14j, 22),
}
NOSES = {
    "button": "9 0, 0 6, -9 0, 0 -5",
    "smile": "9 -2, 5 5, 0 6, -5 5, -9 -2, -4 2, 4 2",
    "drop": "1 -14, 7 0, 6 5, 0 7, -6 5, -4 -2",
    "hook": "-1 -16, -8 0, -6 6, 6 6, 7 4, -3 3, -4 -1",
}
# Width as a share of the face's own, bend of the upper lip and opening of that width
MOUTHS = {
    "smile": (1.1, 0.42, 0.0),
    "calm": (0.8, 0.12, 0.0),
    "grin": (1.1, 0.15, 0.5),
    "laugh": (1.1, 0.12, 0.85),
    "oh": (0.45, -0.5, 1.0),
}
WHISKERS = {
    "moustache": "2 39, 16 38, 28 48, 14 47, 2 45 |",
    "chin": "22 50, 18 80, 0 88 |",
}
# How much of the jaw's skin is hidden, and the whiskers besides
BEARDS = {
    "full": (0.92, "moustache"),
    "stubble": (0.25, ""),
    "moustache": (0.0, "moustache"),
    "goatee": (0.0, "chin moustache"),
}

Traits = namedtuple(
    "Traits",
    "shift scale tilt turn backdrop clothes skin width chin jaw style hair roots "
    "mirror eye lid iris gaze lashes brow arch nose nose_width mouth mouth_width lean "
    "lips blush freckles beard glasses frame earrings",
)


def traits(seed, number):
    """Draw by lot what face `number` of `seed` looks like.

    Lengths and places are in halves of the square, angles in radians, colours are
    (r, g, b). All chance is used up here, so the face is the same at each size.
    """
    rng = np.random.default_rng((seed, number))
    chance, between = rng.random, rng.uniform

    def pick(choices):
        choices = choices.split() if isinstance(choices, str) else list(choices)
        return choices[int(chance() * len(choices))]

    soft, hue, skins = chance() < 0.5, chance(), SKINS.split()
    tone = chance() * (len(skins) - 1)
    skin = mix(skins[int(tone)], skins[int(tone) + 1], tone % 1)
    # The darker the skin, the fewer of the fairer colours of hair and eyes
    roots = colour(pick(NATURAL_HAIR.split()[: max(2, int(11 - 1.6 * tone))]))
    bearded = not soft and chance() < 0.45
    style = pick(SOFT_STYLES if soft else PLAIN_STYLES)
    hair = colour(pick(PLAYFUL_HAIR)) if chance() < 0.12 else roots
    cloth = tint(chance(), between(0.3, 0.6), between(0.5, 0.9))
    return Traits(
        shift=complex(between(-0.04, 0.04), between(-0.02, 0.05)),
        scale=between(0.98, 1.1),
        tilt=between(-0.13, 0.13),
        turn=complex(between(-0.13, 0.13), between(-0.05, 0.05)),
        backdrop=(tint(hue, 0.15, 0.98), tint(hue + between(-0.1, 0.1), 0.38, 0.9)),
        clothes=tint(chance(), between(0.3, 0.7), between(0.4, 0.9)),
        skin=skin,
        width=between(0.59, 0.68),
        chin=between(0.78, 0.88),
        jaw=between(0.72, 1.1),
        style=style,
        hair=cloth if style in ("beanie", "scarf") else hair,
        roots=roots,
        mirror=chance() < 0.5,
        eye=between(0.12, 0.165),
        lid=between(0.6, 1.0),
        iris=colour(pick(IRISES.split()[: max(2, int(8 - 1.5 * tone))])),
        gaze=complex(between(-0.3, 0.3), between(-0.1, 0.15)),
        lashes=soft,
        brow=between(0.018, 0.03) if soft else between(0.03, 0.05),
        arch=between(-0.01, 0.09),
        nose=pick(NOSES),
        nose_width=between(0.8, 1.25),
        mouth=pick("smile smile calm grin grin laugh oh"),
        mouth_width=between(0.18, 0.26),
        lean=between(-0.08, 0.08),
        lips=colour(pick(LIPS)) if soft and chance() < 0.6 else mix(skin, BLOOD, 0.4),
        blush=between(0.08, 0.3),
        freckles=chance() < 0.15,
        beard=pick(BEARDS) if bearded else "",
        glasses=pick("round square round square dark") if chance() < 0.25 else "",
        frame=colour(pick(FRAMES)),
        earrings=soft and chance() < 0.4,
    )


def colour(text):
    """Turn a colour's six hexadecimal digits into (r, g, b)."""
    return tuple(bytes.fromhex(text)) if isinstance(text, str) else text


def mix(one, other, share):
    """Blend two colours; share 0 is the first, 1 the other."""
    pairs = zip(colour(one), colour(other), strict=True)
    return tuple(round(a + (b - a) * share) for a, b in pairs)


def tint(hue, saturation, value):
    """Turn hue (a turn is 1), saturation and value into a colour."""
    parts = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return tuple(round(255 * part) for part in parts)


@functools.cache
def arc(start=0.0, stop=1.0, corners=57):
    """Return points of the unit circle, clockwise from and to the given turns."""
    return np.exp(2j * np.pi * np.linspace(start, stop, corners))


@functools.cache
def outline(*texts, steps=6):
    """Return the smooth closed curve (Catmull-Rom) through the points of outlines."""
    points = []
    for text in texts:
        pairs = [pair.split() for pair in text.strip("| ").split(",")]
        part = [complex(int(x), int(y)) / 100 for x, y in pairs]
        mirrored = [-point.conjugate() for point in part[::-1]]
        points += part + mirrored * text.endswith("|")
    t = np.arange(steps)[:, None] / steps
    a, b, c, d = (np.roll(points, -move) for move in (-1, 0, 1, 2))
    curve = b + t * (c - a) / 2 + t**2 * (a - 2.5 * b + 2 * c - d / 2)
    return (curve + t**3 * ((d - a) / 2 + 1.5 * (b - c))).T.ravel()


@functools.cache
def cloud(name):
    """Return the outline of curly hair: an ellipse with bumps."""
    width, height, place, bumps = CLOUDS[name]
    ring = arc(corners=6 * bumps + 1)
    swell = 1 + 0.07 * np.abs(np.sin(np.arange(len(ring)) * np.pi / 6))
    return place + swell * (width * ring.real + 1j * height * ring.imag)


class Pen:
    """Fills shapes on a picture, moved, tilted and turned the way the head is."""

    def __init__(self, image, face):
        half = image.width / 2
        self.polygon = ImageDraw.Draw(image).polygon
        self.turn = face.turn
        self.factor = half * face.scale * np.exp(1j * face.tilt)
        self.offset = half * (1 + 1j + face.shift)

    def fill(self, points, shade, depth=1.0):
        """Fill the polygon `points`; depth is how far it sticks out of the head.

        Turning the head moves most what is in its middle, its outline not at all.
        """
        if depth:
            middle = np.maximum(1 - 2 * np.abs(points) ** 2, 0)
            points = points + depth * self.turn * middle
        pixels = (points * self.factor + self.offset).view(float)
        self.polygon(np.floor(pixels).tolist(), colour(shade))

    def oval(self, place, width, height, shade, depth=1.0):
        """Fill an ellipse with these half axes."""
        self.fill(place + width * arc().real + 1j * height * arc().imag, shade, depth)

    def stroke(self, points, width, shade, depth=1.0):
        """Draw a line through `points`, `width` to each side, thinner at its ends."""
        along = np.gradient(points)
        side = 1j * width * along / np.abs(along)
        side *= np.sqrt(np.sin(np.linspace(0.12, np.pi - 0.12, len(points))))
        edges = np.concatenate((points + side, (points - side)[::-1]))
        self.fill(edges, shade, depth)


def cartoon(seed, number, size):
    """Draw face `number` of `seed` as an RGB picture, size x size pixels."""
    face = traits(seed, number)
    image = background(face, size * OVERSIZE)
    pen = Pen(image, face)
    parts = (tail, body, ears, head, cheeks, beard, nose, mouth, eyes, brows)
    for part in (*parts, hair, glasses, earrings):
        part(pen, face)
    return image.reduce(OVERSIZE)


def cartoon_faces(job):
    """Draw job = (seed, first, count, size) as faces (count, size, size, 3) uint8."""
    seed, first, count, size = job
    faces = np.empty((count, size, size, 3), np.uint8)
    for index in range(count):
        faces[index] = cartoon(seed, first + index, size)
    return faces


def background(face, side):
    """Return a picture with a soft gradient from one corner to the other."""
    top, bottom = face.backdrop
    between = mix(top, bottom, 0.5)
    corners = Image.frombytes("RGB", (2, 2), bytes((*top, *between, *between, *bottom)))
    inside = (0.5, 0.5, 1.5, 1.5)
    return corners.resize((side, side), Image.Resampling.BILINEAR, inside)


def tail(pen, face):
    """Draw the hair behind the head."""
    name = STYLES[face.style][0]
    if name in ("curls", "afro"):
        pen.fill(cloud("behind" if name == "curls" else name), face.hair, 0)
    elif name:
        for shape in both(fit(outline(TAILS[name]), face)):
            pen.fill(shape, mix(face.hair, INK, 0.25), 0)


def both(points):
    """Return a shape and its mirror image."""
    return points, -points.conj()


def fit(points, face):
    """Widen or narrow an outline, made for a head 0.64 wide, to this head."""
    return points.real * (face.width / 0.64) + 1j * points.imag


def body(pen, face):
    """Draw the shoulders, and the neck in the shadow of the chin."""
    pen.fill(outline("26 88, 60 98, 110 112, 120 150 |"), face.clothes, 0)
    collar = mix(face.clothes, WHITE, 0.35)
    pen.fill(outline("27 84, 27 94, 14 106, 0 110 |"), collar, 0)
    shadow = mix(face.skin, BLOOD, 0.3)
    pen.fill(outline("22 50, 22 86, 13 98, 0 102 |"), shadow, 0)


def ears(pen, face):
    """Draw the ears."""
    for place in both(np.array(face.width + 0.02 + 0.1j)):
        pen.oval(place, 0.11, 0.15, face.skin, 0.3)
        pen.oval(place * 1.02, 0.055, 0.085, mix(face.skin, BLOOD, 0.25), 0.3)


def skull(face):
    """Return the outline of the bare head."""
    x, y = arc().real, arc().imag
    x = np.sign(x) * np.abs(x) ** np.where(y > 0, face.jaw, 1)
    return face.width * x + 1j * (0.06 + np.where(y > 0, face.chin - 0.06, 0.72) * y)


def head(pen, face):
    """Draw the bare head, darker along its edge."""
    pen.fill(skull(face), mix(face.skin, BLOOD, 0.18), 0)
    pen.fill(skull(face) * 0.965 + 0.15 * face.turn.real - 0.015j, face.skin, 0)


def cheeks(pen, face):
    """Draw the blush and the freckles."""
    for place in both(np.array(CHEEK)):
        pen.oval(place, 0.13, 0.085, mix(face.skin, "eb465a", face.blush))
        for spot in (-0.09 - 0.04j, 0.01j, 0.08 - 0.05j) if face.freckles else ():
            pen.oval(place + spot, 0.018, 0.018, mix(face.skin, BLOOD, 0.4))


def beard(pen, face):
    """Draw the beard."""
    share, whiskers = BEARDS.get(face.beard, (0.0, ""))
    if share:
        x, y = skull(face).real, skull(face).imag
        edge = np.maximum(0.42 - 2 * (x - 0.4 * face.turn.real) ** 4, 0.12)
        jaw = x + 1j * np.maximum(y, edge)
        pen.fill(jaw, mix(face.skin, face.roots, share), 0)
    for name in whiskers.split():
        pen.fill(outline(WHISKERS[name]), mix(face.roots, INK, 0.2))


def nose(pen, face):
    """Draw the nose."""
    shape = NOSE + face.nose_width * outline(NOSES[face.nose])
    pen.fill(shape, mix(face.skin, BLOOD, 0.28), 1.4)


def mouth(pen, face):
    """Draw the mouth: a line on the lips, or open with teeth and tongue."""
    share, bend, opening = MOUTHS[face.mouth]
    wide = share * face.mouth_width * (1 + 1j * face.lean)
    x = np.linspace(-1, 1, 15)
    bow = 1 - x**2
    upper = x + 1j * bend * (np.sqrt(bow) if face.mouth == "oh" else bow)
    if not opening:
        lips = np.concatenate((upper - 0.1j * bow, (upper + 0.32j * bow)[::-1])) * 0.75
        pen.fill(MOUTH + wide * lips, face.lips)
        pen.stroke(MOUTH + wide * upper, 0.02, mix(face.lips, INK, 0.5))
        return
    lower = x + 1j * (bend + opening) * np.sqrt(bow)
    whole = np.concatenate((upper, lower[::-1]))
    pen.fill(MOUTH - 0.04j + wide * whole * 1.16, face.lips)
    pen.fill(MOUTH - 0.03j + wide * whole, MOUTH_INSIDE)
    if face.mouth == "laugh":
        pen.oval(MOUTH + abs(wide) * 0.55j, wide.real * 0.5, wide.real * 0.22, TONGUE)
    if face.mouth != "oh":
        teeth = np.concatenate((upper * 0.92, (upper * 0.86 + 0.24j)[::-1]))
        pen.fill(MOUTH - 0.03j + wide * teeth, WHITE)


def eyes(pen, face):
    """Draw both eyes."""
    lash = mix(face.skin, INK, 1 if face.lashes else 0.75)
    over = arc(0.5, 1.0, 15)
    lid = over.real + 1j * face.lid * over.imag
    cover = np.concatenate((over * 1.14, lid[::-1] * 1.1))
    wing = np.array([0.8 - 0.35j, 1.15 - 0.45j, 1.45 - 0.7j])
    for side, place in zip((1, -1), both(np.array(EYE)), strict=True):
        size, look = face.eye, place + face.gaze * face.eye
        pen.oval(place, size, size, WHITE)
        pen.oval(look, size * 0.62, size * 0.62, face.iris)
        pen.oval(look, size * 0.34, size * 0.34, INK)
        pen.oval(look - (0.2 + 0.22j) * size, size * 0.17, size * 0.17, WHITE)
        pen.fill(place + size * cover, mix(face.skin, BLOOD, 0.15))
        pen.stroke(place + size * lid * 1.06, 0.026, lash)
        if face.lashes:
            pen.stroke(place + size * (side * wing.real + 1j * wing.imag), 0.02, lash)


def brows(pen, face):
    """Draw both brows."""
    x = np.linspace(-0.15, 0.15, 9)
    line = x + 1j * (0.1 * x - face.arch * np.cos(10 * x))
    for shape in both(BROW + line):
        pen.stroke(shape, face.brow, mix(face.roots, INK, 0.35))


def hair(pen, face):
    """Draw the hair, or what is worn, in front of the head."""
    _, crown, hairline = STYLES[face.style]
    if crown == "curls":
        pen.fill(cloud("curls"), face.hair, 0.6)
    elif crown:
        shape = fit(outline(CROWNS[crown], HAIRLINES[hairline]), face)
        shine = 0.55 * arc(0.58, 0.76, 9) - 0.16j
        shape, shine = both(shape)[face.mirror], both(shine)[face.mirror]
        pen.fill(shape, mix(face.hair, face.skin, 0.4 * (crown == "buzz")), 0.6)
        pen.stroke(shine, 0.035, mix(face.hair, WHITE, 0.18), 0.6)
    if crown == "beanie":
        x = np.linspace(-0.66, 0.66, 15)
        rim = fit(x + 1j * (0.4 * x**2 - 0.36), face)
        pen.stroke(rim, 0.11, mix(face.hair, WHITE, 0.3), 0.6)


def glasses(pen, face):
    """Draw the glasses."""
    if not face.glasses:
        return
    power = 1.0 if face.glasses == "round" else 0.6
    x, y = (np.sign(part) * np.abs(part) ** power for part in (arc().real, arc().imag))
    lens = 0.23 * x + 0.2j * y
    rim = np.concatenate((lens, 0.84 * lens[::-1]))
    for place in both(np.array(EYE + 0.02j)):
        if face.glasses == "dark":
            pen.fill(place + lens, INK, 1.2)
            pen.stroke(place + 0.14 * arc(0.55, 0.7, 5), 0.016, GLINT, 1.2)
        pen.fill(place + rim, face.frame, 1.2)
    for arm in both(np.array([0.51, 0.57, face.width]) + 0.04j):
        pen.stroke(arm, 0.02, face.frame, 0.8)
    pen.stroke(np.array([-0.08, 0, 0.08]) + 0.05j, 0.025, face.frame, 1.2)


def earrings(pen, face):
    """Draw the earrings."""
    if face.earrings and face.style != "scarf":
        for place in both(np.array(face.width + 0.04 + 0.3j)):
            pen.oval(place, 0.05, 0.06, GOLD, 0.3)


def main():
    """Draw the sheet."""
    options(sys.modules[__name__])
    if not OUT:
        raise UserError("OUT is empty: where to? Try --out cartoons.png")
    if Path(OUT).suffix.lower() not in ("", ".png"):
        raise UserError(f"{typed(out=OUT)}: it is written as PNG. Try cartoons.png")
    if COUNT * SIZE**2 > LARGEST_SHEET:
        raise UserError(f"{typed(count=COUNT, size=SIZE)}: no picture is as large.")
    columns = min(COLUMNS, COUNT)
    sheet = Image.new("RGB", (columns * SIZE, -(-COUNT // columns) * SIZE), "white")
    for number in range(COUNT):
        place = (number % columns * SIZE, number // columns * SIZE)
        sheet.paste(cartoon(SEED, number, SIZE), place)
    with write_whole(OUT) as part:
        sheet.save(part, format="PNG")
    print(f"{COUNT} cartoon faces in {OUT}")


if __name__ == "__main__":
    run(main)
