"""Pictures and archives with anything wrong in them, among good ones."""

import io
import os
import random
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

import helper
from cartoons import cartoon_faces
from dcgan.common.console import UserError
from dcgan.pictures import sources, workers
from dcgan.pictures.faces import read_face
from tests.faults.trials import Campaign

SIZE, GOOD = 28, 3
LONGEST = 20  # seconds that a trial may take
MOST = 600e6  # bytes of memory that a hostile picture may add

# Folder or .zip of real JPEGs to damage; "": cartoons
REAL = ""


def archive(tally, number, folder):
    """Read a .zip of good pictures and hostile members; the good ones come out right.

    Among them members that climb out of the folder, claim gigabytes or nothing, are
    encrypted, there twice, elsewhere than said, oddly packed, unpack to 400 MB; and
    whatever a loose file may be. Three in ten archives are cut or have bytes flipped.
    """
    chance = random.Random(number)
    good = {f"good-{n}.png": png(pixels(chance)) for n in range(GOOD)}
    path = folder / "faces.zip"
    with zipfile.ZipFile(path, "w", chance.choice((0, 8))) as zipped:
        for name, data in good.items():
            zipped.writestr(name, data)
        for place in range(chance.randint(1, 4)):
            chance.choice(MEMBERS)(zipped, chance, place)
            tally.faults += 1
    if chance.random() < 0.3:
        damage(path, chance)
        good, tally.faults = {}, tally.faults + 1
    check(tally, number, path, good)
    strays = {item.name for item in folder.iterdir()} - {"faces.zip"}
    outside = {item.name for item in folder.parent.glob("climbed*")}
    tally.expect(not strays | outside, f"trial {number}: wrote {strays | outside}")


def loose(tally, number, folder):
    """Read a folder of good pictures and hostile files.

    Bombs, 1 x 1, 20,000 x 10, 16 bits, CMYK, animated, cut off, empty, no pictures;
    wrong endings; names in any script or none; links to nowhere, to themselves and to
    devices; folders and pipes that are called like pictures.
    """
    chance = random.Random(number)
    home = folder / "faces"
    home.mkdir()
    good = {f"good-{n}.png": png(pixels(chance)) for n in range(GOOD)}
    for name, data in good.items():
        (home / name).write_bytes(data)
    for place in range(chance.randint(1, 4)):
        chance.choice(FILES)(home, chance, place)
        tally.faults += 1
    check(tally, number, home, good)


def flipped(tally, number, folder):
    """Flip up to 20 bytes of a photograph's JPEG, or cut it: it is read or refused."""
    chance = random.Random(number)
    data = bytearray(real(number) if REAL else jpeg(cartoon(number)))
    for _ in range(chance.randint(1, 20)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.3:
        del data[chance.randrange(1, len(data)) :]
    (folder / "one.jpg").write_bytes(data)
    tally.faults += 1
    check(tally, number, folder, {})


def check(tally, number, source, good):
    """List and read a source; every good picture must come out as it is alone."""
    began, before = time.monotonic(), memory()
    try:
        pictures = sources.list_pictures(source)
        read, failures = workers.read_faces(pictures, SIZE, helper.crop_face)
    except UserError as error:
        tally.expect(not good, f"trial {number}: refused the good ones too: {error}")
        return
    except Exception as error:
        tally.mistake(f"trial {number}: {error!r}")
        return
    faces = np.frombuffer(read, np.uint8).reshape(-1, SIZE, SIZE, 3)
    counted = len(faces) + len(failures) == len(pictures)
    tally.expect(counted, f"trial {number}: not all pictures are counted")
    found = {face.tobytes() for face in faces}
    for name, data in good.items():
        alone = read_face(data, SIZE, helper.crop_face).tobytes()
        if alone not in found:
            tally.lose(f"trial {number}: {name}")
    seconds, grown = time.monotonic() - began, memory() - before
    tally.expect(seconds < LONGEST, f"trial {number}: {seconds:.0f} s")
    tally.expect(grown < MOST, f"trial {number}: {grown / 1e6:.0f} MB of memory")


def memory():
    """Return the most bytes of memory that this process ever had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def pixels(chance):
    return np.random.default_rng(chance.getrandbits(32)).integers(
        0, 256, (40, 40, 3), np.uint8
    )


def cartoon(number):
    return cartoon_faces((number, 0, 1, 128))[0]


def real(number):
    pictures = sources.list_pictures(Path(REAL))
    return sources.read_picture(pictures[number % len(pictures)])


def encoded(array, form, **more):
    stream = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(stream, form, **more)
    return stream.getvalue()


def png(array):
    return encoded(array, "PNG")


def jpeg(array):
    return encoded(array, "JPEG", quality=90)


def bomb():
    """Return a PNG of 40,000 x 40,000 white pixels, in some hundred bytes' header."""
    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(10**6))), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data
        + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def texts():
    """Return a PNG whose texts unpack to 200 MB."""
    notes = PngImagePlugin.PngInfo()
    for number in range(3):
        notes.add_text(f"n{number}", " " * 70_000_000, zip=True)
    return encoded(np.zeros((30, 30, 3), np.uint8), "PNG", pnginfo=notes)


