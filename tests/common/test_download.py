import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dcgan.common import download, files
from dcgan.common.console import UserError
from dcgan.common.download import Source, fetch
from tests.common.sites import FILE, MD5, OTHER, PAGE, SHA256, Site

SUITE = Path(__file__).parent.parent.parent
BY_HAND = "Get it at example.org and put it into data/."


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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "file.zip"


def get(path, *sources, checksum=MD5):
    return fetch(path, list(sources), 300_000, checksum, BY_HAND)


def refused(path, *sources, **facts):
    with pytest.raises(UserError) as error:
        get(path, *sources, **facts)
    return str(error.value)


def leave_part(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name("file.zip.part").write_bytes(content)


def names(path):
    """Return what lies in the folder, without the lock that may stay there."""
    return sorted({entry.name for entry in path.parent.iterdir()} - {".file.zip.lock"})


def whole(path):
    """The file is right, and nothing else lies beside it."""
    return path.read_bytes() == FILE and names(path) == ["file.zip"]


def ranges(site):
    return [headers.get("Range") for _, headers in site.asked]


# A file that is there


def test_a_file_is_fetched_whole_with_one_request(site, path, capsys):
    assert get(path, site.source(), checksum=SHA256) == path
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
    leave_part(path, FILE[:10])
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


def test_the_digits_of_a_checksum_may_be_capitals(site, path):
    get(path, site.source(), checksum=MD5.upper())
    assert whole(path)


# Going on where it ended


def test_a_cut_connection_is_taken_up_where_it_ended(site, path, capsys):
    get(path, site.source("/file", {"send": 123_456}, {"send": 50_000}, {}))
    assert whole(path)
    assert site.sent == [123_456, 50_000, 126_544]
    assert ranges(site) == [None, "bytes=123456-", "bytes=173456-"]
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
    # A busy machine stalls for less
    monkeypatch.setattr(download, "READ_TIMEOUT", 1)
    sent = 10 * download.CHUNK
    get(path, site.source("/file", {"send": sent, "stall": True}, {}))
    assert whole(path)
    assert sum(site.sent) == 300_000
    assert "fell silent after 40,960 bytes" in capsys.readouterr().out


def test_a_source_that_never_answers_is_given_up(site, path, monkeypatch):
    monkeypatch.setattr(download, "READ_TIMEOUT", 0.3)
    reason = refused(path, site.source("/file", {"send": 0, "stall": True}))
    # The last time a busy machine may not come to the answer's head
    assert re.search("fell silent after 0 bytes|did not answer", reason)
    assert len(site.asked) == download.TRIES


def test_a_source_that_sends_too_slowly_is_skipped_and_its_bytes_kept(
    site, path, capsys, monkeypatch
):
    monkeypatch.setattr(download, "PATIENCE", 1)
    monkeypatch.setattr(download, "SLOWEST", 2_000_000)
    slow = site.source("/slow", {"pace": 0.1}, name="Google Drive")
    get(path, slow, site.source())
    assert whole(path)
    told = capsys.readouterr().out
    assert told == "Google Drive sends less than 2,000,000 bytes a second; skipped.\n"
    assert int(ranges(site)[1][len("bytes=") : -1]) >= 10_000


def test_a_source_that_sends_a_little_each_time_is_given_up(site, path):
    drop = site.source("/file", *[{"send": 10}] * 9, {"status": 404})
    assert "broke off after" in refused(path, drop)
    assert len(site.asked) == download.TRIES


def test_cuts_are_forgiven_as_long_as_each_brings_something_new(site, path):
    cuts = [{"send": 30_000}] * (2 * download.TRIES)
    get(path, site.source("/file", *cuts, {}))
    assert whole(path)
    assert sum(site.sent) == 300_000


def test_a_part_of_an_earlier_run_is_completed(site, path, capsys):
    source = site.source()
    leave_part(path, FILE[:200_000])
    get(path, source)
    assert whole(path)
    assert site.sent == [100_000]
    assert "the course's copy: 100%" in capsys.readouterr().err


def test_a_complete_part_needs_no_source(site, path):
    leave_part(path, FILE)
    get(path, site.source())
    assert whole(path)
    assert site.asked == []


def test_a_part_of_another_source_is_completed(site, path):
    first = site.source("/first", {"send": 200_000}, {"status": 404}, name="one")
    get(path, first, site.source("/second", name="two"))
    assert whole(path)
    assert site.sent[0] + site.sent[-1] == 300_000


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
    leave_part(path, FILE + b"more")
    get(path, site.source())
    assert whole(path)
    assert site.sent == [300_000]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(site, path):
    get(path, site.source("/file", {"body": OTHER, "send": 200_000}, {}))
    assert whole(path)
    assert site.sent == [200_000, 100_000, 300_000]


def test_a_file_that_changes_each_time_is_given_up(site, path):
    first, then = {"body": OTHER, "send": 200_000}, {"body": FILE, "send": 200_000}
    source = site.source("/file", first, then, first, {})
    assert "sent a file that has the wrong md5" in refused(path, source)
    assert names(path) == []


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
    leave_part(path, FILE[:200_000])
    place = {"Content-Range": "bytes 100-299999/300000"}
    get(path, site.source("/file", {"headers": place}, {}))
    assert whole(path)
    assert ranges(site) == ["bytes=200000-", None]


def test_a_part_answer_without_its_place_starts_over(site, path):
    leave_part(path, FILE[:200_000])
    get(path, site.source("/file", {"headers": {"Content-Range": "?"}}, {}))
    assert whole(path)


@pytest.mark.parametrize("place", ["bytes {}-1/300000", "bytes 200000-299999/{}"])
def test_a_place_of_endless_digits_starts_over(site, path, place):
    leave_part(path, FILE[:200_000])
    headers = {"Content-Range": place.format("9" * 5000)}
    get(path, site.source("/file", {"headers": headers}, {}))
    assert whole(path)
    assert ranges(site) == ["bytes=200000-", None]


def test_a_part_answer_that_nobody_asked_for_is_not_the_file(site, path):
    wrong = {"status": 206, "headers": {"Content-Range": "bytes 9-300008/300009"}}
    reason = refused(path, site.source("/file", wrong))
    assert "cannot continue the part" in reason
    assert not path.exists()


def test_a_source_with_no_more_bytes_starts_over(site, path):
    leave_part(path, OTHER[:200_000])
    get(path, site.source("/file", {"body": FILE[:200_000]}, {}))
    assert whole(path)
    assert ranges(site) == ["bytes=200000-", None]


FETCH = """
import sys
from dcgan.common import console, download
download.CHUNK = 4096
source = download.Source("the course's copy", sys.argv[2])
fetch = lambda: download.fetch(sys.argv[1], [source], 300_000, sys.argv[3], "")
console.run(fetch)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("sign", ["SIGKILL", "SIGINT"])
def test_a_stopped_program_goes_on_where_it_was(site, path, sign):
    source = site.source("/file", {"send": 150_000, "stall": True}, {})
    process = subprocess.Popen(
        [sys.executable, "-c", FETCH, path, source.url, MD5],
        cwd=SUITE,
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
        cwd=SUITE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not files.fcntl, reason="Windows has no such locks")
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
        "has a file of 999,999,999,999,999,999 bytes, not 300,000",
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
    leave_part(path, FILE[:200_000])
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


def test_a_wrong_sha256_is_refused(site, path):
    wrong = hashlib.sha256(OTHER).hexdigest()
    reason = refused(path, site.source(), checksum=wrong)
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
    leave_part(path, FILE[:200_000])
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
    leave_part(path, FILE[:200_000])
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
