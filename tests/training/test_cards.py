"""Which cards there are, and why none of them is used."""

import sys

import pytest

from dcgan.training import cards
from dcgan.training.cards import Card, Seen

T4 = Card("GPU-aaaa-1", "Tesla T4", "15360")
H100 = Card("GPU-bbbb-2", "NVIDIA H100 80GB HBM3", "81559")
BOTH = [T4, H100]
NONE = Seen([], "", has_nvidia=False, has_amd=False)


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
        ("MIG-bbbb", [T4]),
    ],
)
def test_the_cards_that_programs_see_are_read_as_cuda_does(chosen, seen):
    assert cards.visible(BOTH, chosen) == seen


def test_the_memory_is_that_of_a_card_with_the_name():
    assert cards.memory_of("NVIDIA H100 80GB HBM3", BOTH) == ", 80 GiB"
    assert cards.memory_of("NVIDIA L4", BOTH) == ""
    assert cards.memory_of("GB10", [Card("GPU-c", "GB10", "[N/A]")]) == ""


def test_nvidia_smi_tells_of_cards_or_says_why_not(tmp_path, monkeypatch):
    """A script by its name stands for the driver's tool."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cards.look(tmp_path) == NONE
    tool = tmp_path / "nvidia-smi"

    def answer(*lines, code=0):
        told = "\n".join(f'echo "{line}"' for line in lines)
        tool.write_text(f"#!/bin/sh\n{told}\nexit {code}\n")
        tool.chmod(0o755)

    answer("GPU-aaaa-1, Tesla T4, 15360", "GPU-bbbb-2, NVIDIA H100 80GB HBM3, 81559")
    assert cards.look(tmp_path) == Seen(BOTH, "", has_nvidia=True, has_amd=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert cards.count() == 1
    answer("GPU-aaaa-1, Tesla T4, 15360", "WARNING: infoROM is corrupted", code=14)
    assert cards.look(tmp_path) == Seen([T4], "", has_nvidia=True, has_amd=False)
    failed = "NVIDIA-SMI has failed because it couldn't communicate with the driver."
    answer(failed, "Make sure that it is installed.", code=9)
    assert cards.look(tmp_path) == Seen([], failed, has_nvidia=False, has_amd=False)


@pytest.mark.parametrize(
    ("displays", "files", "vendors"),
    [
        ([], [], []),
        (["0x10de 0x030200"], [], ["nvidia"]),
        (["0x1002 0x030000"], [], ["amd"]),
        (["0x10de 0x030000", "0x1002 0x038000"], [], ["nvidia", "amd"]),
        (["0x10de 0x020000", "0x1002 0x040300"], [], []),  # no displays
        ([], ["dev/kfd"], ["amd"]),
    ],
)
def test_a_card_without_its_driver_is_seen_in_the_system(
    tmp_path, monkeypatch, displays, files, vendors
):
    monkeypatch.setenv("PATH", "")
    for number, display in enumerate(displays):
        place = tmp_path / f"sys/bus/pci/devices/{number}"
        place.mkdir(parents=True)
        for name, text in zip(("vendor", "class"), display.split(), strict=True):
            (place / name).write_text(f"{text}\n")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert cards.look(tmp_path) == Seen([], "", "nvidia" in vendors, "amd" in vendors)


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


@pytest.fixture
def linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.mark.parametrize(
    ("backend", "chosen", "seen", "said", "why"),
    [
        (
            *("tensorflow", None, NONE, ""),
            "No GPU: no NVIDIA driver found (nvidia-smi does not answer).",
        ),
        (
            *("tensorflow", "", Seen([T4], "", True, False), CUINIT),
            "No GPU: CUDA_VISIBLE_DEVICES hides it.",
        ),
        (
            *("jax", "-1", NONE, ""),
            "No GPU: CUDA_VISIBLE_DEVICES hides it.",
        ),
        (
            *("jax", "2", Seen(BOTH, "", True, False), ""),
            "No GPU: CUDA_VISIBLE_DEVICES=2 names none of 2.",
        ),
        (
            *("tensorflow", "1", Seen(BOTH, "", True, False), CUINIT),
            "The driver sees NVIDIA H100 80GB HBM3, tensorflow does not: pip install "
            "-r requirements-gpu.txt. It says: failed call to cuInit: INTERNAL: CUDA "
            "error: Failed call to cuInit: UNKNOWN ERROR (303)",
        ),
        (
            *("jax", None, Seen([T4], "", True, True), ""),
            "The driver sees Tesla T4, jax does not: pip install -r "
            "requirements-jax.txt.",
        ),
        (
            *("torch", None, Seen([], "It failed.", True, False), OLD_DRIVER),
            "No GPU: nvidia-smi says: It failed. It says: CUDA initialization: The "
            "NVIDIA driver on your system is too old (found version 11040).",
        ),
        (
            *("jax", None, Seen([], "", False, True), ""),
            "AMD card: needs ROCm's own build of JAX or PyTorch; not tried.",
        ),
        (
            *("tensorflow", None, Seen([], "", True, True), CUINIT),
            "No GPU: an NVIDIA card is here, but no driver answers (nvidia-smi): "
            "install it, or start the container with --gpus all. It says: failed call "
            "to cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR "
            "(303)",
        ),
        (
            *("jax", None, NONE, NO_JAXLIB),
            "No GPU: no NVIDIA driver found (nvidia-smi does not answer). It says: An "
            "NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib is "
            "not installed. Falling back to cpu.",
        ),
    ],
)
@pytest.mark.usefixtures("linux")
def test_why_no_gpu_is_used_and_what_helps(backend, chosen, seen, said, why):
    assert cards.why_no_gpu(backend, chosen, seen, said) == why


@pytest.mark.parametrize(
    ("platform", "backend", "why"),
    [
        ("win32", "tensorflow", "No GPU: tensorflow has none on native Windows; use "),
        ("win32", "jax", "No GPU: jax has none on native Windows; use WSL2."),
        ("win32", "torch", "The driver sees Tesla T4, torch does not: install the Py"),
        ("darwin", "tensorflow", "No GPU: tensorflow has none on a Mac; PyTorch has: "),
    ],
)
def test_where_only_pytorch_has_a_gpu_it_is_the_system_that_is_told(
    monkeypatch, platform, backend, why
):
    monkeypatch.setattr(sys, "platform", platform)
    seen = Seen([T4], "", has_nvidia=True, has_amd=False)
    assert cards.why_no_gpu(backend, None, seen, "").startswith(why)
