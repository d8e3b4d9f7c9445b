import re
import types
from pathlib import Path

import pytest

from dcgan.common import console, options

SUITE = Path(__file__).parents[2]

SOURCE = '''"""A script."""

EPOCHS = 25  # [1..] passes over the pictures
RATE = 2e-4  # (0.0..1.0] how fast
SHARE = 0.5  # [0.0..1.0) of something
SIZE = 64  # {28, 64} pixels
FLIP = True  # {True, False} mirror half of them
NAME = ""  # of the run
RUN = ""  # a folder
KIND = "a"  # {a, b} of network
PLAIN = 3
PAIR = (1, 2)

# No options from here on
HIDDEN = 3  # [0..] of no concern

def function():
    INNER = 1  # no constant of the module

BELOW = 4  # [0..] neither
'''


def load(folder, source=SOURCE):
    path = folder / "toy.py"
    path.write_text(source)
    toy = types.ModuleType("toy", "A script.")
    toy.__file__ = str(path)
    exec(source, toy.__dict__)
    return toy


@pytest.fixture
def module(tmp_path):
    return load(tmp_path)


def edited(folder, line, name=""):
    """Load the script with this line in place of the one of the same constant."""
    name = name or line.split(" = ")[0]
    source = re.sub(rf"^{name} = .*$", lambda _: line, SOURCE, flags=re.M)
    assert source != SOURCE
    return load(folder, source)


def test_options_change_the_constants_and_keep_their_types(module):
    given = ["--epochs", "3", "--rate", "1", "--no-flip", "--name", "x"]
    constants = options.options(module, given)
    expected = {
        "EPOCHS": 3,
        "RATE": 1.0,
        "SHARE": 0.5,
        "SIZE": 64,
        "FLIP": False,
        "NAME": "x",
        "RUN": "",
        "KIND": "a",
        "PLAIN": 3,
    }
    assert constants == expected
    assert options.current(module) == expected
    assert type(module.RATE) is float


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--epochs", "-1"], "--epochs -1: must be at least 1"),
        (["--epochs", "x"], "--epochs: 'x' is not a whole number"),
        (["--epochs", "1.5"], "--epochs: '1.5' is not a whole number"),
        (["--epochs", "inf"], "--epochs: 'inf' is not a whole number"),
        (["--rate", "0"], "--rate 0.0: must be more than 0 and at most 1"),
        (["--rate", "nan"], "--rate nan: must be a finite number"),
        (["--share", "1"], "--share 1.0: must be at least 0 and less than 1"),
        (["--size", "50"], "--size 50: must be one of 28, 64"),
        (["--epohcs", "1"], "there is no option --epohcs, did you mean --epochs?"),
        (["--kind", "c"], "--kind c: must be one of a, b"),
        (["--hidden", "1"], "there is no option --hidden"),
        (["--below", "1"], "there is no option --below"),
        (["--inner", "1"], "there is no option --inner"),
        (["--pair", "1"], "there is no option --pair"),
        (["--epoch", "1"], "there is no option --epoch, did you mean --epochs?"),
        (["stray"], "there is no option stray: they begin with --"),
        (["--flip=false"], "--flip/--no-flip takes no value. See"),
        (["--epochs"], "--epochs: expected one argument"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(module, capsys, given, message):
    with pytest.raises(SystemExit) as exit_:
        options.options(module, given)
    told = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message in told
    assert told.count("\n") == 1
    assert module.EPOCHS == 25


def test_a_wrong_option_names_the_command_that_helps(module, capsys):
    def told():
        with pytest.raises(SystemExit):
            options.options(module, ["--q"])
        return capsys.readouterr().err

    assert told().endswith("--q. See python toy.py --help\n")
    module.__spec__ = types.SimpleNamespace(name="toys.toy")
    assert told().startswith("toys.toy: ")
    assert told().endswith("--q. See python -m toys.toy --help\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("EPOCHS = 0  # [1..] passes", "EPOCHS = 0 in toy.py: must be at least 1."),
        ("EPOCHS = 6.4  # [1..] passes", "EPOCHS = 6.4 in toy.py: must be a whole"),
        ("EPOCHS = 1e400  # [1..] passes", "EPOCHS = inf in toy.py: must be a whole"),
        ("EPOCHS = True  # [1..] passes", "EPOCHS = True in toy.py: must be a whole"),
        ("EPOCHS = 'x'  # [1..] passes", "EPOCHS = 'x' in toy.py: must be a whole"),
        ("EPOCHS = None  # [1..] passes", "EPOCHS = None in toy.py: must be a whole"),
        ("EPOCHS = [25]  # [1..] passes", "EPOCHS = [25] in toy.py: must be a whole"),
        ("SIZE = 32.0  # {28, 64} pixels", "SIZE = 32 in toy.py: must be one of 28"),
        (
            "RATE = 'x'  # (0.0..1.0] how fast",
            "RATE = 'x' in toy.py: must be a number.",
        ),
        ("RATE = 2  # (0.0..1.0] how fast", "must be more than 0 and at most 1."),
        (
            "SHARE = True  # [0.0..1.0) of it",
            "SHARE = True in toy.py: must be a number",
        ),
        (
            "FLIP = 1  # {True, False} mirror",
            "FLIP = 1 in toy.py: must be True or False",
        ),
        ("FLIP = 'yes'  # {True, False} it", "FLIP = 'yes' in toy.py: must be True or"),
        ("RATE = 10**400  # (0.0..1.0] it", "in toy.py: must be a number."),
        ("EPOCHS = None", "EPOCHS = None in toy.py: must be a whole number."),
        ("EPOCHS = 1.5", "EPOCHS = 1.5 in toy.py: must be a whole number."),
        ("EPOCHS = -1", "EPOCHS = -1 in toy.py: must be at least 0."),
        ("EPOCHS = [1] * 99  # mine", "[...] in toy.py: must be a whole number."),
        ("FLIP = 'no'", "FLIP = 'no' in toy.py: must be True or False."),
        ("RUN = ['a', 'b']  # of it", "RUN = ['a', 'b'] in toy.py: must be text in"),
        ("RUN = None", "RUN = None in toy.py: must be text in quotes."),
        ("RUN = 'a\\0b'", r"RUN = 'a\x00b' in toy.py: must be text without \0."),
        (
            "KIND = 5  # {a, b} of network",
            "KIND = 5 in toy.py: must be text in quotes.",
        ),
        (
            "KIND = 'c'  # {a, b} of network",
            "KIND = 'c' in toy.py: must be one of a, b.",
        ),
    ],
)
def test_a_wrong_constant_in_the_file_is_refused_too(tmp_path, line, message):
    with pytest.raises(console.UserError) as refused:
        options.options(edited(tmp_path, line), [])
    assert message in refused.value.code
    assert "\n" not in refused.value.code


