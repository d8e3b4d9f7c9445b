"""Turn pictures into one array of faces on the disk.

`python preprocess.py` makes data/celeba-64.npy, which `python train.py` would make
otherwise.
"""

import collections
import contextlib
import functools
import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
import types
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import cartoons
import helper
from dcgan.common.console import Bar, UserError, run
from dcgan.common.files import replace, write_json, write_whole
from dcgan.common.options import options
from dcgan.pictures import faces, sources, workers

# Which pictures, and how large
DATA = "celeba"  # "celeba", "cartoons", a folder, a .zip, or a folder of .zips
IMAGE_SIZE = 64  # {28, 32, 64, 128} pixels, both ways
IMAGES = 0  # [0..] the first so many pictures; 0: all

# How to read them
WORKERS = 0  # [0..] processes that read pictures; 0: one per core

# No options from here on

# Where the arrays lie
FOLDER = "data"

# How many cartoons are all cartoons, and which
CARTOONS = 10_000
CARTOON_SEED = 0

# Pictures in a worker's job, and jobs per worker that may be under way
JOB = 64
JOBS_AHEAD = 3

# Unreadable pictures that are named
NAMED = 3

# Bytes of an array that are checked at a time, and from how many on that is shown
BLOCK = 2**22
LONG_CHECK = 2**29

# Files of a source whose ends are looked at, to tell it from another, and the bytes
SAMPLED, SAMPLE = 16, 2**12

# Work whose process was killed is done again in another, until so many were killed.
# Then it is a picture's fault, and so many pictures may be skipped for it
KILLED, DEADLY = 4, 10

# To be raised when the same source would give other pixels
VERSION = 1

# Why an array is made again, by what is different in its .json
CHANGED = {
    "version": "an older version of preprocess.py made it",
    "fingerprint": "its source has changed",
    "image_size": "its faces have another size",
    "crop": "its faces are cropped differently",
    "filter": "its faces are resized differently",
}


class Prepared(NamedTuple):
    """An array of faces on the disk.

    path: of the .npy file, (at least count, S, S, 3) uint8
    name: of the pictures, as in "celeba"
    count: how many of the faces are meant, from the first on
    about: dict, what the .json beside it says
    """

    path: Path
    name: str
    count: int
    about: dict


def prepare(data, image_size, images):
    """Make the array of the first `images` faces (0: all), unless it is there.

    data: "celeba" (downloaded if need be), "cartoons", a folder, a .zip, a folder of
    .zips. Prints what it does. Where the pictures have changed, the array of the old
    ones is kept as NAME-SIZE.before.npy. Returns Prepared. Raises UserError when there
    are no pictures, or no room for the array.
    """
    path = Path(FOLDER, f"{name_of(data)}-{image_size}.npy")
    images = images or (CARTOONS if data == "cartoons" else 0)
    with _alone(path.parent):
        about = _read_about(path)
        wanted = _wanted(data, image_size)
        if _is_gone(data, about) and not _mismatch(about, wanted, images):
            print(
                f"{_source(data)} is gone, but not what was made from it.", flush=True
            )
        else:
            _check_there(data, path, about)
            wanted["fingerprint"] = _fingerprint(data)
        reason = _mismatch(about, wanted, images)
        if reason:
            keep = reason == CHANGED["fingerprint"] and data != "cartoons"
            if path.exists():
                kept = _told_of_keeping(data, path) if keep else ""
                print(f"Making {path} again: {reason}.{kept}", flush=True)
            about = _make(path, data, wanted, images, about if keep else {})
        else:
            _report_use(path, about)
    count = min(images or about["count"], about["count"])
    return Prepared(path, name_of(data), count, about)


def name_of(data):
    """Name the array of a source: celeba, cartoons, or after the folder or file.

    Of a long name so much is used as leaves room, in 255 bytes, for what stands around.
    """
    if data in ("celeba", "cartoons"):
        return data
    path = Path(os.path.abspath(data))  # noqa: PTH100 (resolve() would follow links)
    stem = path.stem if path.suffix.lower() == ".zip" else path.name
    name = re.sub(r"[^\w.]+", "-", stem).strip("-.") or "pictures"
    name = name.encode()[:200].decode(errors="ignore")
    return f"own-{name}" if name.lower() in ("celeba", "cartoons") else name


def open_faces(prepared):
    """Open a Prepared array: (count, S, S, 3) uint8, read from the disk as needed."""
    return np.load(prepared.path, mmap_mode="r")[: prepared.count]


def checksum_of(prepared):
    """Return the SHA-256 of the pixels of a Prepared array's faces, as digits."""
    if prepared.count == prepared.about["count"]:
        return prepared.about["checksum"]
    digest, faces = hashlib.sha256(), open_faces(prepared)
    for first in range(0, len(faces), 1024):
        digest.update(faces[first : first + 1024].tobytes())
    return digest.hexdigest()


