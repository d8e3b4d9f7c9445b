"""An array of faces on the disk: a .npy file, and the .json that tells of it.

The .json's facts: count, of faces; image_size, pixels; channels, 1 if grey; skipped,
unreadable pictures; limit, how many faces were wanted where that is why there are no
more, else 0; bytes, of the .npy; checksum, of its pixels; and what preprocess.py says
of where they come from.
"""

import hashlib
import io
import json
import math
import shutil

import numpy as np

from dcgan.common.console import Bar, UserError
from dcgan.common.files import replace, write_json
from dcgan.common.options import typed

# Bytes of an array that are checked at a time, and from how many on that is shown
BLOCK = 2**22
LONG_CHECK = 2**29

# What the facts must be for an array to be read
KINDS = {"count": int, "image_size": int, "limit": int, "skipped": int, "checksum": str}

# Why an array is made again, by what is different in its facts
CHANGED = {
    "version": "an older version of preprocess.py made it",
    "image_size": "its faces have another size",
    "crop": "its faces are cropped differently",
    "filter": "its faces are resized differently",
    "fingerprint": "its source has changed",
}

# Unreadable pictures that are named
NAMED = 3


def header(count, shape):
    """Return the .npy header of `count` faces, uint8; its length is fixed."""
    stream = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def write_facts(path, facts):
    """Write the .json that tells of the array `path`."""
    write_json(path.with_suffix(".json"), facts)


def read_facts(path):
    """Read the facts of the array `path`, or return {} when the two are not whole.

    All of the array is read, for a disk may give back other bytes than it was given.
    Raises UserError when the system refuses to read what is there.
    """
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if any(type(facts[key]) is not kind for key, kind in KINDS.items()):
            return {}
        count, size = facts["count"], facts["image_size"]
        shape = (size, size, facts.get("channels", 3))
        begin = header(count, shape)
        length = len(begin) + count * math.prod(shape)
        if not facts["bytes"] == length == path.stat().st_size:
            return {}
        return facts if _checksum(path, begin) == facts["checksum"] else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    except OSError as error:
        raise UserError(
            f"Cannot read {error.filename or path}: {error.strerror}. "
            "Make it readable, or move it away to have it made again."
        ) from error


def _checksum(path, begin):
    """Return the SHA-256 of an array's pixels, or "" if it has another header."""
    size, digest = path.stat().st_size, hashlib.sha256()
    amounts = {"total": size, "unit": "B", "unit_scale": True, "unit_divisor": 1024}
    shown = {"desc": f"Checking {path.name}", "disable": size < LONG_CHECK}
    with open(path, "rb") as file, Bar(**amounts, **shown) as bar:
        if file.read(len(begin)) != begin:
            return ""
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def mismatch(facts, wanted, images):
    """Say why an array is not the one that is wanted, or return "".

    wanted: what its facts should be, of the keys of CHANGED; images: how many faces are
    wanted, 0: all.
    """
    if not facts:
        return "it is unfinished or damaged"
    for key, reason in CHANGED.items():
        if key in wanted and facts.get(key) != wanted[key]:
            return reason
    if facts["limit"] and not 0 < images <= facts["count"]:
        more = f"{images:,}" if images else "all"
        return f"it holds {facts['count']:,} pictures, and {more} are wanted"
    return ""


def checksum_of_first(path, count):
    """Return the SHA-256 of the pixels of an array's first `count` faces, as digits."""
    digest, faces = hashlib.sha256(), np.load(path, mmap_mode="r")[:count]
    for first in range(0, count, 1024):
        digest.update(faces[first : first + 1024].tobytes())
    return digest.hexdigest()


def check_room(path, count, shape):
    """Raise UserError if an array of `count` faces would not fit on the disk."""
    face, free = math.prod(shape), shutil.disk_usage(path.parent).free
    if free < count * face:
        raise UserError(
            f"{path} needs {count * face / 1e9:.1f} GB, and {path.parent} has "
            f"{free / 1e9:.1f} GB free. Make room, or {typed(images=free // face)}."
        )


def join(part, filled, shape, images, bar):
    """Close the gaps that unreadable pictures left in an array, and write its header.

    part: the file; filled: an iterator over what workers.fill() returned, in order;
    shape: (S, S, channels) of a face; images: how many faces are wanted, 0: all. Moves
    the bar on and closes it; prints how many pictures were skipped, and the first few.
    Returns the facts. Raises UserError when no picture can be read.
    """
    face, begin = math.prod(shape), len(header(0, shape))
    end, skipped, named, checksum = begin, 0, [], hashlib.sha256()
    # Unbuffered, for a buffer would hold bytes from before a worker wrote them
    with open(part, "r+b", buffering=0) as file:
        for offset, length, unreadable in filled:
            file.seek(offset)
            pixels = file.read(length)
            if images:
                pixels = pixels[: begin + images * face - end]
            if offset > end:
                file.seek(end)
                file.write(pixels)
            end += len(pixels)
            checksum.update(pixels)
            skipped += len(unreadable)
            named += unreadable[: NAMED - len(named)]
            bar.update(len(pixels) // face + len(unreadable))
            if images and end == begin + images * face:
                break
        filled.close()  # some may still write, when no more faces are wanted
        count = (end - begin) // face
        file.truncate(end)
        file.seek(0)
        file.write(header(count, shape))
    bar.close()
    _report(count, skipped, named)
    return {
        "count": count,
        "skipped": skipped,
        "limit": images if count == images else 0,
        "bytes": end,
        "checksum": checksum.hexdigest(),
    }


def _report(count, skipped, named):
    reasons = "; ".join(f"{name}: {reason}" for name, reason in named)
    if not count:
        raise UserError(f"None of the {skipped:,} pictures can be read. {reasons}.")
    if skipped:
        more = "; ..." if skipped > len(named) else "."
        print(f"Skipped {skipped:,} unreadable pictures. {reasons}{more}", flush=True)


def kept_as(path):
    """Say where an array is kept when the pictures that it was made of have changed:
    NAME.before.npy, or .before-2.npy and so on where others are kept already.
    """
    kept, number = path.with_suffix(".before.npy"), 1
    while kept.exists():
        number += 1
        kept = path.with_suffix(f".before-{number}.npy")
    return kept


def keep(path, facts):
    """Move an array to where it is kept, its .json with it."""
    kept = kept_as(path)
    # The .json first: a kill between the two leaves the array where it was
    write_facts(kept, facts)
    replace(path, kept)
