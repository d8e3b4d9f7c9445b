"""Weights, checkpoints and notes with any byte in them: refused, never executed."""

import contextlib
import functools
import io
import json
import pickle
import random
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from dcgan.common.console import UserError
from dcgan.common.files import sha256
from tests.faults.trials import Campaign
from tests.runs import saved as made

CANARY = "was-run"
DEEP = "[" * 100_000
VALUES = (
    *(None, True, -1, 0, 10**9, 10**400, 1.5, float("nan"), "", "dcgan", "../../x"),
    *([], {}, [[]], {"a": 1}, "x" * 10_000, "28", 28, 64),
)


class Evil:
    """Leaves a file when it is unpickled."""

    def __reduce__(self):
        return (open, (CANARY, "w"))


def generator(tally, number, folder):
    """Damage a generator or what it tells of itself, of this suite or an older run.

    Bytes flipped, cut off, a pickle, a Keras file with code, links out of the file,
    arrays that claim terabytes, another size or width; any value in what it tells; with
    a checksum that fits now and then. Where none fits it is refused, or it is right.
    """
    import models
    from dcgan.runs import generators

    chance, run = random.Random(number), folder / "run"
    shutil.copytree(whole_run(), run)
    weights, path = generators.paths(run, "best")
    is_old, tells = chance.random() < 0.4, chance.random() < 0.4
    if is_old:
        made.make_old(run)
    if tells and is_old:
        path.write_text(spoilt_json(path.read_text(), chance), encoding="utf-8")
    elif tells:
        spoil_facts(weights, chance)
    else:
        chance.choice(HARMS)(weights, chance)
    fits = tells or chance.random() < 0.7
    if fits and not (tells and is_old):
        fit_checksum(run, is_old)
    tally.faults += 1
    try:
        found, facts = models.load_generator(run)
        generators.in_words(run, facts)
        fine = found.count_params() == loaded().count_params()
        pairs = zip(found.get_weights(), loaded().get_weights(), strict=True)
        fine = fine and (fits or all((a == b).all() for a, b in pairs))
        tally.expect(fine, f"trial {number}: another generator")
    except UserError as error:
        one_line(tally, number, error)
    except Exception as error:
        tally.mistake(f"trial {number}: {error!r}")
    tally.expect(not list(folder.rglob(CANARY)), f"trial {number}: ran what it read")


def spoil_facts(weights, chance):
    """Spoil what a file tells of itself; an attribute has room for 64 KB."""
    import h5py

    with h5py.File(weights, "a") as file:
        text = spoilt_json(file.attrs["facts"].decode(), chance)
        file.attrs["facts"] = text[:60_000].replace("\0", " ").encode()


def fit_checksum(run, is_old):
    """Let the checksum of a generator fit what is there now, where that can be read."""
    from dcgan.runs import generators

    weights, path = generators.paths(run, "best")
    if is_old:
        facts = json.loads(path.read_text()) | {"sha256": sha256(weights)}
        path.write_text(json.dumps(facts))
    else:
        with contextlib.suppress(Exception):  # HDF5 raises nearly anything
            made.sign(run)


def checkpoint(tally, number, folder):
    """Damage the newest checkpoint, or put code in: the one before it is taken.

    Four in ten are of older runs, a folder of two files.
    """
    from dcgan.runs import checkpoints

    chance, run = random.Random(number), folder / "run"
    gan, arrays, whole = whole_checkpoints()
    shutil.copytree(whole, run)
    path = checkpoints.paths(run)[-1]
    if chance.random() < 0.4:
        names = ("weights.npz", "progress.json")
        path = made.make_old_checkpoint(path) / chance.choice(names)
    if path.suffix == ".json" and chance.random() < 0.7:
        path.write_text(spoilt_json(path.read_text(), chance), encoding="utf-8")
    else:
        harms = (flip, flip, cut, take_pickle, take_zip, take_objects)
        chance.choice(harms)(path, chance)
    tally.faults += 1
    try:
        with tally.recovery(), contextlib.redirect_stdout(io.StringIO()):
            progress = checkpoints.load(run, gan)
    except Exception as error:
        tally.mistake(f"trial {number}: {error!r}")
        return
    right = progress["iterations"] in (1, 2) and same(gan, arrays)
    tally.expect(right, f"trial {number}: other weights or progress")
    tally.expect(not list(folder.rglob(CANARY)), f"trial {number}: ran what it read")


