"""helper.py: finding CelebA and other pictures, opening them, cropping the face."""

import hashlib
import http.server
import io
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import helper
from dcgan.common.console import UserError
from dcgan.pictures import faces, sources, workers

SUITE = Path(__file__).parent.parent
ORANGE, BLUE, WHITE = (240, 120, 40), (20, 60, 200), (255, 255, 255)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def plain(colour, size=(20, 20)):
    return encoded(Image.new("RGB", size, colour))


def halves(size=(40, 30)):
    """A picture that is orange on the left and blue on the right."""
    image = Image.new("RGB", size, ORANGE)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def put(folder, files):
    for name, data in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def pack(path, files, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def names_in(source):
    pictures = sources.list_pictures(source)
    rows = sources.ROW.iter_unpack(pictures.rows)
    return [pictures.names[row[0] : row[1]].decode() for row in rows]


def read(source, size=4):
    """Return the faces (n, S, S, 3) of a source, and {name: reason} of the others."""
    pixels, failures = workers.read_faces((sources.list_pictures(source), size))
    faces = np.frombuffer(pixels, np.uint8).reshape(-1, size, size, 3)
    return faces, dict(failures)


def colours(faces):
    return [tuple(int(value) for value in face[0, 0]) for face in faces]


def near(found, expected, most=3):
    return np.abs(np.subtract(found, expected, dtype=int)).max() <= most


# Finding pictures


def test_pictures_are_found_at_any_depth_by_their_endings_and_sorted(tmp_path):
    names = ["b.JPG", "a/z.png", "a/b/c.jpeg", "c.WebP", "B.bmp"]
    others = ["notes.txt", "a.jpg.txt", ".hidden.jpg", ".git/x.jpg", "__MACOSX/a.jpg"]
    put(tmp_path, dict.fromkeys([*names, *others], b""))
    assert names_in(tmp_path) == sorted(names)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_the_same_faces_in_the_same_order_as_a_folder(tmp_path, method):
    files = {
        f"faces/{name}": encoded(halves((178 + number, 218)), "JPEG")
        for number, name in enumerate(["9.jpg", "10.jpg", "лицо.jpg", "a/1.jpg"])
    }
    files |= {"faces/.x.jpg": b"", "__MACOSX/faces/._9.jpg": b"", "readme.txt": b""}
    folder = put(tmp_path / "folder", files)
    archive = pack(tmp_path / "faces.zip", files, method)
    assert names_in(archive) == names_in(folder)
    assert len(names_in(archive)) == 4
    assert np.array_equal(read(archive)[0], read(folder)[0])


def test_a_folder_of_zips_is_read_zip_by_zip(tmp_path):
    pack(tmp_path / "2.zip", {"a.png": plain(BLUE)})
    pack(tmp_path / "1.zip", {"z.png": plain(ORANGE), "a.png": plain(WHITE)})
    faces, failures = read(tmp_path)
    assert colours(faces) == [WHITE, ORANGE, BLUE]
    assert not failures


def test_zips_beside_loose_pictures_do_not_count(tmp_path):
    pack(tmp_path / "copy.zip", {"a.png": plain(BLUE)})
    put(tmp_path, {"a.png": plain(ORANGE)})
    assert colours(read(tmp_path)[0]) == [ORANGE]


@pytest.mark.parametrize("source", ["folder", "pictures.zip"])
def test_parts_are_the_whole_cut_up(tmp_path, source):
    files = {f"{number:03}.png": plain((number, 0, 0)) for number in range(7)}
    put(tmp_path / "folder", files)
    pack(tmp_path / "pictures.zip", files)
    pictures = sources.list_pictures(tmp_path / source)
    jobs = [(pictures.part(first, 3), 2) for first in (0, 3, 6)]
    assert [len(part) for part, _ in jobs] == [3, 3, 1]
    pixels = [workers.read_faces(job)[0] for job in jobs]
    assert b"".join(pixels) == workers.read_faces((pictures, 2))[0]
    assert [data[0] for data in pixels] == [0, 3, 6]


def test_a_zip_may_have_other_fields_in_front_of_a_member_than_in_its_directory(
    tmp_path,
):
    path = tmp_path / "long.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, colour in (("a.png", BLUE), ("b.png", ORANGE)):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(plain(colour))
    path.write_bytes(b"a program that unpacks itself" + path.read_bytes())
    assert colours(read(path)[0]) == [BLUE, ORANGE]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "nothing",
            None,
            "nothing does not exist. --data takes celeba, cartoons, a fol",
        ),
        (
            "empty",
            {},
            "empty holds no pictures and no .zip. Pictures end in .jpg .jpeg",
        ),
        (
            "text",
            {"a.txt": b"a"},
            "text holds no pictures and no .zip. Pictures end in",
        ),
        (
            "text.zip",
            {"a.txt": b"a"},
            "text.zip holds no pictures. Pictures end in .jpg",
        ),
        (
            "page.zip",
            b"\n<!DOCTYPE html>",
            "page.zip is a web page, not a zip: the down",
        ),
        (
            "cut.zip",
            b"PK\3\4 and so on",
            "cut.zip is cut off or damaged (14 bytes). Del",
        ),
        (
            "face.jpg",
            b"\xff\xd8",
            "face.jpg is not a zip. --data takes a folder of pict",
        ),
    ],
)
def test_a_source_without_pictures_is_named_with_the_cure(here, name, content, message):
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif content is not None and name.endswith(".zip"):
        pack(name, content)
    elif content is not None:
        put(Path(name), content).mkdir(exist_ok=True)
    with pytest.raises(UserError) as error:
        sources.list_pictures(name)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_zip_that_goes_away_while_it_is_read_ends_the_reading(tmp_path):
    archive = pack(tmp_path / "a.zip", {"a.png": plain(BLUE)})
    pictures = sources.list_pictures(archive)
    archive.unlink()
    with pytest.raises(UserError, match=r"Cannot read .*a\.zip: No such file"):
        workers.read_faces((pictures, 4))


