"""What an H100 would run: KERAS_BACKEND=jax python -m benchmarks.compiled

Compiles the suite's own call of many iterations for a GPU that need not be there, with
XLA's real CUDA plug-in, and counts an iteration's kernels. Prints Markdown. It needs
JAX's CUDA wheels, a CPU, and twenty seconds a batch. Nothing runs, and nothing is tuned
to the device, so the times are bounds from bytes and operations, to compare by.
"""

import importlib.util
import inspect
import os
import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

import train
from benchmarks import hlo, report
from benchmarks.machine import versions
from benchmarks.operations import PEAKS
from dcgan.common.console import UserError, run
from dcgan.common.options import options
from dcgan.networks.backend import keras
from dcgan.training import compiled
from dcgan.training.batches import Batches
from dcgan.training.devices import Device
from dcgan.training.progress import Progress

# What to compile
IMAGE_SIZE = 64  # [8..1024] pixels
BATCHES = "32,128,1024"  # faces an iteration, of each device
DEVICES = 8  # [1..] of the last column, at the first batch; 1: no such column
PRECISION = "bfloat16"  # {float32, bfloat16}
STEPS = 32  # [2..] iterations a call

# What the times rest on, besides PEAKS in operations.py
FLOAT32_TFLOPS = 494.0  # (0.0..] of float32 convolutions: XLA lets them use TF32
LAUNCH_MICROSECONDS = 2.5  # [0.0..] from one kernel to the next; assumed

# Where to
GROUPS = 10  # [0..] of kernels to show
OUT = ""  # a file for what is printed

# No options from here on

TARGET = "H100"
HELD = 202_599  # faces on the device: CelebA's
CONFIG = Path(__file__).with_name("h100.txt")
WHEELS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


def main(argv=None):
    """Print what an iteration is made of, and the groups of kernels that take most."""
    options(sys.modules[__name__], argv)
    if keras.backend.backend() != "jax":
        raise UserError(
            "Only JAX compiles for a GPU that is not there. Try: "
            "KERAS_BACKEND=jax python -m benchmarks.compiled"
        )
    page = report.Page(OUT)
    if not any(map(importlib.util.find_spec, WHEELS)):
        page('Left out: no CUDA wheels. Try: pip install "jax[cuda12]>=0.10,<0.12"')
        return
    pretend_a_gpu()
    batches = [int(batch) for batch in BATCHES.split(",")]
    cases = [(batch, 1) for batch in batches]
    cases += [(batches[0], DEVICES)] if DEVICES > 1 else []
    of_case = {case: hlo.kernels_of(program(*case)) for case in cases}
    page(f"Versions: {versions()}.  ")
    page(assumptions())
    columns = [column(kernels, *case) for case, kernels in of_case.items()]
    head = ["an iteration", *(named(*case) for case in cases)]
    page.table(head, [(row, *(it[row] for it in columns)) for row in columns[0]])
    batch, count = cases[0]
    page(f"\nThe groups of kernels that take longest, {named(batch, count)}:\n")
    groups(page, of_case[batch, count])


def assumptions():
    """Say what the tables rest on."""
    rate, bandwidth = PEAKS[TARGET]
    return f"""\
One iteration at {IMAGE_SIZE} x {IMAGE_SIZE}, {PRECISION}, of {STEPS} in a call,
compiled for an {TARGET}. A kernel takes the longer of its bytes at {bandwidth:,} GB/s
and its operations at {rate} TFLOP/s in bfloat16, {FLOAT32_TFLOPS:g} in float32 (TF32),
and {LAUNCH_MICROSECONDS:g} us to launch. What devices tell each other is counted, not
timed.
"""


def pretend_a_gpu():
    """Let JAX compute on the CPU, whatever there is, and the suite believe in a GPU."""
    import jax

    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # that is, look for no driver
    jax.config.update("jax_platforms", "cpu")
    jax.default_backend = lambda: "gpu"


def program(batch, count):
    """Return what XLA makes of the suite's call: `batch` faces on each of `count`."""
    from jax import NamedSharding, ShapeDtypeStruct
    from jax.experimental import topologies
    from jax.sharding import Mesh, PartitionSpec

    topology = topologies.get_topology_desc(
        "", "cuda", target_config=CONFIG.read_text(), topology=f"1x1x{count}"
    )
    mesh = Mesh(np.array(topology.devices), ("batch",))
    # As devices.py lays them out
    everywhere = NamedSharding(mesh, PartitionSpec())
    cut = NamedSharding(mesh, PartitionSpec(None, None, "batch"))
    train.IMAGE_SIZE, train.BATCH_SIZE = IMAGE_SIZE, batch * count
    gan = train.build(PRECISION)
    variables = [
        ShapeDtypeStruct(variable.shape, variable.dtype, sharding=everywhere)
        for variable in compiled.variables_of(gan)
    ]
    batches = {
        name: ShapeDtypeStruct(
            (STEPS, *array.shape[1:]),
            array.dtype,
            sharding=cut if array.ndim > 2 else everywhere,
        )
        for name, array in one_batch().items()
    }
    # On a GPU the faces lie on the device, and a call gets their places
    real = batches.pop("real")
    batches["places"] = ShapeDtypeStruct(real.shape[:3], "int32", sharding=cut)
    faces = (HELD, *real.shape[3:])
    faces = ShapeDtypeStruct(faces, real.dtype, sharding=everywhere)
    jitted = jitted_of(compiled.fused(gan, train.five_steps, everywhere, faces))
    traced = jitted.trace(variables, batches, faces)
    lowered = traced.lower(lowering_platforms=("cuda",))
    return lowered.compile().as_text()


