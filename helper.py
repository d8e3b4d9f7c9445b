"""Get CelebA: download it, find the pictures, open and crop them.

`python helper.py` puts the archive (1.4 GB) where `python train.py` looks for it.
"""

import functools
import io
import math
import os
import signal
import struct
import threading
import warnings
import zipfile
import zlib
from multiprocessing import parent_process
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from script import UserError, run

# The archive, aligned and cropped: 202,599 pictures of 178 x 218
ARCHIVE = "data/img_align_celeba.zip"
ARCHIVE_BYTES = 1_443_490_838
ARCHIVE_MD5 = "00d2c5bc6d35e252742224ab0c1e8fcb"

# Where it is to be had: the course's copy first, then the one of CelebA's authors
COURSE_URL = "https://s3-us-west-1.amazonaws.com/udacity-dlnfd/datasets/celeba.zip"
DRIVE_URL = (
    "https://drive.usercontent.google.com/download"
    "?id=0B7EVK8r0v71pZjFTYXZWM3FlRnM&export=download&confirm=t"
)
KAGGLE_URL = "https://www.kaggle.com/datasets/jessicali9530/celeba-dataset"
TERMS = "CelebA is for non-commercial research only; do not pass its pictures on."

# What is a picture: the name's ending when looking for it, the bytes when opening it
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# The face in a picture of CelebA's size: left, top, right, bottom
CELEBA_SIZE = (178, 218)
CELEBA_BOX = (35, 55, 143, 163)
CROP = "centre 108 x 108 of 178 x 218, else the largest centre square"
FILTER = "bilinear"

# Pixels between two faces of a grid
GAP = 2

# Where a picture lies: its archive's number (-1: a file of its own), its name among
# all names, and what the archive's directory says of it, by zipfile's names
MEMBER = {
    "header_offset": "<u8",
    "compress_size": "<u8",
    "file_size": "<u8",
    "CRC": "<u4",
    "compress_type": "<u2",
    "flag_bits": "<u2",
}
ENTRY = np.dtype(
    [("archive", "<i4"), ("name", "<u4"), ("length", "<u4"), *MEMBER.items()]
)

# In front of a member's bytes: "PK\3\4", ..., bytes of its name, bytes of its extras
LOCAL_HEADER = struct.Struct("<4s22xHH")
ENCRYPTED = 1


class Pictures(NamedTuple):
    """Where pictures lie, in so few objects that 202,599 cost 15 MB.

    folder: str, where the archives or the loose pictures are
    archives: tuple of the .zip files' names in `folder`
    entries: (n,) ENTRY
    names: bytes, the pictures' names end to end, in UTF-8
    """

    folder: str
    archives: tuple
    entries: np.ndarray
    names: bytes

    def part(self, first, count):
        """Return the Pictures from number `first` on, at most `count` of them."""
        entries = self.entries[first : first + count].copy()
        begin = int(entries["name"][0])
        end = int(entries["name"][-1] + entries["length"][-1])
        entries["name"] -= begin
        return self._replace(entries=entries, names=self.names[begin:end])


class Unreadable(Exception):  # noqa: N818 - the state of a picture, not a fault of ours
    """A picture that cannot be used; the text says why."""


def download_celeba():
    """Put CelebA's archive on the disk unless it is there; return its Path.

    Raises UserError when no source delivers it, saying how to get it by hand.
    """
    # Here, not above: the worker processes start faster without the network's modules
    from download import Source, fetch

    by_hand = (
        f"Or get it by hand from {KAGGLE_URL} and start python train.py --data "
        "archive.zip (Kaggle packs the same pictures differently)."
    )
    print(TERMS)
    sources = [Source("the course", COURSE_URL), Source("Google Drive", DRIVE_URL)]
    return fetch(Path(ARCHIVE), sources, ARCHIVE_BYTES, ARCHIVE_MD5, by_hand)


def list_pictures(source):
    """Find the pictures of a folder (any depth), a .zip, or a folder of .zips.

    Returns Pictures, sorted by name (archive by archive). A folder's zips count only
    where it has no loose picture. Hidden files and __MACOSX are passed over. Raises
    UserError when there is no picture or an archive cannot be opened.
    """
    source = Path(source)
    files = sorted(name for name, _ in source_files(source))
    loose = [name for name in files if name.lower().endswith(ENDINGS)]
    folder = source if source.is_dir() else source.parent
    if source.is_dir() and loose:
        entries = np.zeros(len(loose), ENTRY)
        entries["archive"] = -1
        return _pictures(folder, [], [(loose, entries)])
    members = [_members(folder / name, number) for number, name in enumerate(files)]
    if not any(names for names, _ in members):
        kind = "neither pictures" if source.is_dir() else "no pictures"
        more = " nor .zip files" if source.is_dir() else ""
        raise UserError(
            f"{source} holds {kind}{more}. Pictures end in {' '.join(ENDINGS)}."
        )
    return _pictures(folder, files, members)


def source_files(source):
    """Yield (name, os.stat_result) for the files of a source: pictures and .zips.

    In no order; names are relative to the folder, parted by "/". A file yields itself.
    Raises UserError when `source` does not exist or a folder in it cannot be read.
    """
    source = Path(source)
    if source.is_dir():
        yield from _walk(source, "")
    elif source.exists():
        yield source.name, source.stat()
    else:
        raise UserError(
            f"{source} does not exist. --data takes celeba, cartoons, a folder or a .zip."
        )


def _walk(folder, prefix):
    try:
        with os.scandir(folder) as found:
            for item in found:
                name = prefix + item.name
                if _hidden(item.name):
                    continue
                if item.is_dir(follow_symlinks=False):
                    yield from _walk(item.path, name + "/")
                elif name.lower().endswith((*ENDINGS, ".zip")) and item.is_file():
                    yield name, item.stat()
    except OSError as error:
        raise UserError(f"Cannot read {folder}: {error.strerror}.") from error


