"""The constants at the top of a script, from the command line."""

import argparse
import ast
import difflib
import io
import math
import re
import tokenize
from pathlib import Path

from dcgan.common.console import UserError

RANGE = re.compile(
    r"(?:\{(?P<one_of>[^}]*)\}|[\[(](?P<low>\S*?)\.\.(?P<high>\S*?)[\])])(?: |$)"
)


def options(module, argv=None):
    """Let the command line change the UPPER_CASE constants of a script.

    `EPOCHS = 25  # [1..] passes over the pictures` becomes `--epochs 25`, with the
    comment as its help. The comment may begin with the values allowed: `{28, 64}`,
    or a range: `[0..1]`, `(0..1)` without its ends, `[1..]` without an upper one.
    A constant with no comment behind it is not an option.

    Sets the constants in `module` and returns them all, as {name: value}. A wrong
    option ends the program with exit code 2, a wrong constant in the file with 1.
    """
    constants = _constants(module)
    parser = _Parser(
        prog=_command(module),
        description=module.__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, comment in constants.items():
        _add_option(parser, name, getattr(module, name), comment)
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_unknown(unknown[0], constants))
    for name, comment in constants.items():
        value, default = getattr(given, name.lower()), getattr(module, name)
        fault = _fault(value, default, comment)
        if fault and value is not default:
            parser.error(f"{_flag(name)} {value}: {fault}")
        if fault:
            raise UserError(
                f"{name} = {value!r} in {Path(module.__file__).name}: {fault}."
            )
        setattr(module, name, value)
    return current(module)


def current(module):
    """Return the constants of a script that are options, as they are now."""
    return {name: getattr(module, name) for name in _constants(module)}


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        stop = "" if message.endswith("?") else "."
        name = self.prog.removeprefix("python ").removeprefix("-m ")
        self.exit(2, f"{name}: {message}{stop} See {self.prog} --help\n")


def _command(module):
    """Return the command that runs a script, or a module of a package."""
    spec = getattr(module, "__spec__", None)
    if spec is not None and "." in spec.name:
        return f"python -m {spec.name}"
    return f"python {Path(module.__file__).name}"


def _constants(module):
    """Read the constants that are options, and their comments, from the source."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and node.end_lineno in comments:
            name = getattr(node.targets[0], "id", "")
            if name.isupper() and isinstance(getattr(module, name), (int, float, str)):
                found[name] = comments[node.end_lineno]
    return found


def _add_option(parser, name, default, comment):
    text = f"{comment} (now: {default!r})".replace("%", "%%")
    if isinstance(default, bool):
        action = argparse.BooleanOptionalAction
        parser.add_argument(_flag(name), default=default, action=action, help=text)
    else:
        word = {int: "N", float: "X", str: "TEXT"}[type(default)]
        parser.add_argument(
            _flag(name), default=default, metavar=word, help=text, type=_reader(default)
        )


def _reader(default):
    """Turn an option's text into the type of its default."""

    def read(text):
        try:
            return type(default)(text)
        except ValueError:
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}") from None

    return read


def _fault(value, default, comment):
    """Say what is wrong with the value of an option, or return ''."""
    allowed = RANGE.match(comment)
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if not allowed:
        return ""
    if allowed["one_of"] is not None:
        choices = [choice.strip() for choice in allowed["one_of"].split(",")]
        return "" if str(value) in choices else f"must be one of {', '.join(choices)}"
    if not isinstance(value, (int, float)):
        return "must be a number"
    low, high = float(allowed["low"] or "-inf"), float(allowed["high"] or "inf")
    span = allowed[0].strip()
    above = value > low if span[0] == "(" else value >= low
    below = value < high if span[-1] == ")" else value <= high
    if above and below:
        return ""
    limits = []
    if allowed["low"]:
        limits.append(
            ("more than " if span[0] == "(" else "at least ") + allowed["low"]
        )
    if allowed["high"]:
        limits.append(
            ("less than " if span[-1] == ")" else "at most ") + allowed["high"]
        )
    return f"must be {' and '.join(limits)}"


def _unknown(word, constants):
    flag = word.split("=")[0]
    near = difflib.get_close_matches(flag, [_flag(name) for name in constants], 1)
    hint = f", did you mean {near[0]}?" if near else ""
    return f"there is no option {flag}{hint}"


def _flag(name):
    return "--" + name.lower().replace("_", "-")