def constants(tally, number, folder):
    """Spoil constants.json; reading it ends well or in one line."""
    from dcgan.runs.folder import CONSTANTS, compare, read_constants

    chance, run = random.Random(number), folder / "run"
    run.mkdir()
    written = {"constants": {"SEED": 1, "DATA": "x"}, "begun_with": {"count": 3}}
    text = spoilt_json(json.dumps(written), chance)
    (run / CONSTANTS).write_text(text, encoding="utf-8")
    tally.faults += 1
    try:
        before = read_constants(run)
        compare(run, before["constants"], {"SEED": 1})
        compare(run, before["begun_with"], {"count": 3})
    except UserError as error:
        one_line(tally, number, error)
    except Exception as error:
        tally.mistake(f"trial {number}: {error!r}")


def array(tally, number, folder):
    """Spoil an array's .json: it is made again, or it is right."""
    import os

    import preprocess

    chance = random.Random(number)
    shutil.copytree(whole_array(), folder, dirs_exist_ok=True)
    path = folder / "data" / "cartoons-28.json"
    path.write_text(spoilt_json(path.read_text(), chance), encoding="utf-8")
    tally.faults += 1
    home = Path.cwd()
    os.chdir(folder)
    try:
        with tally.recovery(), contextlib.redirect_stdout(io.StringIO()):
            prepared = preprocess.prepare("cartoons", 28, 5)
            faces = preprocess.open_faces(prepared)
        fine = (np.asarray(faces) == first_cartoons()).all() and prepared.count == 5
        tally.expect(fine, f"trial {number}: other faces")
    except UserError as error:
        one_line(tally, number, error)
    except Exception as error:
        tally.mistake(f"trial {number}: {error!r}")
    finally:
        os.chdir(home)


def features(tally, number, folder):
    """Damage kept features of real faces: they are refused, or they are the right."""

    from dcgan.scores import features as kept

    chance = random.Random(number)
    path, wanted = folder / "faces.features.npz", {"pixels": "a" * 64, "count": 30}
    right = np.random.default_rng(1).normal(size=(30, 16)).astype("float32")
    kept.keep(path, right, wanted)
    chance.choice((flip, flip, cut, take_pickle, take_zip, take_objects))(path, chance)
    tally.faults += 1
    try:
        with tally.recovery(), contextlib.redirect_stdout(io.StringIO()):
            found = kept.read(path, wanted)
        fine = found is None or np.array_equal(found, right)
        tally.expect(fine, f"trial {number}: other features")
    except Exception as error:
        tally.mistake(f"trial {number}: {error!r}")
    ran = list(folder.rglob(CANARY)) or Path(CANARY).exists()
    tally.expect(not ran, f"trial {number}: ran what it read")


def inception_file(tally, number, folder):
    """Damage Inception's weights, or put code in: refused, and nothing is run."""
    from dcgan.scores import inception, torchscript
    from tests.scores import narrow

    chance = random.Random(number)
    path = folder / "weights.pth"
    if chance.random() < 0.3:
        start = chance.choice(list(narrow.HOSTILE.values()))
        narrow.write_zip(path, "archive", start, narrow.pickled({}), [])
    else:
        path.write_bytes(chance.choice(whole_inceptions()).read_bytes())
        chance.choice((flip, flip, cut, take_pickle, take_zip))(path, chance)
    tally.faults += 1
    try:
        read = inception.read(path)
        tally.expect(len(read) == inception.CONVOLUTIONS, f"trial {number}: fewer")
    except torchscript.REFUSED:
        pass  # find() makes one line of these
    except Exception as error:
        tally.mistake(f"trial {number}: {error!r}")
    ran = list(folder.rglob(CANARY)) or Path(CANARY).exists()
    tally.expect(not ran, f"trial {number}: ran what it read")


def one_line(tally, number, error):
    text = str(error)
    tally.expect(text and len(text) < 30_000, f"trial {number}: says {text[:200]!r}")


@functools.cache
def whole_run():
    import models
    from dcgan.runs import generators

    run = Path(tempfile.mkdtemp()) / "run"
    models.keras.utils.set_random_seed(1)
    generator = models.build_generator("dcgan", 28, made.FACTS["width"])
    generators.save(run, generator, made.FACTS)
    return run


@functools.cache
def loaded():
    import models

    return models.load_generator(whole_run())[0]


