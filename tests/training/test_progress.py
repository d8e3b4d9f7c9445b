"""How far a run is, and the bar that shows it."""

import json
import math

import numpy as np
import pytest

from dcgan.training.devices import Device
from dcgan.training.progress import EpochBar, Progress

SCORES = ("d_loss", "g_loss", "real_accuracy", "fake_accuracy")


def scores_of(*values):
    """Return {score: (K,)}, of each score the same values."""
    return {name: np.array(values, "float32") for name in SCORES}


class TwoIterations:
    """The size of an epoch, in place of its batches."""

    faces_each = 8

    def __len__(self):
        return 2


class Second(Device):
    is_first = False


def test_an_epochs_row_has_the_means_of_its_iterations():
    progress = Progress(epoch=3, iterations=20, seconds=2.0, waited=0.5)
    progress.add(scores_of(0.25, 0.5))
    progress.add(scores_of(0.75))
    assert progress.place() == "epoch 3, iteration 4"
    row = progress.end_epoch(8, {"diversity": 0.875, "mmd": 0.125}, 0.5)
    assert row == {
        "epoch": 3,
        "iterations": 23,
        **dict.fromkeys(SCORES, 0.5),
        "diversity": 0.875,
        "mmd": 0.125,
        "pictures_per_second": 12.0,
        "seconds": 2.0,
        "waiting_share": 0.25,
        "end_seconds": 0.5,
        "run_pictures_per_second": 23 * 8 / 2.5,
        "alarm": "",
    }
    assert progress == Progress(epoch=4, iterations=23, rows=[row])


def test_the_row_names_its_alarms():
    progress = Progress(seconds=1.0)
    progress.add(scores_of(100.0))
    row = progress.end_epoch(8, {"diversity": 0.0}, 0.5)
    assert row["alarm"] == "collapse; losses run away"


def test_a_progress_comes_back_from_json_as_it_was():
    progress = Progress(seconds=1.5)
    progress.add(scores_of(0.1))
    progress.end_epoch(8, {"diversity": 1.0}, 0.5)
    progress.add(scores_of(0.3))
    again = Progress()
    again.take_up(json.loads(json.dumps(progress.as_dict())))
    assert again == progress
    again.take_up(None)
    assert again == progress


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_named_in_its_iteration(bad):
    progress = Progress()
    scores = scores_of(0.5, 0.5) | {"g_loss": np.array([0.5, bad])}
    with pytest.raises(FloatingPointError, match=r"g_loss is (nan|-?inf)"):
        progress.add(scores)
    assert progress.place() == "epoch 1, iteration 2"


def test_the_bar_adds_up_scores_and_the_time_that_pictures_let_wait(capsys):
    progress = Progress(epoch=2)
    with EpochBar(progress, 3, TwoIterations(), Device()) as bar:
        assert list(bar.wait_for(iter("ab"))) == ["a", "b"]
        bar.add(None)
        bar.add(scores_of(0.25, 0.5))
        assert bar.n == bar.total == 16
    assert progress.iteration == 2
    assert progress.seconds >= progress.waited > 0
    shown = capsys.readouterr().err
    assert "Epoch 2/3" in shown
    assert "16/16" in shown
    assert "D 0.500, G 0.500, run 00:" in shown


def test_the_bar_goes_on_where_an_epoch_was_stopped():
    with EpochBar(Progress(iteration=1), 1, TwoIterations(), Device()) as bar:
        assert (bar.n, bar.total) == (8, 16)


def test_only_the_first_process_shows_a_bar(capsys):
    progress = Progress()
    with EpochBar(progress, 1, TwoIterations(), Second()) as bar:
        bar.add(scores_of(0.25, 0.5))
    assert progress.iteration == 2
    assert capsys.readouterr().err == ""
