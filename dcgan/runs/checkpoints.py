"""Checkpoints: all that a stopped run needs to go on as if it had not been stopped.

Each is one file, checkpoint-<iterations>.npz: the arrays of all that training changes,
and the progress as JSON. A zip has a checksum of each of them. Older runs have a folder
in its place, with a weights.npz and a progress.json.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np

from dcgan.common.console import UserError
from dcgan.common.files import DAMAGE, sha256, write_whole
from dcgan.runs import folder, generators

PROGRESS = "progress"  # the name of the JSON among the arrays

# What the system says of a damaged file; all else, that it is not to be had for now
DAMAGED = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)


def save(run, arrays, progress, keep):
    """Save all that a resumed run needs.

    arrays: as finite_arrays() gives them; `progress` is a JSON-able dict with at least
    "iterations". The newest `keep` checkpoints stay, and of those of an epoch's end,
    from which another run may go on (fork.py), the newest and those whose generator was
    kept. Raises UserError if the disk refuses.
    """
    path = path_of(run, progress)
    try:
        write(path, arrays, progress)
        _remove(path.with_suffix(""))  # an older run's, of the same iterations
        for old in superseded(run, keep):
            _remove(old)
    except UserError as error:
        megabytes = sum(array.nbytes for array in arrays.values()) / 1e6
        raise UserError(
            f"{error} It takes {megabytes:,.0f} MB. The same command goes on from the "
            "last one."
        ) from error


def path_of(run, progress):
    """Return the path of the checkpoint of a progress, a dict."""
    return Path(run) / f"checkpoint-{progress['iterations']:06d}.npz"


def write(path, arrays, progress):
    """Write one checkpoint, whole or not at all."""
    with write_whole(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays, **{PROGRESS: np.array(json.dumps(progress))})


def superseded(run, keep):
    """Return the paths of the checkpoints that need not stay; save() tells which."""
    epochs = {path: ended_epoch(path) for path in paths(run)}
    kept = (None, *generators.kept(run))
    stay = {path for path, epoch in epochs.items() if epoch in kept}
    stay.update([path for path, epoch in epochs.items() if epoch][-1:])
    return [path for path in list(epochs)[:-keep] if path not in stay]


def ended_epoch(path):
    """Return the number of the epoch at whose end a checkpoint was saved, or 0; None
    if it cannot be read for now.
    """
    try:
        progress = _progress_in(path)
        return 0 if progress["iteration"] else progress["epoch"] - 1
    except DAMAGE as error:
        return None if _is_refused(error) else 0


def _is_refused(error):
    """Tell whether a file is not to be had for now, rather than damaged."""
    return isinstance(error, OSError) and error.errno not in DAMAGED


def check_room(run, gan, keep, kept=0):
    """Raise UserError where the disk has no room for the checkpoints that will stay.

    kept: how many epochs of the run will have a checkpoint and a generator that stay.
    """
    size = sum(4 * math.prod(array.shape) for array in _variables(gan).values())
    # While one is written, the oldest is there still; generators take less than one
    needed = size * max(2, keep + 3 + kept - len(paths(run)))
    # A checkpoint has three times the weights of both networks, and the average
    needed += size / 4 * max(0, kept - len(generators.kept(run)))
    free = shutil.disk_usage(run).free
    if free < needed:
        more = ", a larger --keep-every" if kept else ""
        raise UserError(
            f"{run} needs {needed / 1e6:,.0f} MB for checkpoints, and the disk has "
            f"{free / 1e6:,.0f} MB free. Make room{more}, or another place: "
            "--run FOLDER"
        )


def finite_arrays(gan):
    """Return {name: array} of all that training changes, copied.

    Raises FloatingPointError, naming the network, if a number is not finite.
    """
    arrays = {
        name: np.array(variable.numpy()) for name, variable in _variables(gan).items()
    }
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
    damaged, variables = [], _variables(gan)
    for path in reversed(paths(run)):
        try:
            arrays, progress = _read_fitting(path, variables)
        except DAMAGE as error:
            print(f"{path} is damaged ({error}); trying the one before it.")
            damaged.append(path)
            continue
        for name, variable in variables.items():
            variable.assign(arrays[name])
        for refused in damaged:
            aside = refused.with_name(f"damaged-{refused.name}")
            _remove(aside)
            os.replace(refused, aside)
        return progress
    if damaged:
        raise UserError(f"All checkpoints in {run} are damaged. Start anew: --run NAME")
    return None


def _read_fitting(path, variables):
    arrays, progress = read(path)
    if arrays.keys() != variables.keys():
        raise ValueError("it holds other variables than this network has")
    for name, variable in variables.items():
        if arrays[name].shape != tuple(variable.shape):
            raise ValueError(f"{name} has another shape than in this network")
        if arrays[name].dtype.kind not in "fiub":
            raise ValueError(f"{name} has something else than numbers in it")
    return arrays, progress


def paths(run):
    """Return the paths of a run's checkpoints, the oldest first."""
    numbered = {
        int(name[1]): path
        for path in sorted(Path(run).glob("checkpoint-*"))  # a file after its folder
        if (name := folder.CHECKPOINT.fullmatch(path.name))
    }
    return [numbered[iterations] for iterations in sorted(numbered)]


