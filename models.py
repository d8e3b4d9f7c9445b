"""The generator, the discriminator, and d_on_g with the discriminator frozen.

A discriminator turns faces into the probability that each is real. It is trained
through two models that share its layers and each move one part of what they hold:

    judge    (real, fake) -> D's logits of both    moves the discriminator only
    d_on_g   noise -> D's logit of G's face        moves the generator only

To add a network, write two functions as those of the "dcgan" network, and a row of
NETWORKS, at the end of this file.
"""

import contextlib
import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dcgan.common.console import UserError
from dcgan.common.options import typed
from dcgan.networks.augment import NUMBERS, Augment
from dcgan.networks.backend import inferred, keras, layers, ops
from dcgan.networks.layers import (
    BatchNormalization,
    Conv2D,
    Conv2DTranspose,
    Normal,
    can_take_turns,
    in_turns,
)
from dcgan.networks.losses import R1, accuracies, loss_named, realer
from dcgan.networks.spectral import SpectralConv2D, SpectralDense
from dcgan.runs import checkpoints, generators
from dcgan.runs.folder import CHECKPOINT

LATENT = 100  # numbers of noise that a face is drawn from

TUTORIAL_WIDTHS = (32, 64, 128, 256)
BLOG_WIDTHS = (256, 512, 1024)  # of the generator
BLOG_DROPOUT = 0.2

# A generator's last layer, in float32 even where the others are not.
TO_FACE = {"use_bias": True, "activation": "tanh", "dtype": "float32"}


class Gan(NamedTuple):
    """Everything that trains: two networks, two models over them, an average."""

    generator: keras.Model
    discriminator: keras.Model
    judge: keras.Model
    d_on_g: keras.Model
    average: keras.Model  # the generator, its weights averaged over time


class Recipe(NamedTuple):
    """What may be done differently; the defaults are a plain DCGAN."""

    loss: str = "cross-entropy"  # a name in losses.LOSSES
    augment: tuple = ()  # kinds of augment.py
    d_norm: str = "batch"  # D's normalization: "batch", "spectral" or "none"
    r1: float = 0.0  # gamma of losses.R1, only without batch norm
    width: float = 1.0  # times the widths of both networks
    channels: int = 3  # of a face; 1: grey


PLAIN = Recipe()


class Network(NamedTuple):
    """A kind of network: the middle of its generator and of its discriminator."""

    face: Callable  # noise, image_size, Recipe's width and channels -> faces
    look: Callable  # faces, image_size, Recipe -> (n, F), of which D makes one logit
    sizes: Collection  # of pictures that it can draw, pixels, the smallest first


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

    trainable_weights = trainable_variables  # Keras asks for either


def build_gan(  # noqa: PLR0913
    network, image_size, seed, learning_rates, beta_1, precision="float32", recipe=PLAIN
):
    """Build and compile everything that trains, as a `Gan`.

    `network` and `image_size` as in NETWORKS; `learning_rates` of G and D and `beta_1`
    are Adam's. With `precision` "bfloat16" all but the last layers and the losses
    compute in that; weights are float32 in any case.
    Equal seeds give equal first weights, on all backends. Raises UserError for a size
    that the network does not have, and for a loss that there is not.
    """
    keras.utils.set_random_seed(seed)
    with _computing_in(precision):
        generator = build_generator(network, image_size, recipe.width, recipe.channels)
        discriminator = build_discriminator(network, image_size, recipe)
        judge = build_judge(discriminator, recipe)
        d_on_g = build_d_on_g(generator, discriminator, recipe)
    average = build_generator(network, image_size, recipe.width, recipe.channels)
    average.set_weights(generator.get_weights())
    _compile(judge, d_on_g, learning_rates, beta_1, loss_named(recipe.loss))
    for model in (judge, d_on_g):
        _make_variables(model)
    return Gan(generator, discriminator, judge, d_on_g, average)


def _compile(judge, d_on_g, learning_rates, beta_1, loss):
    g_rate, d_rate = learning_rates
    judge.compile(
        optimizer=keras.optimizers.Adam(d_rate, beta_1=beta_1),
        loss={"real": loss.d, "fake": loss.d},
        loss_weights={"real": 0.5, "fake": 0.5},  # their mean
        metrics=accuracies(loss.border),
    )
    d_on_g.compile(optimizer=keras.optimizers.Adam(g_rate, beta_1=beta_1), loss=loss.g)


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


