"""What every script shares: options, one-line errors, whole files, progress bars."""

import argparse
import ast
import contextlib
import difflib
import errno
import hashlib
import io
import json
import math
import os
import re
import signal
import sys
import tempfile
import tokenize
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

STOPPED = "\nStopped. The same command starts again."

LINE_EVERY = 20  # seconds between two lines of a progress bar that goes to a file

# What reading a damaged file of numbers or notes may raise
DAMAGE = (
    *(OSError, EOFError, LookupError, ValueError, TypeError, AttributeError),
    *(MemoryError, RuntimeError, ArithmeticError, zipfile.BadZipFile, zlib.error),
)

# What the system says when no more can be written to a file or a pipe
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE)

RANGE = re.compile(
    r"(?:\{(?P<one_of>[^}]*)\}|[\[(](?P<low>\S*?)\.\.(?P<high>\S*?)[\])])(?: |$)"
)


class UserError(SystemExit):
    """A fault that the user can mend: one line on stderr, exit code 1, no traceback.

    The line holds the value that was wrong and the command or edit that mends it.
    """


def run(main):
    """Run a script's main(); Ctrl-C ends it with one line and exit code 130.

    So does, with 1, whatever the system refuses: to print on, a file or a folder.
    """
    _open_streams()
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        if error.filename is not None:
            name = os.fsdecode(error.filename)
            raise UserError(f"Cannot use {_short(name)}: {error.strerror}.") from None
        if error.errno not in FULL:
            raise
        _silence_stdout()
        raise UserError(
            f"Cannot print any more: {error.strerror}. Files that are there are whole; "
            "once there is room, the same command goes on."
        ) from None


def _open_streams():
    """Have somewhere to print, where streams were closed, and print names of any kind
    where the terminal knows few letters.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)
    for name, file in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(file, "w", closefd=False))  # noqa: SIM115
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _short(name):
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


def options(module, argv=None):
    """Let the command line change the UPPER_CASE constants of a script.

    `EPOCHS = 25  # [1..] passes over the pictures` becomes `--epochs 25`, with the
    comment as its help. The comment may begin with the values allowed: `{28, 64}`,
    or a range: `[0..1]`, `(0..1)` without its ends, `[1..]` without an upper one.
    A constant with no comment behind it is not an option.

    Sets the constants in `module` and returns them all, as {name: value}. A wrong
    option ends the program with exit code 2, a wrong constant in the file with 1.
    """
    constants = _constants(module)
    parser = _Parser(
        prog=_command(module),
        description=module.__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, comment in constants.items():
        _add_option(parser, name, getattr(module, name), comment)
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_unknown(unknown[0], constants))
    for name, comment in constants.items():
        value, default = getattr(given, name.lower()), getattr(module, name)
        fault = _fault(value, default, comment)
        if fault and value is not default:
            parser.error(f"{_flag(name)} {value}: {fault}")
        if fault:
            raise UserError(
                f"{name} = {value!r} in {Path(module.__file__).name}: {fault}."
            )
        setattr(module, name, value)
    return current(module)


def current(module):
    """Return the constants of a script that are options, as they are now."""
    return {name: getattr(module, name) for name in _constants(module)}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        stop = "" if message.endswith("?") else "."
        name = self.prog.removeprefix("python ").removeprefix("-m ")
        self.exit(2, f"{name}: {message}{stop} See {self.prog} --help\n")


def _command(module):
    """Return the command that runs a script, or a module of a package."""
    spec = getattr(module, "__spec__", None)
    if spec is not None and "." in spec.name:
        return f"python -m {spec.name}"
    return f"python {Path(module.__file__).name}"


def _constants(module):
    """Read the constants that are options, and their comments, from the source."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and node.end_lineno in comments:
            name = getattr(node.targets[0], "id", "")
            if name.isupper() and isinstance(getattr(module, name), (int, float, str)):
                found[name] = comments[node.end_lineno]
    return found


def _add_option(parser, name, default, comment):
    text = f"{comment} (now: {default!r})".replace("%", "%%")
    if isinstance(default, bool):
        action = argparse.BooleanOptionalAction
        parser.add_argument(_flag(name), default=default, action=action, help=text)
    else:
        word = {int: "N", float: "X", str: "TEXT"}[type(default)]
        parser.add_argument(
            _flag(name), default=default, metavar=word, help=text, type=_reader(default)
        )


