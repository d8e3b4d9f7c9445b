"""The generators of a run, or a shipped pair, each in one file that tells of itself.

The weights are HDF5, as Keras writes them. What is told of them, and a checksum of
it all, is an attribute of the file; the JSON beside it says the same to people. In
older runs the JSON is all that tells.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from dcgan.common.console import UserError, is_out_of_memory
from dcgan.common.files import sha256, write_json, write_whole
from dcgan.common.options import typed
from dcgan.runs.folder import CHECKPOINT, CONSTANTS

# The generators of a run, the best by its score and the last: how their files begin.
# Those of kept epochs are generator-020 and so on. A discriminator may be beside them
# in weights/, under its own name
NAMES = {"best": "generator", "last": "generator-last"}
ENDS = (".weights.h5", ".json")

# Constants, and facts, that a generator has its shape by
SHAPED_BY = ("network", "image_size", "channels", "width")

# The attribute of the file that holds what is told of it, as JSON
FACTS = "facts"

# Bytes: no array of a generator is as large
LARGEST = 2**30

# The generator that came with the suite
SUITE = Path(__file__).parents[2]
SHIPPED = SUITE / "weights/celeba-64"


class Generator(NamedTuple):
    """A generator on the disk: the file of its weights, and what is told of them."""

    weights: Path
    facts: dict


class _Memory(io.BytesIO):
    """What HDF5 writes to, for on a full disk it kills the process; Keras takes it by
    its name.
    """

    def __str__(self):
        return f"memory{ENDS[0]}"


def save(run, generator, facts, which="best"):
    """Write a Keras model's weights and what is told of them; the JSON comes after.

    which: "best", "last", the number of an epoch as text, or "discriminator". Killed at
    any moment, it leaves the file of before or this one.
    """
    weights, path = paths(run, which)
    memory = _Memory()
    generator.save_weights(memory)
    with h5py.File(memory, "a") as file:
        facts = {**facts, "sha256": _checksum(file, facts)}
        # Of a fixed length: what HDF5 keeps elsewhere, damage makes it crash on
        file.attrs[FACTS] = np.bytes_(json.dumps(facts))
    with write_whole(weights) as part:
        part.write_bytes(memory.getbuffer())
    write_json(path, facts)


def keep(run, generator, facts, best):
    """Save the generator of an epoch as the last one and, if it is that, as the best.

    facts: with its "epochs" and its "score", None if it has none: then it is the best
    only while none is scored. best: {"epoch", "score"} of the best so far, or None;
    returns it, or the new one. A best that is not in the folder (a kill, or a user,
    took it) is the best no more.
    """
    save(run, generator, facts, "last")
    score = facts["score"]
    if score is None and best is not None:
        return best
    if best is None or score < best["score"] or epochs_in(run) != best["epoch"]:
        save(run, generator, facts)
        if score is not None:
            return {"epoch": facts["epochs"], "score": score}
    return best


def read(run, which="best"):
    """Return the Generator of a run, its file checked to be whole and harmless.

    which: as save() has it. Raises UserError if there is none, if it is damaged, or
    holds anything but the numbers of a generator.
    """
    weights, path = paths(run, which)
    if which not in (*NAMES, "discriminator") and not weights.is_file():
        raise UserError(_not_kept(run, which))
    if not weights.is_file() and not path.is_file():
        raise UserError(_none_there(Path(run), which))
    if weights.is_file() and not os.access(weights, os.R_OK):
        raise UserError(f"Cannot read {weights}: you have no permission.")
    damaged = UserError(
        f"{weights} is damaged or was not written to its end: its checksum "
        f"is not the one it was saved with. Continue or repeat the training of {run}."
    )
    try:
        with h5py.File(weights, "r") as file:
            fault = _fault_in(file, set())
            if not fault and FACTS in file.attrs:
                facts = json.loads(file.attrs[FACTS])
                if facts["sha256"] != _checksum(file, facts):
                    raise damaged
            elif not fault:
                facts = _facts_beside(weights, path)
    except Exception as error:  # broken bytes raise nearly anything in HDF5
        raise damaged from error
    if fault:
        raise UserError(f"{weights} {fault}. Train again: python train.py")
    if facts is None:
        raise damaged
    _check(facts, weights)
    return Generator(weights, facts)


def fill(model, weights):
    """Load a file of weights into a Keras model that they fit; else raise anything."""
    with warnings.catch_warnings():
        # What Keras finds no weights for it leaves as it is, and only warns
        warnings.simplefilter("error", UserWarning)
        model.load_weights(weights)


@contextlib.contextmanager
def fitting(line):
    """Turn what weights raise that do not fit, nearly anything, into a UserError.

    line: what it says. That memory is full is no fault of theirs.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UserError(line) from error


def paths(run, which):
    """Return the Paths of a generator's weights and of its JSON."""
    name = f"{NAMES['best']}-{int(which):03d}" if which.isdecimal() else which
    return tuple(Path(run) / f"{NAMES.get(which, name)}{end}" for end in ENDS)


def kept(run):
    """Return the numbers of the epochs whose generators were kept in a run, sorted."""
    name = re.compile(rf"{NAMES['best']}-(\d+){re.escape(ENDS[0])}")
    found = (name.fullmatch(path.name) for path in Path(run).glob(f"*{ENDS[0]}"))
    return sorted(int(each[1]) for each in found if each)


