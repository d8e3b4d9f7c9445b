"""The run folder: its constants, its lock, and what may not happen to it."""

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from dcgan.common.console import UserError
from dcgan.runs.generators import NAMES, files_of, in_words, read_about

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


CONSTANTS = "constants.json"

LOCK = "lock"

# What a killed run may leave half-written
PART = re.compile(r"part-(\d+-.|(removed-)?checkpoint-\d)")


def sweep(run):
    """Remove what a killed run left half-written, in the folder of a run alone."""
    if not (Path(run) / CONSTANTS).exists():
        return
    for part in [*Path(run).glob("part-*"), *Path(run).glob("samples/part-*")]:
        if not PART.match(part.name):
            continue
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def compare(run, before, now):
    """Raise UserError if a run was begun with other values than `now`, both dicts.

    `before` is None for a new run.
    """
    changed = [
        f"{name} was {before.get(name)!r} and is {value!r}"
        for name, value in now.items()
        if before and before.get(name) != value
    ]
    if changed:
        raise UserError(
            f"{run} was begun differently: {'; '.join(changed)}. "
            f"Set it back, or start another run: --run {run}-2"
        )


@contextlib.contextmanager
def alone(run):
    """Keep a run folder to one training at a time, made if need be.

    Raises UserError if another process trains in it.
    """
    try:
        Path(run).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Cannot make {run}: {reason}. Another: --run NAME") from error
    if fcntl is None:
        yield
        return
    with open(Path(run) / LOCK, "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(_taken(run, lock)) from None
        except OSError as error:  # some network drives know no locks
            print(
                f"Cannot lock {run}: {error.strerror}. Two trainings in it at once "
                "would spoil both.",
                flush=True,
            )
        try:
            lock.truncate(0)
            lock.write(f"{os.getpid()} on {platform.node()}")
            lock.flush()
        except OSError as error:
            path = Path(run) / LOCK
            raise UserError(f"Cannot write {path}: {error.strerror}.") from None
        yield


@contextlib.contextmanager
def resting(run):
    """Keep trainings out of a run folder for a moment, and write nothing there.

    Raises UserError if something trains in it.
    """
    try:
        lock = open(Path(run) / LOCK, encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError:  # none ever trained here under this lock: a copy, maybe
        yield
        return
    with lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            who = _taken(run, lock).partition(".")[0]
            raise UserError(
                f"{who}. Stop that (Ctrl-C saves), then the same command."
            ) from None
        except OSError:  # some network drives know no locks
            pass
        yield


def _taken(run, lock):
    """Say who trains in a run folder; the one that holds the lock wrote it there."""
    lock.seek(0)
    who = lock.read(100).strip()
    process = f"Process {who}" if who else "Another process"
    return (
        f"{process} trains in {run}. Wait for it, or start another run: --run {run}-2"
    )


def check_writable(run):
    """Raise UserError if a run folder cannot be made or written there."""
    run = Path(run)
    nearest = next(path for path in (run, *run.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"Cannot write into {nearest}. Another folder: --run NAME")


def read_constants(run):
    """Return what constants.json of a run says, or None if the folder is new.

    It is {"constants", "begun_with"} and "changes", the list of branch.changes.
    Raises UserError if the folder is no run, or its constants.json cannot be read.
    """
    path = Path(run) / CONSTANTS
    if not path.exists():
        if Path(run).exists() and any(
            entry.name != LOCK and not entry.name.endswith(f"-{CONSTANTS}")
            for entry in Path(run).iterdir()
        ):
            raise UserError(f"{run} holds something else. Another folder: --run NAME")
        return None
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        read = {key: dict(about[key]) for key in ("constants", "begun_with")}
        return {**read, "changes": list(about.get("changes", []))}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read: {error!r}. Start anew: --run NAME"
        ) from None


def check_new(run, changes, origin):
    """Raise UserError if a run would begin anew over generators of more than an epoch.

    Their checkpoints were deleted, or have not come yet: copying from another run was
    broken off, and may be repeated from that `origin`. changes: as read_constants has.
    """
    epochs = max(map(_epochs_of, (files_of(run, which)[1] for which in NAMES)))
    copied = changes[-1]["epochs"] if changes else 0
    if epochs > max(1, copied if origin else 0):
        last = changes[-1]["from"] if epochs <= copied else ""
        raise UserError(
            f"{run} has a generator of {in_words(epochs)} and no checkpoint to go on "
            f"from. To begin anew: --run NAME"
            + (f", to copy {last} again: --from {last}" if last else "")
        )


def _epochs_of(path):
    try:
        return read_about(path)["epochs"]
    except UserError:
        return 0


def versions():
    """Return the versions of what a run depends on, and the suite's commit if known."""
    import importlib.metadata as metadata

    names = ("keras", "tensorflow", "jax", "torch", "numpy", "pillow")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "commit": _commit()}


def now():
    """Return the time as ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _commit():
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    here = Path(__file__).parents[2]
    try:
        asked = subprocess.run(command, cwd=here, capture_output=True, text=True)
    except OSError:
        return None
    return asked.stdout.strip() or None
