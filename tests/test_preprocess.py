"""preprocess.py: pictures to one array on the disk."""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import cartoons
import helper
import preprocess
from dcgan.common.console import UserError
from dcgan.common.files import locked
from dcgan.pictures import array, sources, workers
from preprocess import check_enough, name_of, open_faces, prepare
from tests.faults import deadly
from tests.pictures.samples import read_faces

SUITE = Path(__file__).parent.parent
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
FEW = 5
PICTURES = 3000  # of a folder that takes seconds
WORKERS = workers.Workers


@pytest.fixture(scope="module")
def worker():
    """A worker that is started once for many tests."""
    with workers.Workers(1) as one:
        yield one


@pytest.fixture(autouse=True)
def one_worker(here, monkeypatch, worker):
    """Have one process that is there already read the pictures, in the test's folder.

    It forgets the archive that it has open: the next test may call another the same.
    """
    for work in (functools.partial(os.chdir, here), sources._open.cache_clear):
        list(worker.in_order([workers.Job(work, "", "")]))
    lent = contextlib.nullcontext(worker)
    monkeypatch.setattr(preprocess.workers, "Workers", lambda count: lent)


@pytest.fixture
def own_workers(one_worker, monkeypatch):
    """Have processes of a test's own."""
    monkeypatch.setattr(preprocess.workers, "Workers", WORKERS)


@pytest.fixture
def faces(here):
    """A folder of pictures, 10 x 10, the first all 0, the second all 1, and so on."""
    return draw(here / "faces", FEW)


def draw(folder, count, first=0):
    folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        shade = (number, number, number)
        # BMP, so that all files are equally long
        Image.new("RGB", (10, 10), shade).save(folder / f"{number:03}.bmp")
    return folder


def numbers(prepared):
    """Return the number that each face was drawn with."""
    return open_faces(prepared)[:, 0, 0, 0].tolist()


def state(folder):
    """Return {name: time of the last change}, without the lock."""
    paths = [path for path in Path(folder).iterdir() if path.name != ".lock"]
    return {path.name: path.stat().st_mtime_ns for path in paths}


# Pictures to an array


def test_a_picture_keeps_its_colours_and_its_sides(here):
    image = Image.new("RGB", (40, 40), "red")
    image.paste("blue", (20, 0, 40, 40))
    image.paste("lime", (0, 0, 40, 10))
    (here / "faces").mkdir()
    image.save(here / "faces/a.png")
    face = open_faces(prepare("faces", 32, 0))[0]
    assert face[3, 5].tolist() == [0, 255, 0]
    assert face[3, 27].tolist() == [0, 255, 0]
    assert face[27, 5].tolist() == [255, 0, 0]
    assert face[27, 27].tolist() == [0, 0, 255]


def test_the_array_is_an_ordinary_npy_file_and_its_json_tells_what_is_in_it(faces):
    prepared = prepare("faces", 28, 0)
    assert prepared.path == Path("data/faces-28.npy")
    assert prepared.name == "faces"
    assert prepared.count == FEW
    array = np.load(prepared.path)
    assert array.shape == (FEW, 28, 28, 3)
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous
    about = json.loads(Path("data/faces-28.json").read_text())
    assert about == prepared.facts
    assert about["checksum"] == hashlib.sha256(array.tobytes()).hexdigest()
    assert about["bytes"] == prepared.path.stat().st_size
    assert about["count"] == FEW
    assert about["skipped"] == 0
    assert about["image_size"] == 28
    assert about["source"] == "faces"
    assert (
        about["crop"] == "centre 108 x 108 of 178 x 218, else the largest centre square"
    )
    assert about["filter"] == "bilinear"


def test_faces_cannot_be_overwritten_through_the_opened_array(faces):
    opened = open_faces(prepare("faces", 28, 0))
    with pytest.raises(ValueError, match="read-only"):
        opened[0] = 1


@pytest.mark.parametrize("count", [1, 3])
def test_pictures_stay_in_order_however_many_processes_read_them(
    here, monkeypatch, own_workers, count
):
    monkeypatch.setattr(preprocess, "WORKERS", count)
    monkeypatch.setattr(preprocess, "JOB", 3)
    draw(here / "faces", 50)
    assert numbers(prepare("faces", 28, 0)) == list(range(50))


def test_a_zip_gives_the_array_of_its_unpacked_folder(faces):
    with zipfile.ZipFile("packed.zip", "w") as archive:
        for path in faces.iterdir():
            archive.write(path)
    packed, loose = prepare("packed.zip", 28, 0), prepare("faces", 28, 0)
    assert packed.path == Path("data/packed-28.npy")
    assert packed.facts["checksum"] == loose.facts["checksum"]


