"""Fetch one file, whole and right, from the first source that has it."""

import contextlib
import hashlib
import itertools
import json
import math
import os
import queue
import re
import shutil
import ssl
import threading
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from dcgan.common.console import Bar, UserError
from dcgan.common.files import write_whole

# Seconds to wait for a connection, and for the next bytes on it
CONNECT_TIMEOUT = 10
READ_TIMEOUT = 30

# Seconds until an answer begins: a server may send what is none, byte by byte, forever
ANSWER_TIMEOUT = 60

# A source is given up after so many tries in a row that brought nothing new
TRIES = 4

# Seconds before the second try, doubled for each one after it
BACK_OFF = 1

# Seconds: a server that asks for a longer wait than this is skipped
LONGEST_WAIT = 60

# Bytes read and written at a time: a kill loses no more than this
CHUNK = 2**16

# Letters of a server's own words that are shown
LONGEST_WORDS = 80

# Digits of a file's length: more are nonsense, which int() may refuse
DIGITS = 18

NUMBER = rf"\d{{1,{DIGITS}}}"
CONTENT_RANGE = re.compile(rf"bytes ({NUMBER})-{NUMBER}/({NUMBER}|\*)")

# What a header can hold
VALIDATOR = re.compile(r"[!-~\xa0-\xff][ -~\xa0-\xff]*")


class Source(NamedTuple):
    """A place to fetch from; `name` is what the user reads: "the course's copy"."""

    name: str
    url: str


def fetch(  # noqa: PLR0913 (all six are facts about the one file)
    path,
    sources: list[Source],
    size: int | None,
    md5: str | None,
    by_hand: str,
    sha256: str | None = None,
) -> Path:
    """Return `path` once it holds the file of `size` bytes with these checksums.

    A right file that is already there is kept; a wrong one is replaced when the new
    one is whole. What has arrived waits in <path>.part, and the next call goes on
    from there, after a kill too. A second run at the same time waits for the first.
    A fact that is None is not checked.

    Raises UserError where no source gives the file (the reason for each, then
    `by_hand`, which says how to get it without this program), where the disk has no
    room for it, and where the folder cannot be written.
    """
    sums = {kind: sum_ for kind, sum_ in (("md5", md5), ("sha256", sha256)) if sum_}
    file = _File(Path(path), size, sums)
    folder = file.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(file):
            if not _already_here(file):
                _fill_from_any(file, sources, by_hand)
                _finish(file)
    except OSError as error:
        raise UserError(
            f"Cannot keep {file.path.name} in {folder}: {error.strerror or error}. "
            "Make the folder writable, or choose another."
        ) from error
    return file.path


class _File(NamedTuple):
    """What is wanted, and where: `sums` is {"md5": hex digits, ...}."""

    path: Path
    size: int | None
    sums: dict

    @property
    def part(self):
        """What has arrived so far."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def note(self):
        """Where the part came from: [url, validator]."""
        return self.path.with_name(f"{self.path.name}.part.json")

    @property
    def lock(self):
        """What one run holds while it fetches."""
        return self.path.with_name(f"{self.path.name}.part.lock")

    def arrived(self):
        return self.part.stat().st_size if self.part.exists() else 0


class _SkipError(Exception):
    """The source cannot give the file; the text goes behind the source's name."""


class _AgainError(Exception):
    """The source may do better, after `wait` seconds if it named them."""

    def __init__(self, reason, wait=None):
        super().__init__(reason)
        self.wait = wait


class _UnfitError(Exception):
    """The part cannot be continued with what the source sends."""


@contextlib.contextmanager
def _alone(file):
    """Keep two runs from fetching the same file at once: the second one waits here."""
    lock = _locked(file) if fcntl else None
    try:
        yield
    finally:
        if lock is not None:
            # While it is held: nobody's but this run's
            with contextlib.suppress(OSError):
                file.lock.unlink()
            os.close(lock)


def _locked(file):
    """Return the open lock; None where the folder takes none, read-only say.

    Not the folder itself is locked: this program may hold that lock already.
    """
    while True:
        try:
            lock = os.open(file.lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        # Some network drives know no locks: there, two runs at once is the user's care
        with contextlib.suppress(OSError):
            _wait_for(lock, file)
        # The run before may have removed the one that this run waited for
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), file.lock.stat()):
                return lock
        os.close(lock)


def _wait_for(lock, file):
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another run fetches {file.path}: waiting.", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


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
        _drop_part(file)
    return True


