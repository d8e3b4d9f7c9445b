import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import generate
import models
from dcgan.common import files
from dcgan.common.options import current
from dcgan.runs import generators

SUITE = Path(__file__).parent.parent
SHIPPED = SUITE / generators.SHIPPED
ABOUT = {
    "network": "dcgan",
    "image_size": 28,
    "latent": models.LATENT,
    "epochs": 3,
    "data": {"name": "toys", "count": 1234},
}


@pytest.fixture(autouse=True)
def place(here, monkeypatch):
    for name, value in current(generate).items():
        monkeypatch.setattr(generate, name, value)


def save(run, seed=1):
    models.keras.utils.set_random_seed(seed)
    generator = models.build_generator("dcgan", 28)
    for weight in generator.trainable_weights:  # far from grey, so that faces differ
        weight.assign(weight * 3)
    generators.save_generator(run, generator, ABOUT)
    return generator


def pixels(path="faces.png"):
    with Image.open(path) as image:
        return np.asarray(image)


def test_ten_different_faces_come_from_the_newest_run(capsys):
    save("runs/older")
    generator = save("runs/newer", seed=2)
    generate.main([])
    side = 28 * 5  # the whole number of times that comes nearest to 128 pixels
    picture = pixels()
    assert picture.shape == (2 * side + 2, 5 * side + 4 * 2, 3)
    faces = [
        picture[row : row + side, column : column + side]
        for row in (0, side + 2)
        for column in range(0, 5 * (side + 2), side + 2)
    ]
    assert len({face.tobytes() for face in faces}) == 10
    drawn = models.draw(generator, generate.noise(100))[0]
    again = Image.fromarray(drawn).resize((side, side), Image.Resampling.BICUBIC)
    assert (faces[0] == np.asarray(again)).all()
    told = capsys.readouterr().out
    assert "Generator from runs/newer: dcgan, 28 x 28" in told
    assert "Trained on 1,234 pictures of toys for 3 epochs" in told
    assert "10 faces of 28 x 28 are in faces.png" in told


def test_the_last_generator_draws_where_it_is_asked_for(capsys):
    save("runs/a")
    with pytest.raises(SystemExit, match="No last generator in runs/a yet"):
        generate.main(["--which", "last"])
    other = save("runs/b", seed=2)
    generators.save_generator("runs/a", other, {**ABOUT, "epochs": 9}, "last")
    generate.main(["--which", "last"])
    assert "for 9 epochs" in capsys.readouterr().out
    last = pixels()
    generate.main(["--which", "best", "--run", "runs/b"])
    assert (pixels() == last).all()
    generate.main(["--run", "runs/a"])
    assert (pixels() != last).any()


def test_a_seed_draws_the_same_faces_and_another_seed_others():
    save("runs/a")
    generate.main([])
    first = pixels()
    generate.main([])
    assert (pixels() == first).all()
    generate.main(["--seed", "2"])
    assert (pixels() != first).any()


def test_more_faces_begin_with_the_same_ones():
    save("runs/a")
    generate.main(["--scale", "1", "--count", "3"])
    three = pixels()
    generate.main(["--scale", "1", "--count", "300"])
    difference = three.astype(int) - pixels()[:28, : 3 * 30 - 2].astype(int)
    assert abs(difference).max() <= 1


def test_count_columns_scale_and_out_are_options():
    save("runs/a")
    options = ["--count", "7", "--columns", "3", "--scale", "2", "--out", "x/y.png"]
    generate.main(options)
    assert pixels("x/y.png").shape == (3 * 56 + 2 * 2, 3 * 56 + 2 * 2, 3)
    assert not Path("faces.png").exists()


def test_single_files_are_the_faces_at_their_own_size():
    generator = save("runs/a")
    generate.main(["--singles", "one-by-one"])
    names = sorted(path.name for path in Path("one-by-one").iterdir())
    assert names == [f"face-{number:02d}.png" for number in range(1, 11)]
    drawn = models.draw(generator, generate.noise(100))
    assert (pixels("one-by-one/face-03.png") == drawn[2]).all()


def test_a_given_run_is_used_rather_than_the_newest(capsys):
    save("elsewhere/a")
    save("runs/b")
    generate.main(["--run", "elsewhere/a"])
    assert "Generator from elsewhere/a" in capsys.readouterr().out


def test_without_a_run_the_generator_that_came_along_draws(capsys):
    generate.main([])
    told = capsys.readouterr().out
    assert "weights/celeba-64" in told
    faces = pixels()
    assert faces.shape == (258, 648, 3)
    assert faces.std() > 30


