"""What an H100 would run: kernels, bytes and operations are read right."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import compiled, hlo, report
from dcgan.common.console import UserError
from dcgan.common.options import current
from dcgan.networks.backend import keras

SUITE = Path(__file__).parents[2]

# As XLA prints it, but for attributes that nobody reads
PROGRAM = """\
HloModule jit_scan, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%first (whole: f32[10,4], k: s32[]) -> bf16[1,4] {
  %whole = f32[10,4]{1,0} parameter(0)
  %k = s32[] parameter(1)
  %cut = f32[1,4]{1,0} dynamic-slice(%whole, %k), dynamic_slice_sizes={1,4}
  ROOT %half = bf16[1,4]{1,0} convert(%cut), metadata={op_name="jit(scan)/while/body/x"}
}

%product (left: bf16[1,4], right: bf16[4,6]) -> bf16[1,6] {
  %left = bf16[1,4]{1,0} parameter(0)
  %right = bf16[4,6]{1,0} parameter(1)
  ROOT %dot = bf16[1,6]{1,0} dot(%left, %right), lhs_contracting_dims={1}
}

%means (x: bf16[2,8,8,4]) -> (f32[4], f32[4]) {
  %x = bf16[2,8,8,4]{3,2,1,0} parameter(0)
  %zero = f32[] constant(0)
  %one = f32[4]{0} reduce(%x, %zero), dimensions={0,1,2}, to_apply=%sum
  ROOT %both = (f32[4]{0}, f32[4]{0}) tuple(%one, %one)
}

%keep (rows: f32[10,4], row: f32[1,4], k: s32[]) -> f32[10,4] {
  %rows = f32[10,4]{1,0} parameter(0)
  %row = f32[1,4]{1,0} parameter(1)
  %k = s32[] parameter(2)
  ROOT %put = f32[10,4]{1,0} dynamic-update-slice(%rows, %row, %k)
}

