"""Score the generator while it trains.

Always the same noise is drawn from, and compared with the same real faces, so that the
scores of a run differ by its generators alone.
"""

import functools
import time

import numpy as np

from dcgan.common.console import UserError
from dcgan.runs.run import Pace
from dcgan.scores import inception, metrics
from dcgan.training.chance import pick, stream
from dcgan.training.hardware import has_gpu

# Samples of a small set of pictures: a tenth as many, that an epoch's score takes a
# small part of its time, and at least these
FEWEST = 200

# Real faces whose diversity the samples' is compared with
COMPARED = 200


class GivenUpError(Exception):
    """Nobody waits for the score any more."""


class Scorer:
    """Scores fakes against the same real faces, drawn at random from all of them.

    kind: "mmd", "kid" or "none"; faces: real ones (N, S, S, 3) uint8; samples: as in
    count_of(). For KID Inception's weights are fetched if need be; UserError if they
    are not to be had. Only the first process of several scores. A score that is being
    made is left unmade, None, when is_over() says so. pace: that of scores.
    """

    def __init__(self, kind, faces, samples, seed, device, folder="data"):  # noqa: PLR0913
        self.kind = kind
        self.count = 0 if kind == "none" else count_of(samples, len(faces))
        self.protocol = protocol_of(kind, samples, len(faces))
        self._diversity = real_diversity(faces, seed)
        self.real, self.network, self.is_over = None, None, lambda: False
        self.pace, self.took = Pace(), 0.0  # seconds of the last scores()
        if not self.count or not device.is_first:
            return
        self.real = pick(faces, self.count, seed, "score_real")
        if kind == "kid":
            self.network = inception.load(inception.find(folder=folder))
            # A CPU takes minutes for them, beside the second epoch
            self.real_features = functools.cache(lambda: self._features(self.real))

    def scores(self, sheet, fake):
        """Return {"diversity": of the sheet} with the score of the fakes, if any."""
        began = time.monotonic()
        scores = {"diversity": self.diversity(sheet), **self.score(fake)}
        self.took = time.monotonic() - began
        if fake is not None:
            self.pace.note(self.took)
        return scores

    def unscored(self):
        """Return what scores() does, all None: of an epoch that draws nothing."""
        return dict.fromkeys(("diversity", *([self.kind] if self.count else [])))

    def score(self, fake):
        """Return {kind: score} of fakes (n, S, S, 3) uint8, less is better.

        The score is None without fakes, and where another process has it. {} if there
        are no scores.
        """
        if not self.count:
            return {}
        if fake is None or self.real is None:
            return {self.kind: None}
        if self.kind == "mmd":
            return {"mmd": metrics.mmd(self.real, fake)}
        try:
            features = self.real_features(), self._features(fake)
        except GivenUpError:
            return {"kid": None}
        return {"kid": metrics.kid(*features)[0]}

    def _features(self, faces):
        return self.network.features(faces, bar=self)

    def update(self, _):
        """Be told by features(), as a bar is, that some of the faces are done."""
        if self.is_over():
            raise GivenUpError

    def diversity(self, fake):
        """Return the diversity of fakes (n, S, S, 3) uint8 as a share of the real."""
        return metrics.diversity(fake) / self._diversity if self._diversity else 0.0


def kind_of(wanted, before, device, image_size, folder="data"):
    """Return "kid", "mmd" or "none", the same in every process.

    "auto" is what a run to be continued had, `before`, if it says so. In a new one it
    is KID on a GPU, and anywhere of faces whose pixels mislead: the first process
    fetches Inception's weights for it into `folder`. It is MMD of small faces without a
    GPU, for 40 ms a face are much there, and where the weights are not to be had.
    """
    if wanted == "auto":
        helps = has_gpu() or image_size > metrics.MMD_PIXELS
        is_kid = not before and device.is_first and helps and _is_to_be_had(folder)
        wanted = before or ("kid" if is_kid else "mmd")
    return device.from_first(wanted)


def _is_to_be_had(folder):
    """Fetch Inception's weights if need be; tell whether they are there, or why not."""
    try:
        inception.find(folder=folder)
    except UserError as error:
        print(f"Scoring by MMD, for Inception is not to be had. {error}", flush=True)
        return False
    return True


def count_of(samples, pictures):
    """Return how many samples are compared with as many of the pictures."""
    return min(samples, pictures, max(FEWEST, pictures // 10))


def protocol_of(kind, samples, pictures):
    """Say how the generators of a run are scored; None if they are not."""
    if kind == "none":
        return None
    count = count_of(samples, pictures)
    how = {"mmd": "MMD, by pixels", "kid": f"KID, {inception.NAME}"}[kind]
    return f"{how}, {count:,} samples against {count:,} real faces"


def which_to_draw(kind, image_size):
    """Return generate.py's option for the generator to draw from.

    By pixels the best of larger faces may be far from the best, as benchmarks/
    QUALITY.md tells.
    """
    misleads = kind == "mmd" and image_size > metrics.MMD_PIXELS
    return " --which last" if misleads else ""


def real_diversity(faces, seed):
    """Return the diversity of some of the real faces (N, S, S, 3) uint8, 0 .. 255."""
    places = stream(seed, "real_diversity").permutation(len(faces))[:COMPARED]
    return metrics.diversity(faces[np.sort(places)])
