"""The run folder: constants, log, sheets, and the generator that generate.py loads.

Whatever another script reads appears whole, by rename.
"""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import models
from helper import grid
from script import UserError, sha256, write_json, write_whole

GENERATOR = "generator.weights.h5"
ABOUT = "generator.json"
CONSTANTS = "constants.json"

# The generator that came with the suite, beside this file
SHIPPED = "weights/celeba-28"


def save_generator(run, generator, about):
    """Write generator.weights.h5 and generator.json, `about` plus its checksum."""
    path = Path(run) / GENERATOR
    with write_whole(path) as part:
        generator.save_weights(part)
        about = {**about, "sha256": sha256(part)}
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
            f"{run / GENERATOR} is damaged or was not written to its end: its checksum "
            f"is not the one in {ABOUT}. Continue or repeat the training of {run}."
        )
    generator = models.build_generator(about["network"], about["image_size"])
    try:
        with warnings.catch_warnings():
            # What Keras finds no weights for it leaves as it is, and only warns
            warnings.simplefilter("error", UserWarning)
            generator.load_weights(run / GENERATOR)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        size = about["image_size"]
        raise UserError(
            f"{run / GENERATOR} does not hold a {about['network']} generator of "
            f"{size} x {size} faces, as {ABOUT} says. Train again: python train.py"
        ) from error
    return generator, about


def _read_about(path):
    wanted = {"network": str, "image_size": int, "latent": int, "sha256": str}
    wanted |= {"epochs": int, "data": dict}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        wrong = [key for key, kind in wanted.items() if type(about[key]) is not kind]
        if about["latent"] != models.LATENT:
            wrong.append("latent")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error!r}. Train again.") from error
    if wrong:
        raise UserError(f"{path} has a wrong {wrong[0]}. Train again: python train.py")
    models.check_size(about["network"], about["image_size"])
    return about


def sweep(run):
    """Remove what a killed run left half-written."""
    for part in [*Path(run).glob("part-*"), *Path(run).glob("samples/part-*")]:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def choose(run):
    """Return the folder of the generator that is meant: `run`, or if that is "" the
    newest one in runs/, or else the one that came with the suite.
    """
    if run:
        return Path(run)
    return newest_run("runs") or Path(__file__).parent / SHIPPED


def describe(folder, about):
    """Say in a line or two which weights these are and what they were trained on."""
    data = about["data"]
    return (
        f"Generator from {folder}: {about['network']}, {about['image_size']} x "
        f"{about['image_size']}\nTrained on {data['count']:,} pictures of "
        f"{data['name']} for {about['epochs']} epochs"
    )


def newest_run(folder):
    """Return the run in `folder` whose generator was saved last, or None."""
    found = Path(folder).glob(f"*/{ABOUT}")
    newest = max(found, key=lambda path: path.stat().st_mtime, default=None)
    return newest.parent if newest else None


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
    lock = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UserError(
            f"Another process trains in {run}. Wait for it, or start another run: "
            f"--run {run}-2"
        ) from None
    try:
        yield
    finally:
        os.close(lock)


def check_writable(run):
    """Raise UserError if a run folder cannot be made or written there."""
    run = Path(run)
    nearest = next(path for path in (run, *run.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"Cannot write into {nearest}. Another folder: --run NAME")


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
        about = json.loads(path.read_text(encoding="utf-8"))
        return {key: dict(about[key]) for key in ("constants", "begun_with")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read: {error!r}. Start anew: --run NAME"
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
    return datetime.now(UTC).isoformat(timespec="seconds")


def _commit():
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    here = Path(__file__).parent
    try:
        asked = subprocess.run(command, cwd=here, capture_output=True, text=True)
    except OSError:
        return None
    return asked.stdout.strip() or None


def _sha256_if_there(path):
    try:
        return sha256(path)
    except OSError:
        return None
