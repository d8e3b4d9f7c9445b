"""A training, from the command to what it leaves: tiny runs, and parts of them."""

import copy
import hashlib
import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import evaluate
import generate
import models
import preprocess
import train
from dcgan.common import files
from dcgan.common.console import Stopping
from dcgan.common.options import current
from dcgan.runs import checkpoints, folder, generators
from dcgan.runs.run import Run
from dcgan.scores import inception
from dcgan.training import compiled, scoring
from dcgan.training.beside import Beside
from dcgan.training.devices import Device
from dcgan.training.progress import Progress
from dcgan.training.scoring import Scorer
from tests.runs.saved import make_old_checkpoint
from tests.tiny import (
    TINY,
    assert_same_bits,
    constants_of,
    final,
    generators_of,
    log_of,
    progress_of,
    set_constants,
)

LOSSES = ("d_loss", "g_loss", "real_accuracy", "fake_accuracy")


class Killed(BaseException):
    """Stands for the end of the process."""


def numbers_of(run="runs/tiny"):
    """Return what of the log and the generators does not depend on the clock."""
    columns = ("epoch", "iterations", *LOSSES, "diversity", "mmd", "alarm")
    rows = [[row[name] for name in columns] for row in log_of(run)]
    names = ("epochs", "iterations", "pictures_shown", "score", "scored_by")
    kept = {
        which: ([facts[name] for name in names], arrays)
        for which, (facts, arrays) in generators_of(run).items()
    }
    return rows, kept, progress_of(run)["best"]


def names_of(run):
    return [path.name for path in checkpoints.paths(run)]


@pytest.mark.parametrize("option", ["--stop-on-collapse", "--no-stop-on-collapse"])
def test_the_log_tells_of_a_score_that_training_waits_for(quick, monkeypatch, option):
    """As it does where a run may end by an alarm; else it is made beside."""
    scores, clock, passed = Scorer.scores, time.monotonic, [0]

    def slow(*arguments):
        passed[0] = 1000
        return scores(*arguments)

    monkeypatch.setattr(Scorer, "scores", slow)
    monkeypatch.setattr(time, "monotonic", lambda: clock() + passed[0])
    train.main([option])
    waited = float(log_of()[0]["end_seconds"])
    assert (waited >= 1000) == (option == "--stop-on-collapse")


@pytest.mark.every_backend
def test_a_run_leaves_what_the_readme_promises(tiny, trained):
    run, rows = tiny / "runs" / "tiny", log_of()
    columns = ["epoch", "iterations", *LOSSES, "diversity", "mmd"]
    columns += ["pictures_per_second", "seconds", "waiting_share", "end_seconds"]
    columns += ["run_pictures_per_second", "alarm"]
    assert list(rows[0]) == columns
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["iterations"] for row in rows] == ["5", "10"]
    assert [row.pop("alarm") for row in rows] == ["", ""]
    assert all(float(value) >= 0 for row in rows for value in row.values())
    for epoch in (1, 2):
        with Image.open(run / "samples" / f"epoch-00{epoch}.png") as sheet:
            assert sheet.size == (10 * 84 + 9 * 2, 2 * 84 + 2)
    with Image.open(run / "losses.png") as curves:
        assert min(curves.size) > 500
    assert names_of(run) == ["checkpoint-000005.npz", "checkpoint-000010.npz"]
    assert not list(run.rglob("part-*"))
    constants = constants_of()
    assert constants["constants"] == current(train)
    begun_with = constants["begun_with"]
    assert (begun_with["count"], begun_with["score"]) == (40, "mmd")
    assert begun_with["backend"] == keras.backend.backend()
    assert "keras" in constants
    printed = (trained / "printed.txt").read_text()
    for words in (
        "Device",
        "Backend",
        "40 of cartoons",
        " 2 epochs of 5 iterations of 8",
    ):
        assert words in printed
    assert "Scoring   MMD, by pixels, 40 samples against 40 real faces" in printed
    end = (
        "Finished: runs/tiny. Draw faces from it: python generate.py --run runs/tiny\n"
    )
    assert printed.endswith(end)


@pytest.mark.every_backend
def test_the_saved_generator_is_the_averaged_one_and_tells_of_itself(tiny):
    generator, facts = models.load_generator("runs/tiny", "last")
    arrays = final()
    for number, weight in enumerate(generator.weights):
        np.testing.assert_array_equal(weight.numpy(), arrays[f"average.{number:03d}"])
    assert (arrays["average.000"] != arrays["generator.000"]).any()
    assert models.draw(generator, train.sheet_noise()).shape == (20, 28, 28, 3)
    assert (facts["epochs"], facts["iterations"]) == (2, 10)
    assert facts["pictures_shown"] == 80
    assert facts["constants"] == current(train)
    # The array holds more pictures than the run was to take
    array = np.load("data/cartoons-28.npy")
    assert len(array) == 80
    assert facts["data"]["count"] == 40
    checksum = hashlib.sha256(array[:40].tobytes()).hexdigest()
    assert facts["data"]["checksum"] == checksum
    assert constants_of()["begun_with"]["checksum"] == checksum
    scorer = Scorer("mmd", array[:40], train.SCORE_SAMPLES, train.SEED, Device())
    noise = train.noise(train.SEED, "score_noise", (40, models.LATENT))
    assert scorer.score(models.draw(generator, noise))["mmd"] == facts["score"]
    assert facts["scored_by"] == scorer.protocol


