"""Turn pictures into one array of faces on the disk.

`python preprocess.py` makes data/celeba-64.npy, which `python train.py` would make
otherwise.
"""

import functools
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import cartoons
import helper
from dcgan.common.console import Bar, UserError, run
from dcgan.common.files import locked, sha256, write_whole
from dcgan.common.options import options, typed
from dcgan.pictures import array, faces, numpy_files, sources, workers

# Which pictures, and how large
DATA = "celeba"  # "celeba", "cartoons", a folder, a .zip, a .npy, or a .npz
IMAGE_SIZE = 64  # [8..1024] pixels both ways; train.py tells what networks draw
IMAGES = 0  # [0..] the first so many pictures; 0: all
FIT = "crop"  # {crop, pad, squeeze} what becomes of pictures that are not square
CHANNELS = 3  # {1, 3} 1: grey

# Where the arrays lie, and CelebA
DATA_FOLDER = "data"  # made if it is not there

# How to read them
WORKERS = 0  # [0..] processes that read pictures; 0: one per core

# No options from here on

# Where else CelebA may lie, unpacked say, and is not to be fetched once more
UNPACKED = ("img_align_celeba.zip", "img_align_celeba", "celeba.zip", "celeba")

# How many cartoons are all cartoons, and which
CARTOONS = 10_000
CARTOON_SEED = 0

# Pictures in a worker's job
JOB = 64

# To be raised when the same source would give other pixels
VERSION = 1


class Prepared(NamedTuple):
    """An array of faces on the disk.

    path: of the .npy file, (at least count, S, S, 1 or 3) uint8
    name: of the pictures, as in "celeba"
    count: how many of the faces are meant, from the first on
    facts: dict, what the .json beside it says
    """

    path: Path
    name: str
    count: int
    facts: dict


