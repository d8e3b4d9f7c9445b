"""helper.py: getting CelebA, and cropping the face."""

import hashlib
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import helper
from dcgan.common.console import UserError
from tests.pictures.samples import BLUE, pack, plain

SUITE = Path(__file__).parent.parent


def noise(width, height):
    random = np.random.default_rng((width, height))
    return random.integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("width", "height", "left", "top", "side"),
    [
        (178, 218, 35, 55, 108),
        (218, 178, 20, 0, 178),
        (179, 218, 0, 19, 179),
        (100, 60, 20, 0, 60),
        (60, 100, 0, 20, 60),
        (31, 31, 0, 0, 31),
    ],
)
def test_the_crop_is_celebas_box_or_the_centre_square(width, height, left, top, side):
    pixels = noise(width, height)
    face = np.asarray(helper.crop_face(Image.fromarray(pixels)))
    assert np.array_equal(face, pixels[top : top + side, left : left + side])


@pytest.fixture
def server(tmp_path):
    """Serve the folder `site` on this machine; yield the folder and its address."""
    site = tmp_path / "site"
    site.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(site))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield site, f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_celeba_comes_from_the_second_source_when_the_first_fails(
    here, server, monkeypatch, capsys
):
    site, address = server
    data = pack(site / "there.zip", {"a.png": plain(BLUE)}).read_bytes()
    monkeypatch.setattr(helper, "COURSE_URL", f"{address}/missing.zip")
    monkeypatch.setattr(helper, "DRIVE_URL", f"{address}/there.zip")
    monkeypatch.setattr(helper, "ARCHIVE_BYTES", len(data))
    monkeypatch.setattr(helper, "ARCHIVE_MD5", hashlib.md5(data).hexdigest())
    path = helper.download_celeba("data")
    assert path == Path("data/img_align_celeba.zip")
    assert path.read_bytes() == data
    said = capsys.readouterr().out
    assert "non-commercial research only" in said
    assert "The course's copy answered 404" in said


def test_the_next_command_has_the_folder_that_was_given(here, monkeypatch, capsys):
    monkeypatch.setattr(helper, "download_celeba", lambda folder: f"{folder}/faces.zip")
    for words, command in (
        ([], "python train.py"),
        (["--data-folder", "my data"], "python train.py --data-folder 'my data'"),
    ):
        monkeypatch.setattr(sys, "argv", ["helper.py", *words])
        helper.main()
        assert capsys.readouterr().out.endswith(f". Next: {command}\n")


def test_when_no_source_has_celeba_the_user_learns_how_to_get_it(
    here, server, monkeypatch
):
    _, address = server
    monkeypatch.setattr(helper, "COURSE_URL", f"{address}/a")
    monkeypatch.setattr(helper, "DRIVE_URL", f"{address}/b")
    with pytest.raises(UserError) as error:
        helper.download_celeba("data")
    message = str(error.value)
    assert "Google Drive answered 404" in message
    assert "CelebA.html as data/img_align_celeba.zip" in message
    assert "kaggle.com" in message
    assert "python train.py --data archive.zip" in message


def test_celebas_attributes_are_fetched_and_checked(here, server, monkeypatch, capsys):
    site, address = server
    data = b"1\nBald\n000001.jpg -1\n"
    (site / "there.txt").write_bytes(data)
    monkeypatch.setattr(helper, "ATTRIBUTES_URL", f"{address}/there.txt")
    monkeypatch.setattr(helper, "ATTRIBUTES_BYTES", len(data))
    monkeypatch.setattr(helper, "ATTRIBUTES_MD5", hashlib.md5(data).hexdigest())
    path = helper.download_attributes("data")
    assert path == Path("data/list_attr_celeba.txt")
    assert path.read_bytes() == data
    path.write_bytes(data.replace(b"-1", b" 1"))
    assert helper.download_attributes("data").read_bytes() == data
    assert "has the wrong md5" in capsys.readouterr().out


def test_when_the_attributes_are_refused_a_line_says_where_to_put_them(
    here, server, monkeypatch
):
    _, address = server
    monkeypatch.setattr(helper, "ATTRIBUTES_URL", f"{address}/none.txt")
    with pytest.raises(UserError, match="Google Drive answered 404") as error:
        helper.download_attributes("data")
    line = str(error.value).splitlines()[-1]
    assert "CelebA.html as data/list_attr_celeba.txt" in line
    assert "kaggle.com" in line


def test_what_a_worker_imports_does_not_load_numpy():
    code = "import sys, helper, dcgan.pictures.workers; print('numpy' in sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=SUITE, capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
