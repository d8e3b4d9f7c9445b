"""Train a DCGAN on faces: python train.py

Real faces and noise go in; every epoch (of short ones some) leaves a sheet of samples,
the curves, a checkpoint and the generator in the run folder. Ctrl-C stops, the same
command goes on.

Behind a constant stands what it may be: {one, of these}, or within (0..1], this one
without 0 and with 1.
"""

import sys
import time
from pathlib import Path

import models
from dcgan.common.console import Stopping
from dcgan.common.console import run as run_script
from dcgan.common.options import current, options
from dcgan.networks.augment import kinds_of
from dcgan.networks.losses import LOSSES, check_recipe
from dcgan.runs.checkpoints import finite_arrays
from dcgan.runs.run import open_run
from dcgan.training import alarms, compiled, devices, hardware, scoring
from dcgan.training.batches import Batches
from dcgan.training.beside import Beside
from dcgan.training.chance import Chance, noise
from dcgan.training.progress import EpochBar, Progress
from dcgan.training.schedules import Schedules
from preprocess import check_enough, checksum_of, name_of, open_faces, prepare

# What to learn from
DATA = "celeba"  # "celeba", "cartoons", or a folder, a .zip, a .npy, a .npz
DATA_FOLDER = "data"  # where downloads lie, and the arrays made of pictures
IMAGE_SIZE = 64  # [8..1024] pixels both ways: 4 to 7 times a power of two, 16 to 256
IMAGES = 0  # [0..1000000000] use the first so many pictures; 0: all
FIT = "crop"  # {crop, pad, squeeze} what becomes of pictures that are not square
CHANNELS = 3  # {1, 3} 1: grey pictures
FLIP = True  # {True, False} show half of the pictures mirrored

# What learns
NETWORK = "dcgan"  # a row of models.py; "tutorial" draws 64 pixels, "blog" draws 28
WIDTH = 1.0  # (0.0..16.0] times the network's widths
D_NORM = "batch"  # {batch, spectral, none} how the discriminator is normalized

# How long
EPOCHS = 25  # [1..1000000] passes over the pictures
BATCH_SIZE = 0  # [0..65536] real faces a step, and as many fakes; 0: by the size
D_STEPS = 1  # [1..100] times an iteration that the discriminator is trained
G_STEPS = 1  # [1..100] times an iteration that the generator is trained

# How fast to learn
G_LEARNING_RATE = 2e-4  # (0.0..1.0] the generator's; this is the DCGAN paper's
D_LEARNING_RATE = 2e-4  # (0.0..1.0] the discriminator's; the ratio of the two matters
BETA_1 = 0.5  # [0.0..1.0) of Adam, whose own default of 0.9 makes training oscillate
LEARNING_RATE_HOLD = 0.0  # [0.0..] epochs before the rates begin to fall, if they do
LEARNING_RATE_HALF_LIFE = 0.0  # [0.0..] epochs in which both rates halve; 0: they stay
AVERAGE_DECAY = 0.999  # [0.0..1) averages 1 / (1 - this) iterations, or a 10th of all

# What to learn by; what was tried, and lost, is in benchmarks/QUALITY.md
LOSS = "cross-entropy"  # what they minimize, a row of dcgan/networks/losses.py
AUGMENT = ""  # "colour,translation,cutout" or some of these, when pictures are few
R1 = 0.0  # [0.0..] gradient penalty's gamma, .05 at 64, .01 at 28; D_NORM not batch
LABEL_SMOOTHING = 0.0  # [0.0..0.5] D's label for real faces is 1 minus this
LABEL_FLIPPING = 0.0  # [0.0..0.5] share of D's labels that are swapped, real for fake

# How to compute
STEPS_PER_CALL = 0  # [0..9999] iterations in one call; 0: 32 or more on a GPU, else 4
PRECISION = "auto"  # {auto, float32, bfloat16} auto: bfloat16 where it is faster
DEVICES = "all"  # {all, one} several GPUs need KERAS_BACKEND=jax

