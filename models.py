"""The generator, the discriminator, and d_on_g with the discriminator frozen.

A discriminator turns faces into the probability that each is real. It is trained
through two models that share its layers and each move one part of what they hold:

    judge    (real, fake) -> D's logits of both    moves the discriminator only
    d_on_g   noise -> D's logit of G's face        moves the generator only
"""

import contextlib
import os
from typing import NamedTuple

import numpy as np

from script import UserError, quiet_stderr

# Take the GPU's memory as it is needed, so that generate.py can draw beside a training
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

with quiet_stderr():
    try:
        import keras
        from keras import layers, ops
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed. What Keras runs on is KERAS_BACKEND's "
            "choice; for its default: pip install -r requirements.txt"
        ) from error

LATENT = 100  # numbers of noise that a face is drawn from

# Start grid of each size of the "dcgan" network, and the generator's widths from
# there on; the discriminator has the same widths backwards.
DCGAN = {
    28: (7, (256, 128, 64)),
    32: (4, (512, 256, 128, 64)),
    64: (4, (512, 256, 128, 64)),  # dcgan.torch and the PyTorch tutorial
    128: (4, (1024, 512, 256, 128, 64)),
}
TUTORIAL_WIDTHS = (32, 64, 128, 256)
BLOG_DROPOUT = 0.2

# A generator's last layer, in float32 even where the others are not.
TO_FACE = {"use_bias": True, "activation": "tanh", "dtype": "float32"}

# What networks there are, and the sizes that each can draw.
SIZES = {"dcgan": tuple(DCGAN), "tutorial": (64,), "blog": (28,)}


class Gan(NamedTuple):
    """Everything that trains: two networks, two models over them, an average."""

    generator: keras.Model
    discriminator: keras.Model
    judge: keras.Model
    d_on_g: keras.Model
    average: keras.Model  # the generator, its weights averaged over time


class PartlyTrained(keras.Model):
    """A functional model that trains the weights of one of its parts, and no others.

    Keras moves a model's `trainable_variables`. Here these are the part's alone, by
    construction: no `trainable` flag is flipped, so the order in which models are
    compiled, called or traced cannot unfreeze anything. (In Keras 3, setting
    `discriminator.trainable = False` for d_on_g freezes it in its own training too.)
    """

    def __init__(self, inputs, outputs, part, name=None):
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.part = part

    @property
    def trainable_variables(self):
        return self.part.trainable_variables

    @property
    def non_trainable_variables(self):
        mine = {id(variable) for variable in self.trainable_variables}
        return [variable for variable in self.variables if id(variable) not in mine]

    @property
    def trainable_weights(self):
        return self.part.trainable_weights

    @property
    def non_trainable_weights(self):
        mine = {id(weight) for weight in self.trainable_weights}
        return [weight for weight in self.weights if id(weight) not in mine]


def build_gan(network, image_size, seed, learning_rates, beta_1, precision="float32"):  # noqa: PLR0913
    """Build and compile everything that trains, as a `Gan`.

    `network` and `image_size` as in SIZES; `learning_rates` of G and D and `beta_1`
    are Adam's. With `precision` "bfloat16" all but the last layers and the losses
    compute in that; weights are float32 in any case.
    Equal seeds give equal first weights. Raises UserError for a size that the network
    does not have.
    """
    g_rate, d_rate = learning_rates
    keras.utils.set_random_seed(seed)
    with _computing_in(precision):
        generator = build_generator(network, image_size)
        discriminator = build_discriminator(network, image_size)
        judge = build_judge(discriminator)
        d_on_g = build_d_on_g(generator, discriminator)
    average = build_generator(network, image_size)
    average.set_weights(generator.get_weights())
    bce = keras.losses.BinaryCrossentropy
    judge.compile(
        optimizer=keras.optimizers.Adam(d_rate, beta_1=beta_1),
        loss={"real": bce(from_logits=True), "fake": bce(from_logits=True)},
        loss_weights={"real": 0.5, "fake": 0.5},  # their mean: ln 2 when D cannot tell
        metrics={"real": [share_called_real], "fake": [share_called_fake]},
    )
    d_on_g.compile(
        optimizer=keras.optimizers.Adam(g_rate, beta_1=beta_1),
        loss=bce(from_logits=True),
    )
    for model in (judge, d_on_g):
        _make_variables(model)
    return Gan(generator, discriminator, judge, d_on_g, average)


