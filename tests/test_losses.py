"""losses.py, spectral.py, and what train.py's constants make of them."""

import keras
import numpy as np
import pytest

import models
import preprocess
import train
from dcgan.common.options import current
from dcgan.networks import losses, spectral
from dcgan.runs import checkpoints, generators
from dcgan.training import compiled

BATCH = 4
LOSSES = ["cross-entropy", "least-squares", "hinge", "relativistic"]
ALL = ("colour", "translation", "cutout")

RECIPES = [
    *(models.Recipe(loss) for loss in LOSSES[1:]),
    models.Recipe(d_norm="none", r1=0.1),
    models.Recipe("relativistic", ALL, "spectral", 0.1),
]


@pytest.fixture
def small(monkeypatch):
    for name, value in current(train).items():
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(train, "BATCH_SIZE", BATCH)
    monkeypatch.setitem(models.DCGAN, 28, (7, (8, 4, 4)))


def build(recipe, rates=(1e-2, 1e-2)):
    gan = models.build_gan("dcgan", 28, 1, rates, 0.5, recipe=recipe)
    for model in (gan.judge, gan.d_on_g):
        model.optimizer.epsilon = 1e-2  # see test_fuse.py
    return gan


def some_batches(count, recipe):
    train.AUGMENT = ",".join(recipe.augment)
    rows = []
    for number in range(count):
        random = np.random.default_rng(number)
        real = random.integers(0, 256, (BATCH, 28, 28, 3)).astype("uint8")
        rows.append({"real": real, **train.chance(1, number, 100)})
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {name: keras.ops.convert_to_tensor(stacked[name]) for name in stacked}


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor))


def softplus(x):
    return np.logaddexp(0, x)


def by_hand(loss, real, fake):
    """Return the losses of D and of G as their papers write them (D's halved)."""
    if loss == "cross-entropy":
        d = (softplus(-real).mean() + softplus(fake).mean()) / 2
        return d, softplus(-fake).mean()
    if loss == "least-squares":
        d = ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2
        return d, ((fake - 1) ** 2).mean() / 2
    if loss == "hinge":
        d = np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()
        return d / 2, -fake.mean()
    return softplus(-(real - fake)).mean(), softplus(-(fake - real)).mean()


@pytest.mark.every_backend
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_those_of_their_papers(small, loss):
    recipe = models.Recipe(loss, d_norm="none")
    gan = build(recipe, (1e-9, 1e-9))
    for weight in gan.discriminator.trainable_weights:
        weight.assign(weight * 10)  # logits far from 0
    random = np.random.default_rng(0)
    real = random.integers(0, 256, (BATCH, 28, 28, 3)).astype("uint8")
    real = keras.ops.convert_to_tensor(real)
    noise = keras.ops.convert_to_tensor(train.noise(3, 1, 1))
    fake = models.make_fakes(gan.generator, noise)
    logit = models._logit(gan.discriminator)
    scaled = keras.ops.cast(real, "float32") / 127.5 - 1
    r, f = (to_numpy(logit(faces)) for faces in (scaled, fake))
    assert np.ptp(r) > 0.1
    ones = np.ones((BATCH, 1), "float32")
    d = gan.judge.train_on_batch(
        {"real": real, "fake": fake}, {"real": ones, "fake": 0 * ones}, return_dict=True
    )
    given = models.taken_by(gan.d_on_g, {"noise": noise, "real": real})
    g = gan.d_on_g.train_on_batch(given, ones)
    expected = by_hand(loss, r, f)
    assert d["loss"] == pytest.approx(expected[0], rel=1e-4)
    assert g == pytest.approx(expected[1], rel=1e-4)
    border = 0.5 if loss == "least-squares" else 0
    right = (r > border, f <= border)
    if loss == "relativistic":
        right = (r > f, r >= f)
    assert d["real_share_called_real"] == right[0].mean()
    assert d["fake_share_called_fake"] == right[1].mean()