# What a run leaves
RUN = ""  # the run folder; empty: runs/<data>-<size>, and -<network> unless dcgan
FROM = ""  # another run, or a checkpoint of it, to go on from with another recipe
SEED = 1  # [0..4294967295] seeds the first weights, the order, the flips and the noise
SAMPLES = 40  # [2..10000] faces on the sheet of each epoch
CHECKPOINT_MINUTES = 10.0  # (0.0..] between checkpoints, besides those at epochs' ends
KEEP_CHECKPOINTS = 2  # [1..1000000] newest that stay, besides the last epoch's end
EPOCH_END_SHARE = 0.1  # (0.0..1.0] of the time, for epochs' ends and as much for scores
KEEP_EVERY = 0  # [0..1000000] epochs: generator and checkpoint of each such one stay

# How it is watched
SCORE = "auto"  # {auto, kid, mmd, none} auto: KID; on a CPU up to 32 pixels MMD
SCORE_EVERY = 1  # [1..9999] epochs; the generator with the best score is kept
SCORE_SAMPLES = 2000  # [2..99999] fakes and real faces; of few pictures a tenth, or 200
STOP_ON_COLLAPSE = False  # {True, False} end the run at an alarm; the best weights stay
TENSORBOARD = False  # {True, False} write tensorboard/ into the run folder, too


def five_steps(gan, batch, train_on):
    """Train both networks on one batch, and let the average follow the generator.

    gan.judge is the discriminator given real and fake faces apart, and moves only it;
    gan.d_on_g is the discriminator on top of the generator, and moves only the latter.
    batch: what chance.py and schedules.py draw for an iteration, and "real" (D_STEPS,
    B, S, S, 3) uint8, as tensors. train_on(model, x, y) is the model's train_on_batch,
    or the same inside a function that is being compiled. Returns {score: number}: the
    last losses, and the shares of real and of fake faces that D judged right.
    """
    if "d_rate" in batch:
        models.set_rate(gan.judge, batch["d_rate"])
        models.set_rate(gan.d_on_g, batch["g_rate"])
    for step in range(D_STEPS):
        # 1. Take real faces, some of them mirrored.
        real = models.mirror(batch["real"][step], batch["mirrored"][step])
        # 2. Make fakes from noise.
        fake = models.make_fakes(gan.generator, batch["d_noise"][step])
        # 3. Train the discriminator on both, real labelled 1, fake 0; only it moves.
        labels = {"real": batch["real_label"][step], "fake": batch["fake_label"][step]}
        chance = batch["d_augment"][step] if AUGMENT else None
        faces = models.inputs_for(gan.judge, real=real, fake=fake, chance=chance)
        d = train_on(gan.judge, faces, labels)
    for step in range(G_STEPS):
        # 4. Take fresh noise.
        fresh = batch["g_noise"][step]
        # 5. Train d_on_g on it, labelled 1: to make D say "real"; only G moves.
        chance = batch["g_augment"][step] if AUGMENT else None
        # (The relativistic loss compares with real faces here, too.)
        inputs = models.inputs_for(gan.d_on_g, noise=fresh, real=real, chance=chance)
        g = train_on(gan.d_on_g, inputs, models.ones_for(fresh))
    models.update_average(gan.average, gan.generator, batch["decay"])
    return {
        "d_loss": d["loss"],
        "g_loss": g["loss"],
        "real_accuracy": d["real_share_called_real"],
        "fake_accuracy": d["fake_share_called_fake"],
    }