@pytest.mark.every_backend
def test_a_run_of_before_goes_on_and_past_damage_to_the_same_bits(tiny, capsys):
    """Networks built and traced anew, from a checkpoint as older versions wrote it."""
    whole, numbers = final(), numbers_of()
    older, newest = checkpoints.paths("runs/tiny")
    make_old_checkpoint(older)
    assert names_of("runs/tiny") == ["checkpoint-000005", "checkpoint-000010.npz"]
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    train.main(["--keep-checkpoints", "1"])
    printed = capsys.readouterr().out
    assert "runs/tiny/checkpoint-000010.npz is damaged" in printed
    assert "Continuing runs/tiny at epoch 2, iteration 1" in printed
    assert_same_bits(whole, final())
    assert numbers_of() == numbers
    assert names_of("runs/tiny") == ["checkpoint-000010.npz"]
    assert not older.with_suffix("").exists()


def interrupt(patch, call, kill=False):
    """Send this process Ctrl-C when a call of the device has been started, or end it
    before that; call: which, from 1 on.
    """
    start, started = compiled.Calls.start, []

    def start_and_interrupt(calls, batches):
        started.append(1)
        if len(started) == call and kill:
            raise Killed
        scores = start(calls, batches)
        if len(started) == call:
            signal.raise_signal(signal.SIGINT)
        return scores

    patch.setattr(compiled.Calls, "start", start_and_interrupt)


def test_a_run_stopped_and_killed_in_its_epochs_ends_with_the_same_bits(
    quick, monkeypatch, capsys
):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)  # would be told, where it is set
    monkeypatch.setattr(train, "IMAGES", 120)  # three calls an epoch
    train.main(["--run", "runs/whole"])
    monkeypatch.setattr(train, "RUN", "runs/tiny")

    def stop(call, place):
        with monkeypatch.context() as patch:
            interrupt(patch, call)
            with pytest.raises(SystemExit) as stopped:
                train.main(["--epochs", "2"])
        assert stopped.value.code == 130
        error = capsys.readouterr().err
        assert f"Stopped and saved before {place}. To continue: python " in error

    with monkeypatch.context() as patch:
        interrupt(patch, 2, kill=True)
        with pytest.raises(Killed):
            train.main(["--epochs", "1", "--checkpoint-minutes", "1e-6"])
    assert names_of("runs/tiny") == ["checkpoint-000005.npz"]
    monkeypatch.setattr(train, "CHECKPOINT_MINUTES", 10.0)
    stop(1, "epoch 1, iteration 11")
    stop(1, "epoch 2, iteration 1")  # in the last call of an epoch
    train.main(["--epochs", "2"])
    printed = capsys.readouterr().out
    assert "Continuing runs/tiny at epoch 2, iteration 1." in printed
    assert_same_bits(final("runs/whole"), final())
    assert numbers_of() == numbers_of("runs/whole")


def test_an_epochs_end_waits_for_that_of_the_one_before(quick, monkeypatch):
    is_waited_for, told = threading.Event(), []
    scores, end_epoch, wait = Scorer.scores, Progress.end_epoch, Beside.wait

    def score_late(scorer, *arguments):
        is_waited_for.wait(60)  # it is at the end of the run, if not before
        told.append("scored")
        return scores(scorer, *arguments)

    def end(progress, *arguments):
        told.append(progress.epoch)
        return end_epoch(progress, *arguments)

    def tell_and_wait(beside):
        if beside.job:
            is_waited_for.set()
        wait(beside)

    monkeypatch.setattr(Scorer, "scores", score_late)
    monkeypatch.setattr(Progress, "end_epoch", end)
    monkeypatch.setattr(Beside, "wait", tell_and_wait)
    train.main(["--epochs", "3", "--epoch-end-share", "1e-9", "--run", "runs/slow"])
    assert told == ["scored", 1, 2, "scored", 3]
    assert [row["epoch"] for row in log_of("runs/slow")] == ["1", "2", "3"]


def test_ctrl_c_waits_for_no_score_but_the_last(quick, monkeypatch):
    noted, note = threading.Event(), Stopping.note

    class Network:
        """Stands for Inception; Ctrl-C comes while it looks at the first faces."""

        def features(self, faces, bar):
            if not noted.is_set():
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                assert noted.wait(60)
            bar.update(len(faces))
            return faces.mean((1, 2))

    def note_and_tell(stopping, *arguments):
        note(stopping, *arguments)
        noted.set()

    monkeypatch.setattr(Stopping, "note", note_and_tell)
    monkeypatch.setattr(inception, "find", lambda folder: "weights")
    monkeypatch.setattr(inception, "load", lambda path: Network())
    with pytest.raises(SystemExit) as stopped:
        train.main(["--score", "kid", "--epochs", "9", "--run", "runs/stopped"])
    assert stopped.value.code == 130
    assert {row["kid"] for row in log_of("runs/stopped")} == {""}
    noted.clear()
    train.main(["--score", "kid", "--epochs", "1", "--run", "runs/finished"])
    assert noted.is_set()
    [row] = log_of("runs/finished")
    assert float(row["kid"]) > 0


def test_a_run_made_longer_learns_and_scores_as_the_constants_say(
    tiny, quick, monkeypatch, capsys
):
    path = Path("runs/tiny", folder.CONSTANTS)
    written = constants_of()
    written["constants"] |= {"G_LEARNING_RATE": 1e-4, "D_LEARNING_RATE": 7e-4}
    del written["constants"]["KEEP_EVERY"]  # as older runs do not have it
    path.write_text(json.dumps(written))
    monkeypatch.setattr(train, "G_LEARNING_RATE", 1e-4)
    monkeypatch.setattr(train, "D_LEARNING_RATE", 7e-4)
    train.main(["--epochs", "5", "--score-every", "2", "--keep-every", "3"])
    assert "Continuing runs/tiny at epoch 3, iteration 1." in capsys.readouterr().out
    arrays = final()
    assert float(arrays["g_optimizer.001"]) == pytest.approx(1e-4)
    assert float(arrays["d_optimizer.001"]) == pytest.approx(7e-4)
    scores = [row["mmd"] and float(row["mmd"]) for row in log_of()]
    assert scores[2] == ""
    assert all(scores[:2] + scores[3:])  # the last one is scored in any case
    best = min((score, epoch) for epoch, score in enumerate(scores, 1) if score)
    kept = generators_of()
    assert kept["best"][0]["epochs"] == progress_of()["best"]["epoch"] == best[1]
    facts, _ = kept["last"]
    assert (facts["epochs"], facts["score"]) == (5, scores[4])
    assert generators.kept("runs/tiny") == [3]
    assert generators.read("runs/tiny", "3").facts["score"] is None


def test_short_epochs_leave_their_rows_and_the_first_and_last_all_there_is(quick):
    """And train to the same weights as if each of them had left all."""
    few = ["--images", "16", "--epochs", "6"]
    train.main([*few, "--run", "runs/each"])
    train.main([*few, "--run", "runs/tiny", "--epoch-end-share", "1e-9"])
    assert_same_bits(final("runs/each"), final())
    sheets = sorted(path.name for path in Path("runs/tiny/samples").iterdir())
    assert sheets == ["epoch-001.png", "epoch-006.png"]
    assert names_of("runs/tiny") == ["checkpoint-000002.npz", "checkpoint-000012.npz"]
    each, rows = log_of("runs/each"), log_of()
    for name in ("epoch", "iterations", *LOSSES):
        assert [row[name] for row in rows] == [row[name] for row in each]
    for name in ("diversity", "mmd"):
        wanted = [row[name] if row["epoch"] in "16" else "" for row in each]
        assert [row[name] for row in rows] == wanted
    best = min((rows[0], rows[5]), key=lambda row: float(row["mmd"]))
    assert progress_of()["best"]["epoch"] == int(best["epoch"])
    assert generators_of()["last"][0]["epochs"] == 6


def test_stopped_after_an_epoch_that_left_a_row_alone_it_goes_on_from_there(
    quick, monkeypatch, capsys
):
    few = ["--images", "16", "--epochs", "5", "--epoch-end-share", "1e-9"]
    train.main([*few, "--run", "runs/whole"])
    with monkeypatch.context() as patch:
        interrupt(patch, 3 * 2)  # in the last call of the third epoch
        with pytest.raises(SystemExit) as stopped:
            train.main([*few, "--run", "runs/tiny"])
    assert stopped.value.code == 130
    assert "Stopped and saved before epoch 4, iteration 1" in capsys.readouterr().err
    assert len(log_of()) == 1
    train.main([*few, "--run", "runs/tiny"])
    assert "Continuing runs/tiny at epoch 4, iteration 1" in capsys.readouterr().out
    assert_same_bits(final("runs/whole"), final())
    columns = ("epoch", *LOSSES)
    assert [[row[name] for name in columns] for row in log_of()] == [
        [row[name] for name in columns] for row in log_of("runs/whole")
    ]


SEVERAL = ["--d-steps", "2", "--g-steps", "3", "--batch-size", "4"]
SEVERAL += ["--average-decay", "0", "--score", "none", "--steps-per-call", "1"]
SEVERAL += ["--image-size", "48"]


def test_a_run_of_several_steps_in_two_parts_ends_with_the_same_bits(quick, capsys):
    """Unscored, without an average, and by plain train_on_batch."""
    train.main(SEVERAL)
    assert "Scoring   none: the last generator is kept" in capsys.readouterr().out
    whole, numbers = final(), kept_without_scores()
    assert whole["d_optimizer.000"] == 2 * 5 * 2
    assert whole["g_optimizer.000"] == 2 * 5 * 3
    for name in whole:
        if name.startswith("generator."):
            average = whole[name.replace("generator", "average")]
            np.testing.assert_allclose(average, whole[name], rtol=1e-4, atol=1e-6)
    checkpoints.paths("runs/tiny")[-1].unlink()
    train.main(SEVERAL)
    printed = capsys.readouterr().out
    assert "2 epochs of 5 iterations of 4" in printed
    assert "Continuing runs/tiny at epoch 2, iteration 1" in printed
    assert_same_bits(whole, final())
    assert kept_without_scores() == numbers


def kept_without_scores():
    assert "mmd" not in log_of()[0]
    assert progress_of()["best"] is None
    both = list(generators_of().values())
    for facts, _ in both:
        assert facts["score"] is facts["scored_by"] is None
        assert (facts["epochs"], facts["pictures_shown"]) == (2, 80)
    assert both[0][1] == both[1][1]
    return both[0][1]


def at_the_start(patch, body, *argv):
    """Run main() with body(run, gan, device, progress, faces, begun_with) in place of
    the training.
    """
    with patch.context() as inner:
        inner.setattr(train, "train", body)
        train.main([*argv])


def end_epoch(run, gan, device, progress, faces, begun_with):  # noqa: PLR0913
    """End the epoch as if its five iterations had been done."""
    kind, samples = begun_with["score"], train.SCORE_SAMPLES
    scorer = Scorer(kind, faces, samples, train.SEED, device)
    progress.add({name: np.full(5, 0.5) for name in LOSSES})
    progress.seconds = 1.0
    with Beside() as beside:
        train.finish_epoch(run, gan, device, progress, scorer, beside)


def test_a_run_trains_in_a_thread_of_another_program(fresh, quick):
    thread = threading.Thread(target=train.main, args=([],))
    thread.start()
    thread.join(120)
    assert len(log_of()) == 2