def build_generator(network, image_size, width=1.0, channels=3):
    """Map noise (n, LATENT) float32 to faces (n, S, S, channels) float32 in [-1, 1].

    Its layers are `width` times as wide as the network's. Raises UserError for a size
    that the network does not have.
    """
    check_size(network, image_size)
    noise = keras.Input((LATENT,), name="noise")
    face = NETWORKS[network].face(noise, image_size, width, channels)
    return keras.Model(noise, face, name="generator")


def load_generator(run, which="best"):
    """Return the generator of a run folder, a Keras model, and what is told of it.

    which: "best" by its score, or "last"; or what else generators.find() gives. Raises
    UserError if there is none, if it is damaged, or does not fit what it tells of
    itself.
    """
    if CHECKPOINT.fullmatch(which):
        return _load_average(Path(run, which))
    while True:
        weights, facts = generators.read(run, which)
        network, size = facts["network"], facts["image_size"]
        if facts["latent"] != LATENT:
            raise UserError(
                f"{weights} has a wrong latent: it draws from {facts['latent']} "
                f"numbers of noise, and models.py has LATENT = {LATENT}."
            )
        shape = facts.get("width", 1.0), facts.get("channels", 3)
        generator = build_generator(network, size, *shape)
        fault = None
        try:
            with generators.fitting(
                f"{weights} does not hold a {network} generator of {size} x {size} "
                "faces, as it says. Train again: python train.py"
            ):
                generators.fill(generator, weights)
        except UserError as error:
            fault = error
        if generators.read(run, which).facts != facts:
            continue  # a training has written another one meanwhile
        if fault:
            raise fault
        return generator, facts


def _load_average(checkpoint):
    """Return the averaged generator in a checkpoint, and what is told of it."""
    arrays, facts = checkpoints.read_network(checkpoint)
    shape = {name: facts[name] for name in generators.SHAPED_BY}
    line = f"{checkpoint} does not hold a generator as its run's constants.json tells."
    with generators.fitting(line):
        generator = build_generator(**shape)
        _assign(generator, arrays)
    return generator, facts


def load_discriminator(run, which="best", epochs=None):
    """Return the discriminator that learned beside a run's generator, a Keras model.

    The one in a folder of weights; or that of a run's checkpoint, the one that `which`
    names, that after so many epochs, or the newest. Raises UserError if there is none,
    or if it is damaged.
    """
    there = checkpoints.paths(run)
    if there:
        file = Path(run, which)
        if not CHECKPOINT.fullmatch(which):
            ends = {checkpoints.ended_epoch(path): path for path in there}
            file = ends.get(epochs, there[-1])
        arrays, facts = checkpoints.read_network(file, "discriminator")
    elif generators.paths(run, "discriminator")[0].is_file():
        file, facts = generators.read(run, "discriminator")
    else:
        raise UserError(
            f"{run} has no discriminator: neither a checkpoint nor "
            f"{generators.paths(run, 'discriminator')[0].name}."
        )
    recipe = Recipe(
        d_norm=facts.get("constants", {}).get("D_NORM", "batch"),
        **{name: facts[name] for name in ("width", "channels") if name in facts},
    )
    network, size = facts["network"], facts["image_size"]
    discriminator = build_discriminator(network, size, recipe)
    with generators.fitting(
        f"{file} does not hold a {network} discriminator of {size} x {size} faces, as "
        "it says."
    ):
        if there:
            _assign(discriminator, arrays)
        else:
            generators.fill(discriminator, file)
    return discriminator


def _assign(network, arrays):
    for variable, array in zip(network.variables, arrays, strict=True):
        variable.assign(array)


