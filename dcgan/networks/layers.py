"""Keras' layers with the same numbers, faster: convolutions, and back, and batch norm.

A transposed convolution is the gradient of a convolution by its input, and the other
way round. So each of the two layers can be the gradient of the other, and both have the
same gradient by their kernel, where

- JAX by itself makes a convolution of the transposed one's kernel gradient whose filter
  is as large as the picture: no library has a fast way for it, on CPUs 20 times slower;
- TensorFlow on CPUs is slow at the gradient by the input. Where pictures are halved or
  doubled, 64 pixels and batches of 32, it is three times as fast by what stands here.

Their names are those of Keras' layers, by which weights are found in a file.
"""

import functools

from dcgan.networks.backend import keras, layers, on_cpu, ops

# Grids up to this width are doubled by `fold`, wider ones by `sub_pixels`
FOLDED = 4


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
    """Keras' layer, which takes a batch's mean and variance in one pass for XLA.

    The variance is mean(x^2) - mean(x)^2, in float32, as in Flax. By Keras' way, that
    is the mean of (x - mean)^2, it would have to wait for the mean.
    """

    def _moments(self, inputs, mask):
        backend = keras.backend.backend()
        if backend == "torch" or (backend == "tensorflow" and on_cpu()):
            return super()._moments(inputs, mask)
        axes = self._reduction_axes
        mean, of_squares = ops.mean(inputs, axes), ops.mean(ops.square(inputs), axes)
        return mean, ops.maximum(of_squares - ops.square(mean), 0)


def _pair_for(layer):
    """Return what convolves like a layer, and what spreads; None to leave it to Keras.

    Both map (pictures, kernel) to pictures.
    """
    backend, doubles = keras.backend.backend(), _doubles(layer)
    is_better = backend == "jax" or (backend == "tensorflow" and doubles and on_cpu())
    return _pair(layer.strides, layer.padding, doubles) if is_better else None


def _doubles(layer):
    return (layer.kernel_size, layer.strides, layer.padding) == ((4, 4), (2, 2), "same")


@functools.cache
def _pair(strides, padding, doubles):
    backend = keras.backend.backend()
    plain, kernel_gradient = {"jax": _jax, "tensorflow": _tensorflow}[backend](
        strides, padding, doubles
    )

    def convolve_gradient(pictures, kernel, by):
        return spread(by, kernel), kernel_gradient(pictures, kernel, by)

    def spread_gradient(pictures, kernel, by):
        return convolve(by, kernel), kernel_gradient(by, kernel, pictures)

    def spread_plain(pictures, kernel):
        if doubles and on_cpu():
            return (fold if pictures.shape[2] <= FOLDED else sub_pixels)(
                pictures, kernel
            )
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


def _jax(strides, padding, doubles):
    import jax

    def convolve(pictures, kernel):
        return ops.conv(pictures, kernel, strides, padding)

    def kernel_gradient(pictures, kernel, by):
        if doubles and by.shape[2] <= FOLDED:
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


def _tensorflow(strides, padding, _):
    import tensorflow as tf

    options = {"strides": [1, *strides, 1], "padding": padding.upper()}

    def convolve(pictures, kernel):
        return tf.nn.conv2d(pictures, kernel, **options)

    def kernel_gradient(pictures, kernel, by):
        return tf.raw_ops.Conv2DBackpropFilter(
            input=pictures, filter_sizes=kernel.shape, out_backprop=by, **options
        )

    return convolve, kernel_gradient


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


def fold(pictures, kernel):
    """Double pictures like sub_pixels(), by one matrix product and four sums.

    Faster where grids are small and kernels are large.
    """
    *_, filters, channels = kernel.shape
    height, width = pictures.shape[1:3]
    products = ops.matmul(
        ops.reshape(pictures, (-1, channels)),
        ops.transpose(ops.reshape(kernel, (-1, channels))),
    )
    products = ops.reshape(products, (-1, height, width, 2, 2, 2, 2, filters))
    parts = [
        ops.pad(
            products[:, :, :, row, :, column],
            ((0, 0), (row, 1 - row), (column, 1 - column), (0, 0), (0, 0), (0, 0)),
        )
        for row in (0, 1)
        for column in (0, 1)
    ]
    return _laid_out(sum(parts[1:], parts[0]))


def _laid_out(corners):
    """Lay (n, H + 1, W + 1, 2, 2, F) out as (n, 2 H, 2 W, F), cutting the edge off."""
    _, height, width, _, _, filters = corners.shape
    rows = ops.transpose(corners, (0, 1, 3, 2, 4, 5))
    pixels = ops.reshape(rows, (-1, 2 * height, 2 * width, filters))
    return pixels[:, 1:-1, 1:-1]
