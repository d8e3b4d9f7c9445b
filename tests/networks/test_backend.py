"""How Keras is imported; and the same tests on its other backends."""

import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from dcgan.networks import backend

SUITE = Path(__file__).parent.parent.parent


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=SUITE,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_a_backend_that_there_is_not_is_one_line():
    ran = python("-c", "import models", KERAS_BACKEND="nonesuch")
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith("Keras does not start with KERAS_BACKEND=nonesuch: ")


@pytest.mark.slow
def test_a_backend_of_matplotlib_that_there_is_not_is_one_line():
    ran = python("-c", "import models", MPLBACKEND="nonesuch")
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line.startswith("Matplotlib does not start with MPLBACKEND=nonesuch: ")
    assert line.endswith(" Its default: unset MPLBACKEND")


def test_figures_of_others_are_shown_where_they_would_be_without_the_suite():
    """As in a notebook, whose figures go where MPLBACKEND says."""
    code = """
import models
from dcgan.runs import curves
scores = dict(d_loss=1, g_loss=1, real_accuracy=1, fake_accuracy=1, diversity=1)
curves.draw_losses([{"epoch": 1, **scores}]).savefig(__import__("io").BytesIO())
import os
import matplotlib.pyplot
print(os.environ["MPLBACKEND"], matplotlib.pyplot.get_backend())
print(matplotlib.pyplot.get_fignums())
"""
    ran = python("-c", code, MPLBACKEND="svg")
    assert ran.stdout == "svg svg\n[]\n", ran.stderr


def test_what_keras_was_configured_to_changes_nothing():
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float64")
    keras.config.set_epsilon(0.5)
    importlib.reload(backend)
    assert keras.config.image_data_format() == "channels_last"
    assert keras.config.floatx() == "float32"
    assert keras.config.epsilon() == 1e-7


@pytest.mark.slow
def test_a_keras_json_of_the_users_changes_nothing(tmp_path):
    (tmp_path / "keras.json").write_text(
        '{"image_data_format": "channels_first", "floatx": "float64", "epsilon": 0.5}'
    )
    code = """
import models
from dcgan.networks.backend import keras
g = models.build_generator("dcgan", 28, 0.1)
print(g.output_shape, g.output.dtype, keras.config.epsilon())
"""
    ran = python("-c", code, KERAS_HOME=str(tmp_path))
    assert ran.stdout == "(None, 28, 28, 3) float32 1e-07\n", ran.stderr


@pytest.mark.backends
@pytest.mark.parametrize("name", ["tensorflow", "jax", "torch"])
def test_the_suite_trains_and_draws_on_every_backend(name):
    if name == keras.backend.backend():
        pytest.skip("the other tests run on it")
    if importlib.util.find_spec(name) is None:
        pytest.skip("not installed")
    ran = python("-m", "pytest", "-m", "every_backend", KERAS_BACKEND=name)
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout
