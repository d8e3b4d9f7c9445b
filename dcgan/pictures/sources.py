"""Find pictures in folders and .zip archives, and read the bytes of one."""

# Worker processes import this file: without numpy they start twice as fast.
import errno
import functools
import hashlib
import os
import stat
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dcgan.common.console import UserError
from dcgan.pictures import archives
from dcgan.pictures.archives import Unreadable
from dcgan.pictures.faces import ending_of, endings

# Bytes of a picture's file; what claims to be larger is not read
LARGEST = 2**28

# Files of a source whose ends are looked at, to tell it from another, and the bytes
SAMPLED, SAMPLE = 16, 2**12

# What the system says of a file that went away, or of a link that leads nowhere
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

# What becomes of an entry of a folder
FOLDER, LINK, FILE = "folder", "link", "file"

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
        return _shown(self.name)


class PassedOver:
    """Files of a source that are not read, counted by why; the first of each named."""

    def __init__(self):
        self.counts, self.first = {}, {}

    def add(self, why, name):
        self.counts[why] = self.counts.get(why, 0) + 1
        self.first[why] = min(self.first.get(why, name), name)

    def __bool__(self):
        return bool(self.counts)

    def __str__(self):
        """Say, as in "Passed over 3 files: 2 .txt (a.txt), 1 hidden (.b)."; or ""."""
        count = sum(self.counts.values())
        if not count:
            return ""
        by_count = sorted(self.counts, key=self.counts.get, reverse=True)
        kinds = [
            f"{self.counts[why]:,} {why} ({_shown(self.first[why])})"
            for why in by_count
        ]
        return f"Passed over {count:,} file{'s' * (count > 1)}: {', '.join(kinds)}."


def _shown(name):
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def list_pictures(source, passed_over=None):
    """Find the pictures of a folder (any depth) and of the .zips in it, or of a .zip.

    Returns a list of Pictures: the loose ones sorted by name, then zip by zip. Fills
    `passed_over`, PassedOver, with what else there is. A zip that has nothing but what
    lies there unpacked is one of these.
    Raises UserError when there is no picture or an archive cannot be opened.
    """
    source = Path(source)
    passed_over = PassedOver() if passed_over is None else passed_over
    sizes = {name: it.st_size for name, it in source_files(source, passed_over)}
    loose = sorted(name for name in sizes if not _is_zip(name))
    zips = sorted(name for name in sizes if _is_zip(name))
    folder = source
    if not source.is_dir():
        folder, loose, zips = source.parent, [], [source.name]
    unpacked = {(PurePosixPath(name).name, sizes[name]) for name in loose if zips}
    pictures = [Picture(str(folder), name, None) for name in loose]
    for name in zips:
        packed = []
        for inside, member in archives.members(folder / name):
            if _is_picture(inside):
                packed.append(Picture(str(folder / name), inside, member))
            elif not inside.endswith("/"):
                passed_over.add(_kind(inside), f"{inside} in {name}")
        again = {(PurePosixPath(it.name).name, it.member.size) for it in packed}
        if again and again <= unpacked:
            passed_over.add("unpacked .zip", name)
        else:
            pictures += sorted(packed)
    if not pictures:
        raise UserError(_no_pictures(source, passed_over))
    return pictures


def _no_pictures(source, passed_over):
    packed = [name for name in passed_over.first.values() if archives.unpack(name)]
    if packed:
        return f"{source} holds no pictures. {archives.unpack(source / packed[0])}"
    passed = f" {passed_over}" if passed_over else ""
    return (
        f"{source} holds no pictures.{passed} Pictures end in .jpg .png .webp .bmp "
        ".gif .tif, or as another kind that Pillow opens."
    )


