"""LOSSES, R1, and what models.py makes of them."""

import keras
import numpy as np
import pytest

import models
from dcgan.networks import losses

BATCH = 4
ONES = np.ones((BATCH, 1), "float32")
LABELS = {"real": ONES, "fake": 0 * ONES}


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setitem(models.DCGAN, 28, (7, (8, 4, 4)))


def build(rate=1e-2, **recipe):
    gan = models.build_gan(
        "dcgan", 28, 1, (rate, rate), 0.5, recipe=models.Recipe(**recipe)
    )
    for model in (gan.judge, gan.d_on_g):
        model.run_eagerly = True  # a step takes seconds to compile
    return gan


def some_tensors(generator):
    random = np.random.default_rng(0)
    real = random.integers(0, 256, (BATCH, 28, 28, 3)).astype("uint8")
    noise = random.uniform(-1, 1, (BATCH, models.LATENT)).astype("float32")
    real, noise = map(keras.ops.convert_to_tensor, (real, noise))
    fake = models.make_fakes(generator, noise)
    return {"real": real, "fake": fake, "noise": noise}


def train_judge(gan, tensors):
    inputs = models.inputs_for(gan.judge, **tensors)
    return gan.judge.train_on_batch(inputs, LABELS, return_dict=True)


def train_d_on_g(gan, tensors):
    return gan.d_on_g.train_on_batch(models.inputs_for(gan.d_on_g, **tensors), ONES)


def scaled(pixels):
    return keras.ops.cast(pixels, "float32") / 127.5 - 1


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor))


def softplus(x):
    return np.logaddexp(0, x)


# The losses of D and of G as their papers write them
PAPERS = {
    "cross-entropy": lambda real, fake: (
        softplus(-real).mean() + softplus(fake).mean(),
        softplus(-fake).mean(),
    ),
    "minimax": lambda real, fake: (
        -np.log(1 / (1 + np.exp(-real))).mean() - np.log(1 / (1 + np.exp(fake))).mean(),
        np.log(1 - 1 / (1 + np.exp(-fake))).mean(),
    ),
    "least-squares": lambda real, fake: (
        ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2,
        ((fake - 1) ** 2).mean() / 2,
    ),
    "hinge": lambda real, fake: (
        np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean(),
        -fake.mean(),
    ),
    "relativistic": lambda real, fake: (
        softplus(-(real - fake)).mean(),
        softplus(-(fake - real)).mean(),
    ),
}


@pytest.mark.every_backend
@pytest.mark.parametrize("loss", PAPERS)
def test_losses_are_those_of_their_papers(narrow, loss):
    gan = build(1e-9, loss=loss, d_norm="none")
    for weight in gan.discriminator.trainable_weights:
        weight.assign(weight * 10)  # logits far from 0
    tensors = some_tensors(gan.generator)
    logit = models._logit(gan.discriminator)
    real, fake = (
        to_numpy(logit(x)) for x in (scaled(tensors["real"]), tensors["fake"])
    )
    assert np.ptp(real) > 0.1
    d, g = train_judge(gan, tensors), train_d_on_g(gan, tensors)
    paper_d, paper_g = PAPERS[loss](real, fake)
    row = losses.LOSSES[loss]
    assert d["loss"] == pytest.approx(row.share * paper_d, rel=1e-4)
    assert g == pytest.approx(paper_g, rel=1e-4)
    border = 0.5 if loss == "least-squares" else 0
    right = (real > border, fake <= border)
    if loss == "relativistic":
        right = (real > fake, real >= fake)
    assert d["real_share_called_real"] == right[0].mean()
    assert d["fake_share_called_fake"] == right[1].mean()
    # A D that cannot tell says of both what lies half-way between them
    undecided = np.full((1, 1), border)
    assert row.border == border
    expected = row.share * PAPERS[loss](undecided, undecided)[0]
    assert row.undecided == pytest.approx(expected)


