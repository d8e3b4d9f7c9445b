import errno
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from dcgan.common.files import DAMAGE
from dcgan.runs import checkpoints
from tests.runs.saved import flip_a_bit, make_old_checkpoint
from tests.tiny import assert_same_bits

RUN = Path("runs/x")


def save(gan, iterations, iteration=0, keep=2, **more):
    """Save a checkpoint; return its path."""
    progress = {"iterations": iterations, "iteration": iteration, "epoch": 2, **more}
    checkpoints.save(RUN, checkpoints.finite_arrays(gan), progress, keep)
    return checkpoints.path_of(RUN, progress)


def kept():
    return [path.name for path in checkpoints.paths(RUN)]


def names():
    return sorted(path.name for path in RUN.iterdir())


def spoil(gan):
    """Change all that training changes, so that loading is to be seen."""
    for variable in checkpoints._variables(gan).values():
        variable.assign(variable + 1)


def test_a_checkpoint_is_one_file_of_all_that_training_changes(gan):
    path = save(gan, 12, rows=[{"epoch": 1, "mmd": None}])
    assert names() == ["checkpoint-000012.npz"]
    before = checkpoints.finite_arrays(gan)
    groups = {name.split(".")[0] for name in before}
    assert groups == {
        *("generator", "discriminator", "average", "d_optimizer", "g_optimizer")
    }
    spoil(gan)
    progress = checkpoints.load(RUN, gan)
    assert progress == checkpoints.read(path)[1]
    assert progress == {
        **{"iterations": 12, "iteration": 0, "epoch": 2},
        "rows": [{"epoch": 1, "mmd": None}],
    }
    assert_same_bits(before, checkpoints.finite_arrays(gan))
    assert_same_bits(before, checkpoints.read(path)[0])


def test_a_run_without_checkpoints_has_no_progress(gan):
    assert checkpoints.load(RUN, gan) is None


def test_a_folder_of_an_older_run_is_read_and_gives_way(gan):
    before = checkpoints.finite_arrays(gan)
    folder = make_old_checkpoint(save(gan, 5, rows=[]))
    mine = RUN / "checkpoint-best"
    mine.mkdir()
    spoil(gan)
    progress = {"iterations": 5, "iteration": 0, "epoch": 2, "rows": []}
    assert checkpoints.load(RUN, gan) == progress
    assert_same_bits(before, checkpoints.finite_arrays(gan))
    save(gan, 5)
    assert kept() == ["checkpoint-000005.npz"]
    make_old_checkpoint(RUN / "checkpoint-000005.npz")
    save(gan, 7, iteration=2)
    save(gan, 8, iteration=3)
    save(gan, 9, iteration=4)
    assert folder.is_dir()  # the newest of an epoch's end
    save(gan, 10)
    save(gan, 15)
    assert names() == [
        *("checkpoint-000010.npz", "checkpoint-000015.npz", "checkpoint-best")
    ]


def rewrite(path, **changes):
    """Write a checkpoint again, whole, with other arrays."""
    arrays, progress = checkpoints.read(path)
    checkpoints.write(path, {**arrays, **changes}, progress)


def flip_in_head(path):
    """Let NumPy find half of the bits that an array has: its shape stays the same."""
    content = path.read_bytes()
    assert b"'<f4'" in content
    path.write_bytes(content.replace(b"'<f4'", b"'<f2'", 1))


def harm_an_old(harm):
    def harmed(path):
        harm(make_old_checkpoint(path))

    return harmed


def forget_the_progress(path):
    arrays, _ = checkpoints.read(path)
    np.savez(path, **arrays)


def replace_progress(text):
    def replaced(path):
        arrays, _ = checkpoints.read(path)
        np.savez(path, **arrays, progress=np.array(text))

    return replaced


def pickle_an_array(path):
    rewrite(path, **{"generator.000": np.array([{}], dtype=object)})


def of_words(path):
    shape = checkpoints.read(path)[0]["generator.000"].shape
    rewrite(path, **{"generator.000": np.full(shape, "x")})


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (flip_a_bit, ""),
        (flip_in_head, "its checksum is wrong"),
        (lambda path: path.write_bytes(path.read_bytes()[:-500]), ""),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\0"), ""),
        (lambda path: rewrite(path, more=np.zeros(1)), "holds other variables than"),
        (
            lambda path: rewrite(path, **{"generator.000": np.zeros((2, 2))}),
            "generator.000 has another shape than in this network",
        ),
        (of_words, "generator.000 has something else than numbers in it"),
        (pickle_an_array, ""),
        (forget_the_progress, ""),
        (replace_progress("["), ""),
        (replace_progress("[" * 100_000), ""),
        (replace_progress("3"), ""),
        (harm_an_old(lambda path: (path / "progress.json").unlink()), ""),
        (harm_an_old(lambda path: (path / "weights.npz").unlink()), ""),
        (harm_an_old(lambda path: flip_a_bit(path / "weights.npz")), "its checksum is"),
        (
            harm_an_old(lambda path: (path / "progress.json").write_text("[" * 10**5)),
            "",
        ),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    gan, capsys, harm, words
):
    before = checkpoints.finite_arrays(gan)
    save(gan, 1)
    harm(save(gan, 2))
    damaged = checkpoints.paths(RUN)[-1].name
    spoil(gan)
    assert checkpoints.load(RUN, gan)["iterations"] == 1
    assert_same_bits(before, checkpoints.finite_arrays(gan))
    out = capsys.readouterr().out
    assert f"{RUN}/{damaged} is damaged (" in out
    assert words in out
    assert kept() == ["checkpoint-000001.npz"]
    assert (RUN / f"damaged-{damaged}").exists()
    save(gan, 2, keep=1)
    assert kept() == ["checkpoint-000002.npz"]


