"""What a run trains on: one device, or on JAX all those of all its processes.

Several devices form one mesh. Every variable is on all of them, and every batch is cut
along its faces; the compiler adds what they have to tell each other, so that batch
normalization and the losses are those of the whole batch.
"""

import contextlib
import io
import json
import os
import sys
import traceback

import numpy as np

from dcgan.common.console import UserError, quiet_stderr
from dcgan.networks.backend import keras


class Device:
    """A single device. It answers for several what there is to ask of them, too."""

    count = 1
    is_first = True  # of several processes, the one that writes files
    summary = ""  # what the line on the device has to say besides
    replicated = None  # how JAX lays out what is on every device

    def share_of(self, batch_size):
        """Return the slice of each batch that this process has to bring."""
        return slice(0, batch_size)

    def hand_over(self, batches):
        """Copy {name: (K, ...) array} to the device."""
        return {name: keras.ops.convert_to_tensor(batches[name]) for name in batches}

    def replicate(self, variables):
        """Put every variable on all devices."""

    def from_first(self, value):
        """Return the JSON-able value that the first process gave."""
        return value

    def largest(self, number):
        """Return the largest of the whole numbers that the processes gave."""
        return number

    def together(self):
        """Return a context for the whole of a run."""
        return contextlib.nullcontext()

    def agree(self, facts):
        """Raise UserError if the processes of a run differ in the facts, a dict."""
        theirs = self.from_first(facts)
        different = [name for name in facts if theirs[name] != facts[name]]
        if self.largest(len(different)):
            named = f"{different[0]} differs here" if different else "another's differ"
            raise UserError(
                f"All processes of a run need the same constants and pictures: {named}."
            )


class Mesh(Device):
    """All devices of all processes, on JAX."""

    def __init__(self):
        import jax
        from jax.experimental import multihost_utils

        self.jax, self.processes = jax, multihost_utils
        self.count = jax.device_count()
        self.is_first = jax.process_index() == 0
        processes = jax.process_count()
        self.summary = f" {self.count} devices in {processes} processes train."
        # Not jax.make_mesh: it refuses devices of several hosts, and its axes are of
        # a kind that dropout cannot work on
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
        spec = jax.sharding.PartitionSpec
        self.replicated = jax.NamedSharding(mesh, spec())
        self.cut = jax.NamedSharding(mesh, spec(None, None, "batch"))

    @contextlib.contextmanager
    def together(self):
        """Let only the first process print, and none wait for one that failed."""
        silent = contextlib.redirect_stdout(io.StringIO())
        try:
            with contextlib.nullcontext() if self.is_first else silent:
                yield
        except BaseException as error:
            if self.jax.process_count() == 1 or _is_agreed(error):
                raise
            # At the end JAX would wait minutes for the others, who wait for this one
            if isinstance(error, UserError):
                print(error, file=sys.stderr, flush=True)
            else:
                traceback.print_exc()
            os._exit(1)

    def share_of(self, batch_size):
        share = batch_size // self.jax.process_count()
        first = self.jax.process_index() * share
        return slice(first, first + share)

    def hand_over(self, batches):
        """Cut arrays (K, steps, B, ...) along their faces; (K,) ones go everywhere."""
        return {
            name: self.jax.make_array_from_process_local_data(
                self.cut if array.ndim > 2 else self.replicated, array
            )
            for name, array in batches.items()
        }

    def replicate(self, variables):
        values = [np.asarray(variable.value) for variable in variables]
        if self.jax.process_count() > 1:
            values = self.processes.broadcast_one_to_all(values)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(
                self.jax.make_array_from_process_local_data(
                    self.replicated, np.asarray(value)
                )
            )

    def from_first(self, value):
        if self.jax.process_count() == 1:
            return value
        words = np.frombuffer(json.dumps(value).encode(), np.uint8)
        length = int(self.processes.broadcast_one_to_all(np.int32(len(words))))
        words = np.resize(words, length) if self.is_first else np.zeros(length, "uint8")
        return json.loads(bytes(np.asarray(self.processes.broadcast_one_to_all(words))))

    def largest(self, number):
        if self.jax.process_count() == 1:
            return number
        return int(self.processes.process_allgather(np.int32(number)).max())


def _is_agreed(error):
    """Tell whether all processes end in this way, as they do after Ctrl-C."""
    return isinstance(error, SystemExit) and isinstance(error.code, int)


def find(which, batch_size):
    """Return the Device to train on: which is "all" or "one".

    Joins the other processes of the run first, where there are any; to be called before
    JAX is used. Raises UserError if they do not find each other, or if the devices
    cannot share a batch evenly.
    """
    _join()
    if keras.backend.backend() != "jax":
        return Device()
    import jax

    with quiet_stderr():  # JAX wakes up here, and may tell all about it
        count = jax.device_count()
    if jax.process_count() == 1 and (which == "one" or count == 1):
        return Device()
    if batch_size % count:
        raise UserError(
            f"A batch of {batch_size} faces cannot be shared evenly by {count} devices."
            f" Try --batch-size {-(-batch_size // count) * count}, or --devices one."
        )
    return Mesh()


def _join():
    """Join the other processes of this run, if JAX_COORDINATOR_ADDRESS names a place.

    JAX_NUM_PROCESSES and JAX_PROCESS_ID say how many there are and which this one is,
    where no cluster (Slurm, Open MPI) says so.
    """
    if not os.environ.get("JAX_COORDINATOR_ADDRESS"):
        return
    if keras.backend.backend() != "jax":
        raise UserError(
            "JAX_COORDINATOR_ADDRESS is set, and training by several processes needs "
            "JAX: KERAS_BACKEND=jax"
        )
    import jax

    variables = {
        "num_processes": "JAX_NUM_PROCESSES",
        "process_id": "JAX_PROCESS_ID",
    }
    try:
        numbers = {
            option: int(os.environ[variable])
            for option, variable in variables.items()
            if variable in os.environ
        }
        jax.distributed.initialize(**numbers)
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(
            f"The processes of this run did not join: {error} Each needs "
            "JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID."
        ) from error
