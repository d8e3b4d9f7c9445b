"""List a .zip, and read a member of it without looking through its directory again."""

# Worker processes import this file: without numpy they start twice as fast.
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from dcgan.common.console import UserError
from dcgan.common.files import DAMAGE
from dcgan.common.options import quoted, typed

# What stands before a member's bytes: PK 3 4, ..., bytes of its name, of its extras
LOCAL_HEADER = struct.Struct("<4s22xHH")

ENCRYPTED = 1

# What --data may be
SOURCES = (
    "--data takes celeba, cartoons, a folder of pictures or .zips, a .zip, or a .npy "
    "or .npz of uint8 pictures."
)

# How to unpack what is not read as it is, by the ending
TAR = "tar xf FILE -C FOLDER"
UNPACK = {
    **dict.fromkeys((".tar.gz", ".tar.bz2", ".tar.xz", ".tar", ".tgz"), TAR),
    ".7z": "7z x FILE -oFOLDER",
    ".rar": "unrar x FILE FOLDER/",
    ".parquet": 'pip install "datasets[vision]" && python -c "import sys, datasets; '
    "[row['image'].save(f'{sys.argv[2]}/{n:07}.png') for n, row in enumerate("
    "datasets.load_dataset('parquet', data_files=sys.argv[1])['train'])]\" "
    "FILE FOLDER",
}


class Member(NamedTuple):
    """What an archive's directory says of a member; sizes in bytes."""

    offset: int
    packed: int
    size: int
    crc: int
    method: int
    flags: int


class Unreadable(Exception):  # noqa: N818 - the state of a picture, not a fault of ours
    """A picture that cannot be used; the text says why."""


def members(path):
    """List an archive: [(name, Member), ...]. Raises UserError if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.infolist()
    except zipfile.BadZipFile as error:
        raise UserError(_no_archive(path)) from error
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except DAMAGE as error:
        raise UserError(f"Cannot read {path}: {error}.") from error
    return [
        (
            info.filename,
            Member(
                # Where the archive's front is missing, one may lie before its start
                *(max(0, info.header_offset), info.compress_size, info.file_size),
                *(info.CRC, info.compress_type, info.flag_bits),
            ),
        )
        for info in listed
    ]


def _no_archive(path):
    """Say what a file is that is no whole .zip, and what to do."""
    with open(path, "rb") as file:
        start = file.read(512)
    again = "Delete it and download it again (CelebA: python helper.py)."
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return f"{path} is a web page, not a zip: the download was refused. {again}"
    if start.startswith(b"PK"):
        return f"{path} is cut off or damaged ({path.stat().st_size:,} bytes). {again}"
    return f"{path} is not a zip. {unpack(path) or SOURCES}"


def unpack(path):
    """Say how to unpack an archive that is not read as it is; "" if it is none."""
    path = Path(path)
    ending = next((it for it in UNPACK if path.name.lower().endswith(it)), None)
    if not ending:
        return ""
    folder = path.name[: -len(ending)] or "pictures"
    file, place = quoted(str(path)), quoted(folder)
    command = UNPACK[ending].replace("FILE", file).replace("FOLDER", place)
    make = "mkdir" if os.name == "nt" else "mkdir -p"
    return f"Unpack it: {make} {place} && {command}; then {typed(data=folder)}"


def read(archive, member):
    """Read a member's bytes from an open archive.

    Raises Unreadable when it is encrypted, damaged, or packed in an uncommon way.
    """
    if member.flags & ENCRYPTED:
        raise Unreadable("it is encrypted")
    if member.offset >= os.fstat(archive.fileno()).st_size:
        raise Unreadable("the archive is damaged there")
    archive.seek(member.offset)
    header = archive.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise Unreadable("the archive is damaged there")
    _, name_length, extra_length = LOCAL_HEADER.unpack(header)
    archive.seek(name_length + extra_length, os.SEEK_CUR)
    data = archive.read(member.packed)
    if member.method == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
    elif member.method != zipfile.ZIP_STORED:
        raise Unreadable(
            f"it is compressed by method {member.method}, not stored or deflated"
        )
    if len(data) != member.size or zlib.crc32(data) != member.crc:
        raise Unreadable("its checksum is wrong")
    return data
