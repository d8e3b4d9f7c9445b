"""Make a folder of weights/ out of a run: python -m benchmarks.ship --run runs/NAME

Its generator, in half precision if that is wanted, what is told of it, and pictures of
what it draws and how it learned. Scored by evaluate.py since, and shipped once more,
the folder holds the score too. No photograph goes there.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import evaluate
import generate
from dcgan.common.console import UserError, run
from dcgan.common.files import sha256, write_json, write_whole
from dcgan.common.options import options
from dcgan.pictures import faces
from dcgan.runs import curves, generators
from dcgan.scores import inception
from dcgan.training.alarms import alarms

# What to ship, and where
RUN = ""  # the run folder; empty: the newest in runs/
WHICH = "best"  # {best, last} of its generators
OUT = ""  # the folder; empty: weights/<run's name>
HALF = False  # {True, False} write the large weights as float16: half the bytes

# How its learning is shown
EPOCHS = ""  # of the sheets side by side, as in 1,5,25; empty: first, third, last

# Faces of each sheet in the picture of the epochs, and pixels between sheets and above
SHOWN, GAP, TITLE = 4, 24, 28


def main(argv=None):
    options(sys.modules[__name__], argv)
    folder = generators.choose(RUN)
    generator, about = generators.load_generator(folder, WHICH)
    out = Path(OUT) if OUT else evaluate.WEIGHTS / folder.name
    about = told(about)
    generators.save_generator(out, generator, about)
    if HALF:
        halve(out / generators.GENERATOR)
    about["sha256"] = sha256(out / generators.GENERATOR)
    about |= scored(out, about["sha256"])
    write_json(out / generators.ABOUT, about)
    generate.main(["--run", str(out), "--out", str(out / "faces.png")])
    sheets = sorted((folder / "samples").glob("epoch-*.png"))
    if not sheets:
        raise UserError(f"{folder} has no sheets of samples to show.")
    last = folder / "samples" / f"epoch-{about['epochs']:03d}.png"
    copy(last, out / "samples.png")
    rows, changes = rows_of(folder), about["changes"]
    curves.save_losses(out / "losses.png", rows, changes, about["epochs"])
    with write_whole(out / "epochs.png") as part:
        side_by_side(chosen(sheets, about), about["image_size"]).save(part, "PNG")
    print(f"{out} is ready: {size_of(out) / 2**20:.1f} MB.")


def told(about):
    """Return what the JSON of a generator will say, but for its score.

    about: what it says in the run. Of folders of this machine the names stay, and
    EPOCHS is how long it was trained.
    """
    about = {name: value for name, value in about.items() if name != "sha256"}
    about["score"] = about["scored_by"] = None
    about["data"] = named(about["data"], "source")
    about["constants"] = named(about.get("constants", {}), "DATA", "RUN", "FROM")
    about["constants"]["EPOCHS"] = about["epochs"]
    about["changes"] = [named(each, "from") for each in about.get("changes", [])]
    return about


def scored(out, checksum):
    """Return {"score", "scored_by"} if metrics.json in `out` is of just these weights
    and has a KID; else {}, and say what to do.
    """
    path = out / "metrics.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    ours = found and found["protocol"]["generator"].endswith(checksum[:8])
    if not ours or "kid" not in found:
        print(f"No score yet: python evaluate.py --run {out}, and ship once more.")
        return {}
    count = f"{found['counts']['pairs']:,}"
    how = f"KID, {inception.NAME}, {count} samples against {count} real faces"
    return {"score": found["kid"], "scored_by": how}


def named(about, *keys):
    """Return a dict with the paths at the keys cut down to their last names."""
    return about | {key: Path(about[key]).name for key in keys if key in about}


def halve(path):
    """Write the arrays of two and more axes in a file of weights as float16.

    The others, of batch norm, are few, and their variances may be large.
    """
    with (
        write_whole(path) as part,
        h5py.File(path, "r") as old,
        h5py.File(part, "w") as new,
    ):

        def copy_item(name, item):
            if isinstance(item, h5py.Group):
                made = new.require_group(name)
            else:
                array = item[()]
                if array.ndim > 1:
                    array = array.astype(np.float16)
                made = new.create_dataset(name, data=array)
            made.attrs.update(item.attrs)

        new.attrs.update(old.attrs)
        old.visititems(copy_item)


def copy(old, new):
    with write_whole(new) as part:
        shutil.copyfile(old, part)


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


def chosen(sheets, about):
    """Return the sheets {epoch: path} that are wanted, or three out of all."""
    paths = {int(path.stem.rpartition("-")[2]): path for path in sheets}
    last = about["epochs"]
    wanted = [int(epoch) for epoch in EPOCHS.split(",")] if EPOCHS else []
    wanted = wanted or sorted({1, max(1, last // 3), last})
    missing = [epoch for epoch in wanted if epoch not in paths]
    if missing:
        raise UserError(f"There is no sheet of epoch {missing[0]}. Try --epochs 1")
    return {epoch: paths[epoch] for epoch in wanted}


def side_by_side(paths, image_size):
    """Draw the first SHOWN x SHOWN faces of each sheet, its epoch above them."""
    step = round(84 / image_size) * image_size + faces.GAP
    side = SHOWN * step - faces.GAP
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


def size_of(folder):
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


if __name__ == "__main__":
    run(main)
