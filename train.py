"""Train a DCGAN on faces: python train.py

Real faces and noise go in; every epoch leaves a sheet of samples, the curves, a
checkpoint and the generator in the run folder. Ctrl-C stops, the same command goes on.
"""

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import models
from dcgan.common.console import Stopping, UserError, run
from dcgan.common.files import write_json
from dcgan.common.options import current, options
from dcgan.networks import augment, losses
from dcgan.runs import checkpoints, curves, generators
from dcgan.runs import folder as run_folders
from dcgan.runs import fork as branch
from dcgan.scores.metrics import diversity
from dcgan.training import batches as feed
from dcgan.training import compiled as fuse
from dcgan.training import devices
from dcgan.training import scoring as watch
from dcgan.training.alarms import describe as describe_alarms
from dcgan.training.devices import (
    choose_precision,
    describe_backend,
    describe_device,
    has_gpu,
)
from dcgan.training.progress import EpochBar, end_epoch, first, settle
from dcgan.training.schedules import average_decay
from preprocess import (
    Prepared,
    check_enough,
    checksum_of,
    name_of,
    open_faces,
    prepare,
)

# What to learn from
DATA = "celeba"  # "celeba", "cartoons", or a folder, a .zip, a folder of .zips
IMAGE_SIZE = 64  # {28, 32, 64, 128} pixels, width and height
IMAGES = 0  # [0..1000000000] use the first so many pictures; 0: all
FLIP = True  # {True, False} show half of the pictures mirrored

# What learns
NETWORK = "dcgan"  # {dcgan, tutorial, blog} tutorial draws 64 pixels, blog draws 28
WIDTH = 1.0  # (0.0..16.0] times the network's widths
D_NORM = "batch"  # {batch, spectral, none} how the discriminator is normalized

# How long
EPOCHS = 25  # [1..1000000] passes over the pictures
BATCH_SIZE = 0  # [0..65536] real faces an iteration, and as many fakes; 0: by the size

# How fast to learn
G_LEARNING_RATE = 2e-4  # (0.0..1.0] the generator's; this is the DCGAN paper's
D_LEARNING_RATE = 2e-4  # (0.0..1.0] the discriminator's; the ratio of the two matters
BETA_1 = 0.5  # [0.0..1.0) of Adam, whose own default of 0.9 makes training oscillate
LEARNING_RATE_HOLD = 0.0  # [0.0..] epochs before the rates begin to fall, if they do
LEARNING_RATE_HALF_LIFE = 0.0  # [0.0..] epochs in which both rates halve; 0: they stay
AVERAGE_DECAY = 0.999  # [0.0..1) what is saved averages about 1 / (1 - this) iterations

# What to learn by; what was tried, and lost, is in benchmarks/QUALITY.md
LOSS = "cross-entropy"  # {cross-entropy, least-squares, hinge, relativistic}
AUGMENT = ""  # "colour,translation,cutout" or some of these, when pictures are few
R1 = 0.0  # [0.0..] gamma of the gradient penalty, .01 to .1 at 64; needs another D_NORM
LABEL_SMOOTHING = 0.0  # [0.0..0.5] D's label for real faces is 1 minus this
LABEL_FLIPPING = 0.0  # [0.0..0.5] share of D's labels that are swapped, real for fake

# How to compute
STEPS_PER_CALL = 0  # [0..9999] iterations a call of the device; 0: 32 on a GPU, else 4
PRECISION = "auto"  # {auto, float32, bfloat16} auto: bfloat16 on GPUs made for it
DEVICES = "all"  # {all, one} several GPUs need KERAS_BACKEND=jax

# What a run leaves
RUN = ""  # the run folder; empty: runs/<data>-<size>
FROM = ""  # another run's folder: go on from it with another recipe, in a new RUN
SEED = 1  # [0..4294967295] of the first weights, the order, the flips and the noise
SAMPLES = 40  # [1..10000] faces on the sheet of each epoch
CHECKPOINT_MINUTES = 10.0  # (0.0..] between checkpoints, besides the one of each epoch
KEEP_CHECKPOINTS = 2  # [1..1000000] newest that stay, besides that of an epoch's end

# How it is watched
SCORE = "auto"  # {auto, kid, mmd, none} auto: KID on a GPU, else MMD
SCORE_EVERY = 1  # [1..9999] epochs; the generator with the best score is kept
SCORE_SAMPLES = 2000  # [2..99999] of each; of few pictures a tenth, or 200
STOP_ON_COLLAPSE = False  # {True, False} end the run at an alarm; the best weights stay

