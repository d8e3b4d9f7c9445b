import contextlib
import errno
import hashlib
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from dcgan.common import download
from dcgan.common.console import UserError
from dcgan.common.download import Source, fetch
from dcgan.common.files import write_whole

FILE = random.Random(1).randbytes(300_000)
MD5 = hashlib.md5(FILE).hexdigest()
SHA256 = hashlib.sha256(FILE).hexdigest()
OTHER = random.Random(2).randbytes(300_000)
PAGE = b"\n  <!doctype HTML><title>Quota exceeded</title>"
BY_HAND = "Get it at example.org and put it into data/."


# What the server does where a test asks for nothing else
GOOD = {
    "status": 200,
    "reason": None,  # the status's words, where not the usual ones
    "body": FILE,
    "type": "application/zip",
    "etag": '"1"',
    "headers": {},  # put over all others
    "ranges": True,  # False: a Range is not honoured
    "if_range": True,  # False: a Range is honoured whatever If-Range says
    "length": True,  # False: no Content-Length, the end is the end
    "chunked": False,
    "send": None,  # so many bytes of what was promised, then the connection is cut
    "stall": False,  # instead of the cut: nothing more, and no end
    "raw": None,  # instead of any answer: these bytes, again and again
    "pace": 0,  # seconds between two pieces of the body
}


