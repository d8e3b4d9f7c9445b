"""The same tests on the other backends of Keras, each in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

SUITE = Path(__file__).parent.parent


def test_a_backend_that_there_is_not_is_one_line():
    environment = {**os.environ, "KERAS_BACKEND": "nonesuch"}
    command = [sys.executable, "-c", "import models"]
    ran = subprocess.run(
        command, cwd=SUITE, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith("Keras does not start with KERAS_BACKEND=nonesuch: ")


def test_a_keras_json_of_the_users_changes_nothing(tmp_path):
    (tmp_path / "keras.json").write_text(
        '{"image_data_format": "channels_first", "floatx": "float64", "epsilon": 0.5}'
    )
    code = """
import models
from models import keras
g = models.build_generator("dcgan", 28, 0.1)
print(g.output_shape, g.output.dtype, keras.config.epsilon())
"""
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "MPLBACKEND": "nonesuch"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=SUITE,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "(None, 28, 28, 3) float32 1e-07\n", ran.stderr


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
