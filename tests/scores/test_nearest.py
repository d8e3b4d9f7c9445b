import numpy as np
import pytest

from dcgan.scores.nearest import nearest
from tests.scores.narrow import faces


def test_the_nearest_face_is_found_mirrored_or_not():
    real = np.concatenate([faces(1200, 28), faces(3, 28)])
    near = real[[1190, 5]].copy()
    near[:, 3, 3] ^= 1
    near[1] = near[1, :, ::-1]
    chosen, apart = nearest(near, real)
    assert (chosen[0] == real[1190]).all()
    assert (chosen[1] == real[5, :, ::-1]).all()
    assert apart == pytest.approx(np.sqrt(3 / (28 * 28 * 3)))


def test_a_face_is_not_its_own_nearest():
    real = faces(40)
    chosen, apart = nearest(real[[7, 30]], real, np.array([7, 30]))
    assert apart > 1
    assert (chosen[0] != real[7]).any()
    assert (chosen[1] != real[30]).any()
