import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cartoons

SCRIPT = Path(cartoons.__file__)


@pytest.fixture(scope="module")
def crowd():
    """The first 200 faces of seed 0, 32 pixels wide."""
    return cartoons.cartoon_faces((0, 0, 200, 32))


@pytest.fixture(scope="module")
def plain():
    """A face that looks straight ahead, with nothing on it that hides its parts."""
    return cartoons.traits(0, 0)._replace(
        shift=0j,
        scale=1.0,
        tilt=0.0,
        turn=0j,
        skin=(236, 184, 146),
        style="short",
        hair=(38, 32, 36),
        mirror=False,
        mouth="smile",
        gaze=0j,
        beard="",
        freckles=False,
        glasses="",
        earrings=False,
        clothes=(150, 60, 60),
        iris=(94, 58, 34),
    )


def draw(monkeypatch, face, size=64):
    """Draw these traits as int (size, size, 3)."""
    monkeypatch.setattr(cartoons, "traits", lambda seed, number: face)
    return np.asarray(cartoons.cartoon(0, 0, size), int)


def difference(one, other):
    """Return the mean absolute difference of two pictures, in levels of 255."""
    return np.abs(np.asarray(one, float) - np.asarray(other, float)).mean()


def sheet(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_equal_seed_and_number_give_equal_bytes():
    one, again = cartoons.cartoon(3, 14, 28), cartoons.cartoon(3, 14, 28)
    assert one.tobytes() == again.tobytes()


def test_a_fresh_process_gives_the_same_bytes():
    job = (5, 20, 6, 28)
    with get_context("spawn").Pool(1) as pool:
        elsewhere = pool.map(cartoons.cartoon_faces, [job])[0]
    np.testing.assert_array_equal(elsewhere, cartoons.cartoon_faces(job))


def test_a_face_does_not_depend_on_the_faces_drawn_before_it():
    alone = cartoons.cartoon_faces((0, 7, 1, 28))[0]
    np.testing.assert_array_equal(cartoons.cartoon_faces((0, 0, 10, 28))[7], alone)
    np.testing.assert_array_equal(cartoons.cartoon_faces((0, 5, 3, 28))[2], alone)


@pytest.mark.parametrize("size", [16, 28, 33, 64, 256])
def test_a_cartoon_is_an_rgb_picture_of_the_size_asked_for(size):
    face = cartoons.cartoon(0, 1, size)
    assert (face.mode, face.size) == ("RGB", (size, size))


def test_a_job_gives_the_cartoons_one_by_one():
    faces = cartoons.cartoon_faces((2, 30, 4, 28))
    assert (faces.dtype, faces.shape) == (np.uint8, (4, 28, 28, 3))
    for face, number in zip(faces, range(30, 34), strict=True):
        np.testing.assert_array_equal(face, np.asarray(cartoons.cartoon(2, number, 28)))


def test_a_job_for_no_faces_gives_none():
    assert cartoons.cartoon_faces((0, 0, 0, 28)).shape == (0, 28, 28, 3)


def test_all_faces_differ(crowd):
    assert len({face.tobytes() for face in crowd}) == len(crowd)


def test_another_seed_is_another_crowd(crowd):
    others = cartoons.cartoon_faces((1, 0, 20, 32))
    apart = [difference(*pair) for pair in zip(crowd[:20], others, strict=True)]
    assert min(apart) > 5


def test_no_face_of_one_seed_comes_again_in_the_next():
    one, other = ({cartoons.traits(s, n) for n in range(100)} for s in (0, 1))
    assert not one & other


def test_any_two_faces_look_different(crowd):
    """15 levels of 255 are seen at a glance; two greys that far apart are two greys."""
    halves = zip(crowd[:100], crowd[100:], strict=True)
    apart = [difference(one, other) for one, other in halves]
    assert min(apart) > 5
    assert np.mean(apart) > 25


def test_the_crowd_is_varied():
    crowd = [cartoons.traits(0, number) for number in range(400)]
    seen = {name: {getattr(face, name) for face in crowd} for name in crowd[0]._fields}
    assert seen["style"] == set(cartoons.STYLES)
    assert seen["nose"] == set(cartoons.NOSES)
    assert seen["mouth"] == set(cartoons.MOUTHS)
    assert seen["beard"] == {"", *cartoons.BEARDS}
    assert seen["glasses"] == {"", "round", "square", "dark"}
    assert all(len(values) > 1 for values in seen.values())
    assert len(seen["skin"]) > 150
    lightness = [sum(skin) / 3 for skin in seen["skin"]]
    assert min(lightness) < 80
    assert max(lightness) > 220


def test_about_half_the_faces_turn_to_either_side():
    turns = [cartoons.traits(0, number).turn.real for number in range(400)]
    assert 160 < sum(turn > 0 for turn in turns) < 240


@pytest.mark.parametrize("number", range(12))
def test_each_size_shows_the_same_face(number):
    large = cartoons.cartoon(0, number, 128).reduce(4)
    same = difference(large, cartoons.cartoon(0, number, 32))
    other = difference(large, cartoons.cartoon(0, number + 1, 32))
    assert same < 4
    assert other > 3 * same


def test_edges_are_smooth(monkeypatch, plain):
    """A drawing without in-between shades would have only its few flat colours."""
    ground = ((250, 250, 250), (250, 250, 250))
    face = draw(monkeypatch, plain._replace(backdrop=ground), 64)
    assert len(np.unique(face.reshape(-1, 3), axis=0)) > 200


def test_faces_fill_the_middle_of_the_picture():
    """The middle is skin, though eyes and mouth lie on it; the upper edge is not."""
    for number in range(40):
        face = cartoons.traits(0, number)
        if face.beard or face.glasses == "dark":
            continue
        pixels = np.asarray(cartoons.cartoon(0, number, 64), int)
        skin = np.abs(pixels - face.skin).sum(axis=2) < 12
        assert skin[20:52, 16:48].mean() > 0.3, f"face {number}"
        assert skin[0].mean() < 0.1, f"face {number}"


def test_eyes_are_at_the_same_height_in_all_faces():
    """The eyes of CelebA's 108 x 108 crop are at 0.52 of the height."""
    for number in range(40):
        if cartoons.traits(0, number).glasses == "dark":
            continue
        white = (np.asarray(cartoons.cartoon(0, number, 64)) > 225).all(axis=2)
        for half in (slice(6, 31), slice(33, 58)):
            rows = np.nonzero(white[20:46, half])[0]
            assert len(rows) >= 4, f"face {number}"
            assert 0.44 < (20 + rows.mean()) / 64 < 0.62, f"face {number}"


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("glasses", "round", (24, 45, 6, 58)),
        ("glasses", "dark", (24, 45, 6, 58)),
        ("beard", "full", (32, 64, 6, 58)),
        ("beard", "stubble", (32, 64, 6, 58)),
        ("beard", "moustache", (40, 50, 20, 44)),
        ("beard", "goatee", (40, 64, 20, 44)),
        ("mouth", "laugh", (40, 60, 18, 46)),
        ("mouth", "oh", (40, 60, 18, 46)),
        ("nose_width", 2.0, (30, 50, 20, 44)),
        ("iris", (0, 255, 0), (24, 44, 14, 50)),
        ("eye", 0.08, (24, 44, 10, 54)),
        ("gaze", 0.3 + 0.1j, (24, 44, 14, 50)),
        ("brow", 0.08, (16, 34, 12, 52)),
        ("freckles", True, (36, 50, 8, 56)),
        ("blush", 0.9, (36, 50, 8, 56)),
        ("earrings", True, (36, 50, 4, 60)),
        ("style", "bald", (0, 40, 4, 60)),
        ("style", "beanie", (0, 40, 4, 60)),
        ("clothes", (1, 2, 3), (54, 64, 0, 64)),
    ],
)
def test_a_trait_shows_in_its_place_and_nowhere_else(
    monkeypatch, plain, name, value, place
):
    """Places are the first and last row and column, in 64ths of the picture."""
    top, bottom, left, right = place
    before = draw(monkeypatch, plain)
    changed = (before != draw(monkeypatch, plain._replace(**{name: value}))).any(axis=2)
    there = changed[top:bottom, left:right]
    assert there.sum() >= 8
    assert there.sum() == changed.sum()


