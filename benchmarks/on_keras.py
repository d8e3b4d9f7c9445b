"""What all contestants on Keras share, and a network so small that it costs nothing."""

import models
from benchmarks.workers import Contestant
from dcgan.networks.backend import keras
from dcgan.training.hardware import describe_device

# The "dcgan" network of TINY pixels: what is left of its iterations is overhead
TINY = 8
TINY_WIDTHS = (2, (2, 2))  # as in models.DCGAN


def register_tiny():
    """Let models.py know the network of TINY pixels."""
    models.DCGAN[TINY] = TINY_WIDTHS


def adam():
    """Make the optimizer that all tutorials have, and train.py by default."""
    return keras.optimizers.Adam(2e-4, beta_1=0.5)


def contestant(prepare, generator, discriminator, unit=1, **more):
    """Return the Contestant of a way to train two Keras models."""
    parameters = (generator.count_params(), discriminator.count_params())
    return Contestant(prepare, unit, parameters, describe_device(), **more)
