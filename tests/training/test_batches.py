"""An epoch's batches: which, cut how, read ahead."""

import threading
import time

import numpy as np
import pytest

from dcgan.training import batches, hardware
from dcgan.training.batches import Batches
from dcgan.training.chance import Chance
from dcgan.training.devices import Device
from dcgan.training.progress import Progress
from dcgan.training.schedules import Schedules


def test_gathered_faces_are_copies_in_the_order_asked_for():
    faces = np.arange(5, dtype="uint8")[:, None, None, None] * np.ones(
        (1, 2, 2, 3), "uint8"
    )
    places = np.array([[4, 0], [2, 2], [1, 3]])
    gathered = batches.gather(faces, places)
    assert gathered.shape == (3, 2, 2, 2, 3)
    assert gathered.dtype == np.uint8
    assert (gathered == places[:, :, None, None, None]).all()
    gathered[:] = 99
    assert faces.max() == 4


def test_calls_on_a_gpu_leave_few_iterations_of_an_epoch_over():
    assert batches.filling(627, 32, 63) == 57  # 11 calls, where 32 would leave 19 over
    assert batches.filling(40, 32, 63) == 40
    assert batches.filling(1, 32, 63) == 2  # 1 would be plain train_on_batch
    assert batches.filling(40, 4, 4) == batches.filling(3, 4, 4) == 4  # as was asked
    for iterations in range(64, 2000, 7):
        each = batches.filling(iterations, 32, 63)
        assert 32 <= each < 64
        assert iterations % each == min(iterations % k for k in range(32, 64))


def test_calls_that_carry_their_faces_fill_an_epoch_too(monkeypatch):
    monkeypatch.setattr(batches, "LARGEST", 50 * 12)
    faces = np.zeros((2 * 45, 2, 2, 3), "uint8")
    chance = Chance(seed=1, batch_size=2, latent=1)
    some = Batches(faces, chance, Schedules(1e-4, 1e-4, 0, 0, 0.9), 4, Device(), 63)
    assert some.steps == 15  # 25 fit, 15 leave none of 45 over


