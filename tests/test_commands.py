"""The commands that the scripts print, to be pasted into a shell."""

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest

import directions
import evaluate
import generate
import helper
import preprocess
import train
from dcgan.common import options
from dcgan.common.console import UserError
from dcgan.common.options import current, typed
from dcgan.pictures import workers
from dcgan.runs import directions as runs_directions
from dcgan.runs import folder, fork, generators
from dcgan.runs.run import Run
from dcgan.training.progress import Progress

SUITE = Path(__file__).parent.parent
SCRIPTS = {
    f"{module.__name__}.py": module
    for module in (train, generate, evaluate, preprocess, directions)
}
SOURCES = [
    path for at in ("", "dcgan/*/", "benchmarks/") for path in SUITE.glob(f"{at}*.py")
]

# What a folder may be called
NAMES = [
    "moved run",
    "it's",
    'a "b"',
    "-x",
    "-x y",
    "~",
    "~/x",
    "$HOME",
    "a;b",
    "*",
    "#",
]

# An option and its value, as a shell reads them
OPTION = re.compile(r"(--[a-z][a-z-]+)[ =]((?:'[^']*'|\"[^\"]*\"|[^\s'\"])+)")


@pytest.fixture(autouse=True)
def place(here, monkeypatch):
    for module in SCRIPTS.values():
        for name, value in current(module).items():
            monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_value_stands_behind_an_option_but_as_it_is_typed(path):
    """So each value goes through typed(), which the tests below hold to its word."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            texts = [getattr(part, "value", None) for part in node.values]
            for text in texts[:-1]:
                ends = isinstance(text, str) and re.search(r"--[a-z][a-z-]*[ =]$", text)
                assert not ends, (node.lineno, text)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_typed_comes_back_as_the_same_value(name):
    words = shlex.split(typed(run=Path(name), data="my 'own'", epochs=7))
    options.options(train, words)
    assert (Path(train.RUN), train.DATA, train.EPOCHS) == (Path(name), "my 'own'", 7)


def refusal(act):
    with pytest.raises(UserError) as refused:
        act()
    return refused.value.code


def run_in(name):
    run = Run.__new__(Run)
    run.folder, run.constants = Path(name), current(train)
    return run


def while_another_trains(name):
    with folder.training(name), folder.training(name):
        pass


def with_a_checkpoint(name):
    Path(name).mkdir(parents=True)
    Path(name, "checkpoint-000001.npz").touch()
    return run_in(name)


def kill_workers(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "_fill", fail)
        wanted = {"source": name, "image_size": 28, "channels": 3}
        wanted["crop"] = helper.FITS["crop"].told
        preprocess._make(Path("data/x.npy"), Path(name), None, wanted, 0, {})


def fail(*_):
    raise workers.KilledError("picture 3")


def copied_from(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generators, "epochs_of", lambda _: 3)
        fork.check_new("runs/b", [{"from": name, "epochs": 3}], "")


FACTS = {"image_size": 28, "data": {"source": "gone"}}
PROGRESS = Progress(epoch=3)

# {what happened: how to have it told of a folder with a name}
TOLD = {
    "begun differently": lambda name: refusal(
        lambda: folder.compare(Path(name), {"SEED": 1}, {"SEED": 2})
    ),
    "trained twice": lambda name: refusal(lambda: while_another_trains(name)),
    "from nothing": lambda name: refusal(lambda: fork.read(name)),
    "copied once more": lambda name: refusal(lambda: copied_from(name)),
    "no generator": lambda name: refusal(lambda: generators.read(Path(name))),
    "no directions": lambda name: refusal(
        lambda: runs_directions.read(Path(name), 100)
    ),
    "no attributes": lambda name: refusal(
        lambda: directions.open_real(Path(name), {**FACTS, "data": {}})
    ),
    "no real faces": lambda name: refusal(
        lambda: evaluate.open_real(Path(name), FACTS)
    ),
    "workers killed": lambda name: refusal(lambda: kill_workers(name)),
    "finished": lambda name: run_in(name).finished(" --which last"),
    "finished before": lambda name: run_in(name).is_finished(PROGRESS),
    "too large": lambda name: with_a_checkpoint(name)._too_large(64),
    "diverged": lambda name: run_in(name)._diverged("", PROGRESS),
    "alarm": lambda name: run_in(name)._stopped_by("", PROGRESS),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("told", TOLD.values(), ids=TOLD)
def test_a_printed_command_means_the_folder_that_it_names(told, name):
    text, meant = told(name), 0
    script = next(
        (SCRIPTS[each] for each in SCRIPTS if f"python {each}" in text), train
    )
    for option in OPTION.finditer(text):
        words = shlex.split(option[0].rstrip(".,;"))
        given = options.options(script, words)  # there is such an option
        value = given[option[1][2:].replace("-", "_").upper()]
        if isinstance(value, str) and value not in ("FOLDER", "NAME", "last"):
            assert Path(value) in (Path(name), Path(f"{name}-2")), text
            meant += 1
    assert meant == 1


def test_for_windows_a_path_is_typed_without_quotes(monkeypatch):
    monkeypatch.setattr(options.os, "name", "nt")
    assert typed(run=r"runs\a", data="my faces") == r'--run runs\a --data "my faces"'
    command = options.with_variable("KERAS_BACKEND", "torch", "python train.py")
    assert command == 'set "KERAS_BACKEND=torch" && python train.py'


@pytest.mark.parametrize("name", NAMES)
def test_the_command_that_continues_is_the_one_that_was_typed(monkeypatch, name):
    monkeypatch.setattr(sys, "argv", ["my scripts/train.py", f"--run={name}"])
    monkeypatch.setenv("KERAS_BACKEND", name)
    command = run_in(name).saved_at(PROGRESS).partition("To continue: ")[2]
    first, *words = shlex.split(command)
    assert (first, words) == (f"KERAS_BACKEND={name}", ["python", *sys.argv])
