"""Keras' layers with the same numbers, faster: convolutions, and back, and batch norm;
and first weights.

A transposed convolution is the gradient of a convolution by its input, and the other
way round. So each of the two layers can be the gradient of the other, and both have the
same gradient by their kernel, where

- JAX by itself makes a convolution of the transposed one's kernel gradient whose filter
  is as large as the picture: no library has a fast way for it, on CPUs 20 times slower;
- TensorFlow on CPUs is slow at the gradient by the input where pictures are halved or
  doubled, up to three times as slow as what stands here, and in bfloat16 at that by the
  kernel where grids are small.

Their names are those of Keras' layers, by which weights are found in a file.
"""

import contextvars
import functools

import numpy as np

from dcgan.networks.backend import keras, layers, on_cpu, ops

# So few filters double pictures by `sub_pixels`, more of them, on TensorFlow, by
# `corners`
FEW = 8

# Grids up to this width, on JAX, have their kernel's gradient by `_kernel_gradient`
NARROW = 4

# Grids up to this width, in bfloat16 on TensorFlow, have it by `_kernel_products`: 1.4
# times as fast at 8 pixels as the library's own, and 3 times at 4
MULTIPLIED = 8

# The kernels of models.py that halve or double pictures, and those that slide over them
DOUBLES = ((4, 4), (2, 2), "same")
SLIDES = ((4, 4), (1, 1), "valid")

# What batch norm of ours computes in
FLOATS = ("float32", "bfloat16")


@keras.saving.register_keras_serializable("dcgan")  # copies of a network need it
class Normal(keras.initializers.RandomNormal):
    """Keras' initializer, drawn by NumPy: alike on every backend, and JAX need not
    compile a program for each shape, which takes seconds.
    """

    def __call__(self, shape, dtype=None):
        drawn = np.random.default_rng(self.seed).standard_normal(shape, "float32")
        return (self.mean + self.stddev * drawn).astype(dtype or "float32")


class Conv2D(layers.Conv2D):
    """Keras' layer; see the head of this file."""

    def convolution_op(self, inputs, kernel):
        pair = _pair_for(self)
        sizes = zip(inputs.shape[1:3], self.kernel_size, self.strides, strict=True)
        same = self.padding == "same"
        if pair and all((n if same else n - k) % s == 0 for n, k, s in sizes):
            return pair[0](inputs, ops.convert_to_tensor(kernel))
        return super().convolution_op(inputs, kernel)


class Conv2DTranspose(layers.Conv2DTranspose):
    """Keras' layer; see the head of this file."""

    def call(self, inputs):
        pair = _pair_for(self)
        if not pair:
            return super().call(inputs)
        outputs = pair[1](inputs, ops.convert_to_tensor(self.kernel))
        if self.use_bias:
            outputs = outputs + self.bias
        return self.activation(outputs) if self.activation else outputs


class BatchNormalization(layers.BatchNormalization):
    """Keras' layer; in training one operation of TensorFlow's on CPUs, and on GPUs by
    JAX with a gradient of its own; for XLA it takes mean and variance in one pass.

    The variance is mean(x^2) - mean(x)^2 there, in float32, as in Flax. By Keras' way,
    that is the mean of (x - mean)^2, it would have to wait for the mean.
    """

    def call(self, inputs, training=None, mask=None):
        normalize = _normalize() if self.is_usual() and training else None
        if not normalize or mask is not None:
            return super().call(inputs, training, mask)
        weights = map(ops.convert_to_tensor, (self.gamma, self.beta))
        outputs, *moments = normalize(inputs, *weights, self.epsilon)
        for kept, of_kinds in zip(
            (self.moving_mean, self.moving_variance), moments, strict=True
        ):
            for kind in range(of_kinds.shape[0]):
                now = of_kinds[kind]
                kept.assign(kept * self.momentum + now * (1 - self.momentum))
        return outputs

    def is_usual(self):
        """Tell whether it trains as we can: on pictures, and all of its weights."""
        is_whole = self.center and self.scale and self.trainable and not self.renorm
        of_pictures = self.axis in (-1, 3) and self.input_spec.ndim == 4
        return is_whole and of_pictures and self.compute_dtype in FLOATS

    def _moments(self, inputs, mask):
        if keras.backend.backend() == "torch":
            return super()._moments(inputs, mask)
        axes = self._reduction_axes
        mean, of_squares = ops.mean(inputs, axes), ops.mean(ops.square(inputs), axes)
        return mean, ops.maximum(of_squares - ops.square(mean), 0)


