"""Score the generator while it trains, and keep the best.

Always the same noise is drawn from, and compared with the same real faces, so that the
scores of a run differ by its generators alone.
"""

from typing import NamedTuple

import numpy as np

import models
from dcgan.common.console import UserError
from dcgan.runs import generators
from dcgan.scores import inception, metrics
from dcgan.training.devices import has_gpu

# Samples of a small set of pictures: a tenth as many, that an epoch's score takes a
# small part of its time, and at least these
FEWEST = 200


class Scoring(NamedTuple):
    """What every score of a run is made with.

    kind: "mmd" or "kid"
    noise: (n, LATENT) float32
    real: faces (n, S, S, 3) uint8; for KID their features (n, 2048); None in a process
        that does not score
    network: inception.Network for KID, else None
    """

    kind: str
    noise: np.ndarray
    real: np.ndarray | None
    network: inception.Network | None = None


def choose(wanted, before=None, is_first=True):
    """Return "kid", "mmd" or "none".

    "auto" is what a run to be continued had, if constants.json, `before`, says so. In a
    new one it is KID on a GPU, for which the first process fetches Inception's weights;
    MMD where they are not to be had or there is no GPU: 40 ms a face they take there.
    """
    if wanted != "auto":
        return wanted
    if before and "score" in before["begun_with"]:
        return before["begun_with"]["score"]
    return "kid" if is_first and has_gpu() and _is_to_be_had() else "mmd"


def _is_to_be_had():
    """Fetch Inception's weights if need be; tell whether they are there, or why not."""
    try:
        inception.find()
    except UserError as error:
        print(f"Scoring by MMD, for Inception is not to be had. {error}", flush=True)
        return False
    return True


def count_of(samples, pictures):
    """Return how many samples are compared with as many of the pictures."""
    return min(samples, pictures, max(FEWEST, pictures // 10))


def begin(kind, faces, samples, seeds, is_first=True):
    """Return the Scoring of a run on real faces (N, S, S, 3) uint8; None for "none".

    `seeds` are of the noise and of the choice of real faces. Inception's weights are
    fetched if need be; UserError if they are not to be had.
    """
    if kind == "none":
        return None
    count = count_of(samples, len(faces))
    noise = np.random.default_rng(seeds[0]).uniform(-1, 1, (count, models.LATENT))
    noise = noise.astype("float32")
    if not is_first:
        return Scoring(kind, noise, None)
    places = np.random.default_rng(seeds[1]).choice(len(faces), count, replace=False)
    real = faces[np.sort(places)]
    if kind == "mmd":
        return Scoring(kind, noise, real)
    network = inception.load(inception.find())
    return Scoring(kind, noise, network.features(real), network)


def score(scoring, generator):
    """Return the generator's score, less is better; None in a process without faces.

    All processes have to call it, for all draw.
    """
    fake = models.draw(generator, scoring.noise)
    if scoring.real is None:
        return None
    if scoring.kind == "mmd":
        return metrics.mmd(scoring.real, fake)
    return metrics.kid(scoring.real, scoring.network.features(fake))[0]


def describe(kind, samples, pictures):
    """Say how the generators of a run are scored."""
    if kind == "none":
        return "none: the last generator is kept"
    count = count_of(samples, pictures)
    how = {"mmd": "MMD, by pixels", "kid": f"KID, {inception.NAME}"}[kind]
    return f"{how}, {count:,} samples against {count:,} real faces"


def misleads(kind, image_size):
    """Tell whether the best by such a score may be far from the best faces: of larger
    ones by pixels, as benchmarks/QUALITY.md tells.
    """
    return kind == "mmd" and image_size > 32


def keep(folder, generator, about, progress, found):
    """Save the generator of the epoch as the last one and, if it is that, as the best.

    `found` is its score, or None: then it is the best only while none is scored. Sets
    progress["best"]. A best that is not in the folder (a kill, or a user, took it) is
    the best no more.
    """
    generators.save_generator(folder, generator, about, "last")
    best = progress["best"]
    if found is None and best is not None:
        return
    if (
        best is None
        or found < best["score"]
        or not generators.holds(folder, best["epoch"])
    ):
        generators.save_generator(folder, generator, about)
        if found is not None:
            progress["best"] = {"epoch": about["epochs"], "score": found}