class Site(ThreadingHTTPServer):
    """A web server on this machine that misbehaves on demand and counts its bytes.

    `answers[path]` holds dicts of what differs from GOOD, one for each request in
    turn; the last one is for all that follow. A path without any answers well.
    """

    daemon_threads = True
    scheme = "http"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked, self.sent = {}, [], []
        self.stalled, self.released = threading.Event(), threading.Event()

    def url(self, path="/file"):
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}{path}"

    def secure(self):
        """Speak HTTPS from now on, with a certificate that nobody trusts."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(__file__).with_name("self-signed.pem"))
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.scheme = "https"

    def source(self, path="/file", *answers, name="the course's copy"):
        self.answers[path] = list(answers)
        return Source(name, self.url(path))

    def handle_error(self, request, client_address):
        """Say nothing where the reader hung up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Keep quiet."""

    def do_GET(self):
        answers = self.server.answers.get(self.path) or [{}]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.asked.append((self.path, dict(self.headers)))
        self.server.sent.append(0)
        self.close_connection = True
        wish = SimpleNamespace(**{**GOOD, **answer})
        if wish.raw:
            self.babble(wish.raw)
        else:
            self.answer(len(self.server.sent) - 1, wish)

    def babble(self, raw):
        for _ in range(300):
            self.wfile.write(raw)
            if self.server.released.wait(0.01):
                return

    def answer(self, number, wish):
        status, body, place = self.chosen(wish)
        headers = {"Content-Type": wish.type, "ETag": wish.etag, "Connection": "close"}
        if place:
            headers["Content-Range"] = place
        if wish.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif wish.length:
            headers["Content-Length"] = len(body)
        self.send_response(status, wish.reason)
        for name, value in {**headers, **wish.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.pour(number, body[: wish.send], wish)
        if wish.chunked and wish.send is None:
            self.wfile.write(b"0\r\n\r\n")
        if wish.stall:
            self.server.stalled.set()
            self.server.released.wait(30)

    def chosen(self, wish):
        """Return the status, the bytes and the Content-Range that the request gets."""
        asked, guard = self.headers.get("Range"), self.headers.get("If-Range")
        same = guard in (None, wish.etag) or not wish.if_range
        if not (asked and same and wish.ranges and wish.status == 200):
            return wish.status, wish.body, None
        first, whole = int(asked[len("bytes=") : -1]), len(wish.body)
        if first >= whole:
            return 416, b"", f"bytes */{whole}"
        return 206, wish.body[first:], f"bytes {first}-{whole - 1}/{whole}"

    def pour(self, number, body, wish):
        for start in range(0, len(body), 10_000):
            piece = body[start : start + 10_000]
            self.wfile.write(
                b"%x\r\n%s\r\n" % (len(piece), piece) if wish.chunked else piece
            )
            if wish.pace:
                time.sleep(wish.pace)
            self.server.sent[number] += len(piece)


@pytest.fixture
def site():
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(download, "BACK_OFF", 0)
    monkeypatch.setattr(download, "CHUNK", 4096)
    monkeypatch.setattr(download, "READ_TIMEOUT", 5)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "file.zip"


def get(path, *sources, size=300_000, md5=MD5, **others):
    return fetch(path, list(sources), size, md5, BY_HAND, **others)


def refused(path, *sources, **facts):
    with pytest.raises(UserError) as error:
        get(path, *sources, **facts)
    return str(error.value)


def leave_part(path, content, url=None, validator='"1"'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name("file.zip.part").write_bytes(content)
    if url:
        note = path.with_name("file.zip.part.json")
        note.write_text(json.dumps([url, validator]))


def names(path):
    return sorted(entry.name for entry in path.parent.iterdir())


def whole(path):
    """The file is right, and nothing else lies beside it."""
    return path.read_bytes() == FILE and names(path) == ["file.zip"]


def ranges(site):
    return [headers.get("Range") for _, headers in site.asked]


# A file that is there


def test_a_file_is_fetched_whole_with_one_request(site, path, capsys):
    assert get(path, site.source(), sha256=SHA256) == path
    assert whole(path)
    assert site.sent == [300_000]
    # Packed for the way, the bytes could not be counted
    assert site.asked[0][1]["Accept-Encoding"] == "identity"
    bars = capsys.readouterr().err
    assert "file.zip from the course's copy: 100%" in bars
    assert "Checking file.zip: 100%" in bars
    assert "293k/293k" in bars  # 300,000 bytes are 293 times 1,024


def test_a_right_file_is_kept_and_no_source_is_asked(site, path, capsys):
    path.parent.mkdir()
    path.write_bytes(FILE)
    leave_part(path, FILE[:10], site.url())
    assert get(path, site.source()) == path
    assert site.asked == []
    assert capsys.readouterr().out == f"{path} is already here.\n"
    assert whole(path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [(FILE[:-1], "is 299,999 bytes long, not 300,000"), (OTHER, "has the wrong md5")],
)
def test_a_wrong_file_is_named_and_fetched_anew(site, path, capsys, content, fault):
    path.parent.mkdir()
    path.write_bytes(content)
    get(path, site.source())
    assert f"{path} is here, but {fault}" in capsys.readouterr().out
    assert whole(path)


def test_a_wrong_file_stays_until_the_new_one_is_whole(site, path):
    path.parent.mkdir()
    path.write_bytes(OTHER)
    refused(path, site.source("/file", {"send": 100_000}, {"status": 404}))
    assert path.read_bytes() == OTHER


def test_what_is_not_known_is_not_checked(site, path):
    get(path, site.source("/file", {"body": OTHER}), size=None, md5=None)
    assert path.read_bytes() == OTHER


def test_the_digits_of_a_checksum_may_be_capitals(site, path):
    get(path, site.source(), md5=MD5.upper())
    assert whole(path)


# Going on where it ended


def test_a_cut_connection_is_taken_up_where_it_ended(site, path, capsys):
    get(path, site.source("/file", {"send": 123_456}, {"send": 50_000}, {}))
    assert whole(path)
    assert site.sent == [123_456, 50_000, 126_544]
    assert ranges(site) == [None, "bytes=123456-", "bytes=173456-"]
    assert site.asked[1][1]["If-Range"] == '"1"'
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("The course's copy broke off after 123,456 bytes")
    assert len(lines) == 2


def test_a_cut_is_seen_without_a_content_length(site, path):
    get(path, site.source("/file", {"send": 123_456, "length": False}, {}))
    assert whole(path)
    assert sum(site.sent) == 300_000


def test_a_chunked_answer_is_taken_up_where_it_was_cut(site, path):
    get(
        path,
        site.source("/file", {"send": 120_000, "chunked": True}, {"chunked": True}),
    )
    assert whole(path)
    assert site.sent[0] == 120_000
    assert sum(site.sent) < 300_000 + download.CHUNK


def test_a_source_that_falls_silent_is_asked_for_the_rest(
    site, path, capsys, monkeypatch
):
    monkeypatch.setattr(download, "READ_TIMEOUT", 0.2)
    sent = 10 * download.CHUNK
    get(path, site.source("/file", {"send": sent, "stall": True}, {}))
    assert whole(path)
    assert sum(site.sent) == 300_000
    assert "fell silent after 40,960 bytes" in capsys.readouterr().out


def test_a_source_that_never_answers_is_given_up(site, path, monkeypatch):
    monkeypatch.setattr(download, "READ_TIMEOUT", 0.05)
    reason = refused(path, site.source("/file", {"send": 0, "stall": True}))
    assert "the course's copy fell silent after 0 bytes" in reason
    assert len(site.asked) == download.TRIES


@pytest.mark.parametrize("raw", [b"HTTP/1.1 100 Continue\r\n\r\n", b"x"])
def test_a_source_that_talks_but_never_answers_is_given_up(
    site, path, capsys, monkeypatch, raw
):
    monkeypatch.setattr(download, "ANSWER_TIMEOUT", 0.2)
    bad = site.source("/bad", {"raw": raw}, name="Google Drive")
    get(path, bad, site.source())
    assert whole(path)
    said = capsys.readouterr().out
    assert "Google Drive did not answer within 0.2 s; skipped." in said
    assert len(site.asked) == download.TRIES + 1


def test_cuts_are_forgiven_as_long_as_each_brings_something_new(site, path):
    cuts = [{"send": 30_000}] * (2 * download.TRIES)
    get(path, site.source("/file", *cuts, {}))
    assert whole(path)
    assert sum(site.sent) == 300_000


def test_a_part_of_an_earlier_run_is_completed(site, path, capsys):
    source = site.source()
    leave_part(path, FILE[:200_000], source.url)
    get(path, source)
    assert whole(path)
    assert site.sent == [100_000]
    assert "the course's copy: 100%" in capsys.readouterr().err


def test_a_part_is_completed_on_the_word_of_the_validator_alone(site, path):
    source = site.source()
    leave_part(path, FILE[:200_000], source.url)
    get(path, source, size=None, md5=None)
    assert whole(path)
    assert site.sent == [100_000]


def test_a_complete_part_needs_no_source(site, path):
    leave_part(path, FILE)
    get(path, site.source())
    assert whole(path)
    assert site.asked == []


def test_a_part_of_another_source_is_completed_where_the_checksum_is_known(site, path):
    first = site.source("/first", {"send": 200_000}, {"status": 404}, name="one")
    get(path, first, site.source("/second", {"etag": '"2"'}, name="two"))
    assert whole(path)
    assert site.sent[0] + site.sent[-1] == 300_000
    assert "If-Range" not in site.asked[-1][1]


@pytest.mark.parametrize("facts", [{"md5": None}, {"size": None}])
def test_a_part_of_another_source_is_dropped_where_less_is_known(site, path, facts):
    leave_part(path, OTHER[:200_000], "http://127.0.0.1/elsewhere")
    get(path, site.source(), **facts)
    assert whole(path)
    assert ranges(site) == [None]


def test_a_part_that_does_not_fit_costs_the_source_one_more_try(site, path, capsys):
    leave_part(path, OTHER[:200_000])
    get(path, site.source())
    assert whole(path)
    assert site.sent == [100_000, 300_000]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert "must start over, for the part has the wrong md5" in lines[0]


def test_a_complete_part_that_is_wrong_is_fetched_anew(site, path):
    leave_part(path, OTHER)
    get(path, site.source())
    assert whole(path)
    assert site.sent == [300_000]


def test_a_part_longer_than_the_file_is_fetched_anew(site, path):
    leave_part(path, FILE + b"more", site.url())
    get(path, site.source())
    assert whole(path)
    assert site.sent == [300_000]


@pytest.mark.parametrize("md5", [MD5, None], ids=["md5", "no md5"])
@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(
    site, path, md5, if_range
):
    old = {"body": OTHER, "send": 200_000}
    new = {"etag": '"2"', "if_range": if_range}
    get(path, site.source("/file", old, new), md5=md5)
    assert whole(path)


@pytest.mark.parametrize(
    ("headers", "guard"),
    [
        ({"ETag": 'W/"1"', "Last-Modified": "Fri, 01 Jan 2016 00:00:00 GMT"}, True),
        ({"ETag": 'W/"1"'}, False),
    ],
)
def test_a_weak_etag_vouches_for_nothing(site, path, headers, guard):
    cut = {"send": 200_000, "headers": headers}
    get(path, site.source("/file", cut, {"if_range": False, "headers": headers}))
    assert whole(path)
    sent = site.asked[1][1]
    assert sent["Range"] == "bytes=200000-"
    assert sent.get("If-Range") == (headers["Last-Modified"] if guard else None)


def test_a_kill_while_a_part_is_begun_leaves_no_old_bytes(site, path, monkeypatch):
    @contextlib.contextmanager
    def killed_behind(note):
        with write_whole(note) as beside:
            yield beside
        raise KeyboardInterrupt

    leave_part(path, OTHER[:200_000], site.url(), '"0"')
    monkeypatch.setattr(download, "write_whole", killed_behind)
    with pytest.raises(KeyboardInterrupt):
        get(path, site.source(), md5=None)
    monkeypatch.setattr(download, "write_whole", write_whole)
    get(path, site.source(), md5=None)
    assert whole(path)


def test_a_source_without_ranges_starts_over(site, path):
    get(path, site.source("/file", {"send": 200_000}, {"ranges": False}))
    assert whole(path)
    assert site.sent == [200_000, 300_000]


def test_a_source_that_always_stops_at_the_same_byte_is_given_up(site, path):
    source = site.source("/file", {"ranges": False, "send": 200_000})
    assert "broke off after 200,000 bytes" in refused(path, source)
    # The first try brought something new; three more did not
    assert len(site.asked) <= download.TRIES + 1


def test_a_source_that_goes_on_somewhere_else_starts_over(site, path):
    leave_part(path, FILE[:200_000], site.url())
    place = {"Content-Range": "bytes 100-299999/300000"}
    get(path, site.source("/file", {"headers": place}, {}))
    assert whole(path)
    assert ranges(site) == ["bytes=200000-", None]


def test_a_part_answer_without_its_place_starts_over(site, path):
    leave_part(path, FILE[:200_000], site.url())
    get(path, site.source("/file", {"headers": {"Content-Range": "?"}}, {}))
    assert whole(path)


@pytest.mark.parametrize("place", ["bytes {}-1/300000", "bytes 200000-299999/{}"])
def test_a_place_of_endless_digits_starts_over(site, path, place):
    leave_part(path, FILE[:200_000], site.url())
    headers = {"Content-Range": place.format("9" * 5000)}
    get(path, site.source("/file", {"headers": headers}, {}))
    assert whole(path)
    assert ranges(site) == ["bytes=200000-", None]


def test_a_part_answer_that_nobody_asked_for_is_not_the_file(site, path):
    wrong = {"status": 206, "headers": {"Content-Range": "bytes 9-300008/300009"}}
    reason = refused(path, site.source("/file", wrong), size=None, md5=None)
    assert "cannot continue the part" in reason
    assert not path.exists()


def test_a_source_with_no_more_bytes_starts_over(site, path):
    leave_part(path, FILE, site.url())
    get(path, site.source(), size=None)
    assert whole(path)
    assert ranges(site) == ["bytes=300000-", None]


DAMAGED = {
    "empty": "",
    "cut": "{",
    "a number": "5",
    "a short list": "[1]",
    "a dict": '{"a": 1}',
    "no end of lists": "[" * 100_000,
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_note_that_cannot_be_read_is_no_note(site, path, case):
    leave_part(path, FILE[:200_000])
    path.with_name("file.zip.part.json").write_text(DAMAGED[case])
    get(path, site.source())
    assert whole(path)
    assert site.sent == [100_000]


@pytest.mark.parametrize(
    "validator", [5, None, ["1"], "\u2603", '"1"\r\nX: y', '"1"\n', " 1", "\ud800"]
)
def test_a_validator_that_no_header_can_hold_is_no_note(site, path, validator):
    leave_part(path, FILE[:200_000], site.url(), validator)
    get(path, site.source())
    assert whole(path)
    assert site.sent == [100_000]
    assert "If-Range" not in site.asked[0][1]


FETCH = """
import sys, download
from script import run
download.CHUNK = 4096
source = download.Source("the course's copy", sys.argv[2])
run(lambda: download.fetch(sys.argv[1], [source], 300_000, sys.argv[3], ""))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("sign", ["SIGKILL", "SIGINT"])
def test_a_stopped_program_goes_on_where_it_was(site, path, sign):
    source = site.source("/file", {"send": 150_000, "stall": True}, {})
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH, path, source.url, MD5],
        cwd=Path(download.__file__).parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    part = path.with_name("file.zip.part")
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size > 100_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(getattr(signal, sign))
    _, errors = process.communicate(timeout=10)
    if sign == "SIGINT":
        assert process.returncode == 130
        assert "Traceback" not in errors
    arrived = part.stat().st_size
    assert part.read_bytes() == FILE[:arrived]

    get(path, source)
    assert whole(path)
    assert site.sent[1:] == [300_000 - arrived]


