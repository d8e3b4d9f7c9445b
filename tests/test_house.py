"""The suite as a whole: who imports whom, and what an import does."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parent.parent
SCRIPTS = {path.stem: path for path in SUITE.glob("*.py")}

# Imports run downhill: a script may import those below it
MAP = {
    "script": set(),
    "download": {"script"},
    "helper": {"script", "download"},
    "cartoons": {"script", "helper"},
    "preprocess": {"script", "helper", "cartoons"},
    "backend": {"script"},
    "augment": {"script", "backend"},
    "losses": {"script", "backend"},
    "spectral": {"backend"},
    "models": {"script", "backend", "augment", "losses", "spectral"},
    "device": {"script", "models"},
    "devices": {"script", "models"},
    "feed": set(),
    "alarms": set(),
    "progress": {"script", "alarms"},
    "fuse": {"models", "device"},
    "runs": {"script", "helper", "models"},
    "checkpoints": {"script"},
    "branch": {"script", "runs", "checkpoints"},
    "train": {
        *("script", "models", "device", "devices", "preprocess", "checkpoints", "runs"),
        *("feed", "fuse", "progress", "scores", "watch", "alarms", "augment"),
        *("losses", "branch"),
    },
    "watch": {"script", "models", "device", "inception", "runs", "scores"},
    "generate": {"script", "helper", "models", "runs"},
    "scores": set(),
    "inception": {"script", "download", "models"},
    "evaluate": {
        *("script", "runs", "models", "preprocess", "inception", "scores", "device"),
        "helper",
    },
}


def imports_of(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def test_imports_run_downhill():
    drawn = {name: imports_of(path) & SCRIPTS.keys() for name, path in SCRIPTS.items()}
    assert drawn.keys() == MAP.keys()
    assert {name for name in MAP if drawn[name] - MAP[name]} == set()


@pytest.mark.parametrize(
    "name", ["script", "download", "helper", "cartoons", "preprocess", "scores"]
)
def test_what_workers_import_starts_without_keras(name):
    code = f"import sys, {name}; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SUITE).returncode == 0


def test_importing_every_script_does_nothing(here):
    code = f"import sys; sys.path.insert(0, {str(SUITE)!r}); import " + ", ".join(
        SCRIPTS
    )
    ran = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=here, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert list(here.iterdir()) == []


def test_no_path_of_a_machine_stands_in_any_file():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=SUITE, capture_output=True, text=True
    )
    for name in listed.stdout.split():
        if not name.endswith((".png", ".h5")):
            text = (SUITE / name).read_text(encoding="utf-8")
            assert not re.search(r"/(home|root|work|Users)/\w", text), name
