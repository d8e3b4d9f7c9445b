"""The constants at the top of a script, from the command line."""

import argparse
import ast
import contextlib
import difflib
import functools
import io
import math
import os
import re
import shlex
import subprocess
import tokenize
from pathlib import Path
from textwrap import shorten

from dcgan.common.console import UserError

# What a comment may begin with: the values that the constant may have
ALLOWED = re.compile(
    r"(?:\{(?P<one_of>[^}]*)\}|[\[(](?P<low>\S*?)\.\.(?P<high>\S*?)[\])])(?: |$)"
)

# A line that begins with this ends the options of a script
END = "# No options"

KINDS = {
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    bool: "True or False",
}

# What a comment that says no values stands for
ANY = {int: "[0..]", float: "[0.0..]", str: "", bool: "{True, False}"}

# The kinds of the scripts' constants, whatever became of their values and comments
NAMES = {
    int: "IMAGE_SIZE CHANNELS IMAGES EPOCHS BATCH_SIZE D_STEPS G_STEPS STEPS_PER_CALL "
    "SEED SAMPLES KEEP_CHECKPOINTS KEEP_EVERY SCORE_EVERY SCORE_SAMPLES COUNT COLUMNS "
    "SCALE SIZE REAL WORKERS WALK FPS STEPS PICK",
    float: "WIDTH SPREAD LEARNING_RATE G_LEARNING_RATE D_LEARNING_RATE BETA_1 R1 REACH "
    "LEARNING_RATE_HOLD LEARNING_RATE_HALF_LIFE AVERAGE_DECAY LABEL_SMOOTHING "
    "LABEL_FLIPPING CHECKPOINT_MINUTES EPOCH_END_SHARE SECONDS",
    str: "DATA DATA_FOLDER FIT NETWORK D_NORM LOSS AUGMENT PRECISION DEVICES RUN FROM "
    "SCORE WHICH OUT SINGLES METHOD EXPORT FACES BETWEEN MEAN MINUS PLUS DIRECTION "
    "ATTRIBUTES",
    bool: "FLIP STOP_ON_COLLAPSE TENSORBOARD HISTORY SHOW_SEEDS",
}
KIND_OF = {name: kind for kind, names in NAMES.items() for name in names.split()}


