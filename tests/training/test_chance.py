"""What is drawn depends on the seed, the stream and the place alone."""

import numpy as np
import pytest

from dcgan.training import chance
from dcgan.training.chance import Chance

LATENT = 100


def draws(batch_size=8, **options):
    return Chance(seed=1, batch_size=batch_size, latent=LATENT, **options)


def shown(count, batch_size, seed=1, epoch=1, d_steps=1):
    order = Chance(seed, batch_size, LATENT, d_steps).order(count, epoch)
    assert order.shape[1:] == (d_steps, batch_size)
    return order.reshape(len(order), -1).tolist()


@pytest.mark.parametrize(("d_steps", "batch_size"), [(1, 10), (2, 5)])
def test_an_epoch_shows_every_picture_once_but_those_that_fill_no_iteration(
    d_steps, batch_size
):
    iterations = shown(103, batch_size, d_steps=d_steps)
    assert [len(faces) for faces in iterations] == [10] * 10
    places = [place for faces in iterations for place in faces]
    assert len(set(places)) == 100
    assert set(places) < set(range(103))


def test_who_sits_an_epoch_out_changes_from_epoch_to_epoch():
    absent = set()
    for epoch in range(20):
        absent |= set(range(19)) - set(shown(19, 10, epoch=epoch)[0])
    assert len(absent) > 15


def test_the_order_is_shuffled_by_its_seed_and_epoch_alone():
    assert shown(64, 8) == shown(64, 8)
    assert shown(64, 8, epoch=2) != shown(64, 8)
    assert shown(64, 8, seed=2) != shown(64, 8)
    assert sum(np.diff(np.ravel(shown(200, 10))) == 1) < 10


def test_half_of_the_faces_are_mirrored_unless_flip_is_off():
    mirrored = np.stack([draws().iteration(1, n)["mirrored"] for n in range(100)])
    assert mirrored.shape == (100, 1, 8)
    assert 0.4 < mirrored.mean() < 0.6
    off = [draws(flip=False).iteration(1, n)["mirrored"] for n in range(100)]
    assert not np.any(off)


EVERYTHING = {"augment": True, "label_flipping": 0.25, "d_steps": 2, "g_steps": 3}
SHAPES = {
    "mirrored": (2, 8),
    "d_noise": (2, 8, LATENT),
    "g_noise": (3, 8, LATENT),
    "real_label": (2, 8, 1),
    "fake_label": (2, 8, 1),
    "d_augment": (2, 8, 2, 7),
    "g_augment": (3, 8, 2, 7),
}


def test_all_is_fresh_in_every_step_and_the_same_in_every_run():
    places = [(1, 0), (1, 1), (2, 0)]

    def steps(seed):
        drawn = Chance(seed, 8, LATENT, **EVERYTHING)
        rows = [drawn.iteration(*place) for place in places]
        return {name: [step for row in rows for step in row[name]] for name in rows[0]}

    first, again, other = steps(1), steps(1), steps(2)
    assert {name: np.shape(first[name]) for name in first} == {
        name: (len(places) * shape[0], *shape[1:]) for name, shape in SHAPES.items()
    }
    for name in first:
        assert len({step.tobytes() for step in first[name]}) == len(first[name]), name
        assert np.array_equal(first[name], again[name])
        assert all(
            (a != b).any() for a, b in zip(first[name], other[name], strict=True)
        )
    kinds = {name: first[name][0].dtype.name for name in first}
    assert kinds.pop("mirrored") == "bool"
    assert set(kinds.values()) == {"float32"}
    noise = np.stack(first["d_noise"] + first["g_noise"])
    assert -1 <= noise.min() < -0.99
    assert 0.99 < noise.max() <= 1
    numbers = np.stack(first["d_augment"] + first["g_augment"])
    assert 0 <= numbers.min() < 0.01
    assert 0.99 < numbers.max() < 1


def test_the_streams_are_those_that_the_documents_name():
    """Other numbers would make another run of every run that there is."""

    def by_hand(number, *place):
        return np.random.default_rng((1, number, *place))

    drawn = draws(augment=True).iteration(2, 5)
    assert (drawn["mirrored"][0] == (by_hand(2, 2, 5).random(8) < 0.5)).all()
    for name, number in (("d_noise", 3), ("g_noise", 4)):
        noise = by_hand(number, 2, 5).uniform(-1, 1, (8, LATENT)).astype("float32")
        assert (drawn[name] == noise).all()
    for name, number in (("d_augment", 18), ("g_augment", 19)):
        numbers = by_hand(number, 2, 5).random((8, 2, 7)).astype("float32")
        assert (drawn[name] == numbers).all()
    swapped = draws(label_flipping=0.5).iteration(2, 5)["real_label"][0] == 0
    assert (swapped == (by_hand(5, 2, 5).random((2, 8, 1))[0] < 0.5)).all()
    order = by_hand(1, 2).permutation(20)[:16].reshape(2, 1, 8)
    assert (draws().order(20, 2) == order).all()
    sheet = by_hand(6).uniform(-1, 1, (4, LATENT)).astype("float32")
    assert (chance.noise(1, "sheet", (4, LATENT)) == sheet).all()
    assert len(set(chance.STREAMS.values())) == len(chance.STREAMS)


def test_each_of_several_steps_has_a_place_of_its_own_in_its_stream():
    """Step k of iteration i has the place i * steps + k, as if it were an iteration."""
    several = draws(**EVERYTHING)
    alone = draws(augment=True, label_flipping=0.25)
    for iteration in range(3):
        drawn = several.iteration(4, iteration)
        for name in drawn:
            steps = SHAPES[name][0]
            for step in range(steps):
                expected = alone.iteration(4, iteration * steps + step)[name]
                assert np.array_equal(drawn[name][step], expected[0]), name


@pytest.mark.parametrize(
    ("smoothing", "real"), [(0.0, 1.0), (0.1, 0.9)], ids=["plain", "smoothed"]
)
def test_real_is_labelled_1_less_the_smoothing_and_fake_0(smoothing, real):
    labels = draws(label_smoothing=smoothing).iteration(1, 0)
    assert labels["real_label"].ravel().tolist() == pytest.approx([real] * 8)
    assert labels["fake_label"].ravel().tolist() == [0.0] * 8


def test_flipping_swaps_the_wanted_share_of_labels():
    flipping = draws(batch_size=4000, label_flipping=0.25)
    labels = flipping.iteration(1, 0)
    assert np.mean(labels["real_label"] == 0) == pytest.approx(0.25, abs=0.03)
    assert np.mean(labels["fake_label"] == 1) == pytest.approx(0.25, abs=0.03)


def test_each_of_the_picked_faces_is_another_one():
    faces = np.arange(900)
    picked = chance.pick(faces, 200, 1, "score_real")
    assert len(set(picked)) == 200
    assert (np.diff(picked) > 0).all()
    assert (picked == chance.pick(faces, 200, 1, "score_real")).all()
    assert (picked != chance.pick(faces, 200, 2, "score_real")).any()
