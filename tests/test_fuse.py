"""fuse.py: many iterations as one call are the same as many calls of train_on_batch."""

import gc
from pathlib import Path

import keras
import numpy as np
import pytest

import models
import train
from dcgan.training import compiled

BATCH = 4


@pytest.fixture
def constants(monkeypatch):
    monkeypatch.setattr(train, "BATCH_SIZE", BATCH)


def build(precision="float32", network="dcgan"):
    gan = models.build_gan(network, 28, 1, (2e-4, 2e-4), 0.5, precision)
    for model in (gan.judge, gan.d_on_g):
        # With Adam's usual 1e-7, weights whose gradient is next to nothing move by its
        # sign: a difference in the last bit becomes one in the third digit
        model.optimizer.epsilon = 1e-2
    return gan


@pytest.fixture
def smooth(monkeypatch):
    """Build networks without kinks, where a last bit too can turn a gradient over."""

    def silu(*_):
        return keras.layers.Activation("silu")

    monkeypatch.setattr(keras.layers, "ReLU", silu)
    monkeypatch.setattr(keras.layers, "LeakyReLU", silu)


def some_batches(count, first=0):
    """Make {name: (count, ...)}, from iteration `first` of an epoch on."""
    rows = []
    for number in range(first, first + count):
        random = np.random.default_rng(number)
        real = random.integers(0, 256, (BATCH, 28, 28, 3)).astype("uint8")
        rows.append({"real": real, **train.chance(1, number, 100)})
    stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return {name: keras.ops.convert_to_tensor(stacked[name]) for name in stacked}


def arrays_of(model):
    return [variable.numpy().copy() for variable in model.variables]


def largest_difference(model, other):
    pairs = zip(arrays_of(model), arrays_of(other), strict=True)
    return max(np.abs(a.astype("float64") - b).max() for a, b in pairs)


def far_from(before, model):
    after = [weight.numpy() for weight in model.trainable_variables]
    return [np.abs(a - b).max() for a, b in zip(after, before, strict=True)]


@pytest.mark.every_backend
def test_fused_and_plain_train_to_the_same_weights(constants, smooth):
    plain, fused = build(), build()
    first = [
        weight.numpy().copy() for weight in fused.discriminator.trainable_variables
    ]
    one_by_one = compiled.plain(plain, train.five_steps)
    at_once = compiled.fused(fused, train.five_steps)
    for start, count in ((0, 12), (12, 8)):
        expected = one_by_one(some_batches(count, start))
        scores = at_once(some_batches(count, start))
        assert list(scores) == list(expected)
        for name in expected:
            assert np.asarray(scores[name]).shape == (count,)
            np.testing.assert_allclose(scores[name], expected[name], atol=1e-5)
    for part in ("generator", "discriminator", "average"):
        assert largest_difference(getattr(plain, part), getattr(fused, part)) < 1e-5
    for part in ("judge", "d_on_g"):
        optimizers = getattr(plain, part).optimizer, getattr(fused, part).optimizer
        assert largest_difference(*optimizers) < 1e-5
        assert optimizers[1].iterations.numpy() == 20
    assert min(far_from(first, fused.discriminator)) > 3e-5


@pytest.mark.every_backend
@pytest.mark.parametrize("trained", ["judge", "d_on_g"])
def test_a_fused_step_moves_its_own_network_and_not_the_other(constants, trained):
    """Leave one of the two training steps out, and what only it moves stays."""

    def step(gan, batch, train_on):
        def only(model, x, y):
            if model is getattr(gan, trained):
                return train_on(model, x, y)
            zero = keras.ops.zeros(())
            names = ("loss", "real_share_called_real", "fake_share_called_fake")
            return dict.fromkeys(names, zero)

        return train.five_steps(gan, batch, only)

    gan = build()
    moved, frozen = gan.discriminator, gan.generator
    if trained == "d_on_g":
        moved, frozen = frozen, moved
    before = {
        model.name: [weight.numpy().copy() for weight in model.trainable_variables]
        for model in (moved, frozen)
    }
    compiled.fused(gan, step)(some_batches(3))
    assert min(far_from(before[moved.name], moved)) > 0
    assert max(far_from(before[frozen.name], frozen)) == 0


@pytest.mark.every_backend
def test_the_average_follows_inside_the_call(constants):
    gan = build()
    before = arrays_of(gan.average)
    batches = some_batches(3)
    batches["decay"] = keras.ops.convert_to_tensor(np.array([0.9, 0.9, 0], "float32"))
    compiled.fused(gan, train.five_steps)(batches)
    assert largest_difference(gan.average, gan.generator) < 1e-6
    assert max(map(np.ptp, before)) > 0
    moved = zip(before, arrays_of(gan.average), strict=True)
    assert all((a != b).any() for a, b in moved)


@pytest.mark.every_backend
def test_mirrored_faces_are_mirrored_inside_the_call(constants):
    def step(_, batch, __):
        faces = models.mirror(batch["real"], batch["mirrored"])
        return {"left": keras.ops.mean(keras.ops.cast(faces[:, :, :14], "float32"))}

    batches = some_batches(2)
    real = np.zeros((2, BATCH, 28, 28, 3), "uint8")
    real[:, :, :, :14] = 200
    batches["real"] = keras.ops.convert_to_tensor(real)
    mirrored = np.array([[False] * BATCH, [True] * BATCH])
    batches["mirrored"] = keras.ops.convert_to_tensor(mirrored)
    scores = compiled.fused(build(), step)(batches)
    assert np.asarray(scores["left"]).tolist() == [200, 0]


@pytest.mark.every_backend
def test_two_trainings_in_one_process_do_not_disturb_each_other(constants):
    ends = []
    for _ in range(2):
        gan = build()
        compiled.fused(gan, train.five_steps)(some_batches(2))
        ends.append(arrays_of(gan.generator))
    assert all((a == b).all() for a, b in zip(*ends, strict=True))


@pytest.mark.every_backend
def test_in_bfloat16_the_last_layers_and_the_losses_stay_float32(constants):
    gan = build("bfloat16")
    for model in (gan.generator, gan.discriminator):
        assert {weight.dtype for weight in model.weights} == {"float32"}
        computed = [layer.compute_dtype for layer in model.layers if layer.weights]
        assert computed == ["bfloat16"] * (len(computed) - 1) + ["float32"]
        assert keras.backend.standardize_dtype(model.output.dtype) == "float32"
    assert keras.config.dtype_policy().name == "float32"
    scaled = gan.judge.get_layer("scaled")
    assert scaled.compute_dtype == "float32"
    exact = build()
    scores = compiled.fused(gan, train.five_steps)(some_batches(2))
    expected = compiled.plain(exact, train.five_steps)(some_batches(2))
    for name in ("d_loss", "g_loss"):
        np.testing.assert_allclose(scores[name], expected[name], rtol=0.05)
        assert (np.asarray(scores[name]) != expected[name]).any()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="takes minutes")
@pytest.mark.every_backend
def test_memory_does_not_grow_from_call_to_call(constants, monkeypatch):
    monkeypatch.setitem(models.DCGAN, 28, (7, (2, 2, 2)))
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
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
