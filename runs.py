"""The run folder: constants, log, sheets, and the generator that generate.py loads.

Whatever another script reads appears whole, by rename.
"""

import contextlib
import csv
import errno
import json
import math
import os
import platform
import re
import shutil
import subprocess
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

import h5py
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
LOCK = "lock"

# The generators of a run: the best by its score, and the last
NAMES = {"best": "generator", "last": "generator-last"}
ENDS = ("weights.h5", "json")

# Columns of the log, one of which a run may have
SCORES = ("kid", "mmd")

# What a killed run may leave half-written
PART = re.compile(r"part-(\d+-.|(removed-)?checkpoint-\d)")

# Bytes: no array of a generator is as large
LARGEST = 2**30

# The generator that came with the suite, beside this file
SHIPPED = "weights/celeba-64"


def save_generator(run, generator, about, which="best"):
    """Write the weights of a generator and its JSON, `about` plus their checksum.

    which: "best" or "last" of NAMES. Killed at any moment, it leaves the generator of
    before or this one: until the new weights are there, the JSON tells of both.
    """
    weights, path = _files(run, which)
    with write_whole(weights) as part:
        _save_weights(generator, part)
        about = {**about, "sha256": sha256(part)}
        before = _told(path, weights)
        if before:
            write_json(path, {**about, "before": before})
    write_json(path, about)


def _save_weights(generator, path):
    try:
        generator.save_weights(path)
    except (RuntimeError, ValueError) as error:  # what HDF5 makes of a full disk
        raise OSError(errno.EIO, str(error)) from error


def _told(path, weights):
    """Return what a JSON says of the weights that are there, or None."""
    try:
        about = _read_about(path)
    except UserError:
        return None
    found = _sha256_if_there(weights)
    tellings = (about, about.pop("before", None))
    return next((told for told in tellings if told and told["sha256"] == found), None)


def load_generator(run, which="best"):
    """Return a generator of a run folder, built anew, and what its JSON says of it.

    which: "best" or "last" of NAMES. Raises UserError if there is none, if it is
    damaged or of another size than its JSON says. A run that is just writing it is
    waited for.
    """
    weights, path = _files(run, which)
    if not path.is_file():
        last = "last " if which == "last" else ""
        where = "" if Path(run) == Path(__file__).parent / SHIPPED else f" --run {run}"
        raise UserError(
            f"No {last}generator in {run} yet. Train one: python train.py{where}"
        )
    if weights.is_file() and not os.access(weights, os.R_OK):
        raise UserError(f"Cannot read {weights}: you have no permission.")
    for wait in (0, 0.1, 0.5, 2.0):  # while a run renames and renames again
        time.sleep(wait)
        _read_about(path)
        about = _told(path, weights)
        generator = about and _load(weights, path, about)
        if generator:
            return generator, about
    raise UserError(
        f"{weights} is damaged or was not written to its end: its checksum "
        f"is not the one in {path.name}. Continue or repeat the training of {run}."
    )


def _load(weights, path, about):
    """Build a generator and load weights; None if the file is not the one any more."""
    check_weights(weights)
    width = about.get("width", 1.0)  # older ones do not say
    generator = models.build_generator(about["network"], about["image_size"], width)
    try:
        with warnings.catch_warnings():
            # What Keras finds no weights for it leaves as it is, and only warns
            warnings.simplefilter("error", UserWarning)
            generator.load_weights(weights)
        fault = None
    except Exception as error:  # broken bytes raise nearly anything in HDF5 and Keras
        fault = error
    if _sha256_if_there(weights) != about["sha256"]:
        return None
    if fault:
        size = about["image_size"]
        raise UserError(
            f"{weights} does not hold a {about['network']} generator of "
            f"{size} x {size} faces, as {path.name} says. Train again: python train.py"
        ) from fault
    return generator


def check_weights(path):
    """Raise UserError unless a file of weights is plain: HDF5 of numbers, all in it.

    Refused are links, which may lead into other files, and arrays of more than
    LARGEST bytes, which a few bytes on the disk may claim to be.
    """
    try:
        with h5py.File(path, "r") as file:
            fault = _fault_in(file, set())
    except Exception as error:  # broken bytes raise nearly anything in HDF5
        fault = f"cannot be read: {error}"
    if fault:
        raise UserError(f"{path} {fault}. Train again: python train.py")


def _fault_in(group, seen):
    """Say what is not plain in an HDF5 group, or return ''.

    seen: the addresses of the groups so far; one that is in itself has no end.
    """
    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        return "has a group in it that is there twice"
    seen.add(address)
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            return f"has a link, {name}, that may lead out of it"
        item = group[name]
        if isinstance(item, h5py.Group):
            fault = _fault_in(item, seen)
        elif item.is_virtual or item.external or item.dtype.kind not in "fiub":
            fault = f"has something else than numbers, {name}, in it"
        else:
            fault = f"has too large a {name}" if item.nbytes > LARGEST else ""
        if fault:
            return fault
    return ""


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
        tellings = [about, *([about["before"]] if "before" in about else [])]
        wrong = [
            key
            for told in tellings
            for key, kind in wanted.items()
            if type(told[key]) is not kind
        ]
        wrong += [key for told in tellings if not wrong for key in _odd(told)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error!r}. Train again.") from error
    if wrong:
        raise UserError(f"{path} has a wrong {wrong[0]}. Train again: python train.py")
    for told in tellings:
        models.check_size(told["network"], told["image_size"])
    return about


