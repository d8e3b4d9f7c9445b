"""Generators and checkpoints as other versions, or other people, would write them."""

import hashlib
import json
import shutil
from pathlib import Path

import h5py
import numpy as np

from dcgan.common.files import sha256
from dcgan.runs import checkpoints, generators

FACTS = {
    "network": "dcgan",
    "image_size": 28,
    "width": 0.05,
    "latent": 100,
    "epochs": 3,
    "data": {"name": "toys", "count": 1234},
    "score": None,
}


def sign(run, facts=None, which="best"):
    """Give what is in a generator's file now, and facts, the checksum that fits."""
    with h5py.File(generators.paths(run, which)[0], "a") as file:
        facts = dict(facts or json.loads(file.attrs[generators.FACTS]))
        facts["sha256"] = generators._checksum(file, facts)
        file.attrs[generators.FACTS] = json.dumps(facts)


def make_old(run, which="best", before=None):
    """Make a run's generator one of an older run, of which only the JSON tells."""
    weights, path = generators.paths(run, which)
    with h5py.File(weights, "a") as file:
        facts = json.loads(file.attrs[generators.FACTS])
        del file.attrs[generators.FACTS]
    facts["sha256"] = sha256(weights)
    path.write_text(json.dumps({**facts, "before": before} if before else facts))
    return facts


def make_old_checkpoint(path):
    """Make a checkpoint one of an older run: a folder of weights.npz and JSON."""
    arrays, progress = checkpoints.read(path)
    folder = path.with_suffix("")
    folder.mkdir()
    np.savez(folder / "weights.npz", **arrays)
    written = json.dumps(progress, sort_keys=True) + sha256(folder / "weights.npz")
    checksum = hashlib.sha256(written.encode()).hexdigest()
    content = json.dumps({"progress": progress, "checksum": checksum})
    (folder / "progress.json").write_text(content)
    path.unlink()
    return folder


def flip_a_bit(path):
    """Damage a file in the midst of it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def contents(folder):
    """Return {name: bytes} of all files in a folder but the lock."""
    files = (file for file in sorted(Path(folder).rglob("*")) if file.is_file())
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in files
        if file.name != "lock"
    }


def delete_checkpoints(run):
    for path in checkpoints.paths(run):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
