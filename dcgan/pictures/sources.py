"""Find pictures in folders and .zip archives, and read the bytes of one."""

# Worker processes import this file: without numpy they start twice as fast.
import errno
import functools
import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from dcgan.common.console import UserError
from dcgan.pictures import archives
from dcgan.pictures.archives import Unreadable

# What is a picture: the name's ending when looking for it, the bytes when opening it
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

# Bytes of a picture's file; what claims to be larger is not read
LARGEST = 2**28

# Files of a source whose ends are looked at, to tell it from another, and the bytes
SAMPLED, SAMPLE = 16, 2**12

# What the system says of a file that went away, or of a link that leads nowhere
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

# What --data may be
SOURCES = "--data takes celeba, cartoons, a folder, a .zip, or a folder of .zips."

# Members lie side by side, so reading ahead saves calls
READ_AHEAD = 2**17


class Picture(NamedTuple):
    """Where a picture lies.

    home: str, the folder or the .zip that it lies in
    name: str, its name there, parted by "/"
    member: archives.Member, or None for a file of its own
    """

    home: str
    name: str
    member: archives.Member | None

    def shown(self):
        """Return the name in letters that can be printed."""
        return os.fsencode(self.name).decode("utf-8", "backslashreplace")


def list_pictures(source):
    """Find the pictures of a folder (any depth), a .zip, or a folder of .zips.

    Returns a list of Pictures, sorted by name (archive by archive). A folder's zips
    count only where it has no loose picture. Hidden files and __MACOSX are passed over.
    Raises UserError when there is no picture or an archive cannot be opened.
    """
    source = Path(source)
    files = sorted(name for name, _ in source_files(source))
    folder = source if source.is_dir() else source.parent
    loose = [name for name in files if source.is_dir() and _is_picture(name)]
    pictures = [Picture(str(folder), name, None) for name in loose]
    for name in [] if loose else files:
        members = archives.members(folder / name)
        home = str(folder / name)
        pictures += sorted(Picture(home, *it) for it in members if _is_picture(it[0]))
    if not pictures:
        raise UserError(
            f"{source} holds no pictures{'' if files else ' and no .zip'}. "
            f"Pictures end in {' '.join(ENDINGS)}"
        )
    return pictures


def source_files(source):
    """Yield (name, os.stat_result) for the files of a source: pictures and .zips.

    In no order; names are relative to the folder, parted by "/". A file yields itself.
    Raises UserError when `source` does not exist, is neither a folder nor a file, or a
    folder in it cannot be read.
    """
    source = Path(source)
    try:
        status = source.stat()
    except OSError as error:
        if error.errno in GONE:
            raise UserError(f"{source} does not exist. {SOURCES}") from error
        raise UserError(f"Cannot read {source}: {error.strerror}.") from error
    if stat.S_ISDIR(status.st_mode):
        yield from _walk(source, "")
    elif stat.S_ISREG(status.st_mode):
        yield source.name, status
    else:
        raise UserError(f"{source} is neither a folder nor a file. {SOURCES}")


def _walk(folder, prefix):
    try:
        with os.scandir(folder) as items:
            for item in items:
                name = prefix + item.name
                if item.is_dir(follow_symlinks=False):
                    if not _is_hidden(name):
                        yield from _walk(item.path, name + "/")
                elif _is_picture(name, ".zip") and _leads_to_a_file(item):
                    yield name, item.stat()
    except OSError as error:
        raise UserError(f"Cannot read {folder}: {error.strerror}.") from error


def _leads_to_a_file(item):
    try:
        return item.is_file()
    except OSError as error:
        if error.errno in GONE:  # a link to itself
            return False
        raise


def _is_picture(name, *more_endings):
    return name.lower().endswith((*ENDINGS, *more_endings)) and not _is_hidden(name)


def _is_hidden(name):
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def fingerprint(source):
    """Tell a source from others, and one state of it from another: 64 hex digits.

    By names, sizes and times, which a copy keeps, and a sample of what is in the files.
    Raises UserError as source_files() does, and when a file cannot be read.
    """
    # A sum, for it takes the files in any order and keeps few of their names
    source, total, sample = Path(source), 0, []
    for name, status in source_files(source):
        file = f"{name}\n{status.st_size}\n{status.st_mtime_ns}"
        digest = hashlib.sha256(os.fsencode(file)).digest()
        total += int.from_bytes(digest, "big")
        sample = sorted([*sample, (digest, name)])[:SAMPLED]
    folder = source if source.is_dir() else source.parent
    for _, name in sample:
        digest = hashlib.sha256(_ends_of(folder / name)).digest()
        total += int.from_bytes(digest, "big")
    return f"{total % 2**256:064x}"


def _ends_of(path):
    """Read where a file begins and where it ends: there a .zip has its checksums."""
    try:
        with open(path, "rb") as file:
            begin = file.read(SAMPLE)
            file.seek(max(0, file.seek(0, os.SEEK_END) - SAMPLE))
            return begin + file.read(SAMPLE)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error


def read_picture(picture):
    """Read a Picture's bytes.

    Raises Unreadable or FileNotFoundError for one that cannot be used or went away;
    UserError when its archive did, or when the system refuses to read.
    """
    home, name, member = picture
    path = Path(home) if member else Path(home, name)
    try:
        _check_size(max(member.packed, member.size) if member else path.stat().st_size)
        return archives.read(_open(home), member) if member else path.read_bytes()
    except OSError as error:
        if not member and error.errno in GONE:
            raise
        raise UserError(
            f"Cannot read {path}: {error.strerror}. Once it can be read, start again."
        ) from error


@functools.lru_cache(maxsize=1)
def _open(archive):
    """Open an archive; the last one stays open for the worker's next jobs."""
    return open(archive, "rb", buffering=READ_AHEAD)


def _check_size(size):
    if size > LARGEST:
        raise Unreadable(f"it has {size:,} bytes, more than any picture")
