"""The same tests on the other backends of Keras, each in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

SUITE = Path(__file__).parent.parent


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_the_suite_trains_and_draws_on_every_backend(backend):
    if backend == keras.backend.backend():
        pytest.skip("the other tests run on it")
    if importlib.util.find_spec(backend) is None:
        pytest.skip("not installed")
    command = [sys.executable, "-m", "pytest", "-m", "every_backend"]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    ran = subprocess.run(
        command, cwd=SUITE, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout
