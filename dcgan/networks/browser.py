"""A page that draws faces by itself, of one file that needs no network.

It holds the generator as a list of steps, their kernels in half precision, and the
script in browser.html goes through them. Of Keras' layers it knows those in STEPS.
"""

import base64
import json
from pathlib import Path

import numpy as np

from dcgan.common.console import UserError
from dcgan.networks.backend import ops

SLIDERS = 5

HELD = 'id="generator">{}<'


def save(model, part, facts, directions=()):
    """Write the page of a model of Keras' own layers into the file `part`.

    facts: what is told of the generator; directions: a name and a unit vector (latent,)
    each, along which faces change, where the noise is normal: the page has a slider for
    the first SLIDERS, or without any for those of main_directions(). Raises UserError
    for a layer that the page cannot compute.
    """
    kernels = []
    steps, data = steps_of(model, kernels), facts["data"]
    directions = list(directions) or main_directions(model)
    shown = {
        "network": f"{facts['network']}, {model.output_shape[1]} x "
        f"{model.output_shape[2]}",
        "trained": f"trained on {data['count']:,} pictures of {data['name']} for "
        f"{facts['epochs']:,} epoch{'s' * (facts['epochs'] != 1)}",
        "latent": model.input_shape[1],
        "shape": model.output_shape[1:],
        "steps": steps,
        "directions": [
            {"name": name, "vector": _numbers(vector)}
            for name, vector in directions[:SLIDERS]
        ],
        "kernels": base64.b64encode(b"".join(kernels)).decode(),
    }
    # No tag can begin or end in it, whatever the pictures are called
    text = json.dumps(shown, separators=(",", ":")).replace("<", "\\u003c")
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    part.write_text(template.replace(HELD, HELD.replace("{}", text)), encoding="utf-8")


def main_directions(model):
    """Return directions of noise, a name and a unit vector (latent,) each.

    They are those that change the first layer's result the most, its kernel's singular
    vectors (Shen and Zhou, "Closed-Form Factorization of Latent Semantics in GANs",
    2021).
    """
    first = next(layer for layer in model.layers if layer.weights)
    _, kernel = STEPS[type(first).__name__](first)
    vectors = np.linalg.svd(kernel, full_matrices=False)[0].T
    # The sign is a matter of the library; here the largest number is positive
    largest = np.abs(vectors).argmax(1)[:, None]
    vectors = vectors * np.sign(np.take_along_axis(vectors, largest, 1))
    return [(f"direction {n}", vector) for n, vector in enumerate(vectors, 1)]


def steps_of(model, kernels):
    """Return what the page does, a list of dicts, from noise on. The bytes of half
    precision that each step multiplies by are appended to `kernels`.
    """
    steps, before = [], model.layers[0]
    for layer in model.layers[1:]:
        if layer.input is not before.output:
            raise _unknown(layer, "does not follow the layer before it")
        if type(layer).__name__ not in STEPS:
            raise _unknown(layer, f"is none of {', '.join(STEPS)}")
        step, matrix = STEPS[type(layer).__name__](layer)
        if matrix is not None:
            step["at"] = sum(map(len, kernels)) // 2
            step["inner"], step["across"] = matrix.shape
            step["bias"] = _numbers(layer.bias) if layer.use_bias else None
            kernels.append(_packed(matrix))
        if step:
            steps.append({**step, "from": before.output.shape[1:]})
            steps[-1]["shape"] = layer.output.shape[1:]
        steps += _activation(layer)
        before = layer
    return steps


def _unknown(layer, fault):
    name = type(layer).__name__
    return UserError(f"No page can draw this: the layer {layer.name}, {name}, {fault}.")


def _dense(layer):
    if len(layer.input.shape) != 2:
        raise _unknown(layer, "stands in a picture")
    return {"kind": "dense"}, ops.convert_to_numpy(layer.kernel)