def _fault(path, file):
    """Say what is wrong with the bytes at `path`, or return ''."""
    length = path.stat().st_size
    if file.size not in (None, length):
        return f"is {length:,} bytes long, not {file.size:,}"
    if not file.sums:
        return ""
    hashes = {kind: hashlib.new(kind, usedforsecurity=False) for kind in file.sums}
    with open(path, "rb") as data, _bar(f"Checking {file.path.name}", 0, length) as bar:
        while block := data.read(2**20):
            for running in hashes.values():
                running.update(block)
            bar.update(len(block))
    for kind, expected in file.sums.items():
        found = hashes[kind].hexdigest()
        if found != expected.lower():
            return f"has the wrong {kind} ({found}, not {expected})"
    return ""


def _bar(title, initial, total):
    amounts = {"initial": initial, "total": total}
    return Bar(desc=title, unit="B", unit_scale=True, unit_divisor=1024, **amounts)


def _drop_part(file):
    file.part.unlink(missing_ok=True)
    file.note.unlink(missing_ok=True)


def _finish(file):
    with open(file.part, "rb+") as part:
        os.fsync(part.fileno())
    file.note.unlink(missing_ok=True)
    os.replace(file.part, file.path)


def _fill_from_any(file, sources, by_hand):
    reasons = []
    for source in sources:
        try:
            _fill(file, source)
            return
        except _SkipError as error:
            print(f"{_capital(source.name)} {error}; skipped.", flush=True)
            reasons.append(f"  {source.name} {error}")
    if file.arrived():
        reasons.append(f"{file.part} is kept; the same command goes on from there.")
    lines = [f"Cannot fetch {file.path.name}:", *reasons, by_hand]
    raise UserError("\n".join(lines))


def _fill(file, source):
    """Fill the part from one source until it is whole and right."""
    inherited, furthest, tries = file.arrived() > 0, file.arrived(), 0
    while True:
        try:
            if file.size is None or file.arrived() < file.size:
                inherited = _request(file, source) > 0 and inherited
            fault = _fault(file.part, file)
            if not fault:
                return
            _drop_part(file)
            if not inherited:
                raise _SkipError(f"sent a file that {fault}")
            # The older bytes may be at fault, so the source gets a chance of its own
            inherited = False
            raise _AgainError(f"must start over, for the part {fault}", 0)
        except _AgainError as error:
            # Only new ground counts: a source that starts over each time and stops
            # at the same place must not be asked forever.
            tries = 1 if file.arrived() > furthest else tries + 1
            furthest = max(furthest, file.arrived())
            if tries >= TRIES:
                raise _SkipError(str(error)) from error
            wait = BACK_OFF * 2 ** (tries - 1) if error.wait is None else error.wait
            again = f"trying again in {wait} s" if wait else "trying again"
            print(f"{_capital(source.name)} {error}; {again}.", flush=True)
            time.sleep(wait)


