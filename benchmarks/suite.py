"""The suite as a contestant: train.py's own epochs, and the ceiling above them."""

import functools
import json
import os
import types
from pathlib import Path

import numpy as np

import train
from benchmarks import operations, tiny
from benchmarks.workers import Contestant, faces_for
from dcgan.training import compiled, devices
from dcgan.training.progress import first
from preprocess import Prepared


def through_train(spec):
    """Train as train.py does: reading, logging, bar and all, an epoch a round."""
    training = _training(spec)
    progress = first()

    def prepare(iterations):
        faces = _on_disk(spec, iterations * spec.batch)

        def run():
            progress.update(first())
            stopping = types.SimpleNamespace(signal=0)
            train.train_epoch(training._replace(faces=faces), progress, stopping)

        return run

    def finish():
        train.finish_epoch(training, dict(progress))

    return _contestant(spec, training.gan, prepare)._replace(finish=finish)


def ceiling(spec):
    """Train on batches that lie on the device already, and read or log nothing."""
    training = _training(spec)
    faces = faces_for(spec, spec.batch * train.steps_per_call())
    ahead = train.batches_ahead(training._replace(faces=faces), first())
    batches = next(ahead)
    ahead.close()

    def prepare(iterations):
        def run():
            for _ in range(iterations // train.steps_per_call()):
                scores = training.call(batches)
            float(scores["g_loss"][-1])  # waits for the device

        return run

    return _contestant(spec, training.gan, prepare)


def _training(spec):
    """Set train.py's constants, and build what stays the same from round to round."""
    tiny.register()
    train.IMAGE_SIZE, train.BATCH_SIZE = spec.image_size, spec.batch
    train.STEPS_PER_CALL = 1 if spec.contestant.endswith("plain") else spec.steps
    train.CHECKPOINT_MINUTES = 1e9  # an epoch of a round has none in between
    if spec.xla:
        compiled._xla_helps = lambda: True
    gan = train.build(spec.precision)
    ours = devices.choose("one", spec.batch)
    about = json.loads(Path(spec.faces).with_suffix(".json").read_text())
    pictures = Prepared(Path(spec.faces), "cartoons", about["count"], about)
    folder = Path(f"{spec.faces}-{os.getpid()}-run")
    call = train.call_of(gan, ours)
    return train.Training(gan, call, ours, pictures, None, folder, 1.0)


def _contestant(spec, gan, prepare):
    networks = (gan.generator, gan.discriminator)
    return Contestant(
        prepare,
        train.steps_per_call(),
        tuple(network.count_params() for network in networks),
        devices.describe_device(),
        operations.of_iteration(*networks, spec.batch, spec.precision)._asdict(),
    )


@functools.lru_cache(maxsize=1)
def _on_disk(spec, count):
    """Write `count` faces to a file and map it, as preprocess.py and train.py do.

    Round after round takes the same file.
    """
    path = f"{spec.faces}-{os.getpid()}.npy"
    np.save(path, faces_for(spec, count))
    return np.load(path, mmap_mode="r")
