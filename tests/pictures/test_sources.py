"""Finding pictures in folders and archives, and reading their bytes."""

import os
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan.common.console import UserError
from dcgan.pictures import sources
from dcgan.pictures.faces import endings
from tests.pictures.samples import (
    BLUE,
    ORANGE,
    WHITE,
    colours,
    encoded,
    halves,
    near,
    pack,
    plain,
    put,
    read,
    read_faces,
)


def names_in(source):
    return [picture.name for picture in sources.list_pictures(source)]


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


def test_zips_beside_loose_pictures_are_read_too(tmp_path):
    pack(tmp_path / "a.zip", {"a.png": plain(BLUE), "b.png": plain(WHITE)})
    put(tmp_path, {"z.png": plain(ORANGE)})
    assert colours(read(tmp_path)[0]) == [ORANGE, BLUE, WHITE]


def test_a_zip_is_passed_over_if_all_that_it_holds_lies_there_unpacked(tmp_path):
    files = {"x/a.png": plain(BLUE), "x/b.png": plain(WHITE, (30, 30))}
    pack(tmp_path / "x.zip", files)
    put(tmp_path, files)
    assert told_of(tmp_path) == "Passed over 1 file: 1 unpacked .zip (x.zip)."
    assert colours(read(tmp_path)[0]) == [BLUE, WHITE]
    pack(tmp_path / "x.zip", {**files, "x/c.png": plain(ORANGE)})
    assert colours(read(tmp_path)[0]) == [BLUE, WHITE, BLUE, WHITE, ORANGE]


def told_of(source):
    passed_over = sources.PassedOver()
    sources.list_pictures(source, passed_over)
    return str(passed_over)


def test_links_to_folders_are_followed_each_folder_once(here):
    put(here / "elsewhere", {"b.png": plain(BLUE), "deep/c.png": plain(WHITE)})
    put(here / "faces/sub", {"a.png": plain(ORANGE)})
    for link, target in {
        "faces/1": "../elsewhere",
        "faces/2": "../elsewhere",  # once more
        "faces/0": "sub",  # which has a name of its own
        "elsewhere/deep/on": "../../more",
    }.items():
        Path(link).symlink_to(target)
    put(here / "more", {"d.png": plain(BLUE)})
    expected = ["1/b.png", "1/deep/c.png", "1/deep/on/d.png", "sub/a.png"]
    assert names_in("faces") == expected
    assert told_of("faces") == ""
    assert colours(read("faces")[0]) == [BLUE, WHITE, BLUE, ORANGE]


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_a_link_that_leads_back_is_not_followed_and_told_of(here, target):
    put(here / "all/faces", {"a.png": plain(ORANGE)})
    put(here / "all", {"other.png": plain(BLUE)})
    Path("all/faces/back").symlink_to(target)
    assert names_in("all/faces") == ["a.png"]
    told = "Passed over 1 file: 1 link to a folder above it (back)."
    assert told_of("all/faces") == told


def test_what_a_link_adds_changes_the_fingerprint(here):
    put(here / "faces", {"a.png": plain(ORANGE)})
    put(here / "elsewhere", {"b.png": plain(BLUE)})
    before = sources.fingerprint("faces")
    Path("faces/more").symlink_to(here / "elsewhere")
    assert sources.fingerprint("faces") != before