@pytest.mark.parametrize("name", list(cartoons.STYLES))
def test_each_hair_style_shows_its_colour(monkeypatch, plain, name):
    face = plain._replace(
        style=name, hair=(10, 200, 30), backdrop=((255, 255, 255),) * 2
    )
    red, green, _ = np.moveaxis(draw(monkeypatch, face), 2, 0)
    share = (green > red + 40).mean()
    assert share == 0 if name == "bald" else 0.05 < share < 0.6


@pytest.mark.parametrize("name", ["long", "wavy", "bangs", "bob", "page", "bunches"])
def test_long_hair_hangs_beside_the_jaw(monkeypatch, plain, name):
    face = plain._replace(
        style=name, hair=(10, 200, 30), backdrop=((255, 255, 255),) * 2
    )
    red, green, _ = np.moveaxis(draw(monkeypatch, face)[40:52], 2, 0)
    beside = green > red + 40
    assert beside[:, :16].mean() > 0.15
    assert beside[:, 48:].mean() > 0.15


def test_a_fringe_hides_the_forehead(monkeypatch, plain):
    for style, colour in (("mop", plain.hair), ("short", plain.skin)):
        face = draw(monkeypatch, plain._replace(style=style))
        np.testing.assert_array_equal(face[22, 32], colour)