def moving(form):
    frames = [Image.new("RGB", (30, 30), (n * 30, 0, 0)) for n in range(5)]
    stream = io.BytesIO()
    frames[0].save(stream, form, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def odd(chance):
    """Return the bytes of a picture that is seldom seen, or of none at all."""
    makers = (
        lambda: jpeg(Image.new("CMYK", (50, 60), (9, 200, 30, 4))),
        lambda: png(np.full((50, 50), 40_000, np.uint16)),
        lambda: png(np.zeros((1, 1, 3), np.uint8)),
        lambda: png(np.zeros((10, 20_000, 3), np.uint8)),
        lambda: png(np.zeros((20_000, 10), np.uint8)),
        lambda: encoded(pixels(chance)[:30, :30], "GIF"),
        lambda: encoded(pixels(chance), "TIFF"),
        lambda: moving("GIF"),
        lambda: moving("PNG"),
        lambda: moving("WEBP"),
        lambda: png(pixels(chance))[: chance.randint(0, 1000)],
        lambda: jpeg(pixels(chance))[: chance.randint(0, 1000)],
        lambda: chance.randbytes(chance.randint(0, 5000)),
        lambda: b"",
        bomb,
    )
    return texts() if chance.random() < 0.01 else chance.choice(makers)()


def name_of(chance, place):
    """Draw a name in any script, or none that a system would like."""
    return chance.choice(
        (
            *(f"{place}.png", f"{place}.JPG", f"лицо-{place}.png", f"顔{place}.jpg"),
            *(f"e\u0301{place}.png", f"\u00e9{place}.png", f"{'n' * 240}{place}.png"),
            *(f" {place} .png", f"a\\b{place}.png", f"-rf{place}.png"),
            f"new\nline{place}.png",
        )
    )


def _plain(zipped, chance, place):
    zipped.writestr(name_of(chance, place), odd(chance))


def _climbing(zipped, chance, place):
    where = chance.choice(("../", "../../", "/tmp/", "C:\\", "a/../../"))
    zipped.writestr(f"{where}climbed{place}.png", png(pixels(chance)))


def _twice(zipped, chance, place):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            zipped.writestr(f"twice{place}.png", png(pixels(chance)))


def _encrypted(zipped, chance, place):
    zipped.writestr(f"secret{place}.png", png(pixels(chance)))
    zipped.filelist[-1].flag_bits |= 1


def _claiming(zipped, chance, place):
    """A member that claims gigabytes, or less than it has."""
    zipped.writestr(f"claim{place}.png", png(pixels(chance)))
    most = (2**33, 2**32 - 2, 2**40, 0, 10)
    entry = zipped.filelist[-1]
    if chance.random() < 0.5:
        entry.file_size = chance.choice(most)
    else:
        entry.compress_size = chance.choice(most)


def _elsewhere(zipped, chance, place):
    zipped.writestr(f"elsewhere{place}.png", png(pixels(chance)))
    zipped.filelist[-1].header_offset = chance.choice((0, 7, 10**6, 2**40))


def _packed(zipped, chance, place):
    kind = chance.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    zipped.writestr(f"packed{place}.png", png(pixels(chance)), kind)


def _unpacking(zipped, chance, place):
    """A member of zeros that unpacks to far more than a picture."""
    if chance.random() < 0.95:
        return
    entry = zipfile.ZipInfo(f"zeros{place}.png")
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipped.open(entry, "w", force_zip64=True) as member:
        for _ in range(400):
            member.write(bytes(2**20))


MEMBERS = (
    *(_plain, _plain, _plain, _climbing, _twice, _encrypted),
    *(_claiming, _elsewhere, _packed, _unpacking),
)


def _file(home, chance, place):
    name = name_of(chance, place)
    (home / name.replace("/", "-")).write_bytes(odd(chance))


def _no_unicode(home, chance, place):
    name = os.fsdecode(b"\xff\xfe%d.png" % place)
    (home / name).write_bytes(odd(chance))


def _link(home, chance, place):
    to = chance.choice(
        ("/etc/passwd", f"link{place}.png", "gone.png", "/dev/zero", "..")
    )
    (home / f"link{place}.png").symlink_to(to)


def _folder(home, chance, place):
    (home / f"folder{place}.png").mkdir()
    (home / f"folder{place}.png" / "in.png").write_bytes(odd(chance))


def _pipe(home, chance, place):
    os.mkfifo(home / f"pipe{place}.png")


FILES = (_file, _file, _file, _no_unicode, _link, _folder, _pipe)


def damage(path, chance):
    """Flip bytes of a file, cut it, or put something before or behind it."""
    data = bytearray(path.read_bytes())
    kind = chance.randrange(4)
    if kind == 0:
        for _ in range(chance.randint(1, 30)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif kind == 1:
        del data[chance.randrange(len(data)) :]
    elif kind == 2:
        data = chance.randbytes(chance.randint(1, 500)) + data
    else:
        data += chance.randbytes(chance.randint(1, 500))
    path.write_bytes(data)


CAMPAIGNS = [
    Campaign("pictures: archives", archive, long=1000, short=30),
    Campaign("pictures: loose files", loose, long=500, short=20),
    Campaign("pictures: bytes of JPEGs flipped", flipped, long=1000, short=50),
]
