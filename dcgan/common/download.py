"""Fetch one file, whole and right, from the first source that has it."""

import contextlib
import functools
import hashlib
import itertools
import re
import shutil
import ssl
import time
from pathlib import Path
from typing import NamedTuple

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from dcgan.common.console import Bar, UserError
from dcgan.common.files import flush, locked, replace

# Seconds to wait for a connection, and for the next bytes on it
CONNECT_TIMEOUT = 10
READ_TIMEOUT = 30

# Bytes a second: a source that is slower, once so many seconds have passed, is skipped
SLOWEST = 1000
PATIENCE = 60

# A source is given up after so many tries in a row that brought nothing new: with the
# waits between them they outlast a minute without a network
TRIES = 7

# Seconds before the second try, doubled for each one after it
BACK_OFF = 1

# Seconds: a server that asks for a longer wait than this is skipped
LONGEST_WAIT = 60

# Bytes read and written at a time: a kill loses no more than this
CHUNK = 2**16

# Letters of a server's own words that are shown
LONGEST_WORDS = 80

# The kinds of checksums, by their hexadecimal digits
KINDS = {32: "md5", 64: "sha256"}

# Where a part of a file begins, and the length of the whole; int() refuses more digits
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")


class Source(NamedTuple):
    """A place to fetch from; `name` is what the user reads: "the course's copy"."""

    name: str
    url: str


def fetch(path, sources: list[Source], size: int, checksum: str, by_hand: str) -> Path:
    """Return `path` once it holds the file of `size` bytes with this MD5 or SHA-256.

    A right file that is already there is kept; a wrong one is replaced when the new
    one is whole. What has arrived waits in <path>.part, and the next call goes on
    from there, after a kill too. A second run at the same time waits for the first.

    Raises UserError where no source gives the file (the reason for each, then
    `by_hand`, which says how to get it without this program), where the disk has no
    room for it, and where the folder cannot be written.
    """
    file = _File(Path(path), size, checksum.lower())
    folder = file.path.parent
    waiting = f"Another run fetches {file.path}: waiting."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{file.path.name}.lock", waiting):
            if not _already_here(file):
                _fill_from_any(file, sources, by_hand)
                with open(file.part, "rb+") as part:
                    flush(part.fileno())
                replace(file.part, file.path)
    except OSError as error:
        raise UserError(
            f"Cannot keep {file.path.name} in {folder}: {error.strerror or error}. "
            "Mend that, or choose another folder."
        ) from error
    return file.path


class _File(NamedTuple):
    """What is wanted, and where."""

    path: Path
    size: int
    checksum: str

    @property
    def part(self):
        """What has arrived so far."""
        return self.path.with_name(f"{self.path.name}.part")

    def arrived(self):
        return self.part.stat().st_size if self.part.exists() else 0


class _SkipError(Exception):
    """The source cannot give the file; the text goes behind the source's name."""


class _AgainError(Exception):
    """The source may do better, after `wait` seconds if it named them."""

    def __init__(self, reason, wait=None):
        super().__init__(reason)
        self.wait = wait


def _already_here(file):
    if file.path.is_dir():
        raise UserError(f"{file.path} is a folder where a file must go: move it away.")
    if not file.path.exists():
        return False
    fault = _fault(file.path, file)
    if fault:
        print(f"{file.path} is here, but {fault}; fetching it anew.", flush=True)
        return False
    print(f"{file.path} is already here.", flush=True)
    # Where it was put by hand, a part may be left; in a read-only folder it stays
    with contextlib.suppress(OSError):
        file.part.unlink(missing_ok=True)
    return True


def _fault(path, file):
    """Say what is wrong with the bytes at `path`, or return ''."""
    length, kind = path.stat().st_size, KINDS[len(file.checksum)]
    if length != file.size:
        return f"is {length:,} bytes long, not {file.size:,}"
    digest = hashlib.new(kind, usedforsecurity=False)
    title = f"Checking {file.path.name}"
    with open(path, "rb") as data, _bar(desc=title, total=length) as bar:
        while block := data.read(2**20):
            digest.update(block)
            bar.update(len(block))
    if digest.hexdigest() == file.checksum:
        return ""
    return f"has the wrong {kind} ({digest.hexdigest()}, not {file.checksum})"


_bar = functools.partial(Bar, unit="B", unit_scale=True, unit_divisor=1024)


def _fill_from_any(file, sources, by_hand):
    reasons = []
    for source in sources:
        try:
            _fill(file, source)
            return
        except _SkipError as error:
            _say(source, f"{error}; skipped")
            reasons.append(f"  {source.name} {error}")
    if file.arrived():
        reasons.append(f"{file.part} is kept; the same command goes on from there.")
    lines = [f"Cannot fetch {file.path.name}:", *reasons, by_hand]
    raise UserError("\n".join(lines))


def _fill(file, source):
    """Fill the part from one source until it is whole and right."""
    furthest, tries, started_over = file.arrived(), 0, False
    while True:
        try:
            began = file.arrived()
            if began < file.size:
                began = _request(file, source)
            fault = _fault(file.part, file)
            if not fault:
                return
            file.part.unlink()
            if began == 0 or started_over:
                raise _SkipError(f"sent a file that {fault}")
            # The bytes from before may be at fault, so the source gets another chance
            furthest, started_over = 0, True
            raise _AgainError(f"must start over, for the part {fault}", 0)
        except _AgainError as error:
            # Only new ground counts: a source that starts over each time and stops
            # at the same place, or sends a byte each time, must not be asked forever.
            tries = 1 if file.arrived() >= furthest + CHUNK else tries + 1
            furthest = max(furthest, file.arrived())
            if tries >= TRIES:
                raise _SkipError(str(error)) from error
            wait = BACK_OFF * 2 ** (tries - 1) if error.wait is None else error.wait
            again = f"trying again in {wait} s" if wait else "trying again"
            _say(source, f"{error}; {again}")
            time.sleep(wait)


