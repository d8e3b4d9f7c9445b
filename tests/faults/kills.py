"""Scripts that are killed at any moment; the same command finishes the work."""

import contextlib
import os
import random
import re
import signal
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tests.common.sites import FILE, MD5
from tests.faults.servers import close, serve
from tests.faults.trials import SUITE, Campaign, deadly_at, finish, start

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
PICTURES, SIZE, WORKERS = 300, 28, 2
OPTIONS = ("--data", "faces", "--image-size", SIZE, "--workers", WORKERS)
ARCHIVE = "img_align_celeba.zip"


def kill(tally, number, chance, folder, command, longest, most):  # noqa: PLR0913
    """Start a script and kill it: within `longest` seconds by a signal, or at one of
    the first `most` times that it, or a process of its own, changes a file.
    """
    if chance.random() < 0.5:
        at = chance.randint(1, most)
        process = start(*command, cwd=folder, env=deadly_at(at))
        sign = f"change {at} of a file"
    else:
        sign = chance.choice(SIGNALS)
        process = start(*command, cwd=folder)
        time.sleep(chance.uniform(0, longest))  # the moment is what is tried
        process.send_signal(getattr(signal, sign))
    code, _, err = finish(process)
    tally.faults += code != 0  # else it was over before
    # One that comes before main(), while Python imports, is told by Python
    loud = "Traceback" in err and "run(main)" in err
    tally.expect(not loud, f"trial {number}: a traceback after {sign}: {err}")


def preprocess(tally, number, folder):
    """Kill preprocess.py once or twice, then let it finish; compare the array.

    By SIGKILL, SIGTERM or SIGINT at any moment, or by SIGKILL half-way through a write
    or at a rename, a removal, a flush, in it or in its workers.
    """
    chance = random.Random(number)
    expected = make_pictures(folder / "faces", number)
    command = ("preprocess.py", *OPTIONS)
    for _ in range(chance.choice((1, 1, 2))):
        kill(tally, number, chance, folder, command, longest=1, most=16)
    with tally.recovery():
        code, _, err = finish(start(*command, cwd=folder))
    check_array(tally, number, folder, code, err, expected)


def check_array(tally, number, folder, code, err, expected):  # noqa: PLR0913
    """Note whatever is wrong with the array that preprocess.py made in the end."""
    if not tally.expect(code == 0, f"trial {number}: ended with {code}: {err[-300:]}"):
        return
    found = np.load(folder / f"data/faces-{SIZE}.npy")
    same = np.array_equal(found, expected)
    tally.expect(same, f"trial {number}: other pixels than undisturbed")
    names = {path.name for path in (folder / "data").iterdir()}
    left = sorted(names - {".lock"})
    wanted = [f"faces-{SIZE}.json", f"faces-{SIZE}.npy"]
    tally.expect(left == wanted, f"trial {number}: left {left}")


def workers(tally, number, folder):
    """Kill a worker of preprocess.py: one clear line; the next start makes it all."""
    chance = random.Random(number)
    expected = make_pictures(folder / "faces", number)
    process = start("preprocess.py", *OPTIONS, cwd=folder)
    time.sleep(chance.uniform(0, 0.9))  # the moment is what is tried
    while process.poll() is None and not children(process.pid):
        time.sleep(0.01)  # a slow machine has none yet
    for worker in children(process.pid)[:1]:
        sign = getattr(signal, chance.choice(("SIGKILL", "SIGSEGV", "SIGTERM")))
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, sign)
            tally.faults += 1
    code, _, err = finish(process)
    if code:
        last = f"--workers 1 --data faces --image-size {SIZE}\n"
        clear = code == 1 and "Traceback" not in err and err.endswith(last)
        tally.expect(clear, f"trial {number}: ended with {code}: {err[-300:]}")
        whole = (folder / f"data/faces-{SIZE}.npy").exists()
        tally.expect(not whole, f"trial {number}: an array all the same")
    with tally.recovery():
        code, _, err = finish(start("preprocess.py", *OPTIONS, cwd=folder))
    check_array(tally, number, folder, code, err, expected)


def children(process):
    """Return the numbers of a process's spawned workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = path.read_text().rpartition(")")[2].split()[1]
            words = (path.parent / "cmdline").read_bytes()
            if int(parent) == process and b"spawn_main" in words:
                found.append(int(path.parent.name))
    return found


def make_pictures(folder, seed):
    """Save pictures of one colour each; return the array that they must become."""
    folder.mkdir()
    colours = np.random.default_rng(seed).integers(0, 256, (PICTURES, 3), np.uint8)
    for place, colour in enumerate(colours):
        pixels = np.broadcast_to(colour, (64, 64, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{place:04}.png")
    return np.broadcast_to(colours[:, None, None], (PICTURES, SIZE, SIZE, 3))


def helper(tally, number, folder):
    """Kill helper.py up to three times while a slow server sends the archive.

    By a signal or inside a write. Then it asks for just what is missing.
    """
    chance = random.Random(number)
    site = serve()
    site.answers["/file"] = [{"pace": chance.choice((0.01, 0.03, 0.06))}]
    command = (copy_helper(folder, site.url("/file")),)
    try:
        for _ in range(chance.choice((1, 2, 3))):
            kill(tally, number, chance, folder, command, longest=1.5, most=16)
        whole = (folder / "data" / ARCHIVE).exists()
        have, before = arrived(folder), len(site.asked)
        with tally.recovery():
            code, _, err = finish(start(*command, cwd=folder))
        tally.expect(code == 0, f"trial {number}: ended with {code}: {err[-200:]}")
        for _, headers in site.asked[before : before + 1]:
            told = headers.get("Range", "bytes=0-")
            line = f"trial {number}: asked for {told} with {have:,} bytes there"
            tally.expect(told == f"bytes={have}-" and not whole, line)
    finally:
        close(site)
    right = (folder / "data" / ARCHIVE).read_bytes() == FILE
    tally.expect(right, f"trial {number}: a wrong archive")
    names = (path.name for path in (folder / "data").iterdir())
    left = sorted(name for name in names if name[0] != ".")  # without the lock
    tally.expect(left == [ARCHIVE], f"trial {number}: left {left}")


def arrived(folder):
    """Return how many bytes of the archive are there already."""
    part = folder / "data" / f"{ARCHIVE}.part"
    return part.stat().st_size if part.exists() else 0


def copy_helper(folder, url):
    """Copy helper.py, as a user would change it, to fetch another archive from `url`.

    Returns its path.
    """
    text = (SUITE / "helper.py").read_text(encoding="utf-8")
    for name, value in {
        "ARCHIVE_BYTES": len(FILE),
        "ARCHIVE_MD5": MD5,
        "COURSE_URL": url,
    }.items():
        text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value!r}", text)
        assert count == 1
    text = re.sub(r"(?ms)^DRIVE_URL = \(.*?^\)$", f"DRIVE_URL = {url!r}", text)
    path = folder / "helper.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


CAMPAIGNS = [
    Campaign("killed: helper.py", helper, long=100, short=3),
    Campaign("killed: preprocess.py", preprocess, long=150, short=3),
    Campaign("killed: workers of preprocess.py", workers, long=100, short=2),
]
