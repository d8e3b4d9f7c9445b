import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcgan.common import console, files

SUITE = Path(__file__).parent.parent


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


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


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
import script
with script.write_whole({str(path)!r}) as part:
    part.write_text("other's")
"""
    with files.write_whole(path) as part:
        part.write_text("ours")
        assert python(code).returncode == 0
        assert path.read_text() == "other's"
    assert path.read_text() == "ours"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_writing(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (f"part-{gone.pid}-a.txt", f"part-{os.getppid()}-a.txt", "part-a.txt"):
        (tmp_path / name).touch()
    with files.write_whole(tmp_path / "a.txt") as part:
        part.write_text("new")
    kept = {"a.txt", f"part-{os.getppid()}-a.txt", "part-a.txt"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_names_are_told_where_the_terminal_knows_few_letters():
    code = "import script; script.run(lambda: print('runs/\u00e9'))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert (ran.returncode, ran.stdout) == (0, "runs/\\xe9\n")


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_end_nothing(closed, tmp_path):
    code = f"""
import script
def main():
    with script.quiet_stderr():
        print("said")
    open({str(tmp_path / "done")!r}, "w").close()
script.run(main)
"""
    shell = ["sh", "-c", f'exec "$0" "$@" {closed}', sys.executable, "-c", code]
    ran = subprocess.run(shell)
    assert ran.returncode == 0
    assert (tmp_path / "done").exists()


def test_a_name_that_no_disk_takes_is_one_line():
    code = "import script; script.run(lambda: open('a' * 300))"
    ran = python(code)
    told = f"Cannot use {'a' * 60}... (300 letters): File name too long.\n"
    assert (ran.returncode, ran.stderr) == (1, told)


def test_a_user_error_is_one_line_without_traceback_and_exit_code_1():
    code = """
import script
def main():
    raise script.UserError("Nothing here. Try there.")
script.run(main)
"""
    ran = python(code)
    assert (ran.returncode, ran.stderr) == (1, "Nothing here. Try there.\n")


def test_ctrl_c_is_one_line_without_traceback_and_exit_code_130():
    code = """
import os, signal, script
script.run(lambda: os.kill(os.getpid(), signal.SIGINT))
"""
    ran = python(code)
    assert ran.returncode == 130
    assert "Traceback" not in ran.stderr
    assert "Stopped" in ran.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("prints", ["print('a', flush=True)", "print('a')"])
def test_a_disk_that_is_too_full_to_print_to_is_one_line(prints):
    code = f"import script; script.run(lambda: {prints})"
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code], cwd=SUITE, stdout=full, stderr=-1, text=True
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "Cannot print any more: No space left on device. Files that are there are "
        "whole; once there is room, the same command goes on."
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_bar_that_cannot_be_written_ends_nothing():
    code = "import script; print(sum(script.Bar(range(4))))"
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code], cwd=SUITE, stdout=-1, stderr=full, text=True
        )
    assert (ended.returncode, ended.stdout) == (0, "6\n")


def test_a_bar_into_a_file_is_plain_lines():
    code = """
import script
with script.Bar(total=3, desc="Epoch 1", unit=" pictures") as bar:
    for _ in range(3):
        bar.update()
"""
    told = python(code).stderr
    assert "\r" not in told
    assert told.count("\n") == 1
    assert "Epoch 1: 100%" in told
    assert "3/3" in told


def test_chatter_below_python_is_kept_off_the_terminal_unless_it_failed():
    code = """
import os, script
with script.quiet_stderr():
    os.write(2, b"chatter")
print("said", file=__import__("sys").stderr)
with script.quiet_stderr():
    os.write(2, b"reason")
    raise ValueError("broken")
"""
    told = python(code).stderr
    assert "chatter" not in told
    assert "said" in told
    assert "reason" in told
    assert "ValueError: broken" in told


def test_ctrl_c_while_a_script_imports_is_one_line(here):
    code = "import script; raise KeyboardInterrupt"
    environment = {**os.environ, "PYTHONPATH": str(SUITE)}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert ended.returncode != 0
    assert ended.stderr.strip() == "Stopped. The same command starts again."