@pytest.mark.every_backend
def test_grey_pictures_are_learnt_drawn_and_scored_as_grey(fresh, quick, monkeypatch):
    train.main(["--channels", "1", "--epochs", "1", "--augment", "colour"])
    assert np.load("data/cartoons-28-grey.npy").shape == (40, 28, 28, 1)
    generator, facts = models.load_generator("runs/tiny", "last")
    assert facts["channels"] == 1
    assert models.draw(generator, train.sheet_noise()).shape == (20, 28, 28, 1)
    with Image.open("runs/tiny/samples/epoch-001.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    assert np.ptp(pixels, axis=2).max() == 0
    for script in (generate, evaluate):
        for name, value in current(script).items():
            monkeypatch.setattr(script, name, value)
    generate.main([])
    with Image.open("faces.png") as image:
        assert np.ptp(np.asarray(image).astype(int), axis=2).max() == 0
    before = Path("faces.png").read_bytes()
    [checkpoint] = checkpoints.paths("runs/tiny")
    generate.main(["--run", str(checkpoint)])
    assert Path("faces.png").read_bytes() == before
    evaluate.main(["--samples", "20", "--network", "none", "--run", "runs/tiny"])
    metrics = json.loads(Path("runs/tiny/metrics.json").read_text())
    assert metrics["mmd"] > 0
    monkeypatch.setattr(train, "EPOCHS", 2)
    refused = "CHANNELS was 1 and is 3"
    with pytest.raises(SystemExit, match=refused):
        train.main(["--channels", "3"])


@pytest.mark.every_backend
def test_what_an_epoch_leaves_is_its_own_whatever_the_next_one_does(
    fresh, quick, monkeypatch
):
    """Saved on a thread, while the next epoch moves all weights already."""
    moved, save_epoch, expected = threading.Event(), Run.save_epoch, {}

    def save_late(*arguments):
        assert moved.wait(60)
        save_epoch(*arguments)

    def end(run, gan, device, progress, faces, begun_with):  # noqa: PLR0913
        expected.update(checkpoints.finite_arrays(gan))
        with Beside() as beside:
            scorer = Scorer("none", faces, 2, train.SEED, device)
            progress.add({name: np.full(5, 0.5) for name in LOSSES})
            progress.seconds = 1.0
            train.finish_epoch(run, gan, device, progress, scorer, beside)
            for model in (gan.judge, gan.d_on_g):  # PyTorch's moves them in place
                weights = model.trainable_variables
                model.optimizer.apply([keras.ops.ones(w.shape) for w in weights])
            for variable in gan.average.variables:
                variable.assign(variable + 1)
            moved.set()

    monkeypatch.setattr(Run, "save_epoch", save_late)
    at_the_start(monkeypatch, end)
    assert_same_bits(expected, final())
    generator, _ = models.load_generator("runs/tiny", "last")
    average = [expected[name] for name in sorted(expected) if "average" in name]
    for weight, value in zip(generator.weights, average, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_a_checkpoint_waits_for_the_end_of_the_epoch_before(fresh, quick, monkeypatch):
    goes_on, done = threading.Event(), []
    start, save_epoch = compiled.Calls.start, Run.save_epoch
    save_checkpoint = Run.save_checkpoint

    def start_and_tell(calls, batches):
        scores = start(calls, batches)
        done.append("call")
        if done.count("call") == 3:  # the next epoch's first
            goes_on.set()
        return scores

    def save_late(run, arrays, average, progress, *rest):
        if progress.epoch == 2:
            assert goes_on.wait(60)
        save_epoch(run, arrays, average, progress, *rest)
        done.append("epoch's end")

    def save_and_tell(*arguments):
        done.append("checkpoint")
        save_checkpoint(*arguments)

    monkeypatch.setattr(train, "IMAGES", 80)  # two calls an epoch
    monkeypatch.setattr(train, "CHECKPOINT_MINUTES", 1e-6)
    monkeypatch.setattr(compiled.Calls, "start", start_and_tell)
    monkeypatch.setattr(Run, "save_epoch", save_late)
    monkeypatch.setattr(Run, "save_checkpoint", save_and_tell)
    train.main(["--epochs", "2"])
    first = ["call", "checkpoint", "call"]
    assert done == [*first, "call", "epoch's end", "checkpoint", "call", "epoch's end"]


def draw_one_face(gan):
    """Make the averaged generator draw the same face whatever the noise."""
    weight = gan.average.weights[0]
    weight.assign(np.zeros(weight.shape))


def test_the_best_generator_by_its_score_is_kept_and_the_last(tiny, quick, monkeypatch):
    _, before, noted = numbers_of()
    rows = [float(row["mmd"]) for row in log_of()]
    assert noted == {"epoch": 2, "score": rows[1]}
    assert rows[1] < rows[0]

    def end(run, gan, *rest):
        draw_one_face(gan)
        end_epoch(run, gan, *rest)

    at_the_start(monkeypatch, end, "--epochs", "3")
    score = float(log_of()[2]["mmd"])
    assert score > rows[1]
    how = "MMD, by pixels, 40 samples against 40 real faces"
    _, after, still = numbers_of()
    assert after["best"] == before["best"]
    assert after["best"][0] == [2, 10, 80, rows[1], how]
    assert after["last"][0] == [3, 15, 120, score, how]
    assert still == noted


# Before the log is renamed, or the last's JSON, the best, its JSON, the checkpoint
KILLS = (2, 4, 5, 6, 7)


@pytest.mark.slow
def test_a_kill_at_an_epochs_end_leaves_the_same_generators(tiny, quick, monkeypatch):
    """An epoch's end writes sheet, log, last, best and checkpoint, and changes nothing
    that trains.
    """
    newest = checkpoints.paths("runs/tiny")[-1]
    arrays, progress = checkpoints.read(newest)
    progress["best"]["score"] = 9.0  # so that the next one is better
    checkpoints.write(newest, arrays, progress)
    replace, replaced = files.replace, []

    def deadly(old, new):
        replaced.append(Path(new).name)
        if len(replaced) == deadly.at:
            raise Killed
        replace(old, new)

    def end(run, gan, device, progress, *rest):
        before = progress.as_dict()
        weights = [each.numpy() for each in compiled.variables_of(gan)]

        def end_in(path, kill_at=0):
            replaced.clear()
            deadly.at, run.folder = kill_at, Path(path)
            progress.take_up(copy.deepcopy(before))
            end_epoch(run, gan, device, progress, *rest)

        for writes in (0, *KILLS):
            shutil.copytree("runs/tiny", f"runs/{writes}")
        end_in("runs/0")
        expected = numbers_of("runs/0")
        for writes in KILLS:
            path = f"runs/{writes}"
            with pytest.raises(Killed):
                end_in(path, writes)
            assert progress_of(path)["epoch"] == 3  # to do still
            assert {facts["epochs"] for facts, _ in generators_of(path).values()} <= {
                2,
                3,
            }
            end_in(path)
            assert numbers_of(path) == expected
        for variable, weight in zip(compiled.variables_of(gan), weights, strict=True):
            np.testing.assert_array_equal(variable.numpy(), weight)

    monkeypatch.setattr(files, "replace", deadly)
    deadly.at = 0
    at_the_start(monkeypatch, end, "--epochs", "3")
    assert replaced == [
        *("epoch-003.png", "log.csv", "generator-last.weights.h5"),
        *("generator-last.json", "generator.weights.h5", "generator.json"),
        *("index.html", "checkpoint-000015.npz"),
    ]
    assert progress_of("runs/0")["best"]["epoch"] == 3


HUGE = ["--g-learning-rate", "0.5", "--d-learning-rate", "0.5"]


def test_a_run_may_end_at_an_alarm_and_keeps_the_best(quick, capsys):
    message = (
        r"ALARM in epoch 1: collapse .* Stopped; runs/tiny keeps the best generator "
        r"\(epoch 1, score \d\.\d+\)\. .*: --run runs/tiny-2 --g-learning-rate 0.25 "
        r"--d-learning-rate 0.25. To go on all the same: --no-stop-on-collapse"
    )
    with pytest.raises(SystemExit, match=message) as stopped:
        train.main([*HUGE, "--stop-on-collapse"])
    assert "\n" not in stopped.value.code
    assert len(log_of()) == 1
    assert progress_of()["best"]["epoch"] == 1
    _, kept, _ = numbers_of()
    assert kept["best"] == kept["last"]
    capsys.readouterr()
    train.main([*HUGE, "--no-stop-on-collapse"])
    printed = capsys.readouterr().out
    assert re.search("^ALARM in epoch 2: collapse", printed, re.M)
    assert "Finished: runs/tiny" in printed
    assert all("collapse" in row["alarm"] for row in log_of())


def test_a_generator_of_one_constant_raises_the_alarm_at_once(
    quick, monkeypatch, capsys
):
    def end(run, gan, *rest):
        draw_one_face(gan)
        end_epoch(run, gan, *rest)

    at_the_start(monkeypatch, end)
    assert log_of()[0]["alarm"] == "collapse"
    assert float(log_of()[0]["diversity"]) == 0
    assert "ALARM in epoch 1: collapse" in capsys.readouterr().out


def test_a_nan_stops_the_run_and_keeps_the_last_good_checkpoint(
    tiny, quick, monkeypatch
):
    newest = checkpoints.paths("runs/tiny")[-1]
    arrays, progress = checkpoints.read(newest)
    # The last layer's: before a ReLU some processors take NaN for 0
    ends = max(name for name in arrays if name.startswith("generator."))
    sound = arrays[ends].copy()
    arrays[ends].flat[0] = np.nan
    checkpoints.write(newest, arrays, progress)
    names, rows = names_of("runs/tiny"), log_of()
    last = r"runs/tiny/checkpoint-000010.npz is the last good checkpoint\. Try lower "
    last += "learning rates: --run runs/tiny-2 --g-learning-rate 0.0001 --d-le"
    message = rf"Training diverged in epoch 3, iteration 1: d_loss is nan\. {last}"
    with pytest.raises(SystemExit, match=message):
        train.main(["--epochs", "3"])

    def end(run, gan, *rest):
        """With losses as they should be, and weights that are not."""
        gan.generator.weights[-1].assign(sound)
        gan.average.weights[-1].assign(np.full(sound.shape, np.inf))
        end_epoch(run, gan, *rest)

    with pytest.raises(SystemExit, match=f"a weight of average is not finite. {last}"):
        at_the_start(monkeypatch, end, "--epochs", "3")
    assert names_of("runs/tiny") == names
    assert log_of() == rows


def test_a_run_folder_that_was_taken_away_is_not_begun_anew(tiny, quick, monkeypatch):
    def end(*arguments):
        shutil.move("runs/tiny", "elsewhere")
        end_epoch(*arguments)

    with pytest.raises(SystemExit, match="runs/tiny was removed or renamed during"):
        at_the_start(monkeypatch, end, "--epochs", "3")
    assert not Path("runs/tiny").exists()


def test_a_finished_run_says_how_to_go_on_and_leaves_all_as_it_was(
    tiny, quick, monkeypatch, capsys
):
    before = final()
    monkeypatch.setattr(scoring, "has_gpu", lambda: True)  # a new one would have KID
    Path("runs/tiny/lock").write_text("999999 on elsewhere")  # of a dead training
    Path("runs/tiny/part-7-log.csv").touch()
    Path("runs/tiny/part-1.zip").touch()
    train.main(["--score", "auto"])
    printed = capsys.readouterr().out
    assert "runs/tiny is finished: 2 epochs. To train it longer: --epochs 4" in printed
    assert "--run runs/tiny-2" in printed
    assert "Scoring   MMD" in printed
    assert_same_bits(before, final())
    assert not Path("runs/tiny/part-7-log.csv").exists()
    assert Path("runs/tiny/part-1.zip").exists()


def test_what_differs_from_how_a_run_was_begun_is_named_and_refused(
    tiny, quick, monkeypatch
):
    before = final()

    def refused(message, *options):
        with monkeypatch.context() as patch:
            set_constants(patch)
            with pytest.raises(SystemExit, match=message):
                train.main([*options, "--epochs", "3"])
        assert_same_bits(before, final())

    begun = "runs/tiny was begun differently: "
    refused(rf"{begun}SEED was 1 and is 2\. Set it back", "--seed", "2")
    refused(rf"{begun}score was 'mmd' and is 'none'", "--score", "none")
    refused(rf"{begun}D_STEPS was 1 and is 2", "--d-steps", "2")
    refused(rf"{begun}IMAGES was 40 and is 0", "--images", "0")
    monkeypatch.setattr(train, "DATA_FOLDER", "other")
    monkeypatch.setattr(preprocess, "CARTOON_SEED", 99)
    refused(rf"{begun}checksum was")


def test_a_second_training_in_one_folder_is_refused(tiny, quick):
    process = rf"Process {os.getpid()} on \S+ trains in runs/tiny"
    with folder.training("runs/tiny"), pytest.raises(SystemExit, match=process):
        train.main([])


def test_a_run_that_came_into_the_folder_meanwhile_is_not_continued(
    tiny, quick, monkeypatch
):
    shutil.move("runs/tiny", "aside")

    def prepare_slowly(*arguments):
        shutil.move("aside", "runs/tiny")
        return preprocess.prepare(*arguments)

    monkeypatch.setattr(train, "prepare", prepare_slowly)
    with pytest.raises(SystemExit, match="SEED was 1 and is 7"):
        train.main(["--seed", "7", "--epochs", "3"])
    assert constants_of()["constants"]["SEED"] == 1
    assert len(log_of()) == 2


def test_a_run_without_checkpoints_begins_anew_unless_it_has_a_generator(
    tiny, quick, monkeypatch
):
    for path in checkpoints.paths("runs/tiny"):
        path.unlink()
    facts, _ = generators_of()["last"]
    refused = "a generator of 2 epochs and no checkpoint.*To begin anew: --run NAME$"
    with pytest.raises(SystemExit, match=refused):
        train.main(["--seed", "7"])
    assert generators_of()["last"][0] == facts
    for path in Path("runs/tiny").glob("generator*"):
        path.unlink()
    at_the_start(monkeypatch, lambda *_: None, "--seed", "7")
    assert constants_of()["constants"]["SEED"] == 7
    at_the_start(monkeypatch, end_epoch, "--seed", "7")
    assert len(log_of()) == 1


def test_a_disk_without_room_for_the_checkpoints_is_named_first(quick, monkeypatch):
    nearly_full = shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: nearly_full)
    with pytest.raises(SystemExit, match=r"runs/tiny needs \d+ MB .* 1 MB free"):
        train.main([])
    assert not checkpoints.paths("runs/tiny")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_a_run_folder_that_even_root_cannot_make_is_one_line(quick):
    with pytest.raises(SystemExit, match=r"Cannot make /proc/x: .* Another: --run"):
        train.main(["--run", "/proc/x"])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ["--image-size", "50"],
            1,
            "cannot draw 50 pixels. Try --image-size 48, or --image-size 56",
        ),
        (["--image-size", "7"], 2, "--image-size 7: must be at least 8"),
        (["--loss", "hings"], 2, "--loss hings: must be one of cross-entropy, minim"),
        (["--epochs", "-1"], 2, "--epochs -1: must be at least 1"),
        (["--d-steps", "0"], 2, "--d-steps 0: must be at least 1"),
        (["--batch-size", "1"], 1, "BATCH_SIZE = 1: batch norm needs 2"),
        (["--epochs", "x"], 2, "--epochs: 'x' is not a whole number"),
        (["--epohcs", "1"], 2, "no option --epohcs, did you mean --epochs?"),
        (["--network", "tutorial"], 1, "tutorial network cannot draw 28 pixels"),
        (["--images", "3"], 1, "cartoons gives 3 pictures, too few for a batch of 8"),
        (["--data", "nowhere"], 1, "nowhere does not exist"),
        (["--run", "file/run"], 1, "Cannot write into"),
        (["--run", "file"], 1, "Cannot write into"),
        (["--seed", "4294967296"], 2, "--seed 4294967296: must be at least 0 and at"),
        (["--run", "full"], 1, "full holds something else"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    fresh, capsys, options, code, message
):
    (fresh / "file").touch()
    (fresh / "full").mkdir()
    (fresh / "full" / "part-photos").mkdir()
    (fresh / "full" / "part-1.zip").touch()
    before = sorted(fresh.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        train.main(options)
    line = capsys.readouterr().err if code == 2 else stopped.value.code
    assert message in line
    assert line.strip().count("\n") == 0
    assert (stopped.value.code == 2) == (code == 2)
    assert sorted(fresh.rglob("*")) == before


@pytest.mark.parametrize(
    ("size", "expected"), [(16, 32), (28, 32), (64, 32), (80, 64), (128, 64), (256, 64)]
)
def test_the_size_decides_how_large_a_batch_is_unless_it_is_said(
    monkeypatch, size, expected
):
    monkeypatch.setattr(train, "IMAGE_SIZE", size)
    monkeypatch.setattr(train, "BATCH_SIZE", 8)
    assert train.batch_size() == 8
    monkeypatch.setattr(train, "BATCH_SIZE", 0)
    assert train.batch_size() == expected
    assert train.chance().batch_size == expected


def test_the_constants_reach_what_draws_and_what_changes(monkeypatch):
    values = {"SEED": 9, "D_STEPS": 2, "G_STEPS": 3, "FLIP": False, "AUGMENT": "cutout"}
    values |= {"LABEL_SMOOTHING": 0.1, "LABEL_FLIPPING": 0.2, "BATCH_SIZE": 4}
    values |= {"G_LEARNING_RATE": 1e-3, "D_LEARNING_RATE": 2e-3, "AVERAGE_DECAY": 0.9}
    values |= {"LEARNING_RATE_HOLD": 5.0, "LEARNING_RATE_HALF_LIFE": 6.0}
    for name, value in values.items():
        monkeypatch.setattr(train, name, value)
    drawn = train.chance()
    assert (drawn.seed, drawn.d_steps, drawn.g_steps) == (9, 2, 3)
    assert (drawn.batch_size, drawn.flip, drawn.augment) == (4, False, True)
    assert (drawn.label_smoothing, drawn.label_flipping) == (0.1, 0.2)
    assert drawn.latent == models.LATENT
    changing = train.schedules()
    assert (changing.g_rate, changing.d_rate, changing.average_decay) == (
        1e-3,
        2e-3,
        0.9,
    )
    assert (changing.hold, changing.half_life) == (5, 6)
    sheet = np.random.default_rng((9, 6)).uniform(-1, 1, (train.SAMPLES, models.LATENT))
    np.testing.assert_array_equal(train.sheet_noise(), sheet.astype("float32"))


def build():
    """Build networks that compute without being traced."""
    gan = train.build("float32")
    gan.judge.run_eagerly = gan.d_on_g.run_eagerly = True
    return gan


def some_faces(count):
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28, 3), "uint8")


