"""Draw new faces with a trained generator: python generate.py

Takes the newest run in runs/, or the generator that came with the suite.
"""

import sys
from pathlib import Path

import models
from dcgan.common.console import UserError, quiet_stderr, run
from dcgan.common.files import write_whole
from dcgan.common.options import options, typed
from dcgan.networks import export
from dcgan.pictures import films
from dcgan.pictures.faces import grid
from dcgan.runs import curves
from dcgan.runs.generators import find, folder_of, in_words
from dcgan.training.chance import noise, walk

# Which generator
RUN = ""  # a run folder, or a generator or checkpoint in one; empty: see above
WHICH = "best"  # the epoch: "best" by its score, "last", or one that was kept, "20"

# Which faces
COUNT = 10  # [1..100000] faces to draw
SEED = 5  # [0..] the same seed draws the same faces

# How to show them
OUT = "faces.png"  # the picture or film to write; empty: none, for single faces alone
COLUMNS = 5  # [1..] faces a row
SCALE = 0  # [0..16] times each face is enlarged; 0: to about 128 pixels
SINGLES = ""  # write each face, at its own size, into this folder; empty: none

# A film, .gif, .webp or .mp4, in place of the picture
WALK = 0  # [0..1000] faces, of SEED's, that turn into each other, round and round
HISTORY = False  # {True, False} the sheets of the run, from its first epoch to its last
FPS = 20  # [1..60] frames a second of a walk; a history has 4
SECONDS = 0.0  # [0.0..600.0] of a walk; 0: one a face

# To take along, in place of any picture
EXPORT = ""  # write the generator itself: .keras, .onnx, .tflite, .html or a folder/

# No options from here on

# Pixels of a picture
LARGEST = 10**9


def main(argv=None):
    options(sys.modules[__name__], argv)
    if EXPORT:
        save_generator()
        return
    if not (OUT or SINGLES):
        raise UserError(
            "OUT and SINGLES are empty: there is nothing to write. A sheet: --out "
            "faces.png; single faces: --singles FOLDER"
        )
    if HISTORY or WALK:
        films.check(film_path())
    path = folder_of(RUN)
    if HISTORY:
        save_film(history_frames(path), 1 / 4)
        return
    if not WALK and Path(OUT).suffix.lower() not in ("", ".png"):
        raise UserError(
            f"{typed(out=OUT)}: pictures are written as PNG. Try --out faces.png"
        )
    generator, facts = load(path)
    size = facts["image_size"]
    scale = SCALE or max(1, round(128 / size))
    if WALK:
        save_film(walk_frames(generator, scale), 1 / FPS)
        return
    if OUT:
        check_pixels(COUNT * (size * scale) ** 2)
    faces = models.draw(generator, sheet_noise())
    if OUT:
        save_sheet(faces, scale)
    if SINGLES:
        save_singles(faces)
    places = " and, each by itself, in ".join(filter(None, (OUT, SINGLES)))
    print(f"{COUNT} faces of {size} x {size} are in {places}.")


def load(path):
    """Return the generator that is meant, and what is told of it; print it, too."""
    with quiet_stderr():  # the backend wakes up here, and tells all about it
        generator, facts = models.load_generator(*find(path, WHICH))
    print(in_words(path, facts))
    return generator, facts


def save_generator():
    """Write the generator itself as EXPORT."""
    export.check(EXPORT)
    path = folder_of(RUN)
    generator, facts = load(path)
    with quiet_stderr():
        written = export.save(generator, EXPORT, facts, find(path, WHICH)[0])
    print(written)


def check_pixels(count):
    """Raise UserError for a picture that no memory would hold."""
    if count > LARGEST:
        raise UserError(
            f"{COUNT} faces would be a picture of {count / 1e6:,.0f} million pixels; "
            f"{LARGEST / 1e6:,.0f} are the most. Fewer: --count; smaller: --scale"
        )


def walk_frames(generator, scale):
    """Yield the images of a closed walk through the first WALK of SEED's faces."""
    stops = noise(SEED, "generate", (WALK, models.LATENT))
    way = walk(stops, max(1, round(FPS * (SECONDS or WALK))))
    for first in range(0, len(way), 64):
        for face in models.draw(generator, way[first : first + 64]):
            yield grid(face[None], 1, scale)


def history_frames(run):
    """Return the sheets of a run, images. Raises UserError if there are none."""
    sheets = curves.sheets(run)
    if not sheets:
        raise UserError(
            f"{run} has no samples/epoch-001.png and so on to show. Take a run that "
            "train.py left: --run runs/NAME"
        )
    return films.history(sheets)


def film_path():
    """Return OUT's Path, with .gif in place of a picture's ending."""
    film = Path(OUT or "faces.gif")
    return film.with_suffix(".gif") if film.suffix.lower() in ("", ".png") else film


def save_film(frames, seconds):
    """Write frames, images of `seconds` each, as OUT."""
    film = film_path()
    films.save(film, frames, seconds)
    print(f"{film} is a film of {film.stat().st_size / 1e6:.1f} MB.")


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
