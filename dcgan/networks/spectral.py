"""Spectral normalization: layers that stretch nothing by more than 1, or about that.

Keras has a wrapper for it, SpectralNormalization, which overwrites the kernel whenever
it is called in training. In step 5 that would move D's weights, which are to stay.
Here the kernel is divided as it is used.
"""

from dcgan.networks.backend import layers, ops
from dcgan.networks.layers import Conv2D, Normal


class SpectralConv2D(Conv2D):
    """A convolution by its kernel / the kernel's largest singular value, estimated.

    Miyato et al. 2018 (arXiv 1802.05957, algorithm 1): the kernel is a matrix with a
    column per filter; one power iteration a call in training.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.vector = self.add_weight(
            shape=(self.filters, 1),
            initializer=Normal(),
            trainable=False,
            autocast=False,
            name="vector",
        )

    def call(self, inputs, training=False):
        if training:
            matrix = ops.stop_gradient(_matrix(self.kernel))
            left = _unit(matrix @ self.vector.value)
            self.vector.assign(_unit(ops.transpose(matrix) @ left))
        return super().call(inputs)

    def convolution_op(self, inputs, kernel):
        matrix = _matrix(kernel)
        right = _unit(ops.stop_gradient(self.vector.value))
        left = ops.stop_gradient(_unit(matrix @ right))
        largest = ops.sum(left * (matrix @ right))
        divided = ops.cast(_float32(kernel) / largest, inputs.dtype)
        return super().convolution_op(inputs, divided)


class SpectralDense(layers.Dense):
    """A dense layer to one number; its kernel's only singular value is its length."""

    def call(self, inputs):
        kernel = self.kernel / ops.norm(self.kernel)
        return ops.matmul(inputs, kernel) + self.bias


def _matrix(kernel):
    return ops.reshape(_float32(kernel), (-1, kernel.shape[-1]))


def _float32(kernel):
    return ops.cast(kernel, "float32")


def _unit(vector):
    return vector / (ops.norm(vector) + 1e-12)
