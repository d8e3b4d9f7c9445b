"""A generator that was taken along draws what it draws here, without the suite."""

import io
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import generate
import models
from dcgan.common.options import current
from dcgan.networks import export
from dcgan.networks.backend import keras, layers
from dcgan.runs import directions, generators
from tests.networks.narrow import apart, narrow, noise_of
from tests.runs.saved import FACTS
from tests.runs.test_directions import FOUND

SUITE = Path(__file__).parents[2]

# What a program without the suite does with each kind of file: noise -> faces
READERS = {
    "faces.keras": """
import keras
faces = keras.saving.load_model("faces.keras").predict(noise, verbose=0)
""",
    "faces": """
import tensorflow
generator = tensorflow.saved_model.load("faces")
faces = generator.serve(noise).numpy()
""",
    "faces.onnx": """
import onnxruntime
[faces] = onnxruntime.InferenceSession("faces.onnx").run(None, {"noise": noise})
""",
    "faces.tflite": """
from ai_edge_litert.interpreter import Interpreter
faces = Interpreter("faces.tflite").get_signature_runner()(noise=noise)["output_0"]
""",
}

# What each needs that requirements-dev.txt does not bring
PACKAGES = {
    "faces.onnx": ("tf2onnx", "onnxruntime"),
    "faces.tflite": ("ai_edge_litert",),
}

NETWORKS = [
    *(("dcgan", 28, 3), ("dcgan", 32, 1), ("dcgan", 64, 3), ("dcgan", 128, 1)),
    *(("tutorial", 64, 3), ("blog", 28, 3)),
]


@pytest.fixture(autouse=True)
def place(here, monkeypatch):
    for name, value in current(generate).items():
        monkeypatch.setattr(generate, name, value)


@pytest.fixture(scope="module")
def generator():
    return narrow()


def taken(generator, path):
    """Export a generator by generate.py, out of a run."""
    generators.save("runs/a", generator, FACTS)
    generate.main(["--run", "runs/a", "--export", path])


def drawn_without_the_suite(path, noise, reader):
    """Return the pixels of an exported file, drawn by a process that has no suite."""
    np.save("noise.npy", noise)
    code = f"""
import importlib.util, numpy
assert not importlib.util.find_spec("dcgan")
noise = numpy.load("noise.npy")
{reader}
pixels = ((faces + 1) * 127.5).round().clip(0, 255).astype("uint8")
numpy.save("pixels.npy", pixels)
"""
    ran = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()
    return np.load("pixels.npy")


@pytest.mark.slow
@pytest.mark.parametrize("path", READERS)
@pytest.mark.parametrize("network", ["dcgan", "blog"])
def test_a_file_draws_the_same_pixels_where_no_suite_is(path, network):
    for package in PACKAGES.get(path, ()):
        if not find_spec(package):
            pytest.skip(f"{package} is not installed")
    generator, noise = narrow(network), noise_of(7)
    generators.save("runs/a", generator, {**FACTS, "network": network})
    generate.main(["--run", "runs/a", "--export", path])
    faces = models.draw(generator, noise)
    assert faces.std() > 30
    assert apart(drawn_without_the_suite(path, noise, READERS[path]), faces) <= 1
    few = drawn_without_the_suite(path, noise[:2], READERS[path])
    assert apart(few, faces[:2]) <= 1


@pytest.mark.every_backend
@pytest.mark.parametrize("shape", NETWORKS, ids=str)
def test_a_plain_generator_has_layers_of_keras_alone_and_draws_the_same(shape):
    generator = narrow(*shape)
    plain = export.plain(generator)
    assert {type(layer).__module__.split(".")[0] for layer in plain.layers} == {"keras"}
    faces = models.draw(generator, noise_of())
    assert apart(models.draw(plain, noise_of()), faces) <= 1
    assert faces.std() > 10


def test_a_keras_file_names_nothing_of_the_suite_and_draws_the_same(generator, capsys):
    taken(generator, "deep/faces.keras")
    with zipfile.ZipFile("deep/faces.keras") as file:
        config = file.read("config.json").decode()
    modules = set(re.findall(r'"module": "([\w.]+)"', config))
    assert {module.split(".")[0] for module in modules} == {"keras"}
    assert "dcgan" not in config
    loaded = keras.saving.load_model("deep/faces.keras")
    assert (
        apart(models.draw(loaded, noise_of()), models.draw(generator, noise_of())) <= 1
    )
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "Generator from runs/a: dcgan, 28 x 28"
    size = r"deep/faces\.keras \(0\.\d MB\)"
    assert re.fullmatch(f"{size} is the generator, for keras.saving.+", told[2])
    assert not Path("faces.png").exists()


def test_the_last_epochs_generator_is_taken_where_it_is_asked_for(generator):
    other = export.plain(generator)
    other.set_weights([weight * 1.1 for weight in generator.get_weights()])
    generators.save("runs/a", generator, FACTS)
    generators.save("runs/a", other, FACTS, "last")
    generate.main(["--run", "runs/a", "--which", "last", "--export", "last.keras"])
    loaded = keras.saving.load_model("last.keras")
    assert apart(models.draw(loaded, noise_of()), models.draw(other, noise_of())) <= 1


def test_a_page_has_the_directions_of_its_run(generator):
    taken(generator, "faces.html")
    of = generators.read("runs/a").facts["sha256"]
    directions.save("runs/a", FOUND._replace(generator=of))
    generate.main(["--run", "runs/a", "--export", "faces.html"])
    assert '"directions":[{"name":"Smiling"' in Path("faces.html").read_text()