# Two at once


def start(path, source):
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, path, source.url, MD5],
        cwd=Path(download.__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not download.fcntl, reason="Windows has no such locks")
@pytest.mark.parametrize("killed", [False, True])
def test_a_second_run_waits_for_the_first(site, path, killed):
    source = site.source("/file", {"send": 150_000, "stall": True}, {})
    first = start(path, source)
    assert site.stalled.wait(20)
    second = start(path, source)
    said = second.stdout.readline()
    assert said == f"Another run fetches {path}: waiting.\n"
    if killed:
        first.kill()
    site.released.set()
    outputs = [run.communicate(timeout=20)[0] for run in (first, second)]
    assert (first.returncode, second.returncode) == (-9 if killed else 0, 0)
    assert whole(path)
    assert (f"{path} is already here" in outputs[1]) is not killed
    assert len(site.asked) == 2


@pytest.mark.skipif(not download.fcntl, reason="Windows has no such locks")
def test_a_caller_may_hold_the_lock_of_the_folder(site, path):
    path.parent.mkdir()
    folder = os.open(path.parent, os.O_RDONLY)
    download.fcntl.flock(folder, download.fcntl.LOCK_EX)
    get(path, site.source())
    os.close(folder)
    assert whole(path)


def test_the_lock_of_a_dead_run_is_taken_over_and_removed(site, path):
    path.parent.mkdir()
    path.with_name("file.zip.part.lock").touch()
    get(path, site.source())
    assert whole(path)


