"""Score a trained generator against real faces: python evaluate.py

Takes the newest run in runs/, or the generator that came with the suite. Prints one
table and writes it as metrics.json beside the weights. nearest.png shows ten fakes
above the real faces that come nearest to them.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import models
import preprocess
from dcgan.common.console import Bar, UserError, quiet_stderr, run
from dcgan.common.files import DAMAGE, write_json, write_whole
from dcgan.common.options import options
from dcgan.pictures.faces import grid
from dcgan.runs import generators
from dcgan.scores import inception, metrics
from dcgan.training.devices import describe_backend, describe_device

# Which generator, and against which faces
RUN = ""  # a run folder; empty: the newest in runs/, or else the one in weights/
WHICH = "best"  # {best, last} of a run: by the score of each epoch, or of the last one
DATA = ""  # real faces, as train.py's DATA; empty: those that it was trained on

# How many. FID means little below 10000, KID serves from 1000 up
SAMPLES = 10000  # [10..1000000] fakes to draw
REAL = 0  # [0..] real faces that FID sees, drawn at random; 0: all
SEED = 1  # [0..] the same seed draws the same faces, fake and real

# Through which network
NETWORK = ""  # Inception's weights; empty: data/, fetched (81 MB); "none": only MMD
BATCH_SIZE = 50  # [1..] faces that it looks at together: 50 take about 1 GB

# No options from here on

# Faces of either kind that the MMD compares, and fakes in nearest.png
MMD_FACES = 2000
SHOWN = 10

# Whose generators may not have real faces beside them: the suite's own
WEIGHTS = Path(__file__).parent / "weights"

# What random numbers are for: default_rng((SEED, this)); 1 to 8 are for other scripts
FAKE, CHOICE, PAIRS, MMD = 9, 10, 11, 12


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
    folder = generators.choose(RUN)
    with quiet_stderr():  # the backend wakes up here, and tells all about it
        generator, about = generators.load_generator(folder, WHICH)
    print(f"{generators.describe(folder, about)}\nDevice    {describe_device()}")
    real = open_real(folder, about)
    network, refusal = open_network()
    fake = draw(generator, about["latent"])
    found = {"mmd": metrics.mmd(pick(real.faces, MMD_FACES, MMD), fake[:MMD_FACES])}
    if network:
        found |= score_features(network, real, fake)
    protocol = protocol_of(folder, about, real, network)
    print(table(found, protocol))
    save_metrics(folder, found, protocol)
    save_nearest(folder, fake[:SHOWN], real)
    if refusal:
        raise UserError(f"No FID, no KID. {refusal}")


def open_real(folder, about):
    """Return the Real faces to compare with; DATA's, or what it was trained on."""
    size, known = about["image_size"], about["data"]
    data = DATA or known.get("source")
    if not data or not (DATA or is_there(data, size)):
        what = repr(data) if data else "pictures that are not named"
        raise UserError(
            f"{folder} was trained on {what}, not to be found here. Say where they "
            "are, or what else to compare with (celeba is fetched): "
            f"python evaluate.py --run {folder} --data FOLDER"
        )
    prepared = preprocess.prepare(data, size, 0 if DATA else known["count"])
    if prepared.count < SHOWN:
        raise UserError(f"{prepared.count} pictures in {data}: at least {SHOWN}.")
    checksum = preprocess.checksum_of(prepared)
    own = checksum == known["checksum"] if "checksum" in known else None
    return Real(preprocess.open_faces(prepared), prepared, checksum, own)


def is_there(data, size):
    """Tell whether pictures, or the array made of them, can be had without asking."""
    array = Path(preprocess.FOLDER, f"{preprocess.name_of(data)}-{size}.npy")
    return data in ("celeba", "cartoons") or Path(data).exists() or array.exists()


def open_network():
    """Return the Network and "", or None and why it is not to be had."""
    if NETWORK == "none":
        return None, ""
    try:
        return inception.load(inception.find(NETWORK)), ""
    except UserError as error:
        return None, str(error)