def build_discriminator(network, image_size, recipe=PLAIN):
    """Map faces (n, S, S, C) float32 in [-1, 1] to P(real) (n, 1) float32 in [0, 1].

    The layer before the last, "logit", is what the losses are computed from; after
    another than the cross-entropy P(real) is a mere score.
    Raises UserError for a size that the network does not have.
    """
    check_size(network, image_size)
    face = keras.Input((image_size, image_size, recipe.channels), name="face")
    features = NETWORKS[network].look(face, image_size, recipe)
    dense = SpectralDense if recipe.d_norm == "spectral" else layers.Dense
    logit = dense(1, kernel_initializer=_normal(), dtype="float32", name="logit")
    probability = layers.Activation("sigmoid", dtype="float32", name="probability")
    return keras.Model(face, probability(logit(features)), name="discriminator")


def build_judge(discriminator, recipe=PLAIN):
    """Map real (n, S, S, 3) uint8 and fake (n, S, S, 3) in [-1, 1] to D's two logits.

    The discriminator's batch norm takes the statistics of real and of fake faces apart,
    so that it cannot tell them by their common mean. Trains D only. If it augments, it
    takes "chance" (n, 2, NUMBERS) too: of the real, of the fake faces.
    """
    loss, logit = loss_named(recipe.loss), _logit(discriminator)
    shape = discriminator.input_shape[1:]
    real = keras.Input(shape, dtype="uint8", name="real")
    fake = keras.Input(shape, name="fake")
    inputs = {"real": real, "fake": fake}
    faces = _augmented({"real": _scaled(real), "fake": fake}, inputs, recipe)
    if recipe.r1:
        judge_real = R1(logit, recipe.r1, loss.share)
        logits = {"real": judge_real(faces["real"]), "fake": logit(faces["fake"])}
    elif can_take_turns(logit):
        logits = InTurns(logit)(faces)
    else:
        logits = {name: logit(faces[name]) for name in faces}
    outputs = realer(logits) if loss.pairs else logits
    return PartlyTrained(inputs, outputs, discriminator, name="judge")


class InTurns(layers.Layer):
    """logit() of {"real", "fake": faces} in one pass, in place of one pass each.

    So a GPU has fewer and larger things to do.
    """

    def __init__(self, logit, **options):
        super().__init__(dtype="float32", **options)
        self.logit = logit

    def call(self, faces):
        judged = in_turns(self.logit, *faces.values())
        return dict(zip(faces, judged, strict=True))


def build_d_on_g(generator, discriminator, recipe=PLAIN):
    """Map noise (n, LATENT) to the discriminator's logit of its face. Trains G only.

    A loss of pairs needs "real" faces too, and an augmentation "chance" (n, 2,
    NUMBERS): of the fakes, of the real faces. The inputs are a dict then.
    """
    loss, logit = loss_named(recipe.loss), _logit(discriminator)
    inputs = {"noise": keras.Input(generator.input_shape[1:], name="noise")}
    faces = {"fake": generator(inputs["noise"])}
    if loss.pairs:
        shape = discriminator.input_shape[1:]
        inputs["real"] = keras.Input(shape, dtype="uint8", name="real")
        faces["real"] = _scaled(inputs["real"])
    faces = _augmented(faces, inputs, recipe)
    logits = {name: logit(faces[name]) for name in faces}
    logits = realer(logits) if loss.pairs else logits
    if len(inputs) == 1:
        inputs = inputs["noise"]
    return PartlyTrained(inputs, logits["fake"], generator, name="d_on_g")


def _augmented(faces, inputs, recipe):
    """Augment {"real" or "fake": faces}, by numbers that become one of the inputs."""
    if not recipe.augment:
        return faces
    inputs["chance"] = keras.Input((2, NUMBERS), name="chance")
    return {
        name: Augment(recipe.augment)(faces[name], inputs["chance"][:, k])
        for k, name in enumerate(faces)
    }


def inputs_for(model, **tensors):
    """Pick from the tensors what a model takes: a dict by name, or its only input."""
    if isinstance(model.input, dict):
        return {name: tensors[name] for name in model.input}
    return tensors[model.input.name]


def set_rate(model, rate):
    """Set the learning rate of a compiled model, inside a traced function too."""
    model.optimizer.learning_rate = rate


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


def update_average(average, generator, decay):
    """Move the weights of `average`, batch-norm statistics too, by 1 - decay to G's."""
    for mean, weight in zip(average.weights, generator.weights, strict=True):
        mean.assign(mean + (weight - mean) * (1 - decay))


