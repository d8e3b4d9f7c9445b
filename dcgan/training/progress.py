"""How far a run is: what its checkpoints keep, its bar shows and its log says."""

import math
import time
from dataclasses import asdict, dataclass, field, replace

from dcgan.common.console import Bar
from dcgan.training.alarms import alarms


@dataclass
class Progress:
    """Where a run is, in values that JSON can hold, so that a checkpoint can.

    epoch and iteration (within the epoch, from 0) are those to do next.
    """

    epoch: int = 1
    iterations: int = 0  # done in all epochs
    rows: list = field(default_factory=list)  # of the log, one an epoch
    best: dict | None = None  # {"epoch", "score"} of the best generator, if any
    iteration: int = 0
    seconds: float = 0.0  # of the epoch so far
    waited: float = 0.0  # seconds of these that passed waiting for pictures
    sums: dict = field(default_factory=dict)  # of the epoch's scores so far

    def as_dict(self):
        """Return what take_up() takes."""
        return asdict(self)

    def take_up(self, saved):
        """Go to where a progress was saved, a dict; stay if it is None."""
        for name, value in (saved or {}).items():
            setattr(self, name, value)

    def place(self):
        """Name the iteration that comes next, as people count."""
        return f"epoch {self.epoch}, iteration {self.iteration + 1}"

    def add(self, scores):
        """Add the scores {name: (K,)} of K iterations.

        Raises FloatingPointError if one is not finite.
        """
        for values in zip(*scores.values(), strict=True):
            for name, value in zip(scores, map(float, values), strict=True):
                if not math.isfinite(value):
                    raise FloatingPointError(f"{name} is {value}")
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.iteration += 1
            self.iterations += 1

    def begin_next(self):
        """Go on to the next epoch; return the progress at the end of this one."""
        ended = replace(self)
        self.epoch, self.iteration = self.epoch + 1, 0
        self.seconds, self.waited, self.sums = 0.0, 0.0, {}
        return ended

    def end_epoch(self, faces, scores, stood):
        """Add the epoch's row, with scores and its alarms, to the log; begin the next.

        faces: real ones that an iteration took; scores: {column: number}, "diversity"
        at least; stood: seconds that training stood still for the epoch's end. Returns
        the row.
        """
        row = {"epoch": self.epoch, "iterations": self.iterations}
        row |= {name: total / self.iteration for name, total in self.sums.items()}
        row |= {
            **scores,
            "pictures_per_second": self.iteration * faces / self.seconds,
            "seconds": self.seconds,
            "waiting_share": self.waited / self.seconds,
            "end_seconds": stood,
        }
        rows = [*self.rows, row]
        seconds = sum(each["seconds"] + each.get("end_seconds", 0) for each in rows)
        row["run_pictures_per_second"] = self.iterations * faces / seconds
        row["alarm"] = "; ".join(alarms(rows))
        self.rows = rows
        self.begin_next()
        return row


class EpochBar(Bar):
    """The bar of what is left of an epoch, in pictures; it tells the run's end too.

    batches: the Batches of the run. Only the first process of several
    shows it.
    """

    def __init__(self, progress, epochs, batches, device):
        self.faces = batches.faces_each
        super().__init__(
            total=len(batches) * self.faces,
            initial=progress.iteration * self.faces,
            desc=f"Epoch {progress.epoch}/{epochs}",
            unit=" pictures",
            disable=not device.is_first,
        )
        self.progress = progress
        self.epochs_left = epochs - progress.epoch
        self.began = time.monotonic()

    def wait_for(self, batches):
        """Yield the batches, and add to the progress how long they let wait."""
        while True:
            began = self.began = time.monotonic()  # without what a checkpoint took
            batch = next(batches, None)
            self.progress.waited += time.monotonic() - began
            if batch is None:
                return
            yield batch

    def add(self, scores):
        """Add the scores {name: (K,)} of K iterations, or None, to the progress; show
        the last of them. Seconds count since the wait for the batch began.
        """
        if scores is not None:
            self.progress.add(scores)
            self._show(scores)
        now = time.monotonic()
        self.progress.seconds += now - self.began
        self.began = now

    def _show(self, scores):
        if self.disable:
            return
        self.update(self.progress.iteration * self.faces - self.n)
        seconds = self.format_dict["elapsed"] / (self.n - self.initial)  # for a picture
        left = seconds * (self.total - self.n + self.total * self.epochs_left)
        self.set_postfix_str(
            f"D {scores['d_loss'][-1]:.3f}, G {scores['g_loss'][-1]:.3f}, "
            f"run {Bar.format_interval(left)} left",
            refresh=False,
        )
