"""The processes that fill an array, and what they do."""

import functools
import operator
import os
import time

import numpy as np
import pytest

import cartoons
import helper
from dcgan.common.console import UserError
from dcgan.pictures import sources, workers
from dcgan.pictures.workers import Job, KilledError, Workers
from tests.pictures.samples import pack, plain, put, read_faces


def job(function, *values):
    return Job(functools.partial(function, *values), f"{values[0]} a", f"{values[0]} b")


def exploding(count):
    """Jobs of which the last one must not be begun."""
    yield from (job(operator.neg, number) for number in range(count))
    raise AssertionError("too far ahead")


def test_results_come_in_the_order_of_the_jobs_and_few_jobs_are_under_way():
    with Workers(2) as two:
        late = [job(time.sleep, 0.2), *(job(operator.neg, n) for n in range(20))]
        results = list(two.in_order(late))
        ahead = two.in_order(exploding(7))
        assert (next(ahead), results) == (0, [None, *range(0, -20, -1)])
        ahead.close()
        with pytest.raises(UserError, match=r"nowhere does not exist"):
            list(two.in_order([job(sources.list_pictures, "nowhere")]))


def test_a_killed_process_ends_it_and_the_pictures_at_fault_are_named():
    jobs = [job(operator.neg, 1), job(operator.neg, 2), job(os._exit, 9)]
    jobs += [job(operator.neg, number) for number in range(10, 20)]
    with Workers(1) as one:
        results = one.in_order(jobs)
        assert [next(results), next(results)] == [-1, -2]
        with pytest.raises(KilledError, match=r"^9 a to 9 b$"):
            next(results)
    with Workers(2) as two:
        results = two.in_order([job(time.sleep, 60), job(os._exit, 9), *jobs[3:]])
        with pytest.raises(KilledError, match=r"^60 a to 9 b$"):
            next(results)
        # Nor does anyone else get a result from them
        with pytest.raises(KilledError, match=r"^1 a to 1 b$"):
            list(two.in_order(jobs[:1]))


@pytest.mark.parametrize("source", ["folder", "pictures.zip"])
def test_jobs_fill_their_places_of_a_file(tmp_path, source):
    files = {f"{number:03}.png": plain((number, 0, 0)) for number in range(7)}
    files["005.png"] = b"no picture"
    put(tmp_path / "folder", files)
    pack(tmp_path / "pictures.zip", files)
    pictures = sources.list_pictures(tmp_path / source)
    path = tmp_path / "array"
    path.write_bytes(bytes(100))
    # As a process of its own gets it
    work = functools.partial(
        workers.read_faces, pictures[4:], size=2, crop=helper.crop_face
    )
    with Workers(1) as one:
        jobs = [Job(functools.partial(workers.fill, path, 40, work), "", "")]
        (filled,) = one.in_order(jobs)
    reason = "it is no JPEG, PNG, WEBP, BMP, GIF, TIFF"
    assert filled == (40, 2 * 12, [("005.png", reason)])
    data = path.read_bytes()
    assert (data[:40], data[64:]) == (bytes(40), bytes(36))
    assert data[40:64] == bytes([4, 0, 0] * 4 + [6, 0, 0] * 4)
    whole, _ = read_faces(pictures, 2)
    assert whole[-24:] == data[40:64]


def test_cartoons_come_in_the_form_of_pictures():
    pixels, unreadable = workers.drawn(cartoons.cartoon_faces, (0, 3, 2, 28))
    assert unreadable == []
    expected = cartoons.cartoon_faces((0, 3, 2, 28))
    assert np.array_equal(np.frombuffer(pixels, np.uint8), expected.ravel())
