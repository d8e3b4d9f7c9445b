"""Our convolutions against Keras' own: values, gradients, gradients of gradients."""

import numpy as np
import pytest

from dcgan.networks import layers as ours
from dcgan.networks.backend import keras, ops
from dcgan.networks.losses import with_gradients
from tests.processor import needs_bfloat16

# Grid, channels in and out, kernel, stride and padding: all kinds that models.py has
SHAPES = [
    (4, 10, 9, 4, 2, "same"),  # by corners on TensorFlow
    (8, 6, 3, 4, 2, "same"),  # by sub-pixels
    (7, 3, 5, 4, 2, "same"),  # no convolution of ours halves it
    (4, 3, 2, 4, 1, "valid"),
    (6, 3, 4, 3, 1, "same"),
]


def gradients(judge, faces):
    return with_gradients(judge, faces)[1]


@pytest.fixture(params=SHAPES, ids=str)
def pairs(request):
    """A layer of ours and Keras' own, of equal weights, and pictures for them."""

    def make(name):
        size, channels, filters, kernel, strides, padding = request.param
        random = np.random.default_rng(1)
        shape = (3, size, size, channels)
        x = ops.convert_to_tensor(random.normal(size=shape).astype("float32"))
        both = []
        for home in (ours, keras.layers):
            layer = getattr(home, name)(filters, kernel, strides, padding)
            layer.build(x.shape)
            both.append(layer)
        weights = [random.normal(size=w.shape) for w in both[0].weights]
        for layer in both:
            layer.set_weights(weights)
        return *both, x

    return make


@pytest.mark.every_backend
@pytest.mark.parametrize("name", ["Conv2D", "Conv2DTranspose"])
def test_values_and_gradients_are_those_of_keras(pairs, name):
    our, theirs, x = pairs(name)
    assert_close(our(x), theirs(x))
    by_pictures = [gradients(weighted(layer), x) for layer in (our, theirs)]
    assert_close(*by_pictures)
    by_kernel = [
        gradients(of_kernel(layer, x), layer.kernel.value) for layer in (our, theirs)
    ]
    assert_close(*by_kernel)


@pytest.mark.every_backend
@pytest.mark.parametrize("name", ["Conv2D", "Conv2DTranspose"])
def test_a_penalty_on_gradients_has_the_gradients_of_keras(pairs, name):
    our, theirs, x = pairs(name)

    def steepness(layer):
        def of(kernel):
            call = with_kernel(layer, kernel)
            gradient = gradients(
                lambda faces: ops.sum(ops.tanh(call(faces)), (1, 2, 3)), x
            )
            return ops.sum(ops.square(gradient))[None, None]

        return gradients(of, layer.kernel.value)

    assert_close(steepness(our), steepness(theirs))


