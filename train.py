"""Train a DCGAN on faces: python train.py

Real faces and noise go in; every epoch leaves a sheet of samples, the curves, a
checkpoint and the generator in the run folder. Ctrl-C stops, the same command goes on.
"""

import contextlib
import math
import os
import shlex
import sys
import time
from pathlib import Path

import numpy as np

import checkpoints
import models
import runs
from device import describe_backend, describe_device
from preprocess import batches, check_enough, checksum_of, name_of, open_faces, prepare
from script import Bar, Stopping, UserError, current, options, run, write_json

# What to learn from
DATA = "celeba"  # "celeba", "cartoons", or a folder, a .zip, a folder of .zips
IMAGE_SIZE = 64  # {28, 32, 64, 128} pixels, width and height
IMAGES = 0  # [0..] use the first so many pictures; 0: all
FLIP = True  # show half of the pictures mirrored

# What learns
NETWORK = "dcgan"  # {dcgan, tutorial, blog} tutorial draws 64 pixels, blog draws 28

# How long
EPOCHS = 25  # [1..] passes over the pictures
BATCH_SIZE = 64  # [2..] real faces an iteration, and as many fakes

# How fast to learn
G_LEARNING_RATE = 2e-4  # (0..1] the DCGAN paper's
D_LEARNING_RATE = 2e-4  # (0..1] the DCGAN paper's; the ratio of the two matters
BETA_1 = 0.5  # [0..1) Adam's default of 0.9 makes training oscillate
AVERAGE_DECAY = 0.999  # [0..1) what is saved averages about 1 / (1 - this) iterations
LABEL_SMOOTHING = 0.0  # [0..0.5] D's label for real faces is 1 minus this
LABEL_FLIPPING = 0.0  # [0..0.5] share of D's labels that are swapped, real for fake

# What a run leaves
RUN = ""  # the run folder; empty: runs/<data>-<size>
SEED = 1  # [0..4294967295] of the first weights, the order, the flips and the noise
SAMPLES = 40  # [1..] faces on the sheet of each epoch
CHECKPOINT_MINUTES = 10.0  # (0..] between checkpoints, besides the one of each epoch
KEEP_CHECKPOINTS = 2  # [1..] newest checkpoints that stay in the run folder

# Constants that may change when a run is continued
FREE = ("DATA", "EPOCHS", "RUN", "CHECKPOINT_MINUTES", "KEEP_CHECKPOINTS")

# What each stream of random numbers is for; 1 and 2 are preprocess.py's
D_NOISE, G_NOISE, LABELS, SHEET, REFERENCE = 3, 4, 5, 6, 7


def main(argv=None):
    constants = options(sys.modules[__name__], argv)
    models.check_size(NETWORK, IMAGE_SIZE)
    device = describe_device()
    print(f"Device    {device}\nBackend   {describe_backend()}", flush=True)
    folder = run_folder()
    runs.check_writable(folder)
    before = runs.read_constants(folder)
    if not checkpoints.folders(folder):
        before = None  # nothing is lost if it begins anew, with other constants maybe
    fixed = {name: constants[name] for name in constants if name not in FREE}
    runs.compare(folder, before and before["constants"], fixed)
    pictures = prepare(DATA, IMAGE_SIZE, IMAGES)
    check_enough(pictures.count, BATCH_SIZE, DATA)
    begun_with = {
        "backend": models.keras.backend.backend(),
        "count": pictures.count,
        "checksum": checksum_of(pictures),
    }
    runs.compare(folder, before and before["begun_with"], begun_with)
    rates = (G_LEARNING_RATE, D_LEARNING_RATE)
    gan = models.build_gan(NETWORK, IMAGE_SIZE, SEED, rates, BETA_1)
    describe(gan, pictures, folder)
    with runs.alone(folder):
        if before is None:
            about = {"constants": constants, "begun_with": begun_with, "device": device}
            write_json(folder / runs.CONSTANTS, {**about, **runs.versions()})
        runs.sweep(folder)
        progress = checkpoints.load(folder, gan) or first_progress()
        train(gan, pictures, folder, progress)


