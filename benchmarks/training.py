"""How fast it trains: python -m benchmarks.training

This suite, the loop of the tutorials, Keras' fit and PyTorch's DCGAN, the same networks
on the same batches, side by side in one run on one machine; and the ceiling, which is
the suite's compiled function fed from the device's own memory. Prints Markdown.

Each contestant is a process of its own. They take turns, round after round, and of each
the median counts. KERAS_BACKEND chooses the backend, as everywhere.
"""

import os
import sys
import tempfile

from benchmarks import contest, report
from benchmarks.machine import describe_machine, versions
from benchmarks.workers import BUILDERS, Missing, Spec
from dcgan.common.console import UserError, run
from dcgan.common.options import options
from dcgan.training.hardware import cpu_has_bfloat16

# What to measure
SECTIONS = "all"  # all, or some of overhead,rates,sweep,memory
CONTESTANTS = "all"  # all, or some by name, as the tables print them, with commas
IMAGE_SIZES = "64,28"  # of the rates, pixels
BATCH = 0  # [0..] faces an iteration; 0: the usual ones of each section
PRECISIONS = "float32,bfloat16"  # of the sweep, on GPUs

# How long
ROUNDS = 5  # [1..] turns of each contestant
SECONDS = 4.0  # (0.0..] of a turn
CALLS = 2000  # [10..] of the memory section

# What to measure with, and where to
PICTURES = 2048  # [2..] cartoons that are drawn, and shown again and again
OUT = ""  # a file for what is printed

# The usual batches of the rates by image size, and of the sweep
BATCHES = {64: (128,), 28: (64, 16), 8: (2,)}
SWEEP_SIZE, SWEEP_BATCHES = 64, (64, 128, 256, 512, 1024)

# Overhead and memory are those of networks so small that arithmetic costs nothing:
# their image size (on_keras.py), batch, and iterations a call
TINY, TINY_BATCH, TINY_STEPS = 8, 2, 32
OVERHEADS = {
    "tensorflow": {"backend": "tensorflow"},
    "tensorflow, XLA": {"backend": "tensorflow", "xla": True},  # as on a GPU
    "jax": {"backend": "jax"},
}

# No options from here on

# The aim counts in these
EPOCHS, CELEBA = 25, 202_599


class Bench:
    """What all sections need: where to print, what to run on, where the faces are."""

    def __init__(self, page, backend, device, folder):
        self.page, self.backend, self.device = page, backend, device
        self.has_gpu = not device.startswith("CPU")
        self.folder, self.faces = folder, {}

    def spec(self, contestant, size, batch, **more):
        """Return the Spec of a contestant; the first one of a size draws the faces."""
        if size not in self.faces:
            self.faces[size] = contest.draw_faces(self.folder, size, PICTURES)
        module, _ = BUILDERS[contestant]
        backend = "torch" if module == "pytorch" else self.backend
        more = {"backend": backend, "seconds": SECONDS, **more}
        faces = self.faces[size]
        return Spec(contestant, image_size=size, batch=batch, faces=faces, **more)


def main(argv=None):
    """Measure the sections that the constants ask for."""
    options(sys.modules[__name__], argv)
    sections = chosen(SECTIONS, SECTION_OF, "--sections")
    chosen(CONTESTANTS, BUILDERS, "--contestants")
    chosen(IMAGE_SIZES, map(str, BATCHES), "--image-sizes")
    chosen(PRECISIONS, ("float32", "bfloat16"), "--precisions")
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    page, device = report.Page(OUT), contest.find_device(backend)
    page(f"Machine: {describe_machine()}.  ")
    page(f"Device: {device}  ")
    page(f"Versions: {versions()}.  ")
    page(f"Medians of {ROUNDS} interleaved rounds of about {SECONDS:g} s.")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        for section in sections:
            SECTION_OF[section](Bench(page, backend, device, folder))


