"""Turn pictures into one array on the disk, and the array into batches.

`python preprocess.py` makes data/celeba-64.npy, which `python train.py` would make
otherwise.
"""

import collections
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

import cartoons
import helper
from script import Bar, UserError, options, run, write_whole

# Which pictures, and how large
DATA = "celeba"  # "celeba", "cartoons", a folder, a .zip, or a folder of .zips
IMAGE_SIZE = 64  # {28, 32, 64, 128} pixels, both ways
IMAGES = 0  # [0..] the first so many pictures; 0: all

# How to read them
WORKERS = 0  # [0..] processes that read pictures; 0: one per core

# Where the arrays lie
FOLDER = "data"

# How many cartoons are all cartoons, and which
CARTOONS = 10_000
CARTOON_SEED = 0

# Pictures per job of a worker, and jobs per worker that are under way at a time
JOB = 32
JOBS_AHEAD = 3

# Batches that are gathered before they are asked for
BATCHES_AHEAD = 8

# To be raised when the same source would give other pixels
VERSION = 1

# What random numbers are for: default_rng((seed, purpose, epoch, ...))
SHUFFLE = 1
FLIP = 2
D_NOISE = 3
G_NOISE = 4


class Prepared(NamedTuple):
    """An array of faces on the disk.

    path: of the .npy file, (at least count, S, S, 3) uint8
    name: of the pictures, as in "celeba"
    count: how many of its faces are meant, from the first on
    about: dict, what the .json beside it says
    """

    path: Path
    name: str
    count: int
    about: dict


def prepare(data, image_size, images):
    """Make the array of the first `images` faces (0: all), unless it is there.

    data: "celeba" (downloaded if need be), "cartoons", a folder, a .zip, a folder of
    .zips. Prints what it does. Returns Prepared. Raises UserError when there are no
    pictures or no room.
    """
    name = name_of(data)
    path = Path(FOLDER, f"{name}-{image_size}.npy")
    images = images or (CARTOONS if data == "cartoons" else 0)
    with _alone(path.parent):
        about = _read_about(path)
        wanted = _wanted(data, image_size, about)
        reason = _mismatch(about, wanted, images)
        if reason:
            if about:
                print(f"Making {path} again: {reason}.")
            about = _make(path, data, wanted, images)
        else:
            print(f"Using {path}: {about['count']:,} pictures, made earlier.")
    count = min(images or about["count"], about["count"])
    return Prepared(path, name, count, about)


def open_faces(prepared):
    """Open a Prepared array: (count, S, S, 3) uint8, read from the disk as needed."""
    return np.load(prepared.path, mmap_mode="r")[: prepared.count]


def check_enough(count, batch_size, data):
    """Raise UserError when `count` pictures do not fill one batch."""
    if count < batch_size:
        raise UserError(
            f"{data} gives {count} pictures, too few for one batch of {batch_size}. "
            f"Take more pictures, or --batch-size {max(count, 1)} or less."
        )