def test_unreadable_pictures_are_skipped_counted_and_the_first_three_named(
    faces, capsys
):
    for name in ("000a", "001a", "001b", "002a"):
        (faces / f"{name}.jpg").write_text("no picture")
    prepared = prepare("faces", 28, 0)
    assert numbers(prepared) == list(range(FEW))
    assert prepared.facts["skipped"] == 4
    said = capsys.readouterr().out
    assert "Skipped 4 unreadable pictures. 000a.jpg: it is no JPEG, PNG, WEBP" in said
    assert "001b.jpg" in said
    assert "002a.jpg" not in said


def test_gaps_of_unreadable_pictures_are_closed(here, monkeypatch):
    monkeypatch.setattr(preprocess, "JOB", 4)
    draw(here / "faces", 30)
    for number in (0, 5, 6, 7, 8, 9, 10, 11, 13, 29):
        (here / f"faces/{number:03}.bmp").write_text("no picture")
    left = [1, 2, 3, 4, 12, *range(14, 29)]
    some = prepare("faces", 28, 7)
    assert numbers(some) == left[:7]
    assert some.path.stat().st_size == some.facts["bytes"]
    everything = prepare("faces", 28, 0)
    assert numbers(everything) == left
    assert everything.path.stat().st_size == everything.facts["bytes"]
    pixels = np.load(everything.path).tobytes()
    assert everything.facts["checksum"] == hashlib.sha256(pixels).hexdigest()


def test_a_source_with_no_readable_picture_is_an_error_and_leaves_nothing(here):
    (here / "faces").mkdir()
    (here / "faces/a.jpg").write_text("no picture")
    with pytest.raises(
        UserError, match=r"None of the 1 pictures can be read. a\.jpg: it"
    ):
        prepare("faces", 28, 0)
    assert not state("data")


def test_a_wrong_source_is_named_before_anything_is_made(here):
    with pytest.raises(UserError, match="nowhere does not exist"):
        prepare("nowhere", 28, 0)
    (here / "page.zip").write_text("<html>")
    with pytest.raises(UserError, match=r"page\.zip is a web page, not a zip"):
        prepare("page.zip", 28, 0)
    assert not state("data")


def test_the_first_so_many_pictures_are_the_first_so_many_readable_ones(faces):
    (faces / "000a.jpg").write_text("no picture")
    prepared = prepare("faces", 28, 3)
    assert prepared.count == 3
    assert numbers(prepared) == [0, 1, 2]
    assert len(np.load(prepared.path)) == 3


def test_cartoons_are_drawn_as_many_as_are_wanted(here, monkeypatch):
    monkeypatch.setattr(preprocess, "CARTOONS", 6)
    monkeypatch.setattr(preprocess, "JOB", 4)
    all_of_them = prepare("cartoons", 28, 0)
    assert all_of_them.path == Path("data/cartoons-28.npy")
    six = np.array(open_faces(all_of_them))
    assert len(six) == 6
    more = prepare("cartoons", 28, 9)
    assert more.count == 9
    assert np.array_equal(open_faces(more)[:6], six)
    drawn = cartoons.cartoon_faces((preprocess.CARTOON_SEED, 0, 9, 28))
    assert np.array_equal(open_faces(more), drawn)


def test_celeba_is_read_from_its_archive(here):
    draw(here / "faces", FEW)
    (here / "data").mkdir()
    with zipfile.ZipFile("data/img_align_celeba.zip", "w") as archive:
        for path in (here / "faces").iterdir():
            archive.write(path, f"img_align_celeba/{path.name}")
    prepared = prepare("celeba", 28, 0)
    assert prepared.path == Path("data/celeba-28.npy")
    assert numbers(prepared) == list(range(FEW))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("celeba", "celeba"),
        ("cartoons", "cartoons"),
        ("a/b/my faces", "my-faces"),
        ("a/b/faces/", "faces"),
        ("a/archive.zip", "archive"),
        ("a/v1.2", "v1.2"),
        ("лица", "лица"),
        ("/", "pictures"),
        # The array of downloaded CelebA is not to be overwritten by another folder
        ("elsewhere/CelebA", "own-CelebA"),
        ("elsewhere/cartoons.zip", "own-cartoons"),
    ],
)
def test_an_array_is_named_after_its_source(data, name):
    assert name_of(data) == name


def test_the_name_of_a_source_given_as_a_dot_is_its_folders(here):
    assert name_of(".") == here.name


def test_a_file_where_the_arrays_should_lie_is_an_error(faces):
    Path("data").write_text("in the way")
    with pytest.raises(UserError, match="Cannot make the folder data: File exists"):
        prepare("faces", 28, 0)


