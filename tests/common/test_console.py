import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dcgan.common import console

SUITE = Path(__file__).parent.parent.parent
NEEDS_FULL = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs /dev/full"
)


def python(code, **more):
    """Run Python code, behind an import of the console, as a process."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    command = [sys.executable, "-c", f"from dcgan.common import console\n{code}"]
    return subprocess.run(command, cwd=SUITE, text=True, **pipes)


def test_names_are_told_where_the_terminal_knows_few_letters():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = python("console.run(lambda: print('runs/\u00e9'))", env=environment)
    assert (ran.returncode, ran.stdout) == (0, "runs/\\xe9\n")


def test_a_name_that_no_disk_takes_is_one_line():
    told = rf"Cannot use {'a' * 60}\.\.\. \(300 letters\): File name too long\.$"
    with pytest.raises(console.UserError, match=told):
        console.run(lambda: Path("a" * 300).touch())


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (MemoryError, "Unable to allocate 74.5 GiB for an array"),
        (RuntimeError, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9"),
        (type("ResourceExhaustedError", (Exception,), {}), "OOM when allocating"),
        (type("InternalError", (Exception,), {}), "Dst tensor is not initialized."),
        (type("OutOfMemoryError", (RuntimeError,), {}), "CUDA out of memory."),
        (RuntimeError, "[enforce] DefaultCPUAllocator: can't allocate memory: 9"),
    ],
)
def test_full_memory_is_one_line_in_the_words_of_any_backend(kind, words):
    def fill():
        raise kind(words)

    with pytest.raises(console.UserError, match=r"^Out of memory: less at once"):
        console.run(fill)


def test_what_is_no_refusal_of_the_system_keeps_its_traceback():
    def fail():
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        console.run(fail)


def test_a_user_error_is_one_line_without_traceback_and_exit_code_1():
    ran = python("""
def main():
    raise console.UserError("Nothing here. Try there.")
console.run(main)
""")
    assert (ran.returncode, ran.stderr) == (1, "Nothing here. Try there.\n")


def test_ctrl_c_is_one_line_without_traceback_and_exit_code_130(capsys):
    with pytest.raises(SystemExit) as exit_:
        console.run(lambda: os.kill(os.getpid(), signal.SIGINT))
    assert exit_.value.code == 130
    told = capsys.readouterr().err
    assert told == "\nStopped. The same command starts again.\n"


def test_ctrl_c_while_a_script_imports_is_one_line():
    ended = python("raise KeyboardInterrupt")
    assert ended.returncode != 0
    assert ended.stderr.strip() == "Stopped. The same command starts again."


@NEEDS_FULL
@pytest.mark.parametrize("prints", ["print('a', flush=True)", "print('a')"])
def test_a_disk_that_is_too_full_to_print_to_is_one_line(prints):
    with open("/dev/full", "w") as full:
        ended = python(f"console.run(lambda: {prints})", stdout=full)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "Cannot print any more: No space left on device. Files that are there are "
        "whole; once there is room, the same command goes on."
    ]


@NEEDS_FULL
def test_a_bar_that_cannot_be_written_ends_nothing():
    with open("/dev/full", "w") as full:
        ended = python("print(sum(console.Bar(range(4))))", stderr=full)
    assert (ended.returncode, ended.stdout) == (0, "6\n")


def test_a_bar_into_a_file_is_plain_lines(capsys):
    with console.Bar(total=3, desc="Epoch 1", unit=" pictures") as bar:
        for _ in range(3):
            bar.update()
    told = capsys.readouterr().err
    assert "\r" not in told
    assert told.count("\n") == 1
    assert "Epoch 1: 100%" in told
    assert "3/3" in told


def test_chatter_below_python_is_kept_off_the_terminal_unless_it_failed(capfd):
    with console.quiet_stderr() as text:
        os.write(2, b"chatter")
        assert text() == "chatter"
    print("said", file=sys.stderr)

    def refuse():
        with console.quiet_stderr():
            os.write(2, b"chatter")
            raise console.UserError("the user's")

    def fail():
        with console.quiet_stderr():
            os.write(2, b"reason")
            raise ValueError("broken")

    with pytest.raises(console.UserError, match="the user's"):
        refuse()
    with pytest.raises(ValueError, match="broken"):
        fail()
    told = capfd.readouterr().err
    assert "chatter" not in told
    assert "said" in told
    assert "reason" in told


@pytest.mark.parametrize(
    "end", ["os.abort()", "os._exit(3)", "os.kill(os.getpid(), 9)"]
)
def test_what_was_kept_is_told_where_the_process_dies_of_it(end):
    ran = python(f"""
import os
with console.quiet_stderr():
    os.write(2, b"Unknown flag\\n")
    {end}
""")
    assert ran.returncode != 0
    assert ran.stderr == "Unknown flag\n"


def test_a_script_that_ends_by_itself_tells_nothing_of_what_was_kept():
    ran = python("""
import os, sys
with console.quiet_stderr():
    os.write(2, b"chatter")
with console.quiet_stderr():
    os.write(2, b"chatter")
    raise KeyboardInterrupt
""")
    assert (ran.returncode, ran.stderr) == (130, "")


@pytest.fixture
def heard():
    """Hear signals that nohup, or a shell in the background, has Python ignore."""
    ignored = [
        number
        for number in (signal.SIGINT, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, signal.default_int_handler)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_first_signal_is_noted_and_a_second_one_interrupts(capsys, heard, name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with console.Stopping() as stopping:
        stopping.exit_if(stopping.is_asked(), "Not yet.")
        signal.raise_signal(number)
        assert stopping.is_asked() == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit) as exit_:
            stopping.exit_if(stopping.is_asked(), "Saved.")
    assert exit_.value.code == 128 + number
    assert capsys.readouterr().err == "\nSaved.\n"
    assert signal.getsignal(number) is before


def test_another_process_may_be_the_one_that_was_asked():
    with console.Stopping(agree=lambda own: max(own, 15)) as stopping:
        assert stopping.is_asked() == 15


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no nohup")
def test_a_training_under_nohup_outlives_its_terminal(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with console.Stopping() as stopping:
            signal.raise_signal(signal.SIGHUP)
            assert not stopping.signal
    finally:
        signal.signal(signal.SIGHUP, before)


IN_A_TERMINAL = """
import contextlib, os, signal, sys
from pathlib import Path
from dcgan.common import console

signal.alarm(60)  # whatever happens, it ends
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as if nothing was under nohup
with console.Stopping() as stopping:
    print("ready", flush=True)
    with contextlib.suppress(OSError):
        os.read(0, 1)  # until the terminal is gone
    while not stopping.is_asked():
        pass
    console.tell("Waiting")
    print("more", flush=True)
    Path(sys.argv[1]).touch()
    stopping.exit_if(stopping.is_asked(), "Saved.")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has none")
def test_a_training_saves_though_there_is_no_terminal_any_more_to_tell_it(
    tmp_path,
):
    saved = tmp_path / "saved"
    ran = python(f"""
import os, pty, sys
process, terminal = pty.fork()
if not process:
    code = {IN_A_TERMINAL!r}
    os.execv(sys.executable, [sys.executable, "-c", code, {str(saved)!r}])
while b"\\n" not in os.read(terminal, 1000):
    pass
os.close(terminal)
_, status = os.waitpid(process, 0)
print(os.waitstatus_to_exitcode(status))
""")
    assert (ran.stdout, ran.stderr) == (f"{128 + signal.SIGHUP}\n", "")
    assert saved.exists()