def batches(faces, batch_size, seed, epoch, start=0, flip=True):
    """Yield one epoch's batches of faces: (B, S, S, 3) uint8, from number `start` on.

    Every epoch has its own order, every picture comes at most once, and the last
    N % B of the order sit the epoch out: batch normalization needs full batches. Each
    face is flipped left to right half of the time. All of this depends on `seed`,
    `epoch` and the batch's number only. Read ahead on a thread, which ends with the
    generator.
    """
    order = np.random.default_rng((seed, SHUFFLE, epoch)).permutation(len(faces))

    def gather(number):
        batch = faces[order[number * batch_size : (number + 1) * batch_size]]
        if flip:
            random = np.random.default_rng((seed, FLIP, epoch, number))
            flipped = random.random(batch_size) < 0.5
            batch[flipped] = batch[flipped, :, ::-1]
        return batch

    with ThreadPoolExecutor(1) as thread:
        waiting = collections.deque()
        for number in range(start, len(faces) // batch_size):
            waiting.append(thread.submit(gather, number))
            if len(waiting) > BATCHES_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def name_of(data):
    """Name the array of a source: celeba, cartoons, or after the folder or file."""
    if data in ("celeba", "cartoons"):
        return data
    path = Path(os.path.abspath(data))  # ".." has no name
    stem = path.stem if path.suffix.lower() == ".zip" else path.name
    name = re.sub(r"[^A-Za-z0-9._]+", "-", stem).strip("-.") or "pictures"
    return f"own-{name}" if name in ("celeba", "cartoons") else name


@contextlib.contextmanager
def _alone(folder):
    """Keep two runs from making an array at the same time: the second one waits."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another run is preparing pictures in {folder}: waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _read_about(path):
    """Read the .json of an array, or return {} when the two are not whole."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return about if about["bytes"] == path.stat().st_size else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _wanted(data, image_size, about):
    """Say what the array's .json must hold to be the one for `data`."""
    return {
        "version": VERSION,
        "source": str(data),
        "fingerprint": _fingerprint(data, about),
        "image_size": image_size,
        "crop": helper.CROP,
        "filter": helper.FILTER,
    }


def _source(data):
    return Path(helper.ARCHIVE) if data == "celeba" else Path(data)


def _fingerprint(data, about):
    """Tell one state of a source from another, without reading the pictures."""
    if data == "cartoons":
        drawing = Path(cartoons.__file__).read_bytes()
        return f"{CARTOON_SEED}-{hashlib.sha256(drawing).hexdigest()}"
    source = _source(data)
    if not source.exists() and about.get("source") == str(data):
        print(f"{source} is gone; what was made from it is still here.")
        return about["fingerprint"]
    if not source.exists() and data == "celeba":
        helper.download_celeba()
    # A sum, because it needs neither an order nor all names at a time
    total = 0
    for name, stat in helper.source_files(source):
        line = f"{name}\n{stat.st_size}\n{stat.st_mtime_ns}".encode(
            "utf-8", "surrogateescape"
        )
        total += int.from_bytes(hashlib.sha256(line).digest(), "big")
    return f"{total % 2**256:064x}"


def _mismatch(about, wanted, images):
    """Say why an array is not the one that is wanted, or return ''."""
    if not about:
        return "there is none"
    for key, value in wanted.items():
        if about.get(key) != value and key != "source":
            return f"its {key.replace('_', ' ')} has changed"
    if about["limit"] and not 0 < images <= about["count"]:
        more = f"{images:,}" if images else "all"
        return f"it holds {about['count']:,} pictures and {more} are wanted"
    return ""


def _make(path, data, wanted, images):
    """Make the array and its .json; return what the .json says."""
    begin = time.perf_counter()
    size = wanted["image_size"]
    with _workers() as pool:
        total, results = _results(pool, data, size, images)
        _check_room(path, total * size * size * 3)
        with Bar(total=total, unit=" pictures", desc=path.name) as bar:
            about = wanted | _write(path, results, size, images, bar)
    print(
        f"Made {path}: {about['count']:,} pictures in {time.perf_counter() - begin:.0f} s"
    )
    with write_whole(path.with_suffix(".json")) as part:
        part.write_text(json.dumps(about, indent=2), encoding="utf-8")
    return about


@contextlib.contextmanager
def _workers():
    """Give a pool of worker processes, which import helper and cartoons, not Keras."""
    # Spawned workers import the script that was started. Under train.py that would
    # load Keras in each of them, so while the pool lives the main script is helper.
    main_script = sys.modules["__main__"]
    sys.modules["__main__"] = helper
    try:
        with ProcessPoolExecutor(
            WORKERS or _cores(),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=helper.attend,
        ) as pool:
            try:
                yield pool
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    except BrokenProcessPool:
        raise UserError(
            "A worker process was killed, by lack of memory most likely. "
            "Fewer of them: python preprocess.py --workers 1"
        ) from None
    finally:
        sys.modules["__main__"] = main_script


def _cores():
    return (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )


def _results(pool, data, size, images):
    """Return how many faces to expect, and an iterator of (faces, failures).

    The archive's directory is read in a worker: what is left of it here is compact.
    """
    if data == "cartoons":
        firsts = range(0, images, JOB)
        jobs = (
            (CARTOON_SEED, first, min(JOB, images - first), size) for first in firsts
        )
        drawn = _in_order(pool, cartoons.cartoon_faces, jobs)
        return images, ((faces, []) for faces in drawn)
    pictures = pool.submit(helper.list_pictures, _source(data)).result()
    total = len(pictures.entries)
    jobs = ((pictures.part(first, JOB), size) for first in range(0, total, JOB))
    return min(images or total, total), _in_order(pool, helper.read_faces, jobs)


def _in_order(pool, work, jobs):
    """Yield the results of the jobs in order, a bounded number of them under way."""
    waiting = collections.deque()
    for job in jobs:
        waiting.append(pool.submit(work, job))
        if len(waiting) > JOBS_AHEAD * (WORKERS or _cores()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _check_room(path, size):
    """Raise UserError if the array would not fit on the disk."""
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise UserError(
            f"{path} needs {size / 1e9:.1f} GB and {path.parent} has {free / 1e9:.1f} GB "
            "free. Make room, or take fewer pictures: --images 50000"
        )


def _write(path, results, size, images, bar):
    """Write the array and return what was counted, for its .json."""
    checksum, count, failures = hashlib.sha256(), 0, []
    with write_whole(path) as part, open(part, "wb") as file:
        file.write(_header(0, size))
        for faces, failed in results:
            faces = faces[: images - count] if images else faces
            pixels = faces.tobytes()
            file.write(pixels)
            checksum.update(pixels)
            count += len(faces)
            failures += failed
            bar.update(len(faces) + len(failed))
            if images and count == images:
                break
        file.seek(0)
        file.write(_header(count, size))
        _report(failures, count)
        path.with_suffix(".json").unlink(missing_ok=True)
    return {
        "count": count,
        "skipped": len(failures),
        "limit": images,
        "bytes": path.stat().st_size,
        "checksum": checksum.hexdigest(),
    }


def _report(failures, count):
    """Print how many pictures were skipped, and the first few; refuse if all were."""
    named = "; ".join(f"{name}: {reason}" for name, reason in failures[:3])
    if not count:
        raise UserError(f"None of the {len(failures):,} pictures is readable: {named}.")
    if failures:
        print(f"Skipped {len(failures):,} unreadable pictures: {named}")


def _header(count, size):
    """Return the .npy header of a (count, S, S, 3) uint8 array; its length is fixed."""
    stream = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def main():
    """Make the array that the constants ask for."""
    options(sys.modules[__name__])
    prepared = prepare(DATA, IMAGE_SIZE, IMAGES)
    print(prepared)


if __name__ == "__main__":
    run(main)
