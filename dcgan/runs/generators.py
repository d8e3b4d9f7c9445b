"""The generators of a run: the files, and what is told of them."""

import errno
import json
import math
import os
import time
import warnings
from pathlib import Path

import h5py

import models
from dcgan.common.console import UserError
from dcgan.common.files import sha256, write_json, write_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


GENERATOR = "generator.weights.h5"

ABOUT = "generator.json"

# The generators of a run: the best by its score, and the last
NAMES = {"best": "generator", "last": "generator-last"}

ENDS = ("weights.h5", "json")

# Bytes: no array of a generator is as large
LARGEST = 2**30

# The generator that came with the suite, beside this file
SHIPPED = "weights/celeba-64"
SUITE = Path(__file__).parents[2]


def save_generator(run, generator, about, which="best"):
    """Write the weights of a generator and its JSON, `about` plus their checksum.

    which: "best" or "last" of NAMES. Killed at any moment, it leaves the generator of
    before or this one: until the new weights are there, the JSON tells of both.
    """
    weights, path = files_of(run, which)
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
        about = read_about(path)
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
    weights, path = files_of(run, which)
    if not path.is_file():
        last = "last " if which == "last" else ""
        where = "" if Path(run) == SUITE / SHIPPED else f" --run {run}"
        raise UserError(
            f"No {last}generator in {run} yet. Train one: python train.py{where}"
        )
    if weights.is_file() and not os.access(weights, os.R_OK):
        raise UserError(f"Cannot read {weights}: you have no permission.")
    for wait in (0, 0.1, 0.5, 2.0):  # while a run renames and renames again
        time.sleep(wait)
        read_about(path)
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
    weights, path = files_of(run, "best")
    try:
        about = read_about(path)
    except UserError:
        return False
    return about["epochs"] == epochs and about["sha256"] == _sha256_if_there(weights)


def files_of(run, which):
    """Return the paths of a generator's weights and of its JSON."""
    name = NAMES[which]
    return Path(run) / f"{name}.weights.h5", Path(run) / f"{name}.json"


def read_about(path):
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


def choose(run):
    """Return the folder of the generator that is meant: `run`, or if that is "" the
    newest one in runs/, or else the one that came with the suite.
    """
    if run:
        return Path(run)
    if Path("runs").exists() and not os.access("runs", os.R_OK | os.X_OK):
        raise UserError("Cannot read the folder runs. Another: --run FOLDER")
    return newest_run("runs") or SUITE / SHIPPED


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


def _sha256_if_there(path):
    try:
        return sha256(path)
    except OSError:
        return None
