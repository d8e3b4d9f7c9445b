"""What lies between faces, sums of them, and directions."""

import numpy as np
import pytest

from dcgan.common.console import UserError
from dcgan.training import chance, latent

LATENT = 100


def noise(count, seed=1):
    return chance.noise(seed, "generate", (count, LATENT))


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def test_a_walk_passes_all_stops_evenly_and_returns():
    stops = chance.noise(1, "generate", (5, 100))
    way = latent.walk(stops, 500)
    assert way.dtype == np.float32
    to_stops = np.linalg.norm(way[:, None] - stops, axis=2)
    nearest = to_stops.argmin(0)
    assert (to_stops.min(0) < 0.2).all()
    assert (np.diff(nearest) > 50).all()  # in their order
    assert nearest[0] == 0
    steps = np.linalg.norm(np.diff(way, axis=0, append=way[:1]), axis=1)
    assert steps.max() < 2 * steps.min()  # the last leads to the first


def test_noise_on_the_way_is_distributed_as_noise():
    """On a straight line the middle would be nearer to 0: a variance of 1/6."""
    way = latent.walk(chance.noise(1, "generate", (200, 100)), 400)
    between = way[1::2]  # half-way
    assert abs(between.var() - 1 / 3) < 0.02
    assert np.abs(way).max() <= 1


@pytest.mark.parametrize("count", [1, 2])
def test_a_walk_of_few_faces_is_one_too(count):
    way = latent.walk(chance.noise(1, "generate", (count, 100)), 10)
    assert way.shape == (10, 100)
    assert np.isfinite(way).all()


def test_points_are_where_noise_is_in_a_normal_distribution():
    middle_and_quarters = np.array([[0, -0.5, 0.5, 0.954499736]])
    points = latent.to_points(middle_and_quarters)
    assert points == pytest.approx(np.array([[0, -0.67449, 0.67449, 2]]), abs=1e-4)
    there_and_back = latent.to_noise(latent.to_points(noise(50)))
    assert there_and_back.dtype == np.float32
    assert np.abs(there_and_back - noise(50)).max() < 1.1e-4
    assert np.isfinite(latent.to_points(np.array([[-1.0, 1.0]]))).all()


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", []), ("3", [3]), ("3,17,40", [3, 17, 40]), (" 3 , 100000", [3, 100000])],
)
def test_numbers_are_read_with_commas_between(text, numbers):
    assert latent.numbers_in(text, "faces") == numbers


@pytest.mark.parametrize(
    "text", ["0", "3,,4", "3,", "-3", "3 4", "x", "1.5", "100001", "9" * 5000, "\u0663"]
)
def test_other_texts_are_refused_in_one_line(text):
    with pytest.raises(UserError, match=r"as in 3,17,40$") as refused:
        latent.numbers_in(text, "mean")
    assert refused.value.code.startswith("--mean")
    assert "\n" not in refused.value.code


def test_a_row_leads_from_one_face_to_the_other_evenly_and_never_near_the_middle():
    one, other = noise(2)
    row = latent.row(one, other, 9)
    assert row.shape == (9, LATENT)
    assert np.abs(row[0] - one).max() < 2e-4
    assert np.abs(row[-1] - other).max() < 2e-4
    steps = np.linalg.norm(np.diff(row, axis=0), axis=1)
    assert steps.max() < 1.5 * steps.min()
    points = latent.to_points(row)
    lengths = np.linalg.norm(points, axis=1)
    assert lengths.min() > 0.99 * min(lengths[0], lengths[-1])
    assert np.abs(latent.row(one, one, 3) - one).max() < 2e-4


def test_the_weights_of_a_sum_are_those_of_its_means():
    weights = latent.weights_of([("", [3, 17]), ("-", [5]), ("+", [20, 21, 22, 23])])
    assert weights == {3: 0.5, 17: 0.5, 5: -1, **dict.fromkeys([20, 21, 22, 23], 0.25)}