@needs_bfloat16
@pytest.mark.parametrize(
    ("name", "size", "strides", "padding"),
    [
        *(("Conv2D", size, 2, "same") for size in (4, 8, 14)),
        ("Conv2DTranspose", 4, 1, "valid"),
        ("Conv2D", 7, 1, "valid"),
    ],
)
def test_in_bfloat16_the_kernel_gradient_is_that_of_keras_to_its_digits(
    name, size, strides, padding
):
    random = np.random.default_rng(1)
    x = random.normal(size=(3, size, size, 6)).astype("float32")
    kernel = random.normal(size=(4, 4, 6, 6)) / 10
    found = []
    for home, dtype in ((ours, "mixed_bfloat16"), (keras.layers, "float32")):
        options = {"use_bias": False, "dtype": dtype}
        layer = getattr(home, name)(6, 4, strides, padding, **options)
        layer.build(x.shape)
        layer.set_weights([kernel])
        found.append(gradients(of_kernel(layer, x), layer.kernel.value))
    ours_found, exact = map(ops.convert_to_numpy, found)
    assert np.abs(ours_found - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.every_backend
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_batch_norm_is_that_of_keras(device, monkeypatch):
    if device == "gpu":
        compute_as_on_a_gpu(monkeypatch)
    random = np.random.default_rng(1)
    x = ops.convert_to_tensor(random.normal(0.5, 2, (8, 5, 5, 3)).astype("float32"))
    layers = [home.BatchNormalization(momentum=0.9) for home in (ours, keras.layers)]
    for layer in layers:
        layer.build(x.shape)

    def trained(layer):
        def of(x):
            with keras.StatelessScope():  # else JAX's gradient lets its traces out
                return weighted(lambda x: layer(x, training=True))(x)

        return of

    assert_close(*(gradients(trained(layer), x) for layer in layers))
    assert_close(*(layer(x, training=True) for layer in layers))
    for name in ("moving_mean", "moving_variance"):
        assert_close(*(getattr(layer, name).value for layer in layers))
    same = ops.ones(x.shape) * 1e3  # where rounding could make a variance negative
    assert np.isfinite(ops.convert_to_numpy(layers[0](same, training=True))).all()


@pytest.mark.every_backend
def test_in_bfloat16_batch_norm_sums_in_float32(monkeypatch):
    compute_as_on_a_gpu(monkeypatch)
    random = np.random.default_rng(1)
    x = ops.cast(random.normal(3, 1, (16, 16, 16, 3)), "bfloat16")
    found = []
    for home, dtype in ((ours, "mixed_bfloat16"), (keras.layers, "float32")):
        layer = home.BatchNormalization(momentum=0.9, dtype=dtype)
        layer.build(x.shape)
        found.append([layer(ops.cast(x, layer.compute_dtype), training=True)])
        found[-1] += [layer.moving_mean.value, layer.moving_variance.value]
    of_ours, exact = [[ops.convert_to_numpy(it) for it in each] for each in found]
    np.testing.assert_allclose(of_ours[0].astype("float32"), exact[0], atol=0.02)
    for mine, theirs in zip(of_ours[1:], exact[1:], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3)


@pytest.mark.every_backend
def test_kinds_in_turns_are_judged_as_one_after_the_other(monkeypatch):
    compute_as_on_a_gpu(monkeypatch)
    random = np.random.default_rng(1)
    kinds = [
        ops.convert_to_tensor(random.normal(mean, 2, (4, 6, 6, 3)).astype("float32"))
        for mean in (0.5, -1)
    ]
    found = []
    one_by_one = lambda judge, *kinds: [judge(it) for it in kinds]  # noqa: E731
    for home, judged in ((ours, ours.in_turns), (keras.layers, one_by_one)):
        keras.utils.set_random_seed(1)
        judge = keras.Sequential(
            [
                keras.Input((6, 6, 3)),
                home.Conv2D(5, 4, 2, "same", use_bias=False),
                home.BatchNormalization(momentum=0.9),
                keras.layers.LeakyReLU(0.2),
                keras.layers.Flatten(),
                keras.layers.Dense(1),
            ]
        )
        weights = judge.trainable_variables

        def trained(values, judged=judged, judge=judge, weights=weights):
            """The logits weighted and summed, and the moving statistics."""
            mapping = list(zip(weights, values, strict=True))
            with keras.StatelessScope(state_mapping=mapping) as scope:
                logits = judged(lambda x: judge(x, training=True), *kinds)
            still = judge.non_trainable_variables
            moving = [scope.get_current_value(variable) for variable in still]
            return sum(ops.sum(ops.sin(it * 9)) for it in logits), (logits, moving)

        import jax

        of_weights = jax.grad(trained, has_aux=True)
        found.append(of_weights([weight.value for weight in weights]))
    for ours_found, theirs in zip(*map(keras.tree.flatten, found), strict=True):
        assert_close(ours_found, theirs)


@pytest.mark.parametrize(
    ("options", "size"),
    [({"trainable": False}, 5), ({"axis": 1}, 3), ({"scale": False}, 5)],
)
def test_batch_norm_of_another_kind_is_that_of_keras_too(options, size):
    x = np.random.default_rng(1).normal(0.5, 2, (8, size, size, 3)).astype("float32")
    both = [home.BatchNormalization(**options) for home in (ours, keras.layers)]
    assert_close(*(layer(x, training=True) for layer in both))
    assert_close(*(layer.moving_mean.value + 1 for layer in both))


def test_first_weights_are_drawn_by_numpy_so_that_no_backend_decides():
    drawn = ours.Normal(1.0, 2.0, seed=5)((200, 300), "float32")
    assert type(drawn) is np.ndarray
    assert drawn.dtype == "float32"
    assert ours.Normal()((2, 3)).dtype == "float32"
    assert (drawn.mean(), drawn.std()) == pytest.approx((1, 2), abs=0.05)
    assert (drawn == ours.Normal(1.0, 2.0, seed=5)((200, 300), "float32")).all()
    assert (drawn != ours.Normal(1.0, 2.0, seed=6)((200, 300), "float32")).mean() > 0.9


def weighted(layer):
    """The sum of a layer's outputs, each times another number, as (n, 1)."""

    def of(x):
        y = ops.sin(layer(x))  # so that no two weights are alike
        return ops.sum(y, (1, 2, 3))[:, None]

    return of


def of_kernel(layer, x):
    return lambda kernel: ops.sum(ops.sin(with_kernel(layer, kernel)(x)))[None, None]


def with_kernel(layer, kernel):
    """The layer as a function of pictures, with another kernel."""

    def call(x):
        mapping = [(layer.kernel, kernel)]
        with keras.StatelessScope(state_mapping=mapping):
            return layer(x)

    return call


def assert_close(a, b):
    a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()


def compute_as_on_a_gpu(monkeypatch):
    """Compute on the CPU by what JAX computes by on a GPU; skip on other backends."""
    if keras.backend.backend() != "jax":
        pytest.skip("of JAX alone")
    monkeypatch.setattr(ours, "on_cpu", lambda: False)
