import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dcgan.runs import folder
from tests.runs.saved import contents

RUN = Path("runs/a")


@pytest.fixture(autouse=True)
def run(here):
    RUN.mkdir(parents=True)


def write(text):
    (RUN / folder.CONSTANTS).write_text(text)


def test_constants_are_read_as_they_were_written_also_those_of_older_runs():
    assert folder.read_constants(RUN) is None
    assert folder.read_constants("runs/b") is None
    written = {
        "constants": {**folder.ADDED, "SEED": 1, "LOSS": "hinge"},
        "begun_with": {**folder.BEGUN_WITH, "count": 3, "batch_size": 64},
    }
    write(json.dumps({**written, "keras": "3"}))
    assert folder.read_constants(RUN) == {**written, "changes": []}
    write(json.dumps({"constants": {"BATCH_SIZE": 64}, "pictures": {"count": 3}}))
    older = folder.read_constants(RUN)
    assert older["constants"] == {**folder.ADDED, "BATCH_SIZE": 64}
    assert older["begun_with"] == written["begun_with"]
    write(json.dumps({**written, "changes": [{"epochs": 2}]}))
    assert folder.read_constants(RUN)["changes"] == [{"epochs": 2}]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"constants": {}}', "[" * 100_000, '{"constants": 3}']
)
def test_constants_that_cannot_be_read_are_one_line(text):
    write(text)
    with pytest.raises(SystemExit, match=r"constants\.json cannot be read: ") as error:
        folder.read_constants(RUN)
    assert "\n" not in error.value.code


def test_a_folder_of_something_else_is_no_run_but_one_that_was_killed_early_is():
    for name in ("lock", "part-7-constants.json"):
        (RUN / name).touch()
    assert folder.read_constants(RUN) is None
    for name in ("letter.txt", "part-1.zip", "part-photos"):
        (RUN / name).touch()
        with pytest.raises(SystemExit, match="runs/a holds something else"):
            folder.read_constants(RUN)
        (RUN / name).unlink()


def test_other_values_are_named_and_refused():
    before = {"SEED": 1, "LOSS": "hinge"}
    folder.compare(RUN, None, {"SEED": 2})
    folder.compare(RUN, before, {"SEED": 1})
    message = (
        "runs/a was begun differently: SEED was 1 and is 2; R1 was None and is 0. Set "
        "it back, or start another run: --run runs/a-2"
    )
    with pytest.raises(SystemExit) as refused:
        folder.compare(RUN, before, {"SEED": 2, "LOSS": "hinge", "R1": 0})
    assert refused.value.code == message


def test_one_training_at_a_time_and_none_while_it_must_rest():
    me = f"Process {os.getpid()} on "
    training = pytest.raises(SystemExit, match=f"{me}.* trains in runs/a. Wait for it")
    with folder.training(RUN), training, folder.training(RUN):
        pass
    resting = pytest.raises(SystemExit, match=f"{me}.* trains in runs/a. Stop that")
    with folder.training(RUN), resting, folder.resting(RUN):
        pass
    before = (RUN / folder.LOCK).read_bytes()
    busy = pytest.raises(SystemExit, match="trains in runs/a")
    with folder.resting(RUN), folder.resting(RUN), busy, folder.training(RUN):
        pass
    assert (RUN / folder.LOCK).read_bytes() == before
    with folder.training(RUN):
        pass
    with folder.training("runs/new/deep"):
        assert Path("runs/new/deep/lock").exists()


def test_a_run_that_nobody_may_write_rests_and_nothing_is_written():
    with folder.resting(RUN):
        assert contents(RUN) == {}
    assert not (RUN / folder.LOCK).exists()
    (RUN / folder.LOCK).touch(0o444)
    with folder.resting(RUN):
        pass
    assert (RUN / folder.LOCK).read_bytes() == b""


def test_the_lock_of_a_dead_training_does_not_block():
    program = (
        "import os, signal; from dcgan.runs import folder\n"
        f"with folder.training({str(RUN)!r}): os.kill(os.getpid(), signal.SIGKILL)"
    )
    suite = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": suite}
    killed = subprocess.run([sys.executable, "-c", program], env=environment)
    assert killed.returncode == -9
    assert " on " in (RUN / folder.LOCK).read_text()  # it still names the dead one
    with folder.training(RUN):
        assert (RUN / folder.LOCK).read_text().startswith(f"{os.getpid()} on ")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_a_run_folder_that_even_root_cannot_make_is_one_line():
    refused = pytest.raises(SystemExit, match=r"Cannot make /proc/x: .* Another: --run")
    with refused, folder.training("/proc/x"):
        pass


def test_a_run_folder_in_a_file_or_in_its_place_is_one_line():
    Path("file").touch()
    for path in ("file", "file/run", "file/run/deeper"):
        with pytest.raises(SystemExit, match=r"Cannot write into \S*file\. "):
            folder.check_writable(path)
    folder.check_writable("runs/a/b/c")


def test_what_a_killed_run_left_is_removed_and_what_is_ones_own_stays():
    (RUN / "samples").mkdir()
    left = ["part-7-log.csv", "samples/part-12-epoch-001.png"]
    left += ["part-checkpoint-000003", "part-removed-checkpoint-000002"]
    own = ["part-1.zip", "part-photos", "log.csv", "samples/part-time.png"]
    for name in (*left, *own):
        (RUN / name).touch()
    for name in left[2:]:
        (RUN / name).unlink()
        (RUN / name).mkdir()
        (RUN / name / "weights.npz").touch()
    folder.sweep(RUN)  # it is no run, for it has no constants.json
    assert all((RUN / name).exists() for name in left)
    write("{}")
    folder.sweep(RUN)
    assert not any((RUN / name).exists() for name in left)
    assert all((RUN / name).exists() for name in own)


def test_a_run_folder_that_was_taken_away_is_told():
    write("{}")
    folder.check_there(RUN)
    RUN.rename("elsewhere")
    with pytest.raises(SystemExit, match="runs/a was removed or renamed during the"):
        folder.check_there(RUN)


def test_versions_tell_what_the_numbers_of_a_run_depend_on():
    versions = folder.versions()
    assert {"keras", "numpy", "pillow", "commit"} <= versions.keys()
    assert all(versions[name] for name in versions if name != "commit")
