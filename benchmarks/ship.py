"""Make a folder of weights/ out of a run: python -m benchmarks.ship --run runs/NAME

Its generator and discriminator, in half precision if that is wanted, what is told of
them, and pictures of what it draws and how it learned. Scored by evaluate.py since, and
shipped once more, the folder holds the score too. No photograph goes there.
"""

import csv
import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import generate
import models
from dcgan.common.console import UserError, run
from dcgan.common.files import read_json, write_whole
from dcgan.common.options import options, typed
from dcgan.networks.losses import LOSSES
from dcgan.pictures.faces import GAP as FACE_GAP
from dcgan.runs import checkpoints, curves, fork, generators
from dcgan.scores import inception
from dcgan.training.alarms import alarms

# What to ship, and where
RUN = ""  # the run folder; empty: the newest in runs/
WHICH = "best"  # {best, last} of its generators
OUT = ""  # the folder; empty: weights/<run's name>
HALF = False  # {True, False} write the large weights as float16: half the bytes

# How its learning is shown
SHEETS = ""  # of the sheets side by side, as in 1,5,25; empty: first, third, last

# Faces of each sheet in the picture of the epochs, and pixels between sheets and above
SHOWN, GAP, TITLE = 4, 24, 28


def main(argv=None):
    options(sys.modules[__name__], argv)
    folder = generators.folder_of(RUN)
    generator, facts = models.load_generator(folder, WHICH)
    out = Path(OUT) if OUT else generators.SHIPPED.parent / folder.name
    facts = unscored(facts)
    score = score_of(out, save(out, generator, facts)["sha256"])
    if score:
        save(out, generator, facts | score)
    save_discriminator(out, folder, facts)
    generate.main(["--run", str(out), "--out", str(out / "faces.png")])
    sheets = sorted((folder / "samples").glob("epoch-*.png"))
    if not sheets:
        raise UserError(f"{folder} has no sheets of samples to show.")
    epochs = facts["epochs"]
    with write_whole(out / "samples.png") as part:
        shutil.copyfile(folder / "samples" / f"epoch-{epochs:03d}.png", part)
    undecided = LOSSES[facts["constants"].get("LOSS", "cross-entropy")].undecided
    rows, changes = rows_of(folder), facts["changes"]
    curves.save_losses(out / "losses.png", rows, changes, undecided, epochs)
    with write_whole(out / "epochs.png") as part:
        picture = side_by_side(chosen(sheets, epochs), facts["image_size"])
        picture.save(part, "PNG")
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out} is ready: {size / 2**20:.1f} MB.")


def unscored(facts):
    """Return what a shipped generator will tell of itself, but for its score.

    facts: what it tells in the run. Of folders of this machine the names stay, and
    EPOCHS is how long it was trained.
    """
    constants = with_names(facts.get("constants", {}), "DATA", "RUN", "FROM")
    return {
        **facts,
        **{"score": None, "scored_by": None},
        "data": with_names(facts["data"], "source"),
        "constants": {**constants, "EPOCHS": facts["epochs"]},
        "changes": [with_names(each, "from") for each in facts.get("changes", [])],
    }


def with_names(facts, *keys):
    """Return a dict with the paths at the keys cut down to their last names."""
    return facts | {key: Path(facts[key]).name for key in keys if key in facts}


def save(out, network, facts, which="best"):
    """Write a network, in half precision if that is wanted; return its facts."""
    generators.save(out, Half(network) if HALF else network, facts, which)
    return generators.read(out, which).facts


def save_discriminator(out, folder, facts):
    """Write the discriminator of a run's last epoch, for others to go on from."""
    try:
        arrays, _ = checkpoints.read(fork.read(str(folder)).checkpoint)
    except UserError as error:
        print(f"Without the discriminator. {error}")
        return
    recipe = models.Recipe(d_norm=facts["constants"]["D_NORM"], width=facts["width"])
    network = models.build_discriminator(facts["network"], facts["image_size"], recipe)
    for number, variable in enumerate(network.variables):
        variable.assign(arrays[f"discriminator.{number:03d}"])
    save(out, network, facts, "discriminator")


def score_of(out, checksum):
    """Return {"score", "scored_by"} if metrics.json in `out` has the KID of the
    generator with this checksum; else {}, and say what to do.
    """
    metrics = read_json(out / "metrics.json")
    scored = metrics and metrics["protocol"]["generator"].endswith(checksum[:8])
    if not scored or "kid" not in metrics:
        print(f"No score yet: python evaluate.py {typed(run=out)}, and ship once more.")
        return {}
    count = f"{metrics['counts']['pairs']:,}"
    how = f"KID, {inception.NAME}, {count} samples against {count} real faces"
    return {"score": metrics["kid"], "scored_by": how}


class Half:
    """A network that saves its large weights as float16: about half the bytes."""

    def __init__(self, network):
        self.network = network

    def save_weights(self, path):
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder, "whole.weights.h5")
            self.network.save_weights(whole)
            halve(whole, path)


def halve(whole, path):
    """Copy a file of weights, its arrays of two and more axes as float16.

    The others, of batch norm, are few, and their variances may be large.
    """
    with h5py.File(whole, "r") as old, h5py.File(path, "w") as new:

        def copy(name, item):
            if isinstance(item, h5py.Group):
                copied = new.require_group(name)
            else:
                array = item[()]
                array = array.astype(np.float16) if array.ndim > 1 else array
                copied = new.create_dataset(name, data=array)
            copied.attrs.update(item.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy)


def rows_of(folder):
    """Return the rows of a run's log, as numbers, with the alarms of alarms.py now: its
    limits may have been others when it was trained.
    """
    rows = []
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        for texts in csv.DictReader(file):
            del texts["alarm"]
            row = {name: float(text) if text else None for name, text in texts.items()}
            row["epoch"] = int(row["epoch"])
            rows.append(row)
            row["alarm"] = "; ".join(alarms(rows))
    return rows


def chosen(sheets, last):
    """Return the sheets {epoch: path} that are wanted, or three of those up to the last
    epoch: of epochs of seconds not each has one.
    """
    paths = {int(path.stem.rpartition("-")[2]): path for path in sheets}
    if SHEETS:
        wanted = [int(epoch) for epoch in SHEETS.split(",")]
        missing = [epoch for epoch in wanted if epoch not in paths]
        if missing:
            there = ",".join(map(str, sorted(paths)))
            raise UserError(f"No sheet of epoch {missing[0]}. There are {there}")
    else:
        there = sorted(epoch for epoch in paths if epoch <= last)
        near = [min(there, key=lambda it: abs(it - n)) for n in (1, last // 3, last)]
        wanted = sorted(set(near))
    return {epoch: paths[epoch] for epoch in wanted}


def side_by_side(paths, image_size):
    """Draw the first SHOWN x SHOWN faces of each sheet, its epoch above them."""
    step = round(84 / image_size) * image_size + FACE_GAP
    side = SHOWN * step - FACE_GAP
    picture = Image.new("RGB", (len(paths) * (side + GAP) - GAP, TITLE + side), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(16)
    for place, (epoch, path) in enumerate(paths.items()):
        left = place * (side + GAP)
        with Image.open(path) as sheet:
            picture.paste(sheet.crop((0, 0, side, side)), (left, TITLE))
        text = f"after {epoch} epoch{'s' * (epoch > 1)}"
        draw.text((left + side // 2, TITLE // 2), text, "black", font, anchor="mm")
    return picture


if __name__ == "__main__":
    run(main)