# Constants that may change when a run is continued: they change its rounding at most
FREE = (
    *("DATA", "EPOCHS", "RUN", "STEPS_PER_CALL", "DEVICES"),
    *("CHECKPOINT_MINUTES", "KEEP_CHECKPOINTS"),
    *("SCORE", "SCORE_EVERY", "STOP_ON_COLLAPSE"),  # or what is told, not the weights
)

# Constants that may differ between the processes of a run
OWN = ("DATA", "RUN", "FROM", "CHECKPOINT_MINUTES", "KEEP_CHECKPOINTS")

# What each stream of random numbers is for; 1 and 2 are feed.py's
D_NOISE, G_NOISE, LABELS, SHEET, REFERENCE = 3, 4, 5, 6, 7
SCORE_NOISE, SCORE_REAL, D_CHANCE, G_CHANCE = 16, 17, 18, 19  # 8 to 12: others'


class Training(NamedTuple):
    """What stays the same from the first epoch to the last."""

    gan: models.Gan
    call: Callable  # many iterations as one call of the device
    devices: devices.One  # or Mesh
    pictures: Prepared
    faces: np.ndarray  # (N, S, S, 3) uint8
    folder: Path
    reference: float  # the diversity of the real faces
    scoring: watch.Scoring | None = None
    changes: tuple = ()  # of its recipe so far, as branch.changes tells them
    checksum: str = ""  # of the pixels of all faces


def main(argv=None):
    global FROM
    options(sys.modules[__name__], argv)
    FROM = str(Path(FROM)) if FROM else ""  # runs/a/ is runs/a
    constants = current(sys.modules[__name__])
    models.check_size(NETWORK, IMAGE_SIZE)
    losses.check_recipe(LOSS, D_NORM, R1, LABEL_SMOOTHING, LABEL_FLIPPING)
    augment.kinds_of(AUGMENT)
    if BATCH_SIZE == 1:
        raise UserError("BATCH_SIZE = 1: batch norm needs 2. Try --batch-size 32")
    devices.join()
    device = describe_device()
    ours = devices.choose(DEVICES, batch_size())
    with ours.together():
        print(
            f"Device    {device}{ours.more}\nBackend   {describe_backend()}", flush=True
        )
        folder = run_folder()
        before = begun_before(folder, constants) if ours.is_first else None
        origin = branch.read(FROM) if FROM and ours.is_first and not before else None
        pictures = prepare(DATA, IMAGE_SIZE, IMAGES)
        check_enough(pictures.count, batch_size(), DATA)
        begun_with = {
            "backend": models.keras.backend.backend(),
            "precision": choose_precision(PRECISION),
            "batch_size": batch_size(),
            "count": pictures.count,
            "checksum": checksum_of(pictures),
            "score": ours.share(watch.choose(SCORE, before or origin, ours.is_first)),
        }
        alike = {name: constants[name] for name in constants if name not in OWN}
        devices.agree(ours, {**alike, **begun_with})
        run_folders.compare(folder, before and before["begun_with"], begun_with)
        if origin:
            branch.check(FROM, origin, constants, begun_with)
        gan = build(begun_with["precision"])
        describe(gan, pictures, folder, begun_with)
        with run_folders.alone(folder) if ours.is_first else contextlib.nullcontext():
            if ours.is_first:  # once more: another run may have been here meanwhile
                before = begun_before(folder, constants)
                run_folders.compare(folder, before and before["begun_with"], begun_with)
            if ours.is_first and before is None:
                about = {"constants": constants, "begun_with": begun_with}
                about |= {"device": device, **run_folders.versions()}
                if origin:
                    branch.begin(FROM, folder, about, FREE)
                else:
                    write_json(folder / run_folders.CONSTANTS, about)
            if ours.is_first:
                checkpoints.check_room(folder, gan, KEEP_CHECKPOINTS)
            progress = continued(gan, folder, ours) or first()
            changes = (
                run_folders.read_constants(folder)["changes"] if ours.is_first else ()
            )
            train(gan, ours, pictures, folder, progress, begun_with, changes)


