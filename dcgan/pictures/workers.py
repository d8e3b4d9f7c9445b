"""What the processes do that read pictures."""

# Worker processes import this file: without numpy they start twice as fast.
import os
import signal
import threading
import warnings
from multiprocessing import parent_process

from PIL import Image

from dcgan.pictures.faces import read_face
from dcgan.pictures.sources import ROW, read_picture


def attend():
    """Begin a worker process: leave Ctrl-C to the parent, and end when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def ready():
    """Do nothing: a worker's first job, for which it must be there."""


def fill(path, offset, work, job):
    """Write the faces that work(job) gives into a file at `offset`.

    Returns (offset, number of bytes, failures). Pixels do not go through a pipe to the
    parent: it would wait forever for the rest if a worker were killed in between.
    """
    pixels, failures = work(job)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(pixels)
    return offset, len(pixels), failures


def drawn(draw, job):
    """Give the faces draw(job), (n, S, S, 3) uint8, in the form of read_faces."""
    return draw(job).tobytes(), []


def read_faces(job):
    """Read (Pictures, size S): what a worker process does, again and again.

    Returns the pixels of the readable ones' faces, in order, as the bytes of an
    (n, S, S, 3) uint8 array, and the others as [(name, reason)]. Raises UserError when
    an archive is gone, or when the system refuses to read: that is no fault of the
    picture's, and it would be left out for good.
    """
    pictures, size = job
    faces, failures = [], []
    with warnings.catch_warnings():
        # What Pillow takes for a bomb is refused at once, not only at twice the size;
        # what else it remarks on, such as a broken note, would fill the screen
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for begin, end, *place in ROW.iter_unpack(pictures.rows):
            name = pictures.names[begin:end]
            try:
                data = read_picture(pictures, name, *place)
                faces.append(read_face(data, size).tobytes())
            except Exception as error:  # broken bytes raise nearly anything in Pillow
                shown = name.decode("utf-8", "backslashreplace")
                failures.append((shown, str(error) or type(error).__name__))
    return b"".join(faces), failures
