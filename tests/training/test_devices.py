"""Several devices and several processes train as one device does (on JAX)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dcgan.runs import checkpoints

pytest.importorskip("jax")

SUITE = Path(__file__).parent.parent

RUN = [
    *("--data", "cartoons", "--images", "24", "--image-size", "28"),
    *("--batch-size", "8", "--steps-per-call", "2", "--samples", "10"),
    *("--score", "mmd"),
]


def start(folder, devices, *options, **variables):
    """Start train.py as a process on JAX with so many forced CPU devices."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        **variables,
    }
    command = [sys.executable, str(SUITE / "train.py"), *RUN, *options]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    out, error = process.communicate(timeout=300)
    assert process.returncode == code, error
    return out, error


def processes(folder, count, *options, differ=()):
    """Start `count` processes of one run, on this machine; `differ` is for the last."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(
            folder(number),
            1,
            *options,
            *(differ if number == count - 1 else ()),
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES=str(count),
            JAX_PROCESS_ID=str(number),
        )
        for number in range(count)
    ]


def scores(folder, run):
    rows = json.loads(
        (checkpoints.folders(folder / run)[-1] / "progress.json").read_text()
    )["progress"]["rows"]
    names = ("d_loss", "g_loss", "real_accuracy", "fake_accuracy")
    return np.array([[row[name] for name in names] for row in rows])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Train on one device, chosen from four; return the folder."""
    folder = tmp_path_factory.mktemp("alone")
    alone = start(folder, 4, "--epochs", "2", "--run", "one", "--devices", "one")
    assert "4 devices" not in finish(alone)[0]
    return folder


def test_four_devices_train_as_one_does(alone):
    out, _ = finish(start(alone, 4, "--epochs", "2", "--run", "four"))
    assert "4 devices in 1 processes train." in out
    np.testing.assert_allclose(scores(alone, "four"), scores(alone, "one"), atol=1e-4)


def test_a_batch_that_devices_cannot_share_is_one_line(alone):
    refused = start(alone, 3, "--epochs", "1", "--run", "three")
    error = finish(refused, code=1)[1]
    assert "A batch of 8 faces cannot be shared evenly by 3 devices." in error
    assert "Try --batch-size 9, or --devices one." in error
    assert "Traceback" not in error


def test_two_processes_train_and_continue_as_one_device_does(alone, tmp_path):
    """In folders of their own, as on two machines; the second never sees a file."""

    def folder(number):
        (tmp_path / str(number)).mkdir(exist_ok=True)
        return tmp_path / str(number)

    for epochs in (1, 2):
        options = ("--epochs", str(epochs), "--run", "two")
        first, second = [finish(each) for each in processes(folder, 2, *options)]
        assert "Finished: two" in first[0]
        assert "Finished" not in second[0]
        assert "Epoch" not in second[1]
    assert "Continuing two at epoch 2" in first[0]
    np.testing.assert_allclose(
        scores(folder(0), "two"), scores(alone, "one"), atol=1e-4
    )
    assert (folder(0) / "two" / "samples" / "epoch-002.png").exists()
    assert not (folder(1) / "two").exists()


def test_processes_that_differ_are_refused(tmp_path):
    def folder(number):
        (tmp_path / str(number)).mkdir()
        return tmp_path / str(number)

    first, second = processes(folder, 2, "--run", "x", differ=("--seed", "2"))
    message = "All processes of a run need the same constants and pictures: "
    assert f"{message}another's differ." in finish(first, code=1)[1]
    assert f"{message}SEED differs here." in finish(second, code=1)[1]
    assert not (tmp_path / "0" / "x").exists()


def test_ctrl_c_to_one_process_stops_and_saves_all(tmp_path):
    def folder(number):
        (tmp_path / str(number)).mkdir()
        return tmp_path / str(number)

    both = processes(folder, 2, "--epochs", "1000", "--run", "x")
    end = time.monotonic() + 200
    while not (tmp_path / "0" / "x" / "checkpoint-000003").exists():
        assert both[0].poll() is None, both[0].communicate()
        assert time.monotonic() < end
    both[1].send_signal(signal.SIGINT)
    for process in both:
        assert "Stopped and saved before epoch" in finish(process, code=130)[1]
    assert checkpoints.folders(tmp_path / "0" / "x")