def draw(generator, latent):
    """Draw SAMPLES faces (n, S, S, 3) uint8."""
    random = np.random.default_rng((SEED, FAKE))
    noise = random.uniform(-1, 1, (SAMPLES, latent)).astype("float32")
    parts = []
    with Bar(total=SAMPLES, unit=" faces", desc="Drawing fakes") as bar:
        for first in range(0, SAMPLES, 256):
            parts.append(models.draw(generator, noise[first : first + 256]))
            bar.update(len(parts[-1]))
    return np.concatenate(parts)


def pick(faces, count, purpose):
    """Return `count` of the faces or features, drawn at random; all if it is 0."""
    if not 0 < count < len(faces):
        return faces
    random = np.random.default_rng((SEED, purpose))
    return faces[np.sort(random.choice(len(faces), count, replace=False))]


def score_features(network, real, fake):
    """Return {name: score} of what is seen through the network, and "counts": of the
    faces that FID compares, and how many of each ("pairs") the others do.
    """
    real_features = features_of_real(network, real)
    fake_features = features(network, fake, "Fakes through Inception")
    print("Comparing them.", flush=True)
    fewer = min(len(real_features), len(fake_features))
    pair = [pick(each, fewer, PAIRS) for each in (real_features, fake_features)]
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

    They are kept beside the faces, with all that they depend on and a checksum.
    """
    faces = pick(real.faces, REAL, CHOICE)
    path = real.prepared.path.with_suffix(".features.npz")
    wanted = {
        **{"pixels": real.checksum, "network": network.sha256, "count": len(faces)},
        "chosen": "all" if len(faces) == len(real.faces) else f"with seed {SEED}",
    }
    found = read_features(path, wanted)
    if found is None:
        found = features(network, faces, "Real faces through Inception")
        keep_features(path, found, wanted)
    return found


def read_features(path, wanted):
    """Return the features in a file, or None, saying why they are not `wanted`."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            about, found = json.loads(str(file["about"])), file["features"]
        checksum = about.pop("checksum")
        fault = "" if checksum == digest(found) else "they are damaged"
    except DAMAGE:
        about, fault = {}, "they are damaged"
    changed = [name for name in wanted if about.get(name) != wanted[name]]
    fault = fault or (f"their {changed[0]} is another" if changed else "")
    if not fault:
        print(f"Using {path}: features of {len(found):,} real faces, made earlier.")
        return found
    print(f"The features in {path} cannot be used: {fault}.")
    return None


