"""What lies between faces, sums of faces, and directions: arithmetic with noise.

A generator is asked for noise that is uniform on [-1, 1]. A mean of such numbers is
nearer to 0 than they are, and a sum may lie outside: there it was never asked. So each
number x is taken for the number z that has the same place in a normal distribution,
z = Phi^-1((x + 1) / 2). Points of such numbers have lengths near sqrt(latent), and
sums of them are normal again once they are divided by the length of their weights
(Agustsson et al. 2019, "Optimal transport maps for distribution preserving operations
on latent spaces of generative models"; White 2016, "Sampling generative networks").
"""

from statistics import NormalDist

import numpy as np

from dcgan.common.console import UserError
from dcgan.common.options import typed
from dcgan.training.chance import stream

NORMAL = NormalDist()

# Faces of a seed that have a number
FACES = 100_000

# How far the faces around a sum are from it, as a share of the length of each: the
# DCGAN paper's noise of +-0.25, where noise is +-1
AROUND = 0.25


def to_points(noise):
    """Turn noise (n, latent) in [-1, 1] into points, float64 of a normal distribution.

    What is within 1e-4 of an end is taken for that: the end itself lies at infinity.
    """
    return np.vectorize(NORMAL.inv_cdf)((np.clip(noise, -0.9999, 0.9999) + 1) / 2)


def to_noise(points):
    """Turn points into noise of their shape, float32 in [-1, 1]."""
    return (2 * np.vectorize(NORMAL.cdf)(points) - 1).astype("float32")


def numbers_in(text, name):
    """Return the numbers of faces, a list of int from 1 on, in a text as "3,17,40".

    name: of the option, for the UserError that is raised for any other text.
    """
    words = [word.strip() for word in text.split(",")] if text else []
    fine = [word.isascii() and word.isdigit() and len(word) < 9 for word in words]
    numbers = [int(word) for word in words] if all(fine) else [0]
    if any(not 1 <= number <= FACES for number in numbers):
        raise UserError(
            f"{typed(**{name: text})}: faces are told by their numbers, from 1 to "
            f"{FACES:,}, with commas between, as in 3,17,40"
        )
    return numbers


def walk(stops, count):
    """Return noise (count, latent) on a closed way through stops (n, latent), evenly.

    Straight lines between points of a cube pass near its middle, where a generator was
    never asked. So the way is of arcs between the same numbers as a normal distribution
    has them (Shoemake 1985, "slerp"; White 2016), and has the distribution of noise.
    """
    points = to_points(stops)
    ends = np.roll(points, -1, axis=0)
    angles = _angles(points, ends)
    way = np.concatenate([[0], np.cumsum(angles)])
    places = np.linspace(0, way[-1], count, endpoint=False)
    leg = np.minimum(np.searchsorted(way, places, "right"), len(stops)) - 1
    return to_noise(_arc(points[leg], ends[leg], angles[leg], places - way[leg]))


def row(one, other, count):
    """Return noise (count, latent) on the arc from one (latent,) to the other, evenly.

    The first is the one, the last the other.
    """
    start, end = to_points(np.stack([one, other]))[:, None]
    angles = _angles(start, end)
    return to_noise(_arc(start, end, angles, np.linspace(0, angles[0], count)))


def _angles(starts, ends):
    """Return the angles (n,) between points (n, latent) and others, in radians."""
    lengths = np.linalg.norm(starts, axis=1) * np.linalg.norm(ends, axis=1)
    return np.arccos(np.clip((starts * ends).sum(1) / lengths, -1, 1))


def _arc(starts, ends, angles, done):
    """Return points (n, latent) of arcs of which so much, of their angles, is done."""
    done, angle = done[:, None], np.maximum(angles, 1e-9)[:, None]
    return (np.sin(angle - done) * starts + np.sin(done) * ends) / np.sin(angle)


def weights_of(groups):
    """Return {number: weight} of a sum of means; each group is (sign, numbers).

    The sign is "", "-" or "+". A number of several groups has the sum of its weights:
    a face that is added and taken away is as if it had not been. Raises UserError if
    no other is left.
    """
    weights = {}
    for sign, numbers in groups:
        for number in numbers:
            weight = (-1 if sign == "-" else 1) / len(numbers)
            weights[number] = weights.get(number, 0) + weight
    if np.abs(list(weights.values())).max() < 1e-9:
        raise UserError("MEAN, MINUS and PLUS cancel each other out: no face is left.")
    return weights


def sum_of(noise, weights):
    """Return noise (latent,), the sum of noise (n, latent) by weights (n,).

    Of noise that is independent it has the distribution of noise again.
    """
    weights = np.asarray(weights, float)
    return to_noise(weights @ to_points(noise) / np.linalg.norm(weights))


def around(noise, count, seed):
    """Return noise (count, latent) a little different from noise (latent,)."""
    change = stream(seed, "around").standard_normal((count, len(noise)))
    return to_noise(np.sqrt(1 - AROUND**2) * to_points(noise) + AROUND * change)


def along(noise, direction, steps):
    """Return noise (n, s, latent), each of noise (n, latent) moved by each step.

    direction: (latent,), of length 1; steps: (s,), in standard deviations of points
    along it. Points keep their lengths, as on an arc; 0 leaves them where they are.
    """
    points = to_points(noise)[:, None]
    moved = points + np.asarray(steps)[None, :, None] * direction
    lengths = np.linalg.norm(moved, axis=2, keepdims=True)
    return to_noise(moved * np.linalg.norm(points, axis=2, keepdims=True) / lengths)


def directions(noise, values):
    """Return the directions (k, latent) float32, of length 1, in which values grow.

    noise: (n, latent); values: (n, k), one of each face. By least squares on points:
    these are spread equally in all directions, so no ridge is needed. (Shen et al.
    2020, "Interpreting the latent space of GANs", take a linear SVM's normal.) Values
    that are all the same have no direction: zeros.
    """
    points = to_points(noise)
    found = np.linalg.lstsq(points - points.mean(0), values, rcond=None)[0].T
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return (found / np.where(lengths > 1e-9, lengths, np.inf)).astype("float32")


def correlations(noise, vectors, values):
    """Return (k,), how well the place of noise (n, latent) along a vector tells values.

    vectors: (k, latent); values: (n, k). Each is Pearson's r; 0 where all is the same.
    """
    places = to_points(noise) @ vectors.T
    pairs = zip(places.T, values.T, strict=True)
    with np.errstate(invalid="ignore"):
        return np.nan_to_num([np.corrcoef(*pair)[0, 1] for pair in pairs])
