"""Draw new faces with a trained generator: python generate.py

Takes the newest run in runs/, or the generator that came with the suite.
"""

import sys
from pathlib import Path

import models
from dcgan.common.console import UserError, quiet_stderr, run
from dcgan.common.files import write_whole
from dcgan.common.options import options, typed
from dcgan.pictures.faces import grid
from dcgan.runs.generators import find, folder_of, in_words
from dcgan.training.chance import noise

# Which generator
RUN = ""  # a run folder, or a generator or checkpoint in one; empty: see above
WHICH = "best"  # the epoch: "best" by its score, "last", or one that was kept, "20"

# Which faces
COUNT = 10  # [1..100000] faces to draw
SEED = 5  # [0..] the same seed draws the same faces

# How to show them
OUT = "faces.png"  # the picture to write; empty: none, for single faces alone
COLUMNS = 5  # [1..] faces a row
SCALE = 0  # [0..16] times each face is enlarged; 0: to about 128 pixels
SINGLES = ""  # write each face, at its own size, into this folder; empty: none

# No options from here on

# Pixels of a picture
LARGEST = 10**9


def main(argv=None):
    options(sys.modules[__name__], argv)
    if not (OUT or SINGLES):
        raise UserError(
            "OUT and SINGLES are empty: there is nothing to write. A sheet: --out "
            "faces.png; single faces: --singles FOLDER"
        )
    if Path(OUT).suffix.lower() not in ("", ".png"):
        raise UserError(
            f"{typed(out=OUT)}: pictures are written as PNG. Try --out faces.png"
        )
    path = folder_of(RUN)
    with quiet_stderr():  # the backend wakes up here, and tells all about it
        generator, facts = models.load_generator(*find(path, WHICH))
    print(in_words(path, facts))
    size = facts["image_size"]
    scale = SCALE or max(1, round(128 / size))
    if OUT:
        check_pixels(COUNT * (size * scale) ** 2)
    faces = models.draw(generator, sheet_noise())
    if OUT:
        save_sheet(faces, scale)
    if SINGLES:
        save_singles(faces)
    places = " and, each by itself, in ".join(filter(None, (OUT, SINGLES)))
    print(f"{COUNT} faces of {size} x {size} are in {places}.")


def check_pixels(count):
    """Raise UserError for a picture that no memory would hold."""
    if count > LARGEST:
        raise UserError(
            f"{COUNT} faces would be a picture of {count / 1e6:,.0f} million pixels; "
            f"{LARGEST / 1e6:,.0f} are the most. Fewer: --count; smaller: --scale"
        )


def sheet_noise():
    """Draw the noise (COUNT, LATENT) float32 of SEED's faces."""
    return noise(SEED, "generate", (COUNT, models.LATENT))


def save_sheet(faces, scale):
    """Write the faces (n, S, S, 3) uint8, each enlarged `scale` times, as OUT."""
    picture = grid(faces, COLUMNS, scale)
    with write_whole(OUT) as part:
        picture.save(part, format="PNG")


def save_singles(faces):
    """Write each face (n, S, S, 3) uint8 as a PNG of its own into SINGLES."""
    digits = len(str(len(faces)))
    for number, face in enumerate(faces, 1):
        with write_whole(Path(SINGLES) / f"face-{number:0{digits}d}.png") as part:
            grid(face[None], 1).save(part, format="PNG")


if __name__ == "__main__":
    run(main)
