"""A small network that says which attributes a face has."""

import numpy as np

from dcgan.common.console import Bar
from dcgan.networks.backend import keras, layers
from dcgan.training.chance import stream


def build(shape, count):
    """Map faces (n, S, S, C) uint8 to logits (n, count) of what they have; compiled."""
    face = keras.Input(shape, dtype="uint8")
    x = layers.RandomFlip("horizontal")(layers.Rescaling(1 / 127.5, -1)(face))
    for width in (32, 64, 128):
        x = layers.Conv2D(width, 3, 2, "same", activation="relu")(x)
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    x = layers.Dense(128, activation="relu")(x)
    network = keras.Model(face, layers.Dense(count)(x))
    network.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    return network


def learn(faces, has, epochs, batch_size, seed):
    """Return a network that was trained on faces, and its accuracy (k,), 0 .. 1.

    faces: (n, S, S, C) uint8; has: (n, k) bool, which attributes each has. A tenth of
    the faces is held out, and the accuracy is that on these.
    """
    keras.utils.set_random_seed(seed)
    network = build(faces.shape[1:], has.shape[1])
    order = stream(seed, "held_out").permutation(len(faces))
    held_out, learned = np.split(order, [len(order) // 10])
    total = epochs * len(learned)
    with Bar(total=total, unit=" faces", desc="Learning attributes") as bar:
        for epoch in range(epochs):
            places = stream(seed, "attribute_order", epoch).permutation(learned)
            for first in range(0, len(places), batch_size):
                some = places[first : first + batch_size]
                network.train_on_batch(faces[some], has[some].astype("float32"))
                bar.update(len(some))
    says = network.predict(faces[held_out], batch_size, verbose=0) > 0
    return network, (says == has[held_out]).mean(0)
