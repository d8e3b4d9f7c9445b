"""Pictures that somebody keeps as one array of uint8 in a .npy or .npz."""

import zipfile

import numpy as np

from dcgan.common.console import UserError
from dcgan.common.files import DAMAGE

ENDINGS = (".npy", ".npz")

# What the last dimension of four may be
CHANNELS = (1, 3, 4)


def open_pictures(path):
    """Open the pictures of a .npy or .npz: (n, H, W, 1, 3 or 4) uint8.

    A .npy is read from the disk as needed; of a .npz the array of most pictures is
    taken, one of four dimensions if there is any, and read whole. Grey pictures may be
    (n, H, W). Raises UserError when there are none, or when the file is damaged.
    """
    try:
        if str(path).lower().endswith(".npz"):
            pictures = _largest(path)
        else:
            pictures = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGE as error:
        raise UserError(f"Cannot read {path}: {error}.") from error
    fault = _fault(pictures.shape, pictures.dtype)
    if fault:
        raise UserError(f"{path} holds {fault}")
    return pictures if pictures.ndim == 4 else pictures[..., None]


def _largest(path):
    """Load the array of a .npz that holds most pictures; if none does, any."""
    with zipfile.ZipFile(path) as archive:
        heads = {name: _head(archive, name) for name in archive.namelist()}
    fine = {name: head for name, head in heads.items() if not _fault(*head)}
    if not fine and not heads:
        raise ValueError("it is empty")
    name = max(fine or heads, key=lambda name: (len(heads[name][0]), heads[name][0]))
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[name.removesuffix(".npy")]


def _head(archive, name):
    """Read the shape and the dtype of an array in a .npz."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype


def _fault(shape, dtype):
    """Say what an array holds if it is no pictures, and what would be right; or ""."""
    last = shape[3] if len(shape) == 4 else 1  # of grey pictures
    if last not in CHANNELS and shape[1] in CHANNELS:
        return (
            f"{shape}, channels first. Put them last: "
            "np.save(path, pictures.transpose(0, 2, 3, 1))"
        )
    if len(shape) not in (3, 4) or 0 in shape or last not in CHANNELS:
        return f"{shape}, not pictures: (n, height, width) or (n, height, width, 3)."
    if len(shape) == 3 and shape[2] in CHANNELS:
        return f"{shape}, one picture as it seems. Several: (n, height, width, 3)."
    if dtype != np.uint8:
        return (
            f"{dtype}, not uint8 in 0 .. 255. If it is in 0 .. 1: "
            "np.save(path, (pictures * 255).round().astype('uint8'))"
        )
    return ""