def check_enough(count, batch_size, data):
    """Raise UserError when `count` pictures do not fill one batch."""
    if count < batch_size:
        raise UserError(
            f"{data} gives {count} pictures, too few for a batch of {batch_size}. "
            f"Take more pictures{f', or --batch-size {count}' if count > 1 else ''}."
        )


@contextlib.contextmanager
def _alone(folder):
    """Keep two runs from making the same array at once: the second one waits here."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot make the folder {folder}: {error.strerror}."
        ) from error
    if fcntl is None:
        yield
        return
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"Cannot read the folder {folder}: {error.strerror}. Make it readable."
        ) from error
    try:
        # Some network drives know no locks: there, two runs at once is the user's care
        with contextlib.suppress(OSError):
            _wait_for(lock, folder)
        yield
    finally:
        os.close(lock)


def _wait_for(lock, folder):
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another run prepares pictures in {folder}: waiting.", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _read_about(path):
    """Read the .json of an array, or return {} when the two are not whole.

    All of the array is read, for a disk may give back other bytes than it was given.
    Raises UserError when the system refuses to read what is there.
    """
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        count, size = about["count"], about["image_size"]
        kinds = {"count": int, "image_size": int, "limit": int, "skipped": int}
        kinds |= {"checksum": str}
        if any(type(about[key]) is not kind for key, kind in kinds.items()):
            return {}
        header = _header(count, size)
        length = len(header) + count * size * size * 3
        if not about["bytes"] == length == path.stat().st_size:
            return {}
        return about if _checksum(path, header) == about["checksum"] else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    except OSError as error:
        raise UserError(
            f"Cannot read {error.filename or path}: {error.strerror}. "
            "Make it readable, or move it away to have it made again."
        ) from error


def _checksum(path, header):
    """Return the SHA-256 of an array's pixels, or "" if it has another header."""
    size, digest = path.stat().st_size, hashlib.sha256()
    amounts = {"total": size, "unit": "B", "unit_scale": True, "unit_divisor": 1024}
    shown = {"desc": f"Checking {path.name}", "disable": size < LONG_CHECK}
    with open(path, "rb") as file, Bar(**amounts, **shown) as bar:
        if file.read(len(header)) != header:
            return ""
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _report_use(path, about):
    skipped = f", without {about['skipped']:,} that could not be read"
    print(
        f"Using {path}: {about['count']:,} pictures, made earlier"
        f"{skipped if about['skipped'] else ''}.",
        flush=True,
    )


def _wanted(data, image_size):
    """Say what the .json of the right array holds, but for the source's fingerprint."""
    return {
        "version": VERSION,
        "source": str(data),
        "image_size": image_size,
        "crop": "none" if data == "cartoons" else faces.CROP,
        "filter": "none" if data == "cartoons" else faces.FILTER,
    }


def _mismatch(about, wanted, images):
    """Say why an array is not the one that is wanted, or return ''."""
    if not about:
        return "it is unfinished or damaged"
    for key, value in wanted.items():
        # A source may be called by another path; its fingerprint tells if it is another
        if key != "source" and about.get(key) != value:
            return CHANGED[key]
    if about["limit"] and not 0 < images <= about["count"]:
        more = f"{images:,}" if images else "all"
        return f"it holds {about['count']:,} pictures, and {more} are wanted"
    return ""


def _source(data):
    return Path(helper.ARCHIVE) if data == "celeba" else Path(data)


def _is_gone(data, about):
    """Tell whether an array's source was deleted since."""
    same = about.get("source") == str(data)
    return same and data != "cartoons" and not _exists(_source(data))


def _exists(path):
    return os.path.exists(path)  # noqa: PTH110 (Path.exists() fails at long names)


def _check_there(data, path, about):
    """Raise UserError if there is neither a source nor a whole array made from it."""
    own = data not in ("celeba", "cartoons")
    if own and not about and path.exists() and not _exists(data):
        raise UserError(
            f"{data} does not exist, and {path} is unfinished or damaged. "
            "Put the pictures back: it will be made again."
        )


def _fingerprint(data):
    """Tell a source from others, and one state of it from another; download CelebA.

    By names, sizes and times, which a copy keeps, and a sample of what is in the files.
    """
    if data == "cartoons":
        drawing = Path(cartoons.__file__).read_bytes()
        return f"{CARTOON_SEED}-{hashlib.sha256(drawing).hexdigest()}"
    if data == "celeba" and not _source(data).exists():
        helper.download_celeba()
    # A sum, for it takes the files in any order and keeps few of their names
    source, total, sample = _source(data), 0, []
    for name, stat in sources.source_files(source):
        file = f"{name}\n{stat.st_size}\n{stat.st_mtime_ns}"
        digest = hashlib.sha256(os.fsencode(file)).digest()
        total += int.from_bytes(digest, "big")
        sample = sorted([*sample, (digest, name)])[:SAMPLED]
    folder = source if source.is_dir() else source.parent
    for _, name in sample:
        digest = hashlib.sha256(_ends_of(folder / name)).digest()
        total += int.from_bytes(digest, "big")
    return f"{total % 2**256:064x}"


