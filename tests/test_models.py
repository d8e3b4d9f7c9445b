"""The networks, and the two models through which they train."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

import models
from dcgan.networks import layers

EVERY = [
    (name, size) for name, network in models.NETWORKS.items() for size in network.sizes
]
STEPPING = [
    *(("dcgan", size) for size in (16, 32, 48, 64, 96, 128, 256)),
    *(("tutorial", 64), ("blog", 28)),
]
KINDS = ("colour", "translation", "cutout")
RECIPES = [
    {"loss": "least-squares"},
    {"loss": "hinge"},
    {"d_norm": "none", "r1": 0.1},
    {"loss": "relativistic", "augment": KINDS, "d_norm": "spectral", "r1": 0.1},
]
BATCH = 4
NARROW = 0.05


def build(network="dcgan", size=28, seed=1, eagerly=True, **recipe):
    recipe = models.Recipe(**{"width": NARROW, **recipe})
    gan = models.build_gan(network, size, seed, (1e-2, 1e-2), 0.5, recipe=recipe)
    for model in (gan.judge, gan.d_on_g):
        model.run_eagerly = eagerly  # a step takes seconds to compile
        model.optimizer.epsilon = 1e-12  # without batch norm gradients begin small
    return gan


def noise(count=BATCH, seed=0):
    random = np.random.default_rng(seed)
    return random.uniform(-1, 1, (count, models.LATENT)).astype("float32")


def some_pixels(size=28, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (BATCH, size, size, 3)).astype("uint8")


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor))


def step_3(gan, size=28):
    tensors = {
        "real": keras.ops.convert_to_tensor(some_pixels(size)),
        "fake": models.make_fakes(gan.generator, noise()),
        "chance": keras.ops.full((BATCH, 2, 7), 0.4),
    }
    labels = {"real": np.ones((BATCH, 1)), "fake": np.zeros((BATCH, 1))}
    inputs = models.inputs_for(gan.judge, **tensors)
    return gan.judge.train_on_batch(inputs, labels, return_dict=True)


def step_5(gan, size=28):
    tensors = {
        "noise": keras.ops.convert_to_tensor(noise()),
        "real": keras.ops.convert_to_tensor(some_pixels(size)),
        "chance": keras.ops.full((BATCH, 2, 7), 0.4),
    }
    inputs = models.inputs_for(gan.d_on_g, **tensors)
    return gan.d_on_g.train_on_batch(inputs, np.ones((BATCH, 1)))


def trainable(model):
    return [weight.numpy().copy() for weight in model.trainable_weights]


def moved(before, model):
    pairs = zip(before, trainable(model), strict=True)
    return [(old != new).any() for old, new in pairs]


@pytest.mark.parametrize(
    ("network", "size", "first", "recipe"),
    [
        pytest.param("dcgan", 28, step_3, {}, marks=pytest.mark.every_backend),
        ("dcgan", 28, step_5, {}),
        *((*network, step_3, {}) for network in STEPPING[::2]),
        *((*network, step_5, {}) for network in STEPPING[1::2]),
        *(("dcgan", 28, step_3, recipe) for recipe in RECIPES[:-1]),
        pytest.param(
            *("dcgan", 28, step_5, RECIPES[-1]), marks=pytest.mark.every_backend
        ),
    ],
)
def test_each_step_moves_its_own_network_and_not_the_other(
    network, size, first, recipe
):
    compiled = (network, size, recipe) == ("dcgan", 28, {})
    gan = build(network, size, eagerly=not compiled, **recipe)
    second = step_5 if first is step_3 else step_3
    for step in (first, second, step_3, step_5) if compiled else (first, second):
        d, g = trainable(gan.discriminator), trainable(gan.generator)
        step(gan, size)
        d, g = moved(d, gan.discriminator), moved(g, gan.generator)
        if step is step_3:
            if recipe.get("loss") in ("hinge", "relativistic"):
                d.pop()  # of real less fake, where a last bias cancels out
            assert all(d)
            assert not any(g)
        else:
            assert not any(d)
            assert all(g)


@pytest.mark.every_backend
def test_at_a_rate_of_zero_nothing_moves():
    gan = build()
    models.set_rate(gan.judge, 0.0)
    d, g = trainable(gan.discriminator), trainable(gan.generator)
    step_3(gan)
    step_5(gan)
    assert not any(moved(d, gan.discriminator))
    assert all(moved(g, gan.generator))


@pytest.mark.parametrize(("network", "size"), EVERY)
def test_networks_map_noise_to_faces_and_faces_to_a_probability(network, size):
    generator = models.build_generator(network, size, NARROW)
    recipe = models.Recipe(width=NARROW)
    discriminator = models.build_discriminator(network, size, recipe)
    faces = to_numpy(generator(1e6 * noise()))  # where anything but tanh leaves [-1, 1]
    assert faces.shape == (BATCH, size, size, 3)
    assert -1 <= faces.min() < -0.01
    assert 0.01 < faces.max() <= 1
    judged = to_numpy(discriminator(1e4 * faces))
    logits = to_numpy(models._logit(discriminator)(1e4 * faces))
    assert judged.shape == (BATCH, 1)
    assert np.ptp(logits) > 0
    np.testing.assert_allclose(judged, 1 / (1 + np.exp(-logits)), rtol=1e-4)


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        (
            "dcgan",
            50,
            "dcgan network cannot draw 50 pixels. Try --image-size 48, or --image-size",
        ),
        ("dcgan", 8, r"cannot draw 8 pixels\. Try --image-size 16\.$"),
        ("dcgan", 512, r"cannot draw 512 pixels\. Try --image-size 256\.$"),
        ("tutorial", 28, "Try --image-size 64, or --network dcgan"),
        ("blog", 50, r"blog network cannot draw 50 pixels\. Try --image-size 28\.$"),
        ("resnet", 64, "no network 'resnet', only dcgan, "),
    ],
)
def test_a_size_that_a_network_does_not_have_is_refused(network, size, message):
    for build_network in (models.build_generator, models.build_discriminator):
        with pytest.raises(SystemExit, match=message):
            build_network(network, size)


def test_a_loss_that_there_is_not_is_refused():
    with pytest.raises(SystemExit, match="no loss 'hings', only cross-entropy, "):
        build(loss="hings")


def test_a_row_is_all_that_a_new_network_needs(monkeypatch):
    def face(noise, image_size, width, channels):
        x = keras.layers.Dense(image_size * image_size * channels, "tanh")(noise)
        return keras.layers.Reshape((image_size, image_size, channels))(x)

    def look(face, image_size, recipe):
        return keras.layers.Flatten()(face)

    monkeypatch.setitem(models.NETWORKS, "flat", models.Network(face, look, (8,)))
    gan = build("flat", 8)
    d, g = trainable(gan.discriminator), trainable(gan.generator)
    assert np.isfinite([step_3(gan, 8)["loss"], step_5(gan, 8)]).all()
    assert all(moved(d, gan.discriminator) + moved(g, gan.generator))
    with pytest.raises(SystemExit, match="flat network cannot draw 28 pixels"):
        build("flat", 28)


def test_dcgan_at_64_has_the_papers_layers():
    def widths(model, kind):
        return [layer.filters for layer in model.layers if isinstance(layer, kind)]

    generator = models.build_generator("dcgan", 64)
    discriminator = models.build_discriminator("dcgan", 64)
    assert widths(generator, keras.layers.Conv2DTranspose) == [256, 128, 64, 3]
    assert widths(discriminator, keras.layers.Conv2D) == [64, 128, 256, 512]
    assert all(
        layer.kernel_size == (4, 4) and layer.strides == (2, 2)
        for layer in (*generator.layers, *discriminator.layers)
        if hasattr(layer, "kernel_size")
    )


def test_dcgan_draws_4_to_7_times_each_power_of_two_from_16_to_256():
    sizes = [16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256]
    assert list(models.NETWORKS["dcgan"].sizes) == sizes
    assert models.DCGAN[224] == (7, (1024, 512, 256, 128, 64))
    assert models.DCGAN[256] == (4, (1024, 1024, 512, 256, 128, 64))


# Side and channels of what each layer makes, and the weights of both networks
OUTPUTS = {
    28: ["7x256 14x128 28x64 28x3", "14x64 7x128 4x256", 1913283, 664129],
    32: [
        *("4x512 8x256 16x128 32x64 32x3", "16x64 8x128 4x256 2x512"),
        *(3577283, 2761281),
    ],
    64: [
        *("4x512 8x256 16x128 32x64 64x3", "32x64 16x128 8x256 4x512"),
        *(3578627, 2767425),
    ],
    128: [
        "4x1024 8x512 16x256 32x128 64x64 128x3",
        *("64x64 32x128 16x256 8x512 4x1024", 12790531, 11168321),
    ],
    16: ["4x256 8x128 16x64 16x3", "8x64 4x128 2x256", 1068483, 661057],
    48: ["6x256 12x128 24x64 48x3", "24x64 12x128 6x256", 1581827, 669249],
    96: [
        *("6x512 12x256 24x128 48x64 96x3", "48x64 24x128 12x256 6x512"),
        *(4602627, 2777665),
    ],
}


@pytest.mark.parametrize("size", OUTPUTS)
def test_dcgan_has_the_layers_that_weights_were_saved_of(size):
    """The first four are those of all weights before there was a rule."""
    kinds = (keras.layers.Reshape, keras.layers.Conv2D, keras.layers.Conv2DTranspose)

    def outputs(model):
        shapes = [layer.output.shape for layer in model.layers if type(layer) in ours]
        return " ".join(f"{shape[1]}x{shape[3]}" for shape in shapes)

    generator = models.build_generator("dcgan", size)
    discriminator = models.build_discriminator("dcgan", size)
    ours = {type(layer) for layer in generator.layers if isinstance(layer, kinds)}
    ours |= {type(layer) for layer in discriminator.layers if isinstance(layer, kinds)}
    assert [outputs(generator), outputs(discriminator)] == OUTPUTS[size][:2]
    assert [generator.count_params(), discriminator.count_params()] == OUTPUTS[size][2:]


@pytest.mark.parametrize(("network", "size"), [EVERY[0], *EVERY[-2:]])
def test_d_norm_and_width_change_every_network(network, size):
    def kinds(**options):
        recipe = models.Recipe(width=NARROW, **options)
        layers = models.build_discriminator(network, size, recipe).layers
        return {type(layer).__name__ for layer in layers}

    assert "BatchNormalization" in kinds()
    assert not {"BatchNormalization", "SpectralConv2D"} & kinds(d_norm="none")
    spectral_kinds = kinds(d_norm="spectral")
    assert {"SpectralConv2D", "SpectralDense"} <= spectral_kinds
    assert not {"BatchNormalization", "Conv2D", "Dense"} & spectral_kinds

    def widths(width):
        recipe = models.Recipe(width=width)
        generator = models.build_generator(network, size, width)
        discriminator = models.build_discriminator(network, size, recipe)
        layers = (*generator.layers, *discriminator.layers)
        return [x.filters for x in layers if getattr(x, "filters", 3) != 3]

    assert widths(1 / 8) == [width // 2 for width in widths(1 / 4)]
    assert min(widths(1e-6)) == max(widths(1e-6)) == 1


@pytest.mark.every_backend
def test_the_losses_are_cross_entropy_of_the_discriminators_logits():
    gan = build()
    real, fake = some_pixels(seed=3), models.make_fakes(gan.generator, noise())
    in_training = models._logit(gan.discriminator)

    def logits(faces):  # in a pass of their own, by their own statistics
        return to_numpy(in_training(keras.ops.convert_to_tensor(faces), training=True))

    real_logits = logits(real.astype("float32") / 255 * 2 - 1)
    fake_logits = logits(fake)
    costs = np.logaddexp(0, -real_logits).mean() + np.logaddexp(0, fake_logits).mean()
    scores = gan.judge.train_on_batch(
        {"real": keras.ops.convert_to_tensor(real), "fake": fake},
        {"real": np.ones((BATCH, 1)), "fake": np.zeros((BATCH, 1))},
        return_dict=True,
    )
    assert scores["loss"] == pytest.approx(costs / 2, rel=1e-4)
    assert scores["real_share_called_real"] == np.mean(real_logits > 0)
    assert scores["fake_share_called_fake"] == np.mean(fake_logits <= 0)


@pytest.mark.every_backend
@pytest.mark.parametrize("loss", ["cross-entropy", "relativistic"])
def test_one_pass_for_real_and_fake_faces_says_what_two_do(loss, monkeypatch):
    if keras.backend.backend() != "jax":
        pytest.skip("of JAX alone")
    found = {}
    for on_cpu in (True, False):
        monkeypatch.setattr(layers, "on_cpu", lambda on_cpu=on_cpu: on_cpu)
        gan = build(loss=loss, augment=KINDS)
        has_one = any(isinstance(it, models.InTurns) for it in gan.judge.layers)
        assert has_one is not on_cpu
        gan.judge.optimizer.epsilon = 1.0  # what moves is nearly the gradient itself
        scores = step_3(gan)
        found[on_cpu] = [*scores.values(), *map(to_numpy, gan.discriminator.weights)]
    for one, two in zip(found[False], found[True], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-6)


@pytest.mark.every_backend
@pytest.mark.parametrize(
    "make",
    [
        keras.layers.BatchNormalization,  # knows of no kinds
        lambda: layers.BatchNormalization(scale=False),
        lambda: keras.layers.Dropout(0.5),
    ],
)
def test_what_mixes_kinds_is_not_given_them_in_one_pass(make, monkeypatch):
    monkeypatch.setattr(layers, "on_cpu", lambda: False)

    def network(*after):
        looks = [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), *after]
        return keras.Sequential([*looks, keras.layers.Flatten()])

    is_jax = keras.backend.backend() == "jax"
    assert layers.can_take_turns(network(layers.BatchNormalization())) == is_jax
    assert not layers.can_take_turns(network(make()))
    flat = network(keras.layers.Flatten(), layers.BatchNormalization())
    assert not layers.can_take_turns(flat)


def test_equal_seeds_begin_with_equal_weights():
    def first(seed):
        gan = build(seed=seed)
        return [w for m in (gan.generator, gan.discriminator) for w in m.get_weights()]

    one, again, two = first(1), first(1), first(2)
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    kernels = [k for k, weight in enumerate(one) if weight.ndim > 1]
    assert all((one[k] != two[k]).any() for k in kernels)


def test_first_weights_are_of_our_initializer():
    gan = build(d_norm="spectral"), build("tutorial", 64), build("blog")
    networks = [model for each in gan for model in (each.generator, each.discriminator)]
    random = [
        initializer
        for network in networks
        for layer in network.layers
        for name, initializer in vars(layer).items()
        if name in ("kernel_initializer", "gamma_initializer")
    ]
    assert len(random) > 30
    assert {type(initializer) for initializer in random} == {layers.Normal}


@pytest.mark.every_backend
def test_the_average_begins_as_the_generator_and_moves_towards_it():
    gan = build()
    pairs = list(zip(gan.average.weights, gan.generator.weights, strict=True))
    assert all((mean.numpy() == weight.numpy()).all() for mean, weight in pairs)
    for mean, weight in pairs:
        mean.assign(np.full(mean.shape, 2.0))
        weight.assign(np.full(weight.shape, 4.0))
    models.update_average(gan.average, gan.generator, 0.75)
    assert any("moving_variance" in mean.path for mean, _ in pairs)
    for mean, _ in pairs:
        np.testing.assert_allclose(mean.numpy(), 2.5)


def test_a_model_is_given_what_it_takes_and_no_more():
    gan = build(loss="relativistic", augment=("cutout",))
    tensors = {"real": 1, "fake": 2, "noise": 3, "chance": 4}
    of_judge = models.inputs_for(gan.judge, **tensors)
    assert of_judge == {"real": 1, "fake": 2, "chance": 4}
    of_d_on_g = models.inputs_for(gan.d_on_g, **tensors)
    assert of_d_on_g == {"real": 1, "noise": 3, "chance": 4}
    assert models.inputs_for(gan.generator, **tensors) == 3
    with pytest.raises(KeyError, match="chance"):
        models.inputs_for(gan.judge, real=1, fake=2)


def test_pixels_survive_scaling_and_back():
    pixels = np.resize(np.arange(256, dtype="uint8").repeat(3), (1, 32, 32, 3))
    scaled = to_numpy(models._scaled(keras.ops.convert_to_tensor(pixels)))
    assert scaled.min() == -1
    assert scaled.max() == 1
    assert (models.to_pixels(scaled) == pixels).all()
    judge = build(size=32).judge
    scale = keras.Model(judge.inputs, judge.get_layer("scaled").output)
    others = {"real": pixels, "fake": np.zeros((1, 32, 32, 3), "float32")}
    inputs = [others[tensor.name] for tensor in judge.inputs]
    assert (to_numpy(scale(inputs)) == scaled).all()


def test_what_is_beyond_the_range_is_clipped_to_pixels():
    faces = np.array([-1.5, -1, 0, 1, 1.5], "float32").reshape(5, 1, 1, 1)
    assert models.to_pixels(faces).ravel().tolist() == [0, 0, 128, 255, 255]


@pytest.mark.every_backend
def test_a_drawn_face_does_not_depend_on_the_others():
    generator = models.build_generator("dcgan", 28, NARROW)
    for weight in generator.trainable_weights:  # far from grey
        weight.assign(weight * 4)
    many = models.draw(generator, noise(300))
    alone = models.draw(generator, noise(300)[270:271])
    difference = np.abs(many[270].astype(int) - alone[0].astype(int))
    assert many.shape == (300, 28, 28, 3)
    assert many.std() > 10
    assert difference.max() <= 1


@pytest.mark.every_backend
def test_faces_are_drawn_by_the_weights_of_the_moment():
    generator = models.build_generator("dcgan", 28, NARROW)
    as_built = models.draw(generator, noise(10))
    for weight in generator.trainable_weights:
        weight.assign(weight * 4)
    assert models.draw(generator, noise(10)).std() > 2 * as_built.std()


def test_larger_faces_are_drawn_fewer_at_a_time(monkeypatch):
    """As many as take the memory of 256 faces of 64 x 64."""
    counts = []

    def counting(_, noise):
        counts.append(len(noise))
        return keras.ops.zeros((len(noise), 2, 2, 3))

    monkeypatch.setattr(models, "inferred", counting)
    for size in (28, 64, 256):
        generator = SimpleNamespace(output_shape=(None, size, size, 3))
        assert len(models.draw(generator, noise(300))) == 300
    assert counts == [150, 150, 150, 150, *18 * [16], 12]
