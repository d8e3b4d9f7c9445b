"""What the networks compute on: one device, or on JAX all those of all processes.

Several devices form one mesh. Every variable is on all of them, and every batch is cut
along its faces; the compiler adds what they have to tell each other, so that batch
normalization and the losses are those of the whole batch.
"""

import contextlib
import functools
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import traceback

import numpy as np

from dcgan.common.console import UserError, quiet_stderr
from models import keras


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


def choose_precision(wanted):
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
    found = _nvidia_smi("memory.total")
    return f", {int(found) / 1024:.0f} GiB" if found.isdigit() else ""


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


class One:
    """A single device. It says what there is to say for several, too."""

    count = 1
    is_first = True  # of several processes, the one that writes files
    more = ""  # what the line on the device has to say besides
    whole = None  # how JAX lays out what is on every device

    def part(self, batch_size):
        """Return the slice of each batch that this process has to bring."""
        return slice(0, batch_size)

    def hand_over(self, batches):
        """Copy {name: (K, ...) array} to the device."""
        return {name: keras.ops.convert_to_tensor(batches[name]) for name in batches}

    def replicate(self, variables):
        """Put every variable on all devices."""

    def share(self, value):
        """Return the JSON-able value that the first process gave."""
        return value

    def most(self, number):
        """Return the largest of the whole numbers that the processes gave."""
        return number

    def together(self):
        """Return a context for the whole of a run."""
        return contextlib.nullcontext()


class Mesh(One):
    """All devices of all processes, on JAX. Methods as One's."""

    def __init__(self):
        import jax
        from jax.experimental import multihost_utils

        self.jax, self.processes = jax, multihost_utils
        self.count = jax.device_count()
        self.is_first = jax.process_index() == 0
        self.more = f" {self.count} devices in {jax.process_count()} processes train."
        mesh = jax.make_mesh((self.count,), ("batch",))
        self.whole = jax.NamedSharding(mesh, jax.P())
        self.cut = jax.NamedSharding(mesh, jax.P(None, "batch"))

    @contextlib.contextmanager
    def together(self):
        """Let only the first process print, and none wait for one that failed."""
        silent = contextlib.redirect_stdout(io.StringIO())
        try:
            with contextlib.nullcontext() if self.is_first else silent:
                yield
        except BaseException as error:
            if self.jax.process_count() == 1 or _is_agreed(error):
                raise
            # At the end JAX would wait minutes for the others, who wait for this one
            if isinstance(error, UserError):
                print(error, file=sys.stderr, flush=True)
            else:
                traceback.print_exc()
            os._exit(1)

    def part(self, batch_size):
        share = batch_size // self.jax.process_count()
        first = self.jax.process_index() * share
        return slice(first, first + share)

    def hand_over(self, batches):
        return {
            name: self.jax.make_array_from_process_local_data(
                self.whole if array.ndim == 1 else self.cut, array
            )
            for name, array in batches.items()
        }

    def replicate(self, variables):
        values = [np.asarray(variable.value) for variable in variables]
        if self.jax.process_count() > 1:
            values = self.processes.broadcast_one_to_all(values)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(
                self.jax.make_array_from_process_local_data(
                    self.whole, np.asarray(value)
                )
            )

    def share(self, value):
        if self.jax.process_count() == 1:
            return value
        words = np.frombuffer(json.dumps(value).encode(), np.uint8)
        length = int(self.processes.broadcast_one_to_all(np.int32(len(words))))
        words = np.resize(words, length) if self.is_first else np.zeros(length, "uint8")
        return json.loads(bytes(np.asarray(self.processes.broadcast_one_to_all(words))))

    def most(self, number):
        if self.jax.process_count() == 1:
            return number
        return int(self.processes.process_allgather(np.int32(number)).max())


def _is_agreed(error):
    """Tell whether all processes end in this way, as they do after Ctrl-C."""
    return isinstance(error, SystemExit) and isinstance(error.code, int)


def join():
    """Join the other processes of this run, if JAX_COORDINATOR_ADDRESS names a place.

    JAX_NUM_PROCESSES and JAX_PROCESS_ID say how many there are and which this one is,
    where no cluster (Slurm, Open MPI) says so. To be called before JAX is used. Raises
    UserError if they do not find each other.
    """
    if not os.environ.get("JAX_COORDINATOR_ADDRESS"):
        return
    if keras.backend.backend() != "jax":
        raise UserError(
            "JAX_COORDINATOR_ADDRESS is set, and training by several processes needs "
            "JAX: KERAS_BACKEND=jax"
        )
    import jax

    try:
        numbers = {
            option: int(os.environ[variable])
            for option, variable in {
                "num_processes": "JAX_NUM_PROCESSES",
                "process_id": "JAX_PROCESS_ID",
            }.items()
            if variable in os.environ
        }
        jax.distributed.initialize(**numbers)
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"The processes of this run did not join: {error} Each needs "
            "JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID."
        ) from error


def choose(which, batch_size):
    """Return One or Mesh. which: "all" or "one".

    Raises UserError if the devices cannot share a batch evenly.
    """
    if keras.backend.backend() != "jax":
        return One()
    import jax

    if jax.process_count() == 1 and (which == "one" or jax.device_count() == 1):
        return One()
    count = jax.device_count()
    if batch_size % count:
        raise UserError(
            f"A batch of {batch_size} faces cannot be shared evenly by {count} devices."
            f" Try --batch-size {-(-batch_size // count) * count}, or --devices one."
        )
    return Mesh()


def agree(devices, facts):
    """Raise UserError if the processes of a run differ in the facts, a dict."""
    others = devices.share(facts)
    different = [name for name in facts if others[name] != facts[name]]
    if devices.most(len(different)):
        named = f"{different[0]} differs here" if different else "another's differ"
        raise UserError(
            f"All processes of a run need the same constants and pictures: {named}."
        )
