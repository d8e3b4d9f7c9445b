"""The contest of trainings: all take part, and who is missing is named."""

import importlib.util
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from benchmarks import contest, on_keras, report, training
from benchmarks.workers import BUILDERS, Missing, Spec, Worker, reason_in
from dcgan.common.console import UserError
from dcgan.common.options import current

SUITE = Path(__file__).parents[2]
ON_KERAS = [name for name, (module, _) in BUILDERS.items() if module != "pytorch"]


@pytest.fixture(autouse=True)
def keep_constants(monkeypatch):
    for name, value in current(training).items():
        monkeypatch.setattr(training, name, value)


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def some_spec(**changed):
    spec = Spec("PyTorch eager", "torch", 8, 2, "faces.npy")
    return spec._replace(**changed)


@pytest.mark.slow
def test_the_table_has_every_contestant_on_keras(here, monkeypatch, capfd):
    quick = "--sections rates --image-sizes 8 --pictures 8 --rounds 1 --seconds 0.02"
    only = ["--contestants", ",".join(ON_KERAS), "--out", "out.md"]
    monkeypatch.setattr(training, "cpu_has_bfloat16", lambda: False)
    training.main([*quick.split(), *only])
    printed, who = capfd.readouterr()
    assert Path("out.md").read_text() == printed
    rows = re.findall(r"^\| (.+?) \| \w+ \| float32 \| ([\d.,]+) \|", printed, re.M)
    assert [name for name, _ in rows] == ON_KERAS
    assert all(float(rate.replace(",", "")) > 0 for _, rate in rows)
    assert re.search(r"train.py reaches [\d.]+% of the ceiling", printed)
    if "Device: CPU" in printed:
        assert re.findall("Left out: .*", printed) == [
            "Left out: bfloat16 (this CPU only emulates it)."
        ]
    assert re.search(r"^Device: .*(CPU|GPU)", printed, re.M)
    assert f"keras {keras.__version__}" in printed
    for name in ON_KERAS:
        assert f"{name}: warming up\n" in who
        assert f"{name}: round 1 of 1\n" in who


@pytest.mark.slow
def test_memory_is_read_call_after_call_and_an_epochs_end_timed(here, capfd):
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux tells a process's own memory")
    faces = contest.draw_faces(str(here), on_keras.TINY, 8)
    backend = keras.backend.backend()
    spec = some_spec(contestant="train.py", backend=backend, faces=faces, steps=2)
    readings = contest.memory_over(spec, 20, 2)
    assert [calls for calls, _ in readings] == list(range(2, 21, 2))
    assert all(memory > 50 for _, memory in readings)
    quick = {"train.py": spec._replace(seconds=0.01)}
    results, missing = contest.compete(quick, rounds=1, epoch_ends=True)
    assert missing == {}
    assert results["train.py"].epoch_end > 0
    assert "train.py: epoch's end\n" in capfd.readouterr().err
    assert list(here.glob("*-run/generator-last.weights.h5"))


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


@pytest.mark.slow
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


def test_what_killed_a_contestant_is_the_line_that_names_it():
    of_jax = "Traceback (most recent call last):\n  at x\nKeyError: 'real'\n----\nFor "
    assert reason_in(of_jax + "simplicity, JAX has removed frames.\n") == (
        "KeyError: 'real'"
    )
    of_torch = "torch._inductor.exc.InductorError: strides\n\nSee a page.\n"
    assert reason_in(of_torch).startswith("torch._inductor.exc.InductorError")
    assert reason_in("Warning: Errors may follow\nKilled\n") == "Killed"
    assert reason_in("\n") == "it died without a word"


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
    monkeypatch.setattr(training, option, value)
    with pytest.raises(UserError, match=f"{value}: there are .*,.*; or all"):
        training.main([])


def test_the_results_tell_the_commands_and_the_machine():
    text = (SUITE / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    for command in ("python -m benchmarks.training", "python -m benchmarks.preparing"):
        assert command in text
    assert "KERAS_BACKEND=jax python -m benchmarks.training" in text
