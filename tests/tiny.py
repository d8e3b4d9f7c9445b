"""A tiny run, and how tests look at what a run leaves."""

import csv
import json
from pathlib import Path

import h5py

import train
from dcgan.common.options import current
from dcgan.runs import checkpoints, generators
from dcgan.training import compiled

TINY = {
    "DATA": "cartoons",
    "IMAGE_SIZE": 28,
    "IMAGES": 40,
    "WIDTH": 0.25,  # narrower ones draw so little that the alarm is raised
    "BATCH_SIZE": 8,
    "EPOCHS": 2,
    "SAMPLES": 20,
    "EPOCH_END_SHARE": 1.0,
    "STEPS_PER_CALL": 5,  # an epoch
    "SCORE": "mmd",  # on any machine
    "PRECISION": "float32",  # likewise
    "RUN": "runs/tiny",
}


def set_constants(patch):
    """Set train.py's constants to TINY, until the patch is undone."""
    for name, value in {**current(train), **TINY}.items():
        patch.setattr(train, name, value)


def final(run="runs/tiny"):
    """Read the arrays of the newest checkpoint: all weights and optimizer states."""
    return checkpoints.read(checkpoints.paths(run)[-1])[0]


def progress_of(run="runs/tiny"):
    """Read the progress of the newest checkpoint, a dict."""
    return checkpoints.read(checkpoints.paths(run)[-1])[1]


def log_of(run="runs/tiny"):
    """Read log.csv as a list of dicts of text."""
    with open(f"{run}/log.csv", newline="") as file:
        return list(csv.DictReader(file))


def constants_of(run="runs/tiny"):
    """Read constants.json."""
    return json.loads(Path(run, "constants.json").read_text())


def generators_of(run="runs/tiny"):
    """Return {"best" or "last": (facts, {name: bytes of an array})} of a run."""
    kept = {}
    for which in generators.NAMES:
        weights, facts = generators.read(run, which)
        arrays = {}

        def add(name, item, arrays=arrays):
            if isinstance(item, h5py.Dataset):
                arrays[name] = item[()].tobytes()

        with h5py.File(weights) as file:
            file.visititems(add)
        kept[which] = facts, arrays
    return kept


def assert_same_bits(arrays, other):
    assert arrays.keys() == other.keys()
    pairs = {name: (arrays[name], other[name]) for name in arrays}
    different = [name for name, (a, b) in pairs.items() if a.tobytes() != b.tobytes()]
    assert different == []


class Reuse:
    """Builds and traces each kind of network once: that is what takes seconds.

    Whoever builds one again gets the same one, with its first values; a training that
    goes on gets no other state from the one before than its folder has.
    """

    NAMES = (
        *("NETWORK", "IMAGE_SIZE", "WIDTH", "SEED", "LOSS", "AUGMENT", "D_NORM", "R1"),
        *("D_STEPS", "G_STEPS", "BETA_1"),
    )

    def __init__(self):
        self.train_build, self.fused = train.build, compiled.fused
        self.gans, self.calls = {}, {}

    def build(self, precision):
        key = (precision, *(getattr(train, name) for name in self.NAMES))
        if key not in self.gans:
            gan = self.train_build(precision)
            first = [variable.numpy() for variable in compiled.variables_of(gan)]
            self.gans[key] = gan, first
        gan, first = self.gans[key]
        for variable, value in zip(compiled.variables_of(gan), first, strict=True):
            variable.assign(value)
        return gan

    def fuse(self, gan, step, replicated=None, faces=None):
        key = id(gan), id(faces)
        if key not in self.calls:
            self.calls[key] = self.fused(gan, step, replicated, faces)
        return self.calls[key]