# Opening pictures


def translucent(colour):
    """A picture that is `colour` on the left and transparent on the right."""
    image = Image.new("RGBA", (40, 40), (*colour, 255))
    image.paste((0, 0, 0, 0), (20, 0, 40, 40))
    return image


def with_transparent_colour():
    image = Image.new("RGB", (40, 40), ORANGE)
    image.paste((1, 2, 3), (20, 0, 40, 40))
    return encoded(image, transparency=(1, 2, 3))


def palette_with_hole():
    image = Image.new("P", (40, 40), 0)
    image.putpalette([*ORANGE, 9, 9, 9])
    image.paste(1, (20, 0, 40, 40))
    return encoded(image, transparency=1)


def grey_16_bits():
    grey = np.full((40, 40), 65535, np.uint16)
    grey[:, :20] = 200 * 257
    return encoded(Image.fromarray(grey))


def grey_16_bits_with_hole():
    grey = np.full((40, 40), 40_000, np.uint16)
    grey[:, :20] = 40_001
    return encoded(Image.fromarray(grey), transparency=40_000)


OF_ORANGE = Image.new("RGB", (40, 40), ORANGE)
LEFT_AND_RIGHT = {
    "grey": (encoded(Image.new("L", (40, 40), 90)), (90,) * 3, (90,) * 3),
    "grey of 16 bits": (grey_16_bits(), (200,) * 3, WHITE),
    "grey of 16 bits with a hole": (grey_16_bits_with_hole(), (156,) * 3, WHITE),
    "black and white": (encoded(Image.new("1", (40, 40), 1)), WHITE, WHITE),
    "palette": (encoded(OF_ORANGE.quantize(4)), ORANGE, ORANGE),
    "palette with a hole": (palette_with_hole(), ORANGE, WHITE),
    "alpha": (encoded(translucent(ORANGE)), ORANGE, WHITE),
    "grey with alpha": (
        encoded(translucent((90,) * 3).convert("LA")),
        (90,) * 3,
        WHITE,
    ),
    "a transparent colour": (with_transparent_colour(), ORANGE, WHITE),
    "WebP with alpha": (
        encoded(translucent(ORANGE), "WEBP", lossless=True),
        *(ORANGE, WHITE),
    ),
    "CMYK": (encoded(OF_ORANGE.convert("CMYK"), "JPEG", quality=95), ORANGE, ORANGE),
    "BMP": (encoded(OF_ORANGE, "BMP"), ORANGE, ORANGE),
    "grey JPEG": (encoded(Image.new("L", (40, 40), 90), "JPEG"), (90,) * 3, (90,) * 3),
}


@pytest.mark.parametrize("kind", LEFT_AND_RIGHT)
def test_every_kind_of_picture_becomes_rgb_on_white(kind):
    data, left, right = LEFT_AND_RIGHT[kind]
    face = faces.read_face(data, 40)
    assert face.mode == "RGB"
    assert near(face.getpixel((5, 20)), left)
    assert near(face.getpixel((35, 20)), right)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_taken_with_a_turned_camera_is_turned_upright(kind):
    # The camera was turned by a quarter, so the upright picture has orange on top
    turned = Image.Exif()
    turned[0x0112] = 6
    face = faces.read_face(encoded(halves((40, 40)), kind, exif=turned), 8)
    assert near(face.getpixel((4, 0)), ORANGE, 12)
    assert near(face.getpixel((4, 7)), BLUE, 12)


