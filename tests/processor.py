"""What tests need of the processor."""

import os

import pytest

needs_bfloat16 = pytest.mark.skipif(
    "ONEDNN_MAX_CPU_ISA" in os.environ,
    reason="TensorFlow asks the processor, not oneDNN, for bfloat16, and aborts",
)
