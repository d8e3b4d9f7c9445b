"""What README.md and the pages behind it say, held against the suite."""

import ast
import errno
import os
import re
import tomllib
from pathlib import Path

import pytest

SUITE = Path(__file__).parent.parent
SCRIPTS = {path.stem: path for path in SUITE.glob("*.py")}
PAGES = [SUITE / "README.md", *SUITE.glob("docs/*.md"), *SUITE.glob("benchmarks/*.md")]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
README = TEXTS[SUITE / "README.md"]

EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def source_of(script):
    """Return the text of a script, as in train.py or -m tests.faults."""
    place = SUITE / script.removeprefix("-m ").removesuffix(".py").replace(".", "/")
    path = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    return path.read_text(encoding="utf-8")


def options_of(script):
    """Return the options of a script: the names of its constants, as one types them."""
    names = re.findall(r"^([A-Z][A-Z0-9_]*) = ", source_of(script), re.M)
    return {"help", *(name.lower().replace("_", "-") for name in names)}


@EACH_PAGE
def test_a_pages_files_exist_and_nothing_waits_to_be_filled_in(page):
    assert not re.search(r"^@[A-Z]+@$|FIGURE_", TEXTS[page], re.M)
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXTS[page]):
        assert (page.parent / link).exists(), link
    others = re.findall(r"src=\"([^\"]+)\"|install -r ([\w./-]+)", TEXTS[page])
    for name in map("".join, others):
        assert (SUITE / name).exists(), name


@EACH_PAGE
def test_a_pages_commands_and_options_exist(page):
    text = TEXTS[page].replace("\\\n", "").replace("tensorboard --logdir", "")
    commands = re.findall(r"python (\w+\.py|-m (?!pytest)[\w.]+)([^\n`]*)", text)
    option = re.compile(r"(?<![\w-])--(?:no-)?([a-z][a-z0-9-]+)")
    for script, rest in commands:
        assert set(option.findall(rest)) <= options_of(script), (script, rest)
    scripts = {"train.py", "generate.py", "evaluate.py", *dict(commands)}
    assert set(option.findall(text)) <= set().union(*map(options_of, scripts))


def test_the_readme_has_the_two_commands_and_the_one_that_ci_looks_for():
    assert "pip install -r requirements.txt && python generate.py\n" in README
    assert "\npython train.py\n" in README
    tests = "pip install -r requirements-dev.txt && python -m pytest"
    assert tests in README.splitlines()


def test_the_markers_that_pages_name_are_registered():
    project = tomllib.loads((SUITE / "pyproject.toml").read_text(encoding="utf-8"))
    markers = project["tool"]["pytest"]["ini_options"]["markers"]
    registered = {marker.partition(":")[0] for marker in markers}
    for text in TEXTS.values():
        for several in re.findall(r"pytest -m \"?([\w ]+)", text):
            assert set(several.split(" or ")) <= registered


def test_the_readme_numbers_the_five_steps_as_the_code_does():
    source = source_of("train.py")
    [function] = [
        ast.get_source_segment(source, node)
        for node in ast.parse(source).body
        if getattr(node, "name", "") == "five_steps"
    ]
    section = README.partition("## The five steps")[2].partition("\n## ")[0]
    words = ("real faces", "fakes", "discriminator", "fresh noise", "d_on_g")
    for steps in (
        re.findall(r"^ +# (\d)\. (.+)", function, re.M),
        re.findall(r"^(\d)\. (.+)", section, re.M),
    ):
        assert [number for number, _ in steps] == list("12345")
        for (_, line), word in zip(steps, words, strict=True):
            assert word in line


@pytest.mark.parametrize(
    ("page", "fewest"),
    [("README.md", 15), ("docs/recipes.md", 10), ("docs/devices.md", 3)],
)
def test_the_constants_in_tables_have_the_values_in_the_code(page, fewest):
    row = re.compile(r"^\| (`[A-Z_0-9]+`(?:, `[A-Z_0-9]+`)*) \| `([^`]+)` \|", re.M)
    rows = [
        (name, value)
        for names, value in row.findall(TEXTS[SUITE / page])
        for name in re.findall(r"\w+", names)
    ]
    assert len(rows) >= fewest
    for name, value in rows:
        constant = rf"^{name} = {re.escape(value)}(\s|$)"
        assert re.search(constant, source_of("train.py"), re.M), name


def test_what_pages_name_in_a_file_stands_there():
    place = re.compile(r"`(\w+)`\s+in\s+\[[^\]]+\]\(([\w./]+\.py)\)")
    named = [(page, *found) for page in PAGES for found in place.findall(TEXTS[page])]
    assert {"LOSSES", "NETWORKS", "five_steps"} <= {name for _, name, _ in named}
    for page, name, path in named:
        source = (page.parent / path).read_text(encoding="utf-8")
        assert re.search(rf"^(def |class )?{name}\b", source, re.M), name


def test_the_messages_that_the_readme_explains_are_said():
    said = [os.strerror(errno.ENOSPC)]
    for path in [*SCRIPTS.values(), *SUITE.glob("dcgan/*/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
    table = README.partition("| what you see |")[2].partition("\n\n")[0]
    seen = " ".join(re.findall(r"^\| ([^|]+) \|", table, re.M))
    messages = re.findall(r"`([^`]+)`", seen)
    assert len(messages) >= 10
    for message in messages:
        for part in message.split("..."):
            assert any(part.strip() in text for text in said), message


def test_the_rooms_that_are_told_of_are_those_of_the_house():
    house = TEXTS[SUITE / "docs/house.md"]
    rooms = re.findall(r"^\| `(dcgan/\w+)` \| \d \|", house, re.M)
    folders = {f"dcgan/{path.parent.name}" for path in SUITE.glob("dcgan/*/*.py")}
    assert set(rooms) == folders


def test_the_readmes_code_draws_what_it_says(monkeypatch):
    monkeypatch.chdir(SUITE)
    [code] = re.findall(r"^```python\n(.+?)^```", README, re.M | re.S)
    names = {}
    exec(code, names)
    shape, dtype = re.search(r"# (\(.+\)) (\w+)$", code).groups()
    assert (str(names["faces"].shape), str(names["faces"].dtype)) == (shape, dtype)
