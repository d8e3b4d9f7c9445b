"""How fast pictures become an array: python -m benchmarks.preparing

preprocess.py, straight from a zip, against what one core does with Pillow alone and
against a plain loop; then its time and memory as the pictures grow in number. Prints
Markdown.

The pictures are cartoons of CelebA's size with some noise on them, so that their files
are about as large as CelebA's. --data takes pictures of your own, in a .zip.
"""

import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

import cartoons
import helper
import preprocess
from benchmarks import report
from benchmarks.machine import cores, describe_machine, memory_of, versions
from benchmarks.workers import SUITE
from dcgan.common.console import UserError, run
from dcgan.common.options import options, typed

# What to measure
DATA = ""  # a .zip of pictures to read in place of those drawn
IMAGE_SIZE = 64  # [8..1024] pixels of a face
PICTURES = 20_000  # [1..] in the zip of the first table
ROUNDS = 5  # [1..] turns of each in the first table
COUNTS = "2000,20000,200000"  # pictures in the zips of the second table
DISTINCT = 500  # [1..] pictures that are drawn; the zips hold them again and again
OUT = ""  # a file for what is printed

# A drawn picture: quality and noise chosen for files of CelebA's 7 to 12 KB
QUALITY, NOISE = 85, 2.0

# No options from here on

# Seconds between two looks at the memory of a process
PAUSE = 0.02


def main(argv=None):
    """Print both tables."""
    options(sys.modules[__name__], argv)
    counts = _counts()
    page = report.Page(OUT)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        pictures = read_pictures()
        size = statistics.mean(map(len, pictures)) / 1000
        page(f"Machine: {describe_machine()}.  ")
        page(f"Versions: {versions()}.  ")
        page(f"Pictures: {len(pictures):,} different ones, {size:.1f} KB on average.")
        page(f"\n## {PICTURES:,} pictures to {IMAGE_SIZE} x {IMAGE_SIZE}\n")
        compare(page, _zip(folder, pictures, PICTURES), pictures, PICTURES)
        page("\n## More and more pictures, through preprocess.py\n")
        grow(page, folder, pictures, counts)


def compare(page, archive, pictures, count):
    """Let preprocess.py, Pillow alone and the plain loop take turns."""
    ways = {
        f"preprocess.py, {cores()} cores": lambda: prepared(archive)["seconds"],
        "Pillow alone, 1 core": lambda: pillow_alone(pictures, count),
        "plain loop": lambda: plain_loop(archive),
    }
    rates = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            rates[name].append(count / way())
    alone = statistics.median(rates["Pillow alone, 1 core"])
    rows = []
    for name, each in rates.items():
        rate, span = statistics.median(each), f"{min(each):,.0f} to {max(each):,.0f}"
        rows.append((name, f"{rate:,.0f}", span, f"{rate / alone:.2f}"))
    page.table(("way", "pictures/s", "rounds", "of Pillow's rate"), rows)


def grow(page, folder, pictures, counts):
    """Print what preprocess.py takes for each number of pictures."""
    rows = []
    for count in counts:
        archive = _zip(folder, pictures, count)
        took = prepared(archive)
        archive.unlink()
        rate = count / took["seconds"]
        memory = [took[key] for key in ("before", "after", "peak", "worker")]
        megabytes = (f"{each:,.0f}" for each in memory)
        rows.append(
            (f"{count:,}", f"{took['seconds']:.1f}", f"{rate:,.0f}", *megabytes)
        )
    head = ("pictures", "seconds", "pictures/s")
    memory = ("MB before", "MB after", "MB at most", "MB of a worker")
    page.table((*head, *memory), rows)
    page(
        "\nMB are RssAnon of the process that goes on to train, and the RSS at most of"
    )
    page("the largest of its workers, which end when the array is made.")


def prepared(archive):
    """Make the array of an archive in a process of its own.

    Returns {"seconds", and in MB "before", "after", "peak" of that process's own memory
    and "worker", the largest that one of its workers became}.
    """
    code = (
        "import sys; from benchmarks import preparing; "
        "preparing.prepare_and_watch(sys.argv[1], int(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(archive), str(IMAGE_SIZE)]
    asked = subprocess.run(command, cwd=SUITE, capture_output=True, text=True)
    if asked.returncode:
        raise UserError(asked.stderr.strip().splitlines()[-1])
    return json.loads(asked.stdout.splitlines()[-1])


def pillow_alone(pictures, count):
    """Decode, crop and resize pictures from memory on one core; return seconds."""
    begin = time.perf_counter()
    for number in range(count):
        image = Image.open(io.BytesIO(pictures[number % len(pictures)]))
        image = helper.crop_face(image.convert("RGB"))
        image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
    return time.perf_counter() - begin


def plain_loop(path):
    """Read a zip's pictures into one array, as a notebook would; return seconds."""
    begin = time.perf_counter()
    faces = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                image = helper.crop_face(Image.open(file).convert("RGB"))
            image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
            faces.append(np.array(image))
    np.stack(faces)
    return time.perf_counter() - begin


def prepare_and_watch(archive, size):
    """Make the array, watching this process's memory; print prepared()'s answer."""
    from resource import RUSAGE_CHILDREN, getrusage  # which Windows has not

    with tempfile.TemporaryDirectory(dir=Path(archive).parent) as folder:
        before, seen, done = memory_of(), [], threading.Event()

        def watch():
            while not done.wait(PAUSE):
                seen.append(memory_of())

        watching = threading.Thread(target=watch)
        watching.start()
        begin = time.perf_counter()
        preprocess.prepare(archive, size, 0, folder=folder)
        seconds = time.perf_counter() - begin
        done.set()
        watching.join()
    after, worker = memory_of(), getrusage(RUSAGE_CHILDREN).ru_maxrss / 1024
    answer = {"seconds": seconds, "before": before, "after": after, "worker": worker}
    print(json.dumps({**answer, "peak": max(before, after, *seen)}))


def _counts():
    try:
        counts = [int(word) for word in COUNTS.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UserError(
            f"{typed(counts=COUNTS)}: numbers with commas between, as 2000,20000."
        )
    return counts


def read_pictures():
    """Return the files of the pictures, as a list of bytes."""
    if not DATA:
        return [draw_picture(number) for number in range(DISTINCT)]
    try:
        with zipfile.ZipFile(DATA) as archive:
            names = [name for name in archive.namelist() if name.endswith(".jpg")]
            return [archive.read(name) for name in names[:DISTINCT]]
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{typed(data=DATA)}: it is no .zip that can be read."
        ) from error


def draw_picture(number):
    """Draw a cartoon as a JPEG of CelebA's size, 178 x 218; return its bytes."""
    width, height = helper.CELEBA_SIZE
    face = Image.fromarray(cartoons.cartoon_faces((0, number, 1, height // 2))[0])
    face = face.resize((height, height), Image.Resampling.BICUBIC)
    left = (height - width) // 2
    pixels = np.asarray(face.crop((left, 0, left + width, height)), "float32")
    random = np.random.default_rng(number)
    pixels = pixels + random.normal(0, NOISE, (height, width, 1))
    stream = io.BytesIO()
    image = Image.fromarray(pixels.clip(0, 255).astype("uint8"))
    image.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def _zip(folder, pictures, count):
    """Write a zip of `count` pictures, stored as CelebA's are; return its path."""
    path = Path(folder, f"pictures-{count}.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            name = f"img_align_celeba/{number + 1:06d}.jpg"
            archive.writestr(name, pictures[number % len(pictures)])
    return path


if __name__ == "__main__":
    run(main)
