"""train.py, killed at any moment; the run's end is that of an undisturbed one.

The processes are forked from one that has Keras imported, so that a trial takes a
second or two; one in ten is started anew, as a user does.
"""

import csv
import functools
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

from dcgan.runs import checkpoints, generators
from tests.faults import deadly
from tests.faults.trials import Campaign, finish, start

OPTIONS = {
    "data": "cartoons",
    "image-size": 28,
    "images": 48,
    "batch-size": 8,
    "width": 0.05,
    "epochs": 3,
    "steps-per-call": 1,
    "samples": 10,
    "epoch-end-share": 1,
    "score-samples": 20,
    "checkpoint-minutes": 0.0005,
    "keep-checkpoints": 2,
    "precision": "float32",
    "score": "mmd",
    "run": "runs/tiny",
}
WORDS = [str(word) for name in OPTIONS for word in (f"--{name}", OPTIONS[name])]
CHANGES = 14_000  # of files, about as many as such a training makes
SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT")


def killed(tally, number, folder):
    """Kill train.py up to three times, then let it finish; compare every bit.

    By SIGKILL, SIGTERM or SIGINT at any moment, or inside a write; weights, optimizers,
    averages, generators and the log are those of a run that was left alone.
    """
    chance = random.Random(number)
    expected, seconds = undisturbed()
    shutil.copytree(expected / "data", folder / "data")
    plainly = number % 10 == 9
    for _ in range(chance.choice((1, 2, 3))):
        inject(chance, folder, seconds, plainly)
        tally.faults += 1
    with tally.recovery():
        code = wait_for(forked(folder)) if not plainly else plain(folder)
    if not tally.expect(code == 0, f"trial {number}: the last run ended with {code}"):
        said = folder / "said.txt"
        tally.wrong[-1] += ": " + (said.read_text()[-300:] if said.exists() else "")
        return
    for line in different(expected / "runs/tiny", folder / "runs/tiny"):
        tally.mistake(f"trial {number}: {line}")


@functools.cache
def undisturbed():
    """Train without a fault; return the folder and the seconds that it took."""
    folder = Path(tempfile.mkdtemp(prefix="undisturbed-"))
    began = time.monotonic()
    assert wait_for(forked(folder)) == 0, (folder / "said.txt").read_text()
    return folder, time.monotonic() - began


def inject(chance, folder, seconds, plainly):
    """Start a training and kill it: at a moment, or at a call that changes a file."""
    if plainly:
        process = start("train.py", *WORDS, cwd=folder)
        time.sleep(chance.uniform(0, 3 * seconds + 10))  # the moment is what is tried
        process.send_signal(getattr(signal, chance.choice(SIGNALS)))
        finish(process)
        return
    if chance.random() < 0.5:
        early = chance.random() < 0.3  # the lock, constants.json, the first checkpoint
        wait_for(forked(folder, at=chance.randint(1, 150 if early else CHANGES)))
        return
    process = forked(folder)
    time.sleep(chance.uniform(0, 1.2 * seconds))
    sign = getattr(signal, chance.choice(SIGNALS))
    if not ended(process):
        os.kill(process, sign)
        wait_for(process)


_codes, _words = {}, {}


def ended(process):
    """Tell whether a forked process is over, without waiting for it."""
    if process not in _codes:
        _keep_end(process, os.WNOHANG)
    return process in _codes


def wait_for(process):
    """Wait for a forked process; return its exit code, negative for a signal."""
    if process not in _codes:
        _keep_end(process)
    return _codes.pop(process)


def _keep_end(process, how=0):
    found, status = os.waitpid(process, how)
    if found:
        _codes[process] = os.waitstatus_to_exitcode(status)
        told, path = _words.pop(process)
        with open(told, "rb", buffering=0) as pipe:
            path.write_bytes(pipe.read(2**20) or b"")


def plain(folder):
    code, _, err = finish(start("train.py", *WORDS, cwd=folder))
    (folder / "said.txt").write_text(err)
    return code


def limit_later(most, seconds):
    """Limit the size of this process's files to `most` bytes, after some seconds."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    timer = threading.Timer(seconds, limit)
    timer.daemon = True
    timer.start()


def forked(folder, at=0, limit=None, said="said.txt"):
    """Train in a forked process, deadly at its `at`-th change of a file.

    limit: (bytes of a file at most, seconds until then); said: the file of its words.
    """
    import train  # Keras, but not yet TensorFlow's threads: those begin with tensors

    def work():
        if at:
            deadly.arm(at)
        if limit:
            limit_later(*limit)
        train.main(WORDS)

    return fork(folder, said, work)


def fork(folder, said, work):
    """Do work() in a forked process, in `folder`; its words go to the file `said`.

    They come through a pipe, whose 64 kB are enough: a file may not be written any
    more when the process has come to its limit.
    """
    end, begin = os.pipe()
    process = os.fork()
    if process:
        os.close(begin)
        os.set_blocking(end, False)
        _codes.pop(process, None)  # of an earlier process with the same number
        _words[process] = end, Path(folder, said)
        return process
    try:
        os._exit(_code_of(folder, begin, work))
    finally:  # nothing of what the parent goes on to do
        os._exit(1)


def _code_of(folder, told, work):
    """Do work() with its words into the file descriptor `told`; return its code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Not the file descriptors alone: pytest puts streams of its own in their place
    sys.stdout = sys.stderr = os.fdopen(told, "w", buffering=1, encoding="utf-8")
    os.dup2(told, 1)
    os.dup2(told, 2)
    try:
        os.chdir(folder)
        work()
        return 0
    except SystemExit as stop:
        print(stop.code)
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()


