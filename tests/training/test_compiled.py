"""Many iterations as one call are the same as many calls of train_on_batch."""

import gc
import mmap
from pathlib import Path

import keras
import numpy as np
import pytest

import models
import train
from dcgan.training import compiled
from tests.processor import needs_bfloat16

BATCH = 4
NARROW = 0.05
SEVERAL = {"D_STEPS": 2, "G_STEPS": 3, "LEARNING_RATE_HALF_LIFE": 0.05}
EVERYTHING = {
    "LOSS": "relativistic",
    "AUGMENT": "colour,translation,cutout",
    "D_NORM": "spectral",
    "R1": 0.1,
    "LEARNING_RATE_HALF_LIFE": 0.05,
    "LABEL_FLIPPING": 0.25,
}


@pytest.fixture(autouse=True)
def constants(monkeypatch):
    for name, value in {"BATCH_SIZE": BATCH, "IMAGE_SIZE": 28, "WIDTH": NARROW}.items():
        monkeypatch.setattr(train, name, value)


@pytest.fixture
def smooth(monkeypatch):
    """Build networks without kinks, where a last bit too can turn a gradient over."""

    def silu(*_):
        return keras.layers.Activation("silu")

    monkeypatch.setattr(models.layers, "ReLU", silu)
    monkeypatch.setattr(models.layers, "LeakyReLU", silu)


def build(precision="float32"):
    gan = train.build(precision)
    for model in (gan.judge, gan.d_on_g):
        # With Adam's usual 1e-7, weights whose gradient is next to nothing move by its
        # sign: a difference in the last bit becomes one in the third digit
        model.optimizer.epsilon = 1e-2
    return gan


def some_batches(count, start=0):
    """Make {name: (count, ...)}, from iteration `start` of an epoch on."""
    chance, schedules = train.chance(), train.schedules()
    rows = []
    for number in range(start, start + count):
        faces = np.random.default_rng(number).integers(
            0, 256, (train.D_STEPS, BATCH, 28, 28, 3), "uint8"
        )
        rows.append(
            {"real": faces}
            | chance.iteration(1, number)
            | schedules.iteration(1, number, 100)
        )
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {name: keras.ops.convert_to_tensor(stacked[name]) for name in stacked}


def arrays_of(variables):
    return [variable.numpy().copy() for variable in variables]


def largest_difference(variables, others):
    pairs = zip(variables, others, strict=True)
    return max(np.abs(a.numpy().astype("float64") - b.numpy()).max() for a, b in pairs)


def distances(before, variables):
    after = [variable.numpy() for variable in variables]
    return [np.abs(a - b).max() for a, b in zip(after, before, strict=True)]


@pytest.mark.every_backend
@pytest.mark.parametrize(
    "recipe",
    [
        SEVERAL,  # what holds for several steps holds for one
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param(EVERYTHING, marks=pytest.mark.slow),
    ],
    ids=["several steps", "one step", "everything"],
)
def test_fused_and_plain_train_to_the_same_weights(smooth, monkeypatch, recipe):
    for name, value in recipe.items():
        monkeypatch.setattr(train, name, value)
    plain, fused = build(), build()
    first = arrays_of(fused.discriminator.trainable_variables)
    one_by_one = compiled.plain(plain, train.five_steps)
    at_once = compiled.fused(fused, train.five_steps)
    for start in (0, 5):
        batches = some_batches(5, start)
        expected, scores = one_by_one(batches), at_once(batches)
        assert list(scores) == list(expected)
        for name in expected:
            assert np.asarray(scores[name]).shape == (5,)
            np.testing.assert_allclose(scores[name], expected[name], atol=1e-5)
    pairs = (compiled.variables_of(gan) for gan in (plain, fused))
    assert largest_difference(*pairs) < 1e-5
    assert fused.judge.optimizer.iterations.numpy() == 10 * train.D_STEPS
    assert fused.d_on_g.optimizer.iterations.numpy() == 10 * train.G_STEPS
    moved = distances(first, fused.discriminator.trainable_variables)
    if recipe == EVERYTHING:
        moved.pop()  # of real less fake, where a last bias cancels out
    assert min(moved) > 1e-6
    assert np.median(moved) > 1e-5
    check_rates_and_average(fused, at_once, some_batches(5, 10))


def check_rates_and_average(gan, call, batches):
    """Inside a call every iteration has the rates and the decay that are its own."""
    average = arrays_of(gan.average.variables)
    d, g = (
        arrays_of(network.trainable_variables)
        for network in (gan.discriminator, gan.generator)
    )
    decay = np.array([0.9, 0.9, 0.9, 0.9, 0], "float32")
    batches["decay"] = keras.ops.convert_to_tensor(decay)
    if "d_rate" in batches:
        for model, begun in (
            (gan.judge, train.D_LEARNING_RATE),
            (gan.d_on_g, train.G_LEARNING_RATE),
        ):
            rate = model.optimizer.learning_rate.numpy()  # 9 % of an epoch
            assert rate == pytest.approx(begun * 0.5 ** (0.09 / 0.05), rel=1e-5)
        batches["d_rate"] = keras.ops.zeros((5,))
    call(batches)
    if "d_rate" in batches:  # without a rate nothing moves
        assert max(distances(d, gan.discriminator.trainable_variables)) == 0
    assert min(distances(g, gan.generator.trainable_variables)) > 0
    assert min(distances(average, gan.average.variables)) > 0
    pair = gan.average.variables, gan.generator.variables
    assert largest_difference(*pair) < 1e-6  # after a decay of 0


