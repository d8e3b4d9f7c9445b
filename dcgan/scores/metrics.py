"""How near fake faces come to real ones, as numbers: FID, KID, MMD, precision, recall.

FID, KID, precision and recall compare features (n, d), as inception.py makes them;
MMD compares pixels. Of each set the order does not matter.
"""

import numpy as np

# Rows that are computed with at a time: with 20,000 others, 160 MB of distances
ROWS = 1000

# Gaussian kernels of the MMD: widths against the median squared distance of real faces
MMD_WIDTHS = (0.1, 0.3, 1, 3)
MMD_PIXELS = 32  # both ways: larger faces are averaged down before they are compared


def fid(real, fake):
    """Return the Frechet distance of two sets of features (n, d), (m, d); 0 is best.

    |a - b|^2 + tr(A + B - 2 (A B)^(1/2)), with a, b the means and A, B the covariances
    (Heusel et al. 2017, arXiv 1706.08500). It shrinks with the number of features:
    compare it only at equal numbers.
    """
    _check(real, fake, 2)
    if len(real) < len(fake):
        real, fake = fake, real  # the distance is the same, and the fewer are quicker
    mean, factor = _factor(fake)
    covariance = _covariance(real)
    # With B = F'F, the eigenvalues of A B are those of F A F', which is symmetric: no
    # square root of a matrix is needed, and nothing goes wrong where A B is singular
    shared = np.linalg.eigvalsh(factor @ covariance @ factor.T).clip(0)
    spread = np.trace(covariance) + (factor**2).sum()
    apart = ((_mean(real) - mean) ** 2).sum()
    return float(apart + spread - 2 * np.sqrt(shared).sum())


def kid(real, fake):
    """Return the kernel distance of two sets of features (n, d), (m, d), and its error.

    The unbiased MMD^2 under the kernel (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv
    1801.01401); around 0 where the sets are alike, whatever their number. All pairs are
    used, not random subsets.
    The second number is the standard error to first order (the delta method): how much
    the first would vary among other draws of as many pictures.
    """
    _check(real, fake, 2)

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    return _mmd(_float(real), _float(fake), kernel)


def precision_recall(real, fake, k=3):
    """Return the shares of fakes among the real, and of real among the fakes, 0 .. 1.

    A feature is among others if it lies no further from one of them than the k-th
    nearest of these does (Kynkaanniemi et al. 2019, arXiv 1904.06991, there of
    VGG-16's features). Both shares depend on how many features there are: take equally
    many of both.
    """
    _check(real, fake, k + 1)
    real, fake = _float(real), _float(fake)
    real_reach, fake_reach = _reach(real, k), _reach(fake, k)
    covered, inside = np.zeros(len(real), bool), []
    for rows in _parts(len(fake)):
        near = squared_distances(fake[rows], real)
        inside.append((near <= real_reach).any(1))
        covered |= (near <= fake_reach[rows, None]).any(0)
    return float(np.concatenate(inside).mean()), float(covered.mean())


def mmd(real, fake):
    """Return the unbiased MMD^2 of faces (n, S, S, 3), (m, S, S, 3) uint8 by pixels.

    Gretton et al. 2012 (JMLR 13), equation 3, under the mean of Gaussian kernels
    exp(-|x - y|^2 / (w m)): w in MMD_WIDTHS, m the median squared distance between
    real faces. Around 0 where the sets are alike; it may fall below. 2,000 against
    2,000 faces take a second or two and no network.
    """
    _check(real, fake, 2)
    real, fake = _pixels(real), _pixels(fake)
    median = np.median(squared_distances(real[:ROWS], real))

    def kernel(x, y):
        near = squared_distances(x, y) / max(median, 1e-12)
        return sum(np.exp(-near / width) for width in MMD_WIDTHS) / len(MMD_WIDTHS)

    return _mmd(real, fake, kernel)[0]


