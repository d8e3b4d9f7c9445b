import time

import numpy as np
import pytest

from dcgan.scores import metrics


def features(n, d=24, shift=0.0, seed=0):
    """Draw correlated features (n, d) float32, of very different variances."""
    random = np.random.default_rng((seed, n, d))
    mix = np.random.default_rng(d).normal(size=(d, d))
    return (random.normal(size=(n, d)) @ mix + shift).astype("float32")


def faces(n, seed=0, size=28, low=0, high=256):
    random = np.random.default_rng((seed, n))
    return random.integers(low, high, (n, size, size, 3), dtype="uint8")


def direct_fid(real, fake, trace_of_root):
    real, fake = real.astype("float64"), fake.astype("float64")
    a, b = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    apart = real.mean(0) - fake.mean(0)
    return apart @ apart + np.trace(a + b) - 2 * trace_of_root(a @ b)


def by_eigenvalues(matrix):
    return np.sqrt(np.linalg.eigvals(matrix).real).sum()


def direct_mmd(real, fake, kernel):
    """Gretton et al. 2012, equation 3, pair by pair."""

    def mean(pairs):
        return np.mean([kernel(x, y) for x, y in pairs])

    def others(rows):
        return [
            (x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j
        ]

    across = [(x, y) for x in real for y in fake]
    return mean(others(real)) + mean(others(fake)) - 2 * mean(across)


@pytest.mark.parametrize(("n", "m"), [(200, 300), (300, 200), (1500, 1200)])
def test_fid_is_what_its_formula_gives(n, m):
    real, fake = features(n), features(m, shift=0.3, seed=1)
    expected = direct_fid(real, fake, by_eigenvalues)
    assert metrics.fid(real, fake) == pytest.approx(expected, rel=1e-6)
    assert metrics.fid(fake, real) == pytest.approx(expected, rel=1e-6)


def test_fid_is_what_scipys_matrix_root_gives():
    linalg = pytest.importorskip("scipy.linalg")
    real, fake = features(300), features(200, shift=0.3, seed=1)
    expected = direct_fid(real, fake, lambda ab: np.trace(linalg.sqrtm(ab).real))
    assert metrics.fid(real, fake) == pytest.approx(expected, rel=1e-6)


def test_fid_of_two_normal_distributions_is_known():
    # Between N(0, 1) and N(a, s^2), independent dimensions: a^2 + (1 - s)^2 each
    random = np.random.default_rng(3)
    real = random.normal(size=(200_000, 3))
    fake = random.normal(size=(200_000, 3)) * [1, 2, 0.5] + [1, 0, 3]
    assert metrics.fid(real, fake) == pytest.approx(1 + 1 + 9 + 0.25, rel=0.02)


@pytest.mark.parametrize("n", [12, 30])
def test_fid_bears_fewer_features_than_dimensions_and_dead_ones(n):
    real, fake = features(n), features(12, seed=1)
    real[:, 3] = fake[:, 3] = 0
    roots = np.linalg.svd(
        (real - real.mean(0)) @ (fake - fake.mean(0)).T, compute_uv=False
    )
    spread = real.var(0, ddof=1).sum() + fake.var(0, ddof=1).sum()
    apart = ((real.mean(0) - fake.mean(0)) ** 2).sum()
    expected = apart + spread - 2 * roots.sum() / np.sqrt((n - 1) * 11)
    assert metrics.fid(real, fake) == pytest.approx(expected, rel=1e-5)


def test_fid_of_equal_sets_is_nothing():
    real = features(100)
    assert metrics.fid(real, real[::-1]) == pytest.approx(0, abs=1e-3)


def test_kid_is_the_unbiased_formula_over_all_pairs(monkeypatch):
    real, fake = features(30), features(20, shift=0.5, seed=1)
    expected = direct_mmd(
        real.astype("float64"),
        fake.astype("float64"),
        lambda x, y: (x @ y / 24 + 1) ** 3,
    )
    assert metrics.kid(real, fake)[0] == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(metrics, "ROWS", 7)
    assert metrics.kid(real, fake)[0] == pytest.approx(expected, rel=1e-6)


def repeat(shift, times=60):
    found = [
        metrics.kid(features(60, seed=seed), features(90, shift=shift, seed=900 + seed))
        for seed in range(times)
    ]
    return np.array(found).T


def test_kid_of_sets_that_are_alike_is_zero_on_average():
    estimates, _ = repeat(0.0)
    assert abs(estimates.mean()) < 3 * estimates.std() / np.sqrt(len(estimates))
    assert (estimates < 0).any()  # as nothing biased could be


def test_the_standard_error_is_how_much_kid_varies():
    estimates, errors = repeat(1.5)
    assert estimates.mean() > 3 * estimates.std() / np.sqrt(len(estimates))
    assert np.sqrt((errors**2).mean()) == pytest.approx(estimates.std(), rel=0.3)


def test_kid_and_fid_know_noise_from_a_shift_from_the_same():
    real = features(400)
    others = [
        features(400, seed=1),
        features(400, shift=0.3, seed=1),
        features(400, shift=2.0, seed=1),
    ]
    for score in (metrics.fid, lambda *sets: metrics.kid(*sets)[0]):
        found = [score(real, other) for other in others]
        assert found == sorted(found)


# On a line: the real at 0, 1, 3, 7; each reaches to its k-th nearest other
LINE = np.array([[0.0], [1], [3], [7]])


@pytest.mark.parametrize(
    ("fake", "k", "precision", "recall"),
    [
        # With k = 1 the real reach 1, 1, 2, 4: from -1 to 11. Of the fakes two reach 6
        ([[-1.0], [5], [11], [11.5]], 1, 3 / 4, 4 / 4),
        # These reach .5 each: 1 lies within, nothing else
        ([[1.0], [1.5], [20], [20.5]], 1, 2 / 4, 1 / 4),
        # With k = 2 the real reach 3, 2, 3, 6: to -3 and 13
        ([[-3.0], [-3.1], [13], [13.1]], 2, 2 / 4, 4 / 4),
        # With k = 3 they reach 7, 6, 4, 7
        ([[-7.0], [-7.1], [14], [14.1]], 3, 2 / 4, 4 / 4),
        # One place drawn again and again is precise and recalls nothing but itself
        ([[3.0], [3], [3], [3], [3]], 3, 1, 1 / 4),
    ],
)
def test_precision_and_recall_of_points_on_a_line(fake, k, precision, recall):
    found = metrics.precision_recall(LINE, np.array(fake), k)
    assert found == (precision, recall)


def test_three_neighbours_are_the_default():
    fake = features(50, shift=2.0, seed=1)
    assert metrics.precision_recall(features(40), fake) == metrics.precision_recall(
        features(40), fake, k=3
    )


def test_precision_and_recall_do_not_depend_on_how_the_work_is_cut(monkeypatch):
    real, fake = features(90, d=3), features(70, d=3, shift=1.0, seed=1)
    before = metrics.precision_recall(real, fake)
    assert 0 < before[0] < 1
    assert 0 < before[1] < 1
    monkeypatch.setattr(metrics, "ROWS", 13)
    assert metrics.precision_recall(real, fake) == before


def test_mmd_is_its_formula_on_the_pixels():
    real, fake = faces(14), faces(9, seed=1, low=60)
    rows = [each.reshape(len(each), -1).astype("float64") for each in (real, fake)]
    median = np.median([((x - y) ** 2).sum() for x in rows[0] for y in rows[0]])

    def kernel(x, y):
        near = ((x - y) ** 2).sum() / median
        return np.mean([np.exp(-near / width) for width in (0.1, 0.3, 1, 3)])

    expected = direct_mmd(*rows, kernel)
    assert expected > 0.01
    assert metrics.mmd(real, fake) == pytest.approx(expected, rel=1e-4)


def test_large_faces_are_averaged_down_for_the_mmd():
    small = [
        faces(12, size=32, low=20, high=230),
        faces(12, seed=1, size=32, low=80, high=230),
    ]
    checks = np.indices((128, 128)).sum(0)[:, :, None] % 2 * 2 - 1
    rough = faces(12, seed=2, size=32, high=20).repeat(4, 1).repeat(4, 2) * checks
    large = [(each.repeat(4, 1).repeat(4, 2) + rough).astype("uint8") for each in small]
    expected = metrics.mmd(*small)
    assert expected > 0.01
    assert metrics.mmd(*large) == pytest.approx(expected, rel=1e-4)


def test_mmd_tells_faces_apart_and_equal_ones_not():
    estimates = [
        metrics.mmd(faces(40, seed, size=6), faces(40, 100 + seed, size=6))
        for seed in range(20)
    ]
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / np.sqrt(20)
    other = metrics.mmd(faces(40, size=6), faces(40, 1, size=6, high=200))
    assert other > 10 * np.std(estimates)
    white = np.full((10, 28, 28, 3), 255, "uint8")
    assert np.isfinite(metrics.mmd(white, faces(10)))


def test_mmd_tells_blur_and_noise_from_more_of_the_same():
    random = np.random.default_rng(2)
    squares = random.integers(0, 256, (600, 4, 4, 3), dtype="uint8")
    drawn = squares.repeat(7, 1).repeat(7, 2)
    real, other, sharp = np.split(drawn, 3)
    blocks = sharp.reshape(200, 2, 14, 2, 14, 3).mean((2, 4)).astype("uint8")
    blurred = blocks.repeat(14, 1).repeat(14, 2)
    same = metrics.mmd(real, other)
    assert metrics.mmd(real, blurred) > 20 * abs(same)
    assert metrics.mmd(real, faces(200)) > 3 * abs(same)


def test_mmd_is_cheap_enough_for_every_epoch():
    real, fake = faces(1000), faces(1000, 1)
    begin = time.thread_time()  # of one core, however many there are
    metrics.mmd(real, fake)
    assert time.thread_time() - begin < 8  # a second in all; slow machines are slow


def test_sets_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        metrics.fid(features(9), features(9, d=5))
    with pytest.raises(ValueError, match="1 are too few to compare: 2"):
        metrics.kid(features(9), features(1))
    with pytest.raises(ValueError, match="3 are too few to compare: 4"):
        metrics.precision_recall(features(9), features(3))


def test_diversity_is_the_mean_distance_of_two_faces():
    faces = np.zeros((3, 2, 2, 3), "uint8")
    faces[2] = 30
    # Of the three pairs one is equal and two are 30 apart at every pixel
    assert metrics.diversity(faces) == pytest.approx(20)
    assert metrics.diversity(faces[:1]) == 0
