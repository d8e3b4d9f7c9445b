"""Try faults of every kind, many times: python -m tests.faults

Prints what each campaign came to and writes it into tests/faults/RESULTS.md, where
the rows of other campaigns stay. Exits with 1 if anything was lost or wrong.
"""

import os
import platform
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from dcgan.common.console import Bar, run
from dcgan.common.files import write_whole
from dcgan.common.options import options
from dcgan.training.hardware import describe_device
from tests.faults import pictures
from tests.faults.campaigns import CAMPAIGNS
from tests.faults.trials import Tally

# Which campaigns, and how long
ONLY = ""  # those whose name holds this; empty: all
TRIALS = 0  # [0..] of each; 0: the long form, as in RESULTS.md
FIRST = 0  # [0..] number of the first trial: --first 17 --trials 1 repeats the 18th

# What is damaged where bytes of JPEGs are flipped, and where the table lies
PICTURES = ""  # a folder or .zip of JPEGs; empty: cartoons
OUT = "tests/faults/RESULTS.md"  # the table; empty: none

# No options from here on

HEAD = """# Faults that were tried

Every row is a campaign of [this folder](.): so many trials, each with faults at places
and moments that its number decides. Lost: data that was there before. Wrong: another
result than without the fault, a traceback, a stray file, a line that does not say what
happened. Recovery: from the fault to the result that was wanted, start of the program
included. A row is made again by the command in it, all of them by

    python -m tests.faults

"""
COLUMNS = ("fault", "trials", "faults", "lost", "wrong", "longest recovery", "made by")
ROW = re.compile(r"^\| ([^|]+?) \| (.+) \|$", re.M)


def main(argv=None):
    options(sys.modules[__name__], argv)
    pictures.REAL = PICTURES
    # A shell that starts this in the background would make all processes deaf to it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    failed = False
    for campaign in CAMPAIGNS:
        if ONLY not in campaign.name:
            continue
        count = TRIALS or campaign.long
        began = time.monotonic()
        tally = attempt(campaign, range(FIRST, FIRST + count))
        minutes = (time.monotonic() - began) / 60
        print(f"{campaign.name}: {describe(tally)}, {minutes:.1f} minutes", flush=True)
        for line in [*tally.lost, *tally.wrong][:20]:
            print(f"  {line}", flush=True)
        failed |= bool(tally.lost or tally.wrong)
        if OUT and not FIRST:
            keep(campaign.name, tally, count)
    raise SystemExit(int(failed))


def attempt(campaign, numbers):
    """Run the trials of a campaign, each in an empty folder; return their Tally."""
    tally = Tally()
    with Bar(numbers, desc=campaign.name, unit=" trials") as bar:
        for number in bar:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                campaign.trial(tally, number, Path(folder))
            tally.trials += 1
    return tally


def describe(tally):
    return (
        f"{tally.trials:,} trials, {tally.faults:,} faults, {len(tally.lost)} lost, "
        f"{len(tally.wrong)} wrong, longest recovery {tally.longest:.1f} s"
    )


def keep(name, tally, count):
    """Write a campaign's row into the table, in the order of CAMPAIGNS."""
    path = Path(OUT)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    rows = dict(ROW.findall(text))
    given = " --pictures FOLDER" if PICTURES and "JPEG" in name else ""
    command = f"`python -m tests.faults --only {name!r} --trials {count}{given}`"
    numbers = (f"{tally.trials:,}", f"{tally.faults:,}", len(tally.lost))
    numbers += (len(tally.wrong), f"{tally.longest:.1f} s", command)
    rows[name] = " | ".join(map(str, numbers))
    known = [campaign.name for campaign in CAMPAIGNS if campaign.name in rows]
    lines = [f"| {name} | {rows[name]} |" for name in known]
    rule = ["---", *["---:"] * 5, "---"]
    table = [f"| {' | '.join(COLUMNS)} |", f"| {' | '.join(rule)} |", *lines]
    machine = (
        f"\n\nLast row made with Python {platform.python_version()} on "
        f"{platform.system()}, {os.cpu_count()} cores. {describe_device()}"
    )
    tries = "\n\nWhat each of them tries:\n\n" + "\n".join(map(told, CAMPAIGNS))
    with write_whole(path) as part:
        part.write_text(HEAD + "\n".join(table) + machine + tries + "\n", "utf-8")


def told(campaign):
    """Return what a campaign says of itself, as an item of a list."""
    words = " ".join(campaign.trial.__doc__.split())
    return f"- **{campaign.name}**: {words}"


if __name__ == "__main__":
    run(main)
