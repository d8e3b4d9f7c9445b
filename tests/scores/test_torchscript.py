import zipfile
from pathlib import Path

import numpy as np
import pytest

from dcgan.common.console import UserError
from dcgan.scores import inception, torchscript
from tests.scores.narrow import (
    HOSTILE,
    SYSTEM,
    flip,
    pickled,
    weights,
    write_torchscript,
    write_wheel,
)

LAYOUTS = [write_torchscript, write_wheel]


@pytest.mark.parametrize("write", LAYOUTS)
def test_the_wheel_and_what_is_in_it_give_the_same_weights(here, write):
    write("weights")
    found = inception.read("weights")
    assert len(found) == 94
    for (kernel, offset), drawn in zip(found, weights(), strict=True):
        expected = inception.fold(drawn[0], *[drawn[at] for at in (2, 3, 1)])
        assert (kernel == expected[0]).all()
        assert (offset == expected[1]).all()
    assert not Path("was-run").exists()


@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.parametrize("named", HOSTILE)
def test_code_in_a_file_is_refused_and_not_executed(here, write, named):
    write("weights", HOSTILE[named])
    with pytest.raises(UserError, match="does not hold the weights") as refused:
        inception.load("weights")
    assert f"it names {named}. Delete it" in refused.value.code
    assert not Path("was-run").exists()


def test_a_bare_pickle_is_refused_and_not_executed(here):
    Path("weights").write_bytes(b"\x80\x02" + SYSTEM + b"N.")
    with pytest.raises(UserError, match="does not hold the weights"):
        inception.load("weights")
    assert not Path("was-run").exists()


@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.99])
def test_a_file_that_breaks_off_is_refused(here, write, share):
    write("weights")
    content = Path("weights").read_bytes()
    Path("weights").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(
        UserError, match="weights does not hold the weights of TensorFlow's Incept"
    ):
        inception.load("weights")


@pytest.mark.parametrize("write", LAYOUTS)
def test_a_flipped_bit_is_refused(here, write):
    write("weights")
    flip("weights")
    with pytest.raises(
        UserError, match="does not hold the weights of TensorFlow's Inception"
    ):
        inception.load("weights")


def tensor(**changes):
    """Write a pickle of one tensor of four numbers, something about it changed."""
    it = {"kind": "storage", "offset": 0, "shape": (2, 2), "strides": (2, 1), **changes}
    storage = pickled(it["kind"]) + b"ctorch\nFloatStorage\n"
    storage += pickled("0") + pickled("cpu") + pickled(4)
    lie = pickled(it["offset"]) + pickled(it["shape"]) + pickled(it["strides"])
    return b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQ" + lie + b"tR"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (1, 1, 2, 3), "strides": (6, 6, 3, 1)}, "not whole"),
        ({"shape": (1, 1, 2, 2), "strides": (4, 4, 2, -1)}, "not whole"),
        ({"shape": (1, 1, 2, 2), "strides": (0, 0, 2, 1), "offset": -1}, "not whole"),
        ({"shape": (1, 1, 2, 2), "strides": (0, 0, 2, 1), "offset": 1}, "not whole"),
        ({"shape": (1, 1, 0, 2), "strides": (0, 0, 2, 1)}, "not whole"),
        ({"shape": (1, 1, 99, 99), "strides": (0, 0, 0, 0)}, "not whole"),
        ({"shape": (1, 1, 2, 2), "strides": (2, 1)}, "shorter"),
        ({"shape": (1, 1, 2, 2), "strides": (4, 4, 2, 1)}, "1 convolutions, not 94"),
        ({"kind": "module"}, "something else than numbers"),
    ],
)
def test_a_tensor_never_reaches_beyond_its_numbers(here, changes, message):
    with zipfile.ZipFile("weights", "w") as archive:
        tree = b"\x80\x02}" + pickled("a") + tensor(**changes) + b"s."
        archive.writestr("archive/data.pkl", tree)
        archive.writestr("archive/data/0", np.ones(4, "<f4").tobytes())
        archive.writestr("archive/data/1", b"secret" * 100)
    with pytest.raises(UserError, match=message):
        inception.load("weights")


def test_a_bomb_in_a_zip_is_refused_before_it_is_unpacked(here, monkeypatch):
    monkeypatch.setattr(torchscript, "LARGEST", 1000)
    with zipfile.ZipFile("weights", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
        archive.writestr("archive/data/0", bytes(1001))
    with pytest.raises(UserError, match="archive/data/0 is too large"):
        inception.load("weights")