def run_folder():
    """Return RUN, or runs/<data>-<size>, with the network's name unless it is dcgan."""
    if RUN:
        return Path(RUN)
    network = "" if NETWORK == "dcgan" else f"-{NETWORK}"
    return Path("runs") / f"{name_of(DATA)}-{IMAGE_SIZE}{network}"


def describe(gan, pictures, folder):
    """Print what will run."""
    g, d = gan.generator.count_params(), gan.discriminator.count_params()
    count, size = pictures.count, f"{IMAGE_SIZE} x {IMAGE_SIZE}"
    iterations = count // BATCH_SIZE
    lines = (
        f"Pictures  {count:,} of {pictures.name}, {size}, in {pictures.path}",
        f"Networks  {NETWORK}: generator {g:,} parameters, discriminator {d:,}",
        f"Training  {EPOCHS} epochs of {iterations:,} iterations of {BATCH_SIZE}",
        f"Run       {folder}",
    )
    print(*lines, sep="\n", flush=True)


def first_progress():
    """Return how far a new run is: epoch and iteration to do next, sums, log rows."""
    return {
        "epoch": 1,
        "iteration": 0,  # within the epoch
        "iterations": 0,  # of the whole run
        "seconds": 0.0,  # of the epoch so far
        "sums": {},  # of the epoch's scores so far
        "rows": [],  # of the log
    }


def train(gan, pictures, folder, progress):
    """Run the epochs that `progress` leaves to do; Ctrl-C saves and exits with 130."""
    if progress["epoch"] > EPOCHS:
        done = progress["epoch"] - 1
        print(
            f"{folder} is finished: {done} epochs. To train it longer: --epochs "
            f"{2 * done}. To start another run: --run {folder}-2"
        )
        return
    if progress["iterations"]:
        first = f"epoch {progress['epoch']}, iteration {progress['iteration'] + 1}"
        print(f"Continuing {folder} at {first}.")
    faces = open_faces(pictures)
    reference = diversity(some_of(faces))
    try:
        with Stopping() as stopping:
            while progress["epoch"] <= EPOCHS:
                train_epoch(gan, faces, folder, progress, stopping)
                finish_epoch(gan, pictures, folder, progress, reference)
                if stopping.signal and progress["epoch"] <= EPOCHS:
                    stopping.exit(saved_at(progress))
    except FloatingPointError as error:
        raise UserError(diverged(error, folder, progress)) from error
    except Exception as error:
        if models.is_out_of_memory(error):
            raise UserError(too_large(folder)) from error
        raise
    print(f"Finished: {folder}. Draw faces from it: python generate.py --run {folder}")


def train_epoch(gan, faces, folder, progress, stopping):
    """Run what is left of an epoch, adding its scores up in `progress`."""
    epoch, start = progress["epoch"], progress["iteration"]
    per_epoch = len(faces) // BATCH_SIZE
    feed = batches(faces, BATCH_SIZE, SEED, epoch, start=start, flip=FLIP)
    bar = Bar(
        total=per_epoch * BATCH_SIZE,
        initial=start * BATCH_SIZE,
        desc=f"Epoch {epoch}/{EPOCHS}",
        unit=" pictures",
    )
    saved = began = time.monotonic()
    with bar, contextlib.closing(feed):
        for iteration, real in enumerate(feed, start):
            scores = five_steps(gan, real, epoch, iteration)
            decay = models.average_decay(progress["iterations"] + 1, AVERAGE_DECAY)
            models.update_average(gan.average, gan.generator, decay)
            now = time.monotonic()
            count(progress, scores, now - began)
            began = now
            show(bar, scores, EPOCHS - epoch)
            due = stopping.signal or now - saved > CHECKPOINT_MINUTES * 60
            if due and iteration + 1 < per_epoch:
                checkpoints.save(folder, gan, progress, KEEP_CHECKPOINTS)
                began = saved = time.monotonic()
                if stopping.signal:
                    stopping.exit(saved_at(progress))