def overhead(bench):
    """What an iteration costs when its arithmetic costs nothing, on each backend."""
    bench.page(f"\n## Overhead: networks of {TINY} x {TINY} pixels\n")
    rows, missing = [], {}
    for name, more in OVERHEADS.items():
        specs = {
            f"{way}, {name}": bench.spec(
                "ceiling", TINY, TINY_BATCH, steps=steps, **more
            )
            for way, steps in (("plain", 1), ("fused", TINY_STEPS))
        }
        results, failed = contest.compete(specs, ROUNDS)
        missing |= failed
        if not failed:
            plain, fused = (1000 * TINY_BATCH / it.rate for it in results.values())
            ratio = f"{plain / fused:.0f}"
            rows.append((name, f"{plain:.2f}", f"{fused:.3f}", ratio))
    fused = f"fused at K = {TINY_STEPS}, ms"
    bench.page.table(("backend", "plain, ms an iteration", fused, "times"), rows)
    bench.page("\nAim: 30 times.")
    bench.page.left_out(missing)


def rates(bench):
    """Pictures a second of all contestants, at each size and its usual batches."""
    for size in map(int, IMAGE_SIZES.split(",")):
        for batch in [BATCH] if BATCH else BATCHES[size]:
            bench.page(f"\n## {size} x {size}, batch {batch}\n")
            names = chosen(CONTESTANTS, BUILDERS, "--contestants")
            specs = {name: bench.spec(name, size, batch) for name in names}
            emulated = not bench.has_gpu and not cpu_has_bfloat16()
            left_out = {"bfloat16": "this CPU only emulates it"} if emulated else {}
            for name in ("train.py", "PyTorch compiled"):
                if name in specs and not emulated:
                    half = specs[name]._replace(precision="bfloat16")
                    specs[f"{name}, bfloat16"] = half
            results, missing = contest.compete(specs, ROUNDS, at_once=bench.has_gpu)
            report.rates(bench.page, results)
            bench.page.left_out(left_out | missing)


def sweep(bench):
    """Batches and precisions on a GPU, and how much of the chip they reach."""
    if not bench.has_gpu:
        bench.page("\n## Sweep\n\nLeft out: there is no GPU.")
        return
    names = chosen(CONTESTANTS, BUILDERS, "--contestants")
    names = [name for name in names if name not in ("tutorial loop", "fit")]
    for precision in PRECISIONS.split(","):
        for batch in [BATCH] if BATCH else SWEEP_BATCHES:
            size = f"{SWEEP_SIZE} x {SWEEP_SIZE}"
            bench.page(f"\n## Sweep: {size}, batch {batch}, {precision}\n")
            specs = {
                name: bench.spec(name, SWEEP_SIZE, batch, precision=precision)
                for name in names
            }
            results, missing = contest.compete(
                specs, ROUNDS, epoch_ends=True, at_once=bench.has_gpu
            )
            report.rates(bench.page, results)
            report.chip(bench.page, results, batch)
            report.epochs(bench.page, results, EPOCHS, CELEBA)
            bench.page.left_out(missing)


def memory(bench):
    """The memory of its own of a process that trains, call after call."""
    bench.page(f"\n## Memory: networks of {TINY} x {TINY} pixels, through train.py\n")
    spec = bench.spec("train.py", TINY, TINY_BATCH, steps=TINY_STEPS)
    try:
        readings = contest.memory_over(spec, CALLS, TINY_STEPS)
    except Missing as reason:
        bench.page.left_out({"train.py": reason})
        return
    rows = [(f"{calls:,}", f"{size:,.1f}") for calls, size in readings]
    bench.page.table((f"calls of {TINY_STEPS} iterations", "RssAnon, MB"), rows)


# What there is to measure, in the order in which it is
SECTION_OF = {"overhead": overhead, "rates": rates, "sweep": sweep, "memory": memory}


def chosen(text, names, option):
    """Return the names that an option's text lists, or all of them, in their order.

    Raises UserError for one that there is not.
    """
    names = list(names)
    wanted = names if text == "all" else text.split(",")
    for name in set(wanted) - set(names):
        raise UserError(f"{option} {name}: there are {','.join(names)}; or all.")
    return [name for name in names if name in wanted]


if __name__ == "__main__":
    run(main)
