"""What a run trains on: one device, or on JAX all those of all its processes.

Several devices form one mesh. Every variable is on all of them, and every batch is cut
along its faces; the compiler adds what they have to tell each other, so that batch
normalization and the losses are those of the whole batch.
"""

import contextlib
import io
import json
import time

import numpy as np

from dcgan.common.console import UserError, is_out_of_memory
from dcgan.common.options import typed
from dcgan.networks.backend import keras
from dcgan.training import hardware, processes

ASK_EVERY = 2  # seconds between two times that processes tell each other of a Ctrl-C


class DifferError(UserError):
    """A fault that all processes find, and end by, at the same place."""


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

    def hold(self, faces):
        """Copy faces (N, S, S, C) uint8 to the device; None if they do not fit."""
        if not hardware.has_room(faces.nbytes):
            return None
        try:
            held = self._copy(np.asarray(faces))
            keras.ops.convert_to_numpy(held[:1])  # JAX copies meanwhile, or fails
        except Exception as error:  # others may have the memory
            if not is_out_of_memory(error):
                raise
            return None
        print(f"Faces     on the device: {faces.nbytes / 1e9:.2f} GB.", flush=True)
        return held

    def _copy(self, array):
        return keras.ops.convert_to_tensor(array)

    def replicate(self, variables):
        """Put every variable on all devices."""

    def from_first(self, value):
        """Return the JSON-able value that the first process gave."""
        return value

    def largest(self, number):
        """Return the largest of the whole numbers that the processes gave."""
        return number

    def signal(self, own):
        """Return the signal that some process got, `own` in this one; 0 if none did.

        Asked before every call. Several processes hear of it before the same one.
        """
        return own

    def together(self):
        """Return a context for the whole of a run."""
        return contextlib.nullcontext()

    def agree(self, facts):
        """Raise DifferError if the processes of a run differ in the facts, a dict."""
        theirs = self.from_first(facts)
        different = [name for name in facts if theirs[name] != facts[name]]
        if self.largest(len(different)):
            named = f"{different[0]} differs here" if different else "another's differ"
            raise DifferError(
                f"All processes of a run need the same constants and pictures: {named}."
            )


class Mesh(Device):
    """All devices of all processes, on JAX."""

    def __init__(self):
        import jax
        from jax.experimental import multihost_utils

        self.jax, self.utils = jax, multihost_utils
        self.count = jax.device_count()
        self.is_first = jax.process_index() == 0
        self.calls = self.calls_left = 1  # until the processes tell each other again
        self.asked = time.monotonic()
        self.summary = (
            f" {in_words(self.count, 'device')} in "
            f"{in_words(jax.process_count(), 'process', 'es')}, "
            f"{jax.local_device_count()} of them here."
        )
        # Not jax.make_mesh: it refuses devices of several hosts, and its axes are of
        # a kind that dropout cannot work on
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
        spec = jax.sharding.PartitionSpec
        self.replicated = jax.NamedSharding(mesh, spec())
        self.cut = jax.NamedSharding(mesh, spec(None, None, "batch"))

    @contextlib.contextmanager
    def together(self):
        """Let only the first process print, and none wait for one that failed."""
        if self.jax.process_count() == 1:
            yield
            return
        watch = processes.Watch(self, self.jax.process_count())
        silent = contextlib.redirect_stdout(io.StringIO())
        try:
            with contextlib.nullcontext() if self.is_first else silent:
                yield
        except BaseException as error:
            if not _is_agreed(error):
                watch.give_up(error)
            raise
        finally:
            watch.end_well()

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

    def hold(self, faces):
        # Of several hosts each would have to have the same array at hand
        return super().hold(faces) if self.jax.process_count() == 1 else None

    def _copy(self, array):
        return self.jax.device_put(array, self.replicated)

    def replicate(self, variables):
        values = [np.asarray(variable.value) for variable in variables]
        if self.jax.process_count() > 1:
            values = self.utils.broadcast_one_to_all(values)
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
        length = int(self.utils.broadcast_one_to_all(np.int32(len(words))))
        words = np.resize(words, length) if self.is_first else np.zeros(length, "uint8")
        return json.loads(bytes(np.asarray(self.utils.broadcast_one_to_all(words))))

    def largest(self, number):
        if self.jax.process_count() == 1:
            return number
        return int(self.utils.process_allgather(np.int32(number)).max())

    def signal(self, own):
        if self.jax.process_count() == 1:
            return own
        self.calls_left -= 1
        if self.calls_left:
            return 0
        fit = calls_that_fit(self.calls, time.monotonic() - self.asked)
        told = self.utils.process_allgather(np.array([own, fit], np.int32))
        self.calls = self.calls_left = int(told[:, 1].min())  # alike in all of them
        self.asked = time.monotonic()
        return int(told[:, 0].max())


def calls_that_fit(calls, seconds):
    """Return how many calls fit in ASK_EVERY seconds if so many took `seconds`.

    At most twice as many: a call returns before the device is through, and the first
    few tell little.
    """
    return max(1, min(2 * calls, int(calls * ASK_EVERY / max(seconds, 1e-6))))


def in_words(count, noun, plural="s"):
    return f"{count} {noun}{plural if count != 1 else ''}"


def check_alike(devices):
    """Raise UserError if JAX's devices are of several generations: it makes one program
    for all of them, which only those of the first's would run.
    """
    kinds = {getattr(each, "compute_capability", ""): each for each in devices}
    if len(kinds) > 1:
        named = " and ".join(each.device_kind for each in kinds.values())
        raise UserError(
            f"{named} cannot train together: they are of several generations. Choose "
            "some by CUDA_VISIBLE_DEVICES, or take --devices one."
        )


def _is_agreed(error):
    """Tell whether all processes end in this way, as they do after Ctrl-C."""
    has_code = isinstance(error, SystemExit) and isinstance(error.code, int)
    return has_code or isinstance(error, DifferError)


def find(which, batch_size):
    """Return the Device to train on: which is "all" or "one".

    Joins the other processes of the run first, where there are any; to be called before
    JAX is used. Raises UserError if they do not find each other, or if the devices
    cannot share a batch evenly, or batch norm has one face to compare.
    """
    if batch_size < 2:
        raise UserError("BATCH_SIZE = 1: batch norm needs 2. Try --batch-size 32")
    processes.join()
    if keras.backend.backend() != "jax":
        return Device()
    import jax

    hardware.keep_compiled()  # JAX wakes up there, and tells all about it
    count = jax.device_count()
    if jax.process_count() == 1 and (which == "one" or count == 1):
        return Device()
    check_alike(jax.local_devices())
    if batch_size % count:
        raise UserError(
            f"A batch of {batch_size} faces cannot be shared evenly by {count} devices."
            f" Try {typed(batch_size=-(-batch_size // count) * count)}"
            f"{', or --devices one' if jax.process_count() == 1 else ''}."
        )
    return Mesh()