def test_a_broken_note_of_the_camera_is_passed_over(tmp_path, recwarn):
    nonsense = PngInfo()
    nonsense.add_text("Raw profile type exif", "\n\n\nnonsense")
    broken = b"Exif\0\0II*\0\xff\xff\xff\xff"
    files = {
        "a.jpg": encoded(halves((40, 40)), "JPEG", exif=broken),
        "a.png": encoded(halves((40, 40)), pnginfo=nonsense),
    }
    faces, failures = read(put(tmp_path, files), 8)
    assert near(faces[0, 4, 0], ORANGE, 12)
    assert near(faces[1, 4, 0], ORANGE, 0)
    assert not failures
    assert not recwarn.list


def unreadable_files():
    jpeg = encoded(halves((200, 200)), "JPEG")
    return {
        "0.png": plain(BLUE),
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "empty.jpg": b"",
        "page.jpg": b"<html></html>",
        "gif.png": encoded(halves(), "GIF"),
        "z.png": plain(ORANGE),
    }


@pytest.mark.parametrize("source", ["folder", "pictures.zip"])
def test_unreadable_pictures_are_skipped_and_named(tmp_path, source):
    put(tmp_path / "folder", unreadable_files())
    pack(tmp_path / "pictures.zip", unreadable_files())
    faces, failures = read(tmp_path / source)
    assert colours(faces) == [BLUE, ORANGE]
    assert "truncated" in failures.pop("cut.jpg")
    no_picture = "it is no JPEG, PNG, WEBP, BMP"
    assert failures == dict.fromkeys(["empty.jpg", "page.jpg", "gif.png"], no_picture)


def test_a_picture_larger_than_pillow_allows_is_unreadable(tmp_path, monkeypatch):
    put(tmp_path, {"a.png": plain(BLUE, (30, 30)), "b.png": plain(BLUE, (40, 40))})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    faces, failures = read(tmp_path)
    assert len(faces) == 1
    assert "exceeds limit of 1000 pixels" in failures["b.png"]


def test_encrypted_and_oddly_packed_members_are_unreadable(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", plain(BLUE), zipfile.ZIP_LZMA)
        archive.writestr("b.png", plain(BLUE), zipfile.ZIP_BZIP2)
        archive.writestr("c.png", plain(BLUE))
        archive.writestr("d.png", plain(ORANGE))
    data = bytearray(path.read_bytes())
    third = [at for at in range(len(data)) if data[at : at + 4] == b"PK\1\2"][2]
    data[third + 8] |= 1
    path.write_bytes(data)
    faces, failures = read(path)
    assert colours(faces) == [ORANGE]
    assert failures == {
        "a.png": "it is compressed by method 14, not stored or deflated",
        "b.png": "it is compressed by method 12, not stored or deflated",
        "c.png": "it is encrypted",
    }


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_is_unreadable_even_if_it_would_open(tmp_path, method):
    # BMP has no checksum of its own: only the archive's tells that a pixel is wrong
    bmp = encoded(Image.effect_noise((64, 64), 60).convert("RGB"), "BMP")
    path = pack(tmp_path / "a.zip", {"a.bmp": bmp, "b.png": plain(BLUE)}, method)
    data = bytearray(path.read_bytes())
    data[data.index(b"a.bmp") + 900] ^= 4
    path.write_bytes(data)
    faces, failures = read(path)
    assert colours(faces) == [BLUE]
    assert list(failures) == ["a.bmp"]


def test_a_member_that_is_not_where_the_directory_says_is_unreadable(tmp_path):
    path = pack(tmp_path / "a.zip", {"a.png": plain(BLUE), "b.png": plain(ORANGE)})
    data = bytearray(path.read_bytes())
    data[0:4] = bytes(4)
    path.write_bytes(data)
    faces, failures = read(path)
    assert colours(faces) == [ORANGE]
    assert failures == {"a.png": "the archive is damaged there"}


def test_what_the_front_of_an_archive_held_is_unreadable_when_it_is_missing(tmp_path):
    files = {"a.png": plain(BLUE, (100, 100)), "b.png": plain(ORANGE)}
    path = pack(tmp_path / "a.zip", files)
    path.write_bytes(path.read_bytes()[50:])
    faces, failures = read(path)
    assert colours(faces) == [ORANGE]
    assert failures == {"a.png": "the archive is damaged there"}


def test_a_picture_that_the_system_refuses_to_read_is_not_left_out(tmp_path):
    put(tmp_path, {"a.png": plain(BLUE), "b.png": plain(ORANGE)})
    pictures = sources.list_pictures(tmp_path)
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match=r"Cannot read .*a\.png: Is a directory"):
        workers.read_faces((pictures, 4))