# Layers to which each picture is one by itself
KEEP_APART = (
    *(layers.InputLayer, Conv2D, layers.LeakyReLU, layers.ReLU, layers.Activation),
    *(layers.Flatten, layers.GlobalAveragePooling2D, layers.Dense),
)

# How many kinds of pictures take turns in what a layer is called with
_kinds = contextvars.ContextVar("kinds", default=1)


def in_turns(judge, *kinds):
    """Return what judge(pictures) (n, 1) says of each of several kinds, in one pass.

    The kinds are pictures (n, H, W, C) each. Batch norm takes every kind's statistics
    apart, as if judge() had been called with one after the other.
    """
    # One of each kind in turn: so each of several devices keeps its own pictures
    pictures = ops.reshape(ops.stack(kinds, 1), (-1, *kinds[0].shape[1:]))
    before = _kinds.set(len(kinds))
    try:
        judged = ops.reshape(judge(pictures), (-1, len(kinds)))
    finally:
        _kinds.reset(before)
    return [judged[:, kind, None] for kind in range(len(kinds))]


def can_take_turns(network):
    """Tell whether `in_turns` is for a network: by JAX on GPUs, as CPUs are no faster
    for fewer things to do, and if each of its layers keeps pictures, or kinds, apart.
    """
    return _jax_on_a_gpu() and all(
        it.is_usual() if type(it) is BatchNormalization else type(it) in KEEP_APART
        for it in network.layers
    )


def _jax_on_a_gpu():
    return keras.backend.backend() == "jax" and not on_cpu()


def _normalize():
    """Return normalize(pictures, gamma, beta, epsilon) of the backend, or None.

    It returns the pictures normalized, and the means and the variances of their kinds,
    (kinds, C) float32.
    """
    if _jax_on_a_gpu():
        return functools.partial(_normalize_on_jax, _kinds.get())
    if keras.backend.backend() == "tensorflow" and on_cpu():
        return _normalize_on_tensorflow
    return None


