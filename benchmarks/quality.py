"""Which recipe draws the best faces: python -m benchmarks.quality --data FOLDER

Trains train.py with each recipe of RECIPES, at equal pictures shown and once per seed,
scores what it draws as evaluate.py does, and prints Markdown. A run that is finished
or scored already is taken as it is, so Ctrl-C and the same command lose nothing.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import evaluate
import models
from benchmarks import report
from benchmarks.machine import describe_machine, versions
from benchmarks.workers import SUITE
from dcgan.common.console import UserError, run
from dcgan.common.files import write_json
from dcgan.common.options import options, typed
from dcgan.runs import checkpoints
from dcgan.scores import inception, metrics
from dcgan.training.chance import noise, pick
from dcgan.training.hardware import describe_device
from preprocess import checksum_of, open_faces, prepare

# What to learn from, and for how long
DATA = "celeba"  # as train.py's DATA
IMAGE_SIZE = 28  # [8..1024] pixels of a face
IMAGES = 0  # [0..] the first so many pictures; 0: all
EPOCHS = 5  # [1..] passes over the pictures
SEEDS = "1"  # the seeds of the runs, as in 1,2
PRECISION = "auto"  # {auto, float32, bfloat16} as train.py's

# What to compare
RECIPES = "all"  # names of KNOWN, as in plain,averaged

# How to score: KID means something from 1000 samples up
SAMPLES = 5000  # [10..] fakes a generator, and as many real faces for KID
INCEPTION = ""  # Inception's weights; empty: fetched, as evaluate.py does

# Where
RUNS = "runs/quality"  # the folder of the runs
OUT = ""  # a file for what is printed

# No options from here on

# As evaluate.py's: the same faces for every recipe
SEED, MMD_FACES = 1, 2000

# The plain recipe, spelled out: train.py's defaults may be others by now
PLAIN = {
    **{"batch-size": 64, "g-learning-rate": 2e-4, "d-learning-rate": 2e-4},
    **{"d-steps": 1, "g-steps": 1, "beta-1": 0.5},
    **{"learning-rate-hold": 0, "learning-rate-half-life": 0},
    **{"average-decay": 0.999, "loss": "cross-entropy", "augment": "", "r1": 0},
    **{"d-norm": "batch", "width": 1, "label-smoothing": 0, "label-flipping": 0},
}


class Recipe(NamedTuple):
    """What is other than in PLAIN, and whether G is scored in place of its average."""

    changed: dict
    itself: bool = False


def _rates(generator, discriminator):
    return {"g-learning-rate": generator, "d-learning-rate": discriminator}


BATCH_32, BATCH_16 = {"batch-size": 32}, {"batch-size": 16}

KNOWN = {
    "plain": Recipe({}, itself=True),
    "averaged": Recipe({}),
    "batch 32, itself": Recipe(BATCH_32, itself=True),
    "batch 32": Recipe(BATCH_32),
    "batch 16": Recipe(BATCH_16),
    "rates 4e-4": Recipe(_rates(4e-4, 4e-4)),
    "D at 4e-4": Recipe(_rates(2e-4, 4e-4)),
    "G at 4e-4": Recipe(_rates(4e-4, 2e-4)),
    "TTUR": Recipe(_rates(5e-4, 1e-5)),
    "least squares": Recipe({"loss": "least-squares"}),
    "least squares, 1e-3": Recipe({"loss": "least-squares", **_rates(1e-3, 1e-3)}),
    "hinge": Recipe({"loss": "hinge"}),
    "relativistic": Recipe({"loss": "relativistic"}),
    "smoothing .1": Recipe({"label-smoothing": 0.1}),
    "translation": Recipe({"augment": "translation"}),
    "DiffAugment": Recipe({"augment": "colour,translation,cutout"}),
    "spectral": Recipe({"d-norm": "spectral"}),
    "no norm, R1 .1": Recipe({"d-norm": "none", "r1": 0.1}),
    "width 1.5": Recipe({"width": 1.5}),
    "batch 32, half-life 2": Recipe({**BATCH_32, "learning-rate-half-life": 2}),
    "batch 32, rates 4e-4": Recipe({**BATCH_32, **_rates(4e-4, 4e-4)}),
    "batch 32, G at 4e-4": Recipe({**BATCH_32, **_rates(4e-4, 2e-4)}),
    "batch 32, translation": Recipe({**BATCH_32, "augment": "translation"}),
    "batch 32, width 1.5": Recipe({**BATCH_32, "width": 1.5}),
}


def main(argv=None):
    """Train and score what the constants ask for, and print the table."""
    options(sys.modules[__name__], argv)
    names, seeds = chosen(), seeds_of(SEEDS)
    evaluate.REAL, evaluate.SEED = 0, SEED
    network, real = inception.load(inception.find(INCEPTION)), open_real()
    scores = {}
    for name in names:
        for seed in seeds:
            folder = folder_of(KNOWN[name], seed)
            train_run(KNOWN[name], seed, folder)
            scores[name, seed] = score(KNOWN[name], folder, network, real)
            print(f"{name}, seed {seed}: KID {scores[name, seed]['kid']:.5f}")
    show(report.Page(OUT), scores, real, network)


def chosen():
    """Return the names of the recipes that are wanted, in KNOWN's order.

    Raises UserError for one that there is not.
    """
    wanted = list(KNOWN) if RECIPES == "all" else named(RECIPES)
    for name in wanted:
        if name not in KNOWN:
            raise UserError(
                f"{typed(recipes=name)}: there are {'; '.join(KNOWN)}; or all."
            )
    return [name for name in KNOWN if name in wanted]


def named(text):
    """Split "plain,batch 32, itself" into names: some of KNOWN's have commas too."""
    names = []
    for part in text.split(","):
        longer = f"{names[-1]},{part}" if names else ""
        if longer and any(name.startswith(longer) for name in KNOWN):
            names[-1] = longer
        else:
            names.append(part.strip())
    return names


