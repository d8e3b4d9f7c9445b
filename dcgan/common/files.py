"""Files that appear whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import time
import tokenize
import zipfile
import zlib
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from dcgan.common.console import UserError, shortened

# What reading a damaged file of numbers or notes may raise
DAMAGE = (
    *(OSError, EOFError, LookupError, ValueError, TypeError, AttributeError),
    *(MemoryError, RuntimeError, ArithmeticError, zipfile.BadZipFile, zlib.error),
    *(SyntaxError, tokenize.TokenError),  # of NumPy, in the head of an array
)

# Which machine, or container, it is: four digits
HOST = f"{zlib.crc32(platform.node().encode()) % 2**16:04x}"

# Seconds to wait until a program, a virus scanner say, lets go of a file; else than on
# Windows nobody keeps it from being replaced
HELD = (0.1, 0.2, 0.4, 0.8, 1.6) if os.name == "nt" else ()

# What the system says of what a file system, a network or shared drive, has not
NOT_OFFERED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)

# What it says where files are not renamed over others, or not while they are open
NOT_OVER = (*NOT_OFFERED, errno.EEXIST, errno.EBUSY, errno.ETXTBSY, errno.EPERM)


@contextlib.contextmanager
def write_whole(path):
    """Yield a path to write to; when the block ends well, it becomes `path`.

    The file, or a folder that the block makes there, appears whole or not at all: it is
    written beside, flushed to the disk and renamed. Missing folders are made; where
    `path` is a link, what it leads to is written. Raises UserError, naming `path`, when
    the system refuses to write, or when something else than a file has that name.
    """
    path = Path(path)
    if not path.name:
        raise UserError(f"{str(path)!r} is no name of a file to write.")
    part = None
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            raise UserError(f"Cannot write {path}: it is there, and is no file.")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            name = shortened(str(path))
            raise UserError(f"Cannot write {name}: it would be in a file.") from None
        _sweep_parts(target)
        part = target.with_name(f"{_part_name()}-{target.name}")
        yield part
        for written in [part, *part.rglob("*")]:
            if not written.is_dir():
                with open(written, "rb+") as file:
                    flush(file.fileno())
        replace(part, target)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"Cannot write {shortened(str(path))}: {reason}.") from error
    finally:
        with contextlib.suppress(OSError):
            if part:
                _remove(part)


def check_new_folder(path):
    """Raise UserError if a folder of this name cannot be made, for there is one."""
    if os.path.lexists(path):
        raise UserError(
            f"{path} is there already. Remove it, or choose another name for a folder."
        )


def _part_name():
    """Return how a file begins that is being written, another one each time: processes
    in two containers may have one number.
    """
    return f"part-{os.getpid()}-{HOST}{secrets.token_hex(2)}"


def _sweep_parts(target):
    """Remove what killed processes of this machine left of a file or folder that they
    were writing.
    """
    name = re.escape(target.name)
    parts = re.compile(rf"part-(\d{{1,9}})-{HOST}[0-9a-f]{{4}}-{name}")
    for each in os.listdir(target.parent):  # noqa: PTH208 (of many faces half the time)
        part = parts.fullmatch(each)
        if part and not _is_running(int(part[1])):
            with contextlib.suppress(OSError):
                _remove(target.parent / each)


def _remove(path):
    """Delete a file, if it is there, or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


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


def flush(descriptor):
    """Wait until the disk has what was written, where the file system can tell."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise


def replace(old, new):
    """Rename a file or folder, and wait until the disk has the new name as well."""
    try:
        _replace_held(old, new)
    except OSError as error:
        if error.errno not in NOT_OVER or not Path(new).is_file():
            raise
        _replace_in_two(old, new)
    if os.name == "posix":
        with contextlib.suppress(PermissionError):  # of a folder that cannot be listed
            folder = os.open(Path(new).parent, os.O_RDONLY)
            try:
                flush(folder)
            finally:
                os.close(folder)


def _replace_held(old, new):
    """Rename a file over one that another program may hold for a moment."""
    for wait in HELD:
        try:
            return os.replace(old, new)
        except PermissionError:
            time.sleep(wait)
    return os.replace(old, new)


def _replace_in_two(old, new):
    """Rename a file where the file system does not rename over one that is there."""
    aside = Path(new).with_name(f"{_part_name()}-{Path(new).name}.old")
    os.rename(new, aside)  # noqa: PTH104
    try:
        os.rename(old, new)  # noqa: PTH104
    except OSError:
        os.rename(aside, new)  # noqa: PTH104
        raise
    aside.unlink()


class LockedError(Exception):
    """Another process holds a lock; the text says which: "Process 4711 on box"."""


@contextlib.contextmanager
def locked(path, waiting="", shared=False):
    """Hold the lock file `path` for the block; its folder must be there.

    Where another process holds it: print `waiting` and wait, or raise LockedError if
    that is "". shared: keep out who would hold it alone, and write nothing; where there
    is no lock file nobody does. Where no file can be locked (a network drive, Windows)
    the block runs all the same, and where none can be opened, if it would wait.
    """
    try:  # unbuffered: on a full disk, nothing is left to be written at the end
        lock = fcntl and open(path, "rb" if shared else "ab+", buffering=0)  # noqa: SIM115
    except OSError:
        if not (waiting or shared):
            raise
        lock = None
    if lock is None:
        yield
        return
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with lock:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the latter on a Windows share
            if not waiting:
                raise LockedError(_holder(lock)) from None
            print(waiting, flush=True)
            fcntl.flock(lock, kind)
        except OSError as error:  # some network drives know no locks
            reason = error.strerror
            print(f"Cannot lock {path}: {reason}. Do not start two at once.")
        if not shared:
            with contextlib.suppress(OSError):  # a full disk
                lock.truncate(0)
                lock.write(f"{os.getpid()} on {platform.node()}".encode())
        yield


def _holder(lock):
    who = ""
    with contextlib.suppress(OSError):  # a Windows share shuts it off
        lock.seek(0)
        who = lock.read(100).decode(errors="replace").strip()
    return f"Process {who}" if who else "Another process"


def read_json(path):
    """Read a dict out of a JSON file; {} if it is not there or damaged."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        return dict(json.loads(text, parse_constant=lambda _: None))
    except DAMAGE:
        return {}


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