def test_an_array_larger_than_the_free_disk_is_refused_at_once(faces, monkeypatch):
    face = 28 * 28 * 3
    free = SimpleNamespace(free=3 * face + 1)
    monkeypatch.setattr(array.shutil, "disk_usage", lambda _: free)
    with pytest.raises(UserError, match=r"faces-28.npy needs .* or --images 3\."):
        prepare("faces", 28, 0)
    assert prepare("faces", 28, 3).count == 3


# The same array again


def test_an_array_that_matches_is_used_again(faces, capsys):
    first = prepare("faces", 28, 0)
    before = state("data")
    capsys.readouterr()
    assert prepare("faces", 28, 0) == first
    assert state("data") == before
    assert (
        capsys.readouterr().out
        == "Using data/faces-28.npy: 5 pictures, made earlier.\n"
    )


def test_of_a_larger_array_only_the_wanted_part_is_read(faces):
    prepare("faces", 28, 0)
    before = state("data")
    prepared = prepare("faces", 28, 2)
    assert prepared.count == 2
    assert numbers(prepared) == [0, 1]
    assert state("data") == before


def test_more_pictures_than_there_are_is_all_of_them_and_is_not_made_again(faces):
    assert prepare("faces", 28, 99).count == FEW
    before = state("data")
    assert prepare("faces", 28, 0).count == FEW
    assert state("data") == before


def test_another_size_is_another_array(faces):
    prepare("faces", 28, 0)
    assert prepare("faces", 32, 0).path == Path("data/faces-32.npy")
    assert Path("data/faces-28.npy").exists()


def more_pictures(_):
    draw(Path("faces"), 1, first=FEW)


def fewer_pictures(_):
    Path("faces/001.bmp").unlink()


def other_picture_of_the_same_size(monkeypatch):
    path = Path("faces/001.bmp")
    path.write_bytes(Path("faces/002.bmp").read_bytes())
    os.utime(path, ns=(1, 1))


def other_crop(monkeypatch):
    other = helper.Fit(helper.crop_face, "the whole picture")
    monkeypatch.setitem(helper.FITS, "crop", other)


def other_version(monkeypatch):
    monkeypatch.setattr(preprocess, "VERSION", preprocess.VERSION + 1)


def cut_array(_):
    os.truncate("data/faces-28.npy", 1000)


def other_pixels(_):
    with open("data/faces-28.npy", "rb+") as file:
        file.seek(3000)
        file.write(b"damage")


def other_header(_):
    with open("data/faces-28.npy", "rb+") as file:
        file.seek(60)
        file.write(b"damage")


def lost_json(_):
    Path("data/faces-28.json").unlink()


def nonsense_json(_):
    Path("data/faces-28.json").write_text('{"bytes": ')


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (more_pictures, "its source has changed"),
        (fewer_pictures, "its source has changed"),
        (other_picture_of_the_same_size, "its source has changed"),
        (other_crop, "its faces are cropped differently"),
        (other_version, "an older version of preprocess.py made it"),
        (cut_array, "it is unfinished or damaged"),
        (other_pixels, "it is unfinished or damaged"),
        (other_header, "it is unfinished or damaged"),
        (lost_json, "it is unfinished or damaged"),
        (nonsense_json, "it is unfinished or damaged"),
    ],
)
def test_an_array_that_does_not_match_is_made_again_and_says_why(
    faces, monkeypatch, capsys, change, reason
):
    prepare("faces", 28, 0)
    change(monkeypatch)
    prepared = prepare("faces", 28, 0)
    assert f"Making data/faces-28.npy again: {reason}." in capsys.readouterr().out
    expected = [
        np.asarray(Image.open(path))[0, 0, 0] for path in sorted(faces.iterdir())
    ]
    assert numbers(prepared) == expected
    assert prepare("faces", 28, 0) == prepared


def test_a_damaged_array_whose_source_is_gone_is_one_line(faces):
    prepare("faces", 28, 0)
    other_pixels(None)
    faces.rename("elsewhere")
    message = r"faces does not exist, and data/faces-28\.npy is unfinished or damaged\."
    with pytest.raises(UserError, match=message):
        prepare("faces", 28, 0)


def test_checking_a_large_array_is_shown(faces, monkeypatch, capsys):
    prepare("faces", 28, 0)
    monkeypatch.setattr(array, "LONG_CHECK", 100)
    capsys.readouterr()
    prepare("faces", 28, 0)
    assert "Checking faces-28.npy" in capsys.readouterr().err