def _request(file, source):
    """Ask once for what is missing, append it, and return where the answer began."""
    asked = file.arrived()
    try:
        with _ask(source.url, asked) as response:
            _check_status(response, asked, file)
            chunks = _body(response)
            begin = _check_place(response, asked, file)
            _check_room(file)
            if begin == 0:
                file.part.write_bytes(b"")
            _append(file, chunks, f"{file.path.name} from {source.name}")
            return begin
    except HTTPError as error:
        silent = isinstance(error, ReadTimeoutError)
        what = "fell silent" if silent else "broke off"
        raise _AgainError(f"{what} after {file.arrived():,} bytes") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        cause = _cause(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = (
                f"has no valid certificate ({_shown(cause.verify_message)}; where a "
                "proxy has its own, REQUESTS_CA_BUNDLE names the file of it)"
            )
            raise _SkipError(why) from error
        words = getattr(cause, "strerror", None) or cause
        raise _AgainError(f"did not answer ({_shown(words)})") from error
    except requests.RequestException as error:
        raise _SkipError(f"cannot be asked ({_shown(error)})") from error


def _ask(url, first):
    """Return the answer, from byte `first` on, once its headers are there."""
    # Packed for the way, the file would have another length and other byte numbers
    headers = {"Accept-Encoding": "identity"}
    if first:
        headers["Range"] = f"bytes={first}-"
    timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
    try:
        return requests.get(url, headers=headers, timeout=timeout, stream=True)
    except (requests.RequestException, HTTPError):
        raise
    except (OSError, ValueError) as error:
        # A file of its own that requests lacks, which is no fault of the folder, or
        # an address, the server's next one say, that it cannot take apart
        why = error if isinstance(error, OSError) else _shown(error)
        raise _SkipError(f"cannot be asked ({why})") from error


def _check_status(response, asked, file):
    status = response.status_code
    if status in (200, 206):
        return
    if status == 416 and asked:
        _start_over(file)
    answer = f"answered {status} {_shown(response.reason)}"
    if status < 500 and status not in (408, 429):
        raise _SkipError(answer)
    asked_wait = response.headers.get("Retry-After", "")
    wait = int(asked_wait[:9]) if re.fullmatch("[0-9]+", asked_wait) else None
    if wait is not None and wait > LONGEST_WAIT:
        raise _SkipError(f"{answer} and asks to wait {wait:,} s")
    raise _AgainError(answer, wait)


def _body(response):
    """Return the chunks of an answer; raise _SkipError where it is a web page."""
    # read1 (not in urllib3 before 2.2) waits for no full chunk; a cut loses nothing
    read = getattr(response.raw, "read1", response.raw.read)
    chunks = iter(functools.partial(read, CHUNK, decode_content=False), b"")
    first = next(chunks, b"")
    kind = response.headers.get("Content-Type", "").lower()
    looks = first.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if kind.startswith("text/html") or looks.startswith((b"<!doctype", b"<html")):
        why = "its download limit or a log-in, most likely"
        raise _SkipError(f"answered with a web page ({why})")
    return itertools.chain([first], chunks)


def _check_place(response, asked, file):
    """Return where the answer begins; check that, and the length of the whole file."""
    begin, total = 0, response.headers.get("Content-Length", "")
    if response.status_code == 206:
        span = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not span or int(span[1]) != asked:
            _start_over(file)
        begin, total = asked, span[2]
    if total.isdecimal() and total != str(file.size):
        length = int(total[:18])
        raise _SkipError(f"has a file of {length:,} bytes, not {file.size:,}")
    return begin


def _start_over(file):
    file.part.unlink(missing_ok=True)
    raise _AgainError("cannot continue the part", 0)


def _check_room(file):
    missing = file.size - file.arrived()
    free = shutil.disk_usage(file.path.parent).free
    if missing > free:
        raise UserError(
            f"{file.path} needs {missing:,} more bytes, and {file.path.parent} has "
            f"{free:,} free. Make room, or choose another folder."
        )


def _append(file, chunks, title):
    arrived, sent, began = file.arrived(), 0, time.monotonic()
    shown = {"desc": title, "initial": arrived, "total": file.size}
    with open(file.part, "ab") as part, _bar(**shown) as bar:
        for chunk in chunks:
            part.write(chunk)
            bar.update(len(chunk))
            sent += len(chunk)
            seconds = time.monotonic() - began
            if seconds > PATIENCE and sent < SLOWEST * seconds:
                raise _SkipError(f"sends less than {SLOWEST:,} bytes a second")
            if arrived + sent > file.size:  # they may go on forever
                break
    if arrived + sent > file.size:
        file.part.unlink()
        raise _SkipError(f"sends more than {file.size:,} bytes")
    if arrived + sent < file.size:
        raise _AgainError(f"broke off after {arrived + sent:,} bytes")


def _cause(error):
    """Return the system's own error that lies behind one of requests."""
    while error.__context__:
        error = error.__context__
    return error


def _shown(text):
    """Keep what a server says from the terminal's codes, and to one line."""
    text = "".join(letter for letter in str(text) if letter.isprintable())
    return text if len(text) <= LONGEST_WORDS else f"{text[:LONGEST_WORDS]}..."


def _say(source, text):
    print(f"{source.name[:1].upper()}{source.name[1:]} {text}.", flush=True)