@pytest.mark.parametrize(
    ("loss", "label", "logit", "expected"),
    [
        (losses.squares, 0.9, 0.4, 0.25),
        (losses.half_squares, 1.0, 0.0, 0.5),
        (losses.hinge, 1.0, 0.4, 0.6),
        (losses.hinge, 1.0, 1.5, 0.0),
        (losses.hinge, 0.0, 0.4, 1.4),
        (losses.hinge, 0.0, -1.5, 0.0),
        (losses.linear, 1.0, 0.4, -0.4),
    ],
)
def test_a_loss_of_one_logit(loss, label, logit, expected):
    assert float(loss(np.float32(label), np.float32(logit))) == pytest.approx(expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_d_learns_to_tell_and_g_to_pass(small, loss):
    recipe = models.Recipe(loss)
    gan = build(recipe)
    batch = {name: row[0] for name, row in some_batches(1, recipe).items()}
    fake = models.make_fakes(gan.generator, batch["d_noise"])
    ones = np.ones((BATCH, 1), "float32")
    d, g = [], []
    for _ in range(12):
        given = {"real": batch["real"], "fake": fake}
        labels = {"real": ones, "fake": 0 * ones}
        d.append(gan.judge.train_on_batch(given, labels, return_dict=True))
    assert d[-1]["loss"] < d[0]["loss"] / 2
    assert d[-1]["real_share_called_real"] == d[-1]["fake_share_called_fake"] == 1
    for _ in range(12):
        given = {"noise": batch["g_noise"], "real": batch["real"]}
        given = models.taken_by(gan.d_on_g, given)
        g.append(gan.d_on_g.train_on_batch(given, ones))
    assert g[-1] < g[0] - 0.1


@pytest.mark.every_backend
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_fused_step_moves_its_own_network_and_not_the_other(small, recipe):
    trained = []

    def step(gan, batch, train_on):
        def only(model, x, y):
            if model.name == trained[-1]:
                return train_on(model, x, y)
            zero = keras.ops.zeros(())
            names = ("loss", "real_share_called_real", "fake_share_called_fake")
            return dict.fromkeys(names, zero)

        return train.five_steps(gan, batch, only)

    gan = build(recipe)
    for model in (gan.judge, gan.d_on_g):
        model.optimizer.epsilon = 1e-12  # without batch norm gradients begin small
    parts = {"judge": gan.discriminator, "d_on_g": gan.generator}
    for name in parts:
        trained.append(name)
        before = {part: trainable(model) for part, model in parts.items()}
        compiled.fused(gan, step)(some_batches(2, recipe))
        for part, model in parts.items():
            pairs = zip(before[part], trainable(model), strict=True)
            moved = [(old != new).any() for old, new in pairs]
            if part == "judge" and recipe.loss in ("hinge", "relativistic"):
                moved.pop()  # of real less fake, where a last bias cancels out
            assert all(moved) if part == name else not any(moved), (name, part)


def trainable(model):
    return [weight.numpy().copy() for weight in model.trainable_weights]


@pytest.mark.every_backend
def test_fused_and_plain_train_to_the_same_weights_with_everything_on(
    small, monkeypatch
):
    monkeypatch.setattr(train, "LEARNING_RATE_HALF_LIFE", 0.05)
    recipe = RECIPES[-1]
    plain, fused = build(recipe, (2e-4, 2e-4)), build(recipe, (2e-4, 2e-4))
    batches = some_batches(6, recipe)
    expected = compiled.plain(plain, train.five_steps)(batches)
    scores = compiled.fused(fused, train.five_steps)(batches)
    for name in expected:
        np.testing.assert_allclose(scores[name], expected[name], atol=1e-5)
    pairs = zip(compiled.variables_of(plain), compiled.variables_of(fused), strict=True)
    assert max(np.abs(a.numpy() - b.numpy()).max() for a, b in pairs) < 1e-5
    for model, rate in ((fused.judge, "D"), (fused.d_on_g, "G")):
        begun = getattr(train, f"{rate}_LEARNING_RATE")
        left = model.optimizer.learning_rate.numpy()
        assert left == pytest.approx(begun / 2, rel=1e-5)  # 5 % of an epoch


@pytest.mark.every_backend
def test_without_a_rate_nothing_moves(small, monkeypatch):
    monkeypatch.setattr(train, "LEARNING_RATE_HALF_LIFE", 1.0)
    gan = build(models.PLAIN)
    batches = some_batches(2, models.PLAIN)
    batches["d_rate"] = keras.ops.zeros((2,))
    d, g = trainable(gan.discriminator), trainable(gan.generator)
    compiled.fused(gan, train.five_steps)(batches)
    d_pairs = zip(d, trainable(gan.discriminator), strict=True)
    g_pairs = zip(g, trainable(gan.generator), strict=True)
    assert all((old == new).all() for old, new in d_pairs)
    assert all((old != new).any() for old, new in g_pairs)


def test_rates_halve_with_the_epochs(small, monkeypatch):
    assert train.rates(3) == {}
    monkeypatch.setattr(train, "LEARNING_RATE_HALF_LIFE", 2.0)
    monkeypatch.setattr(train, "G_LEARNING_RATE", 1e-3)
    for epochs, share in ((0, 1), (2, 0.5), (6, 0.125)):
        assert train.rates(epochs)["g_rate"] == pytest.approx(1e-3 * share)
        assert train.rates(epochs)["d_rate"] == pytest.approx(2e-4 * share)
    assert train.chance(2, 5, 10)["d_rate"] == train.rates(1.5)["d_rate"]


def test_rates_are_held_before_they_fall(small, monkeypatch):
    monkeypatch.setattr(train, "LEARNING_RATE_HOLD", 10.0)
    assert train.rates(20) == {}  # they do not fall at all
    monkeypatch.setattr(train, "LEARNING_RATE_HALF_LIFE", 2.0)
    for epochs, share in ((0, 1), (9.9, 1), (10, 1), (12, 0.5), (16, 0.125)):
        assert train.rates(epochs)["g_rate"] == pytest.approx(2e-4 * share)


@pytest.mark.every_backend
def test_a_gradient_is_that_of_each_face(small):
    random = np.random.default_rng(0)
    faces = random.normal(size=(BATCH, 3, 3, 3)).astype("float32")
    slope = keras.ops.convert_to_tensor(random.normal(size=(3, 3, 3)), "float32")

    def judge(x):
        return keras.ops.sum(slope * x * x / 2, (1, 2, 3))[:, None]

    gradient = losses.gradients(judge, keras.ops.convert_to_tensor(faces))
    found = to_numpy(gradient)
    np.testing.assert_allclose(found, to_numpy(slope) * faces, rtol=1e-5)


@pytest.mark.every_backend
@pytest.mark.parametrize(
    ("loss", "share"), [("cross-entropy", 0.5), ("relativistic", 1)]
)
def test_r1_adds_half_gamma_times_the_squared_gradient_on_real_faces(
    small, loss, share
):
    gamma = 3.0
    plain = build(models.Recipe(loss, d_norm="none"))
    steep = build(models.Recipe(loss, d_norm="none", r1=gamma))
    random = np.random.default_rng(0)
    real = random.integers(0, 256, (BATCH, 28, 28, 3)).astype("uint8")
    real = keras.ops.convert_to_tensor(real)
    fake = models.make_fakes(plain.generator, train.noise(3, 1, 1))
    for gan in (plain, steep):
        for weight in gan.discriminator.trainable_weights:
            weight.assign(weight * 10)
    logit = models._logit(plain.discriminator)
    scaled = keras.ops.cast(real, "float32") / 127.5 - 1
    gradient = losses.gradients(logit, scaled)
    gradient = to_numpy(gradient)
    # The papers add up what real and fake cost; D's loss here is the mean
    penalty = share * gamma / 2 * (gradient**2).sum((1, 2, 3)).mean()
    labels = {"real": np.ones((BATCH, 1)), "fake": np.zeros((BATCH, 1))}

    def step(gan):
        given = {"real": real, "fake": fake}
        return gan.judge.train_on_batch(given, labels, return_dict=True)["loss"]

    lost = step(plain)
    assert penalty > 0.01
    assert step(steep) == pytest.approx(lost + penalty, rel=1e-4)
    flatter = [step(steep) for _ in range(12)]
    assert flatter[-1] < lost + penalty / 2


@pytest.mark.every_backend
def test_spectral_layers_divide_by_the_largest_singular_value():
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    layer = spectral.SpectralConv2D(5, 4, 2, padding="same", use_bias=True)
    plain = keras.layers.Conv2D(5, 4, 2, padding="same", use_bias=True)
    for each in (layer, plain):
        each.build(x.shape)
    kernel = layer.kernel.numpy().copy()
    first = layer.vector.numpy().copy()
    layer(x, training=False)
    assert (layer.vector.numpy() == first).all()
    for _ in range(200):
        layer(x, training=True)
    found = to_numpy(layer(x))
    assert (layer.kernel.numpy() == kernel).all()
    largest = np.linalg.svd(kernel.reshape(-1, 5), compute_uv=False)[0]
    plain.kernel.assign(kernel / largest)
    expected = to_numpy(plain(x))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    dense = spectral.SpectralDense(1)
    found = to_numpy(dense(x[0, 0]))
    kernel = dense.kernel.numpy()
    expected = x[0, 0] @ kernel / np.sqrt((kernel**2).sum())
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("network", ["dcgan", "tutorial", "blog"])
def test_d_norm_and_width_change_every_network(network):
    size = models.SIZES[network][0]

    def kinds(**options):
        recipe = models.Recipe(width=0.25, **options)
        layers = models.build_discriminator(network, size, recipe).layers
        return {type(layer).__name__ for layer in layers}

    assert "BatchNormalization" in kinds()
    assert not {"BatchNormalization", "SpectralConv2D"} & kinds(d_norm="none")
    spectral_kinds = kinds(d_norm="spectral")
    assert {"SpectralConv2D", "SpectralDense"} <= spectral_kinds
    assert not {"BatchNormalization", "Conv2D", "Dense"} & spectral_kinds

    def widths(width):
        models_ = (
            models.build_generator(network, size, width),
            models.build_discriminator(network, size, models.Recipe(width=width)),
        )
        found = [getattr(layer, "filters", 0) for m in models_ for layer in m.layers]
        return [each for each in found if each not in (0, 3)]

    assert widths(0.5) == [each // 2 for each in widths(1)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "--loss hinge --label-smoothing .1",
            "LABEL_SMOOTHING = 0.1 .* LOSS = 'hinge'",
        ),
        (
            "--loss relativistic --label-smoothing .1",
            "LABEL_SMOOTHING = 0.1 .* LOSS = 'relativistic'",
        ),
        (
            "--loss relativistic --label-flipping .1",
            "LABEL_FLIPPING = 0.1 .* LOSS = 'relativistic'",
        ),
        ("--r1 .1", "R1 = 0.1 .* D_NORM = 'batch'.* --d-norm none"),
        ("--augment color", "no augmentation 'color'"),
    ],
)
def test_what_has_no_meaning_together_is_refused(small, here, given, message):
    with pytest.raises(SystemExit, match=message) as stopped:
        train.main(["--data", "nowhere", *given.split()])
    assert isinstance(stopped.value.code, str)
    assert "\n" not in stopped.value.code
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("loss", "smoothing", "flipping"),
    [("cross-entropy", 0.1, 0.1), ("least-squares", 0.1, 0.1), ("hinge", 0, 0.1)],
)
def test_what_has_a_meaning_together_is_not(loss, smoothing, flipping):
    losses.check(loss, "spectral", 0.1, smoothing, flipping)


