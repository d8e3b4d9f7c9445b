"""Disks that fill up, have too little room, or may not be written any more."""

import contextlib
import ctypes
import functools
import json
import os
import random
import resource
import shutil
import time

import numpy as np

from tests.common.sites import FILE
from tests.faults import kills, trainings
from tests.faults.servers import close, serve
from tests.faults.trials import Campaign, finish, is_one_clear_error, start

C = ctypes.CDLL(None, use_errno=True)
READ_ONLY, REMOUNT, DETACH = 1, 32, 2  # flags of mount(2) and umount2(2)
SCORE = ("--run", "runs/tiny", "--network", "none", "--samples", "20")


def train(tally, number, folder):
    """Let the disk of a training fill up; give it room; compare every bit."""
    chance = random.Random(number)
    expected, seconds = trainings.undisturbed()
    shutil.copytree(expected / "data", folder / "data")
    (folder / "runs").mkdir()
    with contextlib.ExitStack() as stack:
        size = chance.randint(1, 14) * 2**19
        small = number % 2 and stack.enter_context(disk(folder / "runs", size))
        if small:
            process = trainings.forked(folder)
        else:
            most, at = int(10 ** chance.uniform(2, 7)), chance.uniform(0, seconds)
            process = trainings.forked(folder, limit=(most, at))
        code, said = trainings.wait_for(process), (folder / "said.txt").read_text()
        tally.faults += code != 0
        clear = is_one_clear_error(code, said) and "runs/tiny" in said
        tally.expect(clear or code == 0, f"trial {number}: {code}: {said[-2000:]}")
        if small:
            mount(folder / "runs", 2**29, REMOUNT)
        with tally.recovery():
            code = trainings.wait_for(trainings.forked(folder))
        said = (folder / "said.txt").read_text()
        tally.expect(code == 0, f"trial {number}: then {code}: {said[-300:]}")
        tally.expect("damaged" not in said, f"trial {number}: {said[-300:]}")
        for line in trainings.different(expected / "runs/tiny", folder / "runs/tiny"):
            tally.lose(f"trial {number}: {line}")


@contextlib.contextmanager
def disk(folder, size):
    """Mount a disk of `size` bytes in memory; give whether that is allowed here."""
    folder.mkdir(exist_ok=True)
    is_mounted = mount(folder, size)
    try:
        yield is_mounted
    finally:
        if is_mounted:
            C.umount2(str(folder).encode(), DETACH)


def mount(folder, size, flags=0):
    options = f"size={size}".encode()
    return C.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, options) == 0


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
    kills.check_array(tally, number, folder, code, err, expected)