@pytest.mark.parametrize(("d_steps", "g_steps"), [(1, 1), (2, 3)])
def test_an_iteration_is_the_five_steps_that_the_readme_tells(
    monkeypatch, d_steps, g_steps
):
    """Against the same steps by hand, with the noise of the documented streams."""
    with pytest.MonkeyPatch.context() as patch:
        set_constants(patch)
        patch.setattr(train, "D_STEPS", d_steps)
        patch.setattr(train, "G_STEPS", g_steps)
        patch.setattr(train, "FLIP", False)
        gan, other, epoch, iteration = build(), build(), 2, 5
        real = some_faces(8 * d_steps).reshape(d_steps, 8, 28, 28, 3)
        batch = {"real": real} | train.chance().iteration(epoch, iteration)
        batch |= train.schedules().iteration(epoch, iteration, 10)
        batches = {
            name: keras.ops.convert_to_tensor(array[None])
            for name, array in batch.items()
        }
        scores = compiled.plain(gan, train.five_steps)(batches)
    ones, zeros = np.ones((8, 1), "float32"), np.zeros((8, 1), "float32")

    def uniform(purpose, place):
        random = np.random.default_rng((1, purpose, epoch, place))
        return random.uniform(-1, 1, (8, 100)).astype("float32")

    for step in range(d_steps):
        fake = other.generator(uniform(3, iteration * d_steps + step), training=True)
        both = {"real": keras.ops.convert_to_tensor(real[step]), "fake": fake}
        labels = {"real": ones, "fake": zeros}
        d = other.judge.train_on_batch(both, labels, return_dict=True)
    for step in range(g_steps):
        noise = uniform(4, iteration * g_steps + step)
        g_loss = other.d_on_g.train_on_batch(noise, ones)
    assert [scores[name][0] for name in LOSSES] == [
        *(d["loss"], g_loss),
        *(d["real_share_called_real"], d["fake_share_called_fake"]),
    ]
    for model, by_hand in ((gan.judge, other.judge), (gan.d_on_g, other.d_on_g)):
        for weight, expected in zip(model.variables, by_hand.variables, strict=True):
            np.testing.assert_array_equal(weight.numpy(), expected.numpy())