def _odd(about):
    """Name the facts of a generator's JSON that no run of this suite writes."""
    data, width, score = about["data"], about.get("width", 1.0), about.get("score")
    fine = {
        "latent": about["latent"] == models.LATENT,
        "width": isinstance(width, (int, float)) and 0 < width <= 16,
        "epochs": about["epochs"] >= 0,
        "name in data": _is_line(data.get("name")),
        "count in data": type(data.get("count")) is int and data["count"] > 0,
        "source in data": _is_line(data.get("source", "")),
        "score": score is None
        or (
            isinstance(score, float)
            and math.isfinite(score)
            and _is_line(about.get("scored_by"))
        ),
    }
    return [key for key, is_fine in fine.items() if not is_fine]


def _is_line(text):
    return type(text) is str and (text == "" or text.isprintable())


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


def choose(run):
    """Return the folder of the generator that is meant: `run`, or if that is "" the
    newest one in runs/, or else the one that came with the suite.
    """
    if run:
        return Path(run)
    if Path("runs").exists() and not os.access("runs", os.R_OK | os.X_OK):
        raise UserError("Cannot read the folder runs. Another: --run FOLDER")
    return newest_run("runs") or Path(__file__).parent / SHIPPED


def describe(folder, about):
    """Say in a line or two which weights these are and what they were trained on."""
    data, scored = about["data"], about.get("score")
    score = f" ({about['scored_by']}: {scored:.5f})" if scored is not None else ""
    return (
        f"Generator from {folder}: {about['network']}, {about['image_size']} x "
        f"{about['image_size']}\nTrained on {data['count']:,} pictures of "
        f"{data['name']} for {in_words(about['epochs'])}{score}"
    )


def in_words(epochs):
    """Say how many epochs, as in "1 epoch"."""
    return f"{epochs} epoch{'s' * (epochs != 1)}"


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
    epochs = max(map(_epochs_of, (_files(run, which)[1] for which in NAMES)))
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
        return _read_about(path)["epochs"]
    except UserError:
        return 0


def save_sheet(run, epoch, faces):
    """Write samples/epoch-001.png: faces (n, S, S, 3) uint8, ten a row."""
    with write_whole(Path(run) / "samples" / f"epoch-{epoch:03d}.png") as part:
        grid(faces, columns=10, scale=max(1, round(84 / faces.shape[1]))).save(part)


def save_log(run, rows, changes=()):
    """Write log.csv, a row per epoch, and losses.png. changes: as draw_losses takes."""
    with (
        write_whole(Path(run) / "log.csv") as part,
        open(part, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    save_losses(Path(run) / "losses.png", rows, changes)


def save_losses(path, rows, changes=(), shown=None):
    """Write what draw_losses draws as a PNG."""
    with write_whole(path) as part:
        draw_losses(rows, changes, shown).savefig(part, format="png", dpi=110)


def draw_losses(rows, changes=(), shown=None):
    """Draw the losses, D's accuracy, the samples' diversity and the scores over the
    epochs. Dashed lines are epochs with an alarm.

    changes: of the recipe, as branch.changes tells them, grey lines; shown: the epoch
    of the generator that is meant, if it is to be marked.
    """
    from matplotlib.figure import Figure  # takes a second that other scripts save
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    scored = next((name for name in SCORES if name in rows[0]), None)
    panels = 3 if scored else 2
    figure = Figure(figsize=(9, 3.5 * panels), layout="constrained")
    losses, shares, *more = all_axes = figure.subplots(panels, 1, sharex=True)
    style = {"marker": "o", "markersize": 3}
    losses.plot(epochs, [row["d_loss"] for row in rows], **style, label="discriminator")
    losses.plot(epochs, [row["g_loss"] for row in rows], **style, label="generator")
    lowest = min(row[name] for row in rows for name in ("d_loss", "g_loss"))
    if lowest >= 0:  # else it is hinge, by which the generator's loss is -D
        losses.axhline(np.log(2), color="0.6", linestyle=":", label="ln 2")
        losses.set(ylim=(0, None))
    losses.set(title="Losses, mean of each epoch", ylabel="loss")
    for name, label in {
        "real_accuracy": "D right on real faces",
        "fake_accuracy": "D right on fake faces",
        "diversity": "samples' diversity, against real faces'",
    }.items():
        # Dashed: of relativistic pairs both of D's shares are one number
        line = "--" if name == "fake_accuracy" else "-"
        shares.plot(epochs, [row[name] for row in rows], line, **style, label=label)
    highest = max(1, *(row["diversity"] for row in rows))
    shares.set(ylabel="share", ylim=(0, highest * 1.05))
    for axes in more:
        _draw_scores(axes, rows, scored, style)
    for axes in all_axes:
        _mark(axes, _alarmed(rows), "alarm", color="C3", linestyle="--")
        _mark(axes, _changed(rows, changes), "another recipe", color="0.5")
        _mark(axes, [shown] if shown else [], "this generator", color="C2")
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


def _alarmed(rows):
    return [row["epoch"] for row in rows if row.get("alarm")]


def _changed(rows, changes):
    """Return where between two epochs the recipe changed: at their border, n.5."""
    places = [change["epochs"] + 0.5 for change in changes]
    return [place for place in places if place < rows[-1]["epoch"]]


def _mark(axes, places, label, **style):
    """Draw vertical lines; only the first is named, for the legend."""
    for number, place in enumerate(places):
        axes.axvline(place, **style, linewidth=1, label="" if number else label)


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
