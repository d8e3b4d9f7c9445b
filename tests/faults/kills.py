"""Scripts that are killed at any moment; the same command finishes the work."""

import random
import signal
import time

import numpy as np
from PIL import Image

from tests.faults.trials import Campaign, finish, start

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
PICTURES, SIZE, WORKERS = 300, 28, 2
OPTIONS = ("--data", "faces", "--image-size", SIZE, "--workers", WORKERS)


def preprocess(tally, number, folder):
    """Kill preprocess.py once or twice, then let it finish; compare the array."""
    chance = random.Random(number)
    expected = make_pictures(folder / "faces", number)
    for _ in range(chance.choice((1, 1, 2))):
        sign = chance.choice(SIGNALS)
        process = start("preprocess.py", *OPTIONS, cwd=folder)
        time.sleep(chance.uniform(0, 3))  # the moment is what is tried
        process.send_signal(getattr(signal, sign))
        _, _, err = finish(process)
        tally.faults += 1
        # One that comes before main(), while Python imports, is told by Python
        loud = "Traceback" in err and "run(main)" in err
        tally.expect(not loud, f"trial {number}: a traceback after {sign}: {err}")
    with tally.recovery():
        code, _, err = finish(start("preprocess.py", *OPTIONS, cwd=folder))
    if not tally.expect(code == 0, f"trial {number}: ended with {code}: {err[-200:]}"):
        return
    found = np.load(folder / f"data/faces-{SIZE}.npy")
    same = found.shape == expected.shape and (found == expected).all()
    tally.expect(same, f"trial {number}: other pixels than undisturbed")
    left = sorted(path.name for path in (folder / "data").iterdir())
    wanted = [f"faces-{SIZE}.json", f"faces-{SIZE}.npy"]
    tally.expect(left == wanted, f"trial {number}: left {left}")


def make_pictures(folder, seed):
    """Save pictures of one colour each; return the array that they must become."""
    folder.mkdir()
    colours = np.random.default_rng(seed).integers(0, 256, (PICTURES, 3), np.uint8)
    for place, colour in enumerate(colours):
        pixels = np.broadcast_to(colour, (64, 64, 3))
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{place:04}.png")
    return np.broadcast_to(colours[:, None, None], (PICTURES, SIZE, SIZE, 3))


CAMPAIGNS = [Campaign("killed: preprocess.py", preprocess, long=100, short=3)]