def twenty_kinds():
    """A folder's files that are read, and those that are not, each with why."""
    orange = halves((40, 40))
    kinds = {
        **{".jpg": "JPEG", ".JPE": "JPEG", ".jfif": "JPEG", ".png": "PNG"},
        **{".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM"},
        **{".webp": "WEBP", ".bmp": "BMP", ".avif": "AVIF", ".tga": "TGA"},
        **{".jp2": "JPEG2000", ".ico": "ICO", ".pcx": "PCX", ".qoi": "QOI"},
    }
    opened = {it.lower() for it in kinds} & set(endings())
    read = {
        f"a{ending}": encoded(orange, kind)
        for ending, kind in kinds.items()
        if ending.lower() in opened  # an older Pillow knows fewer
    }
    passed_over = {
        **dict.fromkeys(["a.heic", "b.heic", "c.HEIC"], "3 .heic"),
        **dict.fromkeys(["a.txt", "b.txt"], "2 .txt"),
        **dict.fromkeys([".b.jpg", "__MACOSX/c.jpg", ".git/x"], "3 hidden"),
        **{"a.eps": "1 .eps", "a.mpg": "1 .mpg", "a.h5": "1 .h5", "a.svg": "1 .svg"},
        **{"README": "1 without an ending", "a.tar": "1 .tar", "a.pdf": "1 .pdf"},
    }
    return read, passed_over


def test_of_twenty_kinds_of_files_each_is_read_or_counted_and_named(here):
    read_too, passed_over = twenty_kinds()
    put(here / "faces", {**read_too, **dict.fromkeys(passed_over, b"text")})
    Path("faces/gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo("faces/pipe.png")
    packed = {"in.png": plain(BLUE), "notes.md": b"", "more.zip": b"PK", "c/": b""}
    pack(here / "faces/z.zip", packed)
    faces, unreadable = read("faces", 8)
    assert not unreadable
    assert len(faces) == len(read_too) + 1
    for face in faces[:-1]:
        assert near(face[4, 0], ORANGE, 16)
        assert near(face[4, 7], BLUE, 16)
    told = told_of("faces")
    counts = {*passed_over.values(), "1 link to nowhere", "1 neither file nor folder"}
    for count in counts | {"1 .md (notes.md in z.zip)", "1 .zip (more.zip in z.zip)"}:
        assert count in told
    assert told.startswith(f"Passed over {len(passed_over) + 4} files: 3 ")


def test_the_first_frame_of_many_is_the_picture(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in (BLUE, ORANGE)]
    put(
        tmp_path,
        {
            f"a.{kind}": encoded(
                frames[0], kind, save_all=True, append_images=frames[1:]
            )
            for kind in ("GIF", "TIFF", "WEBP")
        },
    )
    assert all(near(colour, BLUE, 9) for colour in colours(read(tmp_path)[0]))


def test_a_tiff_of_fractions_is_unreadable_rather_than_black(tmp_path):
    fractions = Image.fromarray(np.full((20, 20), 0.5, np.float32))
    put(tmp_path, {"a.tif": encoded(fractions, "TIFF"), "b.png": plain(BLUE)})
    _, failures = read(tmp_path)
    assert failures == {"a.tif": "its pixels are fractions, in no known range"}


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("my faces.tar", "tar xf 'my faces.tar' -C 'my faces'"),
        ("faces.TAR.GZ", "tar xf faces.TAR.GZ -C faces"),
        ("faces.tgz", "tar xf faces.tgz -C faces"),
        ("faces.7z", "7z x faces.7z -ofaces"),
        ("faces.rar", "unrar x faces.rar faces/"),
    ],
)
def test_an_archive_of_another_kind_is_refused_with_the_command_that_unpacks_it(
    here, name, command
):
    Path(name).write_bytes(b"whatever")
    folder = shlex.quote(name[: name.index(".")])
    unpack = f"Unpack it: mkdir -p {folder} && {command}; then --data {folder}"
    with pytest.raises(UserError) as error:
        sources.list_pictures(name)
    assert str(error.value) == f"{name} is not a zip. {unpack}"
    Path("in").mkdir()
    Path(name).rename(f"in/{name}")
    with pytest.raises(UserError, match=r"^in holds no pictures. Unpack it: mkdir "):
        sources.list_pictures("in")


def test_the_command_for_a_tar_and_what_it_says_to_do_next_work(here):
    put(here / "my faces", {"a.png": plain(BLUE)})
    subprocess.run(["tar", "cf", "x y.tar", "my faces"], check=True)
    with pytest.raises(UserError) as error:
        sources.list_pictures("x y.tar")
    command, data = str(error.value).split("Unpack it: ")[1].split("; then --data ")
    subprocess.run(command, shell=True, check=True)
    assert colours(read(shlex.split(data)[0])[0]) == [BLUE]