def five_steps(gan, real, epoch, iteration):
    """Train both networks on one batch; return {score: float}.

    real: (B, S, S, 3) uint8. The random numbers depend on SEED, epoch and iteration
    alone. The scores are the losses and the shares of real and of fake faces that D
    judged right.
    """
    # 1. Take real faces: the batch we were given.
    # 2. Make fakes from noise.
    fake = models.make_fakes(gan.generator, noise(D_NOISE, epoch, iteration))
    # 3. Train the discriminator on both, real labelled 1, fake 0; only it moves.
    d = gan.judge.train_on_batch(
        {"real": models.as_tensor(real), "fake": fake},
        labels(epoch, iteration),
        return_dict=True,
    )
    # 4. Draw fresh noise.
    fresh = noise(G_NOISE, epoch, iteration)
    # 5. Train d_on_g on it, labelled 1: to make D say "real"; only the generator moves.
    g = gan.d_on_g.train_on_batch(fresh, np.ones((len(fresh), 1), "float32"))
    return {
        "d_loss": float(d["loss"]),
        "g_loss": float(g),
        "real_accuracy": float(d["real_share_called_real"]),
        "fake_accuracy": float(d["fake_share_called_fake"]),
    }


def noise(purpose, epoch, iteration):
    """Draw noise (BATCH_SIZE, LATENT) float32, uniform on [-1, 1]."""
    random = np.random.default_rng((SEED, purpose, epoch, iteration))
    return random.uniform(-1, 1, (BATCH_SIZE, models.LATENT)).astype("float32")


def labels(epoch, iteration):
    """Return D's labels {"real", "fake"}: (BATCH_SIZE, 1) float32, 1 and 0.

    LABEL_SMOOTHING lowers those of real faces (Salimans et al. 2016, one-sided);
    LABEL_FLIPPING then swaps that share of the labels of both.
    """
    real = np.full((BATCH_SIZE, 1), 1 - LABEL_SMOOTHING, "float32")
    fake = np.zeros((BATCH_SIZE, 1), "float32")
    if LABEL_FLIPPING:
        random = np.random.default_rng((SEED, LABELS, epoch, iteration))
        swap = random.random((2, BATCH_SIZE, 1)) < LABEL_FLIPPING
        real, fake = np.where(swap[0], fake, real), np.where(swap[1], real, fake)
    return {"real": real, "fake": fake}


def count(progress, scores, seconds):
    """Add one iteration to `progress`. Raises FloatingPointError at a NaN."""
    for name, score in scores.items():
        if not math.isfinite(score):
            raise FloatingPointError(f"{name} is {score}")
        progress["sums"][name] = progress["sums"].get(name, 0.0) + score
    progress["iteration"] += 1
    progress["iterations"] += 1
    progress["seconds"] += seconds


def show(bar, scores, epochs_left):
    """Move an epoch's bar on by a batch, and tell the time left for the whole run."""
    bar.update(BATCH_SIZE)
    seconds = bar.format_dict["elapsed"] / (bar.n - bar.initial)  # for a picture
    left = seconds * (bar.total - bar.n + bar.total * epochs_left)
    bar.set_postfix_str(
        f"D {scores['d_loss']:.3f}, G {scores['g_loss']:.3f}, "
        f"run {Bar.format_interval(left)} left",
        refresh=False,
    )