def diversity(faces):
    """Return the mean distance between two of the faces (n, S, S, 3) uint8.

    Root mean square over pixels and channels, in 0 .. 255. It falls when the samples
    grow alike. A single face has 0.
    """
    flat = faces.reshape(len(faces), -1).astype("float64")
    between = squared_distances(flat, flat) / flat.shape[1]
    pairs = len(faces) * (len(faces) - 1)
    return float(np.sqrt(between).sum() / max(pairs, 1))


def squared_distances(x, y):
    """Return the squared distances (n, m) of the rows of x (n, d) to those of y."""
    between = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * (x @ y.T)
    return np.maximum(between, 0)  # rounding


def _factor(features):
    """Return the mean (d) and a factor F (at most d, d): F'F is the covariance."""
    n, d = features.shape
    mean = _mean(features)
    if n <= d:
        return mean, (features - mean) / np.sqrt(n - 1)
    values, vectors = np.linalg.eigh(_covariance(features))
    return mean, np.sqrt(values.clip(0))[:, None] * vectors.T


def _covariance(features):
    mean, total = _mean(features), 0
    for rows in _parts(len(features)):
        centred = features[rows] - mean
        total += centred.T @ centred
    return total / (len(features) - 1)


def _mean(features):
    return features.mean(0, dtype="float64")


def _mmd(real, fake, kernel):
    """Return the unbiased MMD^2 under a kernel, and its standard error."""
    n, m = len(real), len(fake)
    real_real, fake_fake = _mean_to_others(real, kernel), _mean_to_others(fake, kernel)
    to_fake, to_real = np.zeros(n), np.zeros(m)
    for rows in _parts(n):
        values = kernel(real[rows], fake)
        to_fake[rows] = values.mean(1, dtype="float64")
        to_real += values.sum(0, dtype="float64") / n
    # What each picture adds: the estimate is the mean of both, and so is its variance
    real_part, fake_part = real_real - to_fake, fake_fake - to_real
    variance = 4 * (real_part.var(ddof=1) / n + fake_part.var(ddof=1) / m)
    return float(real_part.mean() + fake_part.mean()), float(np.sqrt(variance))


def _mean_to_others(x, kernel):
    """Return the mean kernel (n) of each row with all the others, without itself."""
    means = np.empty(len(x))
    for rows in _parts(len(x)):
        values = kernel(x[rows], x)
        own = np.arange(len(values)), np.arange(len(x))[rows]
        values[own] = 0
        means[rows] = values.sum(1, dtype="float64") / (len(x) - 1)
    return means


def _reach(x, k):
    """Return the squared distance (n) of each row to its k-th nearest other."""
    reach = np.empty(len(x))
    for rows in _parts(len(x)):
        near = squared_distances(x[rows], x)
        near[np.arange(len(near)), np.arange(len(x))[rows]] = np.inf
        reach[rows] = np.partition(near, k - 1, axis=1)[:, k - 1]
    return reach


def _pixels(faces):
    """Average faces (n, S, S, 3) uint8 down to MMD_PIXELS at most, as rows (n, d)."""
    n, size = faces.shape[:2]
    step = -(-size // MMD_PIXELS)
    small = size // step
    faces = faces[:, : small * step, : small * step]
    blocks = faces.reshape(n, small, step, small, step, -1)
    if step > 1:
        blocks = blocks.mean((2, 4), dtype="float32")
    return blocks.reshape(n, -1).astype("float32") / 255


def _parts(count):
    return [slice(first, first + ROWS) for first in range(0, count, ROWS)]


def _float(features):
    return np.asarray(features, "float64")


def _check(real, fake, least):
    """Raise ValueError where the two sets cannot be compared."""
    if real.shape[1:] != fake.shape[1:]:
        raise ValueError(f"{real.shape} cannot be compared with {fake.shape}")
    if min(len(real), len(fake)) < least:
        count = min(len(real), len(fake))
        raise ValueError(f"{count} are too few to compare: {least} at least")
