"""What every script says to its user: one-line errors, progress bars, how it stops."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading

from tqdm import tqdm

STOPPED = "\nStopped. The same command starts again."

LINE_EVERY = 20  # seconds between two lines of a progress bar that goes to a file

# What backends say where memory is full; "dst tensor": TensorFlow, copying to a GPU
MEMORY_FULL = (
    "resourceexhausted",
    "resource_exhausted",
    "outofmemory",
    "out of memory",
    "dst tensor is not initialized",
    "defaultcpuallocator",
)

# What the system says when no more can be written to a file or a pipe
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE)


class UserError(SystemExit):
    """A fault that the user can mend: one line on stderr, exit code 1, no traceback.

    The line holds the value that was wrong and the command or edit that mends it.
    """


def run(main):
    """Run a script's main(); Ctrl-C ends it with one line and exit code 130.

    So does, with 1, whatever the system refuses: to print on, a file, a folder, memory.
    """
    _print_any_letter()
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        if error.filename is not None:
            name = os.fsdecode(error.filename)
            raise UserError(
                f"Cannot use {shortened(name)}: {error.strerror}."
            ) from None
        if error.errno not in FULL:
            raise
        _silence_stdout()
        raise UserError(
            f"Cannot print any more: {error.strerror}. Files that are there are whole; "
            "once there is room, the same command goes on."
        ) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "Out of memory: less at once, or end other programs that have taken what "
            "there is."
        ) from None


def is_out_of_memory(error):
    """Tell whether an exception, of any backend, means that memory is full."""
    text = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in MEMORY_FULL)


def _print_any_letter():
    """Print names of any kind where the terminal knows few letters."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def tell(line):
    """Print a line beside a progress bar. Where it cannot be printed, for the terminal
    is gone say, that is no reason to end a training.
    """
    try:
        with Bar.external_write_mode():
            print(line, flush=True)
    except OSError:
        _silence_stdout()


def shortened(name):
    return name if len(name) <= 100 else f"{name[:60]}... ({len(name)} letters)"


def _silence_stdout():
    """Let Python's own last flush go nowhere: it would fail as well, and say so."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _stopped_early(kind, error, trace):
    """Tell in one line of a Ctrl-C before run(), while Keras is imported say."""
    if issubclass(kind, KeyboardInterrupt):
        print(STOPPED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _stopped_early


# Prints what was kept, in place of a process that ends without a word
WATCHER = """
import os
if not os.read(0, 1):
    os.lseek(1, 0, os.SEEK_SET)
    while kept := os.read(1, 65536):
        os.write(2, kept)
"""


@contextlib.contextmanager
def quiet_stderr():
    """Keep what libraries print on stderr, below Python too, from the terminal.

    Yields a function that returns the text kept so far. If the block fails, with
    another error than the user's, the text is printed after all; also if the process
    dies in it, as where a library aborts it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's later messages
    sys.stderr.flush()
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
    except OSError:  # there is no room for temporary files: then it is loud
        yield str
        return
    with file as kept, os.fdopen(os.dup(2), "wb") as terminal, _watched(kept):

        def text():
            kept.seek(0)
            return kept.read().decode(errors="replace")

        os.dup2(kept.fileno(), 2)
        try:
            yield text
        except UserError:
            raise
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except BaseException:
            terminal.write(text().encode())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal.fileno(), 2)


@contextlib.contextmanager
def _watched(kept):
    """Have a file printed on stderr if this process dies within the block."""
    command = [sys.executable, "-I", "-S", "-c", WATCHER]
    try:  # it sees the end of its stdin; Ctrl-C is not for it
        watcher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=kept, start_new_session=True
        )
    except OSError:  # no room for another process
        yield
        return
    try:
        yield
    finally:
        watcher.communicate(b".")


# Signals that ask a program to end; SIGHUP tells that the connection was lost, and the
# last two Slurm sends, if told so, before its time is up
ASKING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class Stopping:
    """Within the block, a first Ctrl-C (or other of ASKING) is only noted, in `signal`.

    A second one interrupts at once. agree: makes one signal out of those that several
    processes got, 0 for none, when all of them call it. Signals come to the first
    thread: in another, a web server's say, none is noted.
    """

    def __init__(self, agree=int):
        self.agree = agree

    def __enter__(self):
        self.signal = 0
        numbers = [getattr(signal, name) for name in ASKING if hasattr(signal, name)]
        if threading.current_thread() is not threading.main_thread():
            numbers = []
        self.before = {
            number: signal.signal(number, self.note)
            for number in numbers
            if signal.getsignal(number) is not signal.SIG_IGN  # as nohup does
        }
        return self

    def note(self, number, _):
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def is_asked(self):
        """Return the signal by which any process was asked to stop, or 0."""
        return self.agree(self.signal)

    def exit_if(self, number, message):
        """End the program as the signal would have, if it is one, with a message."""
        if number:
            with contextlib.suppress(OSError):
                print(f"\n{message}", file=sys.stderr, flush=True)
            raise SystemExit(128 + number)


class Bar(tqdm):
    """tqdm, except that into a file it prints a plain line every LINE_EVERY seconds."""

    def __init__(self, *args, **kwargs):
        if sys.stderr.isatty():
            kwargs.setdefault("dynamic_ncols", True)
        elif type(sys.stderr).__module__.startswith("ipykernel"):
            kwargs.setdefault("ncols", 100)  # a notebook writes over a line, too
        else:
            kwargs |= {"mininterval": LINE_EVERY, "maxinterval": LINE_EVERY}
            kwargs |= {"miniters": 1, "delay": 1e-9, "ascii": " #", "ncols": 100}
            kwargs["file"] = _Lines()
        super().__init__(*args, **kwargs)


class _Lines:
    """Write to stderr what tqdm would write over itself, as lines.

    A line that cannot be written, on a full disk say, is no reason to end a training.
    """

    def write(self, text):
        if text.strip():
            with contextlib.suppress(OSError):
                print(text.strip(), file=sys.stderr, flush=True)

    def flush(self):
        with contextlib.suppress(OSError):
            sys.stderr.flush()
