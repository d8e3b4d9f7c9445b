"""All that is left to chance, each stream of random numbers by a number of its own.

What is drawn depends on the seed, the stream, the epoch and the iteration alone. So a
run that was stopped needs no state of a generator, and goes on as if it had not been.
"""

from dataclasses import dataclass

import numpy as np

# What each stream is for. A number that changed would make another run of every run
STREAMS = {
    # An iteration's; see Chance
    "order": 1,
    "mirrored": 2,
    "d_noise": 3,
    "g_noise": 4,
    "labels": 5,
    "d_augment": 18,
    "g_augment": 19,
    # Every epoch's end
    "sheet": 6,
    "real_diversity": 7,
    "score_noise": 16,
    "score_real": 17,
    # generate.py
    "generate": 8,
    "around": 20,
    # evaluate.py
    "evaluate_fake": 9,
    "evaluate_choice": 10,
    "evaluate_pairs": 11,
    "evaluate_mmd": 12,
    # directions.py
    "directions": 21,
    "attribute_real": 22,
    "held_out": 23,
    "attribute_order": 24,
}

# Numbers, uniform on [0, 1), by which a face is augmented (networks/augment.py)
AUGMENT_NUMBERS = 7


def stream(seed, name, *place):
    """Return the np.random.Generator of a stream out of STREAMS, at a place in it."""
    return np.random.default_rng((seed, STREAMS[name], *place))


def noise(seed, name, shape, *place):
    """Draw noise of a shape, float32, uniform on [-1, 1]."""
    return stream(seed, name, *place).uniform(-1, 1, shape).astype("float32")


def pick(faces, count, seed, name):
    """Pick `count` of the faces (N, ...), each at most once, in their order."""
    chosen = stream(seed, name).choice(len(faces), count, replace=False)
    return faces[np.sort(chosen)]


@dataclass(frozen=True)
class Chance:
    """What the iterations of a run leave to chance.

    An iteration trains the discriminator d_steps times and the generator g_steps times,
    on batch_size faces each; each of these steps draws anew.
    """

    seed: int
    batch_size: int
    latent: int  # numbers of noise that a face is drawn from
    d_steps: int = 1
    g_steps: int = 1
    flip: bool = True
    augment: bool = False
    label_smoothing: float = 0.0
    label_flipping: float = 0.0

    def order(self, count, epoch):
        """Return the places (iterations, d_steps, B) of an epoch's faces in the array.

        Every picture comes at most once, and those that fill no iteration sit the epoch
        out: batch normalization needs full batches.
        """
        places = stream(self.seed, "order", epoch).permutation(count)
        an_iteration = self.d_steps * self.batch_size
        places = places[: count // an_iteration * an_iteration]
        return places.reshape(-1, self.d_steps, self.batch_size)

    def iteration(self, epoch, iteration):
        """Return five_steps' batch, {name: array}, but for faces, rates and decay.

        d for the discriminator's steps, g for the generator's: "mirrored" (d, B) bool,
        "d_noise" (d, B, latent) and "g_noise" (g, B, latent), "real_label" and
        "fake_label" (d, B, 1) float32; with augmentation "d_augment" (d, B, 2, 7)
        and "g_augment" (g, B, 2, 7).
        """
        d = [iteration * self.d_steps + step for step in range(self.d_steps)]
        g = [iteration * self.g_steps + step for step in range(self.g_steps)]
        real_label, fake_label = zip(*(self._labels(epoch, n) for n in d), strict=True)
        drawn = {
            "mirrored": [self._mirrored(epoch, n) for n in d],
            "d_noise": [self._noise("d_noise", epoch, n) for n in d],
            "g_noise": [self._noise("g_noise", epoch, n) for n in g],
            "real_label": real_label,
            "fake_label": fake_label,
        }
        if self.augment:
            drawn["d_augment"] = [self._augment("d_augment", epoch, n) for n in d]
            drawn["g_augment"] = [self._augment("g_augment", epoch, n) for n in g]
        return {name: np.stack(steps) for name, steps in drawn.items()}

    def _mirrored(self, *place):
        """Choose the faces (B,) bool to be shown mirrored: half of them, on average."""
        drawn = stream(self.seed, "mirrored", *place).random(self.batch_size)
        return (drawn < 0.5) & self.flip

    def _noise(self, name, *place):
        return noise(self.seed, name, (self.batch_size, self.latent), *place)

    def _augment(self, name, *place):
        """Draw numbers (B, 2, 7) in [0, 1), for each real face and each fake one."""
        shape = (self.batch_size, 2, AUGMENT_NUMBERS)
        return stream(self.seed, name, *place).random(shape).astype("float32")

    def _labels(self, *place):
        """Return D's labels of real and of fake faces, (B, 1) float32, 1 and 0.

        label_smoothing lowers those of real faces (Salimans et al. 2016, one-sided);
        label_flipping then swaps that share of the labels of both.
        """
        real = np.full((self.batch_size, 1), 1 - self.label_smoothing, "float32")
        fake = np.zeros_like(real)
        if self.label_flipping:
            drawn = stream(self.seed, "labels", *place).random((2, *real.shape))
            swap = drawn < self.label_flipping
            return np.where(swap[0], fake, real), np.where(swap[1], real, fake)
        return real, fake
