"""`fit` with an overridden train_step, as Keras' documentation teaches GANs.

One mixed batch trains D, then G is trained through D. On TensorFlow this follows the
documentation's DCGAN; for JAX it has no GAN, and this follows its guide to writing a
train_step there. Batches are uint8, scaled on the device.
"""

import functools

import models
from benchmarks import on_keras
from benchmarks.workers import faces_for
from dcgan.common.console import UserError
from dcgan.networks.backend import keras
from dcgan.networks.backend import ops as k


class _Gan(keras.Model):
    """What both backends share: the networks, the losses' average, the loss."""

    def __init__(self, image_size):
        super().__init__()
        self.generator = models.build_generator("dcgan", image_size)
        self.discriminator = models.build_discriminator("dcgan", image_size)
        self.cross_entropy = keras.losses.BinaryCrossentropy()
        self.d_loss = keras.metrics.Mean(name="d_loss")
        self.g_loss = keras.metrics.Mean(name="g_loss")
        self.built = True

    @property
    def metrics(self):
        return [self.d_loss, self.g_loss]


class TensorFlowGan(_Gan):
    """Two gradient tapes, two optimizers."""

    def compile(self):
        super().compile()
        self.d_optimizer, self.g_optimizer = on_keras.adam(), on_keras.adam()

    def train_step(self, real):
        import tensorflow as tf

        real = _faces_of(real)
        batch = k.shape(real)[0]
        real, labels = _scaled(real), _labels(batch)
        fake = self.generator(_noise(batch), training=True)
        with tf.GradientTape() as tape:
            judged = self.discriminator(k.concatenate([fake, real]), training=True)
            d_loss = self.cross_entropy(labels, judged)
        weights = self.discriminator.trainable_weights
        gradients = tape.gradient(d_loss, weights)
        self.d_optimizer.apply_gradients(zip(gradients, weights, strict=True))
        noise = _noise(batch)
        with tf.GradientTape() as tape:
            judged = self.discriminator(
                self.generator(noise, training=True), training=True
            )
            g_loss = self.cross_entropy(k.ones((batch, 1)), judged)
        weights = self.generator.trainable_weights
        gradients = tape.gradient(g_loss, weights)
        self.g_optimizer.apply_gradients(zip(gradients, weights, strict=True))
        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        return {metric.name: metric.result() for metric in self.metrics}


class JaxGan(_Gan):
    """Gradients of functions without side effects, one Adam for both networks.

    Its state is one list, so both networks are moved at once, with the same constants.
    """

    def compile(self):
        super().compile(optimizer=on_keras.adam())
        self.optimizer.build(self.trainable_variables)

    def train_step(self, state, real):
        import jax

        weights, others, moments, metrics = state
        g_count = len(self.generator.trainable_variables)
        g, d = weights[:g_count], weights[g_count:]
        g_count = len(self.generator.non_trainable_variables)
        g_others, d_others = others[:g_count], others[g_count:]
        real = _scaled(_faces_of(real))
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), moments[0]))
        first, second = (
            jax.random.uniform(key, (len(real), models.LATENT), minval=-1, maxval=1)
            for key in keys
        )
        fake, g_others = self.generator.stateless_call(
            g, g_others, first, training=True
        )
        slope = jax.value_and_grad(self.d_loss_of, has_aux=True)
        (d_loss, d_others), d_slopes = slope(d, d_others, fake, real)
        slope = jax.value_and_grad(self.g_loss_of, has_aux=True)
        (g_loss, others), g_slopes = slope(g, g_others, d, d_others, second)
        weights, moments = self.optimizer.stateless_apply(
            moments, [*g_slopes, *d_slopes], weights
        )
        losses = {"d_loss": d_loss, "g_loss": g_loss}
        return losses, (weights, others, moments, metrics)

    def d_loss_of(self, weights, others, fake, real):
        """Return D's loss on one mixed batch, and its statistics after it."""
        judged, others = self.discriminator.stateless_call(
            weights, others, k.concatenate([fake, real]), training=True
        )
        return self.cross_entropy(_labels(len(real)), judged), others

    def g_loss_of(self, weights, others, d_weights, d_others, noise):
        """Return G's loss, and the statistics of both after it, in one list."""
        fake, others = self.generator.stateless_call(
            weights, others, noise, training=True
        )
        judged, d_others = self.discriminator.stateless_call(
            d_weights, d_others, fake, training=True
        )
        loss = self.cross_entropy(k.ones((len(noise), 1)), judged)
        return loss, [*others, *d_others]


def contestant(spec):
    """Build and compile it; a round is one epoch of fit over just enough faces."""
    on_keras.register_tiny()
    kinds = {"tensorflow": TensorFlowGan, "jax": JaxGan}
    if spec.backend not in kinds:
        raise UserError(f"it is written for {' and '.join(kinds)}")
    gan = kinds[spec.backend](spec.image_size)
    gan.compile()

    some_faces = functools.lru_cache(maxsize=1)(faces_for)

    def prepare(iterations):
        faces = some_faces(spec, iterations * spec.batch)

        def run():
            gan.fit(faces, batch_size=spec.batch, shuffle=True, verbose=0)

        return run

    return on_keras.contestant(prepare, gan.generator, gan.discriminator)


def _faces_of(data):
    """Take the faces out of what fit hands over, a tuple without labels."""
    return data[0] if isinstance(data, tuple) else data


def _scaled(real):
    return k.cast(real, "float32") / 127.5 - 1


def _labels(batch):
    return k.concatenate([k.zeros((batch, 1)), k.ones((batch, 1))])


def _noise(batch):
    return keras.random.uniform((batch, models.LATENT), -1, 1)
