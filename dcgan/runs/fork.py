"""Go on from another run with another recipe, or from a shipped pair of networks.

What is best early need not be best late (benchmarks/QUALITY.md). The new run begins as
a copy of the other at the end of its last epoch, or at one of its checkpoints, with
weights, optimizers, average, log, sheets and generators, and the other stays as it is.
The new one's constants.json and what its generators tell of themselves say what was
changed, and when.

A folder of weights/ has both networks and nothing else of its run. A run that goes on
from them begins with its first epoch, on any pictures.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

from dcgan.common.console import UserError
from dcgan.common.files import DAMAGE, write_json, write_whole
from dcgan.common.options import typed
from dcgan.runs import checkpoints, curves, folder, generators

# What the shapes of the networks depend on
SHAPES = (*map(str.upper, generators.SHAPED_BY), "D_NORM")

# What the weights, their optimizers and the rows of the log depend on
STAYS = (*SHAPES, "SEED", "D_STEPS", "SCORE_SAMPLES")
BEGUN_WITH = ("backend", "batch_size", "count", "checksum")


class Origin(NamedTuple):
    """A run to go on from, at a checkpoint of an epoch's end."""

    name: str  # as FROM has it: the run's folder or the checkpoint
    constants: dict
    begun_with: dict
    changes: list  # of its recipe so far; see changes()
    checkpoint: Path
    progress: dict

    def check(self, constants, begun_with=None):
        """Raise UserError if a run cannot go on from here with these, both dicts; None:
        the latter is not known yet.
        """
        pairs = [(self.constants.get(name), constants[name], name) for name in STAYS]
        pairs += [
            (self.begun_with.get(name), begun_with[name], name.upper())
            for name in (BEGUN_WITH if begun_with else ())
        ]
        _check_alike(self.name, pairs)
        done = self.progress["epoch"] - 1
        if constants["EPOCHS"] <= done:
            raise UserError(
                f"FROM = {self.name!r}: that run has "
                f"{generators.epochs_in_words(done)} already, so this one needs more: "
                f"{typed(epochs=2 * done)}"
            )


class Pair(NamedTuple):
    """A shipped generator and its discriminator, to begin a run with."""

    folder: str
    facts: dict  # what the generator tells of itself
    begun_with: dict  # nothing that a run would have to stay with

    def check(self, constants, _=None):
        """Raise UserError if networks of these constants have other shapes."""
        mine = {**folder.ADDED, **self.facts.get("constants", {})}
        pairs = [(mine.get(name), constants[name], name) for name in SHAPES]
        _check_alike(self.folder, pairs)

    def load(self, gan):
        """Load both networks, and the generator as the average, too."""
        parts = {"best": (gan.generator, gan.average)}
        parts["discriminator"] = (gan.discriminator,)
        for which, networks in parts.items():
            weights = generators.read(self.folder, which).weights
            for network in networks:
                line = f"{weights} does not hold a {network.name} as it says."
                with generators.fitting(line):
                    generators.fill(network, weights)


def _check_alike(origin, pairs):
    """Raise UserError if old and new differ in one of the pairs (old, new, name)."""
    wrong = [(old, new, name) for old, new, name in pairs if old != new]
    if wrong:
        told = "; ".join(f"{name} {old!r}, not {new!r}" for old, new, name in wrong)
        back = {name.lower(): old for old, _, name in wrong if name in STAYS}
        cure = f" Try {typed(**back)}" if back else ""
        raise UserError(
            f"FROM = {origin!r}: that run has {told}. These stay as they are when a "
            f"run goes on from another.{cure}"
        )


def read(origin):
    """Return the Origin in a run folder, or the Pair in a folder of weights.

    origin: the folder, or a checkpoint of an epoch's end in a run folder.
    Raises UserError if there is none, if it is damaged, or something trains there.
    """
    run = _run_of(origin)
    if run is None:
        if generators.paths(origin, "discriminator")[0].is_file():
            return Pair(origin, generators.read(origin).facts, {})
        if generators.paths(origin, "best")[0].is_file():
            raise UserError(
                f"FROM = {origin!r}: it has a generator alone, no discriminator and no "
                "checkpoint. A run folder has: python train.py --from runs/NAME"
            )
        raise UserError(
            f"FROM = {origin!r}: there is no run. Train one: python train.py "
            f"{typed(run=origin)}"
        )
    with folder.resting(run):
        written = folder.read_constants(run)
        if "METHOD" in written["constants"]:
            raise UserError(
                f"FROM = {origin!r}: it is a run of rivals.py, without a discriminator."
            )
        is_named = run != Path(origin)
        there = [_named(run, origin)] if is_named else checkpoints.paths(run)
        for checkpoint in reversed(there):
            _, progress = _read_checkpoint(checkpoint)
            if not progress["iteration"]:  # a row of the log has one recipe
                return Origin(
                    origin, **written, checkpoint=checkpoint, progress=progress
                )
    raise UserError(
        f"FROM = {origin!r}: it has no checkpoint of an epoch's end. Continue it until "
        "one ends, by the command that began it."
    )


def _named(run, origin):
    """Return the checkpoint of an epoch's end that is meant, or raise UserError."""
    ends = {path: checkpoints.ended_epoch(path) for path in checkpoints.paths(run)}
    if not ends.get(Path(origin)):
        told = [f"{path.name} ({epoch})" for path, epoch in ends.items() if epoch]
        raise UserError(
            f"FROM = {origin!r}: it is no checkpoint of an epoch's end. {run} has "
            f"those of the epochs in brackets: {', '.join(told) or 'none'}"
        )
    return Path(origin)


