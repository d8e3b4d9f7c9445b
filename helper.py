"""Get CelebA, and crop its faces.

`python helper.py` puts the archive (1.4 GB) where `python train.py` looks for it.
"""

# Worker processes import this file: without numpy they start twice as fast.
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from dcgan.common.console import run
from dcgan.common.options import options, typed

# Where to put it
DATA_FOLDER = "data"  # the folder of downloads, and of what is made of pictures

# No options from here on

# The archive, aligned and cropped: 202,599 pictures of 178 x 218
ARCHIVE = "img_align_celeba.zip"

ARCHIVE_BYTES = 1_443_490_838

ARCHIVE_MD5 = "00d2c5bc6d35e252742224ab0c1e8fcb"

# Where it is to be had: the course's copy first, then the one of CelebA's authors
COURSE_URL = "https://s3-us-west-1.amazonaws.com/udacity-dlnfd/datasets/celeba.zip"

DRIVE_URL = (
    "https://drive.usercontent.google.com/download"
    "?id=0B7EVK8r0v71pZjFTYXZWM3FlRnM&export=download&confirm=t"
    "&resourcekey=0-dYn9z10tMJOBAkviAcfdyQ"
)

# What each picture shows, by 40 attributes; the size as torchvision's download tells it
ATTRIBUTES = "list_attr_celeba.txt"

ATTRIBUTES_BYTES = 26_721_026

ATTRIBUTES_MD5 = "75e246fa4810816ffd6ee81facbd244c"

ATTRIBUTES_URL = (
    "https://drive.usercontent.google.com/download"
    "?id=0B7EVK8r0v71pblRyaVFSWGxPY0U&export=download&confirm=t"
)

AUTHORS_URL = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"

KAGGLE_URL = "https://www.kaggle.com/datasets/jessicali9530/celeba-dataset"

# The face in a picture of its size, pixels: left, top, right, bottom
CELEBA_SIZE = (178, 218)

CELEBA_BOX = (35, 55, 143, 163)

TERMS = "CelebA is for non-commercial research only; do not pass its pictures on."


def download_celeba(folder):
    """Put CelebA's archive into a folder unless it is there; return its Path.

    Raises UserError when no source delivers it, saying how to get it by hand.
    """
    # Here, not above, for the workers have no use for the network's modules
    from dcgan.common.download import Source, fetch

    path = Path(folder, ARCHIVE)
    by_hand = (
        f"By hand: save {ARCHIVE} from {AUTHORS_URL} as {path}. Or take "
        f"Kaggle's copy, {KAGGLE_URL}; it is packed differently, so use it with "
        "python train.py --data archive.zip"
    )
    print(TERMS, flush=True)
    sources = [
        Source("the course's copy", COURSE_URL),
        Source("Google Drive", DRIVE_URL),
    ]
    return fetch(path, sources, ARCHIVE_BYTES, ARCHIVE_MD5, by_hand)


def download_attributes(folder):
    """Put CelebA's attributes into a folder unless they are there; return the Path.

    Raises UserError when it is not delivered, saying how to get it by hand.
    """
    from dcgan.common.download import Source, fetch

    path = Path(folder, ATTRIBUTES)
    by_hand = (
        f"By hand: save {ATTRIBUTES} from {AUTHORS_URL} as {path}. Or put Kaggle's, "
        f"list_attr_celeba.csv of {KAGGLE_URL}, in {folder}. Then the same command."
    )
    sources = [Source("Google Drive", ATTRIBUTES_URL)]
    return fetch(path, sources, ATTRIBUTES_BYTES, ATTRIBUTES_MD5, by_hand)


def crop_face(image):
    """Crop a PIL image to the square that holds the face, in CelebA's or any size."""
    if image.size == CELEBA_SIZE:
        return image.crop(CELEBA_BOX)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def pad_face(image):
    """Lay a PIL image on a black square as wide as its longer side.

    Raises ValueError where that has more pixels than Pillow takes from a file.
    """
    side = max(image.size)
    if side**2 > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"it is too long to be padded: {side:,} pixels")
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def squeeze_face(image):
    """Return a PIL image as it is: resized to a square it is squeezed."""
    return image


class Fit(NamedTuple):
    """What becomes of pictures that are not square; `told` is what an array says."""

    crop: Callable
    told: str


FITS = {
    "crop": Fit(
        crop_face, "centre 108 x 108 of 178 x 218, else the largest centre square"
    ),
    "pad": Fit(pad_face, "all of it, padded with black to a square"),
    "squeeze": Fit(squeeze_face, "all of it, squeezed to a square"),
}


def main():
    """Download CelebA."""
    options(sys.modules[__name__])
    path = download_celeba(DATA_FOLDER)
    place = "" if DATA_FOLDER == "data" else f" {typed(data_folder=DATA_FOLDER)}"
    print(f"CelebA is in {path}. Next: python train.py{place}")


if __name__ == "__main__":
    run(main)
