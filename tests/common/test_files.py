import errno
import json
import os
import platform
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dcgan.common import console, files

SUITE = Path(__file__).parent.parent.parent
NEEDS_LOCKS = pytest.mark.skipif(not files.fcntl, reason="Windows has no such locks")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with files.write_whole(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"

    def fail():
        with files.write_whole(path) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_where_nothing_can_be_written_the_error_names_the_file(tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "x.txt"
    message = f"Cannot write {path}: "
    with pytest.raises(console.UserError, match=message), files.write_whole(path):
        pass


def test_what_is_no_file_is_not_replaced_and_a_link_leads_to_its_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused = pytest.raises(
        console.UserError, match="pipe: it is there, and is no file"
    )
    with refused, files.write_whole(pipe) as part:
        part.write_text("new")
    assert pipe.is_fifo()
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to("there")
    with files.write_whole(tmp_path / "link") as part:
        part.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_text() == "new"


def test_two_processes_may_write_one_file(tmp_path):
    path = tmp_path / "a.txt"
    code = f"""
from dcgan.common.files import write_whole
with write_whole({str(path)!r}) as part:
    part.write_text("other's")
"""
    with files.write_whole(path) as part:
        part.write_text("this one's")
        assert subprocess.run([sys.executable, "-c", code], cwd=SUITE).returncode == 0
        assert path.read_text() == "other's"
    assert path.read_text() == "this one's"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_writing(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here, elsewhere = files.HOST, f"{(int(files.HOST, 16) + 1) % 2**16:04x}"
    others = f"part-{os.getppid()}-{here}0000-a.txt", "part-a.txt"
    others += (f"part-{gone.pid}-{elsewhere}0000-a.txt",)
    for name in (f"part-{gone.pid}-{here}0000-a.txt", *others):
        (tmp_path / name).touch()
    with files.write_whole(tmp_path / "a.txt") as part:
        part.write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", *others}


@pytest.mark.parametrize("name", ["a.txt/b.txt", "a.txt/b/c.txt"])
def test_below_a_file_nothing_is_written(tmp_path, name):
    (tmp_path / "a.txt").touch()
    message = rf"Cannot write .*{name}: it would be in a file"
    with (
        pytest.raises(console.UserError, match=message),
        files.write_whole(tmp_path / name),
    ):
        raise AssertionError


def test_two_containers_with_processes_of_one_number_write_one_file(tmp_path):
    path = tmp_path / "a.txt"
    with files.write_whole(path) as part, files.write_whole(path) as other:
        part.write_text("one's")
        other.write_text("other's")
    assert path.read_text() == "one's"
    assert list(tmp_path.iterdir()) == [path]


def test_json_and_checksums_are_of_the_whole_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1, "\u00e9"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, "\u00e9"]}
    path.write_bytes(b"abc")  # the example in FIPS 180-2
    assert files.sha256(path).startswith("ba7816bf8f01cfea414140de5dae2223")


# The lock


@pytest.fixture
def lock(tmp_path):
    return tmp_path / ".lock"


@NEEDS_LOCKS
def test_a_second_run_is_refused_and_told_who_is_the_first(lock):
    lock.write_text("12345678 on a machine with a long name")  # of a dead run
    with files.locked(lock):
        second = files.locked(lock)
        with pytest.raises(files.LockedError) as refused, second:
            pytest.fail("two at once")
    assert str(refused.value) == f"Process {os.getpid()} on {platform.node()}"
    with files.locked(lock):
        pass


@NEEDS_LOCKS
def test_a_second_run_waits_where_that_is_wanted(lock, capsys):
    order, inside = [], threading.Event()

    def second():
        with files.locked(lock, waiting="Waiting."):
            order.append("second")

    with files.locked(lock, waiting="Not printed."):
        thread = threading.Thread(target=second)
        thread.start()
        while capsys.readouterr().out != "Waiting.\n":
            assert not inside.wait(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@NEEDS_LOCKS
def test_readers_keep_out_who_writes_and_leave_no_file(lock):
    with files.locked(lock, shared=True):
        assert not lock.exists()
    lock.touch()
    with files.locked(lock, shared=True), files.locked(lock, shared=True):
        assert not lock.read_text()
        with pytest.raises(files.LockedError, match="Another process"):
            files.locked(lock).__enter__()
    with files.locked(lock), pytest.raises(files.LockedError, match="Process"):
        files.locked(lock, shared=True).__enter__()


def test_a_system_or_folder_without_locks_does_without(lock, monkeypatch, capsys):
    ran = []
    with files.locked(lock / "no folder", "Another waits."):
        ran.append("no folder")
    with pytest.raises(OSError, match="no folder"):  # two would train at once
        files.locked(lock / "no folder").__enter__()
    monkeypatch.setattr(files, "fcntl", None)
    with files.locked(lock):
        ran.append("Windows")
    assert ran == ["no folder", "Windows"]
    assert capsys.readouterr().out == ""


@NEEDS_LOCKS
def test_a_drive_without_locks_says_so(lock, monkeypatch, capsys):
    def unknown(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", unknown)
    with files.locked(lock):
        pass
    told = f"Cannot lock {lock}: No locks available. Do not start two at once.\n"
    assert capsys.readouterr().out == told


@NEEDS_LOCKS
def test_a_windows_share_tells_of_a_held_lock_in_words_of_its_own(lock, monkeypatch):
    def held(*_):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files.fcntl, "flock", held)
    with pytest.raises(files.LockedError, match="Another process"):
        files.locked(lock).__enter__()


@NEEDS_LOCKS
def test_what_the_block_raises_is_not_swallowed_and_frees_the_lock(lock):
    with pytest.raises(OSError, match="of the block"), files.locked(lock):
        raise OSError("of the block")
    with files.locked(lock):
        pass


def test_a_file_that_a_program_holds_for_a_moment_is_replaced(here, monkeypatch):
    """As on Windows."""
    held, replace = [1, 2, 3], os.replace

    def refuse(*paths):
        if held:
            held.pop()
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        replace(*paths)

    monkeypatch.setattr(files, "HELD", (0, 0, 0))
    monkeypatch.setattr(os, "replace", refuse)
    for text in ("one", "two"):
        with files.write_whole("x.txt") as part:
            part.write_text(text)
    assert Path("x.txt").read_text() == "two"
    held += range(9)
    with (
        pytest.raises(console.UserError, match="Permission denied"),
        files.write_whole("x.txt") as part,
    ):
        part.write_text("three")
    assert Path("x.txt").read_text() == "two"


# What a network or shared drive does not offer


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
@pytest.mark.parametrize("of", ["folders", "all"])
def test_a_file_is_written_where_nothing_can_be_flushed(here, monkeypatch, number, of):
    def fsync(descriptor):
        if of == "all" or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with files.write_whole("x.txt") as part:
        part.write_text("whole")
    assert Path("x.txt").read_text() == "whole"
    assert [path.name for path in here.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("of", ["folders", "files"])
def test_a_write_that_the_disk_refuses_is_still_an_error(here, monkeypatch, number, of):
    def fsync(descriptor):
        if (of == "folders") == stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with (
        pytest.raises(console.UserError, match=r"Cannot write x\.txt: "),
        files.write_whole("x.txt") as part,
    ):
        part.write_text("whole")


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EBUSY, errno.EPERM])
def test_a_file_is_replaced_where_none_is_renamed_over_another(
    here, monkeypatch, number
):
    rename = os.rename

    def replace_none(old, new):
        if Path(new).exists():
            raise OSError(number, os.strerror(number))
        rename(old, new)

    monkeypatch.setattr(os, "replace", replace_none)
    for text in ("old", "new"):
        with files.write_whole("x.txt") as part:
            part.write_text(text)
    assert Path("x.txt").read_text() == "new"
    assert [path.name for path in here.iterdir()] == ["x.txt"]


def test_what_cannot_be_replaced_at_all_stays(here, monkeypatch):
    Path("x.txt").write_text("old")
    rename, names = os.rename, []

    def refuse(old, new):
        names.append(Path(new).name)
        if names[-1] == "x.txt" and len(names) < 4:
            raise PermissionError(errno.EPERM, "refused")
        rename(old, new)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "rename", refuse)
    with (
        pytest.raises(console.UserError, match=r"Cannot write x\.txt: refused"),
        files.write_whole("x.txt") as part,
    ):
        part.write_text("new")
    assert Path("x.txt").read_text() == "old"
    assert [path.name for path in here.iterdir()] == ["x.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_a_folder_that_cannot_be_listed_takes_a_file(here):
    Path("x.txt").write_text("whole")
    here.chmod(0o300)
    files.replace("x.txt", "y.txt")
    here.chmod(0o700)
    assert Path("y.txt").read_text() == "whole"


def test_a_folder_appears_whole_or_not_at_all(here):
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True)
    killed = Path(f"deep/part-{ended.stdout.strip()}-{files.HOST}0000-folder")
    (killed / "inside").mkdir(parents=True)
    with files.write_whole("deep/folder/") as part:
        assert not killed.exists()
        (part / "inside").mkdir(parents=True)
        (part / "inside/file.txt").write_text("new")
        assert not Path("deep/folder").exists()
    assert Path("deep/folder/inside/file.txt").read_text() == "new"

    def fail():
        with files.write_whole("deep/other") as part:
            part.mkdir()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in Path("deep").iterdir()] == ["folder"]
    refused = pytest.raises(console.UserError, match="deep/folder: it is there")
    with refused, files.write_whole("deep/folder"):
        pass
    Path("file").touch()
    refused = pytest.raises(console.UserError, match="Cannot write file/x: ")
    with refused, files.write_whole("file/x"):
        pass
