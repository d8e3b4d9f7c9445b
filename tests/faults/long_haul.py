"""A training of many epochs: memory, files and time stay as they are."""

import time
from pathlib import Path
from statistics import median

from tests.faults import trainings
from tests.faults.trials import Campaign, finish, start

EPOCHS_LONG, PER_EPOCH = 2000, 10  # 20,000 iterations
GROWTH = 1.02  # of memory, from the second quarter to the last


def train(tally, number, folder, epochs=EPOCHS_LONG):
    """Train for `epochs` of ten iterations each; watch the process from outside."""
    options = {**trainings.OPTIONS, "images": 20, "batch-size": 2, "epochs": epochs}
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
    tally.faults += 1
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
    print(f"at most {most} checkpoints; {pace(seen)}")


def pace(seen):
    """Say how long epochs took in the second quarter and in the last."""
    quarter = len(seen) // 4
    spans = []
    for part in (seen[quarter : 2 * quarter], seen[3 * quarter :]):
        spent = part[-1]["time"] - part[0]["time"]
        spans.append(1000 * spent / max(1, part[-1]["log"] - part[0]["log"]))
    return "milliseconds an epoch: {:.0f}, then {:.0f}".format(*spans)


def look(process, run):
    """Return what a process holds now, or None if it is over."""
    try:
        status = Path(f"/proc/{process}/status").read_text().splitlines()
        facts = dict(line.split(":", 1) for line in status)
        return {
            "time": time.monotonic(),
            "memory": int(facts["VmRSS"].split()[0]),
            "threads": int(facts["Threads"]),
            "files": len(list(Path(f"/proc/{process}/fd").iterdir())),
            "checkpoints": len(list(run.glob("checkpoint-*"))),
            "log": (run / "log.csv").read_bytes().count(b"\n"),
        }
    except (OSError, KeyError):
        return None


CAMPAIGNS = [Campaign("20,000 iterations", train, long=1, short=0)]
