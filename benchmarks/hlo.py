"""Read what XLA compiled: the kernels of a program's loop, and what each must do.

A program as XLA prints it is a list of computations; each is a list of instructions,
one a line. In the body of the loop every instruction that is no mere book-keeping is a
kernel: one launch on a GPU.
"""

import math
import re
from typing import NamedTuple

BYTES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
BYTES |= {"s64": 8, "u64": 8, "f64": 8}
NAMES = {"bf16": "bfloat16", "f32": "float32"}

# What launches nothing, besides the second halves of what is started and awaited
FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all")

# What devices tell each other
COLLECTIVE = r"(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)"

# A reduction to fewer numbers than this is tiny: a launch for next to nothing
TINY = 2**14

# cuDNN's calls by what they are, and where each has its filter and what the forward
# convolution puts out: the number of an operand, or None for the result
CUDNN = {
    "__cudnn$convForward": ("forward", 1, None),
    "__cudnn$convBiasActivationForward": ("forward", 1, None),
    "__cudnn$convBackwardInput": ("backward-input", 1, 0),
    "__cudnn$convBackwardFilter": ("backward-filter", None, 1),
}


class Kernel(NamedTuple):
    """One launch."""

    kind: str  # convolution, product, reduction, copy, collective, or fusion: the rest
    call: str  # which convolution of cuDNN's or which collective
    dtype: str  # of its first result
    place: str  # where in the traced functions it comes from, as XLA tells it
    bytes: int  # that it reads and writes
    operations: int  # of convolutions and matrix products; the rest waits for memory
    is_tiny: bool  # a reduction to less than TINY numbers
    is_dilated: bool  # a forward convolution whose "filter" is dilated: a gradient


class Shape(NamedTuple):
    """One array: its type as XLA names it, and its lengths."""

    dtype: str
    lengths: tuple

    @property
    def count(self):
        return math.prod(self.lengths)

    @property
    def bytes(self):
        return self.count * BYTES.get(self.dtype, 0)


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shapes: list  # of its result: one Shape, or those of a tuple
    opcode: str
    operands: list  # names of other instructions
    attributes: str

    @property
    def bytes(self):
        return sum(shape.bytes for shape in self.shapes)

    def attribute(self, pattern):
        """Return what the group of a regular expression finds, or ''."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""


def kernels_of(text):
    """List the Kernels of a program's longest loop body, or of its entry."""
    computations = parse(text)
    entry = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)[1]
    bodies = re.findall(r"body=%?([\w.\-]+)", text) or [entry]
    body = max(bodies, key=lambda name: len(computations[name]))
    return list(_kernels(computations, body))


def parse(text):
    """Return {computation: {name: Instruction}} of a program."""
    computations = {}
    line_of = r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*?)\)(.*)"
    for line in text.splitlines():
        if begins := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            inside = computations[begins[1]] = {}
        elif found := re.match(line_of, line):
            name, result, opcode, operands, attributes = found.groups()
            operands = re.findall(r"%([\w.\-]+)", operands)
            it = Instruction(name, shapes_of(result), opcode, operands, attributes)
            inside[name] = it
    return computations


def shapes_of(text):
    """Read f32[8,4]{1,0}, or several of these in brackets, as Shapes."""
    return [
        Shape(dtype, tuple(int(length) for length in lengths.split(",") if length))
        for dtype, lengths in re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", text)
    ]


def _kernels(computations, name):
    body = computations[name]
    for it in body.values():
        if it.opcode == "call":
            yield from _kernels(computations, it.attribute(r"to_apply=%?([\w.\-]+)"))
        elif it.opcode not in FREE and not it.opcode.endswith("-done"):
            fused = computations.get(it.attribute(r"calls=%?([\w.\-]+)"), {})
            yield _kernel(it, body, fused)


def _kernel(it, body, fused):
    """Return the Kernel of an instruction; fused: what it is made of, if it is."""
    kind, call = _kind(it, {each.opcode for each in fused.values()})
    largest = max(shape.count for shape in it.shapes)
    dots = [each for each in fused.values() if each.opcode == "dot"]
    return Kernel(
        kind,
        call,
        dtype=NAMES.get(it.shapes[0].dtype, it.shapes[0].dtype),
        place=_place(it, fused),
        bytes=_moved(it, body, fused),
        operations=_convolved(it, body) + sum(_multiplied(dot, fused) for dot in dots),
        is_tiny=kind == "reduction" and largest < TINY,
        is_dilated="rhs_dilate" in it.attributes,
    )


def _kind(it, opcodes):
    target = it.attribute(r'custom_call_target="([^"]+)"')
    if target in CUDNN:
        return "convolution", CUDNN[target][0]
    if "dot" in opcodes:
        return "product", ""
    if collective := re.match(COLLECTIVE, it.opcode):
        return "collective", collective[1]
    if "reduce" in opcodes or it.opcode == "reduce":
        return "reduction", ""
    return ("copy" if it.opcode == "copy" else "fusion"), ""


def _moved(it, body, fused):
    """Count the bytes that an instruction reads and writes.

    Of an array that it only cuts slices from, or writes one into, the slices.
    """
    moved = sum(body[name].bytes for name in it.operands)
    if re.match(COLLECTIVE, it.opcode):
        return moved
    moved += it.bytes
    for whole in fused.values():
        users = [user for user in fused.values() if whole.name in user.operands]
        slices = [_slice(user, whole, fused) for user in users]
        if whole.opcode == "parameter" and slices and all(slices):
            # What is written into comes out again as a result, and as large
            written = [user.bytes for user in users if "update" in user.opcode]
            moved += sum(slices) - sum(written) - whole.bytes
    return moved


def _slice(user, whole, fused):
    """Count the bytes of `whole` that an instruction touches; 0: all."""
    if user.operands[0] != whole.name:
        return 0
    if user.opcode == "dynamic-update-slice":
        return fused[user.operands[1]].bytes
    return user.bytes if user.opcode in ("dynamic-slice", "gather", "slice") else 0


def _convolved(it, body):
    """Count the multiplications and additions of a convolution."""
    target = it.attribute(r'custom_call_target="([^"]+)"')
    if target not in CUDNN:
        return 0
    kernel, output = (
        (it if place is None else body[it.operands[place]]).shapes[0]
        for place in CUDNN[target][1:]
    )
    filters = kernel.lengths[it.attribute(r"dim_labels=\w+_(\w+)").index("o")]
    # Every number that the forward convolution puts out has met one filter
    return 2 * output.count * kernel.count // filters


def _multiplied(dot, fused):
    """Count the multiplications and additions of a matrix product."""
    left = fused[dot.operands[0]].shapes[0]
    summed = dot.attribute(r"lhs_contracting_dims=\{([\d,]+)\}").split(",")
    return 2 * dot.shapes[0].count * math.prod(left.lengths[int(k)] for k in summed)


def _place(it, fused):
    """Return such as "jit(scan)/while/body/closed_call/jvp(judge)/conv/add"; '': none.

    What has no such name itself has that of the first of what is fused in it.
    """
    names = (each.attribute(r'op_name="([^"]*)"') for each in (it, *fused.values()))
    return next((name for name in names if "/" in name), "")
