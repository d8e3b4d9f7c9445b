"""Learn in which directions of the noise faces change: python directions.py

Takes the newest run in runs/. A small network learns on real faces which attributes,
"glasses" say, a face has; then it judges faces that the generator draws, and the
direction in which what it says grows most is the attribute's. They are written as
directions.npz beside the weights, for generate.py --direction glasses.
"""

import re
import sys
from pathlib import Path

import numpy as np

import cartoons
import helper
import models
import preprocess
from dcgan.common.console import Bar, UserError, quiet_stderr, run
from dcgan.common.options import options, typed
from dcgan.pictures import attributes
from dcgan.runs.directions import Directions, save, table, without_faint
from dcgan.runs.folder import check_writable
from dcgan.runs.generators import find, folder_of, in_words, named
from dcgan.training import latent
from dcgan.training.chance import noise, stream
from dcgan.training.hardware import describe_device, keep_compiled
from dcgan.training.judging import learn

# Whose directions, and what the attributes are learned on
RUN = ""  # a run folder, or a generator or checkpoint in one; empty: as generate.py
WHICH = "best"  # the epoch: "best" by its score, "last", or one that was kept, "20"
DATA = ""  # real faces, as train.py's DATA; empty: those that it was trained on
DATA_FOLDER = "data"  # where downloads lie, and the arrays made of pictures
ATTRIBUTES = ""  # a table of what pictures show, see docs/latent.md; empty: CelebA's

# How the attributes are learned
REAL = 20000  # [0..] real faces, drawn at random, a tenth of them held out; 0: all
EPOCHS = 10  # [1..1000] passes over them
BATCH_SIZE = 64  # [1..65536] faces a step

# How the directions are
SAMPLES = 10000  # [1000..1000000] faces that the generator draws
SEED = 1  # [0..4294967295] the same seed learns the same, on the same machine

# No options from here on

# Real faces that it takes to learn anything
FEWEST = 20

# Share of the faces that must have an attribute, and as many must not
RAREST = 0.01

# Logits from which on the network counts as sure (more than 99 %), and no surer: else
# what is long certain, how closed a closed mouth is, would turn the directions
SURE = 5

# Of noise held out: how far it is moved, in standard deviations, and how many
STEPS = (-3, 0, 3)
MOVED = 200

# How CelebA's pictures are called
OF_CELEBA = re.compile(r".*/\d{6}\.(jpg|png)")

# What a cartoon face shows, by its traits
CARTOON = {
    "glasses": lambda face: face.glasses != "",
    "sunglasses": lambda face: face.glasses == "dark",
    "beard": lambda face: face.beard != "",
    "smiling": lambda face: face.mouth in ("smile", "grin", "laugh"),
    "mouth open": lambda face: face.mouth in ("grin", "laugh", "oh"),
    "hat": lambda face: face.style in ("beanie", "scarf"),
    "long hair": lambda face: face.style in ("long", "wavy", "bangs", "bob", "page"),
    "curls": lambda face: face.style in ("curls", "afro"),
    "dark hair": lambda face: face.style != "bald" and max(face.hair) < 80,
    "dark skin": lambda face: sum(face.skin) < 450,
    "warm background": lambda face: face.backdrop[1][0] > face.backdrop[1][2],
}


def main(argv=None):
    options(sys.modules[__name__], argv)
    if ATTRIBUTES and not Path(ATTRIBUTES).is_file():
        raise UserError(f"{typed(attributes=ATTRIBUTES)}: there is no such file.")
    path = folder_of(RUN)
    folder, which = find(path, WHICH)
    check_writable(folder)
    with quiet_stderr():  # the backend wakes up here, and tells all about it
        keep_compiled()
        generator, facts = models.load_generator(folder, which)
    print(f"{in_words(path, facts)}\nDevice    {describe_device()}")
    faces, names, has = open_real(path, facts)
    names, has = without_rare(names, has)
    network, accuracy = learn(faces, has, EPOCHS, BATCH_SIZE, SEED)
    moved = find_directions(network, generator)
    of_real = {"accuracy": accuracy, "real": has.mean(0)}
    origin = {"steps": np.array(STEPS), "generator": facts["sha256"], "seed": SEED}
    found = Directions(np.array(names), **moved, **of_real, **origin)
    found = without_faint(found)
    print(table(found))
    print(f"They are in {save(folder, found)}. To see one: {command(path, found)}")


