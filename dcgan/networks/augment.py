"""Augment real and fake faces alike, so that few pictures cannot be learned by heart.

DiffAugment (Zhao et al. 2020, arXiv 2006.10738, and its code): whatever is done to the
real faces is done to the fakes too, in both training steps, and gradients pass through
it into the generator. So the generator does not learn to draw augmented faces.

Chance comes from outside, as numbers: this is a pure function.
"""

from dcgan.common.console import UserError
from dcgan.common.options import typed
from dcgan.networks.backend import keras, layers, ops

KINDS = ("colour", "translation", "cutout")

NUMBERS = 7  # uniform on [0, 1), that a face's augmentation takes

TRANSLATION = 1 / 8  # of the width: the farthest that a face is moved
CUTOUT = 1 / 2  # of the width: the side of the square that is cut out


def kinds_of(text):
    """Return the KINDS that "colour,cutout" names, as a tuple in the order they run in.

    Raises UserError for another word.
    """
    words = {word.strip() for word in text.split(",")} - {""}
    if wrong := sorted(words - set(KINDS)):
        raise UserError(
            f"There is no augmentation {wrong[0]!r}. "
            f"Try {typed(augment=','.join(KINDS))}, or a part of it."
        )
    return tuple(kind for kind in KINDS if kind in words)


class Augment(layers.Layer):
    """augment() as a layer, so that networks can be built over it."""

    def __init__(self, kinds, **options):
        super().__init__(dtype="float32", **options)
        self.kinds = kinds

    def call(self, faces, chance):
        return augment(faces, chance, self.kinds)

    def compute_output_spec(self, faces, chance):
        return keras.KerasTensor(faces.shape, self.compute_dtype)


def augment(faces, chance, kinds):
    """Augment faces (n, S, S, 3) float in [-1, 1], each by its row of chance.

    chance: (n, NUMBERS) float in [0, 1); kinds: some of KINDS. What is moved in or cut
    out is grey, 0. Colours may leave [-1, 1], as in the paper's code.
    """
    number = [chance[:, k, None, None, None] for k in range(NUMBERS)]
    if "colour" in kinds:
        faces = faces + number[0] - 0.5  # brightness
        faces = _spread(faces, 2 * number[1], axis=3)  # saturation
        faces = _spread(faces, number[2] + 0.5, axis=(1, 2, 3))  # contrast
    if "translation" in kinds:
        faces = _moved(faces, chance[:, 3], chance[:, 4])
    if "cutout" in kinds:
        faces = faces * (1 - _square(faces.shape[1], number[5], number[6]))
    return faces


def _spread(faces, factor, axis):
    """Stretch what lies around the mean along an axis by a factor."""
    mean = ops.mean(faces, axis, keepdims=True)
    return (faces - mean) * factor + mean


def _moved(faces, down, right):
    """Move each face by whole pixels, both ways alike often, up to TRANSLATION."""
    size = faces.shape[1]
    # A gather's gradient is a scatter, which XLA computes slowly; this one is a product
    rows, columns = _shift(size, down), _shift(size, right)
    faces = ops.einsum("nij,njwc->niwc", rows, faces)
    return ops.einsum("nij,nhjc->nhic", columns, faces)


def _shift(size, number):
    """Map numbers (n,) to matrices (n, size, size) that move a column of pixels."""
    farthest = int(size * TRANSLATION + 0.5)
    by = ops.floor(number * (2 * farthest + 1))[:, None, None] - farthest
    place = ops.arange(size, dtype="float32")
    return ops.cast(place[:, None] - place[None] == by, "float32")


def _square(size, down, right):
    """Return (n, size, size, 1): 1 in a square, part of which may lie outside."""
    side = int(size * CUTOUT + 0.5)
    place = ops.arange(size, dtype="float32")

    def span(place, number):
        centre = ops.floor(number * (size + 1 - side % 2))
        first = centre - side // 2
        return ops.logical_and(place >= first, place < first + side)

    inside = ops.logical_and(
        span(place[:, None, None], down), span(place[None, :, None], right)
    )
    return ops.cast(inside, "float32")