def begun_before(folder, constants):
    """Return what constants.json says of a run to be continued, or None for a new one.

    Raises UserError if the folder cannot be written, or the run has other constants.
    """
    run_folders.check_writable(folder)
    before = run_folders.read_constants(folder)
    if before and not checkpoints.folders(folder):
        run_folders.check_new(folder, before["changes"], FROM)
        before = None  # nothing is lost if it begins anew, with other constants maybe
    fixed = {name: constants[name] for name in constants if name not in FREE}
    if not FROM:  # it has been gone on from, and is not needed any more
        del fixed["FROM"]
    run_folders.compare(folder, before and {"FROM": "", **before["constants"]}, fixed)
    return before


def batch_size():
    """Return how many real faces an iteration takes: BATCH_SIZE, or what did best.

    At 28 x 28 and 64 x 64, batches of 32 were better than of 64 at equal pictures shown
    (benchmarks/QUALITY.md); at 128 x 128 64 has not been challenged.
    """
    return BATCH_SIZE or (64 if IMAGE_SIZE > 64 else 32)


def build(precision):
    """Build the networks that the constants ask for."""
    rates = (G_LEARNING_RATE, D_LEARNING_RATE)
    recipe = models.Recipe(LOSS, augment.kinds_of(AUGMENT), D_NORM, R1, WIDTH)
    try:
        return models.build_gan(
            NETWORK, IMAGE_SIZE, SEED, rates, BETA_1, precision, recipe
        )
    except Exception as error:
        if models.is_out_of_memory(error):
            raise UserError(too_large(run_folder())) from error
        raise


def continued(gan, folder, ours):
    """Load the newest checkpoint; return its progress, or None for a new run.

    The first process loads, and the others get from it what it has.
    """
    progress = None
    if ours.is_first:
        run_folders.sweep(folder)
        progress = checkpoints.load(folder, gan)
        # The checkpoint has the optimizers' rates, too: those that it was saved with
        models.set_rate(gan.judge, D_LEARNING_RATE)
        models.set_rate(gan.d_on_g, G_LEARNING_RATE)
    ours.replicate(fuse.variables_of(gan))
    return ours.share(progress)


def run_folder():
    """Return RUN, or runs/<data>-<size>, with the network's name unless it is dcgan."""
    if RUN:
        return Path(RUN)
    network = "" if NETWORK == "dcgan" else f"-{NETWORK}"
    return Path("runs") / f"{name_of(DATA)}-{IMAGE_SIZE}{network}"


def describe(gan, pictures, folder, begun_with):
    """Print what will run."""
    g, d = gan.generator.count_params(), gan.discriminator.count_params()
    count, size = pictures.count, f"{IMAGE_SIZE} x {IMAGE_SIZE}"
    iterations = count // batch_size()
    lines = (
        f"Pictures  {count:,} of {pictures.name}, {size}, in {pictures.path}",
        f"Networks  {NETWORK}: generator {g:,} parameters, discriminator {d:,}, "
        f"{begun_with['precision']}",
        f"Training  {generators.in_words(EPOCHS)} of {iterations:,} iterations of "
        f"{batch_size()}",
        f"Scoring   {watch.describe(begun_with['score'], SCORE_SAMPLES, count)}",
        f"Run       {folder}",
    )
    print(*lines, sep="\n", flush=True)


def train(gan, ours, pictures, folder, progress, begun_with, changes):  # noqa: PLR0913
    """Run the epochs that `progress` leaves to do; Ctrl-C saves and exits with 130."""
    if progress["epoch"] > EPOCHS:
        done = progress["epoch"] - 1
        print(
            f"{folder} is finished: {generators.in_words(done)}. To train it longer: "
            f"--epochs {2 * done}. To start another run: --run {folder}-2"
        )
        return
    if progress["iterations"]:
        first = f"epoch {progress['epoch']}, iteration {progress['iteration'] + 1}"
        print(f"Continuing {folder} at {first}.")
    faces = open_faces(pictures)
    reference = diversity(some_of(faces))
    call = call_of(gan, ours)
    seeds = (SEED, SCORE_NOISE), (SEED, SCORE_REAL)
    score, checksum = begun_with["score"], begun_with["checksum"]
    try:
        scoring = watch.begin(score, faces, SCORE_SAMPLES, seeds, ours.is_first)
        training = Training(
            *(gan, call, ours, pictures, faces, folder, reference, scoring, changes),
            checksum,
        )
        with Stopping() as stopping:
            while progress["epoch"] <= EPOCHS:
                train_epoch(training, progress, stopping)
                finish_epoch(training, progress)
                heed_alarms(training, progress)
                signal = ours.most(stopping.signal)
                if signal and progress["epoch"] <= EPOCHS:
                    stopping.exit(saved_at(progress), signal)
    except FloatingPointError as error:
        raise UserError(diverged(error, folder, progress)) from error
    except Exception as error:
        if models.is_out_of_memory(error):
            raise UserError(too_large(folder)) from error
        raise
    which = " --which last" if watch.misleads(score, IMAGE_SIZE) else ""
    command = f"python generate.py --run {folder}{which}"
    print(f"Finished: {folder}. Draw faces from it: {command}")


