import keras
import numpy as np
import pytest

import models

RATES = {"learning_rates": (1e-2, 1e-2), "beta_1": 0.5}
EVERY = [(name, size) for name, sizes in models.SIZES.items() for size in sizes]
SMALLEST = pytest.param("dcgan", 28, marks=pytest.mark.every_backend)
BATCH = 4


@pytest.fixture(scope="module")
def gan():
    return models.build_gan("dcgan", 28, 1, **RATES)


def noise(count=BATCH, seed=0):
    random = np.random.default_rng(seed)
    return random.uniform(-1, 1, (count, models.LATENT)).astype("float32")


def some_pixels(count=BATCH, size=28, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, size, size, 3)).astype("uint8")


def judge_once(gan, real=None):
    fake = models.make_fakes(gan.generator, noise())
    real = some_pixels() if real is None else real
    labels = {"real": np.ones((BATCH, 1)), "fake": np.zeros((BATCH, 1))}
    inputs = {"real": keras.ops.convert_to_tensor(real), "fake": fake}
    return gan.judge.train_on_batch(inputs, labels, return_dict=True)


def d_on_g_once(gan):
    return gan.d_on_g.train_on_batch(noise(), np.ones((BATCH, 1)))


def weights_of(model):
    return [weight.numpy().copy() for weight in model.trainable_weights]


def all_moved(before, model):
    after = weights_of(model)
    return all((a != b).any() for a, b in zip(before, after, strict=True))


def none_moved(before, model):
    after = weights_of(model)
    return all((a == b).all() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(("network", "size"), [SMALLEST, *EVERY[1:]])
@pytest.mark.parametrize("first", ["judge", "d_on_g"])
def test_each_step_moves_its_own_network_and_not_the_other(network, size, first):
    gan = models.build_gan(network, size, 1, **RATES)

    def step_3():
        d, g = weights_of(gan.discriminator), weights_of(gan.generator)
        judge_once(gan, some_pixels(size=size))
        assert all_moved(d, gan.discriminator)
        assert none_moved(g, gan.generator)

    def step_5():
        d, g = weights_of(gan.discriminator), weights_of(gan.generator)
        d_on_g_once(gan)
        assert none_moved(d, gan.discriminator)
        assert all_moved(g, gan.generator)

    for step in (step_3, step_5) if first == "judge" else (step_5, step_3):
        step()
    step_3()
    step_5()


@pytest.mark.parametrize(("network", "size"), EVERY)
def test_networks_map_noise_to_faces_and_faces_to_a_probability(network, size):
    generator = models.build_generator(network, size)
    discriminator = models.build_discriminator(network, size)
    faces = keras.ops.convert_to_numpy(generator(50 * noise()))
    assert faces.shape == (BATCH, size, size, 3)
    assert faces.min() >= -1
    assert faces.min() < -0.01
    assert 0.01 < faces.max() <= 1
    # Far from the data, where anything but a sigmoid leaves [0, 1]
    judged = keras.ops.convert_to_numpy(discriminator(1e4 * faces))
    assert judged.shape == (BATCH, 1)
    assert judged.min() >= 0
    assert judged.max() <= 1


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        ("dcgan", 50, "dcgan network draws 28 or 32 or 64 or 128 pixels, not 50"),
        ("tutorial", 28, "tutorial network draws 64 pixels, not 28"),
        ("blog", 64, "blog network draws 28 pixels, not 64"),
        ("resnet", 64, "no network 'resnet', only dcgan, tutorial, blog"),
    ],
)
def test_a_size_that_a_network_does_not_have_is_refused(network, size, message):
    for build in (models.build_generator, models.build_discriminator):
        with pytest.raises(SystemExit, match=message):
            build(network, size)


def test_dcgan_at_64_has_the_papers_layers():
    def widths(model, kind):
        return [layer.filters for layer in model.layers if type(layer) is kind]

    generator = models.build_generator("dcgan", 64)
    discriminator = models.build_discriminator("dcgan", 64)
    assert widths(generator, keras.layers.Conv2DTranspose) == [256, 128, 64, 3]
    assert widths(discriminator, keras.layers.Conv2D) == [64, 128, 256, 512]
    assert all(
        layer.kernel_size == (4, 4) and layer.strides == (2, 2)
        for layer in (*generator.layers, *discriminator.layers)
        if hasattr(layer, "kernel_size")
    )