@contextlib.contextmanager
def _computing_in(precision):
    """Build layers in here, and they compute in float32 or bfloat16."""
    before = keras.config.dtype_policy()
    policies = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
    keras.config.set_dtype_policy(policies[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _make_variables(model):
    """Make the variables of a compiled model's optimizer, loss and metrics.

    Else the first training step would, which a traced function may not.
    """
    model.optimizer.build(model.trainable_variables)
    some = keras.tree.map_structure(lambda _: ops.zeros((1, 1)), model.output)
    model.compute_loss(None, some, some)
    model.compute_metrics(None, some, some)
    model.reset_metrics()


def build_generator(network, image_size):
    """Map noise (n, LATENT) float32 to faces (n, S, S, 3) float32 in [-1, 1].

    Raises UserError for a size that the network does not have.
    """
    check_size(network, image_size)
    noise = keras.Input((LATENT,), name="noise")
    draw = {"dcgan": _dcgan_face, "tutorial": _tutorial_face, "blog": _blog_face}
    face = draw[network](noise, image_size)
    return keras.Model(noise, face, name="generator")


def build_discriminator(network, image_size):
    """Map faces (n, S, S, 3) float32 in [-1, 1] to P(real) (n, 1) float32 in [0, 1].

    The layer before the last, "logit", is what the losses are computed from.
    Raises UserError for a size that the network does not have.
    """
    check_size(network, image_size)
    face = keras.Input((image_size, image_size, 3), name="face")
    look = {"dcgan": _dcgan_look, "tutorial": _tutorial_look, "blog": _blog_look}
    features = look[network](face, image_size)
    logit = layers.Dense(
        1, kernel_initializer=_normal(), dtype="float32", name="logit"
    )(features)
    probability = layers.Activation("sigmoid", dtype="float32", name="probability")
    return keras.Model(face, probability(logit), name="discriminator")


def build_judge(discriminator):
    """Map real (n, S, S, 3) uint8 and fake (n, S, S, 3) in [-1, 1] to D's two logits.

    Real and fake faces go through the discriminator in separate passes, so that its
    batch norm cannot tell them apart by their common mean. Trains D only.
    """
    logit = _logit(discriminator)
    shape = discriminator.input_shape[1:]
    real = keras.Input(shape, dtype="uint8", name="real")
    fake = keras.Input(shape, name="fake")
    scaled = layers.Rescaling(1 / 127.5, -1, dtype="float32", name="scaled")(real)
    inputs = {"real": real, "fake": fake}
    outputs = {"real": logit(scaled), "fake": logit(fake)}
    return PartlyTrained(inputs, outputs, discriminator, name="judge")


def build_d_on_g(generator, discriminator):
    """Map noise (n, LATENT) to the discriminator's logit of its face. Trains G only."""
    noise = keras.Input(generator.input_shape[1:], name="noise")
    outputs = _logit(discriminator)(generator(noise))
    return PartlyTrained(noise, outputs, generator, name="d_on_g")


def share_called_real(_, logit):
    """Return the share of faces that D calls real: its logit is above 0."""
    return ops.mean(ops.cast(logit > 0, "float32"))


def share_called_fake(_, logit):
    """Return the share of faces that D calls fake: its logit is 0 or below."""
    return ops.mean(ops.cast(logit <= 0, "float32"))


def is_out_of_memory(error):
    """Tell whether an exception, of any backend, means that memory is full."""
    text = f"{type(error).__name__}: {error}"
    signs = ("ResourceExhausted", "RESOURCE_EXHAUSTED", "OutOfMemory")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def mirror(faces, mirrored):
    """Mirror those of the faces (n, S, S, 3) that `mirrored` (n,) bool names."""
    return ops.where(mirrored[:, None, None, None], ops.flip(faces, 2), faces)


def ones_for(noise):
    """Return the label 1 for every row of noise (n, LATENT), as (n, 1) float32."""
    return ops.ones_like(noise[:, :1])


def make_fakes(generator, noise):
    """Map noise (n, LATENT) to faces (n, S, S, 3) as training sees them: with the
    batch's own statistics, and with no gradient that leads back into the generator.
    """
    return ops.stop_gradient(generator(noise, training=True))


def average_decay(iteration, target):
    """Return the decay of the averaged generator after `iteration` updates of G.

    min(target, 1 - 1 / (1 + iteration / 20)): the average reaches back over about a
    twentieth of the run so far, until that is 1 / (1 - target) iterations. A fixed
    long memory would keep the noise of the first iterations in the picture.
    """
    return min(target, 1 - 1 / (1 + iteration / 20))


def update_average(average, generator, decay):
    """Move the weights of `average`, batch-norm statistics too, by 1 - decay to G's."""
    for mean, weight in zip(average.weights, generator.weights, strict=True):
        mean.assign(mean + (weight - mean) * (1 - decay))


def draw(generator, noise):
    """Map noise (n, LATENT) to faces (n, S, S, 3) uint8, as a finished generator does:
    with its batch norm's own statistics, so that a face does not depend on the others.
    """
    parts = [
        to_pixels(generator(noise[first : first + 256], training=False))
        for first in range(0, len(noise), 256)
    ]
    return np.concatenate(parts)


def to_pixels(faces):
    """Turn faces (n, S, S, 3) float in [-1, 1] into uint8 in 0 .. 255."""
    faces = ops.convert_to_numpy(faces)
    return ((faces + 1) * 127.5).round().clip(0, 255).astype("uint8")


def check_size(network, image_size):
    """Raise UserError if there is no such network, or if it cannot draw that size."""
    if network not in SIZES:
        raise UserError(f"There is no network {network!r}, only {', '.join(SIZES)}.")
    if image_size not in SIZES[network]:
        sizes = " or ".join(str(size) for size in SIZES[network])
        raise UserError(
            f"The {network} network draws {sizes} pixels, not {image_size}. "
            f"Try --network dcgan, or --image-size {SIZES[network][0]}."
        )


def _logit(discriminator):
    layer = discriminator.get_layer("logit")
    return keras.Model(discriminator.input, layer.output, name="logit_of_face")


def _dcgan_face(noise, image_size):
    grid, widths = DCGAN[image_size]
    x = layers.Dense(
        grid * grid * widths[0], use_bias=False, kernel_initializer=_normal()
    )(noise)
    x = layers.Reshape((grid, grid, widths[0]))(x)
    x = layers.ReLU()(_batch_norm(x))
    for width in widths[1:]:
        x = layers.ReLU()(_batch_norm(_transposed(x, width)))
    if x.shape[1] < image_size:
        return _transposed(x, 3, **TO_FACE)
    return _convolution(x, 3, strides=1, kernel=3, **TO_FACE)


def _dcgan_look(face, image_size):
    _, widths = DCGAN[image_size]
    first, *rest = reversed(widths)
    x = layers.LeakyReLU(0.2)(_convolution(face, first, use_bias=True))
    for width in rest:
        x = layers.LeakyReLU(0.2)(_batch_norm(_convolution(x, width)))
    return layers.Flatten()(x)


def _tutorial_face(noise, image_size):
    widths = TUTORIAL_WIDTHS[::-1]
    grid = image_size // 2 ** len(widths)  # the shape of the discriminator's last block
    x = layers.Dense(grid * grid * widths[0], kernel_initializer=_normal())(noise)
    x = layers.Reshape((grid, grid, widths[0]))(x)
    for width in widths:
        x = layers.ReLU()(_batch_norm(_transposed(x, width)))
    return _convolution(x, 3, strides=1, kernel=3, **TO_FACE)


def _tutorial_look(face, _):
    x = face
    for width in TUTORIAL_WIDTHS:
        x = layers.LeakyReLU(0.2)(_batch_norm(_convolution(x, width, 1, kernel=3)))
        x = layers.LeakyReLU(0.2)(_batch_norm(_convolution(x, width)))
    return layers.GlobalAveragePooling2D()(x)


def _blog_face(noise, _):
    x = layers.Dense(2 * 2 * 512, kernel_initializer=_normal())(noise)
    x = _blog_finish(layers.Reshape((2, 2, 512))(x), 1)
    x = _blog_finish(_transposed(x, 1024), 2)  # 4 x 4
    x = _blog_finish(_transposed(x, 512, strides=1, padding="valid"), 3)  # 7 x 7
    x = _blog_finish(_transposed(x, 256), 4)  # 14 x 14
    return _transposed(x, 3, **TO_FACE)  # 28 x 28


def _blog_finish(x, seed):
    # Without a seed of its own, dropout on PyTorch draws from a state that no
    # checkpoint holds
    x = layers.LeakyReLU(0.2)(_batch_norm(x))
    return layers.Dropout(BLOG_DROPOUT, seed=seed)(x)


def _blog_look(face, _):
    x = layers.LeakyReLU(0.2)(_convolution(face, 64, use_bias=True))
    for width in (128, 256, 512):
        x = layers.LeakyReLU(0.2)(_batch_norm(_convolution(x, width)))
    return layers.Flatten()(x)


def _convolution(x, width, strides=2, kernel=4, **options):
    options = {"use_bias": False, "padding": "same", **options}
    return layers.Conv2D(
        width, kernel, strides, kernel_initializer=_normal(), **options
    )(x)


def _transposed(x, width, strides=2, kernel=4, **options):
    # The kernel is a multiple of the stride: every pixel gets as many contributions
    # as its neighbour, so there are no checkerboards (distill.pub, "Deconvolution").
    options = {"use_bias": False, "padding": "same", **options}
    return layers.Conv2DTranspose(
        width, kernel, strides, kernel_initializer=_normal(), **options
    )(x)


def _batch_norm(x):
    gamma = keras.initializers.RandomNormal(1.0, 0.02)
    return layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, gamma_initializer=gamma
    )(x)


def _normal():
    return keras.initializers.RandomNormal(0.0, 0.02)