def test_the_networks_learn_the_colour_of_the_faces(quick, monkeypatch):
    """With any label swapped the generator would move away from the real faces."""
    gan = train.build("float32")
    for model in (gan.judge, gan.d_on_g):
        models.set_rate(model, 1e-3)
    orange = np.array([230, 140, 20], "uint8")
    real = orange + np.random.default_rng(0).integers(0, 20, (8, 28, 28, 3), "uint8")

    def distance():
        faces = models.to_pixels(models.make_fakes(gan.generator, train.sheet_noise()))
        return np.abs(faces.mean((0, 1, 2)) - real.mean((0, 1, 2))).mean()

    def batches_from(start):
        rows = [
            {"real": real[None]}
            | train.chance().iteration(1, number)
            | train.schedules().iteration(1, number, 40)
            for number in range(start, start + 5)
        ]
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return {name: keras.ops.convert_to_tensor(stacked[name]) for name in stacked}

    before, early = distance(), []
    call = compiled.fused(gan, train.five_steps)
    for start in range(0, 40, 5):
        scores = call(batches_from(start))
        if start in (5, 10):
            early.append(
                [np.mean(scores[f"{kind}_accuracy"]) for kind in ("real", "fake")]
            )
    assert distance() < before / 2
    assert min(np.mean(early, axis=0)) > 0.6


