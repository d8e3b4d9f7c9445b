"""Count what an iteration has to compute and to move, from the layers' shapes.

Only convolutions and dense layers are counted; the rest is a few per cent. A layer
runs in up to three passes, each of as many operations: forward, backward to its
weights, backward to its input. The five steps make

    G   forward twice (steps 2 and 5), both ways back once (step 5),
        but not from its first layer back to the noise
    D   forward three times (real, fake, step 5), back to the weights twice (step 3),
        back to the input three times, but twice not from its first layer to the face
"""

import math
import re
from typing import NamedTuple

# bfloat16 TFLOP/s (dense, products summed in float32) and GB/s of the device's memory,
# from the vendor's data sheets, of the form that servers have where there are several.
# The first name that is in the device's counts. A T4 has no bfloat16.
PEAKS = {
    "B200": (2250, 8000),
    "H200": (989, 4800),
    "GH200": (989, 4000),
    "H100 PCIe": (756, 2000),
    "H100 NVL": (835, 3900),
    "H100": (989, 3350),
    "A100-PCIE-40GB": (312, 1555),
    "A100-SXM4-40GB": (312, 1555),
    "A100 80GB PCIe": (312, 1935),
    "A100": (312, 2039),
    "L40S": (362, 864),
    "L4": (121, 300),
    "A10G": (70, 600),
    "A10": (125, 600),
    "T4": (None, 320),
    "RTX 4090": (165, 1008),
    "RTX 3090": (71, 936),
}
BYTES = {"float32": 4, "bfloat16": 2}


class Work(NamedTuple):
    """What one iteration takes, at least.

    operations: multiplications and additions
    bytes: read from and written to the device's memory
    """

    operations: int
    bytes: int


class Layer(NamedTuple):
    """What one layer takes for one picture in one pass."""

    operations: int
    numbers: int  # that go in and come out
    weights: int


def of_iteration(generator, discriminator, batch, precision="float32"):
    """Return the Work of the five steps on a batch.

    The bytes are a lower bound: each pass reads and writes what goes in and out of the
    layer and reads its weights once, in the precision; Adam reads weight, gradient and
    two moments and writes all but the gradient, the average reads two and writes one,
    in float32. Batch norm, activations and losses are taken to ride along for nothing.
    """
    g, d = layers_of(generator), layers_of(discriminator)
    # (layer, how many passes)
    passes = [(layer, 4) for layer in g] + [(layer, 8) for layer in d]
    passes += [(g[0], -1), (d[0], -2)]
    operations = sum(layer.operations * times for layer, times in passes) * batch
    moved = sum(
        (layer.numbers * batch + layer.weights) * times for layer, times in passes
    )
    weights = [sum(layer.weights for layer in network) for network in (g, d)]
    updates = 4 * (7 * sum(weights) + 3 * weights[0])
    return Work(operations, moved * BYTES[precision] + updates)


def layers_of(network):
    """List the Layers of a Keras model that count, in order."""
    layers = []
    for layer in network.layers:
        kind = type(layer).__name__
        if kind not in ("Dense", "Conv2D", "Conv2DTranspose"):
            continue
        # A weight meets each place of the output once, or of the input if transposed
        shape = (layer.input if kind == "Conv2DTranspose" else layer.output).shape
        places = math.prod(shape[1:-1])
        weights = math.prod(layer.kernel.shape)
        numbers = math.prod(layer.input.shape[1:]) + math.prod(layer.output.shape[1:])
        layers.append(Layer(2 * weights * places, numbers, weights))
    return layers


def reached(work, seconds, device):
    """Return (TFLOP/s, GB/s) of an iteration, and both as shares of the device's peaks.

    A share is None where the peak is not known.
    """
    rates = (work.operations / seconds / 1e12, work.bytes / seconds / 1e9)
    known = (peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", device))
    peaks = next(known, (None, None))
    shares = (
        rate / peak if peak else None for rate, peak in zip(rates, peaks, strict=True)
    )
    return (*rates, *shares)
