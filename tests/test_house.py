"""The suite as a whole: who imports whom, what an import does, what the README says."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parent.parent
SCRIPTS = {path.stem: path for path in SUITE.glob("*.py")}
README = (SUITE / "README.md").read_text(encoding="utf-8")

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


def test_nothing_in_the_readme_waits_to_be_filled_in():
    assert not re.search(r"^@[A-Z]+@$", README, re.M)


def test_the_readmes_files_exist():
    for name in re.findall(r"\]\(([\w./-]+)\)|src=\"([\w./-]+)\"", README):
        assert (SUITE / (name[0] or name[1])).exists(), name


def test_the_readmes_commands_and_options_exist():
    commands = re.findall(r"python (\w+)\.py([^\n`]*)", README)
    assert {"train", "generate"} <= {script for script, _ in commands}
    for script, rest in commands:
        source = SCRIPTS[script].read_text(encoding="utf-8")
        for option in set(re.findall(r"--(?:no-)?([a-z0-9-]+)", rest)) - {"help"}:
            assert f"\n{option.upper().replace('-', '_')} = " in source, (
                script,
                option,
            )


def test_the_readme_numbers_the_five_steps_as_the_code_does():
    code = SCRIPTS["train"].read_text(encoding="utf-8")
    for number in range(1, 6):
        assert re.search(rf"^    # {number}\. ", code, re.M)
        assert re.search(rf"^{number}\. ", README, re.M)


def test_the_readmes_constants_have_the_values_in_the_code():
    rows = re.findall(r"^\| `([A-Z_0-9]+)` \| `([^`]+)` \|", README, re.M)
    assert len(rows) >= 10
    for name, value in rows:
        sources = [path.read_text(encoding="utf-8") for path in SCRIPTS.values()]
        assert any(f"\n{name} = {value}" in source for source in sources), name


def test_no_path_of_a_machine_stands_in_any_file():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=SUITE, capture_output=True, text=True
    )
    for name in listed.stdout.split():
        if not name.endswith((".png", ".h5")):
            text = (SUITE / name).read_text(encoding="utf-8")
            assert not re.search(r"/(home|root|work|Users)/\w", text), name
