"""The run folder: its constants.json, its lock, and what a killed run left in it."""

import contextlib
import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from dcgan.common.console import UserError
from dcgan.common.files import LockedError, locked
from dcgan.common.options import typed

CONSTANTS = "constants.json"

LOCK = "lock"

CHECKPOINT = re.compile(r"checkpoint-(\d+)(\.npz)?")

# Constants that older runs do not have, and what they are in these. Whoever adds one
# that may not change to train.py adds it here, too
ADDED = {
    **{"SCORE_SAMPLES": 2000, "WIDTH": 1.0, "D_NORM": "batch", "R1": 0.0},
    **{"LOSS": "cross-entropy", "AUGMENT": "", "FROM": "", "D_STEPS": 1, "G_STEPS": 1},
    **{"LEARNING_RATE_HALF_LIFE": 0.0, "LEARNING_RATE_HOLD": 0.0},
    **{"FIT": "crop", "CHANNELS": 3},
}

# Those that may change when a run is continued: they change its rounding at most
FREE = (
    *("DATA", "DATA_FOLDER", "EPOCHS", "RUN", "STEPS_PER_CALL", "DEVICES"),
    *("CHECKPOINT_MINUTES", "KEEP_CHECKPOINTS", "KEEP_EVERY"),
    # Or what is told, not the weights
    *("SCORE", "SCORE_EVERY", "STOP_ON_COLLAPSE", "EPOCH_END_SHARE", "TENSORBOARD"),
    "PRECISION",  # what "auto" comes to may not
)

# Those that may differ between the processes of a run
OWN = (
    *("DATA", "DATA_FOLDER", "RUN", "FROM"),
    *("CHECKPOINT_MINUTES", "KEEP_CHECKPOINTS", "KEEP_EVERY"),
)

# As ADDED, of what else a run was begun with
BEGUN_WITH = {"backend": "tensorflow", "precision": "float32", "score": "none"}

# What a killed run may leave half-written
PART = re.compile(r"part-(\d+-.|(removed-)?checkpoint-\d)")


def read_constants(run):
    """Return what constants.json of a run says, or None if the folder is new.

    It is {"constants", "begun_with"} and "changes", the list of fork.changes, with all
    that runs of older versions do not tell.
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
        written = json.loads(path.read_text(encoding="utf-8"))
        told = "begun_with" if "begun_with" in written else "pictures"
        constants, begun_with = dict(written["constants"]), dict(written[told])
        older = {**BEGUN_WITH, "batch_size": constants.get("BATCH_SIZE")}
        return {
            "constants": {**ADDED, **constants},
            "begun_with": {**older, **begun_with},
            "changes": list(written.get("changes", [])),
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read: {error!r}. Start anew: --run NAME"
        ) from None


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
            f"Set it back, or start another run: {typed(run=f'{run}-2')}"
        )


@contextlib.contextmanager
def training(run):
    """Keep a run folder to one training at a time, made if need be.

    Raises UserError if another process trains in it.
    """
    try:
        Path(run).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Cannot make {run}: {reason}. Another: --run NAME") from error
    try:
        with locked(Path(run) / LOCK):
            yield
    except LockedError as error:
        raise UserError(
            f"{error} trains in {run}. Wait for it, or start another run: "
            f"{typed(run=f'{run}-2')}"
        ) from None


@contextlib.contextmanager
def resting(run):
    """Keep trainings out of a run folder for a moment, and write nothing there.

    Raises UserError if something trains in it.
    """
    try:
        with locked(Path(run) / LOCK, shared=True):
            yield
    except LockedError as error:
        raise UserError(
            f"{error} trains in {run}. Stop that (Ctrl-C saves), then the same command."
        ) from None


def check_writable(run):
    """Raise UserError if a run folder cannot be made or written there."""
    run = Path(run)
    nearest = next(path for path in (run, *run.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"Cannot write into {nearest}. Another folder: --run NAME")


def check_there(run):
    """Raise UserError if the run folder was taken away: another could not go on."""
    if not (Path(run) / CONSTANTS).exists():
        raise UserError(
            f"{run} was removed or renamed during the training. Put it back, and "
            "the same command goes on from its last checkpoint."
        )


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


def versions():
    """Return the versions of what a run depends on, and the suite's commit if known."""
    import importlib.metadata as metadata

    names = ("keras", "tensorflow", "jax", "torch", "numpy", "pillow")
    installed = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return {**installed, "commit": _commit()}


def now():
    """Return the time as ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _commit():
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    suite = Path(__file__).parents[2]
    try:
        asked = subprocess.run(command, cwd=suite, capture_output=True, text=True)
    except OSError:
        return None
    return asked.stdout.strip() or None