def prepare(  # noqa: PLR0913
    data, image_size, images, fit="crop", channels=3, folder="data"
):
    """Make the array of the first `images` faces (0: all), unless it is in `folder`.

    data: "celeba" (downloaded if need be), "cartoons", a folder of pictures or .zips, a
    .zip, a .npy or .npz. fit: a row of helper.FITS; channels: 3, or 1 for grey. Prints
    what it does. Where the pictures have changed, the array of the old ones is kept as
    NAME-SIZE.before.npy, or .before-2.npy and so on. Returns Prepared. Raises UserError
    when there are no pictures, or no room for the array.
    """
    path = path_of(data, image_size, fit, channels, folder)
    images = images or (CARTOONS if data == "cartoons" else 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
        raise UserError(
            f"Cannot make the folder {path.parent}: {reason}. "
            "Another: --data-folder FOLDER"
        ) from error
    waiting = f"Another run prepares pictures in {path.parent}: waiting."
    with locked(path.parent / ".lock", waiting):
        source = _source(data, path.parent)
        facts, wanted = array.read_facts(path), _wanted(data, image_size, fit, channels)
        reason = _mismatch(path, facts, data, source, wanted, images)
        if reason:
            keep = reason == array.CHANGED["fingerprint"] and data != "cartoons"
            if path.exists():
                print(f"Making {path} again: {reason}.", flush=True)
            crop = helper.FITS[fit].crop
            facts = _make(path, source, crop, wanted, images, facts if keep else {})
        else:
            _report_use(path, facts)
    count = min(images or facts["count"], facts["count"])
    return Prepared(path, name_of(data), count, facts)


def path_of(data, image_size, fit="crop", channels=3, folder="data"):
    """Return where the array of a source lies, as in data/celeba-64.npy."""
    fitted = "" if fit == "crop" or data == "cartoons" else f"-{fit}"
    grey = "-grey" if channels == 1 else ""
    return Path(folder, f"{name_of(data)}-{image_size}{fitted}{grey}.npy")


def name_of(data):
    """Name the array of a source: celeba, cartoons, or after the folder or file.

    Of a long name so much is used as leaves room, in 255 bytes, for what stands around.
    """
    if data in ("celeba", "cartoons"):
        return data
    path = Path(os.path.abspath(data))  # noqa: PTH100 (resolve() would follow links)
    is_file = path.suffix.lower() in (".zip", *numpy_files.ENDINGS)
    stem = path.stem if is_file else path.name
    name = re.sub(r"[^\w.]+", "-", stem).strip("-.") or "pictures"
    name = name.encode()[:200].decode(errors="ignore")
    return f"own-{name}" if name.lower() in ("celeba", "cartoons") else name


def open_faces(prepared):
    """Open a Prepared array: (count, S, S, 1 or 3) uint8, read as needed."""
    return np.load(prepared.path, mmap_mode="r")[: prepared.count]


def prepare_again(path, facts, data, folder, script):
    """Prepare the faces that a generator was trained on, or of `data` if that is given.

    path: of its run; facts: what is told of it; script: as in "evaluate.py", to be
    called with --data. Returns Prepared, and the data as prepare() takes it. Raises
    UserError as prepare() does, and where the pictures are not to be found.
    """
    trained_on, size = facts["data"], facts["image_size"]
    kind = facts.get("constants", {}).get("FIT", "crop"), facts.get("channels", 3)
    source = data or trained_on.get("source")
    if not (data or (source and _is_there(source, size, kind, folder))):
        what = repr(source) if source else "pictures that are not named"
        raise UserError(
            f"{path} was trained on {what}, not to be found here. Say where they are, "
            "or which others to take (celeba is fetched): "
            f"python {script} {typed(run=path)} --data FOLDER"
        )
    count = 0 if data else trained_on["count"]
    return prepare(source, size, count, *kind, folder), source


def _is_there(data, size, kind, folder):
    """Tell whether pictures, or the array made of them, can be had without asking."""
    array = path_of(data, size, *kind, folder)
    return data in ("celeba", "cartoons") or Path(data).exists() or array.exists()


def pictures_of(prepared, data):
    """Return where the pictures of a Prepared array lie, a Path, and their names.

    The names, a list, are in the faces' order. data: as prepare() was given it. Raises
    UserError for an array of no files, and when the pictures are gone or others now.
    """
    source = _source(data, prepared.path.parent)
    if data == "cartoons" or source.suffix.lower() in numpy_files.ENDINGS:
        raise UserError(f"The pictures of {data} have no names. A folder or .zip has.")
    if not source.exists():
        raise UserError(
            f"{source} is gone, and what a picture shows goes by its name. Put it "
            "back, or take others: --data FOLDER"
        )
    is_same = sources.fingerprint(source) == prepared.facts["fingerprint"]
    found = sources.list_pictures(source)
    if is_same and prepared.facts["skipped"]:
        print("Looking which pictures could not be read.", flush=True)
        size = prepared.facts["image_size"]
        crop = helper.FITS[_fit_of(prepared.facts)].crop
        found = [it for it in found if not workers.read_faces([it], size, crop)[1]]
    names = [picture.name for picture in found[: prepared.count]]
    if not is_same or len(names) < prepared.count:
        raise UserError(f"The pictures of {data} are others than {prepared.path} has.")
    return source, names


def _fit_of(facts):
    """Return the FIT of an array, by what its facts say of the crop."""
    return next(name for name, fit in helper.FITS.items() if fit.told == facts["crop"])


def checksum_of(prepared):
    """Return the SHA-256 of the pixels of a Prepared array's faces, as digits."""
    if prepared.count == prepared.facts["count"]:
        return prepared.facts["checksum"]
    return array.checksum_of_first(prepared.path, prepared.count)


def check_enough(count, batch_size, data, d_steps=1):
    """Raise UserError when `count` pictures do not fill the batches of an iteration."""
    if count < batch_size * d_steps:
        batches = f"{d_steps} batches" if d_steps > 1 else "a batch"
        fewer = count // d_steps
        or_fewer = f", or {typed(batch_size=fewer)}" if fewer > 1 else ""
        raise UserError(
            f"{data} gives {count} pictures, too few for {batches} of {batch_size}. "
            f"Take more pictures{or_fewer}."
        )


def _wanted(data, image_size, fit, channels):
    """Say what the .json of the right array holds, but for the source's fingerprint."""
    return {
        "version": VERSION,
        "source": str(data),
        "image_size": image_size,
        "channels": channels,
        "crop": "none" if data == "cartoons" else helper.FITS[fit].told,
        "filter": "none" if data == "cartoons" else faces.FILTER,
    }


def _mismatch(path, facts, data, source, wanted, images):  # noqa: PLR0913
    """Say why the array is to be made, or return "".

    Adds the source's fingerprint to `wanted`, and downloads CelebA, unless the source
    is gone and the array made from it is whole.
    """
    reason = array.mismatch(facts, wanted, images)
    if data == "cartoons":
        wanted["fingerprint"] = f"{CARTOON_SEED}-{sha256(cartoons.__file__)}"
        return array.mismatch(facts, wanted, images)
    # Path.exists() fails at long names
    if not os.path.exists(source):  # noqa: PTH110
        if not reason and facts["source"] == str(data):
            print(f"{source} is gone, but not what was made from it.", flush=True)
            return ""
        if data == "celeba":
            helper.download_celeba(path.parent)
        elif not facts and path.exists():
            raise UserError(
                f"{data} does not exist, and {path} is unfinished or damaged. "
                "Put the pictures back: it will be made again."
            )
    wanted["fingerprint"] = sources.fingerprint(source)
    return array.mismatch(facts, wanted, images)


def _source(data, folder):
    """Return the Path of the pictures, or "cartoons".

    CelebA's are taken from where somebody has put or unpacked them, and it is said.
    """
    if data == "cartoons":
        return data
    if not str(data):
        raise UserError("DATA is empty. Say where the pictures are: --data FOLDER")
    if data != "celeba":
        return Path(data)
    archive = Path(folder, helper.ARCHIVE)
    places = [Path(at, name) for at in (folder, "") for name in UNPACKED]
    for place in [] if archive.exists() else places:
        if place.is_file() or (place.is_dir() and any(sources.source_files(place))):
            print(f"Taking CelebA from {place}, which is there.", flush=True)
            return place
    return archive


def _told_of_keeping(source, path):
    kept = array.kept_as(path)
    return (
        f"The old array is kept as {kept}, its .json beside it. To go on with "
        f"a run that began with it, rename {source}, and these two to "
        f"{path.name} and {path.with_suffix('.json').name}."
    )


def _report_use(path, facts):
    skipped = f", without {facts['skipped']:,} that could not be read"
    print(
        f"Using {path}: {facts['count']:,} pictures, made earlier"
        f"{skipped if facts['skipped'] else ''}.",
        flush=True,
    )


def _make(path, source, crop, wanted, images, old):  # noqa: PLR0913
    """Make the array and its .json; return what the .json says.

    old: what the .json says of the array that is there, if that is to be kept where it
    holds other pixels, or {}
    """
    size = wanted["image_size"]
    shape = (size, size, wanted["channels"])
    begin = time.perf_counter()
    try:
        with write_whole(path) as part:
            facts = wanted | _fill(part, path, source, crop, shape, images)
            if old and old["checksum"] != facts["checksum"]:
                print(_told_of_keeping(source, path), flush=True)
                array.keep(path, old)
            # From here until the new one is written, a kill leaves an array without a
            # .json, which is made again
            path.with_suffix(".json").unlink(missing_ok=True)
    except workers.KilledError as error:
        usual = {
            "fit": (_fit_of(wanted), "crop"),
            "channels": (wanted["channels"], 3),
            "images": (images, 0),
            "data_folder": (path.parent, Path("data")),
        }
        more = {name: it for name, (it, default) in usual.items() if it != default}
        given = typed(workers=1, data=wanted["source"], image_size=size, **more)
        raise UserError(
            "A process that reads pictures was killed, for lack of memory most likely, "
            f"at {error}. Use fewer: python preprocess.py {given}"
        ) from None
    array.write_facts(path, facts)
    seconds = time.perf_counter() - begin
    print(f"Made {path}: {facts['count']:,} pictures in {seconds:.0f} s.", flush=True)
    return facts


def _fill(part, path, source, crop, shape, images):  # noqa: PLR0913
    """Write all faces to the file `part`; return what the .json says of them."""
    part.write_bytes(array.header(0, shape))
    with workers.Workers(WORKERS) as readers:
        pictures = _pictures(source, images)
        total = min(images or len(pictures), len(pictures))
        array.check_room(path, total, shape)
        with Bar(total=total, unit=" pictures", desc=path.name) as bar:
            filled = readers.in_order(_jobs(part, source, crop, pictures, shape))
            facts = array.join(part, filled, shape, images, bar)
    # There may be no more pictures than were wanted; of cartoons there always are
    every = source != "cartoons" and facts["count"] + facts["skipped"] == len(pictures)
    return {**facts, "limit": 0} if every else facts


def _pictures(source, images):
    """Return what the jobs are cut from: Pictures, an array of them, or numbers."""
    if source == "cartoons":
        return range(images)
    if source.suffix.lower() in numpy_files.ENDINGS and source.is_file():
        return numpy_files.open_pictures(source)
    passed_over = sources.PassedOver()
    pictures = sources.list_pictures(source, passed_over)
    if passed_over:
        print(passed_over, flush=True)
    return pictures


def _jobs(part, source, crop, pictures, shape):
    """Yield the workers' jobs: each fills its own place of the file `part`."""
    begin, face = len(array.header(0, shape)), math.prod(shape)
    size, _, channels = shape
    for at in range(0, len(pictures), JOB):
        some = pictures[at : at + JOB]
        first, last = f"picture {at + 1:,}", f"{at + len(some):,}"
        if source == "cartoons":
            job = (CARTOON_SEED, at, len(some), size)
            how = (cartoons.cartoon_faces, job, channels)
            work = functools.partial(workers.drawn, *how)
        elif isinstance(some, np.ndarray):
            how = (np.array(some), size, crop, channels)
            work = functools.partial(workers.faces_of, *how)
        else:
            work = functools.partial(workers.read_faces, some, size, crop, channels)
            first, last = some[0].shown(), some[-1].shown()
        fill = functools.partial(workers.fill, part, begin + at * face, work)
        yield workers.Job(fill, first, last)


def main():
    """Make the array that the constants ask for."""
    options(sys.modules[__name__])
    prepared = prepare(DATA, IMAGE_SIZE, IMAGES, FIT, CHANNELS, DATA_FOLDER)
    shape = open_faces(prepared).shape
    print(f"Its first {prepared.count:,} are meant: {shape}, uint8.")


if __name__ == "__main__":
    run(main)
