"""The contestants are fair: the same networks, all trained, the work counted right."""

import keras
import numpy as np
import pytest

import models
import preprocess
import train
from benchmarks import fit_train_step, on_keras, operations, suite
from benchmarks.tutorial_loop import Loop
from benchmarks.workers import Spec
from dcgan.common.options import current
from dcgan.training import hardware


@pytest.fixture
def tiny_network(monkeypatch):
    monkeypatch.setitem(models.DCGAN, on_keras.TINY, None)  # and taken out afterwards
    on_keras.register_tiny()


def arrays_of(model):
    return [variable.numpy().copy() for variable in model.variables]


def moved(model, before):
    """Tell of each array that learns whether it is another than before."""
    pairs = zip(model.variables, before, strict=True)
    return [
        not np.array_equal(variable.numpy(), array)
        for variable, array in pairs
        if "moving" not in variable.path
    ]


def test_all_contestants_have_networks_of_the_same_size():
    pytest.importorskip("torch")
    from benchmarks import pytorch

    for size in (28, 64):
        for network in ("generator", "discriminator"):
            expected = getattr(models, f"build_{network}")("dcgan", size).count_params()
            on_torch = getattr(pytorch, f"build_{network}")(size)
            assert pytorch.count_parameters(on_torch) == expected


@pytest.mark.slow
@pytest.mark.every_backend
def test_the_tutorials_loop_trains_both_networks_d_not_in_the_joint_step(tiny_network):
    loop = Loop(on_keras.TINY)
    real = np.random.default_rng(1).uniform(-1, 1, (4, 8, 8, 3)).astype("float32")
    for _ in range(2):
        before = arrays_of(loop.discriminator), arrays_of(loop.generator)
        d_loss, g_loss = loop.iterate(real)
        assert np.isfinite([d_loss, g_loss]).all()
        assert all(moved(loop.generator, before[1]))
        assert all(moved(loop.discriminator, before[0]))
    before = arrays_of(loop.discriminator)
    loop.joint.train_on_batch(np.ones((4, models.LATENT)), np.ones((4, 1)))
    assert not any(moved(loop.discriminator, before))


@pytest.mark.slow
@pytest.mark.every_backend
def test_fit_trains_both_networks(tiny_network):
    kinds = {
        "tensorflow": fit_train_step.TensorFlowGan,
        "jax": fit_train_step.JaxGan,
    }
    if keras.backend.backend() not in kinds:
        pytest.skip("it is written for TensorFlow and JAX")
    gan = kinds[keras.backend.backend()](on_keras.TINY)
    gan.compile()
    before = arrays_of(gan.discriminator), arrays_of(gan.generator)
    faces = np.random.default_rng(1).integers(0, 256, (8, 8, 8, 3)).astype("uint8")
    log = gan.fit(faces, batch_size=4, verbose=0).history
    assert np.isfinite([log["d_loss"], log["g_loss"]]).all()
    assert all(moved(gan.discriminator, before[0]))
    assert all(moved(gan.generator, before[1]))


@pytest.mark.slow
@pytest.mark.every_backend
@pytest.mark.parametrize("name", ["train.py", "ceiling"])
def test_faces_that_a_gpu_would_hold_are_trained_on(
    name, here, tiny_network, monkeypatch
):
    for module in (hardware, train.hardware):  # a GPU's way, on whatever there is
        monkeypatch.setattr(module, "has_gpu", lambda: True)
        monkeypatch.setattr(module, "has_room", lambda size: True)
    for constant, value in current(train).items():
        monkeypatch.setattr(train, constant, value)
    monkeypatch.setattr(suite, "HELD", 16)
    built, build = [], train.build
    monkeypatch.setattr(
        train, "build", lambda how: built.append(build(how)) or built[0]
    )
    faces = preprocess.prepare("cartoons", on_keras.TINY, 8, folder=here).path
    backend = keras.backend.backend()
    spec = Spec(name, backend, on_keras.TINY, 2, str(faces), steps=2)
    make = {"train.py": suite.through_train, "ceiling": suite.ceiling}[name]
    contestant = make(spec)
    contestant.prepare(contestant.unit)()
    contestant.prepare(10)()  # more than an epoch of 16 faces
    assert int(built[0].judge.optimizer.iterations) == contestant.unit + 10


def test_operations_are_those_counted_by_hand():
    generator = models.build_generator("dcgan", 28)
    discriminator = models.build_discriminator("dcgan", 28)
    # Two operations for each weight at each place that it meets
    g = [100 * 7 * 7 * 256, 16 * 256 * 128 * 7 * 7, 16 * 128 * 64 * 14 * 14]
    g += [9 * 64 * 3 * 28 * 28]
    d = [16 * 3 * 64 * 14 * 14, 16 * 64 * 128 * 7 * 7, 16 * 128 * 256 * 4 * 4]
    d += [4 * 4 * 256]
    once = 2 * (4 * sum(g) - g[0] + 8 * sum(d) - 2 * d[0])
    work = operations.of_iteration(generator, discriminator, 16)
    assert work.operations == 16 * once


def test_bytes_are_those_of_activations_weights_and_adam():
    generator = models.build_generator("dcgan", 28)
    discriminator = models.build_discriminator("dcgan", 28)
    one, two, half = (
        operations.of_iteration(generator, discriminator, batch, precision).bytes
        for batch, precision in ((1, "float32"), (2, "float32"), (1, "bfloat16"))
    )
    g_in_out = [100 + 12544, 12544 + 25088, 25088 + 50176, 50176 + 2352]
    d_in_out = [2352 + 12544, 12544 + 6272, 6272 + 4096, 4096 + 1]
    a_picture = 4 * sum(g_in_out) - g_in_out[0] + 8 * sum(d_in_out) - 2 * d_in_out[0]
    assert two - one == 4 * a_picture
    g = [1254400, 524288, 131072, 1728]
    d = [3072, 131072, 524288, 4096]
    updates = 4 * (7 * (sum(g) + sum(d)) + 3 * sum(g))
    assert one - updates == 2 * (half - updates)
    read = 4 * sum(g) - g[0] + 8 * sum(d) - 2 * d[0]
    assert one - updates == 4 * (a_picture + read)


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("GPU, NVIDIA H200, 139 GiB", (989, 4800)),
        ("GPU, NVIDIA GH200 480GB", (989, 4000)),
        ("GPU, NVIDIA H100 80GB HBM3, 60 GiB for JAX", (989, 3350)),
        ("GPU, NVIDIA A100-SXM4-80GB", (312, 2039)),
        ("GPU, NVIDIA A10", (125, 600)),
        ("GPU, NVIDIA GeForce RTX 4090", (165, 1008)),
    ],
)
def test_shares_are_of_the_devices_peaks(device, peak):
    work = operations.Work(operations=10**12, bytes=10**9)
    shares = operations.reached(work, 0.5, device)
    assert shares == pytest.approx((2, 2, 2 / peak[0], 2 / peak[1]))


def test_an_unknown_device_has_no_shares():
    work = operations.Work(10**12, 10**9)
    assert operations.reached(work, 1, "GPU, Something") == (1, 1, None, None)
    assert operations.reached(work, 1, "GPU, Tesla T4")[2] is None
