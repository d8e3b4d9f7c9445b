"""What a generator weighs that is taken along: python -m benchmarks.taking

Both shipped generators are exported in every format that the packages here write and
read; a fresh process, which knows nothing of the suite, loads each and draws ten faces.
Prints Markdown.
"""

import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np

import models
from benchmarks import report
from benchmarks.machine import describe_machine, versions
from dcgan.common.console import quiet_stderr, run
from dcgan.common.options import options
from dcgan.networks import export
from dcgan.runs import generators
from dcgan.training.chance import noise

ROUNDS = 3  # [1..] processes of each, of which the median counts
OUT = ""  # a file for what is printed

# No options from here on

# The packages that read a file, and how: noise becomes faces
READERS = {
    "faces.keras": (
        "keras",
        "faces = keras.saving.load_model('faces.keras').predict(noise, verbose=0)",
    ),
    "faces/": (
        "tensorflow",
        "loaded = tensorflow.saved_model.load('faces')\n"
        "faces = loaded.serve(noise).numpy()",
    ),
    "faces.onnx": (
        "onnxruntime",
        "session = onnxruntime.InferenceSession('faces.onnx')\n"
        "[faces] = session.run(None, {'noise': noise})",
    ),
    "faces.tflite": (
        "ai_edge_litert.interpreter",
        "loaded = ai_edge_litert.interpreter.Interpreter('faces.tflite')\n"
        "faces = loaded.get_signature_runner()(noise=noise)['output_0']",
    ),
}

# Around it; -I keeps the suite out
PROGRAM = """
import numpy, {package}
noise = numpy.load("noise.npy")
{reader}
pixels = ((faces + 1) * 127.5).round().clip(0, 255).astype("uint8")
numpy.save("pixels.npy", pixels)
"""


def main(argv=None):
    """Print the table."""
    options(sys.modules[__name__], argv)
    page = report.Page(OUT)
    page(f"Machine: {describe_machine()}.  \n{versions()}.\n")
    rows = []
    for run_folder in (generators.SUITE / "weights/celeba-28", generators.SHIPPED):
        with quiet_stderr():
            generator, facts = models.load_generator(run_folder)
        for path in READERS:
            with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
                cells = measured(generator, facts, path, Path(folder))
            rows.append((f"`{path}`", str(facts["image_size"]), *cells))
    head = ("file", "pixels", "MB", "seconds to write", "to load and draw ten")
    page.table((*head, "largest difference"), rows)


def measured(generator, facts, path, folder):
    """Return the cells of a format: MB, seconds to write and to draw, difference."""
    package, reader = READERS[path]
    ending = Path(path).suffix
    writer = export.FORMATS[ending].packages["tensorflow"]
    missing = [each for each in (writer, package.split(".")[0]) if not find_spec(each)]
    if missing:
        return (f"{missing[0]} is not installed", "", "", "")
    stops = noise(5, "generate", (10, models.LATENT))
    np.save(folder / "noise.npy", stops)
    begun = time.perf_counter()
    with quiet_stderr():
        export.save(generator, f"{folder}/{path}", facts)
    wrote = time.perf_counter() - begun
    program = PROGRAM.format(package=package, reader=reader)
    seconds = median(seconds_of(program, folder) for _ in range(ROUNDS))
    pixels = np.load(folder / "pixels.npy").astype(int)
    apart = np.abs(pixels - models.draw(generator, stops)).max()
    files = [folder / path, *(folder / path).rglob("*")]
    size = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    return (f"{size:.1f}", f"{wrote:.1f}", f"{seconds:.1f}", f"{apart} of 255")


def seconds_of(program, folder):
    """Return how long a fresh process takes for a program in a folder."""
    begun = time.perf_counter()
    command = [sys.executable, "-I", "-c", program]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    run(main)