def _run_of(origin):
    """Return the run folder that is meant, itself or by a checkpoint; None: no run."""
    path = Path(origin)
    if not _is_run(path) and folder.CHECKPOINT.fullmatch(path.name):
        path = path.parent
    return path if _is_run(path) else None


def _is_run(path):
    return Path(path, folder.CONSTANTS).is_file()


def _read_checkpoint(path):
    try:
        return checkpoints.read(path)
    except DAMAGE as error:
        raise UserError(
            f"{path} is damaged ({error}). Continue that run by itself first: it "
            "goes on from the checkpoint before."
        ) from error


def begin(origin, run, written):
    """Write a new run's constants.json, `written` and its changes, and copy another.

    origin: as read() takes it. It is read anew, for it may have been trained meanwhile;
    raises UserError as read() and check() do.
    """
    if _run_of(origin) is None:
        pair = read(origin)
        epochs = generators.epochs_in_words(pair.facts["epochs"])
        print(f"From      {pair.folder}, {epochs}: both networks", flush=True)
        write_json(Path(run, folder.CONSTANTS), written)
        return
    with folder.resting(_run_of(origin)):
        origin = read(origin)
        origin.check(written["constants"], written["begun_with"])
        history = changes(origin, written)
        write_json(Path(run, folder.CONSTANTS), {**written, "changes": history})
        print(in_words(history[-1]), flush=True)
        progress, score = origin.progress, written["begun_with"]["score"]
        if "SCORE" in history[-1]["constants"]:
            progress = rescored(progress, score)
        _copy(origin, run, progress, history)


def changes(origin, written):
    """Return the list of all changes of recipe up to now, for constants.json.

    Each is {"from", "epochs", "iterations", "constants": {name: [old, new]}}, without
    those constants that may change in any run, and FROM; SCORE and PRECISION
    stand for what "auto" came to. written: what constants.json will say.
    """
    old, progress = origin.constants, origin.progress
    changed = {
        name: [old.get(name), value]
        for name, value in written["constants"].items()
        if name not in (*folder.FREE, "FROM", "BATCH_SIZE") and old.get(name) != value
    }
    both = origin.begun_with, written["begun_with"]
    for name in ("PRECISION", "SCORE"):
        before, after = (each.get(name.lower()) for each in both)
        if before != after:
            changed[name] = [before, after]
    change = {"from": origin.name, "epochs": progress["epoch"] - 1}
    change |= {"iterations": progress["iterations"], "constants": changed}
    return [*origin.changes, change]


def in_words(change):
    """Say in a line what a run goes on from, and with what."""
    changed = [
        f"{name} {new!r} for {old!r}"
        for name, (old, new) in change["constants"].items()
    ]
    return (
        f"From      {change['from']}, {generators.epochs_in_words(change['epochs'])}: "
        f"{', '.join(changed) or 'nothing changed'}"
    )


def rescored(progress, score):
    """Return the progress of a run that goes on with another score, or with "none".

    Scores of one kind say nothing of those of another, so none is the best any more.
    """
    rows = []
    for row in progress["rows"]:
        rows.append({})
        for name, value in row.items():
            if name not in curves.SCORES:
                rows[-1][name] = value
            if name == "diversity" and score in curves.SCORES:
                rows[-1][score] = None
    return {**progress, "rows": rows, "best": None}


def _copy(origin, run, progress, history):
    """Copy what a run has at its checkpoint into a run folder; the checkpoint last.

    progress: the origin's, or what goes in its place. Where it has no best generator,
    or a later one is the best by now, that of its own epoch stands for it.
    """
    old_run, done = origin.checkpoint.parent, progress["epoch"] - 1
    epochs = {which: generators.epochs_in(old_run, which) for which in ("best", "last")}
    last = "last" if epochs["last"] == done else str(done)
    if progress["best"] and epochs["best"] != progress["best"]["epoch"]:
        progress = {**progress, "best": None}
    best = "best" if progress["best"] else last
    for which, source in {"best": best, "last": last}.items():
        pairs = zip(
            generators.paths(old_run, source), generators.paths(run, which), strict=True
        )
        for old, new in pairs:
            _copy_file(old, new)
    for epoch, sheet in curves.sheets(old_run).items():
        if epoch <= done:
            _copy_file(sheet, Path(run) / sheet.relative_to(old_run))
    curves.save_log(run, progress["rows"], history)
    arrays, _ = _read_checkpoint(origin.checkpoint)
    checkpoints.write(checkpoints.path_of(run, progress), arrays, progress)


def _copy_file(old, new):
    if not old.is_file():  # a generator or a sheet that somebody has taken away
        return
    try:
        source = open(old, "rb")  # noqa: SIM115 (the block below closes it)
    except OSError as error:
        raise UserError(f"Cannot read {old}: {error.strerror}.") from error
    with source, write_whole(new) as part, open(part, "wb") as target:
        shutil.copyfileobj(source, target)


def check_new(run, changes, origin):
    """Raise UserError if a run would begin anew over generators of more than an epoch.

    Their checkpoints were deleted, or have not come yet: copying from another run was
    broken off, and may be repeated from that `origin`. changes: of the run's
    constants.json.
    """
    epochs = generators.epochs_of(run)
    copied = changes[-1]["epochs"] if changes else 0
    if epochs > max(1, copied if origin else 0):
        last = changes[-1]["from"] if epochs <= copied else ""
        raise UserError(
            f"{run} has a generator of {generators.epochs_in_words(epochs)} and no "
            "checkpoint to go on from. To begin anew: --run NAME"
            + (f", to copy {last} again: {typed(**{'from': last})}" if last else "")
        )
