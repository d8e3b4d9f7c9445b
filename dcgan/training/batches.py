"""One epoch's faces in batches, read ahead on a thread while the device works.

Which faces a batch holds, and which of them are mirrored, depends on the seed, the
epoch and the batch's number alone: a run that was stopped goes on with the next one.
"""

import collections
from concurrent.futures import ThreadPoolExecutor

import numpy as np

# Calls of the device that are prepared while it works on another
AHEAD = 2

# What the streams of random numbers here are for: default_rng((seed, purpose, ...))
SHUFFLE, FLIP = 1, 2


def order(count, batch_size, seed, epoch):
    """Return the places (batches, B) in the array of the faces of each batch.

    Every picture comes at most once, and the last count % B sit the epoch out: batch
    normalization needs full batches.
    """
    places = np.random.default_rng((seed, SHUFFLE, epoch)).permutation(count)
    return places[: count // batch_size * batch_size].reshape(-1, batch_size)


def mirrored(batch_size, seed, epoch, number):
    """Choose the faces (B,) bool of a batch to be shown mirrored: half, on average."""
    random = np.random.default_rng((seed, FLIP, epoch, number))
    return random.random(batch_size) < 0.5


def gather(faces, places):
    """Copy faces from an array (N, S, S, 3), as (*places.shape, S, S, 3)."""
    return np.take(np.asarray(faces), places, axis=0)


def calls(batches, start, steps):
    """Cut the numbers start .. batches - 1 into ranges, one for each call.

    They end at multiples of `steps`, so an epoch that was stopped somewhere is soon
    cut as one that was not.
    """
    ends = [*range(start - start % steps + steps, batches, steps), batches]
    return [
        range(first, end)
        for first, end in zip([start, *ends], ends, strict=False)
        if first < end
    ]


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
