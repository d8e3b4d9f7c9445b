"""Wrap the calls by which Python changes files: the n-th one is the process's last.

A write ends half-way; another call comes before or behind its effect. The process
kills itself by SIGKILL, so nothing of it can clean up.
"""

import builtins
import io
import os
import signal

CALLS = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir", "fsync")

_open = builtins.open


def arm(count):
    """Let the `count`-th call that changes a file kill this process."""
    left = [count]

    def is_last():
        left[0] -= 1
        return left[0] == 0

    for name in CALLS:
        setattr(os, name, _deadly(getattr(os, name), is_last, behind=count % 2))
    for module in (builtins, io):
        module.open = _opener(is_last)


def crop_or_die(image):
    """Return an image as it is; one of the shade 4 kills the process that crops it."""
    if image.getpixel((0, 0)) == (4, 4, 4):
        die()
    return image


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def _deadly(call, is_last, behind):
    def instead(*given, **named):
        if not is_last():
            return call(*given, **named)
        if behind:
            call(*given, **named)
        return die()

    return instead


def _opener(is_last):
    def opened(file, mode="r", *given, **named):
        stream = _open(file, mode, *given, **named)
        if isinstance(file, int) or not set(mode) & set("wa+x"):
            return stream
        return _Deadly(stream, is_last)

    return opened


class _Deadly:
    """A file whose write() may be the last thing that its process does."""

    def __init__(self, stream, is_last):
        self._stream, self._is_last = stream, is_last

    def write(self, data):
        if self._is_last():
            self._stream.write(data[: len(data) // 2])
            self._stream.flush()
            die()
        return self._stream.write(data)

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def __enter__(self):
        self._stream.__enter__()
        return self

    def __exit__(self, *error):
        return self._stream.__exit__(*error)

    def __iter__(self):
        return iter(self._stream)