def test_a_picture_that_went_away_is_skipped(tmp_path):
    put(tmp_path, {"a.png": plain(BLUE), "b.png": plain(ORANGE)})
    pictures = sources.list_pictures(tmp_path)
    (tmp_path / "a.png").unlink()
    _, failures = workers.read_faces((pictures, 4))
    assert "No such file" in dict(failures)["a.png"]


# Cropping


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
    face = np.asarray(faces.crop_face(Image.fromarray(pixels)))
    assert np.array_equal(face, pixels[top : top + side, left : left + side])


def test_a_face_is_cropped_before_it_is_resized():
    pixels = np.zeros((218, 178, 3), np.uint8)
    pixels[55:163, 35:143] = 255
    assert (
        np.asarray(faces.read_face(encoded(Image.fromarray(pixels)), 64)).min() == 255
    )


def test_shrinking_averages_the_pixels_that_fall_together():
    board = np.indices((128, 128)).sum(0) % 2 * 255
    image = Image.fromarray(board.astype(np.uint8)).convert("RGB")
    face = np.asarray(faces.read_face(encoded(image), 32))
    assert near(face, 127, 2)


# Showing faces


def test_a_grid_fills_rows_from_the_left_with_white_between():
    faces = np.stack([np.full((4, 4, 3), shade, np.uint8) for shade in (0, 50, 100)])
    sheet = np.asarray(faces.grid(faces, 2))
    assert sheet.shape == (10, 10, 3)
    assert (sheet[:4, :4] == 0).all()
    assert (sheet[:4, 6:] == 50).all()
    assert (sheet[6:, :4] == 100).all()
    between = sheet.copy()
    between[:4, :4] = between[:4, 6:] = between[6:, :4] = 255
    assert (between == 255).all()


@pytest.mark.parametrize(
    ("count", "columns", "scale", "width", "height"),
    [(1, 5, 1, 8, 8), (5, 5, 2, 88, 16), (6, 5, 1, 48, 18), (0, 5, 1, 8, 8)],
)
def test_a_grid_is_as_large_as_its_faces_need(count, columns, scale, width, height):
    faces = np.zeros((count, 8, 8, 3), np.uint8)
    assert faces.grid(faces, columns, scale).size == (width, height)


def test_a_grid_enlarges_faces_smoothly_but_not_across_the_gaps():
    faces = np.zeros((2, 8, 8, 3), np.uint8)
    faces[:, :, 4:] = 200
    sheet = np.asarray(faces.grid(faces, 2, scale=4))
    assert sheet.shape == (32, 66, 3)
    assert len(np.unique(sheet[:, :32])) > 2
    assert (sheet[:, 32:34] == 255).all()
    assert near(sheet[:, 34:], sheet[:, :32], 0)


# Getting CelebA


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
    path = helper.download_celeba()
    assert path == Path("data/img_align_celeba.zip")
    assert path.read_bytes() == data
    said = capsys.readouterr().out
    assert "non-commercial research only" in said
    assert "The course's copy answered 404" in said


def test_when_no_source_has_celeba_the_user_learns_how_to_get_it(
    here, server, monkeypatch
):
    _, address = server
    monkeypatch.setattr(helper, "COURSE_URL", f"{address}/a")
    monkeypatch.setattr(helper, "DRIVE_URL", f"{address}/b")
    with pytest.raises(UserError) as error:
        helper.download_celeba()
    message = str(error.value)
    assert "Google Drive answered 404" in message
    assert "CelebA.html as data/img_align_celeba.zip" in message
    assert "kaggle.com" in message
    assert "python train.py --data archive.zip" in message


def test_a_worker_that_imports_the_helper_does_not_load_numpy():
    code = "import sys, helper; print('numpy' in sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=SUITE, capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr


def test_a_link_to_itself_is_passed_over(here):
    Image.new("RGB", (40, 40)).save("one.png")
    Path("round.png").symlink_to("round.png")
    assert len(sources.list_pictures(here)) == 1


def test_what_claims_to_be_larger_than_any_picture_is_not_read(here, monkeypatch):
    with zipfile.ZipFile("zeros.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", bytes(2_000_000))
    with open("long.png", "wb") as file:
        file.truncate(2_000_000)
    monkeypatch.setattr(helper, "LARGEST", 1_000_000)
    for source in (here / "zeros.zip", here):
        _, failures = workers.read_faces((sources.list_pictures(source), 28))
        assert "2,000,000 bytes, more than any picture" in failures[0][1]
