"""directions.py: in which directions of noise faces change."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cartoons
import directions
import generate
import helper
import models
import preprocess
from dcgan.common.options import current
from dcgan.runs import generators
from dcgan.runs.directions import read
from dcgan.training import latent
from dcgan.training.chance import noise
from tests.pictures.samples import BLUE, ORANGE

PHOTOS = 12
FACTS = {"image_size": 28, "data": {"name": "photos", "count": PHOTOS}}


@pytest.fixture(autouse=True)
def place(here, monkeypatch):
    for module in (directions, generate, preprocess):
        for name, value in current(module).items():
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(preprocess, "WORKERS", 1)


def facts_of(source):
    return {**FACTS, "data": {**FACTS["data"], "source": source}}


def paint(folder, names):
    """Draw a picture for each name, orange and blue by turns."""
    Path(folder).mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (30, 30), (ORANGE, BLUE)[number % 2]).save(Path(folder, name))


def is_orange(faces):
    return faces[:, 14, 14, 0] > faces[:, 14, 14, 2]


def write_table(path, names, head="picture,orange,blue"):
    """Tell of each name that it is orange or blue, by turns, backwards."""
    rows = [f"{name},{1 - k % 2},{k % 2}" for k, name in enumerate(names)]
    Path(path).write_text("\n".join([head, *rows[::-1]]))


NAMES = [f"face-{number}.png" for number in range(PHOTOS)]


@pytest.mark.parametrize("real", [0, 5])
def test_each_face_has_the_attributes_that_the_table_tells_of_its_picture(
    capsys, monkeypatch, real
):
    """Some pictures cannot be read, and of some the table does not tell."""
    paint("photos", NAMES)
    Path("photos/face-3.png").write_text("no picture")
    write_table("table.csv", NAMES)
    table = Path("table.csv").read_text().replace("face-7.png", "face-77.png")
    Path("table.csv").write_text(table)
    monkeypatch.setattr(directions, "ATTRIBUTES", "table.csv")
    monkeypatch.setattr(directions, "REAL", real)
    faces, names, has = directions.open_real("runs/a", facts_of("photos"))
    assert names == ["orange", "blue"]
    assert len(faces) == len(has) == real or PHOTOS - 2
    assert (has[:, 0] == is_orange(faces)).all()
    assert (has[:, 1] != is_orange(faces)).all()
    assert 0 < has[:, 0].mean() < 1
    assert "table.csv tells of 10 of 11 pictures" in capsys.readouterr().out


def test_celebas_own_table_is_found_near_its_pictures():
    names = [f"{number:06d}.png" for number in range(1, PHOTOS + 1)]
    paint("celeba", names)
    write_table("celeba/list_attr_celeba.csv", names, "image_id,Orange,Blue")
    faces, names, has = directions.open_real("runs/a", facts_of("celeba"))
    assert names == ["Orange", "Blue"]
    assert (has[:, 0] == is_orange(faces)).all()


def test_celebas_table_is_fetched_for_pictures_that_are_called_as_its_are(
    monkeypatch,
):
    """And nothing is asked of the network for others."""
    paint("celeba", ["000001.jpg", "000002.jpg"])
    paint("photos", NAMES)
    address = "http://127.0.0.1:9/none"  # nobody listens there
    monkeypatch.setattr(helper, "ATTRIBUTES_URL", address)
    monkeypatch.setattr("dcgan.common.download.BACK_OFF", 0)
    with pytest.raises(SystemExit, match=r"By hand: save list_attr_celeba\.txt"):
        directions.open_real("runs/a", facts_of("celeba"))
    with pytest.raises(SystemExit, match=r"--attributes TABLE\.csv$") as refused:
        directions.open_real("runs/a", facts_of("photos"))
    assert "\n" not in refused.value.code


def test_the_frames_of_a_film_are_not_taken_for_celebas_pictures(here):
    names = [f"{number:06d}.png" for number in range(1, PHOTOS + 1)]
    paint("frames", names)
    Path("data").mkdir(exist_ok=True)
    write_table("data/list_attr_celeba.csv", names, "image_id,Smiling,Male")
    with pytest.raises(SystemExit, match=r"--attributes TABLE\.csv$"):
        directions.open_real("runs/a", facts_of("frames"))
    write_table("frames/list_attr_celeba.csv", names, "image_id,Cat,Dog")
    _, attributes, _ = directions.open_real("runs/a", facts_of("frames"))
    assert attributes == ["Cat", "Dog"]


def test_a_table_of_other_pictures_is_one_line(monkeypatch):
    paint("photos", NAMES)
    write_table("table.csv", ["somebody.png", "else.png"])
    monkeypatch.setattr(directions, "ATTRIBUTES", "table.csv")
    message = r"^table\.csv has none of the pictures of photos, not 'face-0\.png' for"
    with pytest.raises(SystemExit, match=message):
        directions.open_real("runs/a", facts_of("photos"))


def test_a_generator_of_pictures_that_are_not_named_is_one_line():
    with pytest.raises(SystemExit, match=r"directions\.py --run runs/a --data FOLDER"):
        directions.open_real("runs/a", FACTS)


def test_cartoons_have_the_attributes_that_they_are_drawn_by(monkeypatch):
    facts = {"image_size": 28, "data": {"count": 300, "source": "cartoons"}}
    monkeypatch.setattr(directions, "REAL", 250)
    faces, names, has = directions.open_real("runs/a", facts)
    assert has.shape == (250, len(names))
    of = dict(zip(names, has.T, strict=True))
    nose, corner = faces[:, 16, 14].mean(1), faces[:, 0, 27].astype(int)
    mouth = faces[:, 20:23, 12:17].min((1, 2, 3))
    assert np.corrcoef(of["dark skin"], nose)[0, 1] < -0.6
    warmth = corner[:, 0] - corner[:, 2]
    assert np.corrcoef(of["warm background"], warmth)[0, 1] > 0.5
    assert mouth[of["mouth open"]].mean() < mouth[~of["mouth open"]].mean()
    assert (of["glasses"] | ~of["sunglasses"]).all()
    assert not (of["hat"] & of["long hair"]).any()
    styles = set(cartoons.STYLES)
    for style in ("long", "wavy", "bangs", "bob", "page", "curls", "afro", "scarf"):
        assert style in styles  # that the table names


def test_attributes_that_nearly_none_or_all_have_are_left_out_and_named(capsys):
    has = np.zeros((200, 4), bool)
    has[:, 1] = np.arange(200) % 2
    has[0, 2] = True  # half a hundredth
    has[:, 3] = True
    names, kept = directions.without_rare(["none", "half", "one", "all"], has)
    assert names == ["half"]
    assert np.array_equal(kept, has[:, 1:2])
    assert "fewer than 1% of the faces have, or have not: none, one, all" in (
        capsys.readouterr().out
    )
    with pytest.raises(SystemExit, match="200 faces that differ in 0 attributes"):
        directions.without_rare(["none", "all"], has[:, [0, 3]])
    with pytest.raises(SystemExit, match="take 20 faces at least"):
        directions.without_rare(["half"], has[:10, [1]])


def test_a_folder_that_cannot_be_written_is_told_at_once():
    Path("runs").touch()
    with pytest.raises(
        SystemExit, match=r"^Cannot write into .*runs\. Another folder: --run"
    ):
        directions.main(["--run", "runs/a"])


@pytest.mark.slow
def test_a_direction_leads_where_its_name_says(tiny, capsys):
    """On noise that it was not learned from, in the eyes of the network."""
    directions.main(["--run", "runs/tiny", "--samples", "2000", "--epochs", "20"])
    told = capsys.readouterr().out
    learned = read("runs/tiny", models.LATENT)
    facts = generators.read("runs/tiny").facts
    assert (learned.generator, learned.seed) == (facts["sha256"], directions.SEED)
    assert len(learned.names) >= 5
    for name in learned.names:
        assert f"\n{name} " in told
    assert np.linalg.norm(learned.vectors, axis=1) == pytest.approx(1, abs=1e-5)
    faces, names, has = directions.open_real("runs/tiny", facts)
    kept, has = directions.without_rare(names, has)
    network, accuracy = directions.learn(faces, has, 20, 64, directions.SEED)
    rows = [kept.index(name) for name in learned.names]
    assert learned.accuracy == pytest.approx(accuracy[rows], abs=0.3)
    generator, _ = models.load_generator("runs/tiny")
    fresh = noise(99, "generate", (100, models.LATENT))
    for row, vector in zip(rows, learned.vectors, strict=True):
        moved = latent.along(fresh, vector, np.linspace(-3, 3, 7))
        logits = directions.judge(network, generator, moved.reshape(-1, models.LATENT))
        means = logits[:, row].reshape(100, 7).mean(0)
        assert (np.diff(means) >= 0).all(), kept[row]  # where all are sure it stays
        assert means[-1] > means[0]
    generate.main(["--run", "runs/tiny", "--direction", str(learned.names[0])])
    with Image.open("faces.png") as sheet:
        assert sheet.width == 9 * (28 * 5 + 2) - 2


@pytest.mark.slow
def test_what_a_network_learns_it_tells_of_faces_that_were_held_out():
    rng = np.random.default_rng(1)
    shades = rng.integers(0, 256, (600, 2))
    faces = np.zeros((600, 28, 28, 3), np.uint8)
    faces[:, :14], faces[:, 14:] = (half[:, None, None, None] for half in shades.T)
    has = np.column_stack([shades > 127, rng.random(600) < 0.5])
    network, accuracy = directions.learn(faces, has, 10, 32, 1)
    assert (accuracy[:2] > 0.9).all()
    assert accuracy[2] < 0.75  # that is chance: there is nothing to learn
    said = network.predict(faces, verbose=0) > 0
    assert (said == has).mean(0)[:2] == pytest.approx(accuracy[:2], abs=0.1)