@pytest.mark.parametrize("line", ["EPOCHS = 1e3  # [1..] passes", "EPOCHS = 1e3"])
def test_a_whole_number_may_be_written_as_computers_do(tmp_path, line):
    module = edited(tmp_path, line)
    assert options.options(module, [])["EPOCHS"] == 1000
    assert type(module.EPOCHS) is int
    assert options.options(module, ["--epochs", "2e3"])["EPOCHS"] == 2000
    assert type(module.EPOCHS) is int


def test_a_whole_number_may_stand_where_any_number_may(tmp_path):
    module = edited(tmp_path, "RATE = 1  # (0.0..1.0] how fast")
    assert type(options.options(module, [])["RATE"]) is float
    assert type(module.RATE) is float


def test_an_option_may_mend_what_is_wrong_in_the_file(tmp_path):
    module = edited(tmp_path, "EPOCHS = 6.4  # [1..] passes")
    assert options.options(module, ["--epochs", "64"])["EPOCHS"] == 64


@pytest.mark.parametrize(
    "line",
    [
        "EPOCHS = 30",
        "EPOCHS = 30  # a long one",
        "EPOCHS: int = 30",
        "EPOCHS, OTHER = 30, 1",
        "OTHER = EPOCHS = 30",
        "EPOCHS = None",
    ],
)
def test_a_constant_is_an_option_however_it_is_written(tmp_path, line):
    module = edited(tmp_path, line, "EPOCHS")
    if line != "EPOCHS = None":
        assert options.current(module)["EPOCHS"] == 30
    assert options.options(module, ["--epochs", "3"])["EPOCHS"] == 3


def test_a_constant_that_is_written_again_keeps_its_range(tmp_path):
    line = "EPOCHS = 5  # [1..] passes\nEPOCHS = 0"
    with pytest.raises(console.UserError, match=r"EPOCHS = 0 in toy\.py: must be at"):
        options.options(edited(tmp_path, line), [])


@pytest.mark.parametrize(
    "script", ["train", "generate", "evaluate", "preprocess", "cartoons"]
)
def test_no_constant_of_a_script_needs_its_comment(tmp_path, script):
    source = (SUITE / f"{script}.py").read_text(encoding="utf-8")
    source = re.split(r"^(?:def|class|# No options)", source, flags=re.M)[0]
    source = re.sub(r"^(?:import|from) .*$", "", source, flags=re.M)
    told = load(tmp_path, source)
    values = options.options(told, [])
    bare = load(tmp_path, re.sub(r"  # .*$", "", source, flags=re.M))
    assert "  #" not in Path(bare.__file__).read_text()
    assert options.options(bare, []) == values
    for name in values:
        setattr(bare, name, (1, 2))
        with pytest.raises(console.UserError, match=rf"^{name} = \(1, 2\) in toy.py: "):
            options.options(bare, [])
        setattr(bare, name, values[name])


@pytest.mark.parametrize("path", ["~", "~/a b"])
def test_a_leading_tilde_is_the_home(tmp_path, monkeypatch, path):
    monkeypatch.setenv("HOME", "/there")
    expected = f"/there{path[1:]}"
    module = edited(tmp_path, f"NAME = {path!r}  # of the run")
    assert options.options(module, [])["NAME"] == module.NAME == expected
    assert options.options(module, ["--name", "a~b"])["NAME"] == "a~b"
    assert options.options(module, [f"--name={path}"])["NAME"] == expected


def test_the_values_allowed_may_come_from_a_table(module, capsys):
    table = {"NAME": {"round": 1, "square": 2}}
    message = r"NAME = '' in toy\.py: must be one of round, square\."
    with pytest.raises(console.UserError, match=message):
        options.options(module, [], table)
    given = ["--name", "square"]
    assert options.options(module, given, table)["NAME"] == "square"
    for wish in (["--name", "oval"], ["--help"]):
        with pytest.raises(SystemExit):
            options.options(module, wish, table)
    told = capsys.readouterr()
    assert "--name oval: must be one of round, square" in told.err
    assert "{round, square} of the run (now: 'square')" in " ".join(told.out.split())


def test_help_shows_each_constant_with_its_comment(module, capsys):
    with pytest.raises(SystemExit):
        options.options(module, ["--help"])
    told = capsys.readouterr().out
    assert "--epochs N" in told
    assert "passes over the pictures (now: 25)" in " ".join(told.split())
    assert "--flip, --no-flip" in told
    assert "hidden" not in told