def test_what_is_added_and_taken_away_is_as_if_it_had_not_been():
    weights = latent.weights_of([("", [3]), ("-", [3]), ("+", [7])])
    of = noise(7)[np.array([*weights]) - 1]
    left = latent.sum_of(of, [*weights.values()])
    assert np.abs(left - noise(7)[6]).max() < 2e-4
    with pytest.raises(UserError, match="cancel each other out"):
        latent.weights_of([("", [3, 4]), ("-", [4, 3])])


def test_the_mean_of_one_face_is_that_face():
    assert np.abs(latent.sum_of(noise(1), [1.0]) - noise(1)[0]).max() < 2e-4


@pytest.mark.parametrize("weights", [[1 / 3] * 3, [1, -1, 1], [0.5, 0.5, -1]])
def test_sums_are_distributed_as_noise(weights):
    """The mean of three numbers that are uniform has a variance of 1/9, not 1/3."""
    many = noise(3 * 400).reshape(400, 3, LATENT)
    sums = np.array([latent.sum_of(three, weights) for three in many])
    assert abs(sums.var() - 1 / 3) < 0.01
    assert abs(np.mean(np.abs(sums) < 0.5) - 0.5) < 0.01  # uniform
    of_first = np.array([cosine(*pair) for pair in zip(sums, many[:, 0], strict=True)])
    assert abs(of_first.mean() - weights[0] / np.linalg.norm(weights)) < 0.03


def test_what_is_around_a_face_is_near_it_and_noise_too():
    [face] = noise(1)
    near = latent.around(face, 400, 1)
    assert near.shape == (400, LATENT)
    points = latent.to_points(near)
    cosines = [cosine(each, latent.to_points(face)) for each in points]
    assert np.mean(cosines) == pytest.approx(np.sqrt(1 - latent.AROUND**2), abs=0.01)
    assert np.std(points - points.mean(0)) == pytest.approx(latent.AROUND, abs=0.01)
    length = np.linalg.norm(latent.to_points(face))
    lengths = np.linalg.norm(points, axis=1)
    expected = np.hypot(length * np.sqrt(1 - latent.AROUND**2), latent.AROUND * 10)
    assert np.sqrt(np.mean(lengths**2)) == pytest.approx(expected, rel=0.01)
    assert (near == latent.around(face, 400, 1)).all()
    assert (near != latent.around(face, 400, 2)).any()


def test_along_a_direction_a_face_goes_from_less_to_more_and_keeps_its_length():
    direction = np.full(LATENT, 0.1)  # of length 1
    moved = latent.along(noise(5), direction, [-3, -1, 0, 1, 3])
    assert (moved.shape, moved.dtype) == ((5, 5, LATENT), np.float32)
    assert np.abs(moved[:, 2] - noise(5)).max() < 2e-4  # the face itself
    before, after = latent.to_points(noise(5)), latent.to_points(moved)
    assert (np.diff(after @ direction, axis=1) > 0).all()
    lengths = np.linalg.norm(after, axis=2) / np.linalg.norm(before, axis=1)[:, None]
    assert np.abs(lengths - 1).max() < 1e-3
    for face, one_step in zip(before, after[:, 3], strict=True):
        expected = face + direction
        assert cosine(one_step, expected) == pytest.approx(1, abs=1e-5)


def test_the_directions_of_what_is_linear_are_found_exactly():
    rng = np.random.default_rng(3)
    slopes = rng.normal(size=(3, LATENT))
    values = latent.to_points(noise(500)) @ slopes.T * 7 + 40
    found = latent.directions(noise(500), values)
    assert (found.shape, found.dtype) == ((3, LATENT), np.float32)
    expected = slopes / np.linalg.norm(slopes, axis=1, keepdims=True)
    assert np.abs(found - expected).max() < 1e-5
    assert latent.correlations(noise(500, 2), found, values) == pytest.approx(
        [0, 0, 0], abs=0.2
    )
    again = latent.to_points(noise(500, 2)) @ slopes.T
    told = latent.correlations(noise(500, 2), found, again)
    assert told == pytest.approx([1, 1, 1], abs=1e-4)


def test_what_is_the_same_everywhere_has_no_direction():
    values = np.full((500, 1), 4.0)
    found = latent.directions(noise(500), values)
    assert (found == 0).all()
    assert latent.correlations(noise(500), found, values) == [0]
