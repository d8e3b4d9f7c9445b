import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import generate
import models
from dcgan.common.options import current
from dcgan.pictures.faces import grid
from dcgan.runs import checkpoints, curves, generators
from tests.runs.saved import FACTS, flip_a_bit, make_old_checkpoint

SUITE = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def place(here, monkeypatch):
    for name, value in current(generate).items():
        monkeypatch.setattr(generate, name, value)


@pytest.fixture(scope="module")
def generator():
    """Build a narrow generator whose faces differ."""
    models.keras.utils.set_random_seed(1)
    generator = models.build_generator("dcgan", 28, 0.05)
    for weight in generator.trainable_weights:  # far from grey
        weight.assign(weight * 3)
    return generator


def save(run, generator, which="best", **changes):
    generators.save(run, generator, {**FACTS, **changes}, which)


def other_than(generator):
    other = models.keras.models.clone_model(generator)
    other.set_weights([weight * 1.1 for weight in generator.get_weights()])
    return other


def pixels(path="faces.png"):
    with Image.open(path) as image:
        return np.asarray(image)


def faces_of(generator):
    return models.draw(generator, generate.sheet_noise())


def test_ten_different_faces_come_from_the_newest_run(generator, capsys):
    save("runs/older", other_than(generator))
    save("runs/newer", generator)
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
    drawn = faces_of(generator)[0]
    again = Image.fromarray(drawn).resize((side, side), Image.Resampling.BICUBIC)
    assert (faces[0] == np.asarray(again)).all()
    assert capsys.readouterr().out.splitlines() == [
        "Generator from runs/newer: dcgan, 28 x 28",
        "Trained on 1,234 pictures of toys for 3 epochs",
        "10 faces of 28 x 28 are in faces.png.",
    ]


def test_a_kept_epochs_generator_draws_where_it_is_asked_for(generator, capsys):
    save("runs/a", generator)
    for refused in ("20", "first"):
        message = f"runs/a kept no generator of epoch {refused}, for --keep-every was 0"
        with pytest.raises(SystemExit, match=message):
            generate.main(["--which", refused])
    save("runs/a", other_than(generator), "20", epochs=20)
    save("runs/a", generator, "1000", epochs=1000)
    generate.main(["--which", "20", "--singles", "singles"])
    assert "for 20 epochs" in capsys.readouterr().out
    drawn = faces_of(other_than(generator))
    assert (pixels("singles/face-01.png") == drawn[0]).all()
    only = r"no generator of epoch 3, only of 20, 1000\. Try --which best$"
    with pytest.raises(SystemExit, match=only):
        generate.main(["--which", "3"])


def test_the_last_generator_draws_where_it_is_asked_for(generator, capsys):
    save("runs/a", generator)
    with pytest.raises(SystemExit, match="No last generator in runs/a yet"):
        generate.main(["--which", "last"])
    save("runs/a", other_than(generator), "last", epochs=9)
    generate.main(["--which", "last"])
    assert "for 9 epochs" in capsys.readouterr().out
    last = pixels()
    generate.main(["--which", "best"])
    assert "for 3 epochs" in capsys.readouterr().out
    assert (pixels() != last).any()


def test_a_given_run_is_used_rather_than_the_newest(generator, capsys):
    save("elsewhere/a", generator)
    save("runs/b", generator)
    generate.main(["--run", "elsewhere/a"])
    assert "Generator from elsewhere/a" in capsys.readouterr().out


def test_the_file_of_a_generator_may_be_given_in_place_of_its_folder(generator, capsys):
    save("runs/a", generator)
    save("runs/a", other_than(generator), "last", epochs=9)
    drawn = {}
    for file, epochs in {"generator": 3, "generator-last": 9, "mine": 9}.items():
        if file == "mine":
            shutil.copy("runs/a/generator-last.weights.h5", "mine.weights.h5")
        path = "mine.weights.h5" if file == "mine" else f"runs/a/{file}.weights.h5"
        generate.main(["--run", path])
        told = capsys.readouterr().out
        assert f"Generator from {path}: dcgan" in told
        assert f"for {epochs} epochs" in told
        drawn[file] = pixels()
    assert (drawn["generator"] != drawn["generator-last"]).any()
    assert (drawn["generator-last"] == drawn["mine"]).all()


