import os
from pathlib import Path

import numpy as np
import pytest

from dcgan.common.console import UserError
from dcgan.scores import features

ARRAY = np.random.default_rng(1).normal(size=(30, 16)).astype("float32")
DEPENDS_ON = {"pixels": "a" * 64, "count": 30}


@pytest.fixture
def path(here):
    path = here / "faces.features.npz"
    features.keep(path, ARRAY, DEPENDS_ON)
    return path


def test_features_that_were_kept_are_read_again(path, capsys):
    array = features.read(path, DEPENDS_ON)
    assert array.dtype == "float32"
    assert (array == ARRAY).all()
    told = f"Using {path}: features of 30 real faces, made earlier.\n"
    assert capsys.readouterr().out == told


def test_where_none_were_kept_nothing_is_said(here, capsys):
    assert features.read(here / "nothing.npz", DEPENDS_ON) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", DEPENDS_ON)
def test_features_of_something_else_are_not_used(path, capsys, name):
    assert features.read(path, {**DEPENDS_ON, name: "other"}) is None
    assert f"cannot be used: their {name} is another.\n" in capsys.readouterr().out


def flip_a_feature(path):
    with np.load(path) as file:
        array, origin = file["features"], file["about"]
    array[3, 1] += 1
    np.savez(path, features=array, about=origin)


def break_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def claim_another_packing(path):
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\1\2")
    data[directory + 10] = 99
    path.write_bytes(data)


class Code:
    def __reduce__(self):
        return os.system, ("touch was-run",)


def write_a_pickle(path):
    array = np.array([Code()], dtype=object)
    np.savez(path, features=array, about=array)


@pytest.mark.parametrize(
    "damage", [flip_a_feature, break_off, claim_another_packing, write_a_pickle]
)
def test_damaged_features_are_not_used_and_nothing_in_them_is_run(path, capsys, damage):
    damage(path)
    assert features.read(path, DEPENDS_ON) is None
    assert "cannot be used: they are damaged.\n" in capsys.readouterr().out
    assert not Path("was-run").exists()


def test_features_that_cannot_be_kept_are_made_again_next_time(here, capsys):
    (here / "data").touch()
    features.keep(here / "data/x.npz", ARRAY, DEPENDS_ON)
    assert "So they are to be made again next time." in capsys.readouterr().out


def test_full_memory_is_said_in_one_line():
    class Full:
        def features(self, *_):
            raise MemoryError

    with pytest.raises(UserError, match=r"Out of memory.*--batch-size 10"):
        features.of(Full(), np.zeros((3, 28, 28, 3)), "Faces", 20)
