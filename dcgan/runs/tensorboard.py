"""What TensorBoard shows of a run: its log and its sheets, as files of events."""

import importlib.util
import re
import time
from pathlib import Path

from dcgan.common.console import UserError
from dcgan.common.files import replace, write_whole
from dcgan.runs import curves

FOLDER = "tensorboard"

EVENTS = re.compile(r"events\.out\.tfevents\.(\d{9})")

# Under which heading each column of the log is shown; the others are not
HEADINGS = {
    "loss": "d_loss g_loss",
    "share": "real_accuracy fake_accuracy diversity",
    "score": " ".join(curves.SCORES),
    "speed": "pictures_per_second run_pictures_per_second waiting_share end_seconds",
}


def check():
    """Raise UserError if the package is not there that the events are written with."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "TENSORBOARD needs a package that is not there: pip install tensorboard"
        )


def save(run, rows):
    """Write what the log's rows and the sheets tell since the last file of events.

    A file holds one epoch's end, or, of a run that had none before, all so far; so it
    appears whole, and an end that is done once more leaves the same file. Steps are
    epochs.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder, last = Path(run) / FOLDER, rows[-1]["epoch"]
    names = [EVENTS.fullmatch(path.name) for path in folder.glob("events.*")]
    epochs = [epoch for name in names if name and (epoch := int(name[1])) < last]
    since = max(epochs, default=0)
    # A name with "tfevents" in it TensorBoard would read, half-written
    half = folder / "half-written"
    with write_whole(half) as part, open(part, "wb") as file:
        writer = RecordWriter(file)
        for event in _events(run, [row for row in rows if row["epoch"] > since]):
            writer.write(event.SerializeToString())
    replace(half, folder / f"events.out.tfevents.{last:09d}")


def _events(run, rows):
    """Yield the events of rows of the log, and of the sheets there are of them."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    now, sheets = time.time(), curves.sheets(run)
    yield Event(wall_time=now, file_version="brain.Event:2")
    for row in rows:
        values = [
            Summary.Value(tag=f"{heading}/{name}", simple_value=row[name])
            for heading, names in HEADINGS.items()
            for name in names.split()
            if row.get(name) is not None
        ]
        if row["epoch"] in sheets:
            png = sheets[row["epoch"]].read_bytes()
            image = Summary.Image(encoded_image_string=png)
            values.append(Summary.Value(tag="samples", image=image))
        yield Event(wall_time=now, step=row["epoch"], summary=Summary(value=values))