def seeds_of(text):
    """Turn "1,2" into [1, 2]. Raises UserError for anything but whole numbers."""
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise UserError(f"{typed(seeds=text)}: whole numbers, as in 1,2.")
    return [int(part) for part in text.split(",")]


def open_real():
    """Return the evaluate.Real faces that all recipes learn from."""
    prepared = prepare(DATA, IMAGE_SIZE, IMAGES)
    return evaluate.Real(open_faces(prepared), prepared, checksum_of(prepared), True)


def folder_of(recipe, seed):
    """Return the run folder of a recipe, named by what it changes."""
    words = [f"{name}-{value}" for name, value in recipe.changed.items()] or ["plain"]
    slug = "-".join(words).replace(",", "-")
    return Path(RUNS, f"{IMAGE_SIZE}-{slug}-{EPOCHS}-epochs-seed-{seed}")


def train_run(recipe, seed, folder):
    """Train in a process of its own, or go on with what was begun."""
    here = {"data": DATA, "image-size": IMAGE_SIZE, "images": IMAGES, "run": folder}
    here |= {"epochs": EPOCHS, "seed": seed, "precision": PRECISION, "score": "mmd"}
    given = {**PLAIN, **recipe.changed, **here}
    command = [sys.executable, str(SUITE / "train.py")]
    command += [f"--{name}={value}" for name, value in given.items()]
    print(f"Training {folder}", flush=True)
    if ended(subprocess.Popen(command)):
        raise UserError(f"The training of {folder} failed, or was stopped: see above.")


def ended(process):
    """Wait for a process and return its exit code. After Ctrl-C, which it has heard as
    well, it saves what it did, before this one ends.
    """
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