def call_of(gan, ours):
    """Return the function that runs the five steps, as often as a call's batches ask.

    STEPS_PER_CALL = 1 is plain train_on_batch, unless several devices train.
    """
    if steps_per_call() == 1 and ours.count == 1:
        return fuse.plain(gan, five_steps)
    return fuse.fused(gan, five_steps, ours.whole)


def steps_per_call():
    """Return how many iterations are one call of the device.

    A CPU takes a tenth of a second and more for each, and Ctrl-C waits for a call.
    """
    return STEPS_PER_CALL or (32 if has_gpu() else 4)


def train_epoch(training, progress, stopping):
    """Run what is left of an epoch, adding its scores up in `progress`.

    A call's scores are read when the next call is under way, so that the device has
    always something to do.
    """
    per_epoch = len(training.faces) // batch_size()
    silent = not training.devices.is_first
    bar = EpochBar(progress, EPOCHS, per_epoch, batch_size(), disable=silent)
    saved = began = time.monotonic()
    running = None
    with bar, contextlib.closing(batches_ahead(training, progress)) as ahead:
        while (batches := next(ahead, None)) is not None:
            progress["waited"] += time.monotonic() - began
            after, running = running, training.call(batches)
            began = settle(progress, after, bar, began)
            signal = training.devices.most(stopping.signal)
            due = signal or began - saved > CHECKPOINT_MINUTES * 60
            if due:
                began = settle(progress, running, bar, began)
                running = None
            if due and progress["iteration"] < per_epoch:
                save_checkpoint(training, progress)
                began = saved = time.monotonic()
                if signal:
                    stopping.exit(saved_at(progress), signal)
        settle(progress, running, bar, began)


def batches_ahead(training, progress):
    """Yield the batches {name: (K, ...)} of each call that is left of an epoch."""
    epoch, faces, ours = progress["epoch"], training.faces, training.devices
    places = feed.order(len(faces), batch_size(), SEED, epoch)
    part = ours.part(batch_size())

    def prepare_call(numbers):
        rows = [chance(epoch, number, len(places)) for number in numbers]
        batches = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        batches = {
            name: array[:, part] if array.ndim > 1 else array
            for name, array in batches.items()
        }
        real = feed.gather(faces, places[numbers.start : numbers.stop, part])
        return ours.hand_over({"real": real, **batches})

    calls = feed.calls(len(places), progress["iteration"], steps_per_call())
    return feed.read_ahead(prepare_call, calls)


def chance(epoch, iteration, per_epoch):
    """Draw what an iteration leaves to chance; it depends on SEED and these alone.

    Returns {name: array} of five_steps' batch, but for the real faces.
    """
    mirrored = feed.mirrored(batch_size(), SEED, epoch, iteration)
    updates = (epoch - 1) * per_epoch + iteration + 1
    return {
        "mirrored": mirrored if FLIP else np.zeros_like(mirrored),
        "d_noise": noise(D_NOISE, epoch, iteration),
        "g_noise": noise(G_NOISE, epoch, iteration),
        **labels(epoch, iteration),
        "decay": np.float32(average_decay(updates, AVERAGE_DECAY)),
        **augmentation(epoch, iteration),
        **rates(epoch - 1 + iteration / per_epoch),
    }