def read(path):
    """Return what a checkpoint holds: {name: array}, and the progress.

    Raises an error out of files.DAMAGE if anything of it is damaged, and UserError if
    it cannot be read for now.
    """
    try:
        return _read(path)
    except OSError as error:
        if not _is_refused(error):
            raise
        raise UserError(
            f"Cannot read {path}: {error.strerror}. Once it can be read, the same "
            "command goes on."
        ) from error


def _read(path):
    progress = _progress_in(path)
    if path.is_dir():
        checksum = sha256(path / "weights.npz")
        written = json.loads((path / "progress.json").read_text(encoding="utf-8"))
        if "progress" in written:
            words = json.dumps(progress, sort_keys=True) + checksum
            checksum = hashlib.sha256(words.encode()).hexdigest()
        if checksum not in (written.get("checksum"), written.get("sha256")):
            raise ValueError("its checksum is wrong")
        path = path / "weights.npz"
    with zipfile.ZipFile(path) as file:  # an array's head is read before its end is
        if file.testzip():
            raise ValueError("its checksum is wrong")
    with np.load(path, allow_pickle=False) as arrays:
        read = {name: arrays[name] for name in arrays.files if name != PROGRESS}
    return read, progress


def read_network(path, name="average"):
    """Return a network in a checkpoint: its arrays, and facts of its generator.

    name: "average", of the generator, or "discriminator". The facts are those of
    generators.read() that its run's constants.json knows. Raises UserError if that is
    not beside it, or the checkpoint is damaged.
    """
    if not path.exists() or not (path.parent / folder.CONSTANTS).is_file():
        lacks = f"its run's {folder.CONSTANTS} is not beside it"
        raise UserError(
            f"Cannot draw from {path}: {lacks if path.exists() else 'it is not there'}."
        )
    written = folder.read_constants(path.parent)
    constants, begun_with = written["constants"], written["begun_with"]
    try:
        arrays, progress = read(path)
        checksum = sha256(path if path.is_file() else path / "weights.npz")
        names = sorted(each for each in arrays if each.startswith(f"{name}."))
        facts = {
            **{name: constants[name.upper()] for name in generators.SHAPED_BY},
            **{"epochs": progress["epoch"] - 1, "averaged": True, "sha256": checksum},
            "data": {"name": Path(constants["DATA"]).name, "source": constants["DATA"]}
            | {name: begun_with[name] for name in ("count", "checksum")},
            "constants": constants,
        }
    except DAMAGE as error:
        raise UserError(f"{path} is damaged ({error}). Take an older one.") from error
    return [arrays[name] for name in names], facts


def _progress_in(path):
    """Return the progress in a checkpoint, the rest of which is not looked at."""
    if path.is_dir():
        written = json.loads((path / "progress.json").read_text(encoding="utf-8"))
        # The first runs had a checksum of the weights alone, among the progress
        return dict(written["progress"] if "sha256" not in written else written)
    with np.load(path, allow_pickle=False) as arrays:
        return dict(json.loads(str(arrays[PROGRESS])))


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


def _remove(path):
    """Delete a file or, of an older run, a folder: under its own name all at once."""
    if path.is_dir():
        part = path.with_name(f"part-removed-{path.name}")
        shutil.rmtree(part, ignore_errors=True)
        os.replace(path, part)
        shutil.rmtree(part)
    else:
        path.unlink(missing_ok=True)
