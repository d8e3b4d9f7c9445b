import threading
import time

import numpy as np
import pytest

from dcgan.training import batches as feed


def shown(count, batch_size, seed=1, epoch=1):
    return feed.order(count, batch_size, seed, epoch).tolist()


def test_an_epoch_shows_every_picture_once_but_those_that_fill_no_batch():
    batches = shown(103, 10)
    assert [len(batch) for batch in batches] == [10] * 10
    places = [place for batch in batches for place in batch]
    assert len(set(places)) == 100
    assert set(places) < set(range(103))


def test_who_sits_an_epoch_out_changes_from_epoch_to_epoch():
    absent = set()
    for epoch in range(20):
        absent |= set(range(19)) - set(shown(19, 10, epoch=epoch)[0])
    assert len(absent) > 15


def test_the_order_is_that_of_its_seed_and_epoch():
    assert shown(64, 8) == shown(64, 8)
    assert shown(64, 8, epoch=2) != shown(64, 8)
    assert shown(64, 8, seed=2) != shown(64, 8)


def test_the_order_is_shuffled():
    flat = feed.order(200, 10, 1, 1).ravel()
    assert sum(np.diff(flat) == 1) < 10


def test_half_of_the_faces_are_mirrored():
    choices = [feed.mirrored(50, 1, 1, number) for number in range(20)]
    assert 420 < np.sum(choices) < 580


def test_who_is_mirrored_depends_on_seed_epoch_and_batch_alone():
    places = [(1, 1, 0), (2, 1, 0), (1, 2, 0), (1, 1, 1)]
    choices = [feed.mirrored(50, *place).tobytes() for place in places]
    assert len(set(choices)) == 4
    assert choices == [feed.mirrored(50, *place).tobytes() for place in places]


def test_gathered_faces_are_copies_in_the_order_asked_for():
    faces = np.arange(5, dtype="uint8")[:, None, None, None] * np.ones(
        (1, 2, 2, 3), "uint8"
    )
    places = np.array([[4, 0], [2, 2], [1, 3]])
    gathered = feed.gather(faces, places)
    assert gathered.shape == (3, 2, 2, 2, 3)
    assert gathered.dtype == np.uint8
    assert (gathered == places[:, :, None, None, None]).all()
    gathered[:] = 99
    assert faces.max() == 4


@pytest.mark.parametrize(
    ("batches", "start", "steps", "expected"),
    [
        (10, 0, 4, [(0, 4), (4, 8), (8, 10)]),
        (8, 0, 4, [(0, 4), (4, 8)]),
        (10, 5, 4, [(5, 8), (8, 10)]),
        (10, 4, 4, [(4, 8), (8, 10)]),
        (10, 9, 4, [(9, 10)]),
        (10, 10, 4, []),
        (3, 0, 32, [(0, 3)]),
        (3, 0, 1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_an_epoch_is_cut_into_calls(batches, start, steps, expected):
    cut = [
        (numbers.start, numbers.stop) for numbers in feed.calls(batches, start, steps)
    ]
    assert cut == expected


def test_how_far_is_read_ahead_changes_nothing(monkeypatch):
    squares = [n * n for n in range(20)]
    for ahead in (1, 3, 100):
        monkeypatch.setattr(feed, "AHEAD", ahead)
        assert list(feed.read_ahead(lambda n: n * n, range(20))) == squares


def test_a_fault_while_reading_ahead_reaches_the_reader():
    def broken(_):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(feed.read_ahead(broken, range(8)))


def test_reading_that_is_left_early_ends_its_thread():
    before = threading.active_count()
    ahead = feed.read_ahead(str, range(80))
    next(ahead)
    assert threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before


def test_only_so_much_is_read_ahead(monkeypatch):
    monkeypatch.setattr(feed, "AHEAD", 3)
    made = []
    ahead = feed.read_ahead(made.append, range(80))
    next(ahead)
    end = time.monotonic() + 20
    while len(made) < 4 and time.monotonic() < end:
        pass
    assert made == [0, 1, 2, 3]
    next(ahead)
    ahead.close()
    assert len(made) <= 5