def one_batch():
    """Return the arrays of a call of one iteration, as train.py has them."""
    faces = np.zeros((train.batch_size(), IMAGE_SIZE, IMAGE_SIZE, 3), "uint8")
    batches = Batches(faces, train.chance(), train.schedules(), 1, Device())
    with batches.left_of_epoch(Progress()) as left:
        return next(left)


def jitted_of(function):
    """Return the function, compiled by jax.jit, that another one closes over."""
    inside = inspect.getclosurevars(function).nonlocals.values()
    return next(it for it in inside if hasattr(it, "lower"))


def column(kernels, batch, count):
    """Return {row: cell} of what the kernels of an iteration are and take."""
    faces, waits = batch * count, len(kernels) * LAUNCH_MICROSECONDS / 1e6
    busy = sum(map(seconds, kernels))
    moved = sum(it.bytes for it in kernels) / batch
    worked = sum(it.operations for it in kernels) / batch
    told = [it for it in kernels if it.kind == "collective"]
    rows = {"kernels": len(kernels)}
    for call in ("forward", "backward-input", "backward-filter"):
        for dtype in ("bfloat16", "float32"):
            rows[f"convolutions, {call}, {dtype}"] = sum(
                (it.kind, it.call, it.dtype) == ("convolution", call, dtype)
                for it in kernels
            )
    rows["of these with a dilated filter"] = sum(it.is_dilated for it in kernels)
    for kind in ("product", "reduction", "copy", "fusion", "collective"):
        rows[KINDS[kind]] = sum(it.kind == kind for it in kernels)
        if kind == "reduction":
            rows["of these tiny"] = sum(it.is_tiny for it in kernels)
    rows["MB that a device tells the others"] = (
        f"{sum(it.bytes for it in told) / 1e6:.1f}"
    )
    rows["MB moved, a picture"] = f"{moved / 1e6:.1f}"
    rows["GFLOP, a picture"] = f"{worked / 1e9:.2f}"
    rows["ms by bytes and operations"] = f"{1000 * busy:.2f}"
    rows["ms by launches"] = f"{1000 * waits:.2f}"
    rows["pictures/s"] = f"{faces / (busy + waits):,.0f}"
    return {row: str(cell) for row, cell in rows.items()}


# What the tables call the kinds of hlo.py
KINDS = {
    "convolution": "convolutions",
    "product": "matrix products",
    "reduction": "reductions",
    "copy": "copies",
    "fusion": "other fusions",
    "collective": "collectives",
}


def named(batch, count):
    return f"batch {batch:,}" + (f" on each of {count}" if count > 1 else "")


def seconds(kernel):
    """Return the least that a kernel takes, its launch not counted."""
    rate, bandwidth = PEAKS[TARGET]
    rate = rate if kernel.dtype == "bfloat16" else FLOAT32_TFLOPS
    return max(kernel.bytes / bandwidth / 1e9, kernel.operations / rate / 1e12)


def groups(page, kernels):
    """Print what kernels of one kind and one kind of layer take together."""
    found = defaultdict(list)
    for kernel in kernels:
        kind = f"{KINDS[kernel.kind]} {kernel.call}".strip()
        found[kind, layer_of(kernel.place)].append(kernel)
    rows = []
    for (kind, layer), members in found.items():
        busy = 1e6 * sum(map(seconds, members))
        waits = len(members) * LAUNCH_MICROSECONDS
        moved = sum(it.bytes for it in members) / 1e6
        cells = f"{len(members)}", f"{moved:.1f}", f"{busy:.1f}", f"{busy + waits:.1f}"
        rows.append((f"{kind}: {layer}", *cells))
    rows.sort(key=lambda row: -float(row[-1]))
    page.table(("group", "kernels", "MB", "us", "with launches"), rows[:GROUPS])


def layer_of(place):
    """Say which layer of which model a kernel's place is, and whether on its way back.

    "jit(scan)/while/body/closed_call/transpose(jvp(judge))/conv2d_1/add" is "conv2d of
    judge, backward".
    """
    inside = re.sub(r"^jit\(\w+\)/(while/body/)?(closed_call/)?", "", place)
    inside = re.sub(r"jit\(\w+\)/", "", inside)
    *names, _ = re.sub(r"(jvp|transpose)\(|\)", "", inside).split("/")
    layers = [re.sub(r"_\d+$", "", name) for name in reversed(names)]
    if not layers:
        return "the step itself" if place else "no place told"
    way = ", backward" if "transpose(" in place else ""
    return " of ".join(layers) + way


if __name__ == "__main__":
    run(main)