def options(module, argv=None, choices=None):
    """Let the command line change the UPPER_CASE constants of a script.

    `EPOCHS = 25  # [1..] passes over the pictures` becomes `--epochs 25`, with the
    comment as its help. Options are the plain constants (numbers, texts, True, False)
    above the first def or class, down to a line `# No options from here on`, if any.

    The comment may begin with the values allowed: `{28, 64}`, or a range: `[0.0..1.0]`,
    `(0.0..1.0)` without its ends, `[1..]` without an upper one. It also says what kind
    of value is right, in the file too: in a range whose limits have a point any number,
    in another a whole one; `{True, False}` a switch; other words a text. Where it says
    no values, or was deleted, the constant's name tells the kind (KIND_OF), or of a new
    constant its value does.

    A whole number may be written 1e3, and a text that begins with ~ is a path from the
    home folder.

    choices: {name: the values allowed}, from a table that the comment need not repeat.

    Sets the constants in `module` and returns them all, as {name: value}. A wrong
    option ends the program with exit code 2, a wrong constant in the file with 1.
    """
    constants = _constants(module)
    for name, values in (choices or {}).items():
        constants[name] = f"{{{', '.join(map(str, values))}}} {constants[name]}"
    parser = _Parser(
        prog=_command(module),
        description=module.__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, comment in constants.items():
        _add_option(parser, name, getattr(module, name), comment)
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(_unknown(unknown[0], constants))
    for name, comment in constants.items():
        default = getattr(module, name)
        value = _plain(getattr(parsed, name.lower(), default), _kind(comment))
        fault = _fault(value, comment)
        if fault and hasattr(parsed, name.lower()):
            parser.error(f"{_flag(name)} {value}: {fault}")
        if fault:
            script, wrong = Path(module.__file__).name, shorten(repr(value), 100)
            raise UserError(f"{name} = {wrong} in {script}: {fault}.")
        setattr(module, name, value)
    return current(module)


def current(module):
    """Return the constants of a script that are options, as they are now."""
    return {name: getattr(module, name) for name in _constants(module)}


def typed(**values):
    """Return options as one types them in a shell: --run 'my run' --epochs 4."""
    words = []
    for name, value in values.items():
        text = str(value)
        if text.startswith("~"):  # else it would be the home
            text = f"./{text}"
        # Behind a space a leading dash would begin another option
        between = "=" if text.startswith("-") else " "
        words.append(_flag(name) + between + quoted(text))
    return " ".join(words)


def quoted(text):
    """Return a word as one types it in the shell of this system."""
    windows = os.name == "nt"
    return subprocess.list2cmdline([text]) if windows else shlex.quote(text)


def with_variable(name, value, command):
    """Return a command as one types it with an environment variable, if it has one."""
    if not value:
        return command
    if os.name == "nt":  # cmd.exe; the quotes keep a space out of the value
        return f'set "{name}={value}" && {command}'
    return f"{name}={quoted(value)} {command}"


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        if valued := re.match(r"argument (\S+): ignored explicit argument", message):
            message = f"{valued[1]} takes no value"
        stop = "" if message.endswith("?") else "."
        name = self.prog.removeprefix("python ").removeprefix("-m ")
        self.exit(2, f"{name}: {message}{stop} See {self.prog} --help\n")


def _command(module):
    """Return the command that runs a script, or a module of a package."""
    spec = getattr(module, "__spec__", None)
    if spec is not None and "." in spec.name:
        name = spec.name.removesuffix(".__main__")
        return f"python -m {name}"
    return f"python {Path(module.__file__).name}"


def _constants(module):
    """Read the constants that are options, and their comments, from the source.

    The comments say what is allowed, those of texts alone need not.
    """
    source = Path(module.__file__).read_text(encoding="utf-8")
    comments, end = {}, math.inf
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
            if token.start[1] == 0 and token.string.startswith(END):
                end = min(end, token.start[0])
    constants = {}
    for node in ast.parse(source).body:
        if node.lineno > end or isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            break
        for name in filter(str.isupper, _assigned(node)):
            comment = comments.get(node.end_lineno) or constants.get(name, "")
            kind = KIND_OF.get(name, type(getattr(module, name)))
            if ALLOWED.match(comment):
                constants[name] = comment
            elif kind in KINDS:
                constants[name] = f"{ANY[kind]} {comment}".strip()
    return constants


def _assigned(node):
    """Return the names that a statement gives a value to."""
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return []
    targets = getattr(node, "targets", None) or [node.target]
    return [
        part.id
        for target in targets
        for part in ast.walk(target)
        if isinstance(part, ast.Name)
    ]


def _kind(comment):
    """Return the type that a constant with this comment has."""
    allowed = ALLOWED.match(comment)
    if not allowed:
        return str
    if allowed["one_of"] is None:
        return float if "." in allowed["low"] + allowed["high"] else int
    words = _choices(allowed)
    if words == ["True", "False"]:
        return bool
    return int if all(word.isdecimal() for word in words) else str


def _plain(value, kind):
    """Return a value as this kind has it, or as it is if it is none of that kind."""
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if kind is float and type(value) is int:
        with contextlib.suppress(OverflowError):
            return float(value)
    if kind is str and type(value) is str and value.startswith("~"):
        return os.path.expanduser(value)  # noqa: PTH111 (of an unknown user it is kept)
    return value


def _choices(allowed):
    return [choice.strip() for choice in allowed["one_of"].split(",")]


def _add_option(parser, name, default, comment):
    kind = _kind(comment)
    if kind is bool:  # a switch takes no value
        comment = ALLOWED.sub("", comment, 1)
    text = f"{comment} (now: {default!r})".replace("%", "%%").strip()
    add = functools.partial(
        parser.add_argument, _flag(name), default=argparse.SUPPRESS, help=text
    )
    if kind is bool:
        add(action=argparse.BooleanOptionalAction)
    else:
        metavar = {int: "N", float: "X", str: "TEXT"}[kind]
        add(metavar=metavar, type=_reader(kind))


def _reader(kind):
    """Turn an option's text into a value of this kind."""

    def read(text):
        with contextlib.suppress(ValueError):
            return kind(text)
        with contextlib.suppress(ValueError):  # 1e3 may be a whole number
            if float(text).is_integer():
                return float(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not {KINDS[kind]}")

    return read


def _fault(value, comment):
    """Say what is wrong with the value of an option, or return ''."""
    kind, allowed = _kind(comment), ALLOWED.match(comment)
    if type(value) is not kind:
        return f"must be {KINDS[kind]}"
    if kind is str and "\0" in value:
        return "must be text without \\0"
    if kind is float and not math.isfinite(value):
        return "must be a finite number"
    if not allowed:
        return ""
    if allowed["one_of"] is not None:
        choices = _choices(allowed)
        return "" if str(value) in choices else f"must be one of {', '.join(choices)}"
    span = allowed[0].strip()
    low, high = (allowed[end].removesuffix(".0") for end in ("low", "high"))
    least, greatest = float(low or "-inf"), float(high or "inf")
    above = value > least if span[0] == "(" else value >= least
    below = value < greatest if span[-1] == ")" else value <= greatest
    if above and below:
        return ""
    limits = [f"{'more than' if span[0] == '(' else 'at least'} {low}"] if low else []
    if high:
        limits.append(f"{'less than' if span[-1] == ')' else 'at most'} {high}")
    return f"must be {' and '.join(limits)}"


def _unknown(word, constants):
    flag = word.split("=")[0]
    near = difflib.get_close_matches(flag, [_flag(name) for name in constants], 1)
    hint = f", did you mean {near[0]}?" if near else ""
    if not flag.startswith("-"):
        hint = ": they begin with --"
    return f"there is no option {flag}{hint}"


def _flag(name):
    return "--" + name.lower().replace("_", "-")
