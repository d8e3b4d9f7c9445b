"""The hardware that there is: the GPU by name, or the CPU and why no GPU."""

import functools
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from textwrap import shorten

from dcgan.common.console import UserError, quiet_stderr
from dcgan.common.options import typed
from dcgan.networks.backend import keras
from dcgan.training import cards

# What /proc/cpuinfo calls the instructions of a CPU that computes in bfloat16 itself,
# and the variables under which TensorFlow, which uses them, may not
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


def describe_device():
    """Return one line: the GPU's name and memory, or the CPU and why no GPU is used.

    Raises UserError if the backend cannot train, or not on the GPU that it found.
    """
    gpu, said = _found()
    if gpu:
        return gpu
    backend, chosen = keras.backend.backend(), os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = cards.look()
    if backend == "tensorflow" and seen.cards and sys.platform not in cards.WITHOUT:
        said = _what_tensorflow_says()
    why = cards.why_no_gpu(backend, chosen, seen, said)
    return f"CPU, {os.cpu_count()} cores. {why}"


def has_gpu():
    """Tell whether the networks will run on a GPU (or another accelerator)."""
    return bool(_found()[0])


def has_room(size):
    """Tell whether so many bytes take at most a third of the GPU's memory."""
    return has_gpu() and 3 * size <= _gpu_memory()


def _gpu_memory():
    """Return the bytes of the GPU's memory, or 0 where it does not tell."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    if backend == "torch":
        import torch

        has_cuda = torch.cuda.is_available()
        return torch.cuda.get_device_properties(0).total_memory if has_cuda else 0
    return cards.bytes_of(_tensorflow_details().get("device_name"), cards.look().cards)


def keep_compiled():
    """Let JAX keep what it compiles for a GPU on the disk, where the next process will
    find it: the call of a training, and the hundred small programs of any start.

    In JAX_COMPILATION_CACHE_DIR, or ~/.cache/dcgan-jax. To be called before it compiles
    anything. Not for CPUs, whose home may be another processor's, too, nor by itself
    for several processes: only the first keeps anything, and where it has that already
    the others would wait a day for its share of the compiling.
    """
    if not has_gpu() or keras.backend.backend() != "jax":
        return
    import jax

    if not jax.config.jax_compilation_cache_dir:  # the variable's, or None
        if jax.process_count() > 1:
            return
        kept = Path.home() / ".cache" / "dcgan-jax"
        jax.config.update("jax_compilation_cache_dir", str(kept))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def precision_for(wanted, before=None):
    """Return "float32" or "bfloat16".

    "auto" is what a run to be continued had, `before`; in a new one it is bfloat16 on
    GPUs made for it and, by TensorFlow, on such CPUs: JAX is slower by it there. Raises
    UserError where TensorFlow would crash in it.
    """
    with quiet_stderr():
        is_gpu, limit = has_gpu(), None
        made_for_it = is_gpu and _has_bfloat16()
    if not is_gpu and keras.backend.backend() == "tensorflow" and cpu_has_bfloat16():
        limit = next((name for name in LIMITS if name in os.environ), None)
        made_for_it = not limit
    if wanted == "auto":
        wanted = before or ("bfloat16" if made_for_it else "float32")
    if wanted == "bfloat16" and limit:
        raise UserError(
            f"TensorFlow cannot compute in bfloat16 under {limit}. Unset that, or "
            f"start another run with {typed(precision='float32')}"
        )
    return wanted


def cpu_has_bfloat16():
    """Tell whether the CPU computes in bfloat16, as far as the system says."""
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:  # not on Linux
        return False
    return bool(BFLOAT16 & set(words))


def describe_backend():
    """Return one line: the backend that Keras runs on, and both versions."""
    backend = keras.backend.backend()
    version = importlib.metadata.version(backend)
    return f"{backend} {version}, Keras {keras.__version__}"


@functools.cache  # the backend wakes up but once, and speaks then
def _found():
    """Return the GPU in words, or "", and what the backend wrote to stderr."""
    backend = keras.backend.backend()
    find = {"tensorflow": _tensorflow_gpu, "jax": _jax_gpu, "torch": _torch_gpu}
    if backend not in find:
        raise UserError(
            f"KERAS_BACKEND={backend} cannot train. Those that can: {', '.join(find)}"
        )
    with quiet_stderr() as text:
        try:
            return find[backend](), text()
        except (RuntimeError, AssertionError) as error:  # the latter has no words
            if backend != "jax":
                raise
            why = str(error) or f"no JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS')}."
            raise UserError(
                f"JAX does not start: {shorten(why, cards.LENGTH)} To train on the "
                "CPU: JAX_PLATFORMS=cpu"
            ) from error


def _has_bfloat16():
    """Tell whether the GPU computes in bfloat16: NVIDIA's do from Ampere (8.0) on."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(
            including_emulation=False
        )
    if keras.backend.backend() == "tensorflow":
        return _tensorflow_details().get("compute_capability", (0, 0)) >= (8, 0)
    import jax

    capability = getattr(jax.local_devices()[0], "compute_capability", "")
    number = capability.partition(".")[0]
    # An AMD card has a name there, gfx942, and a TPU nothing; they have bfloat16
    return not number.isdigit() or int(number) >= 8


def _tensorflow_gpu():
    import tensorflow

    gpus = tensorflow.config.list_physical_devices("GPU")
    if not gpus:
        return ""
    details = _tensorflow_details()
    name = details.get("device_name", "GPU")
    built_for = tensorflow.sysconfig.get_build_info().get("cuda_compute_capabilities")
    check_built_for(name, details.get("compute_capability"), built_for or [])
    more = (
        f", the first of {len(gpus)}. TensorFlow trains on one; to use all: "
        "KERAS_BACKEND=jax"
        if gpus[1:]
        else ""
    )
    return f"GPU, {name}{cards.memory_of(name, cards.look().cards)}{more}"


def _tensorflow_details():
    import tensorflow

    gpu = tensorflow.config.list_physical_devices("GPU")[0]
    return tensorflow.config.experimental.get_device_details(gpu)


def _jax_gpu():
    import jax

    device = jax.local_devices()[0]  # others do not tell of their memory
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


def check_built_for(name, capability, built_for):
    """Raise UserError if TensorFlow was built before there were such cards.

    capability: (major, minor) or None; built_for: its words, as in ["compute_90"]. XLA
    would end the process on a newer card, with no error for Python to catch.
    """
    numbers = [int(word.rpartition("_")[2]) for word in built_for]
    if numbers and capability and capability[0] > max(numbers) // 10:
        raise UserError(
            f"{name} has compute capability {capability[0]}.{capability[1]}, and this "
            f"TensorFlow is built for {min(numbers) / 10} to {max(numbers) / 10}. Take "
            f"JAX: {cards.INSTALL['jax']}, and KERAS_BACKEND=jax"
        )


def _what_tensorflow_says():
    """Let TensorFlow tell, in a process of its own, why it sees no GPU."""
    code = "import tensorflow; tensorflow.config.list_physical_devices('GPU')"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}  # read once a process
    asked = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    return asked.stderr
