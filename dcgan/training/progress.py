"""How far a run is: what its checkpoints keep, its bar shows and its log says.

Progress is a dict that JSON can hold, so that a checkpoint can.
"""

import math
import time

import numpy as np

from dcgan.common.console import Bar
from dcgan.training.alarms import alarms


def first():
    """Return how far a new run is: epoch and iteration to do next, sums, log rows, and
    the {"epoch", "score"} of its best generator, if one is scored.
    """
    return {"epoch": 1, "iterations": 0, "rows": [], "best": None, **_new_epoch()}


def _new_epoch():
    return {
        "iteration": 0,  # within the epoch
        "seconds": 0.0,  # of the epoch so far
        "waited": 0.0,  # seconds of these that passed waiting for pictures
        "sums": {},  # of the epoch's scores so far
    }


def settle(progress, scores, bar, began):
    """Wait for a call's scores, add them to `progress`, show them; return the time.

    scores: {name: (K,)} on the device, or None if there was no call. Seconds count from
    `began`. Raises FloatingPointError if a score is not finite.
    """
    if scores is not None:
        scores = {name: np.asarray(row) for name, row in scores.items()}
        add(progress, scores)
        bar.show(progress, scores)
    now = time.monotonic()
    progress["seconds"] += now - began
    return now


def add(progress, scores):
    """Add a call's scores {name: (K,)} to `progress`.

    Raises FloatingPointError if one is not finite.
    """
    for values in zip(*scores.values(), strict=True):
        for name, value in zip(scores, map(float, values), strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value}")
            progress["sums"][name] = progress["sums"].get(name, 0.0) + value
        progress["iteration"] += 1
        progress["iterations"] += 1


def end_epoch(progress, batch_size, **more):
    """Add the epoch's row, with `more` and its alarms in it, to the log; go on to the
    next epoch.
    """
    iterations, seconds = progress["iteration"], progress["seconds"]
    row = {"epoch": progress["epoch"], "iterations": progress["iterations"]}
    row |= {name: sum_ / iterations for name, sum_ in progress["sums"].items()}
    row |= {
        **more,
        "pictures_per_second": iterations * batch_size / seconds,
        "seconds": seconds,
        "waiting_share": progress["waited"] / seconds,
    }
    row["alarm"] = "; ".join(alarms([*progress["rows"], row]))
    rows = [*progress["rows"], row]
    progress |= {"epoch": progress["epoch"] + 1, "rows": rows, **_new_epoch()}


class EpochBar(Bar):
    """The bar of what is left of an epoch, in pictures; it tells the run's end too."""

    def __init__(self, progress, epochs, iterations, batch_size, **options):
        super().__init__(
            total=iterations * batch_size,
            initial=progress["iteration"] * batch_size,
            desc=f"Epoch {progress['epoch']}/{epochs}",
            unit=" pictures",
            **options,
        )
        self.batch_size, self.epochs_left = batch_size, epochs - progress["epoch"]

    def show(self, progress, scores):
        """Move on to where `progress` is, with the last of a call's scores."""
        if self.disable:
            return
        self.update(progress["iteration"] * self.batch_size - self.n)
        seconds = self.format_dict["elapsed"] / (self.n - self.initial)  # for a picture
        left = seconds * (self.total - self.n + self.total * self.epochs_left)
        self.set_postfix_str(
            f"D {scores['d_loss'][-1]:.3f}, G {scores['g_loss'][-1]:.3f}, "
            f"run {Bar.format_interval(left)} left",
            refresh=False,
        )
