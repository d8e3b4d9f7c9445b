"""Which cards there are, and why none of them is used."""

import os

import pytest

from dcgan.training import cards
from dcgan.training.cards import Card, Seen

T4 = Card("GPU-aaaa-1", "Tesla T4", "15360")
H100 = Card("GPU-bbbb-2", "NVIDIA H100 80GB HBM3", "81559")
BOTH = [T4, H100]


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [
        (None, BOTH),
        ("", []),
        ("-1", []),
        ("0", [T4]),
        ("1", [H100]),
        ("1,0", [H100, T4]),
        (" 1 , 0 ", [H100, T4]),
        ("GPU-bbbb-2", [H100]),
        ("GPU-b", [H100]),
        ("0,-1,1", [T4]),  # CUDA reads up to what it does not know
        ("2", []),
        ("1,2", [H100]),
        ("MIG-bbbb", []),
    ],
)
def test_the_cards_that_programs_see_are_those_that_cuda_would_take(chosen, seen):
    assert cards.visible(BOTH, chosen) == seen


def test_the_memory_is_that_of_a_card_with_the_name():
    assert cards.memory_of("NVIDIA H100 80GB HBM3", BOTH) == ", 80 GiB"
    assert cards.memory_of("NVIDIA L4", BOTH) == ""
    assert cards.memory_of("GB10", [Card("GPU-c", "GB10", "[N/A]")]) == ""


def test_nvidia_smi_tells_of_cards_or_says_why_not(tmp_path, monkeypatch):
    """A script by its name stands for the driver's tool."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cards.look(tmp_path) == Seen([], "", has_amd=False)
    tool = tmp_path / "nvidia-smi"

    def answer(*lines, code=0):
        told = "\n".join(f'echo "{line}"' for line in lines)
        tool.write_text(f"#!/bin/sh\n{told}\nexit {code}\n")
        tool.chmod(0o755)

    answer("GPU-aaaa-1, Tesla T4, 15360", "GPU-bbbb-2, NVIDIA H100 80GB HBM3, 81559")
    assert cards.look(tmp_path) == Seen(BOTH, "", has_amd=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert cards.count() == 1
    failed = "NVIDIA-SMI has failed because it couldn't communicate with the driver."
    answer(failed, "Make sure that it is installed.", code=9)
    assert cards.look(tmp_path) == Seen([], failed, has_amd=False)


@pytest.mark.parametrize(
    ("files", "has_amd"),
    [
        ({}, False),
        ({"sys/class/drm/card0/device/vendor": "0x10de\n"}, False),
        ({"sys/class/drm/card1/device/vendor": "0x1002\n"}, True),
        ({"dev/kfd": ""}, True),
    ],
)
def test_an_amd_card_is_seen_in_the_system(tmp_path, monkeypatch, files, has_amd):
    monkeypatch.setenv("PATH", "")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert cards.look(tmp_path).has_amd is has_amd


# What TensorFlow 2.21, JAX 0.10 and PyTorch write, as they write it
CUINIT = (
    "I0000 00:00:1795677262.232913   10659 cudart_stub.cc:31] Could not find\n"
    "E0000 00:00:1795677264.014026   10659 cuda_platform.cc:52] failed call to cuInit: "
    "INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)\n"
)
DLOPEN = (
    "W0000 00:00:1795677264.014026   10659 gpu_device.cc:2365] Cannot dlopen some GPU "
    "libraries. Please make sure the missing libraries mentioned above are installed "
    "properly if you would like to use GPU. Follow the guide at "
    "https://www.tensorflow.org/install/gpu for how to download and setup the required "
    "libraries for your platform.\n"
)
NO_JAXLIB = (
    "WARNING:2026-11-25 07:12:55,123:jax._src.xla_bridge:891: An NVIDIA GPU may be "
    "present on this machine, but a CUDA-enabled jaxlib is not installed. Falling back "
    "to cpu.\n"
)
OLD_DRIVER = (
    "/lib/torch/cuda/__init__.py:182: UserWarning: CUDA initialization: The NVIDIA "
    "driver on your system is too old (found version 11040).\n  return torch._C\n"
)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", ""),
        ("I0000 00:00:17 1 cudart_stub.cc:31] Could not find cuda drivers\n", ""),
        (
            CUINIT,
            "failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: "
            "UNKNOWN ERROR (303)",
        ),
        (
            NO_JAXLIB,
            "An NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib "
            "is not installed. Falling back to cpu.",
        ),
        (
            OLD_DRIVER,
            "CUDA initialization: The NVIDIA driver on your system is too old (found "
            "version 11040).",
        ),
    ],
)
def test_the_line_that_tells_why_is_found_among_others(said, reason):
    assert cards.reason(said) == reason


def test_a_long_reason_is_cut_short():
    reason = cards.reason(DLOPEN)
    assert reason.startswith("Cannot dlopen some GPU libraries. Please make sure")
    assert len(reason) <= cards.LENGTH
    assert reason.endswith("[...]")


NONE = Seen([], "", has_amd=False)


@pytest.mark.parametrize(
    ("backend", "chosen", "seen", "said", "why"),
    [
        (
            *("tensorflow", None, NONE, ""),
            "No GPU: no NVIDIA driver found (nvidia-smi does not answer).",
        ),
        (
            *("tensorflow", "", Seen([T4], "", has_amd=False), CUINIT),
            "No GPU: CUDA_VISIBLE_DEVICES hides it.",
        ),
        (
            *("jax", "-1", NONE, ""),
            "No GPU: CUDA_VISIBLE_DEVICES hides it.",
        ),
        (
            *("jax", "2", Seen(BOTH, "", has_amd=False), ""),
            "No GPU: CUDA_VISIBLE_DEVICES=2 names none of 2.",
        ),
        (
            *("tensorflow", "1", Seen(BOTH, "", has_amd=False), CUINIT),
            "The driver sees NVIDIA H100 80GB HBM3, tensorflow does not: pip install "
            "-r requirements-gpu.txt. It says: failed call to cuInit: INTERNAL: CUDA "
            "error: Failed call to cuInit: UNKNOWN ERROR (303)",
        ),
        (
            *("jax", None, Seen([T4], "", has_amd=True), ""),
            "The driver sees Tesla T4, jax does not: pip install -r "
            "requirements-jax.txt.",
        ),
        (
            *("torch", None, Seen([], "It failed.", has_amd=False), OLD_DRIVER),
            "No GPU: nvidia-smi says: It failed. It says: CUDA initialization: The "
            "NVIDIA driver on your system is too old (found version 11040).",
        ),
        (
            *("jax", None, Seen([], "", has_amd=True), ""),
            "AMD card: needs ROCm's own build of JAX or PyTorch; not tried.",
        ),
        (
            *("jax", None, NONE, NO_JAXLIB),
            "No GPU: no NVIDIA driver found (nvidia-smi does not answer). It says: An "
            "NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib is "
            "not installed. Falling back to cpu.",
        ),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="Windows has a line of its own")
def test_why_no_gpu_is_used_and_what_helps(backend, chosen, seen, said, why):
    assert cards.why_no_gpu(backend, chosen, seen, said) == why