@functools.cache
def whole_checkpoints():
    import models
    from dcgan.runs import checkpoints

    recipe = models.Recipe(width=0.05)
    gan = models.build_gan("dcgan", 28, 1, (2e-4, 2e-4), 0.5, recipe=recipe)
    run = Path(tempfile.mkdtemp()) / "run"
    for iterations in (1, 2):
        progress = {"iterations": iterations, "iteration": 1, "rows": []}
        checkpoints.save(run, checkpoints.finite_arrays(gan), progress, 2)
    return gan, checkpoints.finite_arrays(gan), run


def same(gan, arrays):
    from dcgan.runs import checkpoints

    found = checkpoints.finite_arrays(gan)
    return all((found[name] == arrays[name]).all() for name in arrays)


@functools.cache
def whole_array():
    import os

    import preprocess

    folder, home = Path(tempfile.mkdtemp()), Path.cwd()
    os.chdir(folder)
    try:
        preprocess.prepare("cartoons", 28, 5)
    finally:
        os.chdir(home)
    return folder


@functools.cache
def first_cartoons():
    return np.load(whole_array() / "data/cartoons-28.npy")


@functools.cache
def whole_inceptions():
    from tests.scores import narrow

    folder = Path(tempfile.mkdtemp())
    paths = [folder / "net.pt", folder / "net.whl"]
    narrow.write_torchscript(paths[0])
    narrow.write_wheel(paths[1])
    return paths


def flip(path, chance):
    data = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 30)):
        # Heads and tails, where the structure is, more often than the numbers
        place = int(len(data) * chance.betavariate(0.2, 0.2)) % len(data)
        data[place] = chance.randrange(256)
    path.write_bytes(data)


def cut(path, chance):
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])


def take_pickle(path, _):
    path.write_bytes(pickle.dumps({"weights": Evil()}))


def take_objects(path, _):
    with open(path, "wb") as file:
        np.savez(file, weights=np.array([Evil()], dtype=object))


def take_zip(path, _):
    """A Keras file that names code."""
    config = {"class_name": "Lambda", "config": {"function": f"open('{CANARY}', 'w')"}}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps(config))
        file.writestr("metadata.json", "{}")


def take_other(path, chance):
    """Put the weights of another network, size or width in their place."""
    import models

    network, size, width = chance.choice((("dcgan", 32, 0.1), ("dcgan", 28, 0.2)))
    models.build_generator(network, size, width).save_weights(path)


def take_link(path, chance):
    """Put links into the weights, to itself or out of it."""
    import h5py

    with h5py.File(path, "a") as file:
        name = chance.choice(list(file))
        del file[name]
        to = h5py.ExternalLink("/etc/passwd", "/x"), h5py.SoftLink(f"/{name}")
        file[name] = chance.choice(to)


def take_claim(path, chance):
    """Let an array of the weights claim to be of terabytes."""
    import h5py

    with h5py.File(path, "a") as file:
        found = []
        file.visititems(lambda name, item: found.append(name))
        name = chance.choice([each for each in found if hasattr(file[each], "shape")])
        del file[name]
        file.create_dataset(name, shape=(10**6, 10**6), dtype="f4", chunks=(10, 10))


def spoilt_json(text, chance):
    """Change a JSON's values, keys or bytes."""
    kind = chance.randrange(6)
    if kind == 0:
        return text[: chance.randrange(len(text))]
    if kind == 1:
        place = chance.randrange(len(text))
        return text[:place] + chr(chance.randrange(32, 1000)) + text[place + 1 :]
    if kind == 2:
        return chance.choice(("", "null", "[]", "3", '"x"', "{}", DEEP, "NaN", "\0"))
    tree = json.loads(text)
    spots = list(_spots(tree))
    holder, key = chance.choice(spots)
    if kind == 3:
        del holder[key]
    else:
        holder[key] = chance.choice(VALUES)
    return json.dumps(tree)


def _spots(tree):
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from _spots(tree[key])


HARMS = (flip, cut, take_pickle, take_link, take_claim, take_zip, take_other)

CAMPAIGNS = [
    Campaign("weights: generators", generator, long=1000, short=20),
    Campaign("weights: checkpoints", checkpoint, long=1000, short=20),
    Campaign("weights: Inception's", inception_file, long=1000, short=10),
    Campaign("notes: features of real faces", features, long=1000, short=30),
    Campaign("notes: constants.json", constants, long=1000, short=50),
    Campaign("notes: an array's JSON", array, long=300, short=3),
]
