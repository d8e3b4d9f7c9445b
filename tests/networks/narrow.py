"""Narrow generators whose faces are far from grey, as after a training."""

import numpy as np

import models


def narrow(network="dcgan", size=28, channels=3, width=0.05):
    """Build a narrow generator with weights, and statistics, like learned ones."""
    generator = models.build_generator(network, size, width, channels)
    random = np.random.default_rng(1)
    for variable in generator.variables:
        if "seed" in variable.path:
            continue
        drawn = random.normal(size=variable.shape).astype("float32")
        kinds = {"variance": 1 + drawn**2, "gamma": 1 + drawn / 4}
        fan_in = np.sqrt(np.prod(variable.shape) / min(variable.shape))
        usual = 3 * drawn / fan_in if len(variable.shape) > 1 else drawn / 4
        variable.assign(kinds.get(variable.name.split("_")[-1], usual))
    return generator


def noise_of(count=5, seed=0):
    """Draw noise (count, LATENT) float32."""
    random = np.random.default_rng(seed)
    return random.uniform(-1, 1, (count, models.LATENT)).astype("float32")


def apart(pixels, others):
    """Return the largest difference of two arrays of pixels."""
    assert np.shape(pixels) == np.shape(others)
    return np.abs(np.subtract(pixels, others, dtype=int)).max()
