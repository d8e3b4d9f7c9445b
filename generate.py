"""Draw new faces with a trained generator: python generate.py

Takes the newest run in runs/, or the generator that came with the suite.
"""

import itertools
import sys
from pathlib import Path

import numpy as np

import models
from dcgan.common.console import UserError, quiet_stderr, run
from dcgan.common.files import write_whole
from dcgan.common.options import options, typed
from dcgan.networks import export
from dcgan.pictures import films, labels
from dcgan.pictures.faces import LARGEST_SHEET, grid
from dcgan.runs import curves, directions
from dcgan.runs.generators import find, folder_of, in_words, named
from dcgan.training import latent
from dcgan.training.chance import noise
from dcgan.training.hardware import keep_compiled

# Which generator
RUN = ""  # a run folder, or a generator or checkpoint in one; empty: see above
WHICH = "best"  # the epoch: "best" by its score, "last", or one that was kept, "20"

# Which faces
COUNT = 10  # [1..100000] faces to draw
SEED = 8  # [0..] the same seed draws the same faces
FACES = ""  # these of SEED's, by their numbers from 1 on, "3,17,40"; empty: COUNT
PICK = 0  # [0..100] draw so many for each face, and take the most real; 0: all as drawn

# How to show them
OUT = "faces.png"  # the picture or film to write; empty: none, for single faces alone
COLUMNS = 5  # [1..] faces a row
SCALE = 0  # [0..16] times each face is enlarged; 0: to about 128 pixels
SHOW_SEEDS = False  # {True, False} print under each face its number, for FACES
SINGLES = ""  # write each face, at its own size, into this folder; empty: none

# Arithmetic with faces of SEED, in place of these: docs/latent.md shows each
BETWEEN = ""  # "3,17": a row of faces from face 3 to face 17
MEAN = ""  # "3,17,40": the mean of these faces,
MINUS = ""  # "5,8,9": less the mean of these,
PLUS = ""  # "12,20": and that of these added
DIRECTION = ""  # "smiling": each face with less and more of it; see directions.py
STEPS = 9  # [3..99] faces in a row of BETWEEN or DIRECTION
REACH = 3.0  # (0.0..10.0] how far DIRECTION goes, in standard deviations of noise

# A film, .gif, .webp or .mp4, in place of the picture
WALK = 0  # [0..1000] faces, of SEED's, that turn into each other, round and round
HISTORY = False  # {True, False} the sheets of the run, from its first epoch to its last
FPS = 20  # [1..60] frames a second of a walk; a history has 4
SECONDS = 0.0  # [0.0..600.0] of a walk; 0: one a face

# To take along, in place of any picture
EXPORT = ""  # write the generator itself: .keras, .onnx, .tflite, .html or a folder/

# No options from here on

# Faces that are drawn together
TOGETHER = 1000

# What is drawn in place of a sheet, and the options that do not go with it
APART = {
    "PICK": "FACES EXPORT HISTORY BETWEEN MEAN MINUS PLUS",
    "EXPORT": "HISTORY WALK FACES SHOW_SEEDS SINGLES BETWEEN MEAN MINUS PLUS DIRECTION",
    "HISTORY": "WALK SINGLES FACES SHOW_SEEDS BETWEEN MEAN MINUS PLUS DIRECTION",
    "WALK": "SINGLES SHOW_SEEDS BETWEEN MEAN MINUS PLUS DIRECTION",
    "BETWEEN": "FACES SINGLES MEAN MINUS PLUS DIRECTION",
    "MEAN": "FACES SINGLES DIRECTION",
    "DIRECTION": "SINGLES MINUS PLUS",
}


def main(argv=None):
    options(sys.modules[__name__], argv)
    check_options()
    path = folder_of(RUN)
    if HISTORY:
        save_film(history_frames(path), 1 / 4)
        return
    folder, which = find(path, WHICH)
    way = directions.find(folder, DIRECTION, models.LATENT) if DIRECTION else None
    with quiet_stderr():  # the backend wakes up here, and tells all about it
        keep_compiled()
        generator, facts = models.load_generator(folder, which)
    print(in_words(path, facts))
    if EXPORT:
        ways = directions.clearest(folder, facts["sha256"], models.LATENT)
        with quiet_stderr():
            written = export.save(generator, EXPORT, facts, ways)
        print(written)
        return
    scale = SCALE or max(1, round(128 / facts["image_size"]))
    numbers = chosen()
    if PICK:
        learned = models.load_discriminator(folder, which, facts["epochs"])
        numbers = picked(generator, learned)
    if WALK:
        save_walk(generator, numbers, scale)
    elif BETWEEN:
        save_rows_between(generator, scale)
    elif MEAN:
        save_sum(generator, scale)
    elif DIRECTION:
        save_rows_along(way, generator, numbers, scale)
        if way.generator != facts["sha256"]:
            print(
                "The directions are those of another generator, of this run maybe. "
                f"Learn this one's: python directions.py {named(path, WHICH)}"
            )
    else:
        save_faces(generator, numbers, scale)


