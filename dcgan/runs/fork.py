"""Go on from another run with another recipe, in a run folder of its own.

What is best early need not be best late (benchmarks/QUALITY.md). The new run begins as
a copy of the other at the end of its last epoch, with weights, optimizers, average,
log, sheets and generators, and the other stays as it is. The new one's constants.json
and the JSON of its generators tell what was changed, and when.
"""

import shutil
from pathlib import Path

from dcgan.common.console import UserError
from dcgan.common.files import DAMAGE, replace, write_json, write_whole
from dcgan.runs import checkpoints, curves, folder, generators

# What the weights, their optimizers and the rows of the log depend on
STAYS = ("NETWORK", "IMAGE_SIZE", "WIDTH", "D_NORM", "SEED", "SCORE_SAMPLES")
BEGUN_WITH = ("backend", "batch_size", "count", "checksum")


def read(origin):
    """Return what is told of a run to go on from: runs.read_constants' dict, and
    "checkpoint" and "progress", the newest one that was saved at an epoch's end.

    Raises UserError if there is none, if it is damaged, or something trains there.
    """
    if not Path(origin, folder.CONSTANTS).is_file():
        if Path(origin, generators.ABOUT).is_file():
            raise UserError(
                f"FROM = {origin!r}: it has a generator alone, and no checkpoint to go "
                "on from. A run folder has: python train.py --from runs/NAME"
            )
        raise UserError(
            f"FROM = {origin!r}: there is no run. Train one: python train.py --run "
            f"{origin}"
        )
    with folder.resting(origin):
        about = folder.read_constants(origin)
        for checkpoint in reversed(checkpoints.folders(origin)):
            progress = _progress_of(checkpoint)
            if not progress["iteration"]:  # a row of the log has one recipe
                return {**about, "checkpoint": checkpoint, "progress": progress}
    raise UserError(
        f"FROM = {origin!r}: it has no checkpoint of an epoch's end. Continue it until "
        f"one ends: python train.py --run {origin}"
    )


def _progress_of(checkpoint):
    try:
        return checkpoints.read_progress(checkpoint)
    except PermissionError as error:
        raise UserError(f"Cannot read {error.filename}: {error.strerror}.") from error
    except DAMAGE as error:
        raise UserError(
            f"{checkpoint} is damaged ({error}). Continue that run by itself first: it "
            "goes on from the checkpoint before."
        ) from error


def check(origin, about, constants, begun_with):
    """Raise UserError if a run cannot go on with these constants.

    about: read()'s; begun_with: as train.py has it, the batch size and the pictures.
    """
    pairs = [(about["constants"].get(name), constants[name], name) for name in STAYS]
    pairs += [
        (about["begun_with"].get(name), begun_with[name], name.upper())
        for name in BEGUN_WITH
    ]
    wrong = [f"{name} {old!r}, not {new!r}" for old, new, name in pairs if old != new]
    if wrong:
        raise UserError(
            f"FROM = {origin!r}: that run has {'; '.join(wrong)}. These stay as they "
            "are when a run goes on from another."
        )
    done = about["progress"]["epoch"] - 1
    if constants["EPOCHS"] <= done:
        raise UserError(
            f"FROM = {origin!r}: that run has {generators.in_words(done)} already, so "
            f"this one needs more: --epochs {2 * done}"
        )


def begin(origin, folder, about, free):
    """Write a new run's constants.json, `about` and its changes, and copy the origin.

    Raises UserError as read() and check() do: it may have been trained meanwhile.
    """
    with folder.resting(origin):
        found = read(origin)
        check(origin, found, about["constants"], about["begun_with"])
        told = changes(origin, found, about, free)
        write_json(Path(folder, folder.CONSTANTS), {**about, "changes": told})
        print(describe(told[-1]), flush=True)
        progress, score = found["progress"], about["begun_with"]["score"]
        if "SCORE" in told[-1]["constants"]:
            progress = rescored(progress, score)
        copy(origin, folder, found["checkpoint"], progress, told)


def changes(origin, found, about, free):
    """Return the list of all changes of recipe up to now, for constants.json.

    Each is {"from", "epochs", "iterations", "constants": {name: [old, new]}}, without
    those constants that are `free` to change in any run, and FROM; SCORE stands for
    what "auto" came to. found: read()'s; about: what constants.json will say.
    """
    old, progress = found["constants"], found["progress"]
    changed = {
        name: [old.get(name), value]
        for name, value in about["constants"].items()
        if name not in (*free, "FROM", "BATCH_SIZE") and old.get(name) != value
    }
    score = [each["begun_with"].get("score") for each in (found, about)]
    if score[0] != score[1]:
        changed["SCORE"] = score
    change = {"from": origin, "epochs": progress["epoch"] - 1}
    change |= {"iterations": progress["iterations"], "constants": changed}
    return [*found["changes"], change]


def describe(change):
    """Say in a line what a run goes on from, and with what."""
    changed = [
        f"{name} {new!r} for {old!r}"
        for name, (old, new) in change["constants"].items()
    ]
    return (
        f"From      {change['from']}, {generators.in_words(change['epochs'])}: "
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


def copy(origin, folder, checkpoint, progress, changes):
    """Copy a run's state at a checkpoint into a run folder; the checkpoint last.

    progress: the checkpoint's, or what goes in its place; where it has no best
    generator the last one stands for it.
    """
    origin, folder = Path(origin), Path(folder)
    part = folder / f"part-{checkpoint.name}"
    shutil.rmtree(part, ignore_errors=True)
    for file in checkpoint.iterdir():
        _copy_file(file, part / file.name)
    checkpoints.write_progress(part, progress)
    last, best = (
        generators.NAMES["last"],
        generators.NAMES["best" if progress["best"] else "last"],
    )
    for name, kept in {generators.NAMES["best"]: best, last: last}.items():
        for end in generators.ENDS:
            _copy_file(origin / f"{kept}.{end}", folder / f"{name}.{end}")
    for sheet in sorted(origin.glob("samples/epoch-*.png")):
        _copy_file(sheet, folder / sheet.relative_to(origin))
    curves.save_log(folder, progress["rows"], changes)
    replace(part, folder / checkpoint.name)


def _copy_file(old, new):
    if not old.is_file():  # a generator or a sheet that somebody has taken away
        return
    try:
        source = open(old, "rb")  # noqa: SIM115 (the block below closes it)
    except OSError as error:
        raise UserError(f"Cannot read {old}: {error.strerror}.") from error
    with source, write_whole(new) as part, open(part, "wb") as target:
        shutil.copyfileobj(source, target)