def test_a_checkpoint_that_the_disk_refuses_for_now_is_not_called_damaged(
    gan, monkeypatch
):
    save(gan, 1)
    path = save(gan, 2)

    def refuse(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(np, "load", refuse)
        with pytest.raises(SystemExit, match=f"^Cannot read {path}: Input/output"):
            checkpoints.load(RUN, gan)
        assert checkpoints.superseded(RUN, 1) == []
    assert kept() == ["checkpoint-000001.npz", "checkpoint-000002.npz"]
    assert checkpoints.superseded(RUN, 1) == [RUN / "checkpoint-000001.npz"]
    assert checkpoints.load(RUN, gan)["iterations"] == 2


def test_full_memory_damages_no_checkpoint(gan, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    save(gan, 1)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(type(gan.generator.variables[0]), "assign", refuse)
        with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
            checkpoints.load(RUN, gan)
    assert kept() == ["checkpoint-000001.npz"]


def test_a_checkpoint_is_read_right_or_not_at_all_whatever_bytes_were_changed(here):
    """Most of all in the heads of its arrays, which NumPy reads as Python's words."""
    arrays = {"generator.000": np.random.default_rng(1).normal(size=(60, 40))}
    path, progress = Path("checkpoint-000001.npz"), {"iterations": 1}
    checkpoints.write(path, arrays, progress)
    whole, refused = path.read_bytes(), 0
    for number in range(1000):
        chance, content = random.Random(number), bytearray(whole)
        for _ in range(chance.choice((1, 1, 3))):
            place = chance.choice((chance.randrange(200), -1 - chance.randrange(400)))
            content[place] = chance.randrange(256)
        path.write_bytes(content)
        try:
            read, told = checkpoints.read(path)
        except DAMAGE:
            refused += 1
        else:
            assert_same_bits(read, arrays)
            assert told == progress
    assert refused > 500


def test_when_all_checkpoints_are_damaged_the_run_is_refused(gan):
    for iterations in (1, 2):
        flip_a_bit(save(gan, iterations))
    with pytest.raises(SystemExit, match="All checkpoints in runs/x are damaged"):
        checkpoints.load(RUN, gan)
    assert len(kept()) == 2


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("network", ["generator", "average", "judge"])
def test_weights_that_are_not_finite_are_not_saved(gan, network, value):
    weight = getattr(gan, network).weights[0]
    weight.assign(np.full(weight.shape, value))
    name = {"judge": "discriminator"}.get(network, network)
    with pytest.raises(FloatingPointError, match=f"a weight of {name} is not finite"):
        save(gan, 1)
    assert kept() == []


def test_only_the_newest_checkpoints_are_kept(gan):
    mine = RUN / "checkpoint-best"
    mine.mkdir(parents=True)
    for iterations in (1, 2, 999_999, 1_000_000):
        save(gan, iterations)
    assert kept() == ["checkpoint-999999.npz", "checkpoint-1000000.npz"]
    assert len(list(RUN.iterdir())) == 3


def test_the_checkpoint_of_the_last_epochs_end_stays(gan):
    for iterations in range(5, 14):
        save(gan, iterations, iteration=iterations % 5)
    places = ("000010", "000012", "000013")
    assert kept() == [f"checkpoint-{place}.npz" for place in places]


def test_a_checkpoint_that_has_no_room_is_one_line_and_the_last_stays(gan, monkeypatch):
    save(gan, 1)

    def refuse(file, **_):
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", refuse)
    message = (
        r"Cannot write runs/x/checkpoint-000002.npz: No space left on device\. "
        r"It takes 1 MB\. The same command goes on from the last one\."
    )
    with pytest.raises(SystemExit, match=message):
        save(gan, 2)
    assert names() == ["checkpoint-000001.npz"]


def test_a_disk_without_room_for_the_checkpoints_is_told_first(gan, monkeypatch):
    size = save(gan, 1).stat().st_size
    free = 0
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, free)
    )
    # Four of them: two are kept, one is an epoch's end, one is being written
    free = int(3.5 * size)
    with pytest.raises(SystemExit, match=r"runs/x needs \d MB .* \d MB free"):
        checkpoints.check_room(RUN, gan, 2)
    free = 4 * size
    checkpoints.check_room(RUN, gan, 2)
    with pytest.raises(SystemExit, match="Make room, a larger --keep-every, or anoth"):
        checkpoints.check_room(RUN, gan, 2, kept=4)
    free = 9 * size  # four more, and four generators of a quarter of that at most
    checkpoints.check_room(RUN, gan, 2, kept=4)


def test_a_progress_is_read_as_json_holds_it(gan):
    best = {"epoch": 3, "score": 0.1 + 0.2}
    path = save(gan, 1, best=best, sums={"d_loss": 1e-17}, rows=[])
    assert json.loads(json.dumps(checkpoints.read(path)[1]["best"])) == best
    assert checkpoints.read(path)[1]["sums"] == {"d_loss": 1e-17}
