"""Who starts several processes, and what each is told and takes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from dcgan.common.console import UserError
from dcgan.training import processes

SUITE = Path(__file__).parents[2]

GIVEN = {
    "JAX_COORDINATOR_ADDRESS": "first:1234",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}
TAKEN = {
    "coordinator_address": "first:1234",
    "num_processes": 2,
    "process_id": 1,
    "cluster_detection_method": "deactivate",
}


def slurm(count, place, tasks="1(x2)", **more):
    """Return the environment of a task of srun: the last one of `count` on its node."""
    here = int(tasks[0])
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": str(count),
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_PROCID": str(place),
        "SLURM_NODEID": str(place // here),
        "SLURM_LOCALID": str(place % here),
        **more,
    }


OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
SALLOC = slurm(1, 0, "1", SLURM_NTASKS="2")
SBATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    ("environment", "gpus", "launcher", "told"),
    [
        ({}, 8, "", {}),
        (GIVEN, 8, "JAX_COORDINATOR_ADDRESS", TAKEN),
        # A shell, and a batch script, are one process each, whatever the job asks for
        (SALLOC, 8, "", {}),
        (SBATCH, 8, "", {}),
        (slurm(1, 0, "1"), 8, "", {}),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, 8, "", {}),
        # Two nodes of one GPU or of eight
        (slurm(2, 1), 1, "Slurm", []),
        (slurm(2, 1), 8, "Slurm", []),
        # Two tasks on a node: they share its GPUs, unless each was given its own
        (slurm(2, 1, "2"), 2, "Slurm", [1]),
        (slurm(2, 1, "2"), 8, "Slurm", [4, 5, 6, 7]),
        (slurm(2, 0, "2"), 8, "Slurm", [0, 1, 2, 3]),
        (slurm(2, 1, "2"), 1, "Slurm", []),
        (slurm(2, 1, "2"), 0, "Slurm", []),
        (slurm(2, 1, "2", SLURM_GPUS_PER_TASK="2"), 2, "Slurm", []),
        (slurm(2, 1, "2", SLURM_TRES_PER_TASK="cpu=4,gres/gpu=2"), 2, "Slurm", []),
        (slurm(2, 1, "2", SLURM_TRES_PER_TASK="cpu=4"), 2, "Slurm", [1]),
        (slurm(2, 1, "2", SLURM_GPU_BIND="single:1"), 2, "Slurm", []),
        (slurm(2, 1, "2", SLURM_GPU_BIND="none"), 2, "Slurm", [1]),
        (slurm(16, 11, "8(x2)"), 8, "Slurm", [3]),
        (slurm(3, 2, "2,1", SLURM_NODEID="1"), 8, "Slurm", []),
        (OPEN_MPI, 4, "Open MPI", [2, 3]),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, 0, "Cloud TPU", {}),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 0, "", {}),
    ],
)
def test_each_process_knows_how_many_they_are_and_takes_its_gpus(
    environment, gpus, launcher, told
):
    if isinstance(told, list):
        count, place = (environment[name] for name in processes.LAUNCHERS[launcher])
        told = {"local_device_ids": told}
        told |= {"num_processes": int(count), "process_id": int(place)}
    assert processes.found(environment, lambda: gpus) == (launcher, told)


def test_what_is_given_goes_before_what_a_launcher_says():
    environment = {**slurm(4, 3, "2(x2)"), **GIVEN}
    told = {**TAKEN, "local_device_ids": [1]}
    assert processes.found(environment, lambda: 2) == ("Slurm", told)
    del environment["JAX_NUM_PROCESSES"], environment["JAX_PROCESS_ID"]
    told |= {"num_processes": 4, "process_id": 3}
    assert processes.found(environment, lambda: 2) == ("Slurm", told)
    environment["JAX_LOCAL_DEVICE_IDS"] = "0"  # which JAX itself reads
    del told["local_device_ids"]
    assert processes.found(environment, lambda: 2) == ("Slurm", told)


@pytest.mark.parametrize("missing", GIVEN)
def test_too_little_that_is_given_is_named(monkeypatch, missing):
    for name in GIVEN.keys() - {missing}:
        monkeypatch.setenv(name, GIVEN[name])
    with pytest.raises(UserError, match=f"did not join: {missing} is not set. Each ne"):
        processes.join()


def test_tasks_per_node_are_read_as_slurm_writes_them():
    assert processes.tasks_each("2(x3),1") == [2, 2, 2, 1]
    assert processes.tasks_each("8") == [8]


@pytest.mark.parametrize("environment", [GIVEN, slurm(2, 0), OPEN_MPI])
def test_several_processes_need_jax(monkeypatch, environment):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.setattr(os, "environ", environment)
    with pytest.raises(UserError, match=r"one of several .* JAX: KERAS_BACKEND=jax$"):
        processes.join()


JOIN = """
from dcgan.common.console import run
from dcgan.training import processes
processes.PATIENCE = 1
run(processes.join)
"""


@pytest.mark.devices
@pytest.mark.parametrize("place", ["0", "1"])
def test_a_process_that_the_others_do_not_join_says_so(place):
    pytest.importorskip("jax")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    given = {**GIVEN, "JAX_COORDINATOR_ADDRESS": address, "JAX_PROCESS_ID": place}
    alone = subprocess.run(
        [sys.executable, "-c", JOIN],
        env={**os.environ, **given, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        cwd=SUITE,
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 1
    [line] = alone.stderr.splitlines()
    assert "did not join: not all came within 1 seconds. Each needs JAX_COO" in line
