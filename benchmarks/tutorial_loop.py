"""The loop of the tutorials: predict, one mixed batch, train_on_batch twice.

The networks are models.py's. As tutorials do, D is frozen in the joint model by its
`trainable` flag. In Keras 3 the flag counts when a model is first trained, and on JAX
at each call; set once, before the joint model is compiled, it would stop D from
learning at all. So it is set before each of the two steps, as some tutorials do.
"""

import numpy as np

import models
from benchmarks import on_keras
from benchmarks.workers import faces_for
from dcgan.networks.backend import keras

POOL = 2048  # pictures held in memory, scaled to float32 beforehand


class Loop:
    """Both networks and the joint model, compiled as in a tutorial."""

    def __init__(self, image_size):
        self.generator = models.build_generator("dcgan", image_size)
        self.discriminator = models.build_discriminator("dcgan", image_size)
        self.discriminator.compile(
            loss="binary_crossentropy", optimizer=on_keras.adam()
        )
        noise = keras.Input((models.LATENT,))
        judged = self.discriminator(self.generator(noise))
        self.joint = keras.Model(noise, judged)
        self.joint.compile(loss="binary_crossentropy", optimizer=on_keras.adam())

    def iterate(self, real):
        """Train on real faces (B, S, S, 3) float32 in [-1, 1]; return both losses."""
        batch = len(real)
        fake = self.generator.predict(_noise(batch), verbose=0)
        faces = np.concatenate([real, fake])
        labels = np.concatenate([np.ones((batch, 1)), np.zeros((batch, 1))])
        self.discriminator.trainable = True
        d_loss = self.discriminator.train_on_batch(faces, labels)
        self.discriminator.trainable = False
        g_loss = self.joint.train_on_batch(_noise(batch), np.ones((batch, 1)))
        return d_loss, g_loss


def contestant(spec):
    """Build the loop; a round takes its batches at random from faces in memory."""
    on_keras.register_tiny()
    loop = Loop(spec.image_size)
    faces = faces_for(spec, max(POOL, spec.batch)).astype("float32") / 127.5 - 1
    random = np.random.default_rng(1)

    def prepare(iterations):
        def run():
            for _ in range(iterations):
                loop.iterate(faces[random.integers(0, len(faces), spec.batch)])

        return run

    return on_keras.contestant(prepare, loop.generator, loop.discriminator)


def _noise(batch):
    return np.random.uniform(-1, 1, (batch, models.LATENT)).astype("float32")