def keep_features(path, found, wanted):
    about = json.dumps({**wanted, "checksum": digest(found)})
    try:
        with write_whole(path) as part, open(part, "wb") as file:
            np.savez(file, features=found, about=np.array(about))
    except UserError as error:
        print(f"{error} So they are to be made again next time.")


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def features(network, faces, title):
    """Return the features (n, 2048) of faces, with a progress bar."""
    try:
        with Bar(total=len(faces), unit=" faces", desc=title) as bar:
            return network.features(faces, bar, BATCH_SIZE)
    except Exception as error:
        if models.is_out_of_memory(error):
            fewer = max(1, BATCH_SIZE // 2)
            message = f"Out of memory. Fewer faces together: --batch-size {fewer}"
            raise UserError(message) from error
        raise


def protocol_of(folder, about, real, network):
    """Return {name: text} of all that the scores depend on."""
    averaged = {True: "averaged weights", False: "plain weights, not averaged"}
    own = {True: "all that it was trained on, none held out", None: "not known"}
    all_ = len(real.faces)
    count = min(REAL or all_, all_)
    name, made = real.prepared.name, real.prepared.about
    drawn = f", drawn with seed {SEED}" if count < all_ else ""
    seen = network and f"{inception.NAME}, {network.name}, sha256 {network.sha256[:8]}"
    return {
        "generator": f"{folder}, sha256 {about['sha256'][:8]}",
        "weights": averaged.get(about.get("averaged"), "not said whether averaged"),
        "epochs": f"{about['epochs']}",
        "fake": f"{SAMPLES:,}, seed {SEED}",
        "real": f"{count:,} of {all_:,} of {name}{drawn}, sha256 {real.checksum[:8]}",
        "split": own.get(real.is_own, "not just the pictures that it was trained on"),
        "crop": made["crop"],
        "filter": f"{made['filter']}, to {about['image_size']} x {about['image_size']}",
        "network": seen or "none",
        "backend": describe_backend(),
    }


def table(found, protocol):
    """Return the scores and what they depend on, as lines of text."""
    rows = [("MMD", f"{found['mmd']:.5f}", f"pixels, {MMD_FACES:,} of each at most")]
    if "fid" in found:
        real, fake, pairs = (f"{count:,}" for count in found["counts"].values())
        few = ", too few: biased upwards" if found["counts"]["pairs"] < 10000 else ""
        pairs = f"{pairs} of each"
        kid = f"{found['kid']:.5f} +- {found['kid_standard_error']:.5f}"
        rows += [
            ("FID", f"{found['fid']:.2f}", f"{fake} fakes, {real} real{few}"),
            ("KID", kid, f"{pairs}, all pairs, with its standard error"),
            ("precision", f"{found['precision']:.3f}", f"{pairs}, k = 3"),
            ("recall", f"{found['recall']:.3f}", f"{pairs}, k = 3"),
        ]
    lines = [f"{name:<11}{value:<20}{note}" for name, value, note in rows]
    lines += [f"{name:<11}{text}" for name, text in protocol.items()]
    return "\n".join(["", *lines, ""])


def save_metrics(folder, found, protocol):
    """Write metrics.json beside the weights, or say why not."""
    about = {"protocol": protocol, "device": describe_device(), **folder.versions()}
    try:
        write_json(folder / "metrics.json", {**found, **about, "time": folder.now()})
    except UserError as error:
        print(f"{error} The table above is all there is.")
    else:
        print(f"The same is in {folder / 'metrics.json'}.")


def save_nearest(folder, fake, real):
    """Write nearest.png: fakes above, below each the real face nearest to it.

    Real faces belong to others. They may lie in a run folder, not among the suite's
    weights.
    """
    faces, drawn = real.faces, real.prepared.name == "cartoons"
    random = np.random.default_rng((SEED, CHOICE))
    own = np.sort(random.choice(len(faces), SHOWN, replace=False))
    found, differ = nearest(fake, faces)
    _, usual = nearest(faces[own], faces, own)
    shipped = folder.resolve().is_relative_to(WEIGHTS.resolve())
    path = Path("nearest.png") if shipped else folder / "nearest.png"
    scale = max(1, round(84 / faces.shape[1]))
    try:
        with write_whole(path) as part:
            picture = grid(np.concatenate([fake, found]), SHOWN, scale)
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


def nearest(queries, faces, own=None):
    """Return the face nearest to each query (q, S, S, 3), and how far: the median.

    Faces are compared by pixels, mirrored ones too, for training mirrors them. `own`
    has the number of the face that each query is itself, which does not count.
    """
    both = np.concatenate([queries, queries[:, :, ::-1]])
    rows = both.reshape(len(both), -1).astype("float32")
    near, number = np.full(len(both), np.inf), np.zeros(len(both), int)
    for first in range(0, len(faces), 1024):
        part = faces[first : first + 1024]
        between = metrics.squared_distances(
            rows, part.reshape(len(part), -1).astype("float32")
        )
        if own is not None:
            itself = np.tile(own, 2)[:, None] == first + np.arange(len(part))
            between[itself] = np.inf
        nearer = between.min(1) < near
        number[nearer] = first + between.argmin(1)[nearer]
        near[nearer] = between.min(1)[nearer]
    plain, mirrored = near.reshape(2, -1)
    found = faces[number[: len(queries)]].copy()
    turn = mirrored < plain
    found[turn] = faces[number[len(queries) :]][turn][:, :, ::-1]
    apart = (found.astype(float) - queries) ** 2  # anew, for `near` is rounded
    return found, float(np.median(np.sqrt(apart.mean((1, 2, 3)))))


if __name__ == "__main__":
    run(main)
