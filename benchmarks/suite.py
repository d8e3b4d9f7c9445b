"""The suite as a contestant: train.py's own epochs, and the ceiling above them."""

import dataclasses
import functools
import itertools
import json
import os
from pathlib import Path

import numpy as np

import train
from benchmarks import on_keras, operations
from benchmarks.workers import faces_for
from dcgan.common.options import current
from dcgan.runs.run import open_run
from dcgan.training import compiled, devices, hardware
from dcgan.training.batches import Batches
from dcgan.training.beside import Beside
from dcgan.training.progress import EpochBar, Progress
from dcgan.training.scoring import Scorer
from preprocess import Prepared, open_faces

# Faces of an epoch on a GPU, which holds them, about
HELD = 2**16


def through_train(spec):
    """Train as train.py does: reading, logging, bar and all, an epoch a round, or
    several of as many faces as a GPU holds.
    """
    gan, device = _build(spec)
    steps, _ = train.steps_per_call()
    fed = compiled.Calls(gan, train.five_steps, device, steps)
    progress, end_epoch = Progress(), _end_of_epoch(spec, gan, device)

    @functools.lru_cache(maxsize=1)
    def epoch_of(count):
        batches = _batches(_on_disk(spec, count), device)
        if batches.held is None:
            return batches, fed
        # What takes faces from an array is compiled for one of just this length
        return batches, compiled.Calls(
            gan, train.five_steps, device, steps, batches.held
        )

    def prepare(iterations):
        call = steps * spec.batch
        count = iterations * spec.batch
        if hardware.has_gpu():
            count = call * max(1, HELD // call)
        batches, calls = epoch_of(count)

        def run():
            # The loop of train.train, without checkpoints and Ctrl-C
            left_to_do = iterations
            while left_to_do > 0:
                progress.take_up(Progress().as_dict())
                bar = EpochBar(progress, 1, batches, device)
                with bar, batches.left_of_epoch(progress) as left:
                    is_all = left_to_do >= len(batches)
                    some = itertools.islice(
                        left, None if is_all else left_to_do // steps
                    )
                    for batch in bar.wait_for(some):
                        bar.add(calls.start(batch))
                    bar.add(calls.finish())
                left_to_do -= progress.iteration

        return run

    def finish():
        end_epoch(dataclasses.replace(progress))

    return _contestant(spec, gan, prepare, finish=finish)


def ceiling(spec):
    """Train on batches that lie on the device already, and read or log nothing."""
    gan, device = _build(spec)
    steps, _ = train.steps_per_call()
    batches = _batches(faces_for(spec, spec.batch * steps), device)
    make = compiled.plain if steps == 1 else compiled.fused
    call = make(gan, train.five_steps, faces=batches.held)
    with batches.left_of_epoch(Progress()) as left:
        batch = next(left)

    def prepare(iterations):
        def run():
            for _ in range(iterations // steps):
                scores = call(batch)
            float(scores["g_loss"][-1])  # waits for the device

        return run

    return _contestant(spec, gan, prepare)


def _build(spec):
    """Set train.py's constants; return the Gan and the Device."""
    on_keras.register_tiny()
    train.IMAGE_SIZE, train.BATCH_SIZE = spec.image_size, spec.batch
    train.STEPS_PER_CALL = 1 if spec.contestant.endswith("plain") else spec.steps
    if spec.xla:
        compiled.xla_helps = lambda: True
    return train.build(spec.precision), devices.find("one", spec.batch)


def _contestant(spec, gan, prepare, **more):
    networks = gan.generator, gan.discriminator
    work = operations.of_iteration(*networks, spec.batch, spec.precision)._asdict()
    unit, _ = train.steps_per_call()
    return on_keras.contestant(prepare, *networks, unit, work=work, **more)


def _batches(faces, device):
    steps, _ = train.steps_per_call()
    return Batches(faces, train.chance(), train.schedules(), steps, device)


@functools.lru_cache(maxsize=1)
def _on_disk(spec, count):
    """Write `count` faces to a file and map it, as preprocess.py and train.py do.

    Round after round takes the same file.
    """
    path = f"{spec.faces}-{os.getpid()}.npy"
    np.save(path, faces_for(spec, count))
    return np.load(path, mmap_mode="r")


def _end_of_epoch(spec, gan, device):
    """Return a function of a Progress that ends its epoch as train.py does, unscored.

    It saves into a run folder beside the faces.
    """
    path = Path(spec.faces)
    facts = json.loads(path.with_suffix(".json").read_text())
    pictures = Prepared(path, "cartoons", facts["count"], facts)
    begun_with = {"backend": spec.backend, "batch_size": spec.batch}
    begun_with |= {name: facts[name] for name in ("count", "checksum")}
    folder = f"{spec.faces}-{os.getpid()}-run"
    run = open_run(folder, current(train), "", device)
    with run.begin(begun_with, "", pictures, gan):
        faces, samples = open_faces(pictures), train.SCORE_SAMPLES
        scorer = Scorer("none", faces, samples, train.SEED, device)

    def end(progress):
        with Beside() as beside:
            train.finish_epoch(run, gan, device, progress, scorer, beside)

    return end
