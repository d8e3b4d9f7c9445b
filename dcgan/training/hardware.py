"""The hardware that there is: the GPU by name, or the CPU and why no GPU."""

import functools
import importlib.metadata
import os
import shutil
import subprocess

from dcgan.common.console import UserError, quiet_stderr
from dcgan.networks.backend import keras


def describe_device():
    """Return one line: the GPU's name and memory, or the CPU and why no GPU is used."""
    with quiet_stderr():
        gpu = _gpu()
    if gpu:
        return gpu
    return f"CPU, {os.cpu_count()} cores. {_why_no_gpu()}"


@functools.cache  # asking may start a process
def has_gpu():
    """Tell whether the networks will run on a GPU (or another accelerator)."""
    with quiet_stderr():
        return bool(_gpu())


def precision_for(wanted):
    """Return "float32" or "bfloat16"; "auto" is bfloat16 on GPUs made for it."""
    if wanted != "auto":
        return wanted
    with quiet_stderr():
        return "bfloat16" if _gpu() and _has_bfloat16() else "float32"


def describe_backend():
    """Return one line: the backend that Keras runs on, and both versions."""
    backend = keras.backend.backend()
    version = importlib.metadata.version(backend)
    return f"{backend} {version}, Keras {keras.__version__}"


def _gpu():
    """Describe the GPU, or return ''."""
    find = {"tensorflow": _tensorflow_gpu, "jax": _jax_gpu, "torch": _torch_gpu}
    if keras.backend.backend() not in find:
        raise UserError(
            f"KERAS_BACKEND={keras.backend.backend()} cannot train. "
            f"Those that can: {', '.join(find)}"
        )
    return find[keras.backend.backend()]()


def _has_bfloat16():
    """Tell whether the GPU computes in bfloat16: NVIDIA's do from Ampere (8.0) on."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        gpu = tensorflow.config.list_physical_devices("GPU")[0]
        details = tensorflow.config.experimental.get_device_details(gpu)
        return details.get("compute_capability", (0, 0)) >= (8, 0)
    import jax

    device = jax.devices()[0]
    # A TPU has no such number, and has bfloat16
    return float(getattr(device, "compute_capability", 8)) >= 8


def _tensorflow_gpu():
    import tensorflow

    gpus = tensorflow.config.list_physical_devices("GPU")
    if not gpus:
        return ""
    details = tensorflow.config.experimental.get_device_details(gpus[0])
    name = details.get("device_name", "GPU")
    more = (
        f", the first of {len(gpus)}. TensorFlow trains on one; to use all: "
        "KERAS_BACKEND=jax"
        if gpus[1:]
        else ""
    )
    return f"GPU, {name}{_nvidia_memory()}{more}"


def _jax_gpu():
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        return ""
    limit = (device.memory_stats() or {}).get("bytes_limit")
    memory = f", {limit / 2**30:.0f} GiB for JAX" if limit else ""
    return f"{device.platform.upper()}, {device.device_kind}{memory}"


def _torch_gpu():
    import torch

    if torch.cuda.is_available():
        card, count = torch.cuda.get_device_properties(0), torch.cuda.device_count()
        more = f", the first of {count}. PyTorch trains on one; to use all: "
        more = f"{more}KERAS_BACKEND=jax" if count > 1 else ""
        return f"GPU, {card.name}, {card.total_memory / 2**30:.0f} GiB{more}"
    return "GPU, Apple MPS" if torch.backends.mps.is_available() else ""


def _nvidia_memory():
    megabytes = _nvidia_smi("memory.total")
    return f", {int(megabytes) / 1024:.0f} GiB" if megabytes.isdigit() else ""


def _nvidia_smi(field):
    """Ask the driver's own tool about the first card; '' if there is no such tool."""
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = asked.stdout.strip().splitlines() if asked.returncode == 0 else []
    return lines[0].strip() if lines else ""


def _why_no_gpu():
    """Say what the user can do about it."""
    card = _nvidia_smi("name")
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "No GPU: CUDA_VISIBLE_DEVICES hides it."
    if card and keras.backend.backend() == "tensorflow":
        return (
            f"The driver sees {card}, TensorFlow does not: "
            "pip install -r requirements-gpu.txt"
        )
    if card:
        return (
            f"The driver sees {card}, but this {keras.backend.backend()} has no CUDA."
        )
    if os.name == "nt":
        return "No GPU: TensorFlow has none on native Windows; use WSL2."
    return "No GPU: no NVIDIA driver found (nvidia-smi does not answer)."
