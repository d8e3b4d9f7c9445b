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

# The generators of a run: the best by its score, and the last
NAMES = {"best": "generator", "last": "generator-last"}

# The generator that came with the suite, beside this file
SHIPPED = "weights/celeba-28"


def save_generator(run, generator, about, which="best"):
    """Write the weights of a generator and its JSON, `about` plus their checksum.

    which: "best" or "last" of NAMES.
    """
    weights, path = _files(run, which)
    with write_whole(weights) as part:
        generator.save_weights(part)
        about = {**about, "sha256": sha256(part)}
    write_json(path, about)


def load_generator(run, which="best"):
    """Return a generator of a run folder, built anew, and what its JSON says of it.

    which: "best" or "last" of NAMES. Raises UserError if there is none, if it is
    damaged or of another size than its JSON says. A run that is just writing it is
    waited for.
    """
    weights, path = _files(run, which)
    if not path.is_file():
        last = "last " if which == "last" else ""
        raise UserError(f"No {last}generator in {run} yet. Train one: python train.py")
    for wait in (0.1, 0.5, 2.0, 0):  # between the two renames of save_generator
        about = _read_about(path)
        if _sha256_if_there(weights) == about["sha256"]:
            break
        time.sleep(wait)
    else:
        raise UserError(
            f"{weights} is damaged or was not written to its end: its checksum "
            f"is not the one in {path.name}. Continue or repeat the training of {run}."
        )
    width = about.get("width", 1.0)  # older ones do not say
    generator = models.build_generator(about["network"], about["image_size"], width)
    try:
        with warnings.catch_warnings():
            # What Keras finds no weights for it leaves as it is, and only warns
            warnings.simplefilter("error", UserWarning)
            generator.load_weights(weights)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        size = about["image_size"]
        raise UserError(
            f"{weights} does not hold a {about['network']} generator of "
            f"{size} x {size} faces, as {path.name} says. Train again: python train.py"
        ) from error
    return generator, about


def holds(run, epochs):
    """Tell whether the best generator of a run is whole and the one of that epoch."""
    weights, path = _files(run, "best")
    try:
        about = _read_about(path)
    except UserError:
        return False
    return about["epochs"] == epochs and about["sha256"] == _sha256_if_there(weights)


def _files(run, which):
    """Return the paths of a generator's weights and of its JSON."""
    name = NAMES[which]
    return Path(run) / f"{name}.weights.h5", Path(run) / f"{name}.json"


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
    data, scored = about["data"], about.get("score")
    score = f" ({about['scored_by']}: {scored:.5f})" if scored is not None else ""
    return (
        f"Generator from {folder}: {about['network']}, {about['image_size']} x "
        f"{about['image_size']}\nTrained on {data['count']:,} pictures of "
        f"{data['name']} for {about['epochs']} epochs{score}"
    )


def newest_run(folder):
    """Return the run in `folder` whose generator was saved last, or None."""
    found = Path(folder).glob(f"*/{NAMES['best']}*.json")
    begun = [path for path in found if path.with_name(ABOUT).exists()]
    newest = max(begun, key=lambda path: path.stat().st_mtime, default=None)
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
    """Draw the losses, D's accuracy, the samples' diversity and the scores over the
    epochs. Dashed lines are epochs with an alarm.
    """
    from matplotlib.figure import Figure  # takes a second that other scripts save
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    scored = next((name for name in ("kid", "mmd") if name in rows[0]), None)
    panels = 3 if scored else 2
    figure = Figure(figsize=(9, 3.5 * panels), layout="constrained")
    losses, shares, *more = all_axes = figure.subplots(panels, 1, sharex=True)
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
    shares.set(ylabel="share", ylim=(0, highest * 1.05))
    for axes in more:
        _draw_scores(axes, rows, scored, style)
    for axes in all_axes:
        _mark_alarms(axes, rows)
        axes.grid(alpha=0.3)
        axes.legend(loc="best", frameon=False)
    all_axes[-1].set(xlabel="epoch")
    all_axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def _draw_scores(axes, rows, name, style):
    """Draw the scores there are, the best of them named."""
    points = [(row["epoch"], row[name]) for row in rows if row[name] is not None]
    label = f"{name.upper()} of the averaged generator"
    axes.plot(*zip(*points, strict=True) if points else ((), ()), **style, label=label)
    axes.set(ylabel=f"{name.upper()}, less is better")
    if not points:
        return
    epoch, best = min(points, key=lambda point: point[1])
    label = f"the best: {best:.5f}, epoch {epoch}"
    axes.plot(epoch, best, "o", markersize=9, color="C2", fillstyle="none", label=label)
    if best > 0:  # around 0, where a score may be negative, there are no logarithms
        axes.set(yscale="log")


def _mark_alarms(axes, rows):
    for row in rows:
        if row.get("alarm"):
            axes.axvline(row["epoch"], color="C3", linestyle="--", linewidth=1)
    if any(row.get("alarm") for row in rows):
        axes.plot([], [], color="C3", linestyle="--", linewidth=1, label="alarm")


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
