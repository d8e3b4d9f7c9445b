"""Score a trained generator against real faces: python evaluate.py

Takes the newest run in runs/, or the generator that came with the suite. Prints one
table and writes it as metrics.json beside the weights. nearest.png shows ten fakes
above the real faces that come nearest to them.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import models
import preprocess
from dcgan.common.console import Bar, UserError, quiet_stderr, run
from dcgan.common.files import read_json, write_json, write_whole
from dcgan.common.options import options
from dcgan.pictures.faces import grid
from dcgan.runs import curves, page
from dcgan.runs.folder import now, versions
from dcgan.runs.generators import find, folder_of, in_words
from dcgan.scores import features, inception, metrics
from dcgan.scores.nearest import nearest
from dcgan.training.chance import noise, pick
from dcgan.training.hardware import describe_backend, describe_device, keep_compiled

# Which generator, and against which faces
RUN = ""  # a run folder, or a generator or checkpoint in one; empty: see above
WHICH = "best"  # the epoch: "best" by its score, "last", or one that was kept, "20"
DATA = ""  # real faces, as train.py's DATA; empty: those that it was trained on
DATA_FOLDER = "data"  # where downloads lie, and the arrays made of pictures

# How many. FID means little below 10000, KID serves from 1000 up
SAMPLES = 10000  # [10..1000000] fakes to draw
REAL = 0  # [0..] real faces that FID sees, drawn at random; 0: all
SEED = 1  # [0..] the same seed draws the same faces, fake and real

# Through which network
NETWORK = ""  # Inception's weights; empty: fetched (81 MB); "none": only MMD
BATCH_SIZE = 50  # [1..] faces that it looks at together: 50 take about 1 GB

# No options from here on

# Faces of either kind that the MMD compares, and fakes in nearest.png
MMD_FACES = 2000
SHOWN = 10

# Whose generators may not have real faces beside them: the suite's own
WEIGHTS = Path(__file__).parent / "weights"


class Real(NamedTuple):
    """Real faces.

    faces: (N, S, S, 3) uint8, read from the disk as needed
    prepared: preprocess.Prepared
    checksum: of their pixels
    is_own: whether the generator was trained on just these; None: not known
    """

    faces: np.ndarray
    prepared: preprocess.Prepared
    checksum: str
    is_own: bool | None


def main(argv=None):
    options(sys.modules[__name__], argv)
    if 0 < REAL < SHOWN:
        raise UserError(f"REAL = {REAL}: at least {SHOWN}, or 0 for all.")
    path = folder_of(RUN)
    folder, which = find(path, WHICH)
    with quiet_stderr():  # the backend wakes up here, and tells all about it
        keep_compiled()
        generator, facts = models.load_generator(folder, which)
    print(f"{in_words(path, facts)}\nDevice    {describe_device()}")
    real = open_real(path, facts)
    network, refusal = open_network()
    fake = draw(generator)
    some_real = some(real.faces, MMD_FACES, "evaluate_mmd")
    scores = {"mmd": metrics.mmd(some_real, fake[:MMD_FACES])}
    if network:
        scores |= score_features(network, real, fake)
    protocol = protocol_of(path, facts, real, network)
    print(table(scores, protocol))
    save_metrics(folder, scores, protocol)
    save_nearest(folder, fake[:SHOWN], real)
    renew_page(folder)
    if refusal:
        raise UserError(f"No FID, no KID. {refusal}")


def open_real(path, facts):
    """Return the Real faces to compare with; DATA's, or what it was trained on."""
    prepared, data = preprocess.prepare_again(
        path, facts, DATA, DATA_FOLDER, "evaluate.py"
    )
    if prepared.count < SHOWN:
        raise UserError(f"{prepared.count} pictures in {data}: at least {SHOWN}.")
    checksum = preprocess.checksum_of(prepared)
    trained_on = facts["data"].get("checksum")
    own = checksum == trained_on if trained_on is not None else None
    return Real(preprocess.open_faces(prepared), prepared, checksum, own)


def open_network():
    """Return the Network and "", or None and why it is not to be had."""
    if NETWORK == "none":
        return None, ""
    try:
        return inception.load(inception.find(NETWORK, DATA_FOLDER)), ""
    except UserError as error:
        return None, str(error)


def draw(generator):
    """Draw SAMPLES faces (n, S, S, 3) uint8."""
    of_all = noise(SEED, "evaluate_fake", (SAMPLES, models.LATENT))
    parts = []
    with Bar(total=SAMPLES, unit=" faces", desc="Drawing fakes") as bar:
        for first in range(0, SAMPLES, 250):
            parts.append(models.draw(generator, of_all[first : first + 250]))
            bar.update(len(parts[-1]))
    return np.concatenate(parts)


def some(rows, count, stream):
    """Return `count` of the faces or features, drawn at random; all if it is 0."""
    return pick(rows, count, SEED, stream) if 0 < count < len(rows) else rows


def score_features(network, real, fake):
    """Return {name: score} of what is seen through the network, and "counts": of the
    faces that FID compares, and how many of each ("pairs") the others do.
    """
    real_features = features_of_real(network, real)
    title = "Fakes through Inception"
    fake_features = features.of(network, fake, title, BATCH_SIZE)
    print("Comparing them.", flush=True)
    fewer = min(len(real_features), len(fake_features))
    pair = [
        some(each, fewer, "evaluate_pairs") for each in (real_features, fake_features)
    ]
    kid, error = metrics.kid(*pair)
    precision, recall = metrics.precision_recall(*pair)
    counts = {"real": len(real_features), "fake": len(fake_features), "pairs": fewer}
    return {
        "counts": counts,
        "fid": metrics.fid(real_features, fake_features),
        **{"kid": kid, "kid_standard_error": error},
        **{"precision": precision, "recall": recall},
    }