@pytest.mark.parametrize("name", ["celeba-28", "celeba-64"])
def test_what_came_along_says_where_it_comes_from(name):
    folder = SUITE / "weights" / name
    generator, about = generators.load_generator(folder)
    assert generator.output_shape[1] == about["image_size"] == int(name[-2:])
    assert about["data"]["count"] == 20075
    assert about["epochs"] >= 20
    assert about["scored_by"].startswith("KID")
    assert about["data"]["source"] == about["constants"]["DATA"] == "celeba-20075"
    assert about["constants"]["SEED"] == about["seed"]
    assert about["commit"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16 * 2**20


def damage_bytes(run):
    path = Path(run, generators.GENERATOR)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def take_weights_of_another_size(run):
    weights = models.build_generator("dcgan", 32)
    weights.save_weights(Path(run, generators.GENERATOR))
    checksum = hashlib.sha256(Path(run, generators.GENERATOR).read_bytes()).hexdigest()
    rewrite(run, sha256=checksum)


def rewrite(run, **changes):
    path = Path(run, generators.ABOUT)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": -3}, "epochs"),
        ({"score": float("nan"), "scored_by": "MMD"}, "score"),
        ({"data": {"name": "x\nDevice    GPU", "count": 3}}, "name in data"),
        ({"data": {"name": "x", "count": -5}}, "count in data"),
        ({"data": {"name": "x", "count": 3, "source": "\0"}}, "source in data"),
    ],
)
def test_a_json_that_no_run_writes_is_refused(changes, named):
    save("runs/one")
    rewrite("runs/one", **changes)
    with pytest.raises(SystemExit, match=f"has a wrong {named}"):
        generate.main(["--run", "runs/one"])


def test_only_pngs_are_written():
    with pytest.raises(SystemExit, match=r"--out faces\.jpg: pictures are written"):
        generate.main(["--out", "faces.jpg"])
    assert not Path("faces.jpg").exists()


def test_a_picture_that_no_memory_holds_is_refused():
    save("runs/one")
    with pytest.raises(SystemExit, match="20,070 million pixels"):
        generate.main(["--run", "runs/one", "--count", "100000", "--scale", "16"])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, r"No generator in runs/a yet\. Train one: python train.py"),
        (damage_bytes, r"runs/a/generator.weights.h5 is damaged or was not written"),
        (take_weights_of_another_size, "does not hold a dcgan generator of 28 x 28"),
        (lambda run: rewrite(run, image_size=50), "dcgan network draws .*, not 50"),
        (lambda run: rewrite(run, network=7), "generator.json has a wrong network"),
        (lambda run: rewrite(run, latent=7), "generator.json has a wrong latent"),
        (lambda run: rewrite(run, data=3), "generator.json has a wrong data"),
        (lambda run: Path(run, generators.ABOUT).write_text("[]"), "cannot be read"),
        (lambda run: Path(run, generators.ABOUT).write_text("{"), "cannot be read"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_in_one_line(harm, message):
    save("runs/a")
    harm("runs/a")
    with pytest.raises(SystemExit, match=message) as refused:
        generate.main(["--run", "runs/a"])
    assert "\n" not in refused.value.code
    assert not Path("faces.png").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--count", "0"], "--count 0: must be at least 1"),
        (["--cuont", "5"], "no option --cuont, did you mean --count?"),
        (["--seed", "x"], "--seed: 'x' is not a whole number"),
    ],
)
def test_wrong_options_are_named(capsys, given, message):
    with pytest.raises(SystemExit):
        generate.main(given)
    assert message in capsys.readouterr().err


def test_the_terminal_shows_the_suites_own_words_only(here):
    command = [sys.executable, str(SUITE / "generate.py")]
    ran = subprocess.run(command, cwd=here, capture_output=True, text=True)
    assert ran.returncode == 0
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        f"Generator from {SHIPPED}: dcgan, 64 x 64",
        *ran.stdout.splitlines()[1:2],
        "10 faces of 64 x 64 are in faces.png.",
    ]


def test_killed_while_it_is_replaced_the_generator_of_before_is_whole(monkeypatch):
    before = save("runs/one")
    written = []

    class Killed(BaseException):
        """Stands for the end of the process."""

    def deadly(old, new):
        if len(written) == 1:  # the JSON of both is there, the new weights are not
            raise Killed
        written.append(new)
        os.replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", deadly)
        with pytest.raises(Killed):
            save("runs/one", seed=2)
    assert written[0].name == generators.ABOUT
    found, about = generators.load_generator("runs/one")
    assert about["epochs"] == ABOUT["epochs"]
    for one, other in zip(found.weights, before.weights, strict=True):
        assert (one.numpy() == other.numpy()).all()
    after = save("runs/one", seed=2)
    found, about = generators.load_generator("runs/one")
    assert "before" not in about
    assert (found.weights[0].numpy() == after.weights[0].numpy()).all()


def with_link(file, name):
    file[name] = h5py.ExternalLink("elsewhere.h5", "/x")


def with_claim(file, name):
    file.create_dataset(name, shape=(10**6, 10**6), dtype="f4", chunks=(10, 10))


def without_end(file, name):
    """Two ways from each of 60 groups to the next are 2 to the 60 ways to the last."""
    group = file.create_group(name)
    for number in range(60):
        group["a"] = group["b"] = file.create_group(f"{name}-{number}")
        group = group["a"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (with_link, "has a link"),
        (with_claim, "too large"),
        (without_end, "there twice"),
    ],
)
def test_weights_that_lead_astray_or_claim_terabytes_are_refused(harm, message):
    save("runs/one")
    with h5py.File("runs/one/generator.weights.h5", "a") as file:
        harm(file, "more")
    checksum = hashlib.sha256(
        Path("runs/one", generators.GENERATOR).read_bytes()
    ).hexdigest()
    rewrite("runs/one", sha256=checksum)
    with pytest.raises(SystemExit, match=message):
        generate.main(["--run", "runs/one"])