def test_mirrored_hair_is_parted_on_the_other_side(monkeypatch, plain):
    plain = plain._replace(style="side", backdrop=((255, 255, 255),) * 2)
    face = draw(monkeypatch, plain)
    mirrored = draw(monkeypatch, plain._replace(mirror=True))
    assert difference(mirrored, face) > 4
    assert difference(mirrored, face[:, ::-1]) < 2


def test_shoulders_wear_the_clothes(monkeypatch, plain):
    bottom = draw(monkeypatch, plain._replace(clothes=(1, 2, 3)))[-1]
    worn = (bottom == (1, 2, 3)).all(axis=1)
    assert worn[:32].mean() > 0.3
    assert worn[32:].mean() > 0.3


def test_scale_enlarges_the_head_about_its_middle(monkeypatch, plain):
    plain = plain._replace(backdrop=((255, 255, 255),) * 2)
    small, large = (
        draw(monkeypatch, plain._replace(scale=scale)) for scale in (0.8, 1.2)
    )
    widths = [(face[34] != 255).any(axis=1).nonzero()[0] for face in (small, large)]
    assert np.ptp(widths[1]) / np.ptp(widths[0]) == pytest.approx(1.5, abs=0.1)
    assert widths[0].mean() == pytest.approx(widths[1].mean(), abs=1)


def test_both_halves_of_a_plain_face_are_alike(monkeypatch, plain):
    """Only the glint in the eyes and the shine of the hair come from one side."""
    face = draw(monkeypatch, plain._replace(backdrop=((200, 220, 240),) * 2), 64)
    assert difference(face, face[:, ::-1]) < 4


@pytest.mark.parametrize("name", ["turn", "shift"])
def test_a_face_turns_and_moves_to_the_right_and_down(monkeypatch, plain, name):
    """Followed by a mark on the nose."""
    plain = plain._replace(nose="button", blush=0.0, backdrop=((255, 255, 255),) * 2)
    monkeypatch.setattr(cartoons, "NOSES", {"button": "3 0, 0 3, -3 0, 0 -3"})
    places = []
    for move in (-0.1 - 0.04j, 0j, 0.1 + 0.04j):
        with_nose = draw(
            monkeypatch, plain._replace(**{name: move}, nose_width=1.5), 128
        )
        without = plain._replace(**{name: move}, nose_width=0.0)
        mark = (with_nose != draw(monkeypatch, without, 128)).any(axis=2)
        places.append(np.argwhere(mark).mean(axis=0))
    (up, left), (middle, centre), (down, right) = places
    assert left + 4 < centre < right - 4
    assert up + 1 < middle < down - 1


