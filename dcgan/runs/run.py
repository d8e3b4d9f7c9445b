"""A run as train.py handles it: its folder, and every message that names the folder."""

import contextlib
import math
import os
import sys
import time
from pathlib import Path

from dcgan.common.console import UserError, is_out_of_memory, tell
from dcgan.common.files import write_json
from dcgan.common.options import quoted, typed, with_variable
from dcgan.networks.losses import LOSSES
from dcgan.runs import checkpoints, curves, folder, fork, generators, page, tensorboard


def open_run(path, constants, origin, device):
    """Return the Run in a folder; in all but the first process of several, a Guest.

    constants: {name: value} of train.py; origin: the folder of another run to go on
    from, or "". Raises UserError if the folder cannot be written, or holds a run that
    was begun with other constants than may change, or none.
    """
    return (Run if device.is_first else Guest)(path, constants, origin)


class Run:
    """A run folder, and what becomes of it while it trains."""

    def __init__(self, path, constants, origin):
        self.folder, self.constants = Path(path), constants
        if constants["TENSORBOARD"]:
            tensorboard.check()
        self.before = self._read_before(origin)
        self.origin = fork.read(origin) if origin and not self.before else None
        if self.origin:
            self.origin.check(constants)
        self.changes, self.saved = [], time.monotonic()
        self.ends = Pace()

    def _read_before(self, origin):
        """Return what constants.json says of a run to be continued; None: a new one."""
        folder.check_writable(self.folder)
        before = folder.read_constants(self.folder)
        if before and "METHOD" in before["constants"]:
            raise UserError(
                f"{self.folder} is a run of rivals.py. Another folder: --run NAME"
            )
        if before and not checkpoints.paths(self.folder):
            fork.check_new(self.folder, before["changes"], origin)
            before = None  # nothing is lost if it begins anew, otherwise maybe
        fixed = {
            name: value
            for name, value in self.constants.items()
            # What it went on from is not needed any more
            if name not in folder.FREE and (name != "FROM" or origin)
        }
        folder.compare(self.folder, before and before["constants"], fixed)
        return before

    @property
    def shared(self):
        """The constants that are the same in all processes of the run."""
        return {
            name: it for name, it in self.constants.items() if name not in folder.OWN
        }

    def had(self, name):
        """Return what the run, or the one it goes on from, was begun with; or None."""
        if self.origin:
            return self.origin.begun_with.get(name)
        return self.before and self.before["begun_with"].get(name)

    def check(self, begun_with):
        """Raise UserError if the run was begun with something else, a dict of facts."""
        folder.compare(
            self.folder, self.before and self.before["begun_with"], begun_with
        )
        if self.origin:
            self.origin.check(self.constants, begun_with)

    @contextlib.contextmanager
    def begin(self, begun_with, device, pictures, gan):
        """Hold the run folder, for the block, and write what is to be there at first.

        begun_with: facts that may not change; device: in words; pictures: Prepared.
        """
        with folder.training(self.folder):
            # Once more: another run may have been here meanwhile
            self.before = self._read_before(self.constants["FROM"])
            self.check(begun_with)
            if self.before is None:
                written = {"constants": self.constants, "begun_with": begun_with}
                written |= {"device": device, **folder.versions()}
                if origin := self.constants["FROM"]:
                    fork.begin(origin, self.folder, written)
                else:
                    write_json(self.folder / folder.CONSTANTS, written)
            self.changes = folder.read_constants(self.folder)["changes"]
            names = ("EPOCHS", "KEEP_CHECKPOINTS", "KEEP_EVERY")
            epochs, keep, every = (self.constants[name] for name in names)
            kept = epochs // every if every else 0
            checkpoints.check_room(self.folder, gan, keep, kept)
            folder.sweep(self.folder)
            self.begun_with, self.pictures = begun_with, pictures
            yield

    def load(self, gan):
        """Load the newest checkpoint; return its progress, or None for a new run."""
        self.saved = time.monotonic()
        progress = checkpoints.load(self.folder, gan)
        if progress is None and self.origin:
            self.origin.load(gan)  # a pair of networks: of a run there is a checkpoint
        return progress

    def is_due(self, minutes):
        """Tell whether the last checkpoint is so many minutes old."""
        return time.monotonic() - self.saved > minutes * 60

    def end_is_due(self, share, progress):
        """Tell whether an epoch's end is due; one that is kept always is."""
        return self._is_kept(progress.epoch) or self.ends.is_due(share)

    def _is_kept(self, epoch):
        every = self.constants["KEEP_EVERY"]
        return every and epoch % every == 0

    def save_checkpoint(self, gan, progress):
        """Save all that is needed to go on from here.

        Raises FloatingPointError, and saves nothing, if a weight is not finite.
        """
        self._save(checkpoints.finite_arrays(gan), progress)

    def _save(self, arrays, progress):
        folder.check_there(self.folder)
        keep = self.constants["KEEP_CHECKPOINTS"]
        checkpoints.save(self.folder, arrays, progress.as_dict(), keep)
        self.saved = time.monotonic()

    def save_epoch(self, arrays, average, progress, sheet, scored_by):
        """Write sheet, log, curves, generators, page and, last, checkpoint of an epoch.

        Killed before the checkpoint is there, a run does the epoch's end once more.
        arrays: of checkpoints.finite_arrays(); average: the averaged generator, a copy;
        sheet: faces (n, S, S, 3) uint8; scored_by: how, in words, or None.
        """
        folder.check_there(self.folder)
        row = progress.rows[-1]
        curves.save_sheet(self.folder, row["epoch"], sheet)
        undecided = LOSSES[self.constants["LOSS"]].undecided
        curves.save_log(self.folder, progress.rows, self.changes, undecided)
        facts = self._facts_of_generator(average, row, scored_by)
        progress.best = generators.keep(self.folder, average, facts, progress.best)
        if self._is_kept(row["epoch"]):
            generators.save(self.folder, average, facts, str(row["epoch"]))
        page.save(self.folder, undecided)
        if self.constants["TENSORBOARD"]:
            tensorboard.save(self.folder, progress.rows)
        self._save(arrays, progress)

    def _facts_of_generator(self, generator, row, scored_by):
        """Return what is told of the generator of the epoch with a row of the log."""
        constants, begun_with, made = (
            self.constants,
            self.begun_with,
            self.pictures.facts,
        )
        names = (*generators.SHAPED_BY, "seed")
        faces = row["iterations"] * begun_with["batch_size"] * constants["D_STEPS"]
        return {
            **{name: constants[name.upper()] for name in names},
            "latent": generator.input_shape[1],
            "backend": begun_with["backend"],
            "averaged": True,
            "data": {"name": self.pictures.name, "count": begun_with["count"]}
            | {fact: made[fact] for fact in ("source", "crop", "filter")}
            | {"checksum": begun_with["checksum"]},
            "epochs": row["epoch"],
            "iterations": row["iterations"],
            "pictures_shown": faces,
            "score": next((row[name] for name in curves.SCORES if name in row), None),
            "scored_by": scored_by,
            "constants": constants,
            "changes": list(self.changes),
            **folder.versions(),
        }

    @contextlib.contextmanager
    def explain(self, progress, batch_size):
        """Turn what ends a training in the block into a UserError that says so."""
        try:
            yield
        except FloatingPointError as error:
            raise UserError(self._diverged(error, progress)) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise UserError(self._too_large(batch_size)) from error
            raise

    def _diverged(self, error, progress):
        saved = checkpoints.paths(self.folder)
        last = f"{saved[-1]} is the last good checkpoint. " if saved else ""
        return (
            f"Training diverged in {progress.place()}: {error}. {last}Try lower "
            f"learning rates: {self._slower()}"
        )

    def _too_large(self, batch_size):
        size = self.constants["IMAGE_SIZE"]
        mend = {"batch_size": max(2, batch_size // 2)}
        if checkpoints.paths(self.folder):
            mend["run"] = self._another()
        return (
            f"Out of memory with {batch_size} faces of {size} x {size} a batch. Try "
            f"{typed(**mend)}"
        )

    def _another(self):
        """Name the folder of another run."""
        return f"{self.folder}-2"

    def _slower(self):
        """Return the options of another run that learns at half the rates."""
        names = ("g_learning_rate", "d_learning_rate")
        rates = {name: f"{self.constants[name.upper()] / 2:g}" for name in names}
        return typed(run=self._another(), **rates)

    def heed(self, alarm, progress, stop):
        """Tell of an alarm, a line. If it is to stop the run, raise UserError."""
        if stop:
            raise UserError(self._stopped_by(alarm, progress))
        tell(alarm)

    def _stopped_by(self, alarm, progress):
        """Say that an alarm, a line, ended the run, what is kept, and what to try."""
        best = progress.best
        kept = (
            f"epoch {best['epoch']}, score {best['score']:.5f}" if best else "the last"
        )
        return (
            f"{alarm} Stopped; {self.folder} keeps the best generator ({kept}). Try "
            f"lower learning rates or another seed: {self._slower()}. To go on all the "
            "same: --no-stop-on-collapse"
        )

    def summary(self, gan, pictures, begun_with, scored):
        """Say what will run. pictures: Prepared; scored: how, in words, or None."""
        g, d = gan.generator.count_params(), gan.discriminator.count_params()
        now, batch = self.constants, begun_with["batch_size"]
        size = f"{now['IMAGE_SIZE']} x {now['IMAGE_SIZE']}"
        iterations = pictures.count // (batch * now["D_STEPS"])
        return f"""\
Pictures  {pictures.count:,} of {pictures.name}, {size}, in {pictures.path}
Networks  {now["NETWORK"]}: generator {g:,} parameters, discriminator {d:,}, \
{begun_with["precision"]}
Training  {generators.epochs_in_words(now["EPOCHS"])} of {iterations:,} iterations of \
{batch}
Scoring   {scored or "none: the last generator is kept"}
Run       {self.folder}"""

    def saved_at(self, progress):
        """Say what a stopped run saved, and how to continue it."""
        command = " ".join(map(quoted, ["python", *sys.argv]))
        name = "KERAS_BACKEND"
        command = with_variable(name, os.environ.get(name), command)
        return f"Stopped and saved before {progress.place()}. To continue: {command}"

    def continuing(self, progress):
        """Say where the run goes on."""
        return f"Continuing {self.folder} at {progress.place()}."

    def is_finished(self, progress):
        """Say that there is nothing left to do, and what could be."""
        done = progress.epoch - 1
        return (
            f"{self.folder} is finished: {generators.epochs_in_words(done)}. To train "
            f"it longer: {typed(epochs=2 * done)}. To start another run: "
            f"{typed(run=self._another())}"
        )

    def finished(self, which=""):
        """Say how to draw from the run, by the options `which` besides its folder."""
        command = f"python generate.py {typed(run=self.folder)}{which}"
        return f"Finished: {self.folder}. Draw faces from it: {command}"


class Pace:
    """What is done again and again, and is to take no more than a share of the time."""

    def __init__(self):
        self.ended, self.took = -math.inf, 0.0

    def is_due(self, share):
        """Tell whether it would not, if it took as long as the last time. The first one
        is due; of the share 1 each.
        """
        passed = time.monotonic() - self.ended
        return share == 1 or passed * share >= self.took

    def note(self, took):
        """Note that it was done just now, in so many seconds."""
        self.ended, self.took = time.monotonic(), took


class Guest(Run):
    """The run in a process that is not the first: nothing is read or saved there."""

    def _read_before(self, _):
        self.constants = {**self.constants, "FROM": ""}

    def __init__(self, path, constants, _):
        super().__init__(path, constants, "")

    def check(self, begun_with):
        pass

    def begin(self, *_):
        return contextlib.nullcontext()

    def load(self, gan):
        pass

    def is_due(self, minutes):
        return False

    def end_is_due(self, *_):
        return False

    def save_checkpoint(self, *_):
        pass

    def save_epoch(self, *_):
        pass