# To be stopped in its second epoch, whose last call is a shorter one
LONGER = {**TINY, "IMAGES": 80, "EPOCHS": 3, "STEPS_PER_CALL": 4}


def options_of(constants):
    words = []
    for name, value in constants.items():
        words += [f"--{name.lower().replace('_', '-')}", str(value)]
    return words


def wait_for(is_there, process, seconds=120):
    """Poll until is_there(); fail if the process ends or time runs out first."""
    end = time.monotonic() + seconds
    while not is_there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Train in one go what the next test stops; return its folder."""
    path = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        set_constants(patch)
        for name, value in LONGER.items():
            patch.setattr(train, name, value)
        train.main([])
    assert [row["alarm"] for row in log_of(path / TINY["RUN"])] == [""] * 3
    return path / TINY["RUN"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGUSR1])
def test_a_stopped_process_goes_on_to_the_same_bits(
    here, script_process, undisturbed, number
):
    constants = {**LONGER, "CHECKPOINT_MINUTES": 1e-6}
    process = script_process("train.py", *options_of(constants))
    in_epoch_2 = here / "runs" / "tiny" / "checkpoint-000014.npz"
    wait_for(in_epoch_2.exists, process)
    process.send_signal(number)
    error = process.communicate(timeout=60)[1]
    if number == signal.SIGKILL:
        assert process.returncode == -9
    else:
        assert process.returncode == 128 + number
        assert "Stopped and saved before epoch" in error
        assert re.search(r"To continue: python \S*train.py --data cartoons", error)
        assert "Traceback" not in error
    newest = names_of("runs/tiny")[-1]
    assert "checkpoint-000014.npz" <= newest < "checkpoint-000030.npz"
    constants["CHECKPOINT_MINUTES"] = 10
    again = script_process("train.py", *options_of(constants))
    out, error = again.communicate(timeout=200)
    assert again.returncode == 0, error
    assert "Continuing runs/tiny at epoch" in out
    assert_same_bits(final(undisturbed), final())
    assert numbers_of() == numbers_of(undisturbed)


@pytest.mark.slow
def test_where_the_best_score_misleads_the_end_names_the_last_generator(fresh, capsys):
    small = ("--image-size", "64", "--images", "8", "--width", ".1", "--epochs", "1")
    train.main([*small, "--run", "runs/larger"])
    printed = capsys.readouterr().out
    assert printed.endswith("python generate.py --run runs/larger --which last\n")
