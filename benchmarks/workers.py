"""A contestant in a process of its own: it warms up, waits, runs a round when told.

The parent keeps Workers and lets one of them work at a time. `python -m
benchmarks.workers SPEC` is the other end; both speak JSON, a line for each message.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import memory_of

SUITE = Path(__file__).parent.parent

# Where each contestant is built: a module and a function of it
BUILDERS = {
    "train.py": ("suite", "through_train"),
    "train.py plain": ("suite", "through_train"),
    "tutorial loop": ("tutorial_loop", "contestant"),
    "fit": ("fit_train_step", "contestant"),
    "PyTorch eager": ("pytorch", "contestant"),
    "PyTorch compiled": ("pytorch", "contestant"),
    "ceiling": ("suite", "ceiling"),
}

# Contestants wait side by side on one GPU, of which JAX and TensorFlow would take all
SHARING = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}


class Spec(NamedTuple):
    """What a contestant is to train, and how long a round is to be."""

    contestant: str
    backend: str  # tensorflow, jax or torch
    image_size: int
    batch: int
    faces: str  # a .npy file, (N, S, S, 3) uint8
    precision: str = "float32"
    steps: int = 0  # iterations in one call, of the suite; 0: as train.py chooses
    xla: bool = False  # have TensorFlow use XLA for the suite, as it does on GPUs
    seconds: float = 1.0  # of a round


class Contestant(NamedTuple):
    """A way to train, built and ready.

    prepare(iterations) gets everything ready and returns a function that runs so many
    iterations, a multiple of `unit`, and comes back when the device is through.
    """

    prepare: Callable
    unit: int
    parameters: tuple  # how many G and D have
    device: str
    work: dict | None = None  # operations and bytes of one iteration
    finish: Callable | None = None  # what is done at the end of each epoch


class Missing(Exception):  # noqa: N818 - the state of a contestant, not a fault
    """A contestant that cannot run here; the text says why."""


class Worker:
    """A contestant's process. Raises Missing if its backend is not installed."""

    def __init__(self, spec):
        if not importlib.util.find_spec(spec.backend):
            raise Missing(f"{spec.backend} is not installed")
        self.spec = spec
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        command = [sys.executable, "-m", "benchmarks.workers", json.dumps(spec)]
        environment = {**os.environ, **SHARING, "KERAS_BACKEND": spec.backend}
        environment["PYTHON_COLORS"] = "0"  # reason_in() reads its last words
        where = {"cwd": SUITE, "env": environment}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(
            command, **pipes, **where, stderr=self.errors, text=True
        )

    def ask(self, *message):
        """Send a message and wait for the answer. Raises Missing if the worker died."""
        self.tell(*message)
        return self.hear()

    def tell(self, *message):
        """Send a message, which hear() will return the answer to.

        "compile" answers {} once the first iterations have run, "warm up" {"device",
        "work", "parameters"}; "round", with a number of iterations or 0 for the usual
        one, {"seconds", "pictures", "memory"}; "finish" ends an epoch of train.py and
        answers {"seconds"}.
        """
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(message), file=self.process.stdin, flush=True)

    def hear(self):
        """Wait for the answer to a message. Raises Missing if the worker died."""
        answer = self.process.stdout.readline()
        if not answer:
            self.process.wait()
            self.errors.seek(0)
            raise Missing(reason_in(self.errors.read().decode(errors="replace")))
        return json.loads(answer)

    def stop(self):
        """End the process."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # of what it did not hear any more
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()


def reason_in(stderr):
    """Return the line of what a process wrote that says why it died.

    That is where its last exception is named: advice may follow, and what JAX has cut.
    """
    said = [line.strip() for line in stderr.splitlines() if line.strip()]
    named = [line for line in said if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return ([*said, *named] or ["it died without a word"])[-1][:300]


def faces_for(spec, count):
    """Return (count, S, S, 3) uint8: the faces of the spec's file again and again."""
    import numpy as np

    faces = np.load(spec.faces, mmap_mode="r")
    return np.take(faces, np.arange(count) % len(faces), axis=0)


def _serve(spec, hear, say):
    """Answer the parent's messages, as Worker.ask lists them, until it goes."""
    module, name = BUILDERS[spec.contestant]
    build = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    contestant, usual = None, 0
    for line in hear:
        do, *rest = json.loads(line)
        if do == "compile":
            contestant = build(spec)
            contestant.prepare(contestant.unit)()
            say({})
        elif do == "warm up":
            contestant = contestant or build(spec)
            usual = _usual_round(contestant, spec.seconds)
            facts = {name: getattr(contestant, name) for name in ("device", "work")}
            say({**facts, "parameters": contestant.parameters})
        elif do == "round":
            iterations = rest[0] or usual
            seconds = _timed(contestant.prepare(iterations))
            say(
                {
                    "seconds": seconds,
                    "pictures": iterations * spec.batch,
                    "memory": memory_of(),
                }
            )
        elif do == "finish":
            say({"seconds": _timed(contestant.finish)})


def _usual_round(contestant, seconds):
    """Warm up; return how many iterations take about `seconds`."""
    _timed(contestant.prepare(contestant.unit))  # compiles
    iterations = contestant.unit
    for _ in range(2):  # a round that is too short says too little of the pace
        pace = _timed(contestant.prepare(iterations)) / iterations
        iterations = max(1, round(seconds / pace / contestant.unit)) * contestant.unit
    return iterations


def _timed(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _main():
    values = json.loads(sys.argv[1])
    # What libraries print must not come between the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer):
        print(json.dumps(answer), file=answers, flush=True)

    _serve(Spec(*values), sys.stdin, say)


if __name__ == "__main__":
    # Under its own name, so that what contestants import is this very module
    importlib.import_module("benchmarks.workers")._main()
