"""Checkpoints: all that a stopped run needs to go on as if it had not been stopped."""

import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np

from dcgan.common.console import UserError
from dcgan.common.files import DAMAGE, replace, sha256, write_json, write_whole


def save(run, gan, progress, keep):
    """Save all that a resumed run needs as a folder `checkpoint-<iterations>`.

    `progress` is a JSON-able dict with at least "iterations". The newest `keep`
    checkpoints stay, and the newest of an epoch's end, from which another run may go
    on (branch.py). Raises UserError if the disk refuses, FloatingPointError, and saves
    nothing, if a weight is not finite.
    """
    folder = Path(run) / f"checkpoint-{progress['iterations']:06d}"
    part = folder.with_name(f"part-{folder.name}")
    arrays = finite_arrays(gan)
    try:
        _remove(part)
        part.mkdir(parents=True)
        with write_whole(part / "weights.npz") as path, open(path, "wb") as file:
            np.savez(file, **arrays)
        write_progress(part, progress)
        _remove(folder)
        replace(part, folder)
        for old in condemned(run, keep):
            _remove(old)
    except OSError as error:
        megabytes = sum(array.nbytes for array in arrays.values()) / 1e6
        raise UserError(
            f"Cannot write {folder}: {error.strerror or error}. "
            f"It takes {megabytes:,.0f} MB. The same command goes on from the last one."
        ) from error


def write_progress(folder, progress):
    """Write progress.json beside the weights of a checkpoint's folder."""
    written = {"progress": progress, "checksum": _checksum(folder, progress)}
    write_json(folder / "progress.json", written)


def condemned(run, keep):
    """Return the folders of the checkpoints that need not stay; save() tells which."""
    old = folders(run)[:-keep]
    ends = [folder for folder in folders(run) if _ends_epoch(folder)]
    return [folder for folder in old if folder not in ends[-1:]]


def _ends_epoch(folder):
    try:
        written = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        return not written["progress"]["iteration"]
    except DAMAGE:
        return False


def check_room(run, gan, keep):
    """Raise UserError where the disk has no room for the checkpoints that will stay."""
    size = sum(4 * math.prod(array.shape) for array in _variables(gan).values())
    # While one is written, the oldest is there still; generators take less than one
    needed = size * max(2, keep + 3 - len(folders(run)))
    free = shutil.disk_usage(run).free
    if free < needed:
        raise UserError(
            f"{run} needs {needed / 1e6:,.0f} MB for checkpoints, and the disk has "
            f"{free / 1e6:,.0f} MB free. Make room, or another place: --run FOLDER"
        )


def finite_arrays(gan):
    """Return {name: array} of all that training changes.

    Raises FloatingPointError, naming the network, if a number is not finite.
    """
    arrays = {name: variable.numpy() for name, variable in _variables(gan).items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise FloatingPointError(f"a weight of {name.split('.')[0]} is not finite")
    return arrays


def load(run, gan):
    """Load the newest whole checkpoint into `gan`; return its progress, or None.

    A damaged checkpoint is named and the one before it taken; the damaged one is then
    called damaged-..., so that it counts no more. Raises UserError if there are
    checkpoints and all are damaged.
    """
    damaged = []
    for folder in reversed(folders(run)):
        try:
            progress = _read_checkpoint(folder, gan)
        except DAMAGE as error:
            print(f"{folder} is damaged ({error}); trying the one before it.")
            damaged.append(folder)
            continue
        for refused in damaged:
            _remove(refused.with_name(f"damaged-{refused.name}"))
            os.replace(refused, refused.with_name(f"damaged-{refused.name}"))
        return progress
    if damaged:
        raise UserError(f"All checkpoints in {run} are damaged. Start anew: --run NAME")
    return None


def folders(run):
    """Return the folders of a run's checkpoints, the oldest first."""
    found = {
        int(folder.name.removeprefix("checkpoint-")): folder
        for folder in Path(run).glob("checkpoint-*")
        if folder.name.removeprefix("checkpoint-").isdecimal()
    }
    return [found[iterations] for iterations in sorted(found)]


def read_progress(folder):
    """Return the progress that a checkpoint's folder holds.

    Raises an error out of script.DAMAGE if anything of the checkpoint is damaged.
    """
    written = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    progress = written["progress"]
    if written["checksum"] != _checksum(folder, progress):
        raise ValueError("its checksum is wrong")
    return progress


def _read_checkpoint(folder, gan):
    progress = read_progress(folder)
    variables = _variables(gan)
    with np.load(folder / "weights.npz", allow_pickle=False) as arrays:
        if set(arrays.files) != set(variables):
            raise ValueError("it holds other variables than this network has")
        read = {name: arrays[name] for name in variables}
    for name, variable in variables.items():
        if read[name].shape != tuple(variable.shape):
            raise ValueError(f"{name} has another shape than in this network")
    for name, variable in variables.items():
        variable.assign(read[name])
    return progress


def _checksum(folder, progress):
    """Return one checksum of the weights in a checkpoint's folder and its progress."""
    words = json.dumps(progress, sort_keys=True) + sha256(folder / "weights.npz")
    return hashlib.sha256(words.encode()).hexdigest()


def _variables(gan):
    """Name every variable that training changes, dropout's counters included."""
    groups = {
        "generator": gan.generator.variables,
        "discriminator": gan.discriminator.variables,
        "average": gan.average.variables,
        "d_optimizer": gan.judge.optimizer.variables,
        "g_optimizer": gan.d_on_g.optimizer.variables,
    }
    return {
        f"{group}.{number:03d}": variable
        for group, variables in groups.items()
        for number, variable in enumerate(variables)
    }


def _remove(folder):
    """Delete a folder such that a kill half-way leaves none under its own name."""
    if folder.exists():
        condemned = folder.with_name(f"part-removed-{folder.name}")
        shutil.rmtree(condemned, ignore_errors=True)
        os.replace(folder, condemned)
        shutil.rmtree(condemned)
