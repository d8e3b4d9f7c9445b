"""A training of many epochs: memory, files and time stay as they are."""

import os
import time
from pathlib import Path
from statistics import median

from tests.faults import trainings
from tests.faults.trials import Campaign, finish, start

EPOCHS, PER_EPOCH = 400, 50  # 20,000 iterations
GROWTH = 1.02  # of memory, from the second quarter to the last
SLOWER = 1.2  # of the time of a core that an epoch takes, on machines that are noisy


def train(tally, number, folder):
    """Train for 20,000 iterations of 400 epochs, each with checkpoint, sheet and score.

    No fault but time: memory, open files, threads, checkpoints and the cost of an epoch
    stay as they are.
    """
    options = {**trainings.OPTIONS, "epochs": EPOCHS}
    options |= {"images": 2 * PER_EPOCH, "batch-size": 2}
    options |= {"checkpoint-minutes": 10, "score-samples": 10}
    words = [str(word) for name in options for word in (f"--{name}", options[name])]
    with open(folder / "said.txt", "w") as output:
        process = start("train.py", *words, cwd=folder, stdout=output, stderr=output)
    seen = []
    while process.poll() is None:
        seen += [look(process.pid, folder / "runs/tiny")]
        time.sleep(1)
    code, _, _ = finish(process)
    said = (folder / "said.txt").read_text()
    tally.expect(code == 0, f"trial {number}: {code}: {said[-300:]}")
    seen = [each for each in seen if each and each["log"] > 3]
    quarter = len(seen) // 4
    early, late = seen[quarter : 2 * quarter], seen[3 * quarter :]
    for what in ("memory", "files", "threads"):
        was, is_now = (median(each[what] for each in part) for part in (early, late))
        line = f"{what} grew from {was:,} to {is_now:,}"
        tally.expect(is_now <= was * GROWTH, f"trial {number}: {line}")
        print(line)
    most = max(each["checkpoints"] for each in seen)
    tally.expect(most <= trainings.OPTIONS["keep-checkpoints"] + 1, f"{most} were kept")
    before, after = cost(early), cost(late)
    line = f"an epoch cost {before:.0f} ms of a core, then {after:.0f}"
    tally.expect(after <= before * SLOWER, f"trial {number}: {line}")
    print(f"at most {most} checkpoints; {line}")


def cost(seen):
    """Return the milliseconds of a core that an epoch takes, its end included."""
    first, last = seen[0], seen[-1]
    epochs = max(1, last["log"] - first["log"])
    return 1000 * (last["cores"] - first["cores"]) / epochs


def look(process, run):
    """Return what a process holds now, or None if it is over."""
    try:
        status = Path(f"/proc/{process}/status").read_text().splitlines()
        facts = dict(line.split(":", 1) for line in status)
        times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return {
            "cores": sum(map(int, times[11:13])) / os.sysconf("SC_CLK_TCK"),
            "memory": int(facts["VmRSS"].split()[0]),
            "threads": int(facts["Threads"]),
            "files": len(list(Path(f"/proc/{process}/fd").iterdir())),
            "checkpoints": len(list(run.glob("checkpoint-*"))),
            "log": (run / "log.csv").read_bytes().count(b"\n"),
        }
    except (OSError, KeyError):
        return None


CAMPAIGNS = [Campaign("20,000 iterations", train, long=1, short=0)]