def features_of_real(network, real):
    """Return the features of the real faces, out of the data folder if they are there.

    They are kept beside the faces, with all that they depend on and a checksum; those
    of all, which may have taken hours, apart from those of some.
    """
    array, total = real.prepared, len(real.faces)
    faces = some(real.faces, REAL, "evaluate_choice")
    made_from = {"pixels": real.checksum, "network": network.sha256}
    chosen = "all" if len(faces) == total else f"with seed {SEED}"
    places = []
    if total == array.facts["count"]:
        places.append((".features.npz", {"count": total, "chosen": "all"}))
    if len(faces) < array.facts["count"]:
        places.append((".some.features.npz", {"count": len(faces), "chosen": chosen}))
    for ending, which in places:
        path, about = array.path.with_suffix(ending), {**made_from, **which}
        seen = features.read(path, about)
        if seen is not None:
            return some(seen, REAL, "evaluate_choice")
    seen = features.of(network, faces, "Real faces through Inception", BATCH_SIZE)
    features.keep(path, seen, about)
    return seen


def protocol_of(path, facts, real, network):
    """Return {name: text} of all that the scores depend on."""
    averaged = {True: "averaged weights", False: "plain weights, not averaged"}
    own = {True: "all that it was trained on, none held out", None: "not known"}
    all_ = len(real.faces)
    count = min(REAL or all_, all_)
    name, made = real.prepared.name, real.prepared.facts
    drawn = f", drawn with seed {SEED}" if count < all_ else ""
    seen = network and f"{inception.NAME}, {network.name}, sha256 {network.sha256[:8]}"
    return {
        "generator": f"{path}, sha256 {facts['sha256'][:8]}",
        "weights": averaged.get(facts.get("averaged"), "not said whether averaged"),
        "epochs": f"{facts['epochs']}",
        "fake": f"{SAMPLES:,}, seed {SEED}",
        "real": f"{count:,} of {all_:,} of {name}{drawn}, sha256 {real.checksum[:8]}",
        "split": own.get(real.is_own, "not just the pictures that it was trained on"),
        "crop": made["crop"],
        "filter": f"{made['filter']}, to {facts['image_size']} x {facts['image_size']}",
        "network": seen or "none",
        "backend": describe_backend(),
    }


def table(scores, protocol):
    """Return the scores and what they depend on, as lines of text."""
    rows = [("MMD", f"{scores['mmd']:.5f}", f"pixels, {MMD_FACES:,} of each at most")]
    if "fid" in scores:
        real, fake, pairs = (f"{count:,}" for count in scores["counts"].values())
        few = ", too few: biased upwards" if scores["counts"]["pairs"] < 10000 else ""
        pairs = f"{pairs} of each"
        kid = f"{scores['kid']:.5f} +- {scores['kid_standard_error']:.5f}"
        rows += [
            ("FID", f"{scores['fid']:.2f}", f"{fake} fakes, {real} real{few}"),
            ("KID", kid, f"{pairs}, all pairs, with its standard error"),
            ("precision", f"{scores['precision']:.3f}", f"{pairs}, k = 3"),
            ("recall", f"{scores['recall']:.3f}", f"{pairs}, k = 3"),
        ]
    lines = [f"{name:<11}{value:<20}{note}" for name, value, note in rows]
    lines += [f"{name:<11}{text}" for name, text in protocol.items()]
    return "\n".join(["", *lines, ""])


def save_metrics(folder, scores, protocol):
    """Write metrics.json beside the weights, or say why not."""
    path = folder / "metrics.json"
    before = read_json(path)
    of_same = before.get("protocol", {}).get("generator") == protocol["generator"]
    if of_same and "fid" in before and "fid" not in scores:
        print(f"{path} stays as it is: it has the FID and KID of this generator.")
        return
    how = {"protocol": protocol, "device": describe_device(), **versions()}
    try:
        write_json(path, {**scores, **how, "time": now()})
    except UserError as error:
        print(f"{error} The table above is all there is.")
    else:
        print(f"The same is in {path}.")


def save_nearest(folder, fake, real):
    """Write nearest.png: fakes above, below each the real face nearest to it.

    Real faces belong to others. They may lie in a run folder, not among the suite's
    weights.
    """
    faces, drawn = real.faces, real.prepared.name == "cartoons"
    own = pick(np.arange(len(faces)), SHOWN, SEED, "evaluate_choice")
    below, differ = nearest(fake, faces)
    _, usual = nearest(faces[own], faces, own)
    shipped = folder.resolve().is_relative_to(WEIGHTS.resolve())
    path = Path("nearest.png") if shipped else folder / "nearest.png"
    scale = curves.enlarged(faces.shape[1])
    try:
        with write_whole(path) as part:
            picture = grid(np.concatenate([fake, below]), SHOWN, scale)
            picture.save(part, format="PNG")
    except UserError as error:
        print(error)
        return
    print(
        f"{path} shows {SHOWN} fakes above the nearest real faces, by pixels, mirrored "
        f"or not.\nThey differ by {differ:.0f} of 255; real ones from their nearest by "
        f"{usual:.0f} (root mean square, median of {SHOWN})."
        + ("" if drawn else " Do not pass it on.")
    )


def renew_page(folder):
    """Let the run's page, if it has one, show the scores and nearest.png, or say why
    not.
    """
    try:
        page.renew(folder)
    except UserError as error:
        print(error)


if __name__ == "__main__":
    run(main)
