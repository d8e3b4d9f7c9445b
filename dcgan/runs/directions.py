"""What directions.py leaves in a run folder: directions.npz."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dcgan.common.console import UserError
from dcgan.common.files import DAMAGE, write_whole
from dcgan.common.options import typed

NAME = "directions.npz"

# Correlation that a direction must have, on noise held out, to be one
FAINTEST = 0.2

# From this cosine on two directions are told to be alike, and so many such pairs
ALIKE = 0.4
TOLD = 8

NOTES = (
    "real    share of the real faces that have it",
    "right   share of real faces held out of which the network says it rightly",
    "along   correlation of what it says with how far noise lies along the direction",
    "then    share of fakes that have it, as the network says, their noise moved so",
    "        many standard deviations along the direction",
)


class Directions(NamedTuple):
    """In which directions of noise, as a normal distribution has it, faces change.

    names: (k,) str, of the attributes
    vectors: (k, latent) float32, each of length 1
    correlation: (k,) of how far noise lies along a direction with what a network says
        of its face, on noise held out
    shares: (k, s) of the faces that have the attribute, as the network says, where
        noise is moved by each of the steps, (s,) standard deviations
    accuracy: (k,) of the network on real faces held out, 0 .. 1
    real: (k,) share of the real faces that have the attribute
    generator: the checksum of its weights; seed: int
    """

    names: np.ndarray
    vectors: np.ndarray
    correlation: np.ndarray
    shares: np.ndarray
    accuracy: np.ndarray
    real: np.ndarray
    steps: np.ndarray
    generator: str
    seed: int


class Direction(NamedTuple):
    """One of them: its name, (latent,) float32, and its generator's checksum."""

    name: str
    vector: np.ndarray
    generator: str


def without_faint(found):
    """Leave out, and name, Directions along which next to nothing changes."""
    kept = found.correlation >= FAINTEST
    if not kept.all():
        print(f"No direction was found for: {', '.join(found.names[~kept])}.")
    if not kept.any():
        raise UserError(
            "The generator draws too few different faces, or was trained too little."
        )
    of_each = ("names", "vectors", "correlation", "shares", "accuracy", "real")
    return found._replace(**{name: getattr(found, name)[kept] for name in of_each})


def table(found):
    """Return what was found, as lines of text."""
    steps = "".join(f"{step:>+6d}" if step else f"{step:>6d}" for step in found.steps)
    lines = [f"{'attribute':<22}{'real':>6}{'right':>7}{'along':>7}  {steps}"]
    for row, name in enumerate(found.names):
        shares = "".join(f"{share:>6.0%}" for share in found.shares[row])
        numbers = f"{found.real[row]:>6.0%}{found.accuracy[row]:>7.1%}"
        lines.append(f"{name:<22}{numbers}{found.correlation[row]:>7.2f}  {shares}")
    lines += ["", *NOTES]
    pairs = alike(found.vectors, found.names, ALIKE)[:TOLD]
    if pairs:
        lines.append("alike   by their cosine, negative where they are opposite:")
    lines += [f"       {cosine:>6.2f} {one}, {other}" for one, other, cosine in pairs]
    return "\n".join(["", *lines, ""])


def alike(vectors, names, least):
    """Return [(name, other, cosine)] of directions (k, latent) from |cosine| least on.

    The most alike first; the cosine of opposite ones is negative.
    """
    cosines = vectors @ vectors.T
    pairs = [
        (names[one], names[other], float(cosines[one, other]))
        for one in range(len(names))
        for other in range(one + 1, len(names))
        if abs(cosines[one, other]) >= least
    ]
    return sorted(pairs, key=lambda pair: -abs(pair[2]))


def save(run, directions):
    """Write Directions into a run folder, whole or not at all; return the Path."""
    path = Path(run, NAME)
    with write_whole(path) as part, open(part, "wb") as file:
        np.savez(file, **directions._asdict())
    return path


def read(run, latent):
    """Return the Directions of a run folder.

    Raises UserError if there are none, if they are damaged, or of other noise than
    `latent` numbers.
    """
    path, command = Path(run, NAME), f"python directions.py {typed(run=run)}"
    if not path.is_file():
        raise UserError(f"No {NAME} in {run} yet. Learn which there are: {command}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in Directions._fields]
        *arrays, generator, seed = arrays
        found = Directions(*arrays, str(generator), int(seed))
        lengths = np.linalg.norm(found.vectors, axis=-1)
        whole = found.vectors.shape == (len(found.names), latent)
        whole = whole and found.names.dtype.kind == "U"
        whole = whole and np.allclose(lengths, 1, atol=1e-3)
    except DAMAGE:
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged. Learn it again: {command}")
    return found


def clearest(run, generator, latent):
    """Return the name and the vector (latent,) of each direction of a generator.

    Those come first that are to be seen best. generator: its checksum; [] if the run
    folder has no directions, or another generator's. Raises UserError as read() does.
    """
    found = read(run, latent) if Path(run, NAME).is_file() else None
    if found is None or found.generator != generator:
        return []
    order = np.argsort(-found.correlation, kind="stable")
    return [(str(found.names[row]), found.vectors[row]) for row in order]


def find(run, name, latent):
    """Return the Direction of a name out of a run folder.

    Large and small letters are the same, and so are "_", "-" and blanks. Raises
    UserError as read() does, and, with all the names, if there is no such direction.
    """
    directions = read(run, latent)
    names = [str(each) for each in directions.names]
    row = {_plain(each): row for row, each in enumerate(names)}.get(_plain(name))
    if row is None:
        raise UserError(
            f"{typed(direction=name)}: there is no such direction in {run}, only "
            f"{', '.join(names)}"
        )
    return Direction(names[row], directions.vectors[row], directions.generator)


def _plain(name):
    return name.casefold().replace("-", "_").replace(" ", "_")