def source_files(source, passed_over=None):
    """Yield (name, os.stat_result) for the files of a source: pictures and .zips.

    In no order; names are relative to the folder, parted by "/". A file yields itself.
    Links to folders are followed, each folder once, unless they lead back to where they
    lie. Fills `passed_over`, PassedOver, with the other files.
    Raises UserError when `source` does not exist, is neither a folder nor a file, or a
    folder in it cannot be read.
    """
    source = Path(source)
    passed_over = PassedOver() if passed_over is None else passed_over
    try:
        status = source.stat()
    except OSError as error:
        if error.errno in GONE:
            raise UserError(f"{source} does not exist. {archives.SOURCES}") from error
        raise UserError(f"Cannot read {source}: {error.strerror}.") from error
    if stat.S_ISDIR(status.st_mode):
        # Folders that links lead to come last, and each has its own name if it has one
        folders, seen = [("", os.fspath(source))], set()
        while folders:
            prefix, folder = folders.pop(0)
            links = []
            yield from _walk(folder, prefix, seen, links, passed_over)
            folders = sorted(folders + links)
    elif stat.S_ISREG(status.st_mode):
        yield source.name, status
    else:
        raise UserError(f"{source} is neither a folder nor a file. {archives.SOURCES}")


def _walk(folder, prefix, seen, links, passed_over):
    """Yield what source_files() does, of a folder and those in it.

    seen: of folders so far, to be added to; links: takes what leads to folders, as
    (prefix, path).
    """
    try:
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as items:
            for item in items:
                name, use = prefix + item.name, _use_of(item, prefix, folder)
                if use == FOLDER:
                    yield from _walk(item.path, name + "/", seen, links, passed_over)
                elif use == LINK:
                    links.append((name + "/", item.path))
                elif use == FILE:
                    yield name, item.stat()
                else:
                    passed_over.add(use, name)
    except OSError as error:
        at = error.filename or folder
        raise UserError(f"Cannot read {at}: {error.strerror}.") from error


def _use_of(item, prefix, folder):
    """Return FOLDER, LINK to one, or FILE to be read; else why it is passed over."""
    name = prefix + item.name
    if _is_hidden(name):
        return "hidden"
    if not _is_there(item):
        return "link to nowhere"
    if item.is_dir():
        if not item.is_symlink():
            return FOLDER
        return "link to a folder above it" if _leads_back(item.path, folder) else LINK
    if not item.is_file():
        return "neither file nor folder"
    return FILE if _is_picture(name) or _is_zip(name) else _kind(name)


def _is_there(item):
    """Tell whether an entry of a folder, a link maybe, leads to something."""
    try:
        item.stat()
    except OSError as error:
        if error.errno in GONE:  # a link to itself, for one
            return False
        raise
    return True


def _leads_back(link, folder):
    """Tell whether a link leads to the folder that it lies in, or to one above it."""
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(link))


def _is_picture(name):
    return ending_of(name) in endings() and not _is_hidden(name)


def _is_zip(name):
    return ending_of(name) == ".zip"


def _kind(name):
    return "hidden" if _is_hidden(name) else ending_of(name) or "without an ending"


def _is_hidden(name):
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def fingerprint(source):
    """Tell a source from others, and one state of it from another: 64 hex digits.

    By names, sizes and times, which a copy keeps, and a sample of what is in the files.
    Raises UserError as source_files() does, and when a file cannot be read.
    """
    # A sum, for it takes the files in any order and keeps few of their names
    source, total, sample, kinds = Path(source), 0, [], set()
    for name, status in source_files(source):
        kinds.add(_is_zip(name))
        file = f"{name}\n{status.st_size}\n{status.st_mtime_ns}"
        digest = hashlib.sha256(os.fsencode(file)).digest()
        total += int.from_bytes(digest, "big")
        sample = sorted([*sample, (digest, name)])[:SAMPLED]
    folder = source if source.is_dir() else source.parent
    for _, name in sample:
        digest = hashlib.sha256(_ends_of(folder / name)).digest()
        total += int.from_bytes(digest, "big")
    total += len(kinds) - 1  # older suites did not read zips beside loose pictures
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
