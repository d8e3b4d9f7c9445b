"""The suite as a whole: who imports whom, and what an import does."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parent.parent
SCRIPTS = sorted(path.stem for path in SUITE.glob("*.py"))
ROOMS = {
    ".".join(path.relative_to(SUITE).with_suffix("").parts): path
    for path in sorted(SUITE.glob("dcgan/*/*.py"))
    if path.stem != "__init__"
}


def imports_of(path):
    """Return the dotted names of all that a file imports, functions' imports too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
            names.add(node.module)
    return names


def floor_of(room):
    """Return the number that the folder of a room says in its first sentence."""
    sentence = (ROOMS[room].parent / "__init__.py").read_text(encoding="utf-8")
    return int(re.match(r'"""Floor (\d): .+\.""" *$', sentence.strip())[1])


DRAWN = {room: imports_of(path) & ROOMS.keys() for room, path in ROOMS.items()}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_rooms_of_floors_beneath_or_of_its_own_folder(room):
    def folder(name):
        return name.rpartition(".")[0]

    for other in DRAWN[room]:
        assert folder(other) == folder(room) or floor_of(other) < floor_of(room), other


def test_no_rooms_import_each_other_in_a_circle():
    left = dict(DRAWN)
    while ground := [room for room in left if not left[room] & left.keys()]:
        for room in ground:
            del left[room]
    assert left == {}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_no_script_and_no_test(room):
    above = {*SCRIPTS, "tests", "benchmarks"}
    assert not {name.split(".")[0] for name in imports_of(ROOMS[room])} & above


WITHOUT_KERAS = ["helper", "cartoons", "preprocess", "dcgan.scores.metrics"]
WITHOUT_KERAS += [room for room in ROOMS if re.search(r"\.(common|pictures)\.", room)]


def test_what_workers_import_starts_without_keras():
    code = f"import sys, {', '.join(WITHOUT_KERAS)}; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SUITE).returncode == 0


def test_importing_every_file_does_nothing(tmp_path):
    names = ", ".join([*SCRIPTS, *ROOMS])
    code = f"import sys; sys.path.insert(0, {str(SUITE)!r}); import {names}"
    ran = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    not (shutil.which("git") and (SUITE / ".git").exists()), reason="needs a clone"
)
def test_no_path_of_a_machine_stands_in_any_file():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=SUITE, stdout=subprocess.PIPE, check=True
    )
    names = listed.stdout.decode().rstrip("\0").split("\0")
    assert "train.py" in names
    for name in names:
        if not name.endswith((".png", ".webp", ".h5")):
            text = (SUITE / name).read_text(encoding="utf-8")
            assert not re.search(r"/(home|root|work|Users)/\w", text), name
