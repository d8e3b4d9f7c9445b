"""Several devices and several processes train as one device does (on JAX)."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from dcgan.common.console import UserError
from dcgan.runs import checkpoints
from dcgan.training import devices

SUITE = Path(__file__).parents[2]

RUN = [
    *("--data", "cartoons", "--images", "8", "--image-size", "28", "--width", "0.25"),
    *("--batch-size", "8", "--steps-per-call", "2", "--samples", "10"),
    *("--score", "mmd"),
]


@pytest.fixture(scope="module")
def needs_jax():
    pytest.importorskip("jax")


def start(folder, count, *options, **variables):
    """Start train.py as a process on JAX with so many forced CPU devices."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        # Compiling takes longer than these few iterations
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count} "
        "--xla_backend_optimization_level=0",
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
    out, error = process.communicate(timeout=600)
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


def rows_of(folder, run):
    return checkpoints.read(checkpoints.paths(folder / run)[-1])[1]["rows"]


def assert_alike(rows, others):
    """Each row is an iteration. Other orders of summation change the last bits of the
    first one's losses. Adam makes a step of any gradient, however small, so later on
    they are further apart.
    """
    assert len(rows) == len(others) == 3
    for row, other, tolerance in zip(rows, others, (1e-4, 1e-2, 1e-2), strict=True):
        for name in ("d_loss", "g_loss"):
            assert row[name] == pytest.approx(other[name], rel=tolerance), row
    for name in ("real_accuracy", "fake_accuracy"):
        assert rows[0][name] == others[0][name]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, needs_jax):
    """Train on one device, chosen from four; return the folder."""
    folder = tmp_path_factory.mktemp("alone")
    alone = start(folder, 4, "--epochs", "3", "--run", "one", "--devices", "one")
    assert "4 devices" not in finish(alone)[0]
    return folder


@pytest.mark.devices
def test_four_devices_train_as_one_does(alone):
    out, _ = finish(start(alone, 4, "--epochs", "3", "--run", "four"))
    assert "4 devices in 1 processes train." in out
    assert_alike(rows_of(alone, "four"), rows_of(alone, "one"))


@pytest.mark.devices
def test_a_batch_that_devices_cannot_share_is_one_line(alone):
    refused = start(alone, 3, "--epochs", "1", "--run", "three")
    error = finish(refused, code=1)[1]
    assert "A batch of 8 faces cannot be shared evenly by 3 devices." in error
    assert "Try --batch-size 9, or --devices one." in error
    assert "Traceback" not in error


@pytest.mark.devices
def test_two_processes_train_and_continue_as_one_device_does(alone, tmp_path):
    """In folders of their own, as on two machines; the second never sees a file."""

    def folder(number):
        (tmp_path / str(number)).mkdir(exist_ok=True)
        return tmp_path / str(number)

    for epochs in (2, 3):
        options = ("--epochs", str(epochs), "--run", "two")
        first, second = [finish(each) for each in processes(folder, 2, *options)]
        assert "Finished: two" in first[0]
        assert "Finished" not in second[0]
        assert "Epoch" not in second[1]
    assert "Continuing two at epoch 3" in first[0]
    assert_alike(rows_of(folder(0), "two"), rows_of(alone, "one"))
    assert (folder(0) / "two" / "samples" / "epoch-003.png").exists()
    assert not (folder(1) / "two").exists()


@pytest.mark.devices
def test_processes_that_differ_are_refused(tmp_path, needs_jax):
    def folder(number):
        (tmp_path / str(number)).mkdir()
        return tmp_path / str(number)

    first, second = processes(folder, 2, "--run", "x", differ=("--seed", "2"))
    message = "All processes of a run need the same constants and pictures: "
    assert f"{message}another's differ." in finish(first, code=1)[1]
    assert f"{message}SEED differs here." in finish(second, code=1)[1]
    assert not (tmp_path / "0" / "x").exists()


@pytest.mark.devices
def test_ctrl_c_to_one_process_stops_and_saves_all(tmp_path, needs_jax):
    def folder(number):
        (tmp_path / str(number)).mkdir()
        return tmp_path / str(number)

    both = processes(folder, 2, "--epochs", "1000", "--run", "x")
    end = time.monotonic() + 600
    while not checkpoints.paths(tmp_path / "0" / "x"):
        assert both[0].poll() is None, both[0].communicate()
        assert time.monotonic() < end
    both[1].send_signal(signal.SIGINT)
    for process in both:
        assert "Stopped and saved before epoch" in finish(process, code=130)[1]
    assert checkpoints.paths(tmp_path / "0" / "x")


def test_several_processes_need_jax(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"needs JAX: KERAS_BACKEND=jax$"):
        devices.find("all", 8)


class Differing(devices.Device):
    """A process whose seed is not the first one's, of two that tell each other."""

    def __init__(self, first):
        self.first = first

    def from_first(self, _):
        return self.first


def test_a_process_that_differs_from_the_first_says_in_what():
    device = Differing({"SEED": 1, "EPOCHS": 2})
    device.agree({"SEED": 1, "EPOCHS": 2})
    with pytest.raises(
        UserError, match="the same constants and pictures: SEED differs"
    ):
        device.agree({"SEED": 2, "EPOCHS": 2})


def test_one_device_takes_whole_batches_and_asks_nobody():
    device = devices.Device()
    assert device.share_of(8) == slice(0, 8)
    assert (device.from_first("mine"), device.largest(3)) == ("mine", 3)
    handed = device.hand_over({"decay": np.zeros(3, "float32")})
    assert handed["decay"].shape == (3,)