@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_draws_with_the_average_in_it(tiny, capsys, old):
    path = checkpoints.paths("runs/tiny")[-1]
    if old:
        path = make_old_checkpoint(path)
    generate.main(["--run", str(path)])
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"Generator from {path}: dcgan, 28 x 28",
        "Trained on 40 pictures of cartoons for 2 epochs",
    ]
    drawn = pixels()
    generate.main(["--run", "runs/tiny", "--which", "last"])
    assert (pixels() == drawn).all()


def test_a_file_that_cannot_draw_is_one_line(tiny):
    checkpoint = checkpoints.paths("runs/tiny")[-1]
    shutil.copy(checkpoint, "checkpoint-000001.npz")
    flipped = Path("runs/tiny/checkpoint-000099.npz")
    shutil.copy(checkpoint, flipped)
    flip_a_bit(flipped)
    shipped = SUITE / "weights/celeba-28/discriminator.weights.h5"
    for run, message in {
        "runs/tiny/log.csv": "log.csv is no generator. --run takes a run folder, or",
        "runs/tiny/generator.json": "generator.json is no generator",
        str(shipped): "discriminator.weights.h5 is no generator",
        "runs/b/generator.weights.h5": r"No generator in runs/b yet\. .* --run runs/b$",
        "runs/tiny/checkpoint-000042.npz": "Cannot draw from .*npz: it is not there",
        "checkpoint-000001.npz": "its run's constants.json is not beside it",
        str(flipped): "checkpoint-000099.npz is damaged",
    }.items():
        with pytest.raises(SystemExit, match=message) as refused:
            generate.main(["--run", run])
        assert "\n" not in refused.value.code
    path = Path("runs/tiny/constants.json")
    path.write_text(path.read_text().replace('"WIDTH": 0.25', '"WIDTH": 0.5'))
    with pytest.raises(SystemExit, match="does not hold a generator as its run's"):
        generate.main(["--run", str(checkpoint)])


def test_a_seed_draws_the_same_faces_and_another_seed_others(generator):
    save("runs/a", generator)
    generate.main([])
    first = pixels()
    generate.main([])
    assert (pixels() == first).all()
    generate.main(["--seed", "2"])
    assert (pixels() != first).any()


def test_more_faces_begin_with_the_same_ones(generator):
    save("runs/a", generator)
    generate.main(["--scale", "1", "--count", "3"])
    three = pixels()
    generate.main(["--scale", "1", "--count", "300"])
    difference = three.astype(int) - pixels()[:28, : 3 * 30 - 2].astype(int)
    assert abs(difference).max() <= 1


def test_count_columns_scale_and_out_are_options(generator):
    save("runs/a", generator)
    options = ["--count", "7", "--columns", "3", "--scale", "2", "--out", "x/y.png"]
    generate.main(options)
    assert pixels("x/y.png").shape == (3 * 56 + 2 * 2, 3 * 56 + 2 * 2, 3)
    assert not Path("faces.png").exists()


def test_single_files_are_the_faces_at_their_own_size(generator):
    save("runs/a", generator)
    generate.main(["--singles", "one-by-one"])
    names = sorted(path.name for path in Path("one-by-one").iterdir())
    assert names == [f"face-{number:02d}.png" for number in range(1, 11)]
    assert (pixels("one-by-one/face-03.png") == faces_of(generator)[2]).all()


def test_single_faces_may_be_all_that_is_written(generator, capsys):
    save("runs/a", generator)
    many = ["--count", "3", "--scale", "16", "--singles", "s1", "--out", ""]
    generate.main(many)
    assert sorted(str(path) for path in Path().rglob("*.png")) == [
        f"s1/face-{number}.png" for number in (1, 2, 3)
    ]
    assert capsys.readouterr().out.endswith("\n3 faces of 28 x 28 are in s1.\n")
    generate.main([*many, "--out", "all.png"])
    told = "3 faces of 28 x 28 are in all.png and, each by itself, in s1."
    assert told in capsys.readouterr().out


