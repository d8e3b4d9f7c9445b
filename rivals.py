"""Train what tutorials compare a GAN with: python rivals.py

On the same pictures, with the same generator network and no discriminator: METHOD "vae"
is a variational autoencoder, "mmd" makes the faces of a batch alike, as a crowd, to
real ones. generate.py and evaluate.py take the run folder as they take a GAN's; started
again, a run goes on after its last whole epoch.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

import models
from dcgan.common.console import UserError, is_out_of_memory
from dcgan.common.console import run as run_script
from dcgan.common.files import DAMAGE, write_json, write_whole
from dcgan.common.options import current, options, typed
from dcgan.networks.backend import keras, layers, ops
from dcgan.runs import curves, folder, generators
from dcgan.training.chance import noise, stream
from dcgan.training.hardware import describe_backend, describe_device, keep_compiled
from preprocess import check_enough, checksum_of, name_of, open_faces, prepare

# How to learn
METHOD = "vae"  # {vae, mmd} see above

# What to learn from, and what learns: as in train.py
DATA = "celeba"  # "celeba", "cartoons", or a folder, a .zip, a .npy, a .npz
DATA_FOLDER = "data"  # where downloads lie, and the arrays made of pictures
IMAGE_SIZE = 64  # [8..1024] pixels both ways
IMAGES = 0  # [0..1000000000] use the first so many pictures; 0: all
NETWORK = "dcgan"  # a row of models.py
WIDTH = 1.0  # (0.0..16.0] times the network's widths

# How long, and how fast
EPOCHS = 25  # [1..1000000] passes over the pictures
BATCH_SIZE = 0  # [0..65536] pictures a step; 0: 64 of a VAE, 512 for the MMD
LEARNING_RATE = 1e-3  # (0.0..1.0] Adam's
SPREAD = 0.5  # (0.0..10.0] of a VAE's pixels, of 2 in all; less: sharper, and stranger

# What a run leaves
RUN = ""  # the run folder; empty: runs/<data>-<size>-<method>
SEED = 1  # [0..4294967295] seeds the first weights, the order, the flips and the noise
SAMPLES = 40  # [1..10000] faces on the sheet of each epoch

# No options from here on

# The widths of the MMD's kernels: shares of the mean squared distance of two real faces
KERNELS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)

# All that a run needs to go on, in its folder
STATE = "state.npz"

# What may change when a run goes on
FREE = ("DATA", "DATA_FOLDER", "EPOCHS", "RUN")


class Vae(keras.Model):
    """A variational autoencoder, its decoder a generator (Kingma & Welling 2014).

    Maps faces (n, S, S, C) uint8 to what its encoder and then its generator make of
    them: mean and log of the variance (n, LATENT), and faces in [-1, 1]. The prior is
    normal; the generator gets what that is as noise, uniform on [-1, 1]. A pixel is
    taken for normal, around the face's, with a standard deviation of SPREAD.
    """

    def __init__(self, encoder, generator):
        super().__init__()
        self.encoder, self.generator = encoder, generator
        self.chance = keras.random.SeedGenerator(SEED)
        self.kl, self.pixel_error = map(keras.metrics.Mean, ("kl", "pixel_error"))

    def call(self, pixels, training=False):
        of_face = self.encoder(to_range(pixels), training=training)
        mean, log_variance = ops.split(of_face, 2, axis=1)
        random = keras.random.normal(ops.shape(mean), seed=self.chance)
        normal = mean + ops.exp(log_variance / 2) * random
        uniform = ops.erf(normal / math.sqrt(2))
        return mean, log_variance, self.generator(uniform, training=training)

    def compute_loss(self, x, y, y_pred, *_, **__):
        mean, log_variance, face = y_pred
        each = mean**2 + ops.exp(log_variance) - 1 - log_variance
        kl = ops.mean(ops.sum(each, axis=1)) / 2
        error = ops.mean((face - to_range(x)) ** 2)
        self.kl.update_state(kl)
        self.pixel_error.update_state(ops.sqrt(error) * 127.5)
        return kl + math.prod(face.shape[1:]) * error / (2 * SPREAD**2)


class Mmd(keras.Model):
    """A generator whose faces, a batch, are to be as real ones by the squared maximum
    mean discrepancy of pixels (Li et al. 2015, "generative moment matching").

    Maps faces (n, S, S, C) uint8 to as many faces in [-1, 1], of its own.
    """

    def __init__(self, generator):
        super().__init__()
        self.generator = generator
        self.chance = keras.random.SeedGenerator(SEED)

    def call(self, pixels, training=False):
        count = ops.shape(pixels)[0]
        shape = (count, models.LATENT)
        random = keras.random.uniform(shape, -1, 1, seed=self.chance)
        return self.generator(random, training=training)

    def compute_loss(self, x, y, y_pred, *_, **__):
        flat = (ops.shape(x)[0], math.prod(y_pred.shape[1:]))
        return discrepancy(ops.reshape(to_range(x), flat), ops.reshape(y_pred, flat))


def to_range(pixels):
    """Turn pixels in 0 .. 255, uint8, into float32 in [-1, 1]."""
    return ops.cast(pixels, "float32") / 127.5 - 1


def discrepancy(real, fake):
    """Return the MMD squared, unbiased, of two (n, F), by a mixture of Gaussian kernels
    (Gretton et al. 2012, equation 3).
    """
    count = ops.cast(ops.shape(real)[0], "float32")
    others = count * (count - 1)  # pairs of different faces
    scale = ops.stop_gradient(ops.sum(squared_distances(real, real)) / others)

    def likeness(some, more):
        distances = squared_distances(some, more) / scale
        return sum(ops.exp(-distances / (2 * width)) for width in KERNELS) / len(
            KERNELS
        )

    # A face is as like itself as can be, 1, and does not count
    within = sum(ops.sum(likeness(x, x)) - count for x in (real, fake)) / others
    return within - 2 * ops.mean(likeness(real, fake))


def squared_distances(some, more):
    """Return (n, m), each at least 0, of points (n, F) and (m, F)."""
    squares = ops.sum(some**2, 1)[:, None] + ops.sum(more**2, 1)[None]
    return ops.maximum(squares - 2 * ops.matmul(some, ops.transpose(more)), 0)


class Pictures(keras.utils.PyDataset):
    """Batches of faces (B, S, S, C) uint8, half of them mirrored, in another order
    every epoch. The last faces, too few for a batch, are left out.
    """

    def __init__(self, faces):
        super().__init__()
        self.faces = faces
        self.begin(0)

    def begin(self, epoch):
        """Draw the order of an epoch, counted from 0, and which faces are mirrored."""
        random = stream(SEED, "order", epoch)
        self.order = random.permutation(len(self.faces))
        self.mirrored = random.random(len(self.faces)) < 0.5

    def __len__(self):
        return len(self.faces) // batch_size()

    def __getitem__(self, number):
        places = self.order[number * batch_size() :][: batch_size()]
        faces = self.faces[np.sort(places)]
        mirrored = self.mirrored[number * batch_size() :][: batch_size()]
        return np.where(mirrored[:, None, None, None], faces[:, :, ::-1], faces)


class Leave(keras.callbacks.Callback):
    """Begins each epoch of the pictures; after it, leaves a sheet of samples, the log,
    the generator and, last, the state to go on from in the run folder.

    facts: what is told of the generator, but for how long it trained; rows: of the log.
    """

    def __init__(self, run, pictures, facts, rows):
        super().__init__()
        self.run, self.pictures, self.facts, self.rows = run, pictures, facts, rows

    def on_epoch_begin(self, epoch, logs=None):
        self.pictures.begin(epoch)
        # Counted, for a restored model does not have it
        first = stream(SEED, "g_noise", epoch).integers(2**32, dtype="uint32")
        self.model.chance.state.assign(np.array([first, 0], "uint32"))

    def on_epoch_end(self, epoch, logs=None):
        if not all(np.isfinite(array).all() for array in self.model.get_weights()):
            slower = typed(run=f"{self.run}-2", learning_rate=LEARNING_RATE / 2)
            raise UserError(f"Training diverged in epoch {epoch + 1}. Try {slower}")
        generator = self.model.generator
        sheet = noise(SEED, "sheet", (SAMPLES, models.LATENT))
        curves.save_sheet(self.run, epoch + 1, models.draw(generator, sheet))
        losses = {name: float(value) for name, value in logs.items()}
        self.rows.append({"epoch": epoch + 1, **losses})
        curves.save_table(self.run, self.rows)
        facts = {**self.facts, "epochs": epoch + 1}
        generators.keep(self.run, generator, facts, None)
        save_state(self.run, self.model, self.rows)


def save_state(run, model, rows):
    """Write all that a run needs to go on: weights, optimizer, the log."""
    variables = [*model.variables, *model.optimizer.variables]
    arrays = {str(n): ops.convert_to_numpy(it) for n, it in enumerate(variables)}
    with write_whole(run / STATE) as part, open(part, "wb") as file:
        np.savez(file, rows=np.array(json.dumps(rows)), **arrays)


def load_state(run, model):
    """Return the rows of the log so far, the model set to where they end; [] if new.

    Raises UserError if the file is damaged.
    """
    if not (run / STATE).exists():
        return []
    variables = [*model.variables, *model.optimizer.variables]
    try:
        with np.load(run / STATE, allow_pickle=False) as arrays:
            rows = json.loads(str(arrays["rows"]))
            for number, variable in enumerate(variables):
                variable.assign(arrays[str(number)])
    except DAMAGE as error:
        another = typed(run=f"{run}-2")
        raise UserError(f"{run / STATE} is damaged. Start anew: {another}") from error
    return rows


def main(argv=None):
    options(sys.modules[__name__], argv, {"NETWORK": models.NETWORKS})
    models.check_size(NETWORK, IMAGE_SIZE)
    if batch_size() < 2:
        raise UserError(f"{typed(batch_size=1)} has nothing to compare: 2 at least.")
    keep_compiled()
    print(f"Device    {describe_device()}\nBackend   {describe_backend()}", flush=True)
    run = run_folder()
    folder.check_writable(run)
    pictures = prepare(DATA, IMAGE_SIZE, IMAGES, folder=DATA_FOLDER)
    check_enough(pictures.count, batch_size(), DATA)
    constants = current(sys.modules[__name__])
    begun_with = {"backend": keras.backend.backend(), "count": pictures.count}
    begun_with |= {"batch_size": batch_size(), "checksum": checksum_of(pictures)}
    with folder.training(run):
        begin(run, constants, begun_with)
        model = build()
        print(f"Training  {METHOD}, batches of {batch_size()}, in {run}", flush=True)
        facts = facts_of(constants, begun_with, pictures)
        train(model, run, open_faces(pictures), facts)
    command = f"python generate.py {typed(run=run)}"
    print(f"Finished: {run}. Draw faces from it: {command}")


def begin(run, constants, begun_with):
    """Write constants.json, or compare with the one that a run to go on has."""
    before = folder.read_constants(run)
    if before is None:
        written = {"constants": constants, "begun_with": begun_with}
        write_json(run / folder.CONSTANTS, {**written, **folder.versions()})
        return
    if "METHOD" not in before["constants"]:
        raise UserError(f"{run} is a run of train.py. Another folder: --run NAME")
    fixed = {name: value for name, value in constants.items() if name not in FREE}
    folder.compare(run, before["constants"], fixed)
    folder.compare(run, before["begun_with"], begun_with)


def build():
    """Build and compile the model of METHOD; its `generator` is what will be kept."""
    keras.utils.set_random_seed(SEED)
    generator = models.build_generator(NETWORK, IMAGE_SIZE, WIDTH)
    model = Mmd(generator)
    if METHOD == "vae":
        face = keras.Input(generator.output_shape[1:], name="face")
        look = models.NETWORKS[NETWORK].look
        features = look(face, IMAGE_SIZE, models.Recipe(width=WIDTH))
        of_face = layers.Dense(2 * models.LATENT, name="mean_and_log_variance")(
            features
        )
        model = Vae(keras.Model(face, of_face, name="encoder"), generator)
    model.compile(keras.optimizers.Adam(LEARNING_RATE))
    model(np.zeros((2, *generator.output_shape[1:]), "uint8"))
    model.optimizer.build(model.trainable_variables)  # else its state is not restored
    return model


def train(model, run, faces, facts):
    """Run the epochs that are left, by Keras' own fit()."""
    pictures, rows = Pictures(faces), load_state(run, model)
    try:
        model.fit(
            pictures,
            initial_epoch=len(rows),
            epochs=EPOCHS,
            shuffle=False,  # that is done
            verbose=1 if sys.stderr.isatty() else 2,
            callbacks=[Leave(run, pictures, facts, rows)],
        )
    except Exception as error:
        if is_out_of_memory(error):
            fewer = typed(run=f"{run}-2", batch_size=max(2, batch_size() // 2))
            raise UserError(f"Out of memory. Fewer at once: {fewer}") from error
        raise


def facts_of(constants, begun_with, pictures):
    """Return what is told of the run's generators, but for how long each trained."""
    made = {fact: pictures.facts[fact] for fact in ("source", "crop", "filter")}
    data = {"name": pictures.name, **made}
    data |= {fact: begun_with[fact] for fact in ("count", "checksum")}
    return {
        **{"network": NETWORK, "image_size": IMAGE_SIZE, "width": WIDTH, "channels": 3},
        **{"latent": models.LATENT, "averaged": False, "score": None, "data": data},
        **{"method": METHOD, "seed": SEED, "constants": constants},
        **folder.versions(),
    }


def batch_size():
    """Return how many pictures a step takes."""
    return BATCH_SIZE or {"vae": 64, "mmd": 512}[METHOD]


def run_folder():
    """Return RUN, or runs/<data>-<size>-<method>."""
    return Path(RUN or f"runs/{name_of(DATA)}-{IMAGE_SIZE}-{METHOD}")


if __name__ == "__main__":
    run_script(main)
