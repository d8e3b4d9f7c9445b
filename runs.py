"""The run folder: checkpoints, log, sheets, and the generator that generate.py loads.

Whatever another script reads appears whole, by rename.
"""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import time
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

import models
from helper import grid
from script import UserError, write_whole

GENERATOR = "generator.weights.h5"
ABOUT = "generator.json"
CONSTANTS = "constants.json"


def save_checkpoint(run, gan, progress, keep):
    """Save all that a resumed run needs as a folder `checkpoint-<iterations>`.

    `progress` is a JSON-able dict with at least "iterations". The newest `keep`
    checkpoints stay. Raises UserError if the disk refuses, FloatingPointError, and
    saves nothing, if a weight is not finite.
    """
    folder = Path(run) / f"checkpoint-{progress['iterations']:06d}"
    part = folder.with_name(f"part-{folder.name}")
    arrays = {name: variable.numpy() for name, variable in _variables(gan).items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise FloatingPointError("a weight is not a finite number")
    try:
        _remove(part)
        part.mkdir(parents=True)
        with write_whole(part / "weights.npz") as path, open(path, "wb") as file:
            np.savez(file, **arrays)
        written = {**progress, "sha256": _sha256(part / "weights.npz")}
        write_json(part / "progress.json", written)
        _remove(folder)
        os.replace(part, folder)
    except OSError as error:
        raise UserError(f"Cannot write {folder}: {error.strerror or error}.") from error
    for old in checkpoints(run)[:-keep]:
        _remove(old)


def load_checkpoint(run, gan):
    """Load the newest whole checkpoint into `gan`; return its progress, or None.

    A damaged checkpoint is named and the one before it taken. Raises UserError if
    there are checkpoints and all are damaged.
    """
    folders = checkpoints(run)
    for folder in reversed(folders):
        try:
            return _read_checkpoint(folder, gan)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            print(f"{folder} is damaged ({error}); trying the one before it.")
    if folders:
        raise UserError(f"All checkpoints in {run} are damaged. Start anew: --run NAME")
    return None


def checkpoints(run):
    """Return the folders of a run's checkpoints, the oldest first."""
    return sorted(Path(run).glob("checkpoint-*"))


def _read_checkpoint(folder, gan):
    progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    if _sha256(folder / "weights.npz") != progress.pop("sha256"):
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


def save_generator(run, generator, about):
    """Write generator.weights.h5 and generator.json, `about` plus its checksum."""
    path = Path(run) / GENERATOR
    with write_whole(path) as part:
        generator.save_weights(part)
        about = {**about, "sha256": _sha256(part)}
    write_json(Path(run) / ABOUT, about)


def load_generator(run):
    """Return the generator of a run folder, built anew, and what its JSON says of it.

    Raises UserError if there is none, if it is damaged or of another size than its
    JSON says. A run that is just writing it is waited for.
    """
    run = Path(run)
    if not (run / ABOUT).is_file():
        raise UserError(f"No generator in {run} yet. Train one: python train.py")
    for wait in (0.1, 0.5, 2.0, 0):  # between the two renames of save_generator
        about = _read_about(run / ABOUT)
        if _sha256_if_there(run / GENERATOR) == about["sha256"]:
            break
        time.sleep(wait)
    else:
        raise UserError(
            f"{run / GENERATOR} is damaged: its checksum is not the one in {ABOUT}. "
            "Train again, or fetch it again."
        )
    generator = models.build_generator(about["network"], about["image_size"])
    try:
        generator.load_weights(run / GENERATOR)
    except (ValueError, OSError, KeyError) as error:
        size = about["image_size"]
        raise UserError(
            f"{run / GENERATOR} does not hold a {about['network']} generator of "
            f"{size} x {size} faces, as {ABOUT} says. Train again: python train.py"
        ) from error
    return generator, about


def _read_about(path):
    wanted = {"network": str, "image_size": int, "sha256": str}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        wrong = [key for key, kind in wanted.items() if type(about[key]) is not kind]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error!r}. Train again.") from error
    if wrong:
        raise UserError(f"{path} has a wrong {wrong[0]}. Train again: python train.py")
    models.check_size(about["network"], about["image_size"])
    return about


def newest_run(folder):
    """Return the run in `folder` whose generator was saved last, or None."""
    found = Path(folder).glob(f"*/{ABOUT}")
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return newest.parent if newest else None


def check_writable(run):
    """Raise UserError if a run folder cannot be made or written there."""
    run = Path(run)
    nearest = next(path for path in (run, *run.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"Cannot write into {nearest}. Another folder: --run NAME")


def write_json(path, content):
    """Write a dict as JSON, whole or not at all."""
    with write_whole(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_constants(run):
    """Return what constants.json of a run says, or None if the folder is new.

    Raises UserError if the folder is no run, or its constants.json cannot be read.
    """
    path = Path(run) / CONSTANTS
    if not path.exists():
        if Path(run).exists() and any(
            not entry.name.startswith("part-") for entry in Path(run).iterdir()
        ):
            raise UserError(f"{run} holds something else. Another folder: --run NAME")
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. Start anew: --run NAME"
        ) from None


def save_sheet(run, epoch, faces):
    """Write samples/epoch-001.png: faces (n, S, S, 3) uint8, ten a row."""
    with write_whole(Path(run) / "samples" / f"epoch-{epoch:03d}.png") as part:
        grid(faces, columns=10, scale=max(1, round(84 / faces.shape[1]))).save(part)


def save_log(run, rows):
    """Write log.csv, a row per epoch, and losses.png."""
    with (
        write_whole(Path(run) / "log.csv") as part,
        open(part, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with write_whole(Path(run) / "losses.png") as part:
        draw_losses(rows).savefig(part, dpi=110)


def draw_losses(rows):
    """Draw the losses, D's accuracy and the samples' diversity over the epochs."""
    from matplotlib.figure import Figure  # takes a second that other scripts save
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    losses, shares = figure.subplots(2, 1, sharex=True)
    style = {"marker": "o", "markersize": 3}
    losses.plot(epochs, [row["d_loss"] for row in rows], **style, label="discriminator")
    losses.plot(epochs, [row["g_loss"] for row in rows], **style, label="generator")
    losses.axhline(np.log(2), color="0.6", linestyle=":", label="D cannot tell (ln 2)")
    losses.set(title="Losses, mean of each epoch", ylabel="loss", ylim=(0, None))
    for name, label in {
        "real_accuracy": "D right on real faces",
        "fake_accuracy": "D right on fake faces",
        "diversity": "samples' diversity, against real faces'",
    }.items():
        shares.plot(epochs, [row[name] for row in rows], **style, label=label)
    highest = max(1, *(row["diversity"] for row in rows))
    shares.set(xlabel="epoch", ylabel="share", ylim=(0, highest * 1.05))
    shares.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for axes in (losses, shares):
        axes.grid(alpha=0.3)
        axes.legend(loc="best", frameon=False)
    return figure


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
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _commit():
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    here = Path(__file__).parent
    try:
        asked = subprocess.run(command, cwd=here, capture_output=True, text=True)
    except OSError:
        return None
    return asked.stdout.strip() or None


def _sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _sha256_if_there(path):
    try:
        return _sha256(path)
    except OSError:
        return None