def test_tilt_turns_the_whole_head_clockwise(monkeypatch, plain):
    plain = plain._replace(backdrop=((255, 255, 255),) * 2)
    straight = Image.fromarray(draw(monkeypatch, plain, 128).astype(np.uint8))
    tilted = draw(monkeypatch, plain._replace(tilt=0.2), 128)[24:104, 24:104]
    by_hand = straight.rotate(-np.degrees(0.2), Image.Resampling.BICUBIC)
    assert difference(tilted, np.asarray(by_hand)[24:104, 24:104]) < 5
    assert difference(tilted, np.asarray(straight)[24:104, 24:104]) > 15


def test_the_background_runs_from_one_colour_to_the_other(plain):
    face = plain._replace(backdrop=((250, 200, 100), (100, 150, 250)))
    pixels = np.asarray(cartoons.background(face, 64), int)
    np.testing.assert_allclose(pixels[0, 0], (250, 200, 100), atol=6)
    np.testing.assert_allclose(pixels[-1, -1], (100, 150, 250), atol=6)
    np.testing.assert_allclose(pixels[32, 32], (175, 175, 175), atol=6)
    np.testing.assert_allclose(pixels[16, 16], (212, 187, 137), atol=6)


def test_the_script_draws_a_sheet_of_the_first_faces(tmp_path):
    out = tmp_path / "new" / "faces.png"
    done = sheet("--count", 7, "--columns", 3, "--size", 32, "--seed", 4, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(out) in done.stdout
    assert [path.name for path in out.parent.iterdir()] == ["faces.png"]
    with Image.open(out) as picture:
        assert (picture.format, picture.size) == ("PNG", (3 * 32, 3 * 32))
        pixels = np.asarray(picture)
    faces = cartoons.cartoon_faces((4, 0, 7, 32))
    np.testing.assert_array_equal(pixels[:32, 32:64], faces[1])
    np.testing.assert_array_equal(pixels[64:, :32], faces[6])
    assert (pixels[64:, 32:] == 255).all()


def test_a_sheet_is_no_wider_than_its_faces(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cartoons.py"])
    for name, value in {"COUNT": 2, "COLUMNS": 8, "SIZE": 16}.items():
        monkeypatch.setattr(cartoons, name, value)
    monkeypatch.setattr(cartoons, "OUT", str(tmp_path / "two.png"))
    cartoons.main()
    with Image.open(tmp_path / "two.png") as picture:
        assert picture.size == (32, 16)


def test_the_script_refuses_a_sheet_of_no_faces(tmp_path):
    done = sheet("--count", 0, "--out", tmp_path / "none.png")
    assert done.returncode == 2
    assert "--count 0: must be at least 1" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_script_refuses_what_is_no_png_and_what_no_memory_holds(tmp_path):
    for words, told in (
        (("--out", "faces.jpg"), "--out faces.jpg: it is written as PNG. Try cartoons"),
        (("--count", 10**6), "--count 1000000 --size 128: no picture is as large."),
    ):
        done = sheet(*words)
        assert done.returncode == 1
        assert done.stderr.startswith(told)


def test_the_script_says_where_its_sheet_could_go(tmp_path):
    done = sheet("--out", "")
    told = "OUT is empty: where to? Try --out cartoons.png\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_importing_the_script_writes_and_prints_nothing(tmp_path):
    command = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import cartoons"
    command += (
        "; print(sorted({'keras', 'tensorflow', 'torch', 'jax'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, capture_output=True, check=True
    )
    assert (done.stdout.strip(), done.stderr) == (b"[]", b"")
    assert not list(tmp_path.iterdir())
