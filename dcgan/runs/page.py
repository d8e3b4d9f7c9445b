"""A page to watch a run by: python -m dcgan.runs.page runs/celeba-64

A training writes it at the end of every epoch, as index.html in its run folder; the
command makes it again, of an older run say. It is one file that needs no network: it
holds the numbers and the faces as JSON, and the script in page.html draws them.
"""

import base64
import csv
import io
import json
import math
import re
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from dcgan.common.console import UserError
from dcgan.common.console import run as run_script
from dcgan.common.files import DAMAGE, read_json, write_whole
from dcgan.common.options import typed
from dcgan.pictures.faces import GAP
from dcgan.runs import curves
from dcgan.runs.folder import CONSTANTS

NAME = "index.html"

FACES = 40  # of a sheet, at most
QUALITY = 75  # of their WebP
PIXELS = 18e6  # of all sheets together: of more epochs every second, fourth, ... stays

# Where the page holds its JSON, which has no "<" in it, with the checksum of that
HELD = re.compile(r'id="run" data-checksum="(\d+)">([^<]*)<')


def save(run, undecided=None):
    """Write the page of a run folder, whole or not at all.

    undecided: the loss of a D that cannot tell; None: what the page of before says.
    What is not there or damaged is done without. Raises UserError if the page cannot
    be written.
    """
    run = Path(run)
    encoded, said = _held_by(run / NAME)
    shown = told(run, encoded)
    shown["undecided"] = said if undecided is None else undecided
    # No tag can begin or end in it, whatever a folder is called
    text = json.dumps(shown, separators=(",", ":")).replace("<", "\\u003c")
    held = f'id="run" data-checksum="{zlib.crc32(text.encode())}">{text}<'
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    with write_whole(run / NAME) as part:
        part.write_text(HELD.sub(lambda _: held, template), encoding="utf-8")


def renew(run):
    """Write the page of a run anew, if there is one."""
    if (Path(run) / NAME).is_file():
        save(run)


def _held_by(page):
    """Return what may be taken over from a page: {of: webp} of its sheets, and the loss
    of a D that cannot tell. Of a page that is damaged, or not there, nothing may.
    """
    try:
        checksum, text = HELD.search(page.read_text(encoding="utf-8")).groups()
        if int(checksum) == zlib.crc32(text.encode()):
            shown = json.loads(text)
            webps = {sheet["of"]: sheet["webp"] for sheet in shown["sheets"]}
            return webps, shown["undecided"]
    except DAMAGE:
        pass
    return {}, None


def told(run, encoded):
    """Return what the page of a run shows, for JSON. encoded: {of: webp} of sheets."""
    written, last = read_json(run / CONSTANTS), read_json(run / "generator-last.json")
    constants = {**written.get("constants", {}), **last.get("constants", {})}
    rows, side = _rows(run / "log.csv"), constants.get("IMAGE_SIZE")
    score = next((name for name in curves.SCORES if rows and name in rows[0]), None)
    scored = [row for row in rows if score and row[score] is not None]
    best = min(scored, key=lambda row: row[score], default=None)
    done, epochs = rows[-1]["epoch"] if rows else 0, constants.get("EPOCHS", 0)
    took = [(row.get("seconds") or 0) + (row.get("end_seconds") or 0) for row in rows]
    # Without the first, that waits for much, and over some whole ends of short ones
    lately = np.mean(took[1:][-30:] or took or [0]).item()
    return {
        "name": run.absolute().name,
        "command": f"python generate.py {typed(run=run)}",
        "epochs": epochs,
        "finished": done >= epochs > 0,
        "took": sum(took),
        "epoch_seconds": lately,
        "left": max(0, epochs - done) * lately,
        "ended": (run / "log.csv").stat().st_mtime if rows else None,
        "score": score,
        "best": best and {"epoch": best["epoch"], "score": best[score]},
        "rows": rows,
        "side": side,
        "faces": min(FACES, constants.get("SAMPLES", FACES)),
        "sheets": _sheets(run, side, encoded) if side else [],
        "constants": constants,
        "begun_with": written.get("begun_with", {}),
        "changes": written.get("changes", []),
        "data": last.get("data", {}),
        "versions": {name: text for name, text in written.items() if type(text) is str},
        "metrics": read_json(run / "metrics.json"),
        "nearest": (run / "nearest.png").is_file(),
    }


def _rows(path):
    """Read log.csv: dicts of numbers, None where there is none, and "alarm"."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                {name: _number(text) for name, text in row.items()}
                | {"epoch": int(row["epoch"]), "alarm": row.get("alarm") or ""}
                for row in csv.DictReader(file)
            ]
    except (*DAMAGE, csv.Error):
        return []


def _number(text):
    try:
        number = float(f"{float(text):.6g}")
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _sheets(run, side, encoded):
    """Return [{"epoch", "of", "webp"}] of the epochs that are shown. What is encoded of
    the same file already is taken over.
    """
    paths, sheets = curves.sheets(run), []
    for epoch in spread([*paths], PIXELS / (FACES * side**2)):
        try:
            facts = paths[epoch].stat()
            of = f"{epoch} {facts.st_size} {facts.st_mtime_ns}"
            webp = encoded.get(of) or encode(paths[epoch], side)
        except (*DAMAGE, Image.DecompressionBombError):
            continue
        sheets.append({"epoch": epoch, "of": of, "webp": webp})
    return sheets


def spread(epochs, most):
    """Return some of the epochs, about `most`: the first, the last, and all of them, or
    those that a power of two divides. So a run that gets longer drops some and, but for
    the last, adds none.
    """
    stride = 1
    while len(epochs) > most * stride:
        stride *= 2
    ends = {*epochs[:1], *epochs[-1:]}
    return [epoch for epoch in epochs if epoch % stride == 0 or epoch in ends]


def encode(path, side):
    """Return the first faces of a sheet, each of `side` pixels again and without gaps,
    as the base64 of a WebP.
    """
    scale = curves.enlarged(side)
    step = side * scale + GAP
    with Image.open(path) as file:
        sheet = np.pad(np.asarray(file.convert("RGB")), ((0, GAP), (0, GAP), (0, 0)))
    columns = sheet.shape[1] // step
    # Of what was enlarged, the middle pixel is the one that it was made of
    middle = slice(scale // 2, step - GAP, scale)
    faces = sheet.reshape(-1, step, columns, step, 3)[:, middle, :, middle]
    faces = faces[: math.ceil(FACES / columns)].reshape(-1, columns * side, 3)
    with io.BytesIO() as webp:
        Image.fromarray(faces).save(webp, "WEBP", quality=QUALITY)
        return base64.b64encode(webp.getvalue()).decode()


def main():
    usage = "python -m dcgan.runs.page runs/celeba-64"
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise UserError(f"Say of which run: {usage}")
    run = Path(sys.argv[1])
    if not any((run / name).is_file() for name in (CONSTANTS, "log.csv")):
        raise UserError(
            f"{run} is no run: there is no {CONSTANTS} in it. As in: {usage}"
        )
    save(run)
    print(f"{run / NAME} shows the run. Open it in a browser.")


if __name__ == "__main__":
    run_script(main)