def main(argv=None):
    constants = read_constants(argv)
    device = devices.find(DEVICES, batch_size())
    with device.together():
        computes_on = hardware.describe_device()
        print(f"Device    {computes_on}{device.summary}")
        print(f"Backend   {hardware.describe_backend()}", flush=True)
        run = open_run(run_folder(), constants, FROM, device)
        pictures = prepare(DATA, IMAGE_SIZE, IMAGES, FIT, CHANNELS, DATA_FOLDER)
        faces = open_faces(pictures)
        check_enough(pictures.count, batch_size(), DATA, D_STEPS)
        had = run.had("score")
        score = scoring.kind_of(SCORE, had, device, IMAGE_SIZE, DATA_FOLDER)
        precision = hardware.precision_for(PRECISION, run.had("precision"))
        begun_with = {
            "backend": models.keras.backend.backend(),
            "precision": device.from_first(precision),
            "batch_size": batch_size(),
            "count": pictures.count,
            "checksum": checksum_of(pictures),
            "score": score,
        }
        device.agree({**run.shared, **begun_with})
        run.check(begun_with)
        progress = Progress()
        with run.explain(progress, batch_size()):
            gan = build(begun_with["precision"])
            scored = scoring.protocol_of(score, SCORE_SAMPLES, pictures.count)
            print(run.summary(gan, pictures, begun_with, scored), flush=True)
            with run.begin(begun_with, computes_on, pictures, gan):
                resume(run, gan, device, progress)
                train(run, gan, device, progress, faces, begun_with)


def train(run, gan, device, progress, faces, begun_with):  # noqa: PLR0913
    """Run the epochs that `progress` leaves to do; Ctrl-C saves and exits with 130."""
    if progress.epoch > EPOCHS:
        print(run.is_finished(progress))
        return
    if progress.iterations:
        print(run.continuing(progress))
    steps, most = steps_per_call()
    batches = Batches(faces, chance(), schedules(), steps, device, most)
    calls = compiled.Calls(gan, five_steps, device, steps, batches.held)
    score = begun_with["score"]
    scorer = scoring.Scorer(score, faces, SCORE_SAMPLES, SEED, device, DATA_FOLDER)
    beside = Beside(device.count == 1 and not STOP_ON_COLLAPSE)
    with Stopping(device.signal) as stopping, beside:
        # KID takes minutes of a CPU; the last one is worth them
        scorer.is_over = lambda: stopping.signal and progress.epoch <= EPOCHS
        while progress.epoch <= EPOCHS:
            bar = EpochBar(progress, EPOCHS, batches, device)
            with bar, batches.left_of_epoch(progress) as left:
                for batch in bar.wait_for(left):
                    bar.add(calls.start(batch))
                    asked = stopping.is_asked()
                    if asked or run.is_due(CHECKPOINT_MINUTES):
                        bar.add(calls.finish())
                        beside.wait()
                        if progress.iteration < len(batches):
                            run.save_checkpoint(gan, progress)
                            stopping.exit_if(asked, run.saved_at(progress))
                bar.add(calls.finish())
            finish_epoch(run, gan, device, progress, scorer, beside)
            if progress.epoch <= EPOCHS and (asked := stopping.is_asked()):
                beside.wait()
                run.save_checkpoint(gan, progress)
                stopping.exit_if(asked, run.saved_at(progress))
    print(run.finished(scoring.which_to_draw(scorer.kind, IMAGE_SIZE)))


def finish_epoch(run, gan, device, progress, scorer, beside):  # noqa: PLR0913
    """Draw and copy what an epoch leaves; score and save it beside the next epoch.

    Short epochs leave no more than their row of the log until an end is due.
    """
    stands_since, is_last = time.monotonic(), progress.epoch >= EPOCHS
    beside.wait()
    began = time.monotonic()
    is_whole = is_last or run.end_is_due(EPOCH_END_SHARE, progress)
    is_due = progress.epoch % SCORE_EVERY == 0 and scorer.pace.is_due(EPOCH_END_SHARE)
    is_scored = device.from_first(is_last or is_due)
    if not device.from_first(is_whole):
        stood = time.monotonic() - stands_since
        progress.end_epoch(batch_size() * D_STEPS, scorer.unscored(), stood)
        return
    arrays, average = finite_arrays(gan), models.copy_of(gan.average)
    sheet = models.draw(gan.average, sheet_noise())
    of_score = noise(SEED, "score_noise", (scorer.count, models.LATENT))
    fake = models.draw(gan.average, of_score) if is_scored and scorer.count else None
    ended, stood = progress.begin_next(), time.monotonic() - stands_since

    def leave():
        scores = scorer.scores(sheet, fake)
        still = stood if beside.possible else time.monotonic() - stands_since
        row = ended.end_epoch(batch_size() * D_STEPS, scores, still)
        run.save_epoch(arrays, average, ended, sheet, scorer.protocol)
        progress.rows, progress.best = ended.rows, ended.best
        run.ends.note(time.monotonic() - began - scorer.took)
        # Of several processes none leaves before the first has saved everything
        if device.largest(int(bool(row["alarm"]))):
            run.heed(alarms.message(row), progress, STOP_ON_COLLAPSE)

    beside.start(leave)