def no_room(tally, number, folder):
    """Give the array or the archive a disk that is too small, then a larger one.

    Nothing may be begun; the line has the file's name and the bytes that it needs.
    """
    chance = random.Random(number)
    with contextlib.ExitStack() as stack:
        if number % 2:
            name, needed = kills.ARCHIVE, len(FILE)
            site = serve()
            stack.callback(close, site)
            command = (kills.copy_helper(folder, site.url("/file")),)
        else:
            name, command = f"faces-{kills.SIZE}", ("preprocess.py", *kills.OPTIONS)
            expected = kills.make_pictures(folder / "faces", number)
            needed = expected.nbytes
        pages = chance.randint(2, needed // 4096 - 4)
        if not stack.enter_context(disk(folder / "data", pages * 4096)):
            return
        code, _, err = finish(start(*command, cwd=folder))
        tally.faults += 1
        fine = is_one_clear_error(code, err) and name in err and "needs" in err
        tally.expect(fine, f"trial {number}: {code}: {err[-300:]}")
        left = [path for path in (folder / "data").iterdir() if path.name[0] != "."]
        tally.expect(not left, f"trial {number}: begun all the same: {left}")
        mount(folder / "data", 2**24, REMOUNT)
        with tally.recovery():
            code, _, err = finish(start(*command, cwd=folder))
        if number % 2:
            check_archive(tally, number, folder, code, err)
        else:
            kills.check_array(tally, number, folder, code, err, expected)


def check_archive(tally, number, folder, code, err):
    """Note whatever is wrong with the archive that helper.py fetched in the end."""
    if tally.expect(code == 0, f"trial {number}: then {code}: {err[-300:]}"):
        right = (folder / "data" / kills.ARCHIVE).read_bytes() == FILE
        tally.expect(right, f"trial {number}: a wrong archive")
        names = (path.name for path in (folder / "data").iterdir())
        left = sorted(name for name in names if name[0] != ".")  # without the locks
        tally.expect(left == [kills.ARCHIVE], f"trial {number}: left {left}")


def read_only(tally, number, folder):
    """Let a script find its disk read-only, at its start or at any moment; then not.

    Where disks cannot be mounted, the folders lose their write permission instead.
    """
    chance = random.Random(number)
    with contextlib.ExitStack() as stack:
        site = serve()
        stack.callback(close, site)
        home = folder / "home"
        is_disk = stack.enter_context(disk(home, 2**28))
        begin, check = SCRIPTS[number % len(SCRIPTS)](home, folder, site)
        at_once = chance.random() < 0.5 and forbid(home, is_disk)
        process = begin()
        if not at_once:
            time.sleep(chance.uniform(0, 2))  # the moment is what is tried
            while not process.over() and not forbid(home, is_disk):
                time.sleep(0.001)  # while a file is being written it is refused
        code, said = process.end()
        tally.faults += code != 0 or at_once  # else it was over before
        fine = code == 0 or is_one_clear_error(code, said)
        tally.expect(fine, f"trial {number}: {code}: {said[-300:]}")
        allow(home, is_disk)
        with tally.recovery():
            code, said = begin().end()
        if tally.expect(code == 0, f"trial {number}: then {code}: {said[-300:]}"):
            for line in check():
                tally.lose(f"trial {number}: {line}")


def forbid(home, is_disk):
    """Let nothing be written in a folder any more; return whether that is so now."""
    if is_disk:
        return mount(home, 2**28, REMOUNT | READ_ONLY)
    for path in [home, *home.rglob("*")]:
        if path.is_dir():
            path.chmod(0o555)
    return not os.access(home, os.W_OK)  # root heeds no permission


def allow(home, is_disk):
    if is_disk:
        mount(home, 2**28, REMOUNT)
    for path in [home, *home.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)


class Started:
    """A script that is its own process, or a function in a forked one."""

    def __init__(self, process, said=None):
        self._process, self._said = process, said

    def over(self):
        if self._said:
            return trainings.ended(self._process)
        return self._process.poll() is not None

    def end(self):
        """Wait for it; return its exit code and what it said."""
        if self._said:
            return trainings.wait_for(self._process), self._said.read_text()
        code, _, err = finish(self._process)
        return code, err


def begin_fork(home, folder, work):
    said = folder / "said.txt"
    return Started(trainings.fork(home, said, work), said)


def training(home, folder, _):
    """Prepare a home to train in; return what trains and what checks its end."""
    import train as script

    expected, _ = trainings.undisturbed()
    shutil.copytree(expected / "data", home / "data")
    work = functools.partial(script.main, trainings.WORDS)

    def check():
        return trainings.different(expected / "runs/tiny", home / "runs/tiny")

    return functools.partial(begin_fork, home, folder, work), check


def preparing(home, *_):
    expected = kills.make_pictures(home / "faces", 1)

    def check():
        if not np.array_equal(np.load(home / f"data/faces-{kills.SIZE}.npy"), expected):
            yield "other pixels"

    command = functools.partial(start, "preprocess.py", *kills.OPTIONS, cwd=home)
    return lambda: Started(command()), check


def fetching(home, folder, site):
    site.answers["/file"] = [{"pace": 0.01}]
    script = kills.copy_helper(folder, site.url("/file"))

    def check():
        if (home / "data" / kills.ARCHIVE).read_bytes() != FILE:
            yield "a wrong archive"

    return lambda: Started(start(script, cwd=home)), check


def drawing(home, folder, _):
    import generate as script

    copy_run(home)
    work = functools.partial(script.main, ["--run", "runs/tiny"])

    def check():
        if not trainings.is_whole(home / "faces.png"):
            yield "faces.png is not whole"

    return functools.partial(begin_fork, home, folder, work), check


def scoring(home, folder, _):
    import evaluate as script

    copy_run(home)
    work = functools.partial(script.main, SCORE)

    def check():
        json.loads((home / "runs/tiny/metrics.json").read_text())
        if not trainings.is_whole(home / "runs/tiny/nearest.png"):
            yield "nearest.png is not whole"

    return functools.partial(begin_fork, home, folder, work), check


def copy_run(home):
    expected, _ = trainings.undisturbed()
    for name in ("data", "runs"):
        shutil.copytree(expected / name, home / name)


SCRIPTS = (fetching, preparing, training, drawing, scoring)

CAMPAIGNS = [
    Campaign("disk full: train.py", train, long=100, short=2),
    Campaign("disk full: preprocess.py", preprocess, long=100, short=2),
    Campaign("disk too small from the start", no_room, long=100, short=4),
    Campaign("read-only: every script", read_only, long=100, short=5),
]
