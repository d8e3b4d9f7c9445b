"""The benchmarks: fair contestants, right counts, tables that name who is missing."""

import importlib.util
import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import models
from benchmarks import contest, fit_train_step, operations, preparing, report, tiny
from benchmarks import training as bench
from benchmarks.tutorial_loop import Loop
from benchmarks.workers import BUILDERS, Missing, Spec, Worker
from dcgan.common.console import UserError
from dcgan.pictures import faces

SUITE = Path(__file__).parent.parent
ON_KERAS = [name for name, (module, _) in BUILDERS.items() if module != "pytorch"]


@pytest.fixture
def tiny_network(monkeypatch):
    monkeypatch.setitem(models.DCGAN, tiny.SIZE, None)  # and taken out afterwards
    tiny.register()


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def run_benchmark(here, name, *given):
    command = [sys.executable, "-m", f"benchmarks.{name}", *given]
    ran = subprocess.run(
        [*command, "--out", str(here / "out.md")],
        cwd=SUITE,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert (here / "out.md").read_text() == ran.stdout
    return ran.stdout


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


def some_spec(**changed):
    spec = Spec("PyTorch eager", "torch", 8, 2, "faces.npy")
    return spec._replace(**changed)


def test_the_table_has_every_contestant_on_keras(here):
    quick = "--sections rates --image-sizes 8 --pictures 8 --rounds 1 --seconds 0.02"
    quick = [*quick.split(), "--contestants", ",".join(ON_KERAS)]
    printed = run_benchmark(here, "training", *quick)
    rows = re.findall(r"^\| (.+?) \| \w+ \| float32 \| ([\d.,]+) \|", printed, re.M)
    assert [name for name, _ in rows] == ON_KERAS
    assert all(float(rate.replace(",", "")) > 0 for _, rate in rows)
    assert re.search(r"train.py reaches [\d.]+% of the ceiling", printed)
    assert "Left out" not in printed
    assert re.search(r"^Device: .*(CPU|GPU)", printed, re.M)
    assert f"keras {keras.__version__}" in printed


def test_all_contestants_have_networks_of_the_same_size(here):
    pytest.importorskip("torch")
    from benchmarks import pytorch

    for size in (28, 64):
        for network in ("generator", "discriminator"):
            ours = getattr(models, f"build_{network}")("dcgan", size).count_params()
            theirs = getattr(pytorch, f"build_{network}")(size)
            assert pytorch.count_parameters(theirs) == ours


@pytest.mark.every_backend
def test_the_tutorials_loop_trains_both_networks(tiny_network):
    loop = Loop(tiny.SIZE)
    real = np.random.default_rng(1).uniform(-1, 1, (4, 8, 8, 3)).astype("float32")
    for _ in range(2):
        before = arrays_of(loop.discriminator), arrays_of(loop.generator)
        d_loss, g_loss = loop.iterate(real)
        assert np.isfinite([d_loss, g_loss]).all()
        assert all(moved(loop.generator, before[1]))
        assert all(moved(loop.discriminator, before[0]))


@pytest.mark.every_backend
def test_the_tutorials_joint_step_leaves_the_discriminator_alone(tiny_network):
    loop = Loop(tiny.SIZE)
    loop.iterate(np.zeros((4, 8, 8, 3), "float32"))
    before = arrays_of(loop.discriminator)
    loop.joint.train_on_batch(np.ones((4, models.LATENT)), np.ones((4, 1)))
    assert not any(moved(loop.discriminator, before))


@pytest.mark.every_backend
def test_fit_trains_both_networks(tiny_network):
    kinds = {
        "tensorflow": fit_train_step.TensorFlowGan,
        "jax": fit_train_step.JaxGan,
    }
    if keras.backend.backend() not in kinds:
        pytest.skip("it is written for TensorFlow and JAX")
    gan = kinds[keras.backend.backend()](tiny.SIZE)
    gan.compile()
    before = arrays_of(gan.discriminator), arrays_of(gan.generator)
    faces = np.random.default_rng(1).integers(0, 256, (8, 8, 8, 3)).astype("uint8")
    log = gan.fit(faces, batch_size=4, verbose=0).history
    assert np.isfinite([log["d_loss"], log["g_loss"]]).all()
    assert all(moved(gan.discriminator, before[0]))
    assert all(moved(gan.generator, before[1]))


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
    found = operations.reached(work, 0.5, device)
    assert found == pytest.approx((2, 2, 2 / peak[0], 2 / peak[1]))


def test_an_unknown_device_has_no_shares():
    work = operations.Work(10**12, 10**9)
    assert operations.reached(work, 1, "GPU, Something") == (1, 1, None, None)
    assert operations.reached(work, 1, "GPU, Tesla T4")[2] is None


def test_a_contestant_without_its_backend_is_named_and_left_out(no_torch, capsys):
    results, missing = contest.compete({"PyTorch eager": some_spec()}, rounds=1)
    assert (results, missing) == ({}, {"PyTorch eager": "torch is not installed"})
    page = report.Page("")
    report.rates(page, results)
    page.left_out(missing)
    assert (
        "Left out: PyTorch eager (torch is not installed)." in capsys.readouterr().out
    )


def test_without_the_backend_of_the_suite_one_line_says_what_to_do(no_torch):
    with pytest.raises(UserError, match=r"torch is not installed.*KERAS_BACKEND=jax"):
        contest.find_device("torch")


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs PyTorch")
def test_pytorch_takes_part(here):
    faces = here / "faces.npy"
    np.save(faces, np.zeros((4, 8, 8, 3), "uint8"))
    specs = {"PyTorch eager": some_spec(faces=str(faces), seconds=0.01)}
    results, missing = contest.compete(specs, rounds=1)
    assert missing == {}
    assert results["PyTorch eager"].rate > 0


def test_a_contestant_that_dies_says_its_last_word():
    worker = Worker(some_spec(contestant="nobody", backend="numpy"))
    with pytest.raises(Missing, match="KeyError: 'nobody'"):
        worker.ask("warm up")
    worker.stop()


def test_the_ratios_are_against_train_py(capsys):
    facts = {"parameters": (1000, 10), "device": "CPU", "work": None}
    spec = some_spec(backend="jax")
    results = {
        "train.py": contest.Result(spec, 300.0, 290.0, 310.0, facts),
        "fit": contest.Result(spec, 150.0, 140.0, 160.0, facts),
        "ceiling": contest.Result(spec, 320.0, 310.0, 330.0, facts),
    }
    report.rates(report.Page(""), results)
    printed = capsys.readouterr().out
    assert "| fit | jax | float32 | 150 | 140 to 160 | 2.00 | 1,000 + 10 |" in printed
    assert "train.py reaches 93.8% of the ceiling" in printed


def test_the_share_of_the_chip_is_that_of_the_rate(capsys):
    facts = {"parameters": (1, 1), "device": "GPU, NVIDIA H200"}
    facts["work"] = {"operations": 989 * 10**10, "bytes": 48 * 10**9}
    result = contest.Result(some_spec(), 640.0, 1.0, 1.0, facts)
    report.chip(report.Page(""), {"ceiling": result}, batch=64)
    printed = capsys.readouterr().out
    assert "| ceiling | 98.9 | 480 | 10.0% | 10.0% |" in printed


def test_minutes_count_the_ends_of_the_epochs(capsys):
    facts = {"parameters": (1, 1), "device": "GPU", "work": None}
    result = contest.Result(some_spec(), 1000.0, 1.0, 1.0, facts, epoch_end=2.0)
    report.epochs(report.Page(""), {"train.py": result}, 10, 4000)
    assert "10 epochs of 4,000 pictures through train.py: 1.0 minutes" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("SECTIONS", "speed"), ("CONTESTANTS", "me"), ("IMAGE_SIZES", "65")],
)
def test_a_wrong_choice_names_those_that_there_are(monkeypatch, option, value):
    monkeypatch.setattr(bench, option, value)
    with pytest.raises(UserError, match=f"{value}: there are .*,.*; or all"):
        bench.main([])