def read_constants(argv):
    """Return the constants as the command line has them, checked to fit together."""
    global FROM
    options(sys.modules[__name__], argv, {"LOSS": LOSSES, "NETWORK": models.NETWORKS})
    FROM = str(Path(FROM)) if FROM else ""  # runs/a/ is runs/a
    models.check_size(NETWORK, IMAGE_SIZE)
    check_recipe(LOSS, D_NORM, R1, LABEL_SMOOTHING, LABEL_FLIPPING)
    kinds_of(AUGMENT)
    return current(sys.modules[__name__])


def batch_size():
    """Return how many real faces a step takes; see benchmarks/QUALITY.md."""
    return BATCH_SIZE or (64 if IMAGE_SIZE > 64 else 32)


def steps_per_call():
    """Return how many iterations one compiled call makes, at least and at most, as few
    of an epoch are left over; Ctrl-C waits for a call.
    """
    fewest, most = (32, 63) if hardware.has_gpu() else (4, 4)
    return STEPS_PER_CALL or fewest, STEPS_PER_CALL or most


def run_folder():
    """Return RUN, or runs/<data>-<size>, with the network's name unless it is dcgan."""
    network = "" if NETWORK == "dcgan" else f"-{NETWORK}"
    return Path(RUN or f"runs/{name_of(DATA)}-{IMAGE_SIZE}{network}")


def build(precision):
    """Build the networks that the constants ask for."""
    rates = (G_LEARNING_RATE, D_LEARNING_RATE)
    recipe = models.Recipe(LOSS, kinds_of(AUGMENT), D_NORM, R1, WIDTH, CHANNELS)
    return models.build_gan(NETWORK, IMAGE_SIZE, SEED, rates, BETA_1, precision, recipe)


def resume(run, gan, device, progress):
    """Take up the newest checkpoint of the run, if there is one, in every process."""
    progress.take_up(device.from_first(run.load(gan)))
    # The checkpoint has the optimizers' rates, too: those that it was saved with
    models.set_rate(gan.judge, D_LEARNING_RATE)
    models.set_rate(gan.d_on_g, G_LEARNING_RATE)
    device.replicate(compiled.variables_of(gan))


def chance():
    """Return what draws all that is left to chance."""
    return Chance(
        seed=SEED,
        batch_size=batch_size(),
        latent=models.LATENT,
        d_steps=D_STEPS,
        g_steps=G_STEPS,
        flip=FLIP,
        augment=bool(AUGMENT),
        label_smoothing=LABEL_SMOOTHING,
        label_flipping=LABEL_FLIPPING,
    )


def schedules():
    """Return what changes in the course of the run."""
    rates = (G_LEARNING_RATE, D_LEARNING_RATE)
    return Schedules(*rates, LEARNING_RATE_HOLD, LEARNING_RATE_HALF_LIFE, AVERAGE_DECAY)


def sheet_noise():
    """Draw the noise (SAMPLES, LATENT) float32 of every epoch's sheet."""
    return noise(SEED, "sheet", (SAMPLES, models.LATENT))


if __name__ == "__main__":
    run_script(main)