def test_the_array_of_pictures_that_have_changed_is_kept(faces, capsys):
    first = prepare("faces", 28, 0)
    (faces / "001.bmp").unlink()
    assert prepare("faces", 28, 0).count == FEW - 1
    said = capsys.readouterr().out
    assert "The old array is kept as data/faces-28.before.npy" in said
    # As the line tells
    faces.rename("elsewhere")
    for ending in ("npy", "json"):
        os.replace(f"data/faces-28.before.{ending}", f"data/faces-28.{ending}")
    assert prepare("faces", 28, 0) == first
    assert numbers(first) == list(range(FEW))


def test_pictures_that_were_only_copied_leave_one_array(faces, capsys):
    first = prepare("faces", 28, 0)
    os.utime(faces / "001.bmp", (1, 1))
    assert prepare("faces", 28, 0).facts["checksum"] == first.facts["checksum"]
    assert "again: its source has changed.\n" in capsys.readouterr().out
    assert sorted(state("data")) == ["faces-28.json", "faces-28.npy"]


def test_what_is_kept_already_stays(faces, capsys):
    for left in (FEW - 1, FEW - 2):
        prepare("faces", 28, 0)
        (faces / f"{left:03d}.bmp").unlink()
    prepare("faces", 28, 0)
    assert "is kept as data/faces-28.before-2.npy" in capsys.readouterr().out
    kept = [len(np.load(f"data/faces-28.before{nth}.npy")) for nth in ("", "-2")]
    assert kept == [FEW, FEW - 1]


def test_no_name_is_no_folder(faces):
    with pytest.raises(UserError, match=r"^DATA is empty\. Say where"):
        prepare("", 28, 0)


@pytest.mark.parametrize("damage", [cut_array, other_pixels])
def test_a_damaged_array_is_not_kept(faces, damage):
    prepare("faces", 28, 0)
    damage(None)
    (faces / "001.bmp").unlink()
    prepare("faces", 28, 0)
    assert sorted(state("data")) == ["faces-28.json", "faces-28.npy"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_other_pictures_of_the_same_names_sizes_and_times_are_not_mistaken(here, kind):
    for folder, first in (("a", 0), ("b", 100)):
        (here / folder).mkdir()
        draw(here / folder / "faces", FEW)
        for number, path in enumerate(sorted((here / folder / "faces").iterdir())):
            shade = (first + number,) * 3
            Image.new("RGB", (10, 10), shade).save(path)
            os.utime(path, ns=(10**18, 10**18))
        if kind == "zip":
            packed = shutil.make_archive(f"{folder}/faces", "zip", f"{folder}/faces")
            os.utime(packed, ns=(10**18, 10**18))
    name = "faces.zip" if kind == "zip" else "faces"
    assert numbers(prepare(f"a/{name}", 28, 0))[0] == 0
    assert numbers(prepare(f"b/{name}", 28, 0))[0] == 100


def test_pictures_that_were_skipped_are_told_of_at_later_starts(faces, capsys):
    (faces / "000a.jpg").write_text("no picture")
    prepare("faces", 28, 0)
    capsys.readouterr()
    prepare("faces", 28, 0)
    assert "made earlier, without 1 that could not be read." in capsys.readouterr().out


# What the system refuses


def test_an_array_whose_json_cannot_be_read_is_one_line(faces):
    prepare("faces", 28, 0)
    path = Path("data/faces-28.json")
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=f"Cannot read {path}: Is a directory"):
        prepare("faces", 28, 0)


@pytest.mark.parametrize(
    ("name", "mode"), [("data/faces-28.npy", 0), ("faces/000.bmp", 0)]
)
def test_what_may_not_be_read_is_one_line(faces, name, mode):
    if name != "faces/000.bmp":
        prepare("faces", 28, 0)
    path, before = Path(name), Path(name).stat().st_mode
    path.chmod(mode)
    try:
        if os.access(path, os.R_OK):
            pytest.skip("root may read all")
        with pytest.raises(UserError, match=f"Cannot read .*{name}: Permission denied"):
            prepare("faces", 28, 0)
    finally:
        path.chmod(before)


def test_a_pipe_for_pictures_is_refused_and_leaves_nothing(here):
    os.mkfifo("p")
    with pytest.raises(UserError, match=r"^p is neither a folder nor a file"):
        prepare("p", 28, 0)
    assert not state("data")


def test_a_long_name_has_an_array_and_one_too_long_is_one_line(here):
    name = "n" * 250
    draw(here / name, 2)
    assert prepare(name, 28, 0).count == 2
    with pytest.raises(UserError, match=r"Cannot read n*: File name too long"):
        prepare("n" * 300, 28, 0)