def five_steps(gan, batch, train_on):
    """Train both networks on one batch, and let the average follow the generator.

    batch: {"real": (B, S, S, 3) uint8, "mirrored": (B,) bool, "d_noise" and "g_noise":
    (B, LATENT) float32, "real_label" and "fake_label": (B, 1) float32, "decay": of the
    average, () float32}, tensors; what augmentation() and rates() add, too.
    train_on(model, x, y) is the model's train_on_batch, or the same inside a function
    that is being compiled. Returns {score: number}: the losses, and the shares of real
    and of fake faces that D judged right.
    """
    if "d_rate" in batch:
        models.set_rate(gan.judge, batch["d_rate"])
        models.set_rate(gan.d_on_g, batch["g_rate"])
    # 1. Take real faces, some of them mirrored.
    real = models.mirror(batch["real"], batch["mirrored"])
    # 2. Make fakes from noise.
    fake = models.make_fakes(gan.generator, batch["d_noise"])
    # 3. Train the discriminator on both, real labelled 1, fake 0; only it moves.
    d_labels = {"real": batch["real_label"], "fake": batch["fake_label"]}
    given = {"real": real, "fake": fake, "chance": batch.get("d_chance")}
    d = train_on(gan.judge, models.inputs_for(gan.judge, **given), d_labels)
    # 4. Take fresh noise.
    fresh = batch["g_noise"]
    # 5. Train d_on_g on it, labelled 1: to make D say "real"; only the generator moves.
    given = {"noise": fresh, "real": real, "chance": batch.get("g_chance")}
    taken = models.inputs_for(gan.d_on_g, **given)
    g = train_on(gan.d_on_g, taken, models.ones_for(fresh))
    models.update_average(gan.average, gan.generator, batch["decay"])
    return {
        "d_loss": d["loss"],
        "g_loss": g["loss"],
        "real_accuracy": d["real_share_called_real"],
        "fake_accuracy": d["fake_share_called_fake"],
    }


def noise(purpose, epoch, iteration):
    """Draw noise (batch_size(), LATENT) float32, uniform on [-1, 1]."""
    random = np.random.default_rng((SEED, purpose, epoch, iteration))
    shape = (batch_size(), models.LATENT)
    return random.uniform(-1, 1, shape).astype("float32")


def augmentation(epoch, iteration):
    """Draw the numbers of both steps' augmentation, (batch_size(), 2, 7) in [0, 1).

    {} without one. Each face, real or fake, in either step, has numbers of its own.
    """
    if not AUGMENT:
        return {}
    shape = (batch_size(), 2, augment.NUMBERS)
    return {
        name: np.random.default_rng((SEED, purpose, epoch, iteration))
        .random(shape)
        .astype("float32")
        for name, purpose in (("d_chance", D_CHANCE), ("g_chance", G_CHANCE))
    }


def rates(epochs):
    """Return both learning rates, as () float32, after so many epochs.

    {} if they stay; else they do for LEARNING_RATE_HOLD epochs, and fall from there.
    They do not depend on EPOCHS: a run that is made longer goes on as if it had been
    meant to be that long.
    """
    if not LEARNING_RATE_HALF_LIFE:
        return {}
    share = 0.5 ** (max(0, epochs - LEARNING_RATE_HOLD) / LEARNING_RATE_HALF_LIFE)
    return {
        "g_rate": np.float32(G_LEARNING_RATE * share),
        "d_rate": np.float32(D_LEARNING_RATE * share),
    }


def labels(epoch, iteration):
    """Return D's labels {"real_label", "fake_label"}: (n, 1) float32, 1 and 0.

    LABEL_SMOOTHING lowers those of real faces (Salimans et al. 2016, one-sided);
    LABEL_FLIPPING then swaps that share of the labels of both.
    """
    real = np.full((batch_size(), 1), 1 - LABEL_SMOOTHING, "float32")
    fake = np.zeros((batch_size(), 1), "float32")
    if LABEL_FLIPPING:
        random = np.random.default_rng((SEED, LABELS, epoch, iteration))
        swap = random.random((2, batch_size(), 1)) < LABEL_FLIPPING
        real, fake = np.where(swap[0], fake, real), np.where(swap[1], real, fake)
    return {"real_label": real, "fake_label": fake}


def save_checkpoint(training, progress):
    """Save a checkpoint, if this process is the one that does."""
    if training.devices.is_first:
        check_there(training.folder)
        checkpoints.save(training.folder, training.gan, progress, KEEP_CHECKPOINTS)


def check_there(folder):
    """Raise UserError if the run folder was taken away: another could not go on."""
    if not (folder / run_folders.CONSTANTS).exists():
        raise UserError(
            f"{folder} was removed or renamed during the training. Put it back, and "
            "the same command goes on from its last checkpoint."
        )


