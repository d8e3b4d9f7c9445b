"""Several devices and several processes train as one device does (on JAX)."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from dcgan.common.console import UserError
from dcgan.runs import checkpoints
from dcgan.training import devices, hardware

SUITE = Path(__file__).parents[2]

RUN = [
    *("--data", "cartoons", "--images", "8", "--image-size", "28", "--width", "0.25"),
    *("--batch-size", "8", "--steps-per-call", "2", "--samples", "10"),
    *("--score", "mmd", "--epoch-end-share", "1"),
]


@pytest.fixture(scope="module")
def needs_jax():
    pytest.importorskip("jax")


def environment(count, **variables):
    """Return the environment of a process on JAX with so many forced CPU devices."""
    return {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        # Compiling takes longer than these few iterations
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count} "
        "--xla_backend_optimization_level=0",
        **variables,
    }


def start(folder, count, *options, within=(), **variables):
    """Start train.py as a process with so many devices; within: a command before it."""
    command = [*within, sys.executable, str(SUITE / "train.py"), *RUN, *options]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(count, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    out, error = process.communicate(timeout=1800)
    assert process.returncode == code, error
    return out, error


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def processes(folder, *options, differ=(), second_host=()):
    """Start the two processes of a run, on this machine, in folders of their own.

    differ: options of the second; second_host: a command that makes it another host.
    """
    address = f"127.0.0.1:{free_port()}"
    both = []
    for number in range(2):
        (folder / str(number)).mkdir(exist_ok=True)
        both.append(
            start(
                folder / str(number),
                1,
                *options,
                *(differ if number else ()),
                within=second_host if number else (),
                JAX_COORDINATOR_ADDRESS=address,
                JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=str(number),
            )
        )
    return both


@pytest.fixture(scope="module")
def second_host(tmp_path_factory):
    """Return a command that starts another in what JAX takes for another machine.

    JAX tells machines by the number that the kernel draws when it starts.
    """
    number = tmp_path_factory.mktemp("host") / "boot_id"
    number.write_text("11111111-2222-3333-4444-555555555555\n")
    mount = f'mount --bind {number} /proc/sys/kernel/random/boot_id && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"No second host can be made here: {error}")
    return command


def wait_for_a_checkpoint(run, both):
    end = time.monotonic() + 600
    while not checkpoints.paths(run):
        assert both[0].poll() is None, both[0].communicate()
        assert time.monotonic() < end


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
    assert "4 devices in 1 process, 4 of them here." in out
    assert_alike(rows_of(alone, "four"), rows_of(alone, "one"))


@pytest.mark.devices
def test_a_batch_that_devices_cannot_share_is_one_line(alone):
    refused = start(alone, 3, "--epochs", "1", "--run", "three")
    error = finish(refused, code=1)[1]
    assert "A batch of 8 faces cannot be shared evenly by 3 devices." in error
    assert "Try --batch-size 9, or --devices one." in error
    assert "Traceback" not in error


# What is not the default, so that each of train.py's ways is gone once
RECIPES = {
    "dcgan-28": [],
    "dcgan-64": ["--image-size", "64"],
    "tutorial": ["--network", "tutorial", "--image-size", "64"],
    "blog": ["--network", "blog"],  # it drops out
    "least-squares": ["--loss", "least-squares", "--label-smoothing", "0.1"],
    "hinge": ["--loss", "hinge", "--d-norm", "spectral"],
    "relativistic": ["--loss", "relativistic", "--g-steps", "2"],
    "penalty": ["--r1", "0.1", "--d-norm", "none", "--label-flipping", "0.25"],
    "augmented": ["--augment", "colour,translation,cutout", "--d-steps", "2"],
}

# Trains by the options that come in, one after the other, to be quick
TRAIN_ALL = """
import json, sys
import train
from dcgan.common.options import current
from dcgan.networks import layers
if "as-gpus" in sys.argv:
    layers.on_cpu = lambda: False
constants = current(train)
for name, options in json.load(sys.stdin).items():
    vars(train).update(constants)
    train.main([*options, "--run", name])
