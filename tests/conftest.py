"""What the tests of several scripts share: a folder to run in, pictures, processes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# A shell that starts tests in the background makes them deaf to Ctrl-C, and all the
# scripts that they start
signal.signal(signal.SIGINT, signal.default_int_handler)

SUITE = Path(__file__).parent.parent


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def script_process(here):
    """Start a script of the suite as a process in the test's folder."""

    def start(script, *options):
        command = [sys.executable, str(SUITE / script), *map(str, options)]
        return subprocess.Popen(
            command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start