def _request(file, source):
    """Ask once for what is missing, append it, and return where the answer began."""
    asked, headers = _headers(file, source)
    try:
        with _ask(source.url, headers) as response:
            _check_status(response, asked)
            chunks = _body(response)
            total = _check_place(response, asked, file, source)
            _check_room(file, total)
            begin = asked if response.status_code == 206 else 0
            if begin == 0:
                _begin_part(file, source, response)
            _append(file, chunks, total, f"{file.path.name} from {source.name}")
            return begin
    except HTTPError as error:
        silent = isinstance(error, ReadTimeoutError)
        what = "fell silent" if silent else "broke off"
        raise _AgainError(f"{what} after {file.arrived():,} bytes") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        cause = _cause(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f"has no valid certificate ({_shown(cause.verify_message)})"
            raise _SkipError(why) from error
        raise _AgainError(f"did not answer ({_shown(_words(cause))})") from error
    except requests.RequestException as error:
        raise _SkipError(f"cannot be asked ({_shown(error)})") from error
    except _UnfitError:
        _drop_part(file)
        raise _AgainError("cannot continue the part", 0) from None


def _ask(url, headers):
    """Return the answer once its headers are there; it is to be closed."""
    answers = queue.SimpleQueue()
    # A thread, for what requests waits for cannot be limited as a whole. One that is
    # given up waits on, and keeps no program from ending.
    threading.Thread(target=_get, args=(url, headers, answers), daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_TIMEOUT)
    except queue.Empty:
        raise _AgainError(f"did not answer within {ANSWER_TIMEOUT} s") from None
    if isinstance(answer, (requests.RequestException, HTTPError)):
        raise answer
    if isinstance(answer, (OSError, ValueError)):
        # A file of its own that requests lacks, which is no fault of the folder, or
        # an address, the server's next one say, that it cannot take apart
        why = answer if isinstance(answer, OSError) else _shown(answer)
        raise _SkipError(f"cannot be asked ({why})") from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def _get(url, headers, answers):
    """Put into `answers` what requests returns or raises."""
    timeout = (CONNECT_TIMEOUT, READ_TIMEOUT)
    try:
        answers.put(requests.get(url, headers=headers, timeout=timeout, stream=True))
    except Exception as error:
        answers.put(error)


def _headers(file, source):
    """Return the byte to go on from, and the headers that ask for it.

    Going on is safe where the source can tell whether its file is still the one that
    the part came from, or where size and checksum are known: then a part that does
    not fit, from whatever source, is found out before it becomes the file.
    """
    # Packed for the way, the file would have another length and other byte numbers
    headers = {"Accept-Encoding": "identity"}
    arrived, validator = file.arrived(), _remembered(file, source)
    if not arrived or not (validator or (file.size and file.sums)):
        return 0, headers
    headers["Range"] = f"bytes={arrived}-"
    if validator:
        headers["If-Range"] = validator
    return arrived, headers


def _remembered(file, source):
    """Return the validator that came with the part, if it is from this source."""
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        url, validator = json.loads(file.note.read_text(encoding="utf-8"))
        if url == source.url and VALIDATOR.fullmatch(validator):
            return validator
    return ""


def _validator(response):
    """Return what tells this file from a later one at the same address, or ''."""
    etag = response.headers.get("ETag", "")
    # A weak one (W/"...") does not promise the same bytes
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _check_status(response, asked):
    status = response.status_code
    if status in (200, 206):
        return
    if status == 416 and asked:
        raise _UnfitError
    answer = f"answered {status} {_shown(response.reason)}"
    if status < 500 and status not in (408, 429):
        raise _SkipError(answer)
    wait = _asked_wait(response.headers.get("Retry-After", ""))
    if wait is not None and wait > LONGEST_WAIT:
        raise _SkipError(f"{answer} and asks to wait {wait:,} s")
    raise _AgainError(answer, wait)


def _asked_wait(text):
    """Return the seconds that a Retry-After asks for, number or date, or None."""
    if text.isascii() and text.isdecimal():
        return int(text[:9])
    try:
        until = parsedate_to_datetime(text)
        return max(0, math.ceil(until.timestamp() - time.time()))
    except (ValueError, OverflowError):
        return None


def _body(response):
    """Return the chunks of an answer; raise _SkipError where it is a web page."""
    # Not iter_content: it loses the last bytes that came before a cut
    chunks = response.raw.stream(CHUNK, decode_content=False)
    first = next(chunks, b"")
    kind = response.headers.get("Content-Type", "").lower()
    looks = first.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if kind.startswith("text/html") or looks.startswith((b"<!doctype", b"<html")):
        why = "its download limit or a log-in, most likely"
        raise _SkipError(f"answered with a web page ({why})")
    return itertools.chain([first], chunks)


def _check_place(response, asked, file, source):
    """Return the length of the whole file, None if unknown; check where it begins."""
    total = response.headers.get("Content-Length", "")
    if response.status_code == 206:
        span = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        before, now = _remembered(file, source), _validator(response)
        changed = asked and before and now and before != now
        if not span or int(span[1]) != asked or changed:
            raise _UnfitError
        total = span[2]
    if len(total) > DIGITS:
        raise _SkipError(f"names a length of {len(total):,} digits")
    total = int(total) if total.isdecimal() else file.size
    if file.size not in (None, total):
        raise _SkipError(f"has a file of {total:,} bytes, not {file.size:,}")
    return total


def _check_room(file, total):
    missing = (total or 0) - file.arrived()
    free = shutil.disk_usage(file.path.parent).free
    if missing > free:
        raise UserError(
            f"{file.path} needs {missing:,} more bytes, and {file.path.parent} has "
            f"{free:,} free. Make room, or choose another folder."
        )


def _begin_part(file, source, response):
    # Emptied first: after a kill in between, the new note must not vouch for old bytes
    file.part.write_bytes(b"")
    with write_whole(file.note) as beside:
        beside.write_text(json.dumps([source.url, _validator(response)]))


def _append(file, chunks, total, title):
    arrived = file.arrived()
    with open(file.part, "ab") as part, _bar(title, arrived, total) as bar:
        for chunk in chunks:
            part.write(chunk)
            arrived += len(chunk)
            bar.update(len(chunk))
            # Where the server names no length, its bytes may go on forever
            if total is not None and arrived > total:
                break
    if total is not None and arrived > total:
        _drop_part(file)
        raise _SkipError(f"sends more than {total:,} bytes")
    if total is not None and arrived < total:
        raise _AgainError(f"broke off after {arrived:,} bytes")


def _cause(error):
    """Return the system's own error that lies behind one of requests."""
    while error.__context__:
        error = error.__context__
    return error


def _words(error):
    return getattr(error, "strerror", None) or error


def _shown(text):
    """Keep what a server says from the terminal's codes, and to one line."""
    text = "".join(letter for letter in str(text) if letter.isprintable())
    return text if len(text) <= LONGEST_WORDS else f"{text[:LONGEST_WORDS]}..."


def _capital(text):
    return text[:1].upper() + text[1:]
