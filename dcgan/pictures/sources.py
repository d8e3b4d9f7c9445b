"""Find pictures in folders and .zip archives, and read the bytes of one."""

# Worker processes import this file: without numpy they start twice as fast.
import errno
import functools
import os
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from dcgan.common.console import UserError
from dcgan.common.files import DAMAGE

# What is a picture: the name's ending when looking for it, the bytes when opening it
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

# A row of Pictures: where its name begins and ends, the number of its archive (or
# LOOSE: a file of its own), and what the archive's directory says of it
ROW = struct.Struct("<QQIQQQIHH")

LOOSE = 2**32 - 1

# What stands before a member's bytes: PK 3 4, ..., bytes of its name, of its extras
LOCAL_HEADER = struct.Struct("<4s22xHH")

ENCRYPTED = 1

# Bytes of a picture's file; what claims to be larger is not read
LARGEST = 2**28

# What the system says of a file that went away, or of a link that leads nowhere
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

# What --data may be
SOURCES = "--data takes celeba, cartoons, a folder, a .zip, or a folder of .zips."

# Members lie side by side, so reading ahead saves calls
READ_AHEAD = 2**17


@dataclass(frozen=True)
class Pictures:
    """Where pictures lie, in so few objects that 202,599 of them cost 16 MB.

    folder: str, where the archives or the loose pictures are
    archives: the names of the .zip files in `folder`
    rows: bytes, a ROW for each picture
    names: bytes, the pictures' names end to end
    """

    folder: str
    archives: list
    rows: bytes
    names: bytes

    def __len__(self):
        return len(self.rows) // ROW.size

    def part(self, first, count):
        """Return the Pictures from number `first` on, at most `count` of them."""
        data = self.rows[first * ROW.size : (first + count) * ROW.size]
        rows = list(ROW.iter_unpack(data))
        begin, end = rows[0][0], rows[-1][1]
        moved = [ROW.pack(row[0] - begin, row[1] - begin, *row[2:]) for row in rows]
        names = self.names[begin:end]
        return Pictures(self.folder, self.archives, b"".join(moved), names)


class Unreadable(Exception):  # noqa: N818 - the state of a picture, not a fault of ours
    """A picture that cannot be used; the text says why."""


def list_pictures(source):
    """Find the pictures of a folder (any depth), a .zip, or a folder of .zips.

    Returns Pictures, sorted by name (archive by archive). A folder's zips count only
    where it has no loose picture. Hidden files and __MACOSX are passed over. Raises
    UserError when there is no picture or an archive cannot be opened.
    """
    source = Path(source)
    files = sorted(name for name, _ in source_files(source))
    folder = source if source.is_dir() else source.parent
    loose = [name for name in files if source.is_dir() and _is_picture(name)]
    archives = [] if loose else files
    rows, names, end = [], [], 0
    listed = [(name, LOOSE, 0, 0, 0, 0, 0, 0) for name in loose]
    for number, name in enumerate(archives):
        listed += _members(folder / name, number)
    if not listed:
        raise UserError(
            f"{source} holds no pictures{'' if files else ' and no .zip'}. "
            f"Pictures end in {' '.join(ENDINGS)}"
        )
    for name, *place in listed:
        names.append(os.fsencode(name))
        begin, end = end, end + len(names[-1])
        rows.append(ROW.pack(begin, end, *place))
    return Pictures(str(folder), archives, b"".join(rows), b"".join(names))


def source_files(source):
    """Yield (name, os.stat_result) for the files of a source: pictures and .zips.

    In no order; names are relative to the folder, parted by "/". A file yields itself.
    Raises UserError when `source` does not exist, is neither a folder nor a file, or a
    folder in it cannot be read.
    """
    source = Path(source)
    try:
        found = source.stat()
    except OSError as error:
        if error.errno in GONE:
            raise UserError(f"{source} does not exist. {SOURCES}") from error
        raise UserError(f"Cannot read {source}: {error.strerror}.") from error
    if stat.S_ISDIR(found.st_mode):
        yield from _walk(source, "")
    elif stat.S_ISREG(found.st_mode):
        yield source.name, found
    else:
        raise UserError(f"{source} is neither a folder nor a file. {SOURCES}")


def _walk(folder, prefix):
    try:
        with os.scandir(folder) as found:
            for item in found:
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


def _members(path, number):
    """List an archive's pictures, sorted: [(name, number, the rest of a ROW), ...]."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(_no_archive(path)) from error
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except DAMAGE as error:
        raise UserError(f"Cannot read {path}: {error}.") from error
    return sorted(
        (
            # Where the archive's front is missing, a member may lie before its start
            *(info.filename, number, max(0, info.header_offset), info.compress_size),
            *(info.file_size, info.CRC, info.compress_type, info.flag_bits),
        )
        for info in found
        if _is_picture(info.filename)
    )


def _no_archive(path):
    """Say what a file is that is no whole .zip, and what to do."""
    with open(path, "rb") as file:
        start = file.read(512)
    again = "Delete it and download it again (CelebA: python helper.py)."
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return f"{path} is a web page, not a zip: the download was refused. {again}"
    if start.startswith(b"PK"):
        return f"{path} is cut off or damaged ({path.stat().st_size:,} bytes). {again}"
    return f"{path} is not a zip. --data takes a folder of pictures or a .zip of them."


def read_picture(pictures, name, number, *member):
    """Read one picture's bytes; the arguments are a ROW's, with the name itself."""
    loose = number == LOOSE
    file = os.fsdecode(name) if loose else pictures.archives[number]
    path = Path(pictures.folder, file)
    try:
        if loose:
            _check_size(path.stat().st_size)
            return path.read_bytes()
        return _read_member(_open_archive(pictures.folder, file), *member)
    except OSError as error:
        if loose and error.errno in GONE:
            raise
        raise UserError(
            f"Cannot read {path}: {error.strerror}. Once it can be read, start again."
        ) from error


@functools.lru_cache(maxsize=1)
def _open_archive(folder, name):
    """Open an archive; the last one stays open for the worker's next jobs."""
    path = Path(folder, name)
    try:
        return open(path, "rb", buffering=READ_AHEAD)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error


def _read_member(archive, offset, packed, size, crc, method, flags):  # noqa: PLR0913
    """Read a member's bytes without the archive's directory, which said all the rest.

    Raises Unreadable when it is encrypted, damaged, or packed in an uncommon way.
    """
    if flags & ENCRYPTED:
        raise Unreadable("it is encrypted")
    _check_size(max(packed, size))
    if offset >= os.fstat(archive.fileno()).st_size:
        raise Unreadable("the archive is damaged there")
    archive.seek(offset)
    header = archive.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise Unreadable("the archive is damaged there")
    _, name_length, extra_length = LOCAL_HEADER.unpack(header)
    archive.seek(offset + LOCAL_HEADER.size + name_length + extra_length)
    data = archive.read(packed)
    if method == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    elif method != zipfile.ZIP_STORED:
        raise Unreadable(f"it is compressed by method {method}, not stored or deflated")
    if len(data) != size or zlib.crc32(data) != crc:
        raise Unreadable("its checksum is wrong")
    return data


def _check_size(size):
    if size > LARGEST:
        raise Unreadable(f"it has {size:,} bytes, more than any picture")
