"""Get CelebA: download it, find the pictures, open and crop them.

`python helper.py` puts the archive (1.4 GB) where `python train.py` looks for it.
"""

# Worker processes import this file: without numpy they start twice as fast.
import contextlib
import errno
import functools
import io
import math
import os
import signal
import stat
import struct
import sys
import threading
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path

from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from script import DAMAGE, UserError, options, run

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
AUTHORS_URL = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
KAGGLE_URL = "https://www.kaggle.com/datasets/jessicali9530/celeba-dataset"
TERMS = "CelebA is for non-commercial research only; do not pass its pictures on."

# What is a picture: the name's ending when looking for it, the bytes when opening it
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# Where Pillow keeps what tells that a picture was taken with the camera turned
TURNS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}

# The face in a picture of CelebA's size: left, top, right, bottom
CELEBA_SIZE = (178, 218)
CELEBA_BOX = (35, 55, 143, 163)
CROP = "centre 108 x 108 of 178 x 218, else the largest centre square"
FILTER = "bilinear"

# Pixels of white between two faces of a grid
GAP = 2

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


def download_celeba():
    """Put CelebA's archive on the disk unless it is there; return its Path.

    Raises UserError when no source delivers it, saying how to get it by hand.
    """
    # Here, not above, for the workers have no use for the network's modules
    from download import Source, fetch

    by_hand = (
        f"By hand: save img_align_celeba.zip from {AUTHORS_URL} as {ARCHIVE}. Or take "
        f"Kaggle's copy, {KAGGLE_URL}; it is packed differently, so use it with "
        "python train.py --data archive.zip"
    )
    print(TERMS, flush=True)
    sources = [
        Source("the course's copy", COURSE_URL),
        Source("Google Drive", DRIVE_URL),
    ]
    return fetch(Path(ARCHIVE), sources, ARCHIVE_BYTES, ARCHIVE_MD5, by_hand)


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


def attend():
    """Begin a worker process: leave Ctrl-C to the parent, and end when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow():
        parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def ready():
    """Do nothing: a worker's first job, for which it must be there."""


def fill(path, offset, work, job):
    """Write the faces that work(job) gives into a file at `offset`.

    Returns (offset, number of bytes, failures). Pixels do not go through a pipe to the
    parent: it would wait forever for the rest if a worker were killed in between.
    """
    pixels, failures = work(job)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(pixels)
    return offset, len(pixels), failures


def drawn(draw, job):
    """Give the faces draw(job), (n, S, S, 3) uint8, in the form of read_faces."""
    return draw(job).tobytes(), []


def read_faces(job):
    """Read (Pictures, size S): what a worker process does, again and again.

    Returns the pixels of the readable ones' faces, in order, as the bytes of an
    (n, S, S, 3) uint8 array, and the others as [(name, reason)]. Raises UserError when
    an archive is gone, or when the system refuses to read: that is no fault of the
    picture's, and it would be left out for good.
    """
    pictures, size = job
    faces, failures = [], []
    with warnings.catch_warnings():
        # What Pillow takes for a bomb is refused at once, not only at twice the size;
        # what else it remarks on, such as a broken note, would fill the screen
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for begin, end, *place in ROW.iter_unpack(pictures.rows):
            name = pictures.names[begin:end]
            try:
                data = _read(pictures, name, *place)
                faces.append(read_face(data, size).tobytes())
            except Exception as error:  # broken bytes raise nearly anything in Pillow
                shown = name.decode("utf-8", "backslashreplace")
                failures.append((shown, str(error) or type(error).__name__))
    return b"".join(faces), failures


def _read(pictures, name, number, *member):
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


def read_face(data, size):
    """Turn a picture file's bytes into a face: an RGB image of size x size.

    Any kind of picture: turned upright as its camera noted, grey, palette, CMYK and
    16 bits made RGB, transparency laid on white, cropped, resized. Raises Unreadable
    when it is no picture, and whatever Pillow raises when it is a broken one.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise Unreadable(f"it is no {', '.join(FORMATS)}") from None
    image.load()
    if TURNS & image.info.keys():
        # Viewers show a picture with a broken note as it is, and so do we
        with contextlib.suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
    image = crop_face(_to_rgb(image))
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _to_rgb(image):
    """Turn an image of any mode to RGB."""
    if image.mode.startswith("I"):  # 16 bits of grey, of which convert() keeps too few
        image = _to_8_bits(image.convert("I"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(deep):
    """Turn 16 bits of grey to 8, and the one grey that is transparent to alpha."""
    image = deep.point(lambda grey: grey * (1 / 257) + 0.5).convert("L")
    hole = image.info.pop("transparency", None)
    if hole is not None:
        # convert() cuts off below 0 and above 255: together 0 at the hole alone
        above = deep.point(lambda grey: grey * 1 + -hole).convert("L")
        below = deep.point(lambda grey: grey * -1 + hole).convert("L")
        alpha = ImageChops.add(above, below).point(lambda step: 255 if step else 0)
        image.putalpha(alpha)
    return image


def crop_face(image):
    """Crop a PIL image to the square that holds the face, in CelebA's or any size."""
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
        image = Image.fromarray(face)
        if scale != 1:
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        row, column = divmod(number, columns)
        sheet.paste(image, (column * step, row * step))
    return sheet


def main():
    """Download CelebA."""
    options(sys.modules[__name__])
    print(f"CelebA is in {download_celeba()}. Next: python train.py")


if __name__ == "__main__":
    run(main)
