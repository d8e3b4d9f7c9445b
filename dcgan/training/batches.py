"""One epoch's batches, read ahead on a thread while the device works."""

import collections
import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

# Calls of the device that are prepared while it works on another
AHEAD = 2

# Bytes of pictures in a call, more than one iteration's at most: for larger arrays the
# system hands out fresh memory each time, at half the speed
LARGEST = 16e6


class Batches:
    """The batches of a run's epochs, in calls of at most `steps` iterations each.

    faces: (N, S, S, C) uint8. Each process gets its share of every batch, on its
    device. Its length is that of an epoch, in iterations.

    held: the faces on the device, if they fit there. Calls then get the "places" of
    their faces, and take these by themselves; else "real", the faces.

    most: if more than `steps`, calls may be of so many iterations, see filling().
    """

    def __init__(self, faces, chance, schedules, steps, device, most=0):  # noqa: PLR0913
        self.faces, self.chance, self.schedules = faces, chance, schedules
        self.faces_each = chance.batch_size * chance.d_steps  # of an iteration
        self.held, self.device = device.hold(faces), device
        most = max(most, steps)
        if self.held is None:
            fitting = LARGEST // (self.faces_each * faces[0].nbytes)
            most = max(1, min(most, int(fitting)))
        self.steps = filling(len(self), min(steps, most), most)

    def __len__(self):
        return len(self.faces) // self.faces_each

    @contextlib.contextmanager
    def left_of_epoch(self, progress):
        """Give an iterator over {name: (K, ...)} of the calls that are left to do."""
        epoch = progress.epoch
        order = self.chance.order(len(self.faces), epoch)
        calls = cut(len(self), progress.iteration, self.steps)
        ahead = read_ahead(lambda call: self._prepare(epoch, order, call), calls)
        with contextlib.closing(ahead):
            yield ahead

    def _prepare(self, epoch, order, call):
        rows = [
            self.chance.iteration(epoch, number)
            | self.schedules.iteration(epoch, number, len(self))
            for number in call
        ]
        batches = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        mine = self.device.share_of(self.chance.batch_size)
        batches = {
            name: array[:, :, mine] if array.ndim > 2 else array
            for name, array in batches.items()
        }
        places = order[call.start : call.stop, :, mine]
        if self.held is None:
            batches["real"] = gather(self.faces, places)
        else:
            batches["places"] = places.astype("int32")
        return self.device.hand_over(batches)


def gather(faces, places):
    """Copy faces from an array (N, S, S, 3), as (*places.shape, S, S, 3)."""
    return np.take(np.asarray(faces), places, axis=0)


def filling(iterations, fewest, most):
    """Return how many iterations a call should make, from `fewest` to `most`, that as
    few of an epoch as can be are left over; of a shorter epoch all of them.
    """
    if fewest < most and iterations <= most:
        return max(2, iterations)
    return min(range(fewest, most + 1), key=lambda each: (iterations % each, -each))


def cut(iterations, start, steps):
    """Cut the numbers start .. iterations - 1 into ranges, one for each call.

    All are of `steps`, and those that do not fill such a call are done one by one: each
    other length would be compiled for itself.
    """
    calls = []
    while start < iterations:
        is_whole = start % steps == 0 and start + steps <= iterations
        calls.append(range(start, start + (steps if is_whole else 1)))
        start = calls[-1].stop
    return calls


def read_ahead(make, items):
    """Yield make(item) of each item, made on a thread that is AHEAD of what is asked.

    The thread ends with the generator. What `make` raises comes out of it.
    """
    thread = ThreadPoolExecutor(1)
    try:
        waiting = collections.deque()
        for item in items:
            waiting.append(thread.submit(make, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)