def _reader(default):
    """Turn an option's text into the type of its default."""

    def read(text):
        try:
            return type(default)(text)
        except ValueError:
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}") from None

    return read


def _fault(value, default, comment):
    """Say what is wrong with the value of an option, or return ''."""
    allowed = RANGE.match(comment)
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if not allowed:
        return ""
    if allowed["one_of"] is not None:
        choices = [choice.strip() for choice in allowed["one_of"].split(",")]
        return "" if str(value) in choices else f"must be one of {', '.join(choices)}"
    if not isinstance(value, (int, float)):
        return "must be a number"
    low, high = float(allowed["low"] or "-inf"), float(allowed["high"] or "inf")
    span = allowed[0].strip()
    above = value > low if span[0] == "(" else value >= low
    below = value < high if span[-1] == ")" else value <= high
    if above and below:
        return ""
    limits = []
    if allowed["low"]:
        limits.append(
            ("more than " if span[0] == "(" else "at least ") + allowed["low"]
        )
    if allowed["high"]:
        limits.append(
            ("less than " if span[-1] == ")" else "at most ") + allowed["high"]
        )
    return f"must be {' and '.join(limits)}"


def _unknown(word, constants):
    flag = word.split("=")[0]
    near = difflib.get_close_matches(flag, [_flag(name) for name in constants], 1)
    hint = f", did you mean {near[0]}?" if near else ""
    return f"there is no option {flag}{hint}"


def _flag(name):
    return "--" + name.lower().replace("_", "-")


@contextlib.contextmanager
def quiet_stderr():
    """Keep what libraries print on stderr, below Python too, from the terminal.

    Yields a function that returns the text kept so far. If the block fails, with
    another error than the user's, the text is printed after all.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's later messages
    _open_streams()
    sys.stderr.flush()
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
    except OSError:  # there is no room for temporary files: then it is loud
        yield str
        return
    with file as kept, os.fdopen(os.dup(2), "wb") as terminal:

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
def write_whole(path):
    """Yield a path to write to; when the block ends well, it becomes `path`.

    The file appears whole or not at all: it is written beside, flushed to the disk
    and renamed. Missing folders are made; where `path` is a link, what it leads to is
    written. Raises UserError, naming `path`, when the system refuses to write, or when
    something else than a file has that name.
    """
    path = Path(path)
    if not path.name:
        raise UserError(f"{str(path)!r} is no name of a file to write.")
    part = None
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            raise UserError(f"Cannot write {path}: it is there, and is no file.")
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep_parts(target)
        part = target.with_name(f"part-{os.getpid()}-{target.name}")
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        replace(part, target)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Cannot write {_short(str(path))}: {reason}.") from error
    finally:
        with contextlib.suppress(OSError):
            if part:
                part.unlink(missing_ok=True)


def _sweep_parts(target):
    """Remove what killed processes left of a file that they were writing."""
    parts = re.compile(rf"part-(\d{{1,9}})-{re.escape(target.name)}")
    for path in target.parent.iterdir():
        found = parts.fullmatch(path.name)
        if found and not _is_running(int(found[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_running(process):
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def replace(old, new):
    """Rename a file or folder, and wait until the disk has the new name as well."""
    os.replace(old, new)
    if os.name == "posix":
        folder = os.open(Path(new).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path, content):
    """Write a dict as JSON, whole or not at all."""
    with write_whole(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def sha256(path):
    """Return the SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


class Stopping:
    """Within the block, a first Ctrl-C (or SIGTERM, SIGHUP) is only noted, in `signal`.

    A second one interrupts at once.
    """

    def __enter__(self):
        self.signal = 0
        names = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is a lost connection's
        found = [getattr(signal, name) for name in names if hasattr(signal, name)]
        self.before = {
            number: signal.signal(number, self.note)
            for number in found
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

    def exit(self, message, number):
        """End the program as the signal would have, with `message` on stderr."""
        print(f"\n{message}", file=sys.stderr)
        raise SystemExit(128 + number)


class Bar(tqdm):
    """tqdm, except that into a file it prints a plain line every LINE_EVERY seconds."""

    def __init__(self, *args, **kwargs):
        if sys.stderr.isatty():
            kwargs.setdefault("dynamic_ncols", True)
        else:
            kwargs |= {"mininterval": LINE_EVERY, "maxinterval": LINE_EVERY}
            kwargs |= {"miniters": 1, "delay": 1e-9, "ascii": True, "ncols": 100}
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
