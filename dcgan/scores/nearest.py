"""Which real faces come nearest to fakes: whether a generator has learned by heart."""

import numpy as np

from dcgan.scores.metrics import squared_distances


def nearest(queries, faces, own=None):
    """Return the faces nearest to queries (q, S, S, 3) uint8, and the median distance.

    faces: (n, S, S, 3) uint8. They are compared by pixels, mirrored ones too, for
    training mirrors them. A distance is the root mean square over pixels and channels,
    in 0 .. 255. own: the number of the face (q,) that each query is itself, which does
    not count.
    """
    both = np.concatenate([queries, queries[:, :, ::-1]])
    rows = both.reshape(len(both), -1).astype("float32")
    near, number = np.full(len(both), np.inf), np.zeros(len(both), int)
    count = max(1, 2**24 // faces[0].size)  # at a time, in 64 MB as float32
    for first in range(0, len(faces), count):
        part = faces[first : first + count]
        between = squared_distances(rows, part.reshape(len(part), -1).astype("float32"))
        if own is not None:
            itself = np.tile(own, 2)[:, None] == first + np.arange(len(part))
            between[itself] = np.inf
        nearer = between.min(1) < near
        number[nearer] = first + between.argmin(1)[nearer]
        near[nearer] = between.min(1)[nearer]
    plain, mirrored = near.reshape(2, -1)
    chosen = faces[number[: len(queries)]].copy()
    turn = mirrored < plain
    chosen[turn] = faces[number[len(queries) :]][turn][:, :, ::-1]
    apart = (chosen.astype(float) - queries) ** 2  # anew, for `near` is rounded
    return chosen, float(np.median(np.sqrt(apart.mean((1, 2, 3)))))