def finish_epoch(gan, pictures, folder, progress, reference):
    """Write the epoch's sheet, log row, curves, generator and, last, checkpoint.

    Killed before the checkpoint is there, a run does the epoch's end once more.
    """
    checkpoints.finite_arrays(gan)
    sheet = models.draw(gan.average, sheet_noise())
    epoch, iterations = progress["epoch"], progress["iteration"]
    row = {"epoch": epoch}
    row |= {name: sum_ / iterations for name, sum_ in progress["sums"].items()}
    row["diversity"] = diversity(sheet) / reference if reference else 0.0
    row["pictures_per_second"] = iterations * BATCH_SIZE / progress["seconds"]
    row["seconds"] = progress["seconds"]
    progress |= {
        "epoch": epoch + 1,
        "iteration": 0,
        "seconds": 0.0,
        "sums": {},
        "rows": [*progress["rows"], row],
    }
    runs.save_sheet(folder, epoch, sheet)
    runs.save_log(folder, progress["rows"])
    runs.save_generator(folder, gan.average, about_generator(pictures, progress))
    checkpoints.save(folder, gan, progress, KEEP_CHECKPOINTS)


def about_generator(pictures, progress):
    """Return what generator.json says of the generator of this epoch."""
    epochs = progress["epoch"] - 1
    facts = ("source", "crop", "filter", "checksum")
    return {
        "network": NETWORK,
        "image_size": IMAGE_SIZE,
        "latent": models.LATENT,
        "backend": models.keras.backend.backend(),
        "averaged": True,
        "data": {"name": pictures.name, "count": pictures.count}
        | {fact: pictures.about[fact] for fact in facts},
        "epochs": epochs,
        "iterations": progress["iterations"],
        "pictures_shown": progress["iterations"] * BATCH_SIZE,
        "seed": SEED,
        "constants": current(sys.modules[__name__]),
        **runs.versions(),
    }


def sheet_noise():
    """Draw the noise (SAMPLES, LATENT) float32 of every epoch's sheet."""
    random = np.random.default_rng((SEED, SHEET))
    return random.uniform(-1, 1, (SAMPLES, models.LATENT)).astype("float32")


def some_of(faces):
    """Pick up to 200 of the real faces (N, S, S, 3) uint8."""
    random = np.random.default_rng((SEED, REFERENCE))
    return faces[np.sort(random.permutation(len(faces))[:200])]


def diversity(faces):
    """Return the mean distance between two of the faces (n, S, S, 3) uint8.

    Root mean square over pixels and channels, in 0 .. 255. It falls when the samples
    grow alike. A single face has 0.
    """
    flat = faces.reshape(len(faces), -1).astype("float64")
    squares = (flat**2).sum(1)
    between = squares[:, None] + squares - 2 * flat @ flat.T
    pairs = len(faces) * (len(faces) - 1)
    return float(np.sqrt(between.clip(0) / flat.shape[1]).sum() / max(pairs, 1))


def saved_at(progress):
    """Say what a stopped run saved, and how to continue it."""
    backend = os.environ.get("KERAS_BACKEND")
    command = f"KERAS_BACKEND={backend} " if backend else ""
    command += shlex.join(["python", *sys.argv])
    return (
        f"Stopped and saved before epoch {progress['epoch']}, iteration "
        f"{progress['iteration'] + 1}. To continue: {command}"
    )


def too_large(folder):
    """Say what to do when the device's memory is too small."""
    again = f" --run {folder}-2" if checkpoints.folders(folder) else ""
    return (
        f"Out of memory with {BATCH_SIZE} faces of {IMAGE_SIZE} x {IMAGE_SIZE} a "
        f"batch. Try --batch-size {max(2, BATCH_SIZE // 2)}{again}"
    )


def diverged(error, folder, progress):
    """Say what happened, what is kept, and what to try."""
    kept = checkpoints.folders(folder)
    last = f"{kept[-1]} is the last good checkpoint. " if kept else ""
    return (
        f"Training diverged in epoch {progress['epoch']}, iteration "
        f"{progress['iteration'] + 1}: {error}. {last}Try lower learning rates: "
        f"--run {folder}-2 --g-learning-rate {G_LEARNING_RATE / 2:g} "
        f"--d-learning-rate {D_LEARNING_RATE / 2:g}"
    )


if __name__ == "__main__":
    run(main)