def copy_of(generator):
    """Return a generator with the weights of another, whatever becomes of that one."""
    copy = keras.models.clone_model(generator)
    copy.set_weights(generator.get_weights())
    return copy


def draw(generator, noise):
    """Map noise (n, LATENT) to faces (n, S, S, 3) uint8, as a finished generator does:
    with its batch norm's own statistics, so that a face does not depend on the others.
    """
    size = generator.output_shape[1]
    return _in_parts(lambda n: to_pixels(inferred(generator, n)), noise, size)


def judge(discriminator, faces):
    """Map faces (n, S, S, C) uint8 to logits (n,) float32: how real each of them is.

    With the batch norm's own statistics, so that a face is judged by itself.
    """
    logit, size = _judging(discriminator), faces.shape[1]

    def of_part(pixels):
        scaled = pixels / np.float32(127.5) - 1
        return ops.convert_to_numpy(inferred(logit, scaled))[:, 0]

    return _in_parts(of_part, faces, size)


def _in_parts(function, rows, image_size):
    """Join function(part) of all parts of rows (n, ...), which are of fewer faces
    where these are larger than 64 pixels. All are as large as can be: each other size
    is compiled anew.
    """
    most = max(1, 256 * 64**2 // max(64, image_size) ** 2)
    count = -(-len(rows) // -(-len(rows) // most))
    parts = [
        function(rows[first : first + count]) for first in range(0, len(rows), count)
    ]
    return np.concatenate(parts)


def to_pixels(faces):
    """Turn faces (n, S, S, 3) float in [-1, 1] into uint8 in 0 .. 255."""
    faces = ops.convert_to_numpy(faces)
    return ((faces + 1) * 127.5).round().clip(0, 255).astype("uint8")


def check_size(network, image_size):
    """Raise UserError if there is no such network, or if it cannot draw that size."""
    if network not in NETWORKS:
        raise UserError(f"There is no network {network!r}, only {', '.join(NETWORKS)}.")
    sizes = NETWORKS[network].sizes
    if image_size not in sizes:
        smaller = [size for size in sizes if size < image_size]
        larger = [size for size in sizes if size > image_size]
        nearest = [typed(image_size=size) for size in (*smaller[-1:], *larger[:1])]
        nearest += ["--network dcgan"] if image_size in DCGAN else []
        raise UserError(
            f"The {network} network cannot draw {image_size} pixels. Try "
            f"{', or '.join(nearest)}."
        )


def _logit(discriminator):
    layer = discriminator.get_layer("logit")
    return keras.Model(discriminator.input, layer.output, name="logit_of_face")


# One model for all faces: its programs are kept with it
_judging = functools.lru_cache(1)(_logit)


def _scaled(pixels):
    return layers.Rescaling(1 / 127.5, -1, dtype="float32", name="scaled")(pixels)


def _widths(widths, width):
    """Multiply widths; none becomes less than 1."""
    return [max(1, round(each * width)) for each in widths]


def _grid_and_widths(size):
    """Return a start grid of 4 to 7 pixels, and the generator's widths from there on.

    The grid is doubled up to the size. The last width is 64, at half the size or, up to
    32 pixels, at all of it; each before is twice as wide, but 1024 at most. So 64
    pixels have the widths of dcgan.torch and the PyTorch tutorial.
    """
    doublings = size.bit_length() - 3
    layers = doublings + (size <= 32)
    return size >> doublings, tuple(min(1024, 32 << n) for n in range(layers, 0, -1))


def _dcgan_face(noise, image_size, width, channels):
    grid, widths = DCGAN[image_size]
    widths = _widths(widths, width)
    x = layers.Dense(
        grid * grid * widths[0], use_bias=False, kernel_initializer=_normal()
    )(noise)
    x = layers.Reshape((grid, grid, widths[0]))(x)
    x = layers.ReLU()(_batch_norm(x))
    for filters in widths[1:]:
        x = layers.ReLU()(_batch_norm(_transposed(x, filters)))
    if x.shape[1] < image_size:
        return _transposed(x, channels, **TO_FACE)
    return _convolution(x, channels, strides=1, kernel=3, **TO_FACE)


def _dcgan_look(face, image_size, recipe):
    _, widths = DCGAN[image_size]
    return _blocks(face, reversed(widths), recipe)


def _blocks(face, widths, recipe):
    first, *rest = _widths(widths, recipe.width)
    x = _block(face, first, recipe, batch_norm=False)
    for filters in rest:
        x = _block(x, filters, recipe)
    return layers.Flatten()(x)


def _tutorial_face(noise, image_size, width, channels):
    widths = _widths(TUTORIAL_WIDTHS[::-1], width)
    grid = image_size // 2 ** len(widths)  # the shape of the discriminator's last block
    x = layers.Dense(grid * grid * widths[0], kernel_initializer=_normal())(noise)
    x = layers.Reshape((grid, grid, widths[0]))(x)
    for filters in widths:
        x = layers.ReLU()(_batch_norm(_transposed(x, filters)))
    return _convolution(x, channels, strides=1, kernel=3, **TO_FACE)


def _tutorial_look(face, _, recipe):
    x = face
    for filters in _widths(TUTORIAL_WIDTHS, recipe.width):
        x = _block(x, filters, recipe, strides=1, kernel=3)
        x = _block(x, filters, recipe)
    return layers.GlobalAveragePooling2D()(x)


def _blog_face(noise, _, width, channels):
    wide = dict(zip(BLOG_WIDTHS, _widths(BLOG_WIDTHS, width), strict=True))
    x = layers.Dense(2 * 2 * wide[512], kernel_initializer=_normal())(noise)
    x = _blog_finish(layers.Reshape((2, 2, wide[512]))(x), 1)
    x = _blog_finish(_transposed(x, wide[1024]), 2)  # 4 x 4
    x = _blog_finish(_transposed(x, wide[512], strides=1, padding="valid"), 3)  # 7 x 7
    x = _blog_finish(_transposed(x, wide[256]), 4)  # 14 x 14
    return _transposed(x, channels, **TO_FACE)  # 28 x 28


def _blog_finish(x, seed):
    # Without a seed of its own, dropout on PyTorch draws from a state that no
    # checkpoint holds
    x = layers.LeakyReLU(0.2)(_batch_norm(x))
    return layers.Dropout(BLOG_DROPOUT, seed=seed)(x)


def _blog_look(face, _, recipe):
    return _blocks(face, (64, 128, 256, 512), recipe)


def _block(x, filters, recipe, batch_norm=True, **options):
    """A discriminator's convolution, normalization and leaky ReLU.

    Before batch norm, which would take it away again, there is no bias.
    """
    batch_norm = batch_norm and recipe.d_norm == "batch"
    kind = SpectralConv2D if recipe.d_norm == "spectral" else Conv2D
    x = _convolution(x, filters, kind=kind, use_bias=not batch_norm, **options)
    return layers.LeakyReLU(0.2)(_batch_norm(x) if batch_norm else x)


def _convolution(x, width, strides=2, kernel=4, kind=Conv2D, **options):
    options = {"use_bias": False, "padding": "same", **options}
    return kind(width, kernel, strides, kernel_initializer=_normal(), **options)(x)


def _transposed(x, width, **options):
    # The kernel is a multiple of the stride: every pixel gets as many contributions
    # as its neighbour, so there are no checkerboards (distill.pub, "Deconvolution").
    return _convolution(x, width, kind=Conv2DTranspose, **options)


def _batch_norm(x):
    gamma = Normal(1.0, 0.02)
    return BatchNormalization(momentum=0.9, epsilon=1e-5, gamma_initializer=gamma)(x)


def _normal():
    return Normal(0.0, 0.02)


# The sizes of the "dcgan" network, 4 to 7 times a power of two, each with its grid and
# widths; the discriminator has the same widths backwards.
DCGAN = {
    size: _grid_and_widths(size)
    for size in range(16, 257)
    if size % 2 ** (size.bit_length() - 3) == 0
}

NETWORKS = {
    "dcgan": Network(_dcgan_face, _dcgan_look, DCGAN),
    "tutorial": Network(_tutorial_face, _tutorial_look, (64,)),
    "blog": Network(_blog_face, _blog_look, (28,)),
}
