"""The graphics cards that the system shows, and why none of them is used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

LENGTH = 200  # letters of what a driver or a backend says, at most

# How one gets the CUDA libraries for a backend
INSTALL = {
    "tensorflow": "pip install -r requirements-gpu.txt",
    "jax": "pip install -r requirements-jax.txt",
    "torch": "install the PyTorch that has CUDA",
}

# Systems on which one backend alone, PyTorch, has a GPU, and what helps
WITHOUT = {
    "win32": "on native Windows; use WSL2.",
    "darwin": "on a Mac; PyTorch has: pip install torch, and KERAS_BACKEND=torch",
}

# Words in what drivers and backends say that tell why a GPU is not used
TELLING = (
    *("cuInit", "driver version", "driver on your system", "driver does not appear"),
    *("Cannot dlopen", "Error loading CUDA", "CUDA-enabled jaxlib is not installed"),
    *("Unable to initialize backend", "backend failed to initialize"),
)


class Card(NamedTuple):
    """A row of nvidia-smi."""

    uuid: str
    name: str
    megabytes: str


class Seen(NamedTuple):
    """What the system shows of its graphics cards, whatever the backend makes of it."""

    cards: list  # a Card for each one of NVIDIA's
    complaint: str  # nvidia-smi's, where it has no cards to tell of
    has_nvidia: bool  # though its driver may not be there
    has_amd: bool


def look(root=Path("/")):
    """Ask the system for its graphics cards; root: of its /dev and /sys."""
    cards, complaint = _nvidia_smi()
    displays = [
        (place.parent / "vendor").read_text().strip()
        for place in root.glob("sys/bus/pci/devices/*/class")
        if place.read_text().startswith("0x03")
    ]
    has_amd = "0x1002" in displays or (root / "dev/kfd").exists()
    return Seen(cards, complaint, bool(cards) or "0x10de" in displays, has_amd)


def _nvidia_smi():
    """Ask the driver's own tool; return its Cards, and its words if there are none."""
    if not shutil.which("nvidia-smi"):
        return [], ""
    command = ["nvidia-smi", "--query-gpu=uuid,name,memory.total"]
    command += ["--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return [], shorten(str(error), LENGTH)
    lines = (asked.stdout + asked.stderr).strip().splitlines() or ["nothing"]
    rows = [re.split(r" *, *", line.strip()) for line in lines]
    cards = [Card(*row) for row in rows if len(row) == len(Card._fields)]
    return cards, "" if cards else shorten(lines[0], LENGTH)


def count():
    """Return how many of NVIDIA's cards this process sees."""
    return len(visible(look().cards, os.environ.get("CUDA_VISIBLE_DEVICES")))


def visible(cards, chosen):
    """Return those Cards that CUDA_VISIBLE_DEVICES, or None, lets programs see.

    As CUDA reads it: numbers or the beginnings of UUIDs, up to the first that is none.
    The numbers are nvidia-smi's: of several kinds of cards CUDA may count others first.
    """
    if chosen is None:
        return cards
    seen = []
    for word in map(str.strip, chosen.split(",")):
        named = [card for card in cards if word and card.uuid.startswith(word)]
        if word.isdigit():
            named = cards[int(word) : int(word) + 1]
        elif word.startswith("MIG-"):  # a part of a card, it is not said of which
            named = cards
        if not named:
            break
        seen.append(named[0])
    return seen


def memory_of(name, cards):
    """Say the memory of the first of the Cards with a name, or nothing."""
    size = bytes_of(name, cards)
    return f", {size / 2**30:.0f} GiB" if size else ""


def bytes_of(name, cards):
    """Return the memory of the first of the Cards with a name; 0 if it is not told.

    CUDA counts the fastest card first, nvidia-smi by their places: of several kinds
    the first need not be ours.
    """
    sizes = [card.megabytes for card in cards if card.name == name]
    return int(sizes[0]) * 2**20 if sizes and sizes[0].isdigit() else 0


def why_no_gpu(backend, chosen, seen, said):
    """Say why no GPU is used, and what the user can do about it.

    chosen: CUDA_VISIBLE_DEVICES or None; seen: a Seen; said: what the backend wrote.
    """
    if chosen in ("", "-1"):
        return "No GPU: CUDA_VISIBLE_DEVICES hides it."
    if backend != "torch" and sys.platform in WITHOUT:
        return f"No GPU: {backend} has none {WITHOUT[sys.platform]}"
    cards, told = visible(seen.cards, chosen), reason(said)
    if seen.cards and not cards:
        return f"No GPU: CUDA_VISIBLE_DEVICES={chosen} names none of {len(seen.cards)}."
    because = f" It says: {told}" if told else ""
    if cards:
        mend = INSTALL[backend]
        return f"The driver sees {cards[0].name}, {backend} does not: {mend}.{because}"
    if seen.complaint:
        return f"No GPU: nvidia-smi says: {seen.complaint}{because}"
    if seen.has_nvidia:
        return (
            "No GPU: an NVIDIA card is here, but no driver answers (nvidia-smi): "
            f"install it, or start the container with --gpus all.{because}"
        )
    if seen.has_amd:
        return "AMD card: needs ROCm's own build of JAX or PyTorch; not tried."
    return f"No GPU: no NVIDIA driver found (nvidia-smi does not answer).{because}"


def reason(said):
    """Return the first line of it that tells why there is no GPU, or "".

    Without the place in a source file that logs begin with.
    """
    lines = (line for line in said.splitlines() if any(map(line.count, TELLING)))
    line = re.sub(r"^.*?(\.cc:\d+\]|bridge:\d+:|Warning:) ", "", next(lines, ""))
    return shorten(line, LENGTH)