@pytest.mark.every_backend
def test_the_losses_are_cross_entropy_of_the_discriminators_logits(gan):
    real = some_pixels(seed=3)
    fake = keras.ops.convert_to_numpy(models.make_fakes(gan.generator, noise()))
    in_training = keras.Model(
        gan.discriminator.input, gan.discriminator.get_layer("logit").output
    )

    def logits(faces):
        return keras.ops.convert_to_numpy(in_training(faces, training=True))

    def softplus(x):
        return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)

    real_logits = logits(real.astype("float32") / 255 * 2 - 1)
    fake_logits = logits(fake)
    expected = (softplus(-real_logits).mean() + softplus(fake_logits).mean()) / 2
    scores = gan.judge.train_on_batch(
        {"real": real, "fake": fake},
        {"real": np.ones((BATCH, 1)), "fake": np.zeros((BATCH, 1))},
        return_dict=True,
    )
    assert scores["loss"] == pytest.approx(expected, rel=1e-4)
    assert scores["real_share_called_real"] == np.mean(real_logits > 0)
    assert scores["fake_share_called_fake"] == np.mean(fake_logits <= 0)


def test_the_generators_loss_falls_when_its_fakes_pass_for_real():
    gan = models.build_gan("dcgan", 28, 1, **RATES)
    losses = [d_on_g_once(gan) for _ in range(8)]
    assert losses[-1] < losses[0] / 2
    fakes = models.make_fakes(gan.generator, noise())
    # D's batch norm saw only these fakes, so its own statistics fit them
    assert keras.ops.convert_to_numpy(gan.discriminator(fakes)).mean() > 0.5


def test_the_discriminator_learns_to_tell_real_from_fake():
    gan = models.build_gan("dcgan", 28, 1, **RATES)
    bright = np.full((BATCH, 28, 28, 3), 230, "uint8")
    for _ in range(8):
        scores = judge_once(gan, bright + some_pixels() // 20)
    assert scores["real_share_called_real"] == 1
    assert scores["fake_share_called_fake"] == 1


def test_equal_seeds_begin_with_equal_weights():
    def first(seed):
        return models.build_gan("dcgan", 28, seed, **RATES).generator.get_weights()[0]

    assert (first(1) == first(1)).all()
    assert (first(1) != first(2)).any()


@pytest.mark.every_backend
def test_the_average_moves_towards_the_generator_statistics_included(gan):
    for weight in gan.generator.weights:
        weight.assign(np.full(weight.shape, 4.0))
    for weight in gan.average.weights:
        weight.assign(np.full(weight.shape, 2.0))
    models.update_average(gan.average, gan.generator, 0.75)
    assert any("moving_variance" in weight.path for weight in gan.average.weights)
    for weight in gan.average.weights:
        np.testing.assert_allclose(weight.numpy(), 2.5)


@pytest.mark.parametrize(
    ("iteration", "target", "decay"),
    [(0, 0.999, 0), (20, 0.999, 0.5), (180, 0.999, 0.9), (10**6, 0.999, 0.999)],
)
def test_the_averages_memory_grows_with_the_run(iteration, target, decay):
    assert models.average_decay(iteration, target) == pytest.approx(decay)


def test_pixels_survive_scaling_and_back():
    pixels = np.arange(256, dtype="uint8").repeat(3).reshape(1, 16, 16, 3)
    seen = []
    discriminator = models.build_discriminator("dcgan", 32)
    judge = models.build_judge(discriminator)
    scale = keras.Model(judge.inputs, judge.get_layer("scaled").output)
    pixels = np.resize(pixels, (1, 32, 32, 3))
    names = [tensor.name for tensor in judge.inputs]
    fake = np.zeros((1, 32, 32, 3), "float32")
    given = [pixels if name == "real" else fake for name in names]
    scaled = keras.ops.convert_to_numpy(scale(given))
    seen.append(scaled)
    assert scaled.min() == -1
    assert scaled.max() == 1
    assert (models.to_pixels(scaled) == pixels).all()


def test_what_is_beyond_the_range_is_clipped_to_pixels():
    faces = np.array([-1.5, -1, 0, 1, 1.5], "float32").reshape(5, 1, 1, 1)
    assert models.to_pixels(faces).ravel().tolist() == [0, 0, 128, 255, 255]


@pytest.mark.every_backend
def test_a_drawn_face_does_not_depend_on_the_others():
    generator = models.build_generator("dcgan", 28)
    for weight in generator.trainable_weights:  # far from grey
        weight.assign(weight * 3)
    many = models.draw(generator, noise(300))
    alone = models.draw(generator, noise(300)[270:271])
    difference = np.abs(many[270].astype(int) - alone[0].astype(int))
    assert many.shape == (300, 28, 28, 3)
    assert many.std() > 10
    assert difference.max() <= 1