def _none_there(run, which):
    """Say that a folder has no generator, and what would help."""
    below = sorted(run.glob(f"*/{NAMES['best']}{ENDS[0]}"))
    if below:
        return f"{run} holds runs. Name one: {typed(run=below[0].parent)}"
    train = f"python train.py{'' if run == SHIPPED else f' {typed(run=run)}'}"
    if not run.exists():
        return f"There is no {run}. Another: --run FOLDER. Or train one: {train}"
    last = "last " if which == "last" else ""
    if (run / CONSTANTS).is_file():
        return f"No {last}generator in {run} yet. The command that began it goes on"
    return f"No {last}generator in {run} yet. Train one: {train}"


def _not_kept(run, which):
    epochs = ", ".join(map(str, kept(run)))
    others = f", only of {epochs}" if epochs else "; --keep-every is for that"
    if not which.isdecimal():
        which = typed(which=which)
        return f"{which}: best, last, or the number of an epoch that was kept."
    return f"{run} kept no generator of epoch {which}{others}. Try --which best"


def epochs_of(run):
    """Return how many epochs the longer trained generator of a run has had, or 0."""
    return max(epochs_in(run, which) for which in NAMES)


def epochs_in(run, which="best"):
    """Return how many epochs one of the generators of a run has had, or 0."""
    try:
        return read(run, which).facts["epochs"]
    except UserError:
        return 0


def _checksum(file, facts):
    """Return the SHA-256 of the arrays in an open HDF5 file and of the facts."""
    facts = {name: facts[name] for name in sorted(facts) if name != "sha256"}
    digest = hashlib.sha256(json.dumps(facts).encode())

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            digest.update(f"{name} {item.dtype} {item.shape}".encode())
            digest.update(item[()].tobytes())

    file.visititems(add)
    return digest.hexdigest()


def _facts_beside(weights, path):
    """Return what an older run's JSON says of weights, or None if it is of others.

    While a run wrote them, "before" told of the weights that were still there.
    """
    facts = json.loads(path.read_text(encoding="utf-8"))
    checksum = sha256(weights)
    both = facts, facts.pop("before", None)
    return next((each for each in both if each and each["sha256"] == checksum), None)


def _fault_in(group, seen):
    """Say what is not plain numbers in an HDF5 group, or return ''.

    Links may lead into other files, and a few bytes may claim to be a huge array.
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


def _check(facts, path):
    """Raise UserError for facts that no run of this suite writes."""
    kinds = {"network": str, "image_size": int, "latent": int, "epochs": int}
    kinds |= {"data": dict}
    wrong = [name for name in kinds if type(facts.get(name)) is not kinds[name]]
    wrong = wrong or _odd(facts)
    if wrong:
        raise UserError(f"{path} has a wrong {wrong[0]}. Train again: python train.py")


def _odd(facts):
    data, width, score = facts["data"], facts.get("width", 1.0), facts.get("score")
    fine = {
        "width": isinstance(width, (int, float)) and 0 < width <= 16,
        "channels": facts.get("channels", 3) in (1, 3),
        "epochs": facts["epochs"] >= 0,
        "name in data": _is_line(data.get("name")),
        "count in data": type(data.get("count")) is int and data["count"] > 0,
        # A folder may have any letters; where it is told, they are escaped
        "source in data": type(data.get("source", "")) is str,
        "score": score is None
        or (
            isinstance(score, float)
            and math.isfinite(score)
            and _is_line(facts.get("scored_by"))
        ),
    }
    return [name for name, is_fine in fine.items() if not is_fine]


def _is_line(text):
    return type(text) is str and (text == "" or text.isprintable())


def folder_of(run):
    """Return the folder of the generator that is meant: `run`, or if that is "" the
    newest one in runs/, or else the one that came with the suite.
    """
    if run:
        return Path(run)
    if Path("runs").exists() and not os.access("runs", os.R_OK | os.X_OK):
        raise UserError("Cannot read the folder runs. Another: --run FOLDER")
    return newest_run("runs") or SHIPPED


def find(path, which):
    """Return the folder of the generator that is meant, and which of it, for read().

    path: the folder, where it is the best or last one as `which` says; or a file in it,
    of a generator or a checkpoint, which is then the one. UserError for other files.
    """
    folder, name = path.parent, path.name
    if CHECKPOINT.fullmatch(name):
        return folder, name
    if path.is_dir() or not (path.is_file() or name.endswith(ENDS[0])):
        return path, which
    stem = name.removesuffix(ENDS[0])
    if stem in (name, "discriminator"):
        raise UserError(
            f"{path} is no generator. --run takes a run folder, or a file of it: "
            f"{NAMES['best']}{ENDS[0]}, or a checkpoint"
        )
    return folder, {NAMES[key]: key for key in NAMES}.get(stem, stem)


def named(path, which):
    """Return the options that name a generator: --run, and --which if need be."""
    return typed(run=path, **({} if which == "best" else {"which": which}))


def newest_run(folder):
    """Return the run in `folder` whose generator was saved last, or None."""
    saved = Path(folder).glob(f"*/{NAMES['best']}*{ENDS[0]}")
    begun = [path for path in saved if paths(path.parent, "best")[0].exists()]
    newest = max(begun, key=lambda path: path.stat().st_mtime, default=None)
    return newest.parent if newest else None


def in_words(folder, facts):
    """Say in two lines which generator it is and what it was trained on."""
    data, score = facts["data"], facts.get("score")
    scored = f" ({facts['scored_by']}: {score:.5f})" if score is not None else ""
    return (
        f"Generator from {folder}: {facts['network']}, {facts['image_size']} x "
        f"{facts['image_size']}\nTrained on {data['count']:,} pictures of "
        f"{data['name']} for {epochs_in_words(facts['epochs'])}{scored}"
    )


def epochs_in_words(epochs):
    """Say how many epochs, as in "1 epoch"."""
    return f"{epochs} epoch{'s' * (epochs != 1)}"
