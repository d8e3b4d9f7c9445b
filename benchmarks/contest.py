"""Contestants take turns: one works, the others wait, round after round."""

import contextlib
import importlib.util
import os
import statistics
import subprocess
import sys
from typing import NamedTuple

import preprocess
from benchmarks.workers import SUITE, Missing, Spec, Worker
from dcgan.common.console import UserError


class Result(NamedTuple):
    """What came out of the rounds of a contestant; rates are pictures a second."""

    spec: Spec
    rate: float  # the median
    lowest: float
    highest: float
    facts: dict  # parameters, device, work
    epoch_end: float = 0.0  # seconds that train.py takes between two epochs


def compete(specs, rounds, epoch_ends=False, at_once=False):
    """Let the contestants {name: Spec} take turns for so many rounds.

    Returns {name: Result} and {name: reason} of those that cannot run here. With
    `epoch_ends`, what train.py does at the end of an epoch is timed too. at_once: all
    compile together first. Says on stderr who is at work.
    """
    with contextlib.ExitStack() as stack:
        field = _Field(stack)
        # All start at once. On a CPU they warm up one after the other, as they will
        # work; where there is a GPU most of it is compiling, and that on the CPU
        for name, spec in specs.items():
            field.start(name, spec)
        if at_once:
            field.ask_all("all of them: compiling", "compile")
        facts = field.ask_each("warming up", "warm up")
        answers = [
            field.ask_each(f"round {number + 1} of {rounds}", "round", 0)
            for number in range(rounds)
        ]
        suite = [name for name in specs if specs[name].contestant == "train.py"]
        asked = suite if epoch_ends else ()
        for doing in ("first epoch's end", "epoch's end"):  # the first compiles
            ends = field.ask_each(doing, "finish", asked=asked)
    results = {}
    for name in field.workers:
        rates = [
            answer[name]["pictures"] / answer[name]["seconds"] for answer in answers
        ]
        span = (statistics.median(rates), min(rates), max(rates))
        end = ends.get(name, {"seconds": 0.0})["seconds"]
        results[name] = Result(specs[name], *span, facts[name], end)
    return results, field.missing


class _Field:
    """The workers that run, and why the others do not."""

    def __init__(self, stack):
        self.stack, self.workers, self.missing = stack, {}, {}

    def start(self, name, spec):
        try:
            self.workers[name] = Worker(spec)
            self.stack.callback(self.workers[name].stop)
        except Missing as reason:
            self.missing[name] = str(reason)

    def ask_all(self, doing, *message):
        """Send a message to all, and wait until all have answered."""
        print(doing, file=sys.stderr, flush=True)
        for worker in self.workers.values():
            worker.tell(*message)
        self._answers(list(self.workers), lambda name: self.workers[name].hear())

    def ask_each(self, doing, *message, asked=None):
        """Send a message to one after the other; return the answers {name: answer}."""
        asked = self.workers if asked is None else asked

        def ask(name):
            print(f"{name}: {doing}", file=sys.stderr, flush=True)
            return self.workers[name].ask(*message)

        return self._answers([name for name in self.workers if name in asked], ask)

    def _answers(self, names, get):
        answers = {}
        for name in names:
            try:
                answers[name] = get(name)
            except Missing as reason:
                self.missing[name] = str(reason)
                del self.workers[name]
        return answers


def memory_over(spec, calls, steps, readings=10):
    """Return [(calls so far, MB of memory of its own)] of a contestant's process.

    Raises Missing if it cannot run here.
    """
    with contextlib.ExitStack() as stack:
        worker = Worker(spec)
        stack.callback(worker.stop)
        worker.ask("warm up")
        share = -(-calls // readings)
        return [
            (number * share, worker.ask("round", share * steps)["memory"])
            for number in range(1, readings + 1)
        ]


def draw_faces(folder, image_size, pictures):
    """Make an array of cartoons in the folder, as train.py does; return its path."""
    with contextlib.redirect_stdout(sys.stderr):
        return str(
            preprocess.prepare("cartoons", image_size, pictures, folder=folder).path
        )


def find_device(backend):
    """Return describe_device()'s line. Raises UserError if the backend is missing."""
    if not importlib.util.find_spec(backend):
        raise UserError(
            f"{backend} is not installed. KERAS_BACKEND names another backend: "
            "KERAS_BACKEND=jax python -m benchmarks.training"
        )
    code = "from dcgan.training import hardware; print(hardware.describe_device())"
    environment = {**os.environ, "KERAS_BACKEND": backend}
    asked = subprocess.run(
        [sys.executable, "-c", code],
        cwd=SUITE,
        env=environment,
        capture_output=True,
        text=True,
    )
    if asked.returncode:
        lines = asked.stderr.strip().splitlines() or ["no reason given"]
        raise UserError(f"{backend} does not start: {lines[-1]}")
    return asked.stdout.strip().splitlines()[-1]