def open_real(path, facts):
    """Return real faces (N, S, S, C) uint8, attributes' names (k,), and (N, k) bool.

    They are DATA's, or those that the generator was trained on; REAL at most.
    """
    prepared, data = preprocess.prepare_again(
        path, facts, DATA, DATA_FOLDER, "directions.py"
    )
    if data == "cartoons" and not ATTRIBUTES:
        names, places, has = of_cartoons(prepared.count)
    else:
        names, places, has = of_pictures(prepared, data)
    order = stream(SEED, "attribute_real").permutation(len(places))
    order = np.sort(order[: REAL or None])
    return preprocess.open_faces(prepared)[places[order]], names, has[order]


def of_cartoons(count):
    """Return the names, the places and the attributes of the first cartoons."""
    seed = preprocess.CARTOON_SEED
    drawn = [cartoons.traits(seed, number) for number in range(count)]
    has = [[shows(face) for shows in CARTOON.values()] for face in drawn]
    return list(CARTOON), np.arange(count), np.array(has)


def of_pictures(prepared, data):
    """Return the names, the places and the attributes of pictures that a table has.

    Raises UserError if no table tells of them.
    """
    source, pictures = preprocess.pictures_of(prepared, data)
    # Six digits are a film's frames, too: somewhere it must say celeba
    first = f"{source.name}/{pictures[0]}"
    is_celeba = OF_CELEBA.fullmatch(first) and "celeba" in first.lower()
    folders = [DATA_FOLDER] if is_celeba else []
    path = Path(ATTRIBUTES) if ATTRIBUTES else attributes.find(source, *folders)
    if path is None:
        if not is_celeba:
            raise UserError(
                f"Nothing is known of what the pictures of {data} show. Write a table, "
                "of a first line picture,glasses,beard and lines as face-1.png,1,0: "
                "--attributes TABLE.csv"
            )
        path = helper.download_attributes(DATA_FOLDER)
    listed = attributes.read(path)
    places, has = attributes.of_pictures(listed, pictures)
    if not len(places):
        raise UserError(
            f"{path} has none of the pictures of {data}, not {pictures[0]!r} for one."
        )
    print(f"{path} tells of {len(places):,} of {len(pictures):,} pictures.")
    return listed.names, places, has


def without_rare(names, has):
    """Leave out, and name, attributes that too few or nearly all of the faces have."""
    share = has.mean(0)
    kept = (share >= RAREST) & (share <= 1 - RAREST)
    rare = [name for name, keep in zip(names, kept, strict=True) if not keep]
    if rare:
        told = f"{RAREST:.0%} of the faces have, or have not: {', '.join(rare)}"
        print(f"Left out, for fewer than {told}.")
    if len(has) < FEWEST or not kept.any():
        raise UserError(
            f"{len(has):,} faces that differ in {kept.sum()} attributes are too few to "
            f"learn from: take {FEWEST} faces at least (--real), or others."
        )
    return [name for name, keep in zip(names, kept, strict=True) if keep], has[:, kept]


def find_directions(network, generator):
    """Return the vectors, correlation and shares of Directions, as a dict."""
    of_all = noise(SEED, "directions", (SAMPLES, models.LATENT))
    logits = judge(network, generator, of_all, "Judging fakes")
    count = SAMPLES // 10
    held_out, said = of_all[:count], logits[:count]
    vectors = latent.directions(of_all[count:], logits[count:])
    return {
        "vectors": vectors,
        "correlation": latent.correlations(held_out, vectors, said),
        "shares": shares_along(network, generator, held_out[:MOVED], vectors),
    }


def judge(network, generator, of_all, title=None):
    """Return the logits (n, k), to SURE, of the faces of noise (n, LATENT)."""
    parts = []
    with Bar(total=len(of_all), unit=" faces", desc=title, disable=not title) as bar:
        for first in range(0, len(of_all), 256):
            faces = models.draw(generator, of_all[first : first + 256])
            parts.append(network.predict_on_batch(faces).clip(-SURE, SURE))
            bar.update(len(faces))
    return np.concatenate(parts)


def shares_along(network, generator, of_all, vectors):
    """Return (k, steps), how many of the faces have what, noise moved by STEPS."""
    shares = []
    with Bar(total=len(vectors), unit=" directions", desc="Following them") as bar:
        for row, vector in enumerate(vectors):
            moved = latent.along(of_all, vector, STEPS)
            logits = judge(network, generator, moved.reshape(-1, models.LATENT))
            shares.append((logits[:, row] > 0).reshape(len(of_all), -1).mean(0))
            bar.update(1)
    return np.array(shares)


def command(path, found):
    """Return the command that shows the clearest direction."""
    clearest = found.names[found.correlation.argmax()]
    return f"python generate.py {named(path, WHICH)} {typed(direction=clearest)}"


if __name__ == "__main__":
    run(main)