def _normalize_on_tensorflow(pictures, gamma, beta, epsilon):
    import tensorflow as tf

    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=pictures, scale=gamma, offset=beta, mean=[], variance=[], epsilon=epsilon
    )
    # It tells the variance of a sample, n - 1 below; Keras keeps the batch's own
    count = tf.cast(tf.size(pictures) // pictures.shape[3], "float32")
    return outputs, mean[None], variance[None] * ((count - 1) / count)


def _normalize_on_jax(kinds, pictures, gamma, beta, epsilon):
    normalized = _with_sums(kinds, pictures.shape, pictures.dtype, epsilon)
    return normalized(pictures, gamma, beta)


@functools.cache
def _with_sums(kinds, shape, dtype, epsilon):
    """Return normalized(pictures, gamma, beta) for JAX, whose gradient is Ioffe and
    Szegedy's (2015, arXiv 1502.03167, section 3), solved for what came in: two sums.
    """
    import jax

    n, height, width, channels = shape
    apart = (n // kinds, kinds, height * width, channels)
    count = n // kinds * height * width

    def split(pictures):
        return ops.cast(pictures, "float32").reshape(apart)

    def joined(x):
        return x.reshape(shape).astype(dtype)

    def added(pair, other):
        return pair[0] + other[0], pair[1] + other[1]

    def means(*arrays):
        """Of two arrays, (kinds, C) each, in one reduction; of several kinds in two,
        the first of each picture: XLA would leave a whole channel to one thread.
        """
        for axes in [(2,), (0,)] if kinds > 1 else [(0, 2)]:
            arrays = jax.lax.reduce(arrays, (0.0, 0.0), added, axes)
        return [total / count for total in arrays]

    def forward(pictures, gamma, beta):
        x = split(pictures)
        mean, of_squares = means(x, x * x)
        variance = ops.maximum(of_squares - mean * mean, 0)
        inverse = jax.lax.rsqrt(variance + epsilon)
        scale = gamma * inverse
        y = x * scale[:, None] + (beta - mean * scale)[:, None]
        return (joined(y), mean, variance), (pictures, gamma, mean, inverse)

    def backward(kept, by):
        pictures, gamma, mean, inverse = kept
        x = (split(pictures) - mean[:, None]) * inverse[:, None]
        by = split(by[0])
        of_beta, of_gamma = means(by, by * x)
        of_x = by - of_beta[:, None] - x * of_gamma[:, None]
        weights = [count * sum(each) for each in (of_gamma, of_beta)]
        return joined(of_x * (gamma * inverse)[:, None]), *weights

    normalized = jax.custom_vjp(lambda *inputs: forward(*inputs)[0])
    normalized.defvjp(forward, backward)
    return normalized


def _pair_for(layer):
    """Return what convolves like a layer, and what spreads; None to leave it to Keras.

    Both map (pictures, kernel) to pictures.
    """
    backend = keras.backend.backend()
    kind = layer.kernel_size, layer.strides, layer.padding
    ours = kind in (DOUBLES, SLIDES)
    is_better = backend == "jax" or (backend == "tensorflow" and ours and on_cpu())
    return _pair(kind) if is_better else None


@functools.cache
def _pair(kind):
    backend, (_, strides, padding) = keras.backend.backend(), kind
    plain, kernel_gradient = {"jax": _jax, "tensorflow": _tensorflow}[backend](kind)

    def convolve_gradient(pictures, kernel, by):
        return spread(by, kernel), kernel_gradient(pictures, kernel, by)

    def spread_gradient(pictures, kernel, by):
        return convolve(by, kernel), kernel_gradient(by, kernel, pictures)

    def spread_plain(pictures, kernel):
        if kind == DOUBLES and on_cpu():
            at_once = backend == "jax" or kernel.shape[2] <= FEW
            return (sub_pixels if at_once else corners)(pictures, kernel)
        return ops.conv_transpose(pictures, kernel, strides, padding)

    convolve = _with_gradient(plain, convolve_gradient)
    spread = _with_gradient(spread_plain, spread_gradient)
    return convolve, spread


def _with_gradient(function, gradient):
    """Return function(x, kernel) with gradients gradient(x, kernel, by its output)."""
    if keras.backend.backend() == "jax":
        import jax

        ours = jax.custom_vjp(function)
        ours.defvjp(
            lambda x, kernel: (ours(x, kernel), (x, kernel)),
            lambda kept, by: gradient(*kept, by),
        )
        return ours
    import tensorflow as tf

    @tf.custom_gradient
    def ours(x, kernel):
        return function(x, kernel), lambda by: gradient(x, kernel, by)

    # A variable, as kernels are, must be read outside
    return lambda x, kernel: ours(x, tf.convert_to_tensor(kernel))


def _jax(kind):
    import jax

    _, strides, padding = kind

    def convolve(pictures, kernel):
        return ops.conv(pictures, kernel, strides, padding)

    def kernel_gradient(pictures, kernel, by):
        if kind == DOUBLES and by.shape[2] <= NARROW:
            return _kernel_gradient(pictures, by)
        of_kernel = functools.partial(convolve, pictures)
        return jax.linear_transpose(of_kernel, kernel)(by)[0]

    return convolve, kernel_gradient


def _kernel_gradient(pictures, by):
    """Return the gradient (4, 4, C, F) of a kernel that halves pictures (n, 2 H, 2 W,
    C), by what comes out (n, H, W, F), as one matrix product.

    XLA takes the gradient of so small a grid for a convolution forwards, whose filter
    is the grid, and has no fast way for it.
    """
    around = ops.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = (2 * size for size in by.shape[1:3])
    seen = [
        around[:, row : row + height : 2, column : column + width : 2]
        for row in range(4)
        for column in range(4)
    ]
    products = ops.einsum("knhwc,nhwf->kcf", ops.stack(seen), by)
    return ops.reshape(products, (4, 4, pictures.shape[3], by.shape[3]))


def _tensorflow(kind):
    import tensorflow as tf

    _, strides, padding = kind
    options = {"strides": [1, *strides, 1], "padding": padding.upper()}

    def convolve(pictures, kernel):
        return tf.nn.conv2d(pictures, kernel, **options)

    def kernel_gradient(pictures, kernel, by):
        if by.dtype == tf.bfloat16 and by.shape[2] <= MULTIPLIED:
            return _kernel_products(pictures, by, strides[0])
        return tf.raw_ops.Conv2DBackpropFilter(
            input=pictures, filter_sizes=kernel.shape, out_backprop=by, **options
        )

    return convolve, kernel_gradient


def _kernel_products(pictures, by, stride):
    """Return the gradient (4, 4, C, F) of a kernel by matrix products: one that halves
    pictures, or with a stride of 1 slides over them.

    With the pixels of each square of 2 x 2 as channels, that which halves is one of
    2 x 2 that slides.
    """
    import tensorflow as tf

    channels, (_, height, width, filters) = pictures.shape[3], by.shape
    if stride == 2:
        around = tf.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)))
        pictures = tf.nn.space_to_depth(around, 2)
    by = tf.reshape(by, (-1, filters))

    def product(row, column):
        seen = pictures[:, row : row + height, column : column + width]
        return tf.matmul(tf.reshape(seen, (-1, seen.shape[3])), by, transpose_a=True)

    places = range(4 // stride)
    products = tf.stack([product(row, column) for row in places for column in places])
    shape = (len(places), len(places), stride, stride, channels, filters)
    kernel = tf.transpose(tf.reshape(products, shape), (0, 2, 1, 3, 4, 5))
    return tf.reshape(kernel, (4, 4, channels, filters))


def sub_pixels(pictures, kernel):
    """Double pictures (n, H, W, C) by a kernel (4, 4, F, C), to (n, 2 H, 2 W, F).

    Of four neighbours each pixel of the larger grid sees a corner of 2 x 2, by every
    second row and column of the kernel: one convolution with four times the filters
    (Shi et al. 2016, arXiv 1609.05158, figure 1, there for forward passes only).
    """
    *_, filters, channels = kernel.shape
    # Row 2 a + i of the kernel gives the rows i; the first of two neighbours has a = 1
    kernel = ops.reshape(kernel, (2, 2, 2, 2, filters, channels))
    kernel = ops.transpose(ops.flip(kernel, (0, 2)), (0, 2, 5, 1, 3, 4))
    kernel = ops.reshape(kernel, (2, 2, channels, 4 * filters))
    around = ops.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = ops.conv(around, kernel, 1, "valid")
    height, width = corners.shape[1:3]
    return _laid_out(ops.reshape(corners, (-1, height, width, 2, 2, filters)))


def corners(pictures, kernel):
    """Double pictures like sub_pixels(), by four convolutions, one for each corner.

    None of them computes what is cut off there.
    """
    *_, filters, channels = kernel.shape
    kernel = ops.reshape(ops.flip(kernel, (0, 1)), (2, 2, 2, 2, filters, channels))
    kernel = ops.transpose(kernel, (1, 3, 0, 2, 5, 4))

    def corner(row, column):
        around = ((0, 0), (1 - row, row), (1 - column, column), (0, 0))
        return ops.conv(ops.pad(pictures, around), kernel[row, column], 1, "valid")

    rows = [ops.stack([corner(row, 0), corner(row, 1)], 3) for row in (0, 1)]
    height, width = (2 * size for size in pictures.shape[1:3])
    return ops.reshape(ops.stack(rows, 2), (-1, height, width, filters))


def _laid_out(corners):
    """Lay (n, H + 1, W + 1, 2, 2, F) out as (n, 2 H, 2 W, F), cutting the edge off."""
    _, height, width, _, _, filters = corners.shape
    rows = ops.transpose(corners, (0, 1, 3, 2, 4, 5))
    pixels = ops.reshape(rows, (-1, 2 * height, 2 * width, filters))
    return pixels[:, 1:-1, 1:-1]