def test_a_run_with_everything_on_continues_to_the_same_bits(small, here, monkeypatch):
    monkeypatch.setattr(preprocess, "FOLDER", "data")
    options = [
        *("--data", "cartoons", "--images", "24", "--image-size", "28"),
        *("--batch-size", "8", "--samples", "4", "--augment", ",".join(ALL)),
        *("--loss", "relativistic", "--d-norm", "spectral", "--r1", ".1"),
        *("--learning-rate-half-life", "1", "--width", ".5", "--score", "mmd"),
    ]
    train.main([*options, "--run", "whole", "--epochs", "2"])
    for epochs in ("1", "2"):
        train.main([*options, "--run", "parts", "--epochs", epochs])
    ends = []
    for run in ("whole", "parts"):
        with np.load(checkpoints.folders(run)[-1] / "weights.npz") as arrays:
            ends.append({name: arrays[name].tobytes() for name in arrays.files})
    assert ends[0] == ends[1]
    generator, about = generators.load_generator("whole")
    assert about["width"] == 0.5
    assert generator.count_params() < models.build_generator("dcgan", 28).count_params()


def test_by_default_nothing_of_it_is_there(small):
    given = train.chance(1, 0, 10)
    known = {"mirrored", "d_noise", "g_noise", "real_label", "fake_label", "decay"}
    assert given.keys() == known
    recipe = models.Recipe(train.LOSS, (), train.D_NORM, train.R1, train.WIDTH)
    assert recipe == models.PLAIN
    assert train.AUGMENT == ""