@pytest.mark.every_backend
def test_a_fused_step_moves_its_own_network_and_not_the_other():
    """Leave one of the two training steps out, and what only it moves stays."""
    trained = []

    def step(gan, batch, train_on):
        def only(model, x, y):
            if model is getattr(gan, trained[-1]):
                return train_on(model, x, y)
            names = ("loss", "real_share_called_real", "fake_share_called_fake")
            return dict.fromkeys(names, keras.ops.zeros(()))

        return train.five_steps(gan, batch, only)

    gan = build()
    for name, moved, still in (
        ("judge", gan.discriminator, gan.generator),
        ("d_on_g", gan.generator, gan.discriminator),
    ):
        trained.append(name)
        before = [arrays_of(each.trainable_variables) for each in (moved, still)]
        compiled.fused(gan, step)(some_batches(3))
        assert min(distances(before[0], moved.trainable_variables)) > 0
        assert max(distances(before[1], still.trainable_variables)) == 0


@pytest.mark.every_backend
def test_mirrored_faces_are_mirrored_inside_the_call():
    def step(_, batch, __):
        faces = models.mirror(batch["real"][0], batch["mirrored"][0])
        return {"left": keras.ops.mean(keras.ops.cast(faces[:, :, :14], "float32"))}

    real = np.zeros((2, 1, BATCH, 28, 28, 3), "uint8")
    real[:, :, :, :, :14] = 200
    mirrored = np.array([[[False] * BATCH], [[True] * BATCH]])
    batches = {"real": real, "mirrored": mirrored}
    batches = {name: keras.ops.convert_to_tensor(batches[name]) for name in batches}
    scores = compiled.fused(build(), step)(batches)
    assert np.asarray(scores["left"]).tolist() == [200, 0]


@pytest.mark.every_backend
@needs_bfloat16
def test_in_bfloat16_the_last_layers_and_the_losses_stay_float32():
    gan = build("bfloat16")
    for model in (gan.generator, gan.discriminator):
        assert {weight.dtype for weight in model.weights} == {"float32"}
        computed = [layer.compute_dtype for layer in model.layers if layer.weights]
        assert computed == ["bfloat16"] * (len(computed) - 1) + ["float32"]
        assert keras.backend.standardize_dtype(model.output.dtype) == "float32"
    assert keras.config.dtype_policy().name == "float32"
    assert gan.judge.get_layer("scaled").compute_dtype == "float32"
    scores = compiled.fused(gan, train.five_steps)(some_batches(1))
    exact = build()
    exact.judge.run_eagerly = exact.d_on_g.run_eagerly = True  # spares the tracing
    expected = compiled.plain(exact, train.five_steps)(some_batches(1))
    for name in ("d_loss", "g_loss"):
        np.testing.assert_allclose(scores[name], expected[name], rtol=0.05)
        assert (np.asarray(scores[name]) != expected[name]).any()


class OneDevice:
    count, replicated = 1, None


def test_the_scores_of_a_call_come_with_the_next_one_and_none_is_lost(monkeypatch):
    """Without networks: what runs here are numbers."""

    def step(_, batch, __):
        return {"twice": 2 * batch["number"]}

    def numbers(*values):
        return {"number": np.array(values, "float32")}

    calls = compiled.Calls(None, step, OneDevice, 1)
    assert calls.finish() is None
    assert calls.start(numbers(1, 2)) is None
    assert calls.start(numbers(3))["twice"].tolist() == [2, 4]
    assert calls.finish()["twice"].tolist() == [6]
    assert calls.finish() is None
    assert calls.start(numbers(4)) is None


@pytest.mark.every_backend
@pytest.mark.parametrize(
    "way", [pytest.param(compiled.plain, marks=pytest.mark.slow), compiled.fused]
)
def test_faces_taken_on_the_device_train_as_those_handed_over(way):
    faces = np.random.default_rng(3).integers(0, 256, (9, 28, 28, 3), "uint8")
    places = np.random.default_rng(4).integers(0, 9, (3, 1, BATCH)).astype("int32")
    fed, held = build(), build()
    batches = some_batches(3) | {"real": keras.ops.convert_to_tensor(faces[places])}
    expected = way(fed, train.five_steps)(batches)
    del batches["real"]
    batches["places"] = keras.ops.convert_to_tensor(places)
    on_device = keras.ops.convert_to_tensor(faces)
    scores = way(held, train.five_steps, faces=on_device)(batches)
    for name in expected:
        np.testing.assert_allclose(scores[name], expected[name], rtol=1e-3, atol=1e-3)
    pair = [compiled.variables_of(gan) for gan in (fed, held)]
    assert largest_difference(*pair) < 1e-3


@pytest.mark.every_backend
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="of its tensors")
def test_scores_that_numpy_does_not_take_are_read():
    import torch

    loss = torch.ones(2, requires_grad=True)  # stands for one on a GPU
    with pytest.raises(RuntimeError):
        np.asarray(loss)
    assert (compiled._read({"loss": loss})["loss"] == 1).all()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="takes minutes")
@pytest.mark.every_backend
def test_memory_does_not_grow_from_call_to_call():
    call = compiled.fused(build(), train.five_steps)
    batches = some_batches(1)

    def growth(calls):
        before = resident()
        for _ in range(calls):
            call(batches)
        return resident() - before

    growth(1000)
    assert growth(1000) < 4e6


def resident():
    """Return the bytes of memory that this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