@pytest.mark.parametrize(("images", "wanted"), [(4, "4"), (0, "all")])
def test_an_array_of_too_few_is_made_again(faces, capsys, images, wanted):
    prepare("faces", 28, 2)
    prepared = prepare("faces", 28, images)
    assert prepared.count == (images or FEW)
    assert f"it holds 2 pictures, and {wanted} are wanted." in capsys.readouterr().out


def test_an_array_outlives_its_source(faces, capsys):
    first = prepare("faces", 28, 0)
    faces.rename("elsewhere")
    assert prepare("faces", 28, 3).count == 3
    assert "faces is gone, but not what was made from it." in capsys.readouterr().out
    # Another source that is missing must not get this one's faces
    with pytest.raises(UserError, match="folder/faces does not exist"):
        prepare("folder/faces", 28, 0)
    assert prepare("elsewhere", 28, 0).facts["checksum"] == first.facts["checksum"]


def test_a_failed_second_making_leaves_the_first_array_whole(faces):
    first = prepare("faces", 28, 0)
    before = state("data")
    for path in faces.iterdir():
        path.write_text("no picture any more")
    with pytest.raises(UserError, match="None of the 5 pictures can be read"):
        prepare("faces", 28, 0)
    assert state("data") == before
    assert len(np.load(first.path)) == FEW


@pytest.mark.parametrize(
    ("unwritten", "reason"),
    [
        ("faces-28.json", "it is unfinished or damaged"),
        ("faces-28.before.json", "its source has changed"),
    ],
)
def test_an_end_between_array_and_json_does_not_pass_for_a_whole_array(
    faces, monkeypatch, capsys, unwritten, reason
):
    prepare("faces", 28, 0)
    # As many pictures as before, so that the old .json would fit the new array's bytes
    other_picture_of_the_same_size(monkeypatch)
    write = array.write_json

    def end(path, content):
        if path.name == unwritten:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as during:
        during.setattr(array, "write_json", end)
        with pytest.raises(KeyboardInterrupt):
            prepare("faces", 28, 0)
    capsys.readouterr()
    assert numbers(prepare("faces", 28, 0)) == [0, 2, 2, 3, 4]
    assert f"again: {reason}." in capsys.readouterr().out
    kept = np.load("data/faces-28.before.npy")
    assert kept[:, 0, 0, 0].tolist() == list(range(FEW))
    assert Path("data/faces-28.before.json").exists()


# Processes


@pytest.fixture
def many(here):
    """Name a folder of so many pictures that reading them takes seconds: 20, and links
    to them.
    """
    (here / "many").mkdir()
    random = np.random.default_rng(0)
    for number in range(20):
        pixels = random.integers(0, 256, (300, 300, 3), np.uint8)
        Image.fromarray(pixels).save(here / f"many/{number:04}.jpg")
    for number in range(20, PICTURES):
        os.link(here / f"many/{number % 20:04}.jpg", here / f"many/{number:04}.jpg")
    return "many"


def wait_until(is_so, seconds=60):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


def written():
    """Return how many bytes there are of the array, finished or not."""
    with contextlib.suppress(FileNotFoundError):
        return sum(it.stat().st_size for it in Path("data").glob("*many-28.npy"))
    return 0


def children(process):
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


OPTIONS = ("--data", "many", "--image-size", 28, "--workers", 2)


def test_a_run_waits_for_another_one_in_its_folder(faces, capsys):
    Path("data").mkdir()
    printed = []

    def is_waiting():
        printed.append(capsys.readouterr().out)
        return "Another run prepares pictures in data: waiting." in "".join(printed)

    with locked("data/.lock"):
        run = threading.Thread(target=prepare, args=("faces", 28, 0))
        run.start()
        wait_until(is_waiting)
        assert not state("data")
    run.join(60)
    assert sorted(state("data")) == ["faces-28.json", "faces-28.npy"]