def check_options():
    """Raise UserError for options that ask for nothing, or for two things at once."""
    if EXPORT:
        export.check(EXPORT)
    elif HISTORY or WALK:
        films.check(film_path())
    elif not (OUT or SINGLES):
        raise UserError(
            "OUT and SINGLES are empty: there is nothing to write. A sheet: --out "
            "faces.png; single faces: --singles FOLDER"
        )
    elif Path(OUT).suffix.lower() not in ("", ".png"):
        raise UserError(
            f"{typed(out=OUT)}: pictures are written as PNG. Try --out faces.png"
        )
    apart = [(one, other) for one, others in APART.items() for other in others.split()]
    for one, other in apart:
        if globals()[one] and globals()[other]:
            raise UserError(
                f"{one} and {other} do not go together: set one of them alone."
            )
    if PICK * (WALK or COUNT) > latent.FACES:
        raise UserError(
            f"{typed(count=WALK or COUNT, pick=PICK)} is more than the "
            f"{latent.FACES:,} faces that a seed has. Take fewer."
        )
    check_faces()


def check_faces():
    """Raise UserError for faces that do not go together."""
    if (MINUS or PLUS) and not MEAN:
        raise UserError(
            "MINUS and PLUS change the mean of some faces. Say of which: --mean 3,17,40"
        )
    if DIRECTION and STEPS % 2 == 0:
        raise UserError(
            f"{typed(steps=STEPS)}: the face itself is in the middle of a DIRECTION, "
            f"so their number is odd. Try {typed(steps=STEPS - 1)}"
        )
    if FACES and WALK not in (0, len(chosen())):
        raise UserError(
            f"{typed(faces=FACES, walk=WALK)}: a walk through these is "
            f"{typed(walk=len(chosen()))}"
        )


def check_pixels(count, scale, generator):
    """Raise UserError for a picture of `count` faces that no memory would hold."""
    pixels = count * (generator.output_shape[1] * scale) ** 2
    if pixels > LARGEST_SHEET:
        raise UserError(
            f"{count} faces would be a picture of {pixels / 1e6:,.0f} million pixels; "
            f"{LARGEST_SHEET / 1e6:,.0f} are the most. Take fewer, or smaller ones: "
            "--scale 1"
        )


def chosen():
    """Return the numbers of the faces to draw: FACES, or the first COUNT or WALK."""
    return latent.numbers_in(FACES, "faces") or [*range(1, (WALK or COUNT) + 1)]


def noise_of(numbers):
    """Return the noise (n, LATENT) float32 of faces of SEED, by their numbers."""
    of_all = noise(SEED, "generate", (max(numbers), models.LATENT))
    return of_all[np.array(numbers) - 1]


def drawn(generator, numbers):
    """Yield the faces (n, S, S, C) uint8 of numbers, part by part: numbers, faces."""
    of_all = noise_of(numbers)
    for first in range(0, len(numbers), TOGETHER):
        part = slice(first, first + TOGETHER)
        yield numbers[part], models.draw(generator, of_all[part])


def picked(generator, discriminator):
    """Return the numbers of COUNT or WALK faces, of PICK each the one most real to the
    discriminator (after Azadi et al. 2019, "Discriminator rejection sampling").
    """
    numbers = np.arange(1, len(chosen()) * PICK + 1)
    scores = [
        models.judge(discriminator, faces) for _, faces in drawn(generator, numbers)
    ]
    best = np.concatenate(scores).reshape(-1, PICK).argmax(1)
    return numbers.reshape(-1, PICK)[np.arange(len(best)), best].tolist()


