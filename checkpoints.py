"""Checkpoints: all that a stopped run needs to go on as if it had not been stopped."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np

from script import UserError, sha256, write_json, write_whole


def save(run, gan, progress, keep):
    """Save all that a resumed run needs as a folder `checkpoint-<iterations>`.

    `progress` is a JSON-able dict with at least "iterations". The newest `keep`
    checkpoints stay. Raises UserError if the disk refuses, FloatingPointError, and
    saves nothing, if a weight is not finite.
    """
    folder = Path(run) / f"checkpoint-{progress['iterations']:06d}"
    part = folder.with_name(f"part-{folder.name}")
    arrays = finite_arrays(gan)
    try:
        _remove(part)
        part.mkdir(parents=True)
        with write_whole(part / "weights.npz") as path, open(path, "wb") as file:
            np.savez(file, **arrays)
        written = {**progress, "sha256": sha256(part / "weights.npz")}
        write_json(part / "progress.json", written)
        _remove(folder)
        os.replace(part, folder)
    except OSError as error:
        raise UserError(f"Cannot write {folder}: {error.strerror or error}.") from error
    for old in folders(run)[:-keep]:
        _remove(old)


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

    A damaged checkpoint is named and the one before it taken. Raises UserError if
    there are checkpoints and all are damaged.
    """
    found = folders(run)
    for folder in reversed(found):
        try:
            return _read_checkpoint(folder, gan)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            print(f"{folder} is damaged ({error}); trying the one before it.")
    if found:
        raise UserError(f"All checkpoints in {run} are damaged. Start anew: --run NAME")
    return None


def folders(run):
    """Return the folders of a run's checkpoints, the oldest first."""
    return sorted(Path(run).glob("checkpoint-*"))


def _read_checkpoint(folder, gan):
    progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    if sha256(folder / "weights.npz") != progress.pop("sha256"):
        raise ValueError("weights.npz has another checksum than progress.json says")
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
