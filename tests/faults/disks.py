"""Disks that fill up: by a limit on a file's size, and a small one that is full."""

import ctypes
import random
import resource
import shutil

import numpy as np

from tests.faults import kills, trainings
from tests.faults.trials import Campaign, finish, is_one_clear_error, start

C = ctypes.CDLL(None, use_errno=True)


def train(tally, number, folder):
    """Let the disk of a training fill up; give it room; compare every bit."""
    chance = random.Random(number)
    expected, seconds = trainings.undisturbed()
    shutil.copytree(expected / "data", folder / "data")
    (folder / "runs").mkdir()
    small = number % 2 and mount(folder / "runs", chance.randint(1, 14) * 2**19)
    try:
        if small:
            process = trainings.forked(folder)
        else:
            most, at = int(10 ** chance.uniform(2, 7)), chance.uniform(0, seconds)
            process = trainings.forked(folder, limit=(most, at))
        code, said = trainings.wait_for(process), (folder / "said.txt").read_text()
        tally.faults += code != 0
        clear = is_one_clear_error(code, said) and "runs/tiny" in said
        tally.expect(clear or code == 0, f"trial {number}: {code}: {said[-300:]}")
        if small:
            mount(folder / "runs", 2**29, again=True)
        with tally.recovery():
            code = trainings.wait_for(trainings.forked(folder))
        said = (folder / "said.txt").read_text()
        tally.expect(code == 0, f"trial {number}: then {code}: {said[-300:]}")
        tally.expect("damaged" not in said, f"trial {number}: {said[-300:]}")
        for line in trainings.different(expected / "runs/tiny", folder / "runs/tiny"):
            tally.lose(f"trial {number}: {line}")
    finally:
        if small:
            C.umount2(str(folder / "runs").encode(), 2)


def mount(folder, size, again=False):
    """Mount a disk of `size` bytes in memory; return whether that is allowed here."""
    flags = 32 if again else 0  # MS_REMOUNT
    words = (b"tmpfs", str(folder).encode(), b"tmpfs", flags, f"size={size}".encode())
    return C.mount(*words) == 0


def preprocess(tally, number, folder):
    """Limit the size of preprocess.py's files, then no more; compare the array."""
    chance = random.Random(number)
    expected = kills.make_pictures(folder / "faces", number)
    most = chance.randint(0, expected.nbytes + 100)

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    process = start("preprocess.py", *kills.OPTIONS, cwd=folder, preexec_fn=limited)
    code, _, err = finish(process)
    tally.faults += 1
    name = f"data/faces-{kills.SIZE}"
    fine = is_one_clear_error(code, err) and name in err
    tally.expect(fine or code == 0, f"trial {number}: {code}: {err[-300:]}")
    with tally.recovery():
        code, _, err = finish(start("preprocess.py", *kills.OPTIONS, cwd=folder))
    tally.expect(code == 0, f"trial {number}: then {code}: {err[-300:]}")
    same = np.array_equal(np.load(folder / f"{name}.npy"), expected)
    tally.expect(same, f"trial {number}: other pixels")
    left = sorted(path.name for path in (folder / "data").iterdir())
    tally.expect(len(left) == 2, f"trial {number}: left {left}")


CAMPAIGNS = [
    Campaign("disk full: train.py", train, long=100, short=2),
    Campaign("disk full: preprocess.py", preprocess, long=100, short=2),
]