def finish_epoch(training, progress):
    """Write the epoch's sheet, log row, curves, generators and, last, checkpoint.

    Killed before the checkpoint is there, a run does the epoch's end once more.
    """
    checkpoints.finite_arrays(training.gan)
    sheet = models.draw(training.gan.average, sheet_noise())
    epoch, reference = progress["epoch"], training.reference
    varied = diversity(sheet) / reference if reference else 0.0
    score = score_of(training, epoch)
    end_epoch(progress, batch_size(), diversity=varied, **score)
    if not training.devices.is_first:
        return
    folder, about = training.folder, about_generator(training, progress)
    check_there(folder)
    curves.save_sheet(folder, epoch, sheet)
    curves.save_log(folder, progress["rows"], training.changes)
    found = next(iter(score.values()), None)
    watch.keep(folder, training.gan.average, about, progress, found)
    save_checkpoint(training, progress)


def score_of(training, epoch):
    """Return the averaged generator's {"kid" or "mmd": score} for the log.

    None stands for one that is not due, and there is nothing in it if none ever is.
    """
    scoring = training.scoring
    if scoring is None:
        return {}
    due = epoch % SCORE_EVERY == 0
    return {scoring.kind: watch.score(scoring, training.gan.average) if due else None}


def heed_alarms(training, progress):
    """Print the alarms of the epoch that ended; with STOP_ON_COLLAPSE end the run.

    All processes come here, and none leaves before the first has saved everything.
    """
    row = progress["rows"][-1]
    if not training.devices.most(int(bool(row["alarm"]))):
        return
    line = describe_alarms(row["alarm"].split("; "), row)
    if not STOP_ON_COLLAPSE:
        print(line, flush=True)
        return
    folder, best = training.folder, progress["best"]
    kept = f"epoch {best['epoch']}, score {best['score']:.5f}" if best else "the last"
    raise UserError(
        f"{line} Stopped; {folder} keeps the best generator ({kept}). Try lower "
        f"learning rates or another seed: {another_run(folder)}. To go on all the "
        "same: --no-stop-on-collapse"
    )


def about_generator(training, progress):
    """Return what generator.json says of the generator of this epoch."""
    epochs, row, scoring = progress["epoch"] - 1, progress["rows"][-1], training.scoring
    pictures = training.pictures
    facts = ("source", "crop", "filter")
    return {
        "network": NETWORK,
        "image_size": IMAGE_SIZE,
        "width": WIDTH,
        "latent": models.LATENT,
        "backend": models.keras.backend.backend(),
        "averaged": True,
        "data": {"name": pictures.name, "count": pictures.count}
        | {fact: pictures.about[fact] for fact in facts}
        | {"checksum": training.checksum},
        "epochs": epochs,
        "iterations": progress["iterations"],
        "pictures_shown": progress["iterations"] * batch_size(),
        "score": scoring and row[scoring.kind],
        "scored_by": scoring
        and watch.describe(scoring.kind, SCORE_SAMPLES, pictures.count),
        "seed": SEED,
        "constants": current(sys.modules[__name__]),
        "changes": list(training.changes),
        **run_folders.versions(),
    }


def sheet_noise():
    """Draw the noise (SAMPLES, LATENT) float32 of every epoch's sheet."""
    random = np.random.default_rng((SEED, SHEET))
    return random.uniform(-1, 1, (SAMPLES, models.LATENT)).astype("float32")


def some_of(faces):
    """Pick up to 200 of the real faces (N, S, S, 3) uint8."""
    random = np.random.default_rng((SEED, REFERENCE))
    return faces[np.sort(random.permutation(len(faces))[:200])]


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
        f"Out of memory with {batch_size()} faces of {IMAGE_SIZE} x {IMAGE_SIZE} a "
        f"batch. Try --batch-size {max(2, batch_size() // 2)}{again}"
    )


def diverged(error, folder, progress):
    """Say what happened, what is kept, and what to try."""
    kept = checkpoints.folders(folder)
    last = f"{kept[-1]} is the last good checkpoint. " if kept else ""
    return (
        f"Training diverged in epoch {progress['epoch']}, iteration "
        f"{progress['iteration'] + 1}: {error}. {last}Try lower learning rates: "
        f"{another_run(folder)}"
    )


def another_run(folder):
    """Return the options of another run that learns at half the rates."""
    return (
        f"--run {folder}-2 --g-learning-rate {G_LEARNING_RATE / 2:g} "
        f"--d-learning-rate {D_LEARNING_RATE / 2:g}"
    )


if __name__ == "__main__":
    run(main)