@LINUX
@pytest.mark.slow
def test_a_kill_leaves_no_worker_and_no_array_and_two_starts_then_make_one(
    many, script_process
):
    process = script_process("preprocess.py", *OPTIONS)
    wait_until(lambda: written() > 100_000)
    readers = children(process)
    process.kill()
    finish(process)
    assert not list(Path("data").glob("many*"))
    wait_until(lambda: not any(Path("/proc", pid, "exe").exists() for pid in readers))
    both = [script_process("preprocess.py", *OPTIONS) for _ in range(2)]
    (code, out, err), (other_code, other_out, other_err) = map(finish, both)
    assert (code, other_code) == (0, 0), err + other_err
    for told in ("Made", "Using"):
        line = f"{told} data/many-28.npy: {PICTURES:,} pictures"
        assert (out + other_out).count(line) == 1
    assert not list(Path("data").glob("part-*"))
    made = np.load("data/many-28.npy").tobytes()
    once = read_faces(sources.list_pictures("many")[:20], 28)[0]
    assert made == once * (PICTURES // 20)


@pytest.fixture
def ctrl_c_is_heard():
    """Tests that run in the background ignore Ctrl-C, and so would what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@LINUX
def test_ctrl_c_is_the_parents_business_which_ends_with_one_line_and_leaves_nothing(
    many, script_process, ctrl_c_is_heard
):
    process = script_process("preprocess.py", *OPTIONS)
    wait_until(lambda: written() > 100_000)
    readers, before = children(process), written()
    for pid in readers:
        os.kill(int(pid), signal.SIGINT)
    wait_until(lambda: written() > before)
    # A terminal sends it to all of them
    for pid in (*readers, process.pid):
        os.kill(int(pid), signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130
    assert err.splitlines()[-1] == "Stopped. The same command starts again."
    assert "Traceback" not in err
    assert not state("data")


@LINUX
def test_a_killed_worker_names_the_pictures_and_leaves_nothing(
    here, monkeypatch, own_workers
):
    monkeypatch.setattr(preprocess, "WORKERS", 1)
    monkeypatch.setattr(preprocess, "JOB", 2)
    draw(here / "my faces", 9)
    fewer = "python preprocess.py --workers 1 --data 'my faces' --image-size 28"
    for fit, given, more in (
        ("crop", (0, "crop", 3), ""),
        (
            "pad",
            (8, "pad", 1, "d"),
            " --fit pad --channels 1 --images 8 --data-folder d",
        ),
    ):
        with monkeypatch.context() as during:
            during.setitem(helper.FITS, fit, helper.Fit(deadly.crop_or_die, "so"))
            with pytest.raises(UserError) as error:
                prepare("my faces", 28, *given)
        assert str(error.value) == (
            "A process that reads pictures was killed, for lack of memory most likely, "
            f"at 004.bmp to 005.bmp. Use fewer: {fewer}{more}"
        )
    assert not state("data")
    assert prepare("my faces", 28, 0).count == 9


def test_workers_do_not_import_the_script_that_was_started(faces):
    Path("main.py").write_text(
        "print('imported', flush=True)\n"
        "import preprocess\n"
        "if __name__ == '__main__':\n"
        "    print(preprocess.prepare('faces', 28, 0).count)\n"
        "    import __main__\n"
        "    print(__main__.preprocess.DATA_FOLDER)\n"
    )
    result = subprocess.run(
        [sys.executable, "main.py"],
        env={**os.environ, "PYTHONPATH": str(SUITE)},
        capture_output=True,
        text=True,
    )
    imported, made, count, folder = result.stdout.splitlines()
    assert imported == "imported"
    assert made.startswith("Made data/faces-28.npy")
    assert (count, folder) == ("5", "data")


def test_too_few_pictures_for_a_batch_is_an_error():
    check_enough(64, 64, "faces")
    with pytest.raises(UserError) as error:
        check_enough(3, 64, "faces")
    assert str(error.value) == (
        "faces gives 3 pictures, too few for a batch of 64. "
        "Take more pictures, or --batch-size 3."
    )


@pytest.mark.parametrize(
    "change", [{"limit": "5"}, {"count": 9}, {"count": None}, {"image_size": 10**9}]
)
def test_an_array_whose_json_is_odd_is_made_again(here, capsys, change):
    preprocess.prepare("cartoons", 28, 5)
    path = Path("data/cartoons-28.json")
    right = path.read_text()
    path.write_text(json.dumps({**json.loads(right), **change}))
    prepared = preprocess.prepare("cartoons", 28, 5)
    assert "again: it is unfinished or damaged" in capsys.readouterr().out
    assert prepared.count == 5
    assert path.read_text() == right


def test_a_picture_too_long_to_be_padded_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    with pytest.raises(ValueError, match="too long to be padded: 100 pixels"):
        helper.pad_face(Image.new("RGB", (100, 10)))
    assert helper.pad_face(Image.new("RGB", (70, 10))).size == (70, 70)


# What else --data may be, and what becomes of pictures that are not square


def test_a_picture_that_is_not_square_is_cropped_padded_or_squeezed(here):
    wide = Image.new("RGB", (60, 20), "red")
    wide.paste("blue", (20, 0, 40, 20))
    (here / "faces").mkdir()
    wide.save(here / "faces/a.png")
    red, blue, black = [255, 0, 0], [0, 0, 255], [0, 0, 0]

    def rows(fit):
        face = open_faces(prepare("faces", 36, 0, fit))[0]
        return [face[y, [2, 18, 33]].tolist() for y in (2, 18, 33)]

    assert rows("crop") == [[blue] * 3] * 3
    assert rows("pad") == [[black] * 3, [red, blue, red], [black] * 3]
    assert rows("squeeze") == [[red, blue, red]] * 3
    made = {"faces-36.npy", "faces-36-pad.npy", "faces-36-squeeze.npy"}
    assert made == {path.name for path in Path("data").glob("*.npy")}


def test_a_high_picture_is_padded_on_both_sides(here):
    image = helper.pad_face(Image.new("RGB", (10, 31), "red"))
    assert image.size == (31, 31)
    assert image.getcolors() == [(310, (255, 0, 0)), (31 * 21, (0, 0, 0))]
    assert image.getbbox() == (10, 0, 20, 31)


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize("kind", ["colour", "grey", "alpha", "flat"])
def test_an_array_of_pictures_gives_the_faces_that_its_pictures_give(
    here, own_workers, monkeypatch, ending, kind
):
    monkeypatch.setattr(preprocess, "JOB", 3)
    modes = {"colour": "RGB", "grey": "L", "alpha": "RGBA", "flat": "L"}
    pictures = np.random.default_rng(1).integers(0, 256, (7, 40, 30, 4), np.uint8)
    pictures = pictures[..., : {"RGB": 3, "L": 1, "RGBA": 4}[modes[kind]]]
    (here / "files").mkdir()
    for number, pixels in enumerate(pictures):
        image = Image.fromarray(pixels.squeeze(), modes[kind])
        image.save(here / f"files/{number}.png")
    if kind == "flat":
        pictures = pictures[..., 0]
    if ending == "npy":
        np.save("array.npy", pictures)
    else:
        others = {"labels": np.arange(7), "few": pictures[:2], "x": np.zeros((9, 2))}
        if pictures.ndim == 4:
            others["masks"] = np.zeros((9, 8, 8), np.uint8)
        np.savez_compressed("array.npz", pictures=pictures, **others)
    given, expected = prepare(f"array.{ending}", 28, 0), prepare("files", 28, 0)
    assert given.path == Path("data/array-28.npy")
    assert np.array_equal(open_faces(given), open_faces(expected))
    assert prepare(f"array.{ending}", 28, 4).count == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", np.zeros((5, 8, 8, 3), np.float32), "float32, not uint8 in 0 .. 255"),
        ("a.npy", np.zeros((5, 3, 8, 8), np.uint8), "(5, 3, 8, 8), channels first"),
        ("a.npy", np.zeros((8, 8, 3), np.uint8), "(8, 8, 3), one picture as it"),
        ("a.npy", np.zeros((5, 8), np.uint8), "(5, 8), not pictures: (n, height, w"),
        ("a.npy", np.zeros((0, 8, 8, 3), np.uint8), "(0, 8, 8, 3), not pictures"),
        ("a.npy", np.zeros((5, 8, 8, 7), np.uint8), "(5, 8, 8, 7), not pictures"),
        ("a.npz", {"labels": np.zeros(5, np.uint8)}, "(5,), not pictures"),
        ("a.npz", {"x": np.zeros((5, 8, 8), np.int64)}, "int64, not uint8"),
    ],
)
def test_an_array_that_holds_no_pictures_is_refused_with_the_cure(
    here, name, content, message
):
    if name.endswith("npz"):
        np.savez(name, **content)
    else:
        np.save(name, content)
    with pytest.raises(UserError) as error:
        prepare(name, 28, 0)
    assert str(error.value).startswith(f"{name} holds {message}")
    assert not state("data")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\1\0", b"PK\5\6"])
def test_a_damaged_array_is_refused_in_one_line(here, name, content):
    Path(name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^Cannot read {name}: .*\.$") as error:
        prepare(name, 28, 0)
    assert "\n" not in str(error.value)


def test_an_array_of_objects_is_not_executed(here):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (Path("executed"),)

    np.save("a.npy", np.array([Bomb()], object), allow_pickle=True)
    np.savez("a.npz", np.array([Bomb()], object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(UserError):
            prepare(name, 28, 0)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "place", ["data/img_align_celeba", "data/celeba", "celeba", "img_align_celeba"]
)
def test_celeba_that_lies_unpacked_is_taken_and_not_fetched(
    faces, monkeypatch, capsys, place
):
    monkeypatch.setattr(helper, "download_celeba", None)
    Path("data").mkdir()
    shutil.move("faces", place)
    Path("celeba").mkdir(exist_ok=True)  # empty
    prepared = prepare("celeba", 28, 0)
    assert numbers(prepared) == list(range(FEW))
    assert prepared.path == Path("data/celeba-28.npy")
    assert f"Taking CelebA from {place}, which is there." in capsys.readouterr().out


def test_celeba_s_zip_elsewhere_is_taken_too(faces, monkeypatch):
    monkeypatch.setattr(helper, "download_celeba", None)
    shutil.make_archive("celeba", "zip", "faces")
    assert numbers(prepare("celeba", 28, 0)) == list(range(FEW))


def test_all_that_is_made_lies_in_the_folder_that_is_given(faces, monkeypatch):
    prepared = prepare("faces", 28, 0, folder="else/where")
    assert prepared.path == Path("else/where/faces-28.npy")
    assert not Path("data").exists()
    fetched = []
    monkeypatch.setattr(helper, "download_celeba", fetched.append)
    with pytest.raises(UserError):
        prepare("celeba", 28, 0, folder="else/where")
    assert fetched == [Path("else/where")]
    assert not Path("data").exists()


def test_faces_are_prepared_in_a_thread_of_another_program(faces, own_workers):
    made = []
    thread = threading.Thread(target=lambda: made.append(prepare("faces", 28, 0)))
    thread.start()
    thread.join(60)
    assert numbers(made[0]) == list(range(FEW))


@pytest.mark.parametrize("source", ["faces", "faces.npy", "cartoons"])
def test_grey_faces_have_one_channel_and_the_brightness_of_their_colours(
    here, own_workers, source
):
    colours = cartoons.cartoon_faces((preprocess.CARTOON_SEED, 0, FEW, 28))
    (here / "faces").mkdir()
    for number, pixels in enumerate(colours):
        Image.fromarray(pixels).save(here / f"faces/{number}.png")
    np.save("faces.npy", colours)
    prepared = prepare(source, 28, FEW, "crop", 1)
    assert prepared.path == Path(f"data/{name_of(source)}-28-grey.npy")
    assert prepared.facts["channels"] == 1
    opened = open_faces(prepared)
    assert opened.shape == (FEW, 28, 28, 1)
    brightness = colours @ [0.299, 0.587, 0.114]  # ITU-R 601
    assert np.abs(opened[..., 0] - brightness).max() <= 1
    assert prepare(source, 28, FEW, "crop", 1) == prepared  # whole, so it is used


def test_the_names_of_pictures_are_in_the_order_of_their_faces(faces):
    zipped = draw(faces.parent / "zipped", 9, first=6)
    with zipfile.ZipFile(faces / "more.zip", "w") as archive:
        for path in sorted(zipped.iterdir(), reverse=True):
            archive.write(path, f"inside/{path.name}")
    for images in (0, 8):
        prepared = prepare("faces", 28, images)
        source, names = preprocess.pictures_of(prepared, "faces")
        assert source == Path("faces")
        assert [int(Path(name).stem) for name in names] == numbers(prepared)
    for number in (0, 3):
        (faces / f"{number:03}.bmp").write_text("no picture")
    prepared = prepare("faces", 28, 0)
    _, names = preprocess.pictures_of(prepared, "faces")
    assert [int(Path(name).stem) for name in names] == numbers(prepared)
    assert len(names) == FEW - 2 + 9


def test_the_names_leave_out_what_the_fit_of_the_array_could_not_read(here):
    """Of a picture as wide as a padded one may not be the centre can be read."""
    draw(here / "faces", 2)
    Image.new("RGB", (10000, 10)).save("faces/000a.png")
    prepared = prepare("faces", 28, 0, "pad")
    assert prepared.count == 2
    _, names = preprocess.pictures_of(prepared, "faces")
    assert names == ["000.bmp", "001.bmp"]


def test_as_many_as_there_are_is_all_of_them(faces, capsys):
    prepare("faces", 28, FEW)
    capsys.readouterr()
    assert prepare("faces", 28, 0).count == FEW
    assert "Using data/faces-28.npy" in capsys.readouterr().out
    shutil.rmtree("data")
    prepare("cartoons", 28, 3)
    assert prepare("cartoons", 28, 5).count == 5


def test_names_of_other_pictures_than_the_faces_are_refused(faces):
    prepared = prepare("faces", 28, 0)
    draw(faces, 1, first=FEW)
    message = r"The pictures of faces are others than data/faces-28\.npy has"
    with pytest.raises(UserError, match=message):
        preprocess.pictures_of(prepared, "faces")
    np.save("plain.npy", np.zeros((3, 28, 28, 3), np.uint8))
    for data in ("plain.npy", "cartoons"):
        prepared = prepare(data, 28, 3)
        with pytest.raises(UserError, match=f"The pictures of {data} have no names"):
            preprocess.pictures_of(prepared, data)