def different(expected, found):
    """Yield a line for each way in which a run is not the undisturbed one."""
    names, left = names_in(expected), names_in(found)
    if names != left:
        yield f"the folder holds {left}, not {names}"
        return
    if any(path.name.startswith("part-") for path in found.rglob("*")):
        yield "part files are left"
    kept = len(list(found.glob("checkpoint-*")))
    if kept > OPTIONS["keep-checkpoints"]:
        yield f"{kept} checkpoints are kept"
    last = "checkpoint-000018.npz"
    arrays, others = (
        checkpoints.read(expected / last)[0],
        checkpoints.read(found / last)[0],
    )
    for name, array in arrays.items():
        if array.tobytes() != others[name].tobytes():
            yield f"{name} has other bits"
            return
    for which in generators.NAMES:
        if weights_of(expected, which) != weights_of(found, which):
            yield f"the {which} generator is another"
    if rows_of(expected) != rows_of(found):
        yield "log.csv has other rows"


def names_in(run):
    """List a run folder but for checkpoints before the last: those depend on time."""
    names = {path.name for path in run.iterdir() if "damaged" not in path.name}
    earlier = sorted(name for name in names if name.startswith("checkpoint-"))[:-1]
    return sorted(names - set(earlier))


def weights_of(run, which):
    """Return what a generator tells of itself, but for the suite's commit, and it."""
    import h5py

    weights, facts = generators.read(run, which)
    kept = {name: facts[name] for name in facts if name not in ("commit", "sha256")}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            kept[name] = item[()].tobytes()

    with h5py.File(weights) as file:
        file.visititems(keep)
    return kept


def rows_of(run):
    """Read log.csv but for its times."""
    with open(run / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    times = {"seconds", "pictures_per_second", "waiting_share", "end_seconds"}
    times |= {"run_pictures_per_second"}
    return [{key: row[key] for key in row if key not in times} for row in rows]


def read_meanwhile(tally, number, folder):
    """Run generate.py and evaluate.py again and again while a training writes.

    Faults are the readings: each finds a whole generator, or none yet.
    """
    import evaluate
    import generate

    chance = random.Random(number)
    expected, _ = undisturbed()
    shutil.copytree(expected / "data", folder / "data")
    writer = forked(folder)
    while not ended(writer):
        begun = (folder / "runs/tiny").exists()
        which = chance.choice(("best", "last"))
        words = ["--run", "runs/tiny", "--which", which]
        if chance.random() < 0.3:
            words += ["--network", "none", "--samples", "20"]
            work, left = functools.partial(evaluate.main, words), "nearest.png"
        else:
            words += ["--out", "runs/tiny/faces.png"]
            work, left = functools.partial(generate.main, words), "faces.png"
        code = wait_for(fork(folder, "read.txt", work))
        said = (folder / "read.txt").read_text()
        none = ["generator in runs/tiny yet"] + ["There is no runs/tiny"] * (not begun)
        none_yet = code == 1 and any(line in said for line in none)
        tally.faults += code == 0
        tally.expect(code == 0 or none_yet, f"trial {number}: reader: {said[-300:]}")
        if code == 0:
            tally.expect(
                is_whole(folder / "runs/tiny" / left), f"trial {number}: {left}"
            )
        for path in [*folder.glob("runs/tiny/samples/*.png")][-1:]:
            fine = path.name.startswith("part-") or is_whole(path)
            tally.expect(fine, f"trial {number}: {path.name} is not whole")
    tally.expect(wait_for(writer) == 0, f"trial {number}: the training ended badly")
    for name in ("faces.png", "nearest.png", "metrics.json"):
        (folder / "runs/tiny" / name).unlink(missing_ok=True)
    for line in different(expected / "runs/tiny", folder / "runs/tiny"):
        tally.mistake(f"trial {number}: {line}")


def is_whole(path):
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return False
    return True


CAMPAIGNS = [
    Campaign("killed: train.py", killed, long=100, short=2),
    Campaign("read while train.py writes", read_meanwhile, long=20, short=1),
]
