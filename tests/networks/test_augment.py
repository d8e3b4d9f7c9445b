"""What is done to faces, and that D sees them so in both training steps."""

import itertools

import keras
import numpy as np
import pytest

import models
from dcgan.networks import augment

SIZES = [16, 18, 28]  # of which 18 is cut out by an odd number of pixels


def some_faces(size=16, count=40):
    random = np.random.default_rng(size)
    return random.uniform(-1, 1, (count, size, size, 3)).astype("float32")


def some_chance(count=40):
    random = np.random.default_rng(5)
    return random.random((count, augment.NUMBERS)).astype("float32")


def augmented(faces, chance, *kinds):
    faces, chance = map(keras.ops.convert_to_tensor, (faces, chance))
    return keras.ops.convert_to_numpy(augment.augment(faces, chance, kinds))


@pytest.mark.every_backend
def test_colour_is_brightness_then_saturation_then_contrast():
    faces, chance = some_faces(), some_chance()
    for face, row, new in zip(
        faces, chance, augmented(faces, chance, "colour"), strict=True
    ):
        bright = face + (row[0] - 0.5)
        grey = bright.mean(-1, keepdims=True)
        coloured = grey + (bright - grey) * row[1] * 2
        expected = coloured.mean() + (coloured - coloured.mean()) * (row[2] + 0.5)
        np.testing.assert_allclose(new, expected, atol=1e-5)


@pytest.mark.every_backend
@pytest.mark.parametrize("size", SIZES)
def test_translation_moves_whole_pixels_and_fills_up_with_grey(size):
    farthest = {16: 2, 18: 2, 28: 4}[size]  # an eighth, rounded half up
    steps = range(-farthest, farthest + 1)
    shifts = list(itertools.product(steps, repeat=2))
    faces = some_faces(size, len(shifts))
    chance = np.zeros((len(shifts), augment.NUMBERS), "float32")
    # The middle of each shift's part of [0, 1): all are equally likely
    chance[:, 3:5] = (np.array(shifts) + farthest + 0.5) / (2 * farthest + 1)
    moved = augmented(faces, chance, "translation")
    for face, (down, right), new in zip(faces, shifts, moved, strict=True):
        wide = np.pad(face, ((farthest, farthest), (farthest, farthest), (0, 0)))
        top, left = farthest - down, farthest - right
        expected = wide[top : top + size, left : left + size]
        np.testing.assert_allclose(new, expected, atol=1e-6)


@pytest.mark.every_backend
@pytest.mark.parametrize("size", SIZES)
def test_cutout_greys_a_square_of_half_the_width(size):
    faces, chance = np.ones((40, size, size, 3), "float32"), some_chance()
    side = size // 2
    chance[0, 5:7], chance[1, 5:7], chance[2, 5:7] = 0.5, 0, 0.9999
    cut = augmented(faces, chance, "cutout")
    assert set(np.unique(cut)) == {0, 1}
    assert (cut[0] == 0).sum() == 3 * side * side
    # At the first place only a half of each side lies inside, at the last one likewise
    assert (cut[1] == 0).sum() == 3 * (side - side // 2) ** 2
    assert (cut[1, : side - side // 2, : side - side // 2] == 0).all()
    assert (cut[2, side // 2 - side :, side // 2 - side :] == 0).all()
    assert (cut[2] == 0).sum() == 3 * (side - side // 2) ** 2
    rows = (cut[:, :, :, 0] == 0).any(2).sum(1)
    assert rows.max() == side
    assert len({face.tobytes() for face in cut}) > 30


@pytest.mark.parametrize("kind", augment.KINDS)
def test_each_face_has_numbers_of_its_own_and_each_kind_too(kind):
    faces, chance = some_faces(), some_chance()
    together = augmented(faces, chance, kind)
    assert together.shape == faces.shape
    for k in (0, 7):
        alone = augmented(faces[k : k + 1], chance[k : k + 1], kind)
        np.testing.assert_allclose(alone[0], together[k], atol=1e-6)
    same = augmented(np.repeat(faces[:1], 40, 0), chance, kind)
    assert len({face.tobytes() for face in same}) > 15
    mine = {"colour": (0, 3), "translation": (3, 5), "cutout": (5, 7)}[kind]
    for number in range(augment.NUMBERS):
        other = chance.copy()
        other[:, number] = other[::-1, number]
        changed = (augmented(faces, other, kind) != together).any()
        assert changed == (mine[0] <= number < mine[1])


def test_no_kind_is_no_change():
    faces = some_faces()
    assert (augmented(faces, some_chance()) == faces).all()


def test_kinds_are_read_from_words():
    assert augment.kinds_of("") == ()
    assert augment.kinds_of("cutout, colour") == ("colour", "cutout")
    message = r"no augmentation 'color'. Try --augment colour,translation,cutout"
    with pytest.raises(SystemExit, match=message):
        augment.kinds_of("color,cutout")


@pytest.mark.every_backend
@pytest.mark.parametrize("loss", ["cross-entropy", "relativistic"])
def test_discriminator_sees_all_faces_augmented_in_both_steps(monkeypatch, loss):
    monkeypatch.setitem(models.DCGAN, 28, (7, (8, 4, 4)))
    recipe = models.Recipe(loss, augment.KINDS, "none")
    gan = models.build_gan("dcgan", 28, 1, (1e-3, 1e-3), 0.5, recipe=recipe)
    for weight in gan.discriminator.trainable_weights:  # far from 0
        weight.assign(weight * 20)
    logit = models._logit(gan.discriminator)
    random = np.random.default_rng(0)
    tensors = {
        "real": random.integers(0, 256, (6, 28, 28, 3)).astype("uint8"),
        "noise": random.uniform(-1, 1, (6, models.LATENT)).astype("float32"),
        "chance": random.random((6, 2, augment.NUMBERS)).astype("float32"),
    }
    tensors = {name: keras.ops.convert_to_tensor(tensors[name]) for name in tensors}
    fake = tensors["fake"] = gan.generator(tensors["noise"], training=False)
    real = keras.ops.cast(tensors["real"], "float32") / 127.5 - 1

    def judged(faces, row):
        numbers = tensors["chance"][:, row]
        return to_numpy(logit(augment.augment(faces, numbers, augment.KINDS)))

    d = gan.judge(models.inputs_for(gan.judge, **tensors))
    g = gan.d_on_g(models.inputs_for(gan.d_on_g, **tensors))
    expected = {"real": judged(real, 0), "fake": judged(fake, 1)}
    of_fake = judged(fake, 0)
    if loss == "relativistic":
        realer = expected["real"] - expected["fake"]
        expected = {"real": realer, "fake": -realer}
        of_fake = of_fake - judged(real, 1)
    tolerance = {"rtol": 1e-3, "atol": 1e-4}
    for name in ("real", "fake"):
        np.testing.assert_allclose(to_numpy(d[name]), expected[name], **tolerance)
    np.testing.assert_allclose(to_numpy(g), of_fake, **tolerance)
    assert np.ptp(of_fake) > 0.01


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor))