%body (state: (s32[], f32[10,4])) -> (s32[], f32[10,4]) {
  %state = (s32[], f32[10,4]{1,0}, /*index=2*/bf16[4,6]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %rows = f32[10,4]{1,0} get-tuple-element(%state), index=1
  %weights = bf16[4,6]{1,0} get-tuple-element(%state), index=2
  %pictures = bf16[2,8,8,4]{3,2,1,0} get-tuple-element(%state), index=3
  %filter = bf16[6,4,4,4]{3,2,1,0} get-tuple-element(%state), index=4
  %narrow = bf16[2,4,4,6]{3,2,1,0} get-tuple-element(%state), index=5
  %cut = bf16[1,4]{1,0} fusion(%rows, %n), kind=kLoop, calls=%first
  %dot = bf16[1,6]{1,0} fusion(%cut, %weights), kind=kCustom, calls=%product
  %there = (bf16[2,4,4,6]{3,2,1,0}, u8[0]{0}) custom-call(%pictures, %filter), \
window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convForward", \
metadata={op_name="jit(scan)/while/body/closed_call/jvp(judge)/conv2d_1/conv"}
  %back = (bf16[2,8,8,4]{3,2,1,0}, u8[0]{0}) custom-call(%narrow, %filter), \
window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardInput"
  %weigh = (f32[6,4,4,4]{3,2,1,0}, u8[0]{0}) custom-call(%pictures, %narrow), \
window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardFilter"
  %wide = (bf16[4,4,4,6]{3,2,1,0}, u8[0]{0}) custom-call(%pictures, %narrow), \
window={size=4x4 pad=1_1x1_1 rhs_dilate=2x2}, dim_labels=f01b_i01o->b01f, \
custom_call_target="__cudnn$convForward"
  %statistics = (f32[4]{0}, f32[4]{0}) fusion(%pictures), kind=kInput, calls=%means
  %started = f32[10,4]{1,0} all-reduce-start(%rows), to_apply=%sum
  %told = f32[10,4]{1,0} all-reduce-done(%started)
  %copied = f32[10,4]{1,0} copy(%told)
  %row = f32[1,4]{1,0} bitcast(%copied)
  %kept = f32[10,4]{1,0} fusion(%copied, %row, %n), kind=kLoop, calls=%keep
  ROOT %next = (s32[], f32[10,4]{1,0}) tuple(%n, %kept)
}

ENTRY %main (rows: f32[10,4]) -> f32[10,4] {
  %rows = f32[10,4]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %state = (s32[], f32[10,4]{1,0}) tuple(%zero, %rows)
  %loop = (s32[], f32[10,4]{1,0}) while(%state), condition=%sum, body=%body
  ROOT %all = f32[10,4]{1,0} get-tuple-element(%loop), index=1
}
"""

# What the convolution of 2 pictures to 4 x 4, by 6 filters of 4 x 4 x 4, computes
CONVOLUTION = 2 * (2 * 4 * 4 * 6) * (4 * 4 * 4)


@pytest.fixture(autouse=True)
def keep_constants(monkeypatch):
    for name, value in current(compiled).items():
        monkeypatch.setattr(compiled, name, value)


@pytest.fixture(scope="module")
def kernels():
    return hlo.kernels_of(PROGRAM)


def test_every_instruction_of_the_loop_that_launches_is_a_kernel(kernels):
    assert [f"{it.kind} {it.call}".strip() for it in kernels] == [
        "fusion",
        "product",
        "convolution forward",
        "convolution backward-input",
        "convolution backward-filter",
        "convolution forward",
        "reduction",
        "collective all-reduce",
        "copy",
        "fusion",
    ]
    assert [it.is_dilated for it in kernels].index(True) == 5
    assert [it.is_tiny for it in kernels].index(True) == 6
    assert [it.dtype for it in kernels[3:5]] == ["bfloat16", "float32"]


def test_a_convolution_computes_the_same_whichever_way_it_goes(kernels):
    assert [it.operations for it in kernels[2:5]] == [CONVOLUTION] * 3
    assert kernels[1].operations == 2 * 4 * 6


def test_of_what_is_cut_or_written_into_only_the_slice_moves(kernels):
    first, last = kernels[0], kernels[-1]
    assert first.bytes == 4 * 4 + 4 + 2 * 4  # a row, its number, the row in half
    assert last.bytes == 4 * 4 + 4 * 4 + 4  # a row read, a row written, its number
    assert kernels[6].bytes == 2 * (2 * 8 * 8 * 4) + 4 * (4 + 4)
    assert kernels[7].bytes == 4 * 40  # what a device tells


def test_a_program_without_a_loop_is_its_entry():
    loop = "while(%state), condition=%sum, body=%body"
    without = PROGRAM.replace(loop, "copy(%state)")
    assert [it.kind for it in hlo.kernels_of(without)] == ["copy"]


def test_a_kernel_waits_for_the_slower_of_memory_and_arithmetic(kernels, monkeypatch):
    monkeypatch.setattr(compiled, "FLOAT32_TFLOPS", 100.0)
    kernel = kernels[2]._replace(bytes=3350, operations=0)
    assert compiled.seconds(kernel) == pytest.approx(1e-9)
    kernel = kernel._replace(operations=989 * 10**4)
    assert compiled.seconds(kernel) == pytest.approx(1e-8)
    kernel = kernel._replace(dtype="float32")
    assert compiled.seconds(kernel) == pytest.approx(9.89e-8)


def test_the_table_counts_kernels_and_devices(kernels):
    cells = compiled.column(kernels, batch=2, count=8)
    assert cells["kernels"] == "10"
    assert cells["convolutions, forward, bfloat16"] == "2"
    assert cells["convolutions, backward-filter, float32"] == "1"
    assert cells["of these with a dilated filter"] == cells["of these tiny"] == "1"
    assert cells["collectives"] == cells["copies"] == "1"
    alone = compiled.column(kernels, batch=2, count=1)["pictures/s"]
    rate, alone = (int(it.replace(",", "")) for it in (cells["pictures/s"], alone))
    assert rate == pytest.approx(8 * alone, abs=8)
    assert alone == pytest.approx(2 / (10 * 2.5e-6), rel=0.01)


def test_groups_are_of_one_kind_and_layer_and_the_longest_come_first(kernels, capsys):
    first = kernels[2]
    second = first._replace(place=first.place.replace("conv2d_1", "conv2d_2"))
    third = kernels[6]._replace(bytes=0)
    compiled.groups(report.Page(""), [third, first, second])
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("| convolutions forward: conv2d of judge | 2 |")
    assert rows[1].endswith("| 1 | 0.0 | 0.0 | 2.5 |")


@pytest.mark.parametrize(
    ("place", "layer"),
    [
        ("jit(scan)/while/body/closed_call/jvp(judge)/conv2d_1/add", "conv2d of judge"),
        (
            "jit(scan)/while/body/closed_call/transpose(jvp(d_on_g))"
            "/conv2d_transpose_1/jit(_var)/mul",
            "conv2d_transpose of d_on_g, backward",
        ),
        ("jit(scan)/while/body/closed_call/adam_1/sub", "adam"),
        ("jit(scan)/while/body/add", "the step itself"),
        ("", "no place told"),
    ],
)
def test_a_place_is_told_by_layer_and_model(place, layer):
    assert compiled.layer_of(place) == layer


def test_without_cuda_wheels_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(compiled, "WHEELS", ("no_such_wheel",))
    compiled.main([])
    assert capsys.readouterr().out == (
        'Left out: no CUDA wheels. Try: pip install "jax[cuda12]>=0.10,<0.12"\n'
    )


def test_another_backend_than_jax_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(UserError, match="KERAS_BACKEND=jax python -m"):
        compiled.main([])


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(importlib.util.find_spec, compiled.WHEELS)), reason="no CUDA wheels"
)
def test_the_suites_own_call_is_compiled_for_one_device_and_for_two():
    quick = "--image-size 28 --batches 2 --steps 2 --devices 2 --groups 3"
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.compiled", *quick.split()],
        cwd=SUITE,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    rows = [line.split(" | ") for line in ran.stdout.splitlines() if "|" in line]
    cells = {row[0].strip("| "): [it.strip(" |") for it in row[1:]] for row in rows}
    assert cells["an iteration"] == ["batch 2", "batch 2 on each of 2"]
    assert min(map(int, cells["kernels"])) > 50
    assert cells["collectives"][0] == "0" < cells["collectives"][1]
    assert min(float(it) for it in cells["GFLOP, a picture"]) > 0.1