def test_a_drawn_picture_is_like_celebas():
    files = [preparing.draw_picture(number) for number in range(5)]
    pictures = [Image.open(io.BytesIO(file)) for file in files]
    assert {(it.format, it.size) for it in pictures} == {("JPEG", faces.CELEBA_SIZE)}
    assert 6000 < np.mean([len(file) for file in files]) < 12000
    assert len(set(files)) == 5


def test_preparing_prints_rates_and_memory(here):
    quick = "--pictures 20 --counts 8,20 --rounds 1 --distinct 4 --image-size 28"
    printed = run_benchmark(here, "preparing", *quick.split())
    for way in (r"preprocess\.py, \d+ cores", "Pillow alone, 1 core", "plain loop"):
        assert re.search(rf"^\| {way} \| [\d,]+ \|", printed, re.M), way
    assert len(re.findall(r"^\| (?:8|20) \| [\d.]+ \| [\d,]+ \| ", printed, re.M)) == 2


def test_preparing_refuses_counts_that_are_none(monkeypatch):
    monkeypatch.setattr(preparing, "COUNTS", "2e5")
    with pytest.raises(UserError, match="--counts 2e5"):
        preparing.main([])


def test_preparing_takes_pictures_of_ones_own(here, monkeypatch):
    with zipfile.ZipFile(here / "own.zip", "w") as archive:
        archive.writestr("a.jpg", preparing.draw_picture(1))
        archive.writestr("notes.txt", "no picture")
    monkeypatch.setattr(preparing, "DATA", str(here / "own.zip"))
    assert preparing.read_pictures() == [preparing.draw_picture(1)]
    monkeypatch.setattr(preparing, "DATA", str(here / "none.zip"))
    with pytest.raises(UserError, match=r"none\.zip"):
        preparing.read_pictures()


def test_memory_is_read_call_after_call(here):
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells a process's own memory")
    faces = here / "cartoons-8.npy"
    np.save(faces, np.zeros((4, 8, 8, 3), "uint8"))
    faces.with_suffix(".json").write_text(json.dumps({"count": 4}))
    backend = keras.backend.backend()
    spec = some_spec(contestant="train.py", backend=backend, faces=str(faces), steps=2)
    readings = contest.memory_over(spec, 20, 2)
    assert [calls for calls, _ in readings] == list(range(2, 21, 2))
    assert all(memory > 50 for _, memory in readings)


def test_the_results_tell_the_commands_and_the_machine():
    text = (SUITE / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    for command in ("python -m benchmarks.training", "python -m benchmarks.preparing"):
        assert command in text
    assert "KERAS_BACKEND=jax python -m benchmarks.training" in text