@pytest.mark.parametrize(
    ("iterations", "start", "steps", "expected"),
    [
        (10, 0, 4, [(0, 4), (4, 8), (8, 9), (9, 10)]),
        (8, 0, 4, [(0, 4), (4, 8)]),
        (11, 5, 4, [(5, 6), (6, 7), (7, 8), (8, 9), (9, 10), (10, 11)]),
        (13, 6, 4, [(6, 7), (7, 8), (8, 12), (12, 13)]),
        (10, 4, 4, [(4, 8), (8, 9), (9, 10)]),
        (10, 9, 4, [(9, 10)]),
        (10, 10, 4, []),
        (3, 0, 32, [(0, 1), (1, 2), (2, 3)]),
        (3, 0, 1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_an_epoch_is_cut_into_calls(iterations, start, steps, expected):
    calls = batches.cut(iterations, start, steps)
    assert [(call.start, call.stop) for call in calls] == expected


@pytest.mark.parametrize(
    ("size", "batch", "expected"), [(28, 32, 32), (64, 128, 10), (128, 1024, 1)]
)
def test_a_call_holds_sixteen_megabytes_of_pictures(size, batch, expected):
    faces = np.broadcast_to(np.uint8(0), (4096, size, size, 3))
    chance = Chance(seed=1, batch_size=batch, latent=1)
    made = Batches(faces, chance, Schedules(1e-4, 1e-4, 0, 0, 0.9), 32, Device())
    assert made.steps == expected


def test_how_far_is_read_ahead_changes_nothing(monkeypatch):
    squares = [n * n for n in range(20)]
    for ahead in (1, 3, 100):
        monkeypatch.setattr(batches, "AHEAD", ahead)
        assert list(batches.read_ahead(lambda n: n * n, range(20))) == squares


def test_a_fault_while_reading_ahead_reaches_the_reader():
    def broken(_):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(batches.read_ahead(broken, range(8)))


def test_reading_that_is_left_early_ends_its_thread():
    before = threading.active_count()
    ahead = batches.read_ahead(str, range(80))
    next(ahead)
    assert threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before


def test_only_so_much_is_read_ahead(monkeypatch):
    monkeypatch.setattr(batches, "AHEAD", 3)
    made = []
    ahead = batches.read_ahead(made.append, range(80))
    next(ahead)
    end = time.monotonic() + 20
    while len(made) < 4 and time.monotonic() < end:
        pass
    assert made == [0, 1, 2, 3]
    next(ahead)
    ahead.close()
    assert len(made) <= 5


def faces_by_number(count):
    """Make faces (count, 2, 2, 3) whose pixels are their place in the array."""
    return (
        np.arange(count, dtype="uint8")[:, None, None, None]
        .repeat(12, 1)
        .reshape(count, 2, 2, 3)
    )


SCHEDULES = Schedules(2e-4, 2e-4, 0.0, 3.0, 0.999)


@pytest.mark.parametrize("d_steps", [1, 2])
def test_calls_get_the_batches_that_are_left_of_an_epoch(d_steps):
    chance = Chance(1, 8 // d_steps, 5, d_steps=d_steps, g_steps=2)
    epochs = Batches(faces_by_number(43), chance, SCHEDULES, 2, Device())
    assert len(epochs) == 5
    assert epochs.faces_each == 8

    def calls_from(epoch, iteration):
        with epochs.left_of_epoch(Progress(epoch, iteration=iteration)) as left:
            return [{name: np.asarray(call[name]) for name in call} for call in left]

    whole = calls_from(2, 0)
    assert [len(call["real"]) for call in whole] == [2, 2, 1]
    joined = {name: np.concatenate([call[name] for call in whole]) for name in whole[0]}
    assert joined["real"].shape == (5, d_steps, 8 // d_steps, 2, 2, 3)
    assert joined["real"].dtype == np.uint8
    assert (joined["real"][..., 0, 0, 0] == chance.order(43, 2)).all()
    assert (np.ptp(joined["real"], axis=(3, 4, 5)) == 0).all()
    for iteration in range(5):
        expected = chance.iteration(2, iteration)
        expected |= SCHEDULES.iteration(2, iteration, 5)
        assert set(joined) == {"real", *expected}
        for name, array in expected.items():
            np.testing.assert_array_equal(joined[name][iteration], array)
    late = calls_from(2, 3)
    assert [len(call["real"]) for call in late] == [1, 1]
    for name in joined:
        array = np.concatenate([call[name] for call in late])
        np.testing.assert_array_equal(array, joined[name][3:])


def test_where_the_faces_lie_on_the_device_calls_get_their_places(monkeypatch):
    monkeypatch.setattr(hardware, "has_room", lambda size: size == 43 * 12)
    faces, chance = faces_by_number(43), Chance(1, 8, 5)
    monkeypatch.setattr(batches, "LARGEST", 1)  # no matter for a few places
    epochs = Batches(faces, chance, SCHEDULES, 2, Device())
    assert (np.asarray(epochs.held) == faces).all()
    with epochs.left_of_epoch(Progress(2)) as left:
        calls = [{name: np.asarray(call[name]) for name in call} for call in left]
    assert [len(call["places"]) for call in calls] == [2, 2, 1]
    places = np.concatenate([call["places"] for call in calls])
    assert (places == chance.order(43, 2)).all()
    assert "real" not in calls[0]
    assert {"mirrored", "d_noise", "g_noise"} < set(calls[0])


class SecondOfTwo(Device):
    """The second of two processes, on this machine's device."""

    def share_of(self, batch_size):
        return slice(batch_size // 2, batch_size)


def test_each_process_gets_its_share_of_what_belongs_to_a_face():
    arguments = faces_by_number(43), Chance(1, 8, 5), SCHEDULES, 5
    halves = []
    for device in (Device(), SecondOfTwo()):
        with Batches(*arguments, device).left_of_epoch(Progress()) as left:
            halves.append(
                {name: np.asarray(array) for name, array in next(left).items()}
            )
    whole, second = halves
    for name, array in whole.items():
        mine = array if array.ndim == 1 else array[:, :, 4:]
        np.testing.assert_array_equal(second[name], mine)