def test_where_nothing_is_to_be_written_a_line_says_how_it_could(generator):
    save("runs/a", generator)
    with pytest.raises(SystemExit, match=r"nothing to write\. A sheet: --out") as error:
        generate.main(["--out", ""])
    assert "\n" not in error.value.code


def test_without_a_run_the_generator_that_came_along_draws(capsys):
    generate.main([])
    told = capsys.readouterr().out
    assert f"Generator from {SUITE}/weights/celeba-64: dcgan, 64 x 64" in told
    faces = pixels()
    assert faces.shape == (258, 648, 3)
    assert faces.std() > 30
    small = SUITE / "weights/celeba-28"
    generate.main(["--run", str(small), "--scale", "1", "--columns", "10"])
    faces = pixels()
    assert faces.shape == (28, 10 * 30 - 2, 3)
    assert faces.std() > 30


def test_only_pngs_are_written():
    with pytest.raises(SystemExit, match=r"--out faces\.jpg: pictures are written"):
        generate.main(["--out", "faces.jpg"])
    assert not Path("faces.jpg").exists()


def test_a_picture_that_no_memory_holds_is_refused(generator):
    save("runs/one", generator)
    with pytest.raises(SystemExit, match="20,070 million pixels"):
        generate.main(["--run", "runs/one", "--count", "100000", "--scale", "16"])


def test_a_generator_that_cannot_be_used_is_one_line_and_no_picture(generator):
    save("runs/a", generator)
    with open(generators.paths("runs/a", "best")[0], "rb+") as file:
        file.truncate(1000)
    message = r"^runs/a/generator\.weights\.h5 is damaged .* of runs/a\.$"
    with pytest.raises(SystemExit, match=message) as refused:
        generate.main([])
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


@pytest.mark.slow
def test_the_terminal_shows_the_suites_own_words_only(here):
    command = [sys.executable, str(SUITE / "generate.py")]
    ran = subprocess.run(command, cwd=here, capture_output=True, text=True)
    assert ran.returncode == 0
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        f"Generator from {generators.SHIPPED}: dcgan, 64 x 64",
        *ran.stdout.splitlines()[1:2],
        "10 faces of 64 x 64 are in faces.png.",
    ]


def test_a_film_walks_through_the_faces_of_the_sheet(generator, capsys):
    save("runs/a", generator)
    generate.main(["--walk", "3", "--fps", "10", "--out", "walk.webp"])
    assert re.search(r"walk\.webp is a film of \d\.\d MB\.", capsys.readouterr().out)
    first = models.draw(generator, generate.noise(5, "generate", (3, models.LATENT)))[0]
    with Image.open("walk.webp") as film:
        assert (film.n_frames, film.size) == (30, (140, 140))
        film.load()
        expected = grid(first[None], 1, 5)
        apart = np.subtract(film.convert("RGB"), expected, dtype=int)
    assert np.abs(apart).mean() < 8
    generate.main(["--walk", "2", "--seconds", "2", "--out", "faces.png"])
    with Image.open("faces.gif") as film:
        assert 15 <= film.n_frames <= 20  # equal ones become one
    with pytest.raises(SystemExit, match=r"film\.mov: a film ends in"):
        generate.main(["--walk", "2", "--out", "film.mov"])


def test_the_history_of_a_run_is_a_film_of_its_sheets(generator, capsys):
    save("runs/a", generator)
    for epoch in (1, 2):
        curves.save_sheet("runs/a", epoch, faces_of(generator)[:: 3 - 2 * epoch])
    Path("runs/a/samples/epoch-of-mine.png").touch()
    generate.main(["--history"])
    assert "faces.gif is a film of" in capsys.readouterr().out
    with Image.open("faces.gif") as film:
        assert film.n_frames == 2  # the last one's repetitions are its duration
    shutil.rmtree("runs/a/samples")
    with pytest.raises(SystemExit, match=r"has no samples/epoch-001\.png and so on"):
        generate.main(["--history"])
