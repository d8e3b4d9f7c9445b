"""How a campaign of faults counts, and the folder and processes that it works with."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

SUITE = Path(__file__).parent.parent.parent
ARMED = Path(__file__).parent / "armed"


class Campaign(NamedTuple):
    """A kind of fault: what it is called, how it is tried, and how often.

    trial(tally, number, folder): one trial in an empty folder; its number seeds all
    that it leaves to chance, so that a trial can be had again alone.
    """

    name: str
    trial: Callable
    long: int
    short: int


class Tally:
    """What the trials of a campaign came to.

    faults: how many were injected; lost, wrong: a line for each loss of data and each
    wrong result; longest: seconds of the longest recovery.
    """

    def __init__(self):
        self.trials, self.faults, self.longest = 0, 0, 0.0
        self.lost, self.wrong = [], []

    def lose(self, line):
        """Note that something was lost that was there before the fault."""
        self.lost.append(line)

    def mistake(self, line):
        """Note a wrong result: other bytes, a traceback, a stray file, or worse."""
        self.wrong.append(line)

    def expect(self, is_so, line):
        """Note a mistake unless `is_so`; return whether it is."""
        if not is_so:
            self.mistake(line)
        return is_so

    @contextlib.contextmanager
    def recovery(self):
        """Time what leads from a fault back to what was wanted."""
        began = time.monotonic()
        yield
        self.longest = max(self.longest, time.monotonic() - began)


def start(script, *options, cwd, **more):
    """Start a script of the suite, or python with other words, as a process."""
    words = [str(SUITE / script)] if script.endswith(".py") else [script]
    command = [sys.executable, *words, *map(str, options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pipes |= {name: more.pop(name) for name in ("stdout", "stderr") if name in more}
    environment = {**os.environ, "PYTHONPATH": str(SUITE), **more.pop("env", {})}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes, **more)


def deadly_at(count):
    """Return the environment in which a process dies at its `count`-th file change."""
    return {"PYTHONPATH": f"{ARMED}{os.pathsep}{SUITE}", "FAULT_AT": str(count)}


def finish(process, seconds=300):
    """Wait for a process; return (exit code, its stdout, its stderr)."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        return "hung", out, err
    return process.returncode, out, err


def is_one_clear_error(code, err):
    """Tell whether a process ended as by a user's error: code 1 and no traceback."""
    return code == 1 and "Traceback" not in err and bool(err.strip())
