"""Processes that fill an array with faces."""

# Worker processes import this file: without numpy they start twice as fast.
import collections
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from PIL import Image

from dcgan.pictures.faces import read_face, to_face
from dcgan.pictures.sources import read_picture

# Jobs per worker that may be under way
JOBS_AHEAD = 3


class Job(NamedTuple):
    """Something for a worker to do: work() is called there, and its result comes back.

    first, last: the pictures that it is about, to be named if its process is killed
    """

    work: Callable
    first: str
    last: str


class KilledError(Exception):
    """A process was killed at its work; the text names the pictures: "a to b"."""


class Workers:
    """Processes that do jobs, `count` of them (0: one per core), within the block."""

    def __init__(self, count):
        # What this process may use, where the system says so
        cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))
        self.count = count or len(cores(0))
        if sys.platform == "win32":  # that waits for no more at once
            self.count = min(self.count, 61)

    def __enter__(self):
        # A new process imports the script that was started, and train.py would bring
        # Keras along: seconds and much memory for each. A script without a file has
        # nothing to import; what a job needs, the workers find by themselves.
        script = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            spawn = multiprocessing.get_context("spawn")
            all_begun = spawn.Event()
            self.pool = ProcessPoolExecutor(self.count, spawn, _begin, [all_begun])
            # One that is killed at once is noticed by the next that is submitted
            with _ignored_interrupt(), contextlib.suppress(BrokenProcessPool):
                for _ in range(self.count):
                    self.pool.submit(_be_there)
            all_begun.set()
        finally:
            sys.modules["__main__"] = script
        return self

    def __exit__(self, *_):
        self.pool.shutdown(cancel_futures=True)

    def in_order(self, jobs):
        """Yield the jobs' results in order, a bounded number of them under way.

        When it is closed, none is under way any more. Raises KilledError.
        """
        begun = collections.deque()
        try:
            for job in jobs:
                begun.append((job, self.pool.submit(job.work)))
                if len(begun) > JOBS_AHEAD * self.count:
                    yield begun[0][1].result()
                    begun.popleft()
            while begun:
                yield begun[0][1].result()
                begun.popleft()
        except BrokenProcessPool:
            left = [job for job, it in begun if not it.done() or it.exception()]
            # Jobs are begun in order: the first of those that are left were under way
            at_work = left[: self.count] or [job]
            first, last = at_work[0].first, at_work[-1].last
            raise KilledError(f"{first} to {last}") from None
        finally:
            wait([future for _, future in begun if not future.cancel()])


@contextlib.contextmanager
def _ignored_interrupt():
    """Start processes in here, and they ignore Ctrl-C from their first moment on.

    In another thread than the first, a web server's say, Python forbids it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _begin(all_begun):
    """Begin a worker process: leave Ctrl-C to the parent, and end when it does.

    all_begun: an Event to wait for. While one is idle, no further one would be started.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    all_begun.wait()


def _be_there():
    """Do nothing: a worker's first job, for which it must be there."""


def fill(path, offset, work):
    """Write the faces that work() gives into a file at `offset`, in a worker.

    work: returns the pixels of faces, bytes, and the unreadable as [(name, reason)].
    Returns (offset, number of bytes, the unreadable). Pixels go through no pipe to the
    parent: it would wait forever for the rest if a worker were killed in between.
    """
    pixels, unreadable = work()
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(pixels)
    return offset, len(pixels), unreadable


def drawn(draw, job, channels=3):
    """Give the faces draw(job), (n, S, S, 3) uint8, in the form of read_faces."""
    faces = draw(job)
    if channels == 1:
        return b"".join(Image.fromarray(it).convert("L").tobytes() for it in faces), []
    return faces.tobytes(), []


def read_faces(pictures, size, crop, channels=3):
    """Read Pictures: what a worker process does, again and again.

    crop: as of faces.read_face. Returns the pixels of the readable ones' faces, in
    order, as the bytes of an (n, S, S, channels) uint8 array, and the others as
    [(name, reason)]. Raises UserError when an archive is gone, or when the system
    refuses to read: that is no fault of the picture's, and it would be left out for
    good.
    """
    faces, unreadable = [], []
    with warnings.catch_warnings():
        # What Pillow takes for a bomb is refused at once, not only at twice the size;
        # what else it remarks on, such as a broken note, would fill the screen
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for picture in pictures:
            try:
                data = read_picture(picture)
                face = read_face(data, size, crop, picture.name, channels)
                faces.append(face.tobytes())
            except Exception as error:  # broken bytes raise nearly anything in Pillow
                reason = str(error) or type(error).__name__
                unreadable.append((picture.shown(), reason))
    return b"".join(faces), unreadable


def faces_of(pictures, size, crop, channels=3):
    """Turn pictures (n, H, W, 1, 3 or 4) uint8 to faces, in the form of read_faces."""
    faces = []
    for pixels in pictures:
        image = Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0])
        faces.append(to_face(image, size, crop, channels).tobytes())
    return b"".join(faces), []
