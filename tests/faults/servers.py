"""Servers that cut, stall, refuse, lie and change their minds, in any order."""

import random
import threading
import time

from dcgan.common import download
from dcgan.common.console import UserError
from tests.common.sites import FILE, MD5, OTHER, PAGE, Site
from tests.faults.trials import Campaign

LONGEST = 20  # seconds that a file may take, whatever its server does
HURRY = {
    **{"BACK_OFF": 0.001, "READ_TIMEOUT": 0.2, "LONGEST_WAIT": 1},
    **{"PATIENCE": 0.4, "SLOWEST": 10**6},
}

NOWHERE = ("http://127.0.0.1/\xff\xfe", "http://[", "x://\x1b[31m" + "y" * 1000)


def fetch(tally, number, folder):
    """Fetch a file from a server of up to eight faults; then from a good one.

    It cuts at any byte, stalls, refuses (403, 404, 410, 429, 500, 502, 503, with waits
    as numbers, dates or nonsense), redirects in a loop or to nowhere, changes the file
    between two parts, ignores ranges, sends pages, other, longer or shorter files, a
    file drop by drop, escape codes, lengths of 5,000 digits, or what is no answer. Each
    trial ends within 20 seconds.
    """
    chance = random.Random(number)
    before = {name: getattr(download, name) for name in HURRY}
    vars(download).update(HURRY)
    site = serve()
    try:
        path = folder / "file.zip"
        faults = [misbehave(chance) for _ in range(chance.randint(1, 8))]
        tally.faults += len(faults)
        ends_well = chance.random() < 0.5
        source = site.source("/file", *faults, *([{}] if ends_well else []))
        began = time.monotonic()
        attempt(tally, number, path, source)
        with tally.recovery():
            download.fetch(path, [site.source("/good")], len(FILE), MD5, "By hand.")
        seconds = time.monotonic() - began
        tally.expect(seconds < LONGEST, f"trial {number}: {seconds:.0f} s")
        right = path.read_bytes() == FILE
        tally.expect(right, f"trial {number}: a wrong file under the right name")
        left = [item.name for item in folder.iterdir() if item.name[0] != "."]
        tally.expect(left == ["file.zip"], f"trial {number}: left {left}")
        if all(set(fault) == {"send"} for fault in faults):
            # A server that only cuts: nothing is sent twice but what a cut lost
            sent = sum(site.sent)
            fine = sent <= len(FILE) + 10_000 * len(site.sent)
            tally.expect(fine, f"trial {number}: {sent:,} bytes were sent")
    finally:
        vars(download).update(before)
        close(site)


def certificate(tally, number, folder):
    """Fetch a file from a server whose certificate nobody vouches for."""
    false = serve(secure=True)
    try:
        attempt(tally, number, folder / "file.zip", false.source("/file"))
        tally.faults += 1
        tally.expect(not false.asked, f"trial {number}: it was asked all the same")
        with tally.recovery():
            fetch(tally, number, folder)
    finally:
        close(false)


def attempt(tally, number, path, source):
    try:
        download.fetch(path, [source], len(FILE), MD5, "By hand.")
    except UserError as error:
        told = "Cannot fetch file.zip" in str(error) and "By hand." in str(error)
        told &= str(error).replace("\n", "").isprintable()
        tally.expect(told, f"trial {number}: {error}")
        tally.expect(not path.exists(), f"trial {number}: a file in spite of {error}")
    except Exception as error:
        tally.mistake(f"trial {number}: {error!r}")


def serve(secure=False):
    site = Site()
    if secure:
        site.secure()
    threading.Thread(target=site.serve_forever, args=(0.01,), daemon=True).start()
    return site


def close(site):
    site.released.set()
    site.shutdown()
    site.server_close()


def misbehave(chance):
    """Draw what a server does to one request."""
    cut = {"send": chance.randrange(len(FILE))}
    after = chance.choice(("0", "1", "86400", "x", "Fri, 01 Jan 2100 00:00:00 GMT"))
    busy = {"status": chance.choice((429, 500, 502, 503)), "body": b"", "type": "x"}
    return chance.choice(
        (
            *(cut, cut, cut, {**cut, "chunked": True}, {**cut, "ranges": False}),
            {**cut, "length": False},
            {**cut, "stall": True},
            {**cut, "body": OTHER},
            {"pace": 0.1},
            {"status": chance.choice((400, 403, 404, 410)), "body": PAGE},
            busy,
            {**busy, "headers": {"Retry-After": after}},
            {"body": PAGE, "type": chance.choice(("text/html", "application/zip"))},
            {"body": OTHER},
            {"body": FILE[:-1]},
            {"body": FILE + b"more"},
            {"body": FILE + b"more", "length": False},
            {"headers": {"Content-Encoding": "gzip"}},
            {"headers": {"Content-Range": "bytes 5-9/10"}, **cut},
            {"status": 206},
            {"status": 302, "body": b"", "headers": {"Location": "/file"}},
            {"status": 302, "body": b"", "headers": {"Location": "nowhere://x"}},
            {
                "status": 302,
                "body": b"",
                "headers": {"Location": chance.choice(NOWHERE)},
            },
            {"status": 204, "body": b""},
            {"headers": {"Content-Length": "-5"}},
            {"headers": {"Content-Length": "9" * 5000}},
            {"headers": {"Content-Range": f"bytes 0-9/{'9' * 5000}"}, "status": 206},
            {"raw": chance.choice((b"HTTP/1.1 100 Continue\r\n\r\n", b"x", b"\r\n"))},
            {"status": 404, "reason": "\x1b[31mGone\x9b1m\x07" + "!" * 1000},
        )
    )


CAMPAIGNS = [
    Campaign("server: anything", fetch, long=1000, short=20),
    Campaign("server: no valid certificate", certificate, long=100, short=2),
]
