"""Do the scores put faces in order: python -m benchmarks.scoring --data FOLDER

Scores other real faces, the same blurred or noisy, and plain noise as if a generator
had drawn them. Whatever a score is good for, it must rise from one to the next. Prints
Markdown.
"""

import sys

import numpy as np
from PIL import Image, ImageFilter

import evaluate
from benchmarks import quality, report
from benchmarks.machine import describe_machine, versions
from dcgan.common.console import UserError, run
from dcgan.common.options import options, typed
from dcgan.scores import features, metrics

# What to score
DATA = "celeba"  # as train.py's DATA
IMAGE_SIZE = 28  # [8..1024] pixels of a face
SAMPLES = 2000  # [10..] of each kind; twice as many real pictures are needed
INCEPTION = ""  # Inception's weights; empty: fetched, as evaluate.py does
OUT = ""  # a file for what is printed

# No options from here on

# Faces that Inception looks at together
BATCH_SIZE = 50

# The random numbers of this script: default_rng((SEED, this))
SEED, PICK, GRAIN = 1, 40, 41


def main(argv=None):
    """Print the table, from what is most to what is least like real faces."""
    options(sys.modules[__name__], argv)
    evaluate.NETWORK = INCEPTION
    network, refusal = evaluate.open_network()
    if refusal:
        raise UserError(f"FID and KID look through Inception. {refusal}")
    quality.DATA, quality.IMAGE_SIZE = DATA, IMAGE_SIZE
    real = quality.open_real()
    if len(real.faces) < 2 * SAMPLES:
        raise UserError(
            f"{len(real.faces):,} pictures are fewer than twice "
            f"{typed(samples=SAMPLES)}."
        )
    order = np.random.default_rng((SEED, PICK)).permutation(len(real.faces))
    own, other = (np.sort(order[: 2 * SAMPLES].reshape(2, -1)[k]) for k in range(2))
    own, other = real.faces[own], real.faces[other]
    page = report.Page(OUT)
    page(f"Machine: {describe_machine()}.  ")
    page(f"Versions: {versions()}.  ")
    page(
        f"{SAMPLES:,} of each against {SAMPLES:,} of {real.prepared.name}, "
        f"{IMAGE_SIZE} x {IMAGE_SIZE}, through {network.name}.\n"
    )
    seen = seen_by(network, own, "Real faces")
    rows = []
    for name, faces in kinds(other).items():
        others = seen_by(network, faces, name)
        kid, error = metrics.kid(seen, others)
        shares = metrics.precision_recall(seen, others)
        cells = [name, f"{metrics.fid(seen, others):.2f}", f"{kid:.5f} +- {error:.5f}"]
        cells += [f"{metrics.mmd(own, faces):.5f}", *(f"{it:.3f}" for it in shares)]
        rows.append(cells)
    page.table(("faces", "FID", "KID", "MMD", "precision", "recall"), rows)


def seen_by(network, faces, name):
    """Return the features (n, 2048) of faces (n, S, S, 3) uint8."""
    return features.of(network, faces, f"{name} through Inception", BATCH_SIZE)


def kinds(faces):
    """Return {name: faces} made of real faces (n, S, S, 3), ever less like them."""
    random = np.random.default_rng((SEED, GRAIN))
    grain = random.normal(0, 32, faces.shape)
    return {
        "other real faces": faces,
        "the same, blurred a little": blurred(faces, 0.5),
        "the same, blurred": blurred(faces, 1.0),
        "the same, noisy": (faces + grain).round().clip(0, 255).astype("uint8"),
        "noise": random.integers(0, 256, faces.shape, dtype="uint8"),
    }


def blurred(faces, radius):
    """Blur faces (n, S, S, 3) uint8: Gaussian, its radius in pixels at 28 x 28."""
    blur = ImageFilter.GaussianBlur(radius * faces.shape[1] / 28)
    return np.stack([np.asarray(Image.fromarray(face).filter(blur)) for face in faces])


if __name__ == "__main__":
    run(main)