def test_parquet_is_refused_with_the_program_that_unpacks_it(here):
    Path("it's.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError) as error:
        sources.list_pictures("it's.parquet")
    words = shlex.split(str(error.value).split("&& ")[2].split("; then")[0])
    compile(words[2], "", "exec")
    assert words[3:] == ["it's.parquet", "it's"]


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
            "empty holds no pictures. Pictures end in .jpg .png .webp .bmp .gif",
        ),
        (
            "text",
            {"a.txt": b"a"},
            "text holds no pictures. Passed over 1 file: 1 .txt (a.txt). Pictures",
        ),
        (
            "text.zip",
            {"a.txt": b"a"},
            "text.zip holds no pictures. Passed over 1 file: 1 .txt (a.txt in text",
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
            "face.jpg is not a zip. --data takes celeba, cartoons, a folder",
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
        read_faces(pictures, 4)


def unreadable_files():
    jpeg = encoded(halves((200, 200)), "JPEG")
    return {
        "0.png": plain(BLUE),
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "empty.jpg": b"",
        "page.jpg": b"<html></html>",
        "z.png": plain(ORANGE),
    }


@pytest.mark.parametrize("source", ["folder", "pictures.zip"])
def test_unreadable_pictures_are_skipped_and_named(tmp_path, source):
    put(tmp_path / "folder", unreadable_files())
    pack(tmp_path / "pictures.zip", unreadable_files())
    faces, failures = read(tmp_path / source)
    assert colours(faces) == [BLUE, ORANGE]
    assert "truncated" in failures.pop("cut.jpg")
    no_picture = "it is no JPEG, PNG, WEBP, BMP, GIF, TIFF"
    assert failures == dict.fromkeys(["empty.jpg", "page.jpg"], no_picture)


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
        read_faces(pictures, 4)


def test_a_picture_that_went_away_is_skipped(tmp_path):
    put(tmp_path, {"a.png": plain(BLUE), "b.png": plain(ORANGE)})
    pictures = sources.list_pictures(tmp_path)
    (tmp_path / "a.png").unlink()
    _, failures = read_faces(pictures, 4)
    assert "No such file" in dict(failures)["a.png"]


def test_a_link_to_itself_is_passed_over(here):
    Image.new("RGB", (40, 40)).save("one.png")
    Path("round.png").symlink_to("round.png")
    assert len(sources.list_pictures(here)) == 1


def test_what_claims_to_be_larger_than_any_picture_is_not_read(here, monkeypatch):
    with zipfile.ZipFile("zeros.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.png", bytes(2_000_000))
    with open("long.png", "wb") as file:
        file.truncate(2_000_000)
    monkeypatch.setattr(sources, "LARGEST", 1_000_000)
    for source in (here / "zeros.zip", here):
        _, failures = read(source)
        assert "2,000,000 bytes, more than any picture" in "".join(failures.values())


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_source_that_is_moved_or_copied_is_the_same_and_a_changed_one_is_not(
    here, kind
):
    put(here / "faces", {f"{n}.png": plain((n, n, n)) for n in range(40)})
    if kind == "zip":
        shutil.make_archive("faces.zip".removesuffix(".zip"), "zip", "faces")
    source, copy = (here / name for name in ("faces", "copy"))
    if kind == "zip":
        source, copy = here / "faces.zip", here / "elsewhere/faces.zip"
        copy.parent.mkdir()
        shutil.copy2(source, copy)
    else:
        shutil.copytree(source, copy)
    before = sources.fingerprint(source)
    assert sources.fingerprint(copy) == before
    path = copy if kind == "zip" else copy / "39.png"
    os.utime(path, ns=(1, 1))
    assert sources.fingerprint(copy) != before
