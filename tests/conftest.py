"""What the tests of several scripts share: a folder to run in, a run, processes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# A shell that starts tests in the background makes them deaf to Ctrl-C, and all the
# scripts that they start
signal.signal(signal.SIGINT, signal.default_int_handler)

# Whoever the tests ask is on this machine, where no proxy leads; JAX warns of any
for _name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)

SUITE = Path(__file__).parent.parent


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Train the tiny run, once for all tests; return the folder that it lies in.

    It holds runs/tiny, data (twice as many pictures as the run takes) and printed.txt,
    what train.py printed. To be copied from.
    """
    import preprocess
    import train
    from tests.tiny import set_constants

    folder = tmp_path_factory.mktemp("trained")
    with (
        pytest.MonkeyPatch.context() as patch,
        open(folder / "printed.txt", "w") as out,
    ):
        patch.chdir(folder)
        set_constants(patch)
        preprocess.prepare("cartoons", 28, 80)
        with contextlib.redirect_stdout(out):
            train.main([])
    return folder


@pytest.fixture
def fresh(here, trained, monkeypatch):
    """Set the constants of the tiny run in an empty folder; its array is shared."""
    from tests.tiny import set_constants

    (here / "data").symlink_to(trained / "data")
    set_constants(monkeypatch)
    return here


@pytest.fixture
def tiny(fresh, trained):
    """Work as `fresh` does, with a copy of the tiny run, finished, in runs/tiny."""
    shutil.copytree(trained / "runs", fresh / "runs")
    return fresh


@pytest.fixture(scope="session")
def reuse():
    from tests.tiny import Reuse

    return Reuse()


@pytest.fixture
def quick(fresh, reuse, monkeypatch):
    """Let a training in the test's process take a second: see Reuse; no losses.png."""
    import train
    from dcgan.runs import curves
    from dcgan.training import compiled

    monkeypatch.setattr(train, "build", reuse.build)
    monkeypatch.setattr(compiled, "fused", reuse.fuse)
    monkeypatch.setattr(curves, "save_losses", lambda *_: None)


@pytest.fixture
def script_process(here):
    """Start a script of the suite as a process in the test's folder."""

    def start(script, *options):
        command = [sys.executable, str(SUITE / script), *map(str, options)]
        return subprocess.Popen(
            command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start