def _hidden(name):
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _members(path, number):
    """List the pictures of one archive: sorted names, (n,) ENTRY."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.infolist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(_no_archive(path, error)) from error
    found = [
        info
        for info in found
        if info.filename.lower().endswith(ENDINGS) and not _hidden(info.filename)
    ]
    found.sort(key=lambda info: info.filename)
    entries = np.zeros(len(found), ENTRY)
    entries["archive"] = number
    for field in MEMBER:
        entries[field] = [getattr(info, field) for info in found]
    return [info.filename for info in found], entries


def _no_archive(path, error):
    """Say why `path` cannot be opened as a zip, and what to do."""
    if isinstance(error, OSError):
        return f"Cannot read {path}: {error.strerror or error}."
    with open(path, "rb") as file:
        start = file.read(512)
    again = f"Delete it and download it again (CelebA: python {Path(__file__).name})."
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return f"{path} is a web page, not a zip: the download was refused. {again}"
    if start.startswith(b"PK"):
        return f"{path} is cut off after {path.stat().st_size:,} bytes. {again}"
    return f"{path} is not a zip. --data takes a folder of pictures or a .zip of them."


def _pictures(folder, archives, listed):
    """Join [(names, entries)] into Pictures."""
    names = [os.fsencode(name) for names, _ in listed for name in names]
    entries = np.concatenate([entries for _, entries in listed])
    entries["length"] = [len(name) for name in names]
    entries["name"] = np.cumsum(entries["length"]) - entries["length"]
    return Pictures(str(folder), tuple(archives), entries, b"".join(names))


def attend():
    """Begin a worker process: end with the parent, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def read_faces(job):
    """Read (Pictures, size S): what a worker process does, again and again.

    Returns the readable ones' faces, in order, (n, S, S, 3) uint8, and the others as
    [(name, reason)]. Raises UserError when an archive is gone.
    """
    pictures, size = job
    faces, failures = [], []
    for name, read in _open_all(pictures):
        try:
            faces.append(read_face(read(), size))
        except Exception as error:  # broken bytes raise nearly anything in Pillow
            shown = name.encode("utf-8", "backslashreplace").decode()
            failures.append((shown, str(error) or type(error).__name__))
    return np.array(faces, np.uint8).reshape(-1, size, size, 3), failures


def _open_all(pictures):
    """Yield (name, a function that returns the picture's bytes) for each picture."""
    number, archive = -1, None
    for entry in pictures.entries:
        begin, end = int(entry["name"]), int(entry["name"]) + int(entry["length"])
        name = os.fsdecode(pictures.names[begin:end])
        if entry["archive"] < 0:
            yield name, Path(pictures.folder, name).read_bytes
            continue
        if entry["archive"] != number:
            number = int(entry["archive"])
            archive = open(Path(pictures.folder, pictures.archives[number]), "rb")
        yield name, functools.partial(read_member, archive, entry)


def read_member(archive, entry):
    """Read one member's bytes out of an open archive, without its directory.

    Raises Unreadable when the member is encrypted, damaged, or compressed by another
    method than deflate.
    """
    if entry["flag_bits"] & ENCRYPTED:
        raise Unreadable("it is encrypted")
    archive.seek(int(entry["header_offset"]))
    header = archive.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
        raise Unreadable("the archive is damaged there")
    _, name_length, extra_length = LOCAL_HEADER.unpack(header)
    archive.seek(name_length + extra_length, os.SEEK_CUR)
    data = archive.read(int(entry["compress_size"]))
    if entry["compress_type"] == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(
            data, int(entry["file_size"])
        )
    elif entry["compress_type"] != zipfile.ZIP_STORED:
        raise Unreadable(
            f"compression method {entry['compress_type']} is not supported"
        )
    if len(data) != entry["file_size"] or zlib.crc32(data) != entry["CRC"]:
        raise Unreadable("its checksum is wrong")
    return data


def read_face(data, size):
    """Turn a picture file's bytes into a face: (S, S, 3) uint8 RGB.

    Any kind of picture: turned upright as its EXIF says, grey, palette, CMYK and
    16 bits made RGB, transparency laid on white, cropped, resized. Raises whatever
    Pillow raises on broken bytes, and on a picture with more pixels than its limit.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    image = crop_face(_rgb(ImageOps.exif_transpose(image)))
    image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _rgb(image):
    """Turn an image of any mode to RGB."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip to 8
        grey = np.asarray(image, np.float32) / 257
        image = Image.fromarray(np.clip(grey + 0.5, 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def crop_face(image):
    """Crop a PIL image to the square that holds the face, of CelebA's or any size."""
    if image.size == CELEBA_SIZE:
        return image.crop(CELEBA_BOX)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def grid(faces, columns, scale=1):
    """Lay faces (n, S, S, 3) uint8 out in rows of `columns`: a PIL image on white.

    Each face is enlarged to S * scale; between two of them are GAP pixels of white.
    """
    side = int(faces.shape[1] * scale)
    columns = max(1, min(columns, len(faces)))
    rows = max(1, math.ceil(len(faces) / columns))
    step = side + GAP
    sheet = Image.new("RGB", (columns * step - GAP, rows * step - GAP), "white")
    for number, face in enumerate(faces):
        image = Image.fromarray(np.ascontiguousarray(face))
        if scale != 1:
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        row, column = divmod(number, columns)
        sheet.paste(image, (column * step, row * step))
    return sheet


def main():
    """Download CelebA."""
    print(f"CelebA is at {download_celeba()}.")


if __name__ == "__main__":
    run(main)
