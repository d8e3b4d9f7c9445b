import json
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

import train
from dcgan.common.console import UserError
from dcgan.runs import curves, tensorboard
from tests.tiny import log_of

RUN = Path("runs/tiny")


def files():
    return sorted(path.name for path in (RUN / tensorboard.FOLDER).iterdir())


def read():
    """Return what TensorBoard's own reader finds: {tag: {step: value or bytes}}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(RUN / tensorboard.FOLDER))
    events.Reload()
    tags = events.Tags()
    scalars = {tag: events.Scalars(tag) for tag in tags["scalars"]}
    images = {tag: events.Images(tag) for tag in tags["images"]}
    return {
        tag: {one.step: getattr(one, "value", None) for one in found}
        for tag, found in scalars.items()
    } | {
        tag: {one.step: one.encoded_image_string for one in found}
        for tag, found in images.items()
    }


def test_a_run_tells_tensorboard_its_log_and_its_sheets(fresh, quick, monkeypatch):
    monkeypatch.setattr(train, "TENSORBOARD", True)
    train.main([])
    shown, rows = read(), log_of(RUN)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    sheets = {epoch: path.read_bytes() for epoch, path in curves.sheets(RUN).items()}
    assert shown.pop("samples") == sheets
    assert {"loss/d_loss", "share/diversity", "score/mmd"} < shown.keys()
    for tag, values in shown.items():
        column = tag.partition("/")[2]
        told = {int(row["epoch"]): float(row[column]) for row in rows}
        assert values == pytest.approx(told, rel=1e-6)


def test_a_run_that_told_nothing_before_tells_all_of_it(tiny, quick, monkeypatch):
    monkeypatch.setattr(train, "TENSORBOARD", True)
    monkeypatch.setattr(train, "EPOCHS", 3)
    train.main([])
    assert files() == ["events.out.tfevents.000000003"]
    assert all([*values] == [1, 2, 3] for values in read().values())


def test_an_epochs_end_that_is_done_once_more_tells_nothing_twice(tiny):
    rows = [{"epoch": epoch, "d_loss": epoch / 2} for epoch in (1, 2, 3)]
    tensorboard.save(RUN, rows[:1])
    for _ in range(2):
        tensorboard.save(RUN, rows[:2])
    tensorboard.save(RUN, rows)
    assert len(files()) == 3
    assert read()["loss/d_loss"] == {1: 0.5, 2: 1.0, 3: 1.5}


def test_epochs_without_a_value_or_a_sheet_are_left_out(tiny):
    rows = [{"epoch": 1, "kid": None}, {"epoch": 7, "kid": 0.25}]
    tensorboard.save(RUN, rows)
    shown = read()
    assert shown["score/kid"] == {7: 0.25}
    assert [*shown["samples"]] == [1]


def test_without_the_package_a_run_does_not_begin(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr(train, "TENSORBOARD", True)
    with pytest.raises(UserError, match="pip install tensorboard"):
        train.main([])
    assert not RUN.exists()


@pytest.mark.slow
def test_a_real_tensorboard_serves_the_runs_numbers(tiny):
    rows = [{"epoch": epoch, "d_loss": epoch / 2} for epoch in (1, 2)]
    tensorboard.save(RUN, rows)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "runs"]
    command += ["--port", "0", "--reload_interval", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        late = threading.Timer(120, server.kill)  # else a test may wait for ever
        late.start()
        try:
            line = next(line for line in server.stderr if "http://" in line)
            address = "http://" + line.partition("http://")[2].split()[0]
            plugin = f"{address}data/plugin/scalars/"
            while not (tags := asked(f"{plugin}tags")):
                pass
            assert {run: [*found] for run, found in tags.items()} == {
                "tiny/tensorboard": ["loss/d_loss"]
            }
            query = "scalars?run=tiny%2Ftensorboard&tag=loss%2Fd_loss"
            points = asked(plugin + query)
        finally:
            server.terminate()
            server.wait()
            late.cancel()
    assert [(step, value) for _, step, value in points] == [(1, 0.5), (2, 1.0)]


def asked(address):
    with urllib.request.urlopen(address) as answer:
        return json.load(answer)
