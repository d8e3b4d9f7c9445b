"""What changes in the course of a run: learning rates, and the average's memory."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Schedules:
    """The learning rates of both networks and the decay of the averaged generator.

    The rates stay for `hold` epochs, and halve every `half_life` epochs from there on;
    if that is 0 they stay. Nothing depends on how long the run will be: one that is
    made longer goes on as if it had been meant to be that long.
    """

    g_rate: float
    d_rate: float
    hold: float
    half_life: float
    average_decay: float

    def iteration(self, epoch, iteration, per_epoch):
        """Return what an iteration needs of it, {name: () float32}.

        "decay" and, where the rates change, "g_rate" and "d_rate"; of an epoch's
        `per_epoch` iterations the first is 0.
        """
        updates = (epoch - 1) * per_epoch + iteration + 1
        decay = {"decay": np.float32(average_decay(updates, self.average_decay))}
        if not self.half_life:
            return decay
        epochs = epoch - 1 + iteration / per_epoch
        share = 0.5 ** (max(0, epochs - self.hold) / self.half_life)
        rates = {"g_rate": self.g_rate * share, "d_rate": self.d_rate * share}
        return decay | {name: np.float32(rate) for name, rate in rates.items()}


def average_decay(iteration, target):
    """Return the decay of the averaged generator after `iteration` updates of G.

    min(target, 1 - 1 / (1 + iteration / 10)): the average reaches back over about a
    tenth of the run so far, until that is 1 / (1 - target) iterations. A fixed
    long memory would keep the noise of the first iterations in the picture.
    """
    return min(target, 1 - 1 / (1 + iteration / 10))