@pytest.mark.skipif(not download.fcntl, reason="Windows has no such locks")
def test_a_lock_that_was_removed_meanwhile_is_made_anew(site, path, monkeypatch):
    flock, lock = download.fcntl.flock, path.with_name("file.zip.part.lock")
    removed, locked = [], []

    def late(number, wish):
        if not removed:
            removed.append(lock.unlink())
        flock(number, wish)

    def sent_while_locked(*_):
        locked.append(lock.exists())
        return True

    monkeypatch.setattr(download.fcntl, "flock", late)
    monkeypatch.setattr(site, "verify_request", sent_while_locked)
    get(path, site.source())
    assert locked == [True]
    assert whole(path)


@pytest.mark.skipif(not download.fcntl, reason="Windows has no such locks")
def test_a_drive_without_locks_does_without(site, path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(download.fcntl, "flock", unknown)
    get(path, site.source())
    assert whole(path)


def test_a_system_without_locks_does_without(site, path, monkeypatch):
    monkeypatch.setattr(download, "fcntl", None)
    get(path, site.source())
    assert whole(path)


# Sources that cannot give the file


SKIPPED = {
    "a page": ({"body": PAGE}, "answered with a web page"),
    "an HTML type": (
        {"body": b"Sorry", "type": "Text/HTML; charset=utf-8"},
        "answered with a web page",
    ),
    "capitals": ({"body": b"<HTML>"}, "answered with a web page"),
    "404": ({"status": 404}, "answered 404 Not Found"),
    "403": ({"status": 403, "body": PAGE}, "answered 403 Forbidden"),
    "short": ({"body": FILE[:-1]}, "has a file of 299,999 bytes, not 300,000"),
    "long": ({"body": FILE + b"!"}, "has a file of 300,001 bytes, not 300,000"),
    "endless": (
        {"body": FILE + OTHER, "send": 310_000, "length": False, "stall": True},
        "sends more than 300,000 bytes",
    ),
    "wrong": ({"body": OTHER}, "sent a file that has the wrong md5"),
    "later": (
        {"status": 503, "headers": {"Retry-After": "3600"}},
        "answered 503 Service Unavailable and asks to wait 3,600 s",
    ),
    "loop": (
        {"status": 302, "headers": {"Location": "/bad"}},
        "cannot be asked (Exceeded 30 redirects.)",
    ),
    "no text": (
        {"status": 302, "headers": {"Location": "http://127.0.0.1/\xff\xfe"}},
        "cannot be asked ('utf-8' codec can't decode",
    ),
    "no address": (
        {"status": 302, "headers": {"Location": "http://["}},
        "cannot be asked (Invalid IPv6 URL)",
    ),
    "no number": (
        {"headers": {"Content-Length": "9" * 5000}},
        "names a length of 5,000 digits",
    ),
    "escape codes": (
        {"status": 404, "reason": "\x1b[31mGone\x9b1m\x07 " + "!" * 1000},
        f"answered 404 [31mGone1m {'!' * 69}...; skipped.",
    ),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_a_source_that_cannot_help_is_skipped_with_one_line(site, path, capsys, case):
    answer, reason = SKIPPED[case]
    bad = site.source("/bad", answer, name="Google Drive")
    get(path, bad, site.source("/good"))
    assert whole(path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"Google Drive {reason}")
    assert lines[0].endswith("; skipped.")
    # Nothing is taken over from the bad one
    assert ranges(site)[-1] is None


def test_a_source_without_a_valid_certificate_is_asked_once(site, path, capsys):
    with Site() as false:
        false.secure()
        threading.Thread(target=false.serve_forever, args=(0.01,)).start()
        get(path, false.source(name="Google Drive"), site.source())
        false.shutdown()
    assert whole(path)
    assert false.asked == []
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Google Drive has no valid certificate (")
    assert line.endswith("); skipped.")


@pytest.mark.parametrize("case", ["a page", "404", "short", "long"])
def test_a_skipped_source_leaves_the_part_alone(site, path, case):
    answer = {**SKIPPED[case][0], "ranges": False}
    bad = site.source("/bad", answer, name="Google Drive")
    leave_part(path, FILE[:200_000], site.url("/good"))
    get(path, bad, site.source("/good"))
    assert whole(path)
    assert site.sent[-1] == 100_000


def test_a_wrong_length_is_seen_before_the_bytes_are_taken(site, path):
    long = {"body": FILE * 100, "stall": True, "send": 20_000}
    assert "has a file of 30,000,000 bytes" in refused(path, site.source("/x", long))
    assert names(path) == []


def test_an_address_is_shown_without_its_escape_codes(site, path):
    moved = {"status": 302, "headers": {"Location": "x://\x1b[31m" + "y" * 1000}}
    reason = refused(path, site.source("/bad", moved))
    assert reason.replace("\n", "").isprintable()
    assert max(map(len, reason.splitlines())) < 150


def test_an_answer_that_is_no_http_is_shown_without_its_escape_codes(site, path):
    reason = refused(path, site.source("/bad", {"raw": b"\x1b[31mHello\x07\r\n"}))
    assert "the course's copy did not answer ([31mHello)" in reason


def test_the_sha256_is_checked_as_well(site, path):
    wrong = hashlib.sha256(OTHER).hexdigest()
    reason = refused(path, site.source(), sha256=wrong)
    assert f"has the wrong sha256 ({SHA256}, not {wrong})" in reason
    assert names(path) == []


def test_a_busy_source_is_asked_again(site, path, capsys):
    get(path, site.source("/file", {"status": 503}, {"status": 429}, {}))
    assert whole(path)
    assert "answered 503 Service Unavailable; trying again" in capsys.readouterr().out


def test_waits_double_and_the_servers_own_wait_is_honoured(site, path, monkeypatch):
    waits = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    monkeypatch.setattr(download, "BACK_OFF", 1)
    asks = {"status": 429, "headers": {"Retry-After": "7"}}
    get(path, site.source("/file", {"status": 503}, {"status": 500}, asks, {}))
    assert waits == [1, 2, 7]


def test_a_redirect_is_followed_with_its_range(site, path):
    source = site.source("/old", {"status": 302, "headers": {"Location": "/file"}})
    leave_part(path, FILE[:200_000], source.url)
    get(path, source)
    assert whole(path)
    assert sum(site.sent[1:]) == 100_000


def test_when_all_sources_fail_each_reason_and_the_way_by_hand_are_told(site, path):
    site.server_close()
    closed = Source("the course's copy", site.url())
    with Site() as other:
        threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
        drive = other.source("/drive", {"body": PAGE}, name="Google Drive")
        lines = refused(path, closed, drive).splitlines()
        other.shutdown()
    assert lines[0] == "Cannot fetch file.zip:"
    assert lines[1] == "  the course's copy did not answer (Connection refused)"
    assert lines[2].startswith("  Google Drive answered with a web page")
    assert lines[3:] == [BY_HAND]
    assert names(path) == []


def test_what_has_arrived_is_kept_when_all_sources_fail(site, path):
    source = site.source("/file", {"send": 200_000}, {"status": 404})
    reason = refused(path, source)
    assert "file.zip.part is kept" in reason
    site.answers["/file"] = [{}]
    get(path, source)
    assert whole(path)
    assert site.sent[-1] == 100_000


# The disk


def test_the_file_is_on_the_disk_before_it_takes_its_name(site, path, monkeypatch):
    flushed, flush = [], os.fsync

    def watched(number):
        flushed.append((os.fstat(number).st_size, path.exists()))
        flush(number)

    monkeypatch.setattr(os, "fsync", watched)
    get(path, site.source())
    assert (300_000, False) in flushed


def test_a_disk_without_room_is_told_before_anything_is_written(
    site, path, monkeypatch
):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: Disk(99_999))
    leave_part(path, FILE[:200_000], site.url())
    reason = refused(path, site.source())
    assert reason.startswith(f"{path} needs 100,000 more bytes")
    assert "99,999 free" in reason
    assert path.with_name("file.zip.part").read_bytes() == FILE[:200_000]
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: Disk(100_000))
    get(path, site.source())
    assert whole(path)


class Disk:
    def __init__(self, free):
        self.free = free


def test_a_folder_that_cannot_be_made_is_named_in_one_line(site, tmp_path):
    (tmp_path / "data").write_text("a file where a folder should be")
    reason = refused(tmp_path / "data" / "sub" / "file.zip", site.source())
    assert str(tmp_path / "data" / "sub") in reason
    assert os.strerror(errno.ENOTDIR) in reason
    assert "\n" not in reason


def test_a_folder_that_cannot_be_written_is_named_in_one_line(site, path):
    path.parent.mkdir()
    path.parent.chmod(0o500)
    if os.access(path.parent, os.W_OK):
        pytest.skip("this user may write everywhere")
    reason = refused(path, site.source())
    path.parent.chmod(0o700)
    assert reason.startswith(f"Cannot keep file.zip in {path.parent}")
    assert "\n" not in reason


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full disk")
def test_a_disk_that_fills_up_on_the_way_is_told_in_one_line(site, path):
    path.parent.mkdir()
    path.with_name("file.zip.part").symlink_to("/dev/full")
    reason = refused(path, site.source())
    assert reason.startswith(f"Cannot keep file.zip in {path.parent}: No space left")


def test_what_requests_itself_lacks_is_not_the_folders_fault(site, path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path.with_name("nowhere.pem")))
    site.scheme = "https"
    reason = refused(path, site.source())
    assert reason.startswith(
        "Cannot fetch file.zip:\n  the course's copy cannot be ask"
    )
    assert f"invalid path: {path.with_name('nowhere.pem')}" in reason
    assert names(path) == []


def test_a_folder_in_the_files_place_is_not_overwritten(site, path):
    path.mkdir(parents=True)
    assert f"{path} is a folder" in refused(path, site.source())
    assert site.asked == []


def test_the_servers_own_wait_may_be_a_date(site, path, capsys):
    late = "Fri, 01 Jan 2100 00:00:00 GMT"
    source = site.source("/file", {"status": 503, "headers": {"Retry-After": late}})
    with pytest.raises(UserError, match=r"answered 503 .* asks to wait"):
        get(path, source)
    past = {"status": 503, "headers": {"Retry-After": "Mon, 01 Jan 2001 00:00:00 GMT"}}
    get(path, site.source("/other", past, {}))
    assert "trying again." in capsys.readouterr().out
