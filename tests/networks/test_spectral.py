import keras
import numpy as np
import pytest

from dcgan.networks import spectral


@pytest.mark.every_backend
def test_spectral_layers_divide_by_the_largest_singular_value():
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    layer = spectral.SpectralConv2D(5, 4, 2, padding="same", use_bias=True)
    plain = keras.layers.Conv2D(5, 4, 2, padding="same", use_bias=True)
    for each in (layer, plain):
        each.build(x.shape)
    # One singular value far above the others, which few iterations find
    kernel = layer.kernel.numpy() * np.array([4, 1, 1, 1, 1], "float32")
    layer.kernel.assign(kernel)
    first = layer.vector.numpy().copy()
    layer(x, training=False)
    assert (layer.vector.numpy() == first).all()
    for _ in range(12):
        layer(x, training=True)
    divided = to_numpy(layer(x))
    assert (layer.kernel.numpy() == kernel).all()
    largest = np.linalg.svd(kernel.reshape(-1, 5), compute_uv=False)[0]
    plain.kernel.assign(kernel / largest)
    np.testing.assert_allclose(divided, to_numpy(plain(x)), atol=1e-4)


@pytest.mark.every_backend
def test_a_spectral_dense_layer_is_as_long_as_1():
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    dense = spectral.SpectralDense(1)
    divided = to_numpy(dense(x))
    kernel = dense.kernel.numpy()
    expected = x @ kernel / np.sqrt((kernel**2).sum())
    np.testing.assert_allclose(divided, expected, rtol=1e-4, atol=1e-6)


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor))
