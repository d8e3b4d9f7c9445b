"""What changes in the course of a run."""

import numpy as np
import pytest

from dcgan.training.schedules import Schedules, average_decay


def rates_at(epoch, iteration, hold=0.0, half_life=0.0):
    schedules = Schedules(2e-4, 4e-4, hold, half_life, 0.999)
    row = schedules.iteration(epoch, iteration, per_epoch=10)
    assert {row[name].dtype.name for name in row} == {"float32"}
    return [row[name] for name in ("g_rate", "d_rate") if name in row]


@pytest.mark.parametrize(
    ("epoch", "iteration", "hold", "share"),
    [
        (1, 0, 0, 1),
        (3, 0, 0, 0.5),
        (5, 0, 0, 0.25),
        (2, 5, 0, 0.5**0.75),
        (3, 0, 2, 1),
        (4, 9, 4, 1),
        (7, 0, 4, 0.5),
    ],
)
def test_both_rates_halve_in_every_half_life_after_the_hold(
    epoch, iteration, hold, share
):
    rates = rates_at(epoch, iteration, hold, half_life=2)
    assert rates == pytest.approx([2e-4 * share, 4e-4 * share])


def test_without_a_half_life_the_rates_are_left_alone():
    assert rates_at(9, 0, hold=2) == []


def test_the_averages_memory_grows_with_the_updates_of_the_whole_run():
    schedules = Schedules(2e-4, 2e-4, 0.0, 0.0, 0.9)
    for epoch, iteration, updates in ((1, 0, 1), (1, 9, 10), (3, 4, 25), (90, 0, 891)):
        decay = schedules.iteration(epoch, iteration, 10)["decay"]
        assert decay == np.float32(average_decay(updates, 0.9))
    assert average_decay(10, 0.999) == pytest.approx(0.5)
    assert average_decay(10**9, 0.999) == 0.999
    assert average_decay(5, 0.0) == 0