def score(recipe, folder, network, real):
    """Return the scores of a finished run, from its folder if they are there."""
    path = folder / f"quality-{'itself' if recipe.itself else 'average'}.json"
    wanted = {"samples": SAMPLES, "pixels": real.checksum, "network": network.sha256}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["wanted"] == wanted:
            return kept
    except (OSError, ValueError, KeyError, TypeError):
        pass
    arrays, progress = checkpoints.read(checkpoints.paths(folder)[-1])
    generator = generator_of(folder, arrays if recipe.itself else None)
    shape = (SAMPLES, models.LATENT)
    fake = models.draw(generator, noise(SEED, "evaluate_fake", shape))
    pairs = [
        pick(faces, min(MMD_FACES, len(faces)), SEED, "evaluate_mmd")
        for faces in (real.faces, fake)
    ]
    row = progress["rows"][-1]
    alike = ("real_accuracy", "fake_accuracy", "diversity")
    scores = {
        "mmd": metrics.mmd(*pairs),
        **evaluate.score_features(network, real, fake),
        **{name: row[name] for name in alike},
        "wanted": wanted,
    }
    write_json(path, scores)
    return scores


def generator_of(folder, arrays=None):
    """Return the averaged generator of a run's last epoch; of the arrays of a
    checkpoint, if they are given, the one behind it.
    """
    generator, _ = models.load_generator(folder, "last")
    if arrays:
        names = sorted(name for name in arrays if name.startswith("generator."))
        for variable, name in zip(generator.variables, names, strict=True):
            variable.assign(arrays[name])
    return generator


def show(page, scores, real, network):
    """Print what was measured on what, every run, and the mean over the seeds."""
    count, name = len(real.faces), real.prepared.name
    page(f"Machine: {describe_machine()}.  ")
    page(f"Device: {describe_device()}  ")
    page(f"Versions: {versions()}.  ")
    page(
        f"Pictures: {count:,} of {name} ({real.prepared.facts['crop']}), sha256 "
        f"{real.checksum[:8]}. {EPOCHS} epochs, so {EPOCHS * count:,} pictures shown, "
        "less the last incomplete batches.  "
    )
    page(
        f"Scores: the last epoch's generator, {SAMPLES:,} fakes against all real faces "
        f"(FID) or as many (the others), through {network.name}, sha256 "
        f"{network.sha256[:8]}.\n"
    )
    rows = []
    for (recipe, seed), it in scores.items():
        drawn = "itself" if KNOWN[recipe].itself else "average"
        cells = [recipe, as_options(KNOWN[recipe]), drawn, f"{seed}"]
        cells.append(f"{it['kid']:.4f} +- {it['kid_standard_error']:.4f}")
        cells += [f"{it['fid']:.1f}", f"{it['precision']:.2f}", f"{it['recall']:.2f}"]
        cells += [f"{it['mmd']:.5f}", f"{it['diversity']:.2f}"]
        cells.append(f"{it['real_accuracy']:.0%}, {it['fake_accuracy']:.0%}")
        rows.append(cells)
    head = ("recipe", "other than plain", "drawn by", "seed", "KID", "FID")
    head += ("precision", "recall", "MMD", "diversity", "D right on real, fake")
    page.table(head, rows)
    page()
    page.table(("recipe", "seeds", "mean KID", "against plain"), means(scores))


def as_options(recipe):
    """Return what a recipe changes as train.py's options."""
    changed = recipe.changed.items()
    return " ".join(f"`--{name} {value}`" for name, value in changed) or "nothing"


def means(scores):
    """Return the rows of the second table, the best recipe first."""
    kids = {}
    for (recipe, _), it in scores.items():
        kids.setdefault(recipe, []).append(it["kid"])
    mean = {recipe: statistics.mean(each) for recipe, each in kids.items()}
    plain = mean.get("plain")
    return [
        (
            *(recipe, f"{len(kids[recipe])}", f"{mean[recipe]:.4f}"),
            f"{mean[recipe] / plain:.2f}" if plain else "",
        )
        for recipe in sorted(mean, key=mean.get)
    ]


if __name__ == "__main__":
    run(main)
