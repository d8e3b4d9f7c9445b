"""Tables of what pictures show."""

from pathlib import Path

import numpy as np
import pytest

from dcgan.common.console import UserError
from dcgan.pictures import attributes
from tests.pictures.samples import BLUE, pack, plain

CELEBAS = """3
Bald Black_Hair
000001.jpg -1  1
000002.jpg  1 -1
000003.jpg -1 -1
"""
KAGGLES = """image_id,Bald,Black_Hair
000001.jpg,-1,1
000002.jpg,1,-1
000003.jpg,-1,-1
"""
OWN = "picture, Bald, Black_Hair\r\na/000001.png, 0, 1\r\n000002, 1, 0\r\nb.3.png,0,0"


def write(text, path="table"):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", [CELEBAS, KAGGLES, OWN, "\ufeff" + CELEBAS + "\n"])
def test_a_table_is_read_in_each_form(here, text):
    table = attributes.read(write(text))
    assert table.names == ["Bald", "Black_Hair"]
    last = "b.3" if text is OWN else "000003"
    assert table.rows == {"000001": 0, "000002": 1, last: 2}
    assert table.values.dtype == bool
    assert table.values.tolist() == [[False, True], [True, False], [False, False]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no table of attributes"),
        ("\x00\xff\x89PNG", "is no table of attributes"),
        ("name\na\n", "is no table of attributes"),
        ("3\n", "is no table of attributes"),
        ("name,bald,\na,1,0\n", "is no table of attributes"),
        (KAGGLES + "000004.jpg,1\n", "of '000004.jpg' it must say 2 times 1, or -1"),
        (KAGGLES + "000004.jpg,1,yes\n", "of '000004.jpg' it must say 2 times 1"),
        (KAGGLES + "x/000002.png,1,1\n", "has 'x/000002.png' twice"),
        (CELEBAS.replace("3\n", "4\n", 1), "cut off: it says it has 4 pictures, and"),
    ],
)
def test_what_is_no_table_is_one_line(here, text, message):
    path = write(text)
    with pytest.raises(UserError, match=message) as refused:
        attributes.read(path)
    assert "\n" not in refused.value.code


def test_a_table_that_is_not_there_is_one_line(here):
    with pytest.raises(UserError, match=r"^Cannot read none\.csv: No such file"):
        attributes.read(Path("none.csv"))


@pytest.mark.parametrize("name", attributes.NAMES)
def test_the_table_is_found_near_the_pictures(here, name):
    for folder in ("data", "place/faces", "place"):
        source = Path("place/faces")
        source.mkdir(parents=True, exist_ok=True)
        path = write(CELEBAS, Path(folder, name))
        assert attributes.find(source, "data") == path
        path.unlink()
        assert attributes.find(source, "data") is None


def test_the_table_is_found_beside_a_zip_and_in_it(here):
    alone = pack(here / "alone.zip", {"a/000001.jpg": plain(BLUE)})
    assert attributes.find(alone, "data") is None
    beside = write(CELEBAS, here / "list_attr_celeba.txt")
    assert attributes.find(alone, "data") == beside
    beside.unlink()
    files = {"a/000001.jpg": plain(BLUE), "list_attr_celeba.csv": KAGGLES.encode()}
    kaggles = pack(here / "archive.zip", files)
    found = attributes.find(kaggles, "data")
    assert str(found) == f"{kaggles}/list_attr_celeba.csv"
    assert attributes.read(found).names == ["Bald", "Black_Hair"]


def test_pictures_have_their_own_rows_whatever_their_order_folder_and_ending(here):
    table = attributes.read(write(CELEBAS))
    names = ["x/000003.png", "none.jpg", "000001.jpg", "y/z/000002.jpeg"]
    places, has = attributes.of_pictures(table, names)
    assert places.tolist() == [0, 2, 3]
    assert has.tolist() == [[False, False], [False, True], [True, False]]
    places, has = attributes.of_pictures(table, ["none.jpg"])
    assert (len(places), has.shape) == (0, (0, 2))


def test_what_follows_a_dot_is_an_ending_where_it_is_one(here):
    table = attributes.read(write("name,Big\nimg.001,1\nimg.002,-1\nA. Smith.png,1"))
    names = ["img.002.jpg", "x/img.001", "A. Smith.png"]
    places, has = attributes.of_pictures(table, names)
    assert places.tolist() == [0, 1, 2]
    assert has.tolist() == [[False], [True], [True]]


def test_two_pictures_of_one_name_are_one_line(here):
    table = attributes.read(write(CELEBAS))
    with pytest.raises(UserError, match=r"^Two pictures are called '000001'"):
        attributes.of_pictures(table, ["a/000001.jpg", "b/000001.jpg", "c.jpg"])


def test_celebas_forty_attributes_are_all_read(here):
    rng = np.random.default_rng(1)
    values = rng.integers(0, 2, (50, 40)).astype(bool)
    lines = ["50", " ".join(f"A_{k}" for k in range(40)) + " "]
    for number, row in enumerate(values, 1):
        words = "".join(f"{1 if value else -1:3d}" for value in row)
        lines.append(f"{number:06d}.jpg{words}")
    table = attributes.read(write("\n".join(lines)))
    assert table.names == [f"A_{k}" for k in range(40)]
    assert (table.values == values).all()
