"""The numbers in a TorchScript file, read without PyTorch.

Nothing that such a file says is executed, and no tensor reaches beyond its numbers.
"""

import io
import math
import pickle
import types
import zipfile
from typing import NamedTuple

import numpy as np

from dcgan.common.files import DAMAGE

# Bytes: no member of a right file is larger
LARGEST = 200_000_000

# The kinds of numbers in a file
STORAGES = {"FloatStorage": "<f4", "LongStorage": "<i8"}

# What reading a damaged or hostile file may raise
REFUSED = (*DAMAGE, ImportError, pickle.UnpicklingError)


def tensors(path, inside):
    """Yield (last part of its name, array) of each tensor, in the file's order.

    inside: the file's name where `path` is a zip that it lies in. Raises one of REFUSED
    for a file that is damaged, or holds anything but tensors and what they lie in.
    """
    tree, stored = _open(path, inside)
    for name, tensor in _tensors(tree):
        yield name, _array(tensor, stored)


def _open(path, inside):
    """Return what is pickled in the file, and {key: bytes} of the numbers."""
    archive = _checked(zipfile.ZipFile(path))
    if inside in archive.namelist():
        archive = _checked(zipfile.ZipFile(io.BytesIO(archive.read(inside))))
    names = archive.namelist()
    pickled = next((name for name in names if name.endswith("/data.pkl")), "data.pkl")
    tree = _Unpickler(io.BytesIO(archive.read(pickled))).load()
    folder = pickled.removesuffix(".pkl") + "/"
    keys = [name for name in names if name.startswith(folder)]
    return tree, {name.removeprefix(folder): archive.read(name) for name in keys}


def _checked(archive):
    for member in archive.infolist():
        if member.file_size > LARGEST:
            raise ValueError(f"its {member.filename} is too large")
    return archive


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