def _ends_of(path):
    """Read where a file begins and where it ends: there a .zip has its checksums."""
    try:
        with open(path, "rb") as file:
            begin = file.read(SAMPLE)
            file.seek(max(0, file.seek(0, os.SEEK_END) - SAMPLE))
            return begin + file.read(SAMPLE)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error


def _before(path):
    """Say where an array is kept when the pictures that it was made of have changed."""
    return path.with_suffix(".before.npy")


def _told_of_keeping(data, path):
    return (
        f" The old one is kept as {_before(path)}, its .json beside it. To go on with "
        f"a run that began with it, rename {_source(data)}, and these two to "
        f"{path.name} and {path.with_suffix('.json').name}."
    )


def _make(path, data, wanted, images, old):
    """Make the array and its .json; return what the .json says.

    old: what the .json says of the array that is there, if that is to be kept, or {}
    """
    begin, size = time.perf_counter(), wanted["image_size"]
    with _workers() as pool, write_whole(path) as part:
        part.write_bytes(_header(0, size))
        total, results = _results(pool, part, data, size, images)
        _check_room(path, total, size)
        with Bar(total=total, unit=" pictures", desc=path.name) as bar:
            about = wanted | _join(part, results, size, images, bar)
        if old:
            # The .json first: a kill between the two leaves the array where it was
            write_json(_before(path).with_suffix(".json"), old)
            replace(path, _before(path))
        # From here until the new one is written, a kill leaves an array without a
        # .json, which is made again
        path.with_suffix(".json").unlink(missing_ok=True)
    write_json(path.with_suffix(".json"), about)
    seconds = time.perf_counter() - begin
    print(f"Made {path}: {about['count']:,} pictures in {seconds:.0f} s.", flush=True)
    return about


class _Workers:
    """Processes that read pictures. Where one dies, its work is done once more."""

    def __init__(self):
        self._pool, self._died = _start(_worker_count()), 0

    def submit(self, function, *given):
        """Have function(*given) done; return its future."""
        for _ in range(KILLED):
            try:
                return self._pool.submit(function, *given)
            except BrokenProcessPool:
                self._pool.shutdown()
                self._pool = _start(_worker_count())
        raise BrokenProcessPool

    def result(self, function, *given):
        """Have function(*given) done, again if its process dies; return its result."""
        for _ in range(KILLED):
            with contextlib.suppress(BrokenProcessPool):
                return self.submit(function, *given).result()
        raise BrokenProcessPool

    def close(self):
        self._pool.shutdown(cancel_futures=True)

    def again(self, task):
        """Yield the results of a task whose process died; helper.fill did it.

        It is done in a process of its own and, should that die again and again, picture
        by picture. One that kills as many is a failure like others, up to DEADLY of
        them: then it is the machine rather than the pictures, and UserError.
        """
        result = _done_alone(task)
        if result:
            yield result
            return
        for one in _one_by_one(task):
            reason = "a process that read it was killed"
            failed = one[1], 0, [(_name_of_one(one), reason)]
            yield _done_alone(one) or self._count_death(failed)

    def _count_death(self, failed):
        self._died += 1
        if self._died > DEADLY:
            raise BrokenProcessPool
        return failed


def _done_alone(task):
    """Do a task of helper.fill in a process of its own, in another if that one dies.

    Returns what it returns, or None if KILLED of them died.
    """
    for _ in range(KILLED):
        pool = _start(1)
        try:
            return pool.submit(workers.fill, *task).result()
        except BrokenProcessPool:
            continue
        finally:
            pool.shutdown(cancel_futures=True)
    return None


def _one_by_one(task):
    """Split a task of helper.fill into one for each picture; cartoons stay whole."""
    path, offset, work, job = task
    if work is not workers.read_faces:
        raise BrokenProcessPool
    pictures, size = job
    for place in range(len(pictures)):
        yield (
            path,
            offset + place * size * size * 3,
            work,
            (pictures.part(place, 1), size),
        )


def _name_of_one(task):
    return task[3][0].names.decode("utf-8", "backslashreplace")


def _start(count):
    """Start a pool of processes, all of them at once."""
    # A new process imports the script that was started, and train.py would bring
    # Keras along: seconds and much memory for each. A script without a file has nothing
    # to import; the workers find helper or cartoons by themselves.
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(count, spawn, workers.attend)
        # One that is killed at once is found out by the next who submits
        with _ignored_interrupt(), contextlib.suppress(BrokenProcessPool):
            for _ in range(count):
                pool.submit(workers.ready)
        return pool
    finally:
        sys.modules["__main__"] = script


