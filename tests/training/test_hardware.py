"""What the networks run on: named, or refused before anything is computed."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest

from dcgan.common.console import UserError
from dcgan.training import hardware

SUITE = Path(__file__).parents[2]
BUILT_FOR = ["sm_60", "sm_70", "sm_80", "sm_89", "compute_90"]  # TensorFlow 2.21's


@pytest.mark.parametrize("capability", [(10, 0), (10, 3), (12, 0)])
def test_a_card_newer_than_tensorflow_is_refused_in_one_line(capability):
    with pytest.raises(UserError) as refused:
        hardware.check_built_for("RTX 5090", capability, BUILT_FOR)
    number = ".".join(map(str, capability))
    assert str(refused.value) == (
        f"RTX 5090 has compute capability {number}, and this TensorFlow is built for "
        "6.0 to 9.0. Take JAX: pip install -r requirements-jax.txt, and "
        "KERAS_BACKEND=jax"
    )


@pytest.mark.parametrize("capability", [(6, 0), (7, 5), (8, 9), (9, 0), None])
def test_a_card_that_tensorflow_was_built_for_is_not(capability):
    hardware.check_built_for("a card", capability, BUILT_FOR)
    hardware.check_built_for("a card", (12, 0), [])  # it does not say


def test_the_refusal_comes_with_the_first_look_at_the_card(monkeypatch):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("It is TensorFlow that is refused")
    import tensorflow as tf

    # These stand for a card, and are all that is asked of it
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: ["a card"])
    details = {"device_name": "RTX 5090", "compute_capability": (12, 0)}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda _: details)
    hardware._found.cache_clear()
    try:
        with pytest.raises(UserError, match=r"RTX 5090 has .* 12\.0"):
            hardware.describe_device()
        details["compute_capability"] = (9, 0)
        assert hardware.describe_device() == "GPU, RTX 5090"
        assert hardware.precision_for("auto") == "bfloat16"
    finally:
        hardware._found.cache_clear()


@pytest.mark.parametrize(
    ("capability", "has"),
    [("7.5", False), ("8.0", True), ("12.0", True), ("gfx942", True), ("", True)],
)
def test_a_card_that_computes_in_bfloat16_is_known_by_what_jax_calls_it(
    monkeypatch, capability, has
):
    jax = pytest.importorskip("jax")
    # This stands for a card, and is all that is asked of it
    card = SimpleNamespace(**({"compute_capability": capability} if capability else {}))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(jax, "local_devices", lambda: [card])
    assert hardware.precision_for("auto") == ("bfloat16" if has else "float32")


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("flags : fpu avx2 avx512f avx512_bf16", True),
        ("flags : fpu amx_bf16 amx_tile", True),
        ("Features : fp asimd bf16", True),
        ("flags : fpu avx2 avx512f", False),
        ("", False),
    ],
)
def test_a_cpu_with_instructions_for_bfloat16_is_known_by_them(monkeypatch, flags, has):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: flags)
    for name in hardware.LIMITS:
        monkeypatch.delenv(name, raising=False)
    assert hardware.cpu_has_bfloat16() == has
    if keras.backend.backend() == "tensorflow" and not hardware.has_gpu():
        assert hardware.precision_for("auto") == ("bfloat16" if has else "float32")
        assert hardware.precision_for("auto", "float32") == "float32"
        assert hardware.precision_for("auto", "bfloat16") == "bfloat16"
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        assert hardware.precision_for("auto") == "float32"
        if has:  # else it is emulated
            with pytest.raises(UserError, match="bfloat16 under ONEDNN_MAX_CPU_ISA"):
                hardware.precision_for("auto", "bfloat16")


@pytest.mark.devices
@pytest.mark.parametrize(
    ("platform", "why"),
    [
        ("rocm", "Unable to initialize backend 'rocm': Backend 'rocm' is not in the"),
        ("cuda", ""),  # with CUDA's plug-in it says why, without it nothing
    ],
)
def test_a_jax_that_does_not_start_is_one_line(tmp_path, platform, why):
    pytest.importorskip("jax")
    refused = subprocess.run(
        [sys.executable, str(SUITE / "train.py"), "--data", "cartoons"],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": platform},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert line.startswith(f"JAX does not start: {why}")
    assert line.endswith("To train on the CPU: JAX_PLATFORMS=cpu")


def test_jax_alone_takes_the_same_packages_without_tensorflow():
    def packages(name):
        lines = (SUITE / name).read_text().splitlines()
        found = (line.partition("#")[0].strip() for line in lines)
        return {line for line in found if line and not line.startswith(ours)}

    ours = ("tensorflow==", "jax[cuda12]")
    assert packages("requirements-jax.txt") == packages("requirements.txt")


@pytest.mark.backends
@pytest.mark.parametrize(
    ("given", "processes", "kept"),
    [
        ({}, 1, ".cache/dcgan-jax"),
        ({"JAX_COMPILATION_CACHE_DIR": "chosen"}, 1, "chosen"),
        ({"JAX_COMPILATION_CACHE_DIR": "chosen"}, 2, "chosen"),
        ({}, 2, None),
    ],
)
def test_what_jax_compiles_is_kept_for_the_next_run(
    tmp_path, monkeypatch, given, processes, kept
):
    pytest.importorskip("jax")
    code = f"""
from dcgan.training import hardware
import jax
hardware.has_gpu = lambda: True  # stands for the hardware
jax.process_count = lambda: {processes}
hardware.keep_compiled()
jax.jit(lambda x: x * 3)(1.0)
"""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    here = {"HOME": str(tmp_path), "KERAS_BACKEND": "jax", "PYTHONPATH": str(SUITE)}
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path, env=os.environ | here | given, check=True)
    found = {path.parent for path in tmp_path.rglob("*lambda*")}
    assert found == ({tmp_path / kept} if kept else set())


@pytest.mark.parametrize(
    ("gpu", "memory", "size", "fits"),
    [
        (True, 16e9, 5e9, True),
        (True, 16e9, 6e9, False),
        (True, 0, 1, False),  # not told
        (False, 16e9, 1, False),
    ],
)
def test_faces_may_take_a_third_of_a_gpus_memory(monkeypatch, gpu, memory, size, fits):
    monkeypatch.setattr(hardware, "has_gpu", lambda: gpu)
    monkeypatch.setattr(hardware, "_gpu_memory", lambda: memory)
    assert hardware.has_room(size) == fits