def save_faces(generator, numbers, scale):
    """Draw the faces of these numbers, and write them as OUT and into SINGLES."""
    size = generator.output_shape[1]
    if OUT:
        check_pixels(len(numbers), scale, generator)
    shown = []
    for part, faces in drawn(generator, numbers):
        if SINGLES:
            save_singles(faces, part, len(str(max(numbers))))
        if OUT:
            shown.append(faces)
    if OUT:
        words = [str(number) if SHOW_SEEDS else "" for number in numbers]
        save_picture(labels.sheet(np.concatenate(shown), words, COLUMNS, scale))
    places = " and, each by itself, in ".join(filter(None, (OUT, SINGLES)))
    best = f", each the most real of {PICK}" if PICK else ""
    print(f"{len(numbers)} faces of {size} x {size} are in {places}{best}.")


def save_rows_between(generator, scale):
    """Write a row of faces for every two neighbours of BETWEEN."""
    numbers = latent.numbers_in(BETWEEN, "between")
    if len(numbers) < 2:
        raise UserError(f"{typed(between=BETWEEN)}: two faces at least, as in 3,17")
    check_pixels((len(numbers) - 1) * STEPS, scale, generator)
    pairs = list(itertools.pairwise(noise_of(numbers)))
    rows = np.concatenate([latent.row(*pair, STEPS) for pair in pairs])
    blank = [""] * (STEPS - 2)
    ends = itertools.pairwise(map(str, numbers))
    words = [word for one, other in ends for word in (one, *blank, other)]
    save_picture(rows_of(generator, rows, words, scale))
    print(f"{OUT} shows the way from face to face: {BETWEEN}.")


def save_rows_along(way, generator, numbers, scale):
    """Write a row for each face, in its middle, moved along a Direction."""
    check_pixels(len(numbers) * STEPS, scale, generator)
    moved = latent.along(
        noise_of(numbers), way.vector, np.linspace(-REACH, REACH, STEPS)
    )
    blank = [""] * (STEPS // 2)
    words = [word for number in numbers for word in (*blank, str(number), *blank)]
    picture = rows_of(generator, moved.reshape(-1, models.LATENT), words, scale)
    name = way.name.replace("_", " ")
    save_picture(labels.headed(picture, f"less {name}", f"more {name}"))
    print(f"{OUT} shows {len(numbers)} faces with less and more {name}.")


def rows_of(generator, rows, words, scale):
    """Draw noise (n, LATENT) as rows of STEPS faces with n words: an image."""
    return labels.sheet(models.draw(generator, rows), words, STEPS, scale)


def save_sum(generator, scale):
    """Write MEAN - MINUS + PLUS: all that it is made of, and faces around the sum."""
    given = [("", MEAN, "mean"), ("-", MINUS, "minus"), ("+", PLUS, "plus")]
    groups = [
        (sign, latent.numbers_in(text, name)) for sign, text, name in given if text
    ]
    check_pixels(sum(len(numbers) for _, numbers in groups) + 12, scale, generator)
    terms = []
    for sign, numbers in groups:
        faces = models.draw(generator, noise_of(numbers))
        mean = models.draw(generator, sum_noise([("", numbers)])[None])[0]
        terms.append(labels.Term(sign, faces, [str(each) for each in numbers], mean))
    whole = sum_noise(groups)
    # The sum is in the middle of a square
    square = np.insert(latent.around(whole, 8, SEED), 4, whole, axis=0)
    save_picture(labels.sum_sheet(terms, models.draw(generator, square), scale))
    print(f"{OUT} shows the sum, around it eight faces near it, and all its terms.")


def sum_noise(groups):
    """Return the noise (LATENT,) of a sum of means, each group (sign, numbers)."""
    weights = latent.weights_of(groups)
    return latent.sum_of(noise_of([*weights]), [*weights.values()])


def save_walk(generator, numbers, scale):
    """Write a film of a closed walk through the faces of these numbers."""
    lasting = films.lasting(film_path(), 1 / FPS)
    count = max(1, round((SECONDS or WALK) / lasting))
    in_memory = 1 if film_path().suffix.lower() == ".mp4" else count
    check_pixels(in_memory, scale, generator)
    way = latent.walk(noise_of(numbers), count)
    save_film(walk_frames(generator, way, scale), lasting)


def walk_frames(generator, way, scale):
    """Yield the images of noise (n, LATENT)."""
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


def save_picture(picture):
    """Write an image as OUT."""
    with write_whole(OUT) as part:
        picture.save(part, format="PNG")


def save_singles(faces, numbers, digits):
    """Write each face (n, S, S, 3) uint8 as a PNG, with its number, into SINGLES."""
    for number, face in zip(numbers, faces, strict=True):
        with write_whole(Path(SINGLES) / f"face-{number:0{digits}d}.png") as part:
            grid(face[None], 1).save(part, format="PNG")


if __name__ == "__main__":
    run(main)