def test_ds_loss_is_the_mean_of_real_and_fake_unless_its_paper_halves_it():
    shares = {name: losses.LOSSES[name].share for name in PAPERS}
    halved = {"least-squares": 1, "relativistic": 1}
    assert shares == {"cross-entropy": 0.5, "minimax": 0.5, "hinge": 0.5, **halved}


@pytest.mark.parametrize(
    ("loss", "label", "logit", "expected"),
    [
        (losses.cross_entropy, 1.0, 0.0, np.log(2)),
        (losses.cross_entropy, 0.9, 2.0, 0.9 * softplus(-2) + 0.1 * softplus(2)),
        (losses.saturating, 1.0, 0.0, -np.log(2)),
        (losses.saturating, 1.0, -2.0, np.log(1 - 1 / (1 + np.exp(2)))),
        (losses.saturating, 1.0, 200.0, -200.0),  # where 1 - P(real) is 0
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
    label, logit = (keras.ops.convert_to_tensor([[x]]) for x in (label, logit))
    assert to_numpy(loss(label, logit)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", PAPERS)
def test_d_learns_to_tell_and_g_to_pass(narrow, loss):
    gan = build(loss=loss)
    tensors = some_tensors(gan.generator)
    d = [train_judge(gan, tensors) for _ in range(5)]
    assert d[-1]["loss"] < d[0]["loss"] / 2
    assert d[-1]["real_share_called_real"] == d[-1]["fake_share_called_fake"] == 1
    g = [train_d_on_g(gan, tensors) for _ in range(5)]
    assert g[-1] < g[0] - 0.1


@pytest.mark.every_backend
@pytest.mark.parametrize(
    ("loss", "slopes"),
    [
        ("cross-entropy", [-0.99966, -0.98201, -0.5, -0.01799, -0.000335]),
        ("minimax", [-0.000335, -0.01799, -0.5, -0.98201, -0.99966]),
    ],
)
def test_where_d_is_sure_of_fakes_only_the_minimax_game_teaches_g_nothing(loss, slopes):
    """The slopes of docs/recipes.md."""
    logits = keras.ops.convert_to_tensor([[-8.0], [-4], [0], [4], [8]], "float32")
    g, ones = losses.LOSSES[loss].g, keras.ops.ones((5, 1))
    gradient = losses.with_gradients(lambda x: g(ones, x), logits)[1]
    np.testing.assert_allclose(to_numpy(gradient)[:, 0], slopes, rtol=1e-2)


def test_a_row_is_all_that_a_new_loss_needs(narrow, monkeypatch):
    def distance(label, logit):
        return keras.ops.abs(logit - 4 * label)

    row = losses.Loss(distance, losses.linear, undecided=2.0, border=2.0, labels=())
    monkeypatch.setitem(losses.LOSSES, "distance", row)
    gan = build(1e-9, loss="distance", d_norm="none")
    tensors = some_tensors(gan.generator)
    logit = models._logit(gan.discriminator)
    real, fake = (
        to_numpy(logit(x)) for x in (scaled(tensors["real"]), tensors["fake"])
    )
    d = train_judge(gan, tensors)
    expected = (np.abs(real - 4).mean() + np.abs(fake).mean()) / 2
    assert d["loss"] == pytest.approx(expected, rel=1e-4)
    assert d["real_share_called_real"] == np.mean(real > 2)
    assert train_d_on_g(gan, tensors) == pytest.approx(-fake.mean(), rel=1e-3)
    with pytest.raises(SystemExit, match="no meaning with LOSS = 'distance'"):
        losses.check_recipe("distance", "none", 0, 0.1, 0)


def test_a_loss_that_there_is_not_is_refused():
    message = f"no loss 'hings', only {', '.join(losses.LOSSES)}"
    for refuses in (
        lambda: losses.loss_named("hings"),
        lambda: losses.check_recipe("hings", "batch", 0, 0, 0),
    ):
        with pytest.raises(SystemExit, match=message):
            refuses()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (("hinge", "batch", 0, 0.1, 0), "LABEL_SMOOTHING = 0.1 .* LOSS = 'hinge'"),
        (
            ("relativistic", "batch", 0, 0.1, 0),
            "LABEL_SMOOTHING = 0.1 .* LOSS = 'relativistic'.* --label-smoothing 0",
        ),
        (
            ("relativistic", "batch", 0, 0, 0.1),
            "LABEL_FLIPPING = 0.1 .* LOSS = 'relativistic'.* --label-flipping 0",
        ),
        (
            ("cross-entropy", "batch", 0.1, 0, 0),
            "R1 = 0.1 .* D_NORM = 'batch'.* --d-norm none",
        ),
    ],
)
def test_what_has_no_meaning_together_is_refused(recipe, message):
    with pytest.raises(SystemExit, match=message) as stopped:
        losses.check_recipe(*recipe)
    assert "\n" not in stopped.value.code


@pytest.mark.parametrize(
    ("loss", "smoothing", "flipping"),
    [("cross-entropy", 0.1, 0.1), ("least-squares", 0.1, 0.1), ("hinge", 0, 0.1)],
)
def test_what_has_a_meaning_together_is_not(loss, smoothing, flipping):
    losses.check_recipe(loss, "spectral", 0.1, smoothing, flipping)


@pytest.mark.every_backend
def test_a_gradient_is_that_of_each_face():
    random = np.random.default_rng(0)
    faces = random.normal(size=(BATCH, 3, 3, 3)).astype("float32")
    slope = keras.ops.convert_to_tensor(random.normal(size=(3, 3, 3)), "float32")

    def judge(x):
        return keras.ops.sum(slope * x * x / 2, (1, 2, 3))[:, None]

    judged, gradient = losses.with_gradients(judge, keras.ops.convert_to_tensor(faces))
    np.testing.assert_allclose(
        to_numpy(judged)[:, 0],
        (to_numpy(slope) * faces**2 / 2).sum((1, 2, 3)),
        rtol=1e-4,
        atol=1e-4,
    )
    np.testing.assert_allclose(to_numpy(gradient), to_numpy(slope) * faces, rtol=1e-5)


@pytest.mark.every_backend
@pytest.mark.parametrize(
    ("loss", "share"), [("cross-entropy", 0.5), ("relativistic", 1)]
)
def test_r1_adds_half_gamma_times_the_squared_gradient_on_real_faces(
    narrow, loss, share
):
    gamma = 3.0
    plain = build(loss=loss, d_norm="none")
    steep = build(loss=loss, d_norm="none", r1=gamma)
    for gan in (plain, steep):
        for weight in gan.discriminator.trainable_weights:
            weight.assign(weight * 10)
    tensors = some_tensors(plain.generator)
    logit = models._logit(plain.discriminator)
    gradient = to_numpy(losses.with_gradients(logit, scaled(tensors["real"]))[1])
    # The papers add up what real and fake cost; D's loss here is the mean
    penalty = share * gamma / 2 * (gradient**2).sum((1, 2, 3)).mean()
    assert penalty > 0.01
    without = train_judge(plain, tensors)["loss"]
    assert train_judge(steep, tensors)["loss"] == pytest.approx(
        without + penalty, rel=1e-4
    )
    flatter = [train_judge(steep, tensors)["loss"] for _ in range(4)]
    assert flatter[-1] < without + penalty / 2


@pytest.mark.every_backend
@pytest.mark.parametrize("training", [True, False])
def test_by_r1_d_forgets_in_training_as_its_dropout_has_it(training):
    face = keras.Input((2, 2, 1))
    kept = keras.layers.Dropout(0.5, seed=1)(keras.layers.Flatten()(face))
    logit = keras.Model(face, keras.layers.Dense(1, use_bias=False)(kept))
    logit.set_weights([np.ones((4, 1))])
    judged = keras.Model(face, losses.R1(logit, 1.0, 1.0)(face))
    logits = to_numpy(judged(np.ones((999, 2, 2, 1)), training=training))
    assert sorted(set(logits.ravel())) == ([0, 2, 4, 6, 8] if training else [4])
