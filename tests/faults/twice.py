"""Two trainings that start in one folder at the same moment: one trains."""

import random
import re
import shutil
import signal
import time

from tests.faults import trainings
from tests.faults.trials import Campaign


def train(tally, number, folder):
    """Start two trainings at about once, kill the one that trains, start again."""
    import os

    chance = random.Random(number)
    expected, seconds = trainings.undisturbed()
    shutil.copytree(expected / "data", folder / "data")
    both = {}
    for name in ("one.txt", "two.txt"):
        both[trainings.forked(folder, said=name)] = folder / name
        time.sleep(chance.choice((0, chance.uniform(0, seconds / 2))))
    kill = chance.random() < 0.5
    refused, told = [], {}
    while len(told) < 2:
        for process in [each for each in both if each not in told]:
            if trainings.ended(process):
                told[process] = trainings.wait_for(process)
                refused += [process] if told[process] == 1 else []
                if kill and refused == [process] and len(told) == 1:
                    other = next(each for each in both if each != process)
                    os.kill(other, signal.SIGKILL)
        time.sleep(0.01)
    tally.faults += 1 + kill
    trained = [process for process in both if process not in refused]
    if (
        tally.expect(len(refused) <= 1, f"trial {number}: both were refused")
        and refused
    ):
        said = both[refused[0]].read_text()
        named = re.search(r"Process (\d+) on ", said)
        right = named and int(named[1]) == trained[0]
        tally.expect(right, f"trial {number}: {said[-200:]}")
    with tally.recovery():
        code = trainings.wait_for(trainings.forked(folder))
    said = (folder / "said.txt").read_text()
    tally.expect(code == 0, f"trial {number}: then {code}: {said[-200:]}")
    for line in trainings.different(expected / "runs/tiny", folder / "runs/tiny"):
        tally.lose(f"trial {number}: {line}")


CAMPAIGNS = [Campaign("two trainings in a folder", train, long=50, short=1)]
