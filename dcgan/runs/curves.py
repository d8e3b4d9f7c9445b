"""What a run shows of itself: sheets of samples, log.csv and losses.png."""

import csv
import re
from pathlib import Path

from dcgan.common.files import write_whole
from dcgan.pictures.faces import grid

# Columns of the log, one of which a run may have
SCORES = ("kid", "mmd")

SHEET = re.compile(r"epoch-(\d{1,9})\.png")


def save_sheet(run, epoch, faces):
    """Write samples/epoch-001.png: faces (n, S, S, 3) uint8, ten a row."""
    with write_whole(Path(run) / "samples" / f"epoch-{epoch:03d}.png") as part:
        grid(faces, columns=10, scale=enlarged(faces.shape[1])).save(part)


def sheets(run):
    """Return {epoch: path} of the sheets that a run has, in the order of epochs."""
    there = {
        int(name[1]): path
        for path in (Path(run) / "samples").glob("epoch-*.png")
        if (name := SHEET.fullmatch(path.name))
    }
    return dict(sorted(there.items()))


def enlarged(side):
    """Return how many times its size a face of so many pixels has on a sheet."""
    return max(1, round(84 / side))


def save_log(run, rows, changes=(), undecided=None):
    """Write log.csv, a row per epoch, and losses.png. changes: as draw_losses takes."""
    save_table(run, rows)
    save_losses(Path(run) / "losses.png", rows, changes, undecided)


def save_table(run, rows):
    """Write log.csv, a row per epoch."""
    with (
        write_whole(Path(run) / "log.csv") as part,
        open(part, "w", newline="", encoding="utf-8") as file,
    ):
        # Rows of an older run may have fewer columns
        columns = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, fieldnames=list(columns))
        writer.writeheader()
        writer.writerows(rows)


def save_losses(path, rows, changes=(), undecided=None, shown=None):
    """Write what draw_losses draws as a PNG."""
    with write_whole(path) as part:
        figure = draw_losses(rows, changes, undecided, shown)
        figure.savefig(part, format="png", dpi=110)


def draw_losses(rows, changes=(), undecided=None, shown=None):
    """Draw the losses, D's accuracy, the samples' diversity and the scores over the
    epochs. Dashed lines are epochs with an alarm.

    changes: of the recipe, as fork.changes has them, grey lines; undecided: the loss
    of a D that cannot tell, a dotted line; shown: the epoch of the generator that is
    meant, if it is to be marked.
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
    if undecided is not None:
        losses.axhline(undecided, color="0.6", linestyle=":", label="D cannot tell")
    if min(row[name] for row in rows for name in ("d_loss", "g_loss")) >= 0:
        losses.set(ylim=(0, None))
    losses.set(ylabel="loss, mean of each epoch")
    for name, label in {
        "real_accuracy": "D right on real faces",
        "fake_accuracy": "D right on fake faces",
        "diversity": "samples' diversity, against real faces'",
    }.items():
        # Dashed: of relativistic pairs both of D's shares are one number
        line = "--" if name == "fake_accuracy" else "-"
        points = [(row["epoch"], row[name]) for row in rows if row[name] is not None]
        shares.plot(*zip(*points, strict=True), line, **style, label=label)
    highest = max(1, *(row["diversity"] or 0 for row in rows))
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
    # Around 0, where a score may be negative, there are no logarithms
    if 0 < 10 * best < max(points, key=lambda point: point[1])[1]:
        axes.set(yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")


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