"""


@pytest.fixture(scope="module")
def recipes(tmp_path_factory, needs_jax):
    """Train an iteration by each recipe on one device, and on four; return folders.

    The four compute by the layers that are for GPUs.
    """
    narrow = [*RUN, "--images", "16", "--width", "0.05", "--epochs", "1"]
    folders, running = [], []
    for count, how in ((1, "as-a-cpu"), (4, "as-gpus")):
        folders.append(tmp_path_factory.mktemp(f"on{count}"))
        process = subprocess.Popen(
            [sys.executable, "-c", TRAIN_ALL, how],
            cwd=folders[-1],
            env=environment(count, PYTHONPATH=str(SUITE)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        options = {name: [*narrow, *RECIPES[name]] for name in RECIPES}
        json.dump(options, process.stdin)
        process.stdin.close()
        process.stdin = None
        running.append(process)
    for process in running:
        out, _ = finish(process)
    assert out.count(" 4 devices in 1 process, 4 of them here.") == len(RECIPES)
    return folders


@pytest.mark.devices
@pytest.mark.parametrize("name", RECIPES)
def test_every_network_and_recipe_trains_on_four_devices(recipes, name):
    one, four = (rows_of(folder, name)[0] for folder in recipes)
    for score in ("d_loss", "g_loss"):
        assert four[score] == pytest.approx(one[score], rel=1e-2)


@pytest.mark.devices
def test_two_hosts_train_stop_and_continue_as_one_device_does(
    alone, tmp_path, second_host
):
    """The second one never sees a file of the run."""
    start_both = functools.partial(
        processes, tmp_path, "--run", "two", second_host=second_host
    )
    run = tmp_path / "0" / "two"
    both = start_both("--epochs", "1000")
    wait_for_a_checkpoint(run, both)
    both[1].send_signal(signal.SIGINT)
    stopped = [finish(process, code=130)[1] for process in both]
    [said] = {error[error.index("Stopped and saved") :] for error in stopped}
    epoch = checkpoints.read(checkpoints.paths(run)[-1])[1]["epoch"]
    assert f"Stopped and saved before epoch {epoch}, iteration 1." in said

    first, second = [finish(each) for each in start_both("--epochs", str(epoch + 1))]
    assert "2 devices in 2 processes, 1 of them here." in first[0]
    assert f"Continuing two at epoch {epoch}," in first[0]
    assert "Finished: two" in first[0]
    assert "Finished" not in second[0]
    assert "Epoch" not in second[1]
    assert_alike(rows_of(tmp_path / "0", "two")[:3], rows_of(alone, "one"))
    assert (run / "samples" / "epoch-003.png").exists()
    assert not (tmp_path / "1" / "two").exists()


@pytest.mark.devices
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_other_with_a_line(
    tmp_path, needs_jax, victim
):
    both = processes(tmp_path, "--epochs", "1000", "--run", "x")
    wait_for_a_checkpoint(tmp_path / "0" / "x", both)
    both[victim].kill()
    error = finish(both[1 - victim], code=1)[1]
    assert "\nAnother process of this run has ended; its own last line may" in error
    assert "Start all of them again: the run goes on from its last ch" in error
    assert "Traceback" not in error
    assert "Gloo" not in error


@pytest.mark.devices
def test_a_fault_of_one_process_is_its_own_line_and_ends_the_other(tmp_path, needs_jax):
    both = processes(tmp_path, "--epochs", "1000", "--run", "x")
    run = tmp_path / "0" / "x"
    wait_for_a_checkpoint(run, both)
    run.rename(run.with_name("moved"))
    first, second = (finish(process, code=1)[1] for process in both)
    assert "x was removed or renamed during the training." in first
    assert "Another process of this run has ended" in second
    assert "Traceback" not in first + second


@pytest.mark.devices
def test_processes_that_differ_are_refused(tmp_path, needs_jax):
    first, second = processes(tmp_path, "--run", "x", differ=("--seed", "2"))
    message = "All processes of a run need the same constants and pictures: "
    assert f"{message}another's differ." in finish(first, code=1)[1]
    assert f"{message}SEED differs here." in finish(second, code=1)[1]
    assert not (tmp_path / "0" / "x").exists()


@pytest.mark.devices
def test_tasks_of_slurm_find_each_other(tmp_path, needs_jax):
    """As srun starts two on a machine; of its port, JAX makes the job's number."""
    port = free_port()
    job = {
        "SLURM_JOB_ID": str(port - 61440 if port >= 61440 else port),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS": "2",
        "SLURM_NODEID": "0",
    }
    both = []
    for number in map(str, range(2)):
        (tmp_path / number).mkdir()
        task = {"SLURM_PROCID": number, "SLURM_LOCALID": number}
        both.append(start(tmp_path / number, 1, "--epochs", "1", **job, **task))
    first, second = (finish(process)[0] for process in both)
    assert "2 devices in 2 processes, 1 of them here." in first
    assert "Finished" in first
    assert "Finished" not in second


@pytest.mark.parametrize(
    ("calls", "seconds", "fit"),
    [
        (1, 30.0, 1),  # the first one is being compiled
        (1, 0.001, 2),  # the second came back before the device was through
        (2, 0.4, 4),
        (8, 1.0, 16),
        (100, 2.0, 100),
        (100, 4.0, 50),
        (1, 5.0, 1),
        (4, 0.0, 8),
    ],
)
def test_processes_ask_each_other_every_two_seconds_or_so(calls, seconds, fit):
    assert devices.calls_that_fit(calls, seconds) == fit


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


def test_cards_of_several_generations_are_refused():
    """JAX on a box of several cards; these stand for its devices."""
    cards = [
        types.SimpleNamespace(device_kind=kind, compute_capability=capability)
        for kind, capability in (("RTX 3090", "8.6"), ("A40", "8.6"), ("L4", "8.9"))
    ]
    devices.check_alike(cards[:2])
    devices.check_alike([object(), object()])  # CPUs and TPUs have none
    with pytest.raises(UserError, match=r"A40 and L4 cannot train .* --devices one"):
        devices.check_alike(cards)


def test_faces_that_the_device_has_no_memory_for_stay_on_the_host(monkeypatch, capsys):
    class Full(devices.Device):
        def _copy(self, array):
            raise RuntimeError(f"RESOURCE_EXHAUSTED: {array.nbytes} bytes")

    monkeypatch.setattr(hardware, "has_room", lambda size: True)
    faces = np.zeros((4, 8, 8, 3), "uint8")
    assert Full().hold(faces) is None
    assert "on the device" not in capsys.readouterr().out
    assert (np.asarray(devices.Device().hold(faces)) == faces).all()


def test_one_device_takes_whole_batches_and_asks_nobody():
    device = devices.Device()
    assert device.share_of(8) == slice(0, 8)
    assert (device.from_first("mine"), device.largest(3)) == ("mine", 3)
    assert device.signal(signal.SIGTERM) == signal.SIGTERM
    handed = device.hand_over({"decay": np.zeros(3, "float32")})
    assert handed["decay"].shape == (3,)
