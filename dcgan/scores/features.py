"""Features of faces, and a file that keeps those of the real ones."""

import hashlib
import json

import numpy as np

from dcgan.common.console import Bar, UserError, is_out_of_memory
from dcgan.common.files import DAMAGE, write_whole
from dcgan.common.options import typed


def of(network, faces, title, batch_size):
    """Return the features (n, 2048) of faces (n, S, S, 3) uint8, with a progress bar.

    network: an inception.Network, which looks at batch_size faces together. Raises
    UserError where memory is full.
    """
    try:
        with Bar(total=len(faces), unit=" faces", desc=title) as bar:
            return network.features(faces, bar, batch_size)
    except Exception as error:
        if is_out_of_memory(error):
            fewer = max(1, batch_size // 2)
            mend = typed(batch_size=fewer)
            raise UserError(f"Out of memory. Fewer faces together: {mend}") from error
        raise


def read(path, depends_on):
    """Return the features (n, d) in a file, or None, saying why they cannot be used.

    depends_on: a dict of what they must have been made from.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            origin, array = json.loads(str(file["about"])), file["features"]
        checksum = origin.pop("checksum")
        fault = "" if checksum == _checksum(array) else "they are damaged"
    except DAMAGE:
        origin, fault = {}, "they are damaged"
    changed = [name for name in depends_on if origin.get(name) != depends_on[name]]
    fault = fault or (f"their {changed[0]} is another" if changed else "")
    if not fault:
        print(f"Using {path}: features of {len(array):,} real faces, made earlier.")
        return array
    print(f"The features in {path} cannot be used: {fault}.")
    return None


def keep(path, array, depends_on):
    """Keep features (n, d) in a file, or say why not."""
    origin = json.dumps({**depends_on, "checksum": _checksum(array)})
    try:
        with write_whole(path) as part, open(part, "wb") as file:
            np.savez(file, features=array, about=np.array(origin))
    except UserError as error:
        print(f"{error} So they are to be made again next time.")


def _checksum(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
