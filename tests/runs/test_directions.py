"""directions.npz in a run folder."""

from pathlib import Path

import numpy as np
import pytest

from dcgan.common.console import UserError
from dcgan.runs import directions

FOUND = directions.Directions(
    names=np.array(["Smiling", "Black_Hair"]),
    vectors=np.eye(2, 100, dtype="float32"),
    correlation=np.array([0.8, 0.7]),
    shares=np.array([[0.1, 0.5, 0.9]] * 2),
    accuracy=np.array([0.9, 0.8]),
    real=np.array([0.5, 0.2]),
    steps=np.array([-3, 0, 3]),
    generator="abc",
    seed=7,
)


def test_what_is_saved_is_read(here):
    assert directions.save("runs/a", FOUND) == Path("runs/a/directions.npz")
    read = directions.read("runs/a", 100)
    for name, value in FOUND._asdict().items():
        assert np.array_equal(getattr(read, name), value), name
    assert type(read.generator) is str
    assert type(read.seed) is int


def test_the_clearest_come_first_and_only_to_their_own_generator(here):
    assert directions.clearest("runs/a", "abc", 100) == []
    clearer = FOUND._replace(correlation=np.array([0.7, 0.8]))
    directions.save("runs/a", clearer)
    names, vectors = zip(*directions.clearest("runs/a", "abc", 100), strict=True)
    assert names == ("Black_Hair", "Smiling")
    assert np.array_equal(vectors, np.eye(2, 100)[::-1])
    assert directions.clearest("runs/a", "another", 100) == []


@pytest.mark.parametrize("name", ["Black_Hair", "black hair", "BLACK-HAIR"])
def test_a_direction_is_found_however_its_name_is_written(here, name):
    directions.save("runs/a", FOUND)
    found = directions.find("runs/a", name, 100)
    assert (found.name, found.generator) == ("Black_Hair", "abc")
    assert np.array_equal(found.vector, np.eye(100)[1])


def test_an_unknown_name_is_one_line_with_those_that_there_are(here):
    directions.save("runs/a", FOUND)
    message = r"^--direction beard: .* in runs/a, only Smiling, Black_Hair$"
    with pytest.raises(UserError, match=message):
        directions.find("runs/a", "beard", 100)


def test_where_there_are_none_the_command_is_told(here):
    message = r"^No directions\.npz in runs/a yet.*: python directions.py --run runs/a$"
    with pytest.raises(UserError, match=message):
        directions.read("runs/a", 100)


def cut(path):
    path.write_bytes(path.read_bytes()[:300])


def of_other_noise(path):
    directions.save(path.parent, FOUND._replace(vectors=np.eye(2, 64)))


def of_other_lengths(path):
    directions.save(path.parent, FOUND._replace(vectors=2 * FOUND.vectors))


def of_other_names(path):
    directions.save(path.parent, FOUND._replace(names=np.array([1, 2])))


def empty(path):
    path.write_bytes(b"")


def of_no_number(path):
    vectors = np.full((2, 100), np.nan)
    directions.save(path.parent, FOUND._replace(vectors=vectors))


def without_names(path):
    with open(path, "wb") as file:
        np.savez(file, vectors=FOUND.vectors)


def of_objects(path):
    directions.save(path.parent, FOUND._replace(names=np.array([{}, {}], object)))


@pytest.mark.parametrize(
    "damage",
    [
        *(cut, empty, of_other_noise, of_other_lengths, of_other_names),
        *(of_no_number, without_names, of_objects),
    ],
)
def test_damaged_ones_are_one_line(here, damage):
    damage(directions.save("runs/a", FOUND))
    message = r"^runs/a/directions\.npz is damaged\. .* directions.py --run runs/a$"
    with pytest.raises(UserError, match=message):
        directions.read("runs/a", 100)


def test_directions_that_are_alike_are_named_the_most_alike_first():
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]])
    assert directions.alike(vectors, ["a", "b", "c", "d"], 0.5) == [
        ("a", "d", -1.0),
        ("b", "c", 0.8),
        ("a", "c", 0.6),
        ("c", "d", -0.6),
    ]


def test_directions_that_lead_nowhere_are_left_out_and_named(capsys):
    rows = np.arange(3)
    found = directions.Directions(
        names=np.array(["a", "b", "c"]),
        correlation=np.array([0.9, 0.1, 0.5]),
        **dict.fromkeys(("vectors", "shares", "accuracy", "real"), rows),
        **{"steps": np.arange(7), "generator": "x", "seed": 1},
    )
    kept = directions.without_faint(found)
    assert kept.names.tolist() == ["a", "c"]
    for each in (kept.vectors, kept.shares, kept.accuracy, kept.real):
        assert each.tolist() == [0, 2]
    assert len(kept.steps) == 7
    assert "No direction was found for: b." in capsys.readouterr().out
    with pytest.raises(SystemExit, match="too few different faces"):
        directions.without_faint(found._replace(correlation=np.zeros(3)))


def test_the_table_has_a_row_for_each_and_names_those_that_are_alike():
    vectors = np.array([[0.8, 0.6], [1, 0]])
    lines = directions.table(FOUND._replace(vectors=vectors)).splitlines()
    assert lines[1].split() == ["attribute", "real", "right", "along", "-3", "0", "+3"]
    row = ["Smiling", "50%", "90.0%", "0.80", "10%", "50%", "90%"]
    assert lines[2].split() == row
    assert lines[3].split()[:4] == ["Black_Hair", "20%", "80.0%", "0.70"]
    assert "0.80 Smiling, Black_Hair" in lines[-1]
    assert "Smiling, Black_Hair" not in directions.table(FOUND)