def _convolution(layer):
    pairs = zip(layer.input.shape[1:3], layer.output.shape[1:3], strict=True)
    windows = zip(layer.kernel_size, layer.strides, strict=True)
    before = [
        max(0, (after - 1) * stride + size - pixels) // 2
        for (pixels, after), (size, stride) in zip(pairs, windows, strict=True)
    ]
    kernel = ops.convert_to_numpy(layer.kernel)  # (height, width, channels, filters)
    matrix = kernel.reshape(-1, kernel.shape[3])
    return _window("convolution", layer, before), matrix


def _spread(layer):
    if layer.output_padding is not None:
        raise _unknown(layer, "has output_padding")
    windows = zip(layer.kernel_size, layer.strides, strict=True)
    before = [max(0, size - stride) // 2 for size, stride in windows]
    kernel = ops.convert_to_numpy(layer.kernel)  # (height, width, filters, channels)
    matrix = kernel.transpose(3, 0, 1, 2).reshape(kernel.shape[3], -1)
    return _window("spread", layer, before), matrix


def _window(kind, layer, before):
    """Return the step of a convolution, or back. before: rows and columns of padding
    at its upper and left edge, where it pads.
    """
    plain = tuple(layer.dilation_rate) == (1, 1) and getattr(layer, "groups", 1) == 1
    if not plain or layer.padding not in ("same", "valid"):
        raise _unknown(layer, "has groups, dilation or a padding of its own")
    before = before if layer.padding == "same" else [0, 0]
    sizes = {"size": layer.kernel_size, "strides": layer.strides}
    return {"kind": kind, **sizes, "before": before}


def _batch_norm(layer):
    # With the statistics that it has learned it is x * scale + offset
    mean, variance = (
        ops.convert_to_numpy(each).astype("float64")
        for each in (layer.moving_mean, layer.moving_variance)
    )
    scale = 1 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale *= ops.convert_to_numpy(layer.gamma)
    offset = -mean * scale
    if layer.center:
        offset += ops.convert_to_numpy(layer.beta)
    return {"kind": "norm", "scale": _numbers(scale), "offset": _numbers(offset)}, None


def _upsampling(layer):
    if layer.interpolation != "nearest":
        raise _unknown(layer, "mixes pixels")
    return {"kind": "upsample", "times": layer.size}, None


def _leaky(layer):
    if getattr(layer, "max_value", None) is not None or getattr(layer, "threshold", 0):
        raise _unknown(layer, "has a threshold or a largest value")
    return {"kind": "leaky", "slope": float(layer.negative_slope)}, None


def _nothing(layer):
    return {}, None


STEPS = {
    "Dense": _dense,
    "Conv2D": _convolution,
    "Conv2DTranspose": _spread,
    "BatchNormalization": _batch_norm,
    "UpSampling2D": _upsampling,
    "ReLU": _leaky,
    "LeakyReLU": _leaky,
    "Activation": _nothing,  # any layer's own activation follows it
    "Dropout": _nothing,  # as it is outside of training
    "Reshape": _nothing,  # numbers lie one after the other, whatever their shape
    "Flatten": _nothing,
}

ACTIVATIONS = {
    "linear": [],
    "relu": [{"kind": "leaky", "slope": 0.0}],
    "leaky_relu": [{"kind": "leaky", "slope": 0.2}],
    "tanh": [{"kind": "tanh"}],
    "sigmoid": [{"kind": "sigmoid"}],
}


def _activation(layer):
    """Return the step that a layer's own activation is, in a list, or []."""
    name = getattr(getattr(layer, "activation", None), "__name__", "linear")
    if name not in ACTIVATIONS:
        raise _unknown(
            layer, f"has an activation that is none of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def _numbers(vector):
    """Return a vector as a list for JSON, with all the digits of float32."""
    return [float(f"{each:.9g}") for each in ops.convert_to_numpy(vector).tolist()]


def _packed(matrix):
    """Return a matrix (k, n) as half precision, four columns beside each other: (n / 4,
    k, 4), in bytes. The last columns are filled up with zeros.
    """
    inner, across = matrix.shape
    whole = np.pad(matrix, ((0, 0), (0, -across % 4)))
    return whole.reshape(inner, -1, 4).transpose(1, 0, 2).astype("<f2").tobytes()