@contextlib.contextmanager
def _workers():
    """Give _Workers, and end them with the block."""
    workers = None
    try:
        workers = _Workers()
        yield workers
    except BrokenProcessPool:
        raise UserError(
            "Processes that read pictures were killed, for lack of memory most likely. "
            "Use fewer: python preprocess.py --workers 1"
        ) from None
    finally:
        if workers:
            workers.close()


@contextlib.contextmanager
def _ignored_interrupt():
    """Start processes in here, and they ignore Ctrl-C from their first moment on."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _worker_count():
    if WORKERS:
        return WORKERS
    # What this process may use, where the system tells
    return len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))(0))


def _results(pool, part, data, size, images):
    """Return how many faces to expect, and an iterator over what helper.fill returns.

    The source is listed in a worker too, and only its compact list comes here: this
    process goes on to train.
    """
    if data == "cartoons":
        total, work = images, functools.partial(workers.drawn, cartoons.cartoon_faces)
        firsts = range(0, total, JOB)
        jobs = ((CARTOON_SEED, at, min(JOB, total - at), size) for at in firsts)
    else:
        pictures = pool.result(sources.list_pictures, _source(data))
        total, work = len(pictures), workers.read_faces
        jobs = ((pictures.part(at, JOB), size) for at in range(0, total, JOB))
    begin, step = len(_header(0, size)), JOB * size * size * 3
    tasks = (
        (part, begin + number * step, work, job) for number, job in enumerate(jobs)
    )
    return min(images or total, total), _in_order(pool, tasks)


def _in_order(pool, tasks):
    """Yield the results of the tasks in order, a bounded number of them under way.

    When it is closed, none is under way any more.
    """
    waiting = collections.deque()
    try:
        for task in tasks:
            waiting.append((task, pool.submit(workers.fill, *task)))
            if len(waiting) > JOBS_AHEAD * _worker_count():
                yield from _results_of(pool, *waiting.popleft())
        while waiting:
            yield from _results_of(pool, *waiting.popleft())
    finally:
        wait([future for _, future in waiting if not future.cancel()])


def _results_of(pool, task, future):
    """Yield the one result of a task, or those of its parts if its process died."""
    try:
        yield future.result()
    except BrokenProcessPool:
        yield from pool.again(task)


def _check_room(path, count, size):
    """Raise UserError if an array of `count` faces would not fit on the disk."""
    face, free = size * size * 3, shutil.disk_usage(path.parent).free
    if free < count * face:
        raise UserError(
            f"{path} needs {count * face / 1e9:.1f} GB, and {path.parent} has "
            f"{free / 1e9:.1f} GB free. Make room, or --images {free // face}."
        )


def _join(part, results, size, images, bar):
    """Close the gaps of unreadable pictures in the array; return what the .json says.

    results: (offset, bytes, failures) of each job, in order.
    """
    face, begin = size * size * 3, len(_header(0, size))
    end, skipped, failures, checksum = begin, 0, [], hashlib.sha256()
    # Unbuffered, for a buffer would hold bytes from before a worker wrote them
    with open(part, "r+b", buffering=0) as file:
        for offset, length, failed in results:
            file.seek(offset)
            pixels = file.read(length)
            if images:
                pixels = pixels[: begin + images * face - end]
            if offset > end:
                file.seek(end)
                file.write(pixels)
            end += len(pixels)
            checksum.update(pixels)
            skipped += len(failed)
            failures += failed[: NAMED - len(failures)]
            bar.update(len(pixels) // face + len(failed))
            if images and end == begin + images * face:
                break
        results.close()  # some may still write, when no more faces are wanted
        count = (end - begin) // face
        file.truncate(end)
        file.seek(0)
        file.write(_header(count, size))
    bar.close()
    _report(count, skipped, failures)
    return {
        "count": count,
        "skipped": skipped,
        "limit": images if count == images else 0,
        "bytes": end,
        "checksum": checksum.hexdigest(),
    }


def _report(count, skipped, failures):
    """Print how many pictures were skipped, and the first few; refuse if all were."""
    named = "; ".join(f"{name}: {reason}" for name, reason in failures)
    if not count:
        raise UserError(f"None of the {skipped:,} pictures can be read. {named}.")
    if skipped:
        more = "; ..." if skipped > len(failures) else "."
        print(f"Skipped {skipped:,} unreadable pictures. {named}{more}", flush=True)


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
    shape = open_faces(prepared).shape
    print(f"Its first {prepared.count:,} are meant: {shape}, uint8.")


if __name__ == "__main__":
    run(main)