def test_weights_beside_an_onnx_file_are_taken_in():
    onnx = pytest.importorskip("onnx")
    array = onnx.numpy_helper.from_array(np.arange(5000, dtype="float32"), "w")
    graph = onnx.helper.make_graph([], "g", [], [], [array])
    model = onnx.helper.make_model(graph)
    onnx.save_model(model, "a.onnx", save_as_external_data=True, location="a.onnx.data")
    assert Path("a.onnx.data").stat().st_size == 20_000
    export._take_in(Path("a.onnx"))
    assert [path.name for path in Path().iterdir()] == ["a.onnx"]
    [kept] = onnx.load("a.onnx").graph.initializer
    assert np.array_equal(onnx.numpy_helper.to_array(kept), np.arange(5000))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("faces.pt", r"--export faces\.pt: .* \.html, or as a folder, whose name ends"),
        ("v1.2", r"--export v1\.2: a generator is written as \.keras, \.onnx"),
        ("faces.onnx", r"--export faces\.onnx needs a package: pip install tf2onnx"),
        ("there/", "there/ is there already. Remove it, or choose another name"),
        ("there", "there is there already. Remove it, or choose another name"),
        ("v1.2/", "v1.2/ is there already. Remove it, or choose another name"),
    ],
)
def test_what_cannot_be_written_is_a_line_before_anything_is_loaded(
    monkeypatch, path, message
):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)  # as where it is not installed
    Path("v1.2").mkdir()
    Path("there").mkdir()
    Path("there/mine.txt").touch()
    with pytest.raises(SystemExit, match=message) as refused:
        generate.main(["--run", "runs/nowhere", "--export", path])
    assert "\n" not in refused.value.code
    assert sorted(map(str, Path().rglob("*"))) == ["there", "there/mine.txt", "v1.2"]


@pytest.mark.slow
def test_another_backend_writes_what_it_can_and_says_what_it_cannot(
    generator, script_process, monkeypatch
):
    pytest.importorskip("jax")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    generators.save("runs/a", generator, FACTS)

    def ran(path):
        process = script_process("generate.py", "--run", "runs/a", "--export", path)
        _, said = process.communicate(timeout=300)
        return process.returncode, said

    for path in ("faces.tflite", "folder/"):
        line = f"--export {path} cannot be written on jax. Set KERAS_BACKEND=tensorflow"
        code, said = ran(path)
        assert (code, said) == (1, f"{line}; the weights are the same\n")
    assert ran("faces.keras") == (0, "")
    reader = READERS["faces.keras"]
    faces = drawn_without_the_suite("faces.keras", noise_of(), reader)
    assert apart(faces, models.draw(generator, noise_of())) <= 1


def test_a_layer_of_ones_own_is_refused_and_the_file_of_before_stays():
    class Mine(layers.Layer):
        def call(self, inputs):
            return inputs

    noise = keras.Input((models.LATENT,))
    model = keras.Model(noise, layers.Reshape((5, 5, 4))(Mine()(noise)))
    Path("faces.keras").write_text("the one of before")
    with pytest.raises(SystemExit, match="Mine is no layer of Keras") as refused:
        export.save(model, "faces.keras", FACTS)
    assert "\n" not in refused.value.code
    assert Path("faces.keras").read_text() == "the one of before"


@pytest.mark.slow
@pytest.mark.parametrize("path", ["faces.keras", "faces.html", "faces/"])
def test_a_disk_that_takes_no_more_is_a_line_and_leaves_nothing(generator, path):
    generators.save("runs/a", generator, FACTS)
    Path("faces.html").write_text("the one of before")
    command = f"ulimit -f 60; exec {sys.executable} {SUITE}/generate.py"
    ran = subprocess.run(
        ["sh", "-c", f"{command} --run runs/a --export {path}"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert re.fullmatch(rf"Cannot write {path}: .+\n", ran.stderr)
    assert sorted(map(str, Path().iterdir())) == ["faces.html", "runs"]
    assert Path("faces.html").read_text() == "the one of before"


@pytest.mark.slow
def test_a_saved_model_appears_by_its_name_in_a_folder_to_be_made(generator, capsys):
    taken(generator, "deep/v1.2/")
    assert Path("deep/v1.2/saved_model.pb").is_file()
    assert [path.name for path in Path("deep").iterdir()] == ["v1.2"]
    assert re.search(r"MB\) is the generator, for Tensor", capsys.readouterr().out)


PAGE = (SUITE / "docs/take-along.md").read_text()
SCRIPT, SERVER = re.findall(r"^```python\n(.+?)^```", PAGE, re.M | re.S)


def test_the_pages_script_draws_what_the_generator_draws(generator):
    taken(generator, "faces.keras")
    names = {}
    exec(SCRIPT, names)
    assert names["faces"].shape == (10, 28, 28, 3)  # 64 x 64 in the page's own words
    assert apart(names["pixels"], models.draw(generator, names["noise"])) <= 1


@pytest.mark.slow
def test_the_pages_server_draws_in_its_threads_what_the_generator_draws(generator):
    for package in ("flask", "tf2onnx", "onnxruntime"):
        pytest.importorskip(package)
    taken(generator, "faces.onnx")
    names = {"__name__": "server"}
    exec(SERVER, names)

    def asked_for(number):
        answer = names["app"].test_client().get(f"/{number}.png")
        assert answer.mimetype == "image/png"
        with Image.open(io.BytesIO(answer.data)) as image:
            return np.asarray(image)

    with ThreadPoolExecutor(4) as threads:
        faces = list(threads.map(asked_for, range(8)))
    noise = [np.random.default_rng(seed).uniform(-1, 1, 100) for seed in range(8)]
    assert apart(faces, models.draw(generator, np.array(noise, "float32"))) <= 1
