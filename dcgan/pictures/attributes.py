"""A table of what pictures show, as CelebA's authors or Kaggle write it."""

import itertools
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from dcgan.common.console import UserError
from dcgan.pictures.faces import ending_of, endings

NAMES = ("list_attr_celeba.txt", "list_attr_celeba.csv")

VALUES = {"1": True, "0": False, "-1": False}


class Table(NamedTuple):
    """Attributes of pictures.

    names: (k,) list of str, of the attributes
    rows: {picture: its row}, pictures by their names without folders and endings
    values: (n, k) bool
    """

    names: list
    rows: dict
    values: np.ndarray


def find(source, *folders):
    """Return the table that lies in or beside the source, or in a folder, or None.

    source: the Path of a folder or a .zip of pictures. Returns a Path or zipfile.Path.
    """
    places = [source, source.parent, *map(Path, folders)]
    if source.is_file():
        places.insert(0, zipfile.Path(source))
    there = [place / name for place in places for name in NAMES]
    return next((path for path in there if path.is_file()), None)


def read(path):
    """Read a Table: CelebA's, or one with commas and a first line of names.

    CelebA's begins with how many pictures there are, then the attributes' names, then
    "000001.jpg -1 1 ..."; the other with a name for the pictures' column, then those of
    the attributes. 1 is yes, -1 or 0 no. Raises UserError for anything else, and for a
    picture that is there twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    lines = [line for line in lines if line.strip()]
    is_celebas = len(lines) > 1 and lines[0].strip().isdecimal()
    comma = None if is_celebas else ","
    head, begin = (1, 2) if is_celebas else (0, 1)
    names = lines[head].split(comma)[not is_celebas :] if lines else []
    names = [name.strip() for name in names]
    if not all(names) or not names:
        raise UserError(
            f"{path} is no table of attributes: a first line picture,glasses,beard and "
            "lines as face-1.png,1,0"
        )
    rows, values = {}, np.empty((len(lines) - begin, len(names)), bool)
    for row, line in enumerate(lines[begin:]):
        picture, *words = (word.strip() for word in line.split(comma))
        if len(words) != len(names) or not VALUES.keys() >= set(words):
            raise UserError(
                f"{path}: of {picture[:40]!r} it must say {len(names)} times 1, or -1 "
                "or 0 for no"
            )
        if rows.setdefault(key(picture), row) != row:
            raise UserError(f"{path} has {picture[:40]!r} twice.")
        values[row] = [VALUES[word] for word in words]
    if is_celebas and int(lines[0]) != len(values):
        raise UserError(
            f"{path} is cut off: it says it has {int(lines[0]):,} pictures, and has "
            f"{len(values):,}. Delete it, or get it again."
        )
    return Table(names, rows, values)


def key(name):
    """Return the name of a picture without its folders and its ending.

    CelebA's .png pictures are told of as .jpg.
    """
    path = PurePosixPath(name)
    return path.stem if ending_of(name) in endings() else path.name


def of_pictures(table, names):
    """Return which pictures a Table tells of, (m,) their places, and (m, k) bool, what.

    names: of the pictures, (n,). Raises UserError if two have the same key.
    """
    keys = [key(name) for name in names]
    if len(set(keys)) < len(keys):
        pairs = itertools.pairwise(sorted(keys))
        twice = next(one for one, other in pairs if one == other)
        raise UserError(
            f"Two pictures are called {twice!r}: whose attributes are these? Give each "
            "a name of its own."
        )
    places = [place for place, each in enumerate(keys) if each in table.rows]
    rows = [table.rows[keys[place]] for place in places]
    return np.array(places, int), table.values[rows]
