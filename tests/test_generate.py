import json
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
from dcgan.pictures import labels
from dcgan.pictures.faces import grid
from dcgan.runs import checkpoints, curves, directions, generators
from dcgan.training import latent
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


def faces_of(generator, numbers=None):
    return models.draw(generator, generate.noise_of(numbers or generate.chosen()))


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
    for refused, message in {
        "20": "runs/a kept no generator of epoch 20; --keep-every is for that",
        "first": "^--which first: best, last, or the number of an epoch that was kept",
    }.items():
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


@pytest.mark.parametrize("shipped", [False, True])
def test_of_several_faces_the_most_real_to_the_discriminator_is_picked(
    tiny, capsys, shipped
):
    if shipped:  # as in weights/, and with no run around it
        run = Path("weights/mine")
        generator, facts = models.load_generator("runs/tiny")
        learned = models.load_discriminator("runs/tiny")
        generators.save(run, generator, facts)
        generators.save(run, learned, facts, "discriminator")
    else:
        run = Path("runs/tiny")
    generate.main([*f"--run {run} --pick 3 --count 4 --singles singles".split()])
    assert "4 faces of 28 x 28 are in faces.png" in capsys.readouterr().out
    arrays, _ = checkpoints.read(checkpoints.paths("runs/tiny")[-1])
    recipe = models.Recipe(width=0.25)
    discriminator = models.build_discriminator("dcgan", 28, recipe)
    for number, weight in enumerate(discriminator.weights):
        weight.assign(arrays[f"discriminator.{number:03}"])
    drawn = faces_of(models.load_generator("runs/tiny")[0], range(1, 13))
    real = np.asarray(discriminator(drawn / 127.5 - 1))  # P(real), by one pass
    best = [3 * k + 1 + real[3 * k : 3 * k + 3].argmax() for k in range(4)]
    files = sorted(Path("singles").iterdir())
    assert [int(file.stem.removeprefix("face-")) for file in files] == best
    for number, file in zip(best, files, strict=True):
        assert (pixels(file) == drawn[number - 1]).all()


def test_faces_are_picked_for_a_walk_too(tiny, monkeypatch):
    stops = []
    monkeypatch.setattr(latent, "walk", lambda noise, _: stops.append(noise) or noise)
    generate.main(["--pick", "5", "--count", "2", "--singles", "singles"])
    generate.main(["--walk", "2", "--singles", ""])
    numbers = [int(file.stem[5:]) for file in sorted(Path("singles").iterdir())]
    assert (stops[0] == generate.noise_of(numbers)).all()
    assert numbers != [1, 2]


def test_picking_where_there_is_no_discriminator_is_one_line(generator):
    save("runs/a", generator)
    with pytest.raises(SystemExit, match="runs/a has no discriminator: neither a"):
        generate.main(["--pick", "2"])


def test_the_discriminator_is_that_of_the_generators_epoch_if_it_was_kept(tiny):
    older, newest = checkpoints.paths("runs/tiny")
    for path, which, epochs in (
        (older, older.name, 1),
        (older, "best", 1),
        (newest, "best", 2),
        (newest, "best", 7),
    ):
        found = models.load_discriminator("runs/tiny", which, epochs)
        arrays, _ = checkpoints.read(path)
        for number, weight in enumerate(found.get_weights()):
            assert (weight == arrays[f"discriminator.{number:03}"]).all()


def test_a_damaged_discriminator_is_one_line_and_an_older_one_picks(tiny):
    older, newest = checkpoints.paths("runs/tiny")
    flip_a_bit(newest)
    with pytest.raises(SystemExit, match=rf"{newest.name} is damaged .* an older one"):
        generate.main(["--pick", "2"])
    generate.main(["--run", str(older), "--pick", "2"])


@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_draws_with_the_average_in_it(tiny, capsys, old):
    path = checkpoints.paths("runs/tiny")[-1]
    constants = json.loads(Path("runs/tiny/constants.json").read_text())
    constants["constants"]["DATA"] = "/mine/cartoons"  # which is nobody's business
    Path("runs/tiny/constants.json").write_text(json.dumps(constants))
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
        "runs/b/generator.weights.h5": r"^There is no runs/b\. .* --run runs/b$",
        "runs": r"^runs holds runs\. Name one: --run runs/tiny$",
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


def test_many_faces_are_drawn_part_by_part(generator, monkeypatch):
    save("runs/a", generator)
    monkeypatch.setattr(generate, "TOGETHER", 4)
    generate.main(["--singles", "one-by-one"])
    names = sorted(path.name for path in Path("one-by-one").iterdir())
    assert names == [f"face-{number:02d}.png" for number in range(1, 11)]
    drawn = faces_of(generator)
    assert (pixels("one-by-one/face-09.png") == drawn[8]).all()
    in_parts = pixels()
    generate.main(["--singles", ""])
    monkeypatch.setattr(generate, "TOGETHER", 1000)
    generate.main(["--singles", ""])
    assert (pixels() == in_parts).all()


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
    first = models.draw(
        generator, generate.noise(generate.SEED, "generate", (3, models.LATENT))
    )[0]
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
    long = ["--walk", "1000", "--seconds", "0", "--scale", "16", "--out", "walk.webp"]
    with pytest.raises(SystemExit, match=r"^10000 faces would be a picture of 2,007 "):
        generate.main(long)


def test_a_gif_lasts_as_long_as_is_asked_for(generator):
    save("runs/a", generator)
    generate.main(["--walk", "2", "--seconds", "2", "--fps", "40", "--out", "walk.gif"])
    with Image.open("walk.gif") as film:
        lasts = 0
        for number in range(film.n_frames):
            film.seek(number)
            lasts += film.info["duration"]
    assert 1960 <= lasts <= 2040


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


def tiles(path, rows, columns, side=28, words=True):
    """Cut the faces (rows, columns, side, side, 3) out of a sheet of scale 1."""
    sheet = pixels(path)
    high = (sheet.shape[0] + 2) // rows if words else side + 2
    return np.array(
        [
            [
                sheet[row * high :, column * (side + 2) :][:side, :side]
                for column in range(columns)
            ]
            for row in range(rows)
        ]
    )


def noise_of(*numbers, seed=generate.SEED):
    return generate.noise(seed, "generate", (50, models.LATENT))[np.array(numbers) - 1]


def assert_are(tiles, drawn):
    """Hold faces cut from a sheet against faces drawn at once, in another batch."""
    assert np.abs(np.subtract(tiles, drawn, dtype=int)).max() <= 1


def test_faces_are_drawn_by_their_numbers_whatever_count_is(generator, capsys):
    save("runs/a", generator)
    given = ["--faces", "3,17,40", "--scale", "1", "--singles", "singles"]
    generate.main([*given, "--count", "5"])
    assert "3 faces of 28 x 28 are in faces.png" in capsys.readouterr().out
    three = tiles("faces.png", 1, 3, words=False)[0]
    assert_are(three, models.draw(generator, noise_of(3, 17, 40)))
    names = sorted(path.name for path in Path("singles").iterdir())
    assert names == ["face-03.png", "face-17.png", "face-40.png"]
    assert (pixels("singles/face-17.png") == three[1]).all()
    generate.main(["--faces", "", "--count", "40", "--columns", "40"])
    assert_are(tiles("faces.png", 1, 40, words=False)[0][[2, 16, 39]], three)


def test_the_numbers_that_are_shown_are_those_that_faces_takes(generator):
    save("runs/a", generator)
    generate.main(["--scale", "1", "--show-seeds", "--count", "17", "--columns", "17"])
    shown = pixels()[:, 16 * 30 :]
    generate.main(["--scale", "1", "--show-seeds", "--faces", "17"])
    assert np.abs(np.subtract(shown, pixels(), dtype=int)).max() <= 1
    expected = labels.sheet(models.draw(generator, noise_of(17)), ["17"], 1)
    assert_are(pixels(), np.asarray(expected))
    generate.main(["--scale", "1", "--show-seeds", "--faces", "16"])
    assert (pixels()[30:] != shown[30:]).any()


def test_a_row_leads_from_each_face_to_the_next(generator, capsys):
    save("runs/a", generator)
    generate.main(["--between", "3,17,40", "--steps", "5", "--scale", "1"])
    assert "the way from face to face: 3,17,40" in capsys.readouterr().out
    rows = tiles("faces.png", 2, 5)
    drawn = models.draw(generator, noise_of(3, 17, 40))
    assert_are(rows[[0, 0, 1, 1], [0, -1, 0, -1]], drawn[[0, 1, 1, 2]])
    words = ["3", "", "", "", "17", "17", "", "", "", "40"]
    expected = labels.sheet(rows.reshape(10, 28, 28, 3), words, 5)
    assert (pixels() == np.asarray(expected)).all()
    apart = np.abs(np.diff(rows[0].astype(int), axis=0)).mean((1, 2, 3))
    whole = np.abs(np.subtract(drawn[0], drawn[1], dtype=int)).mean()
    assert (apart < 0.8 * whole).all()
    assert (apart > 0).all()


def test_a_sum_shows_its_faces_and_the_sum_in_the_middle_of_those_around_it(generator):
    save("runs/a", generator)
    sums = ["--mean", "3,17", "--minus", "17,5", "--plus", "5", "--scale", "1"]
    generate.main(sums)
    whole = models.draw(generator, latent.sum_of(noise_of(3, 5), [0.5, 0.5])[None])[0]
    square = pixels()[-88:, -88:]
    assert_are(square[30:58, 30:58], whole)
    around = {square[at:][:28, at : at + 28].tobytes() for at in (0, 30, 60)}
    assert len(around) == 3
    for drawn in models.draw(generator, noise_of(3, 17, 17, 5, 5)):
        assert holds(pixels(), drawn)
    mean = latent.sum_of(noise_of(5, 17), [0.5, 0.5])
    assert holds(pixels(), models.draw(generator, mean[None])[0])


def holds(sheet, face):
    """Tell whether a face stands somewhere on a sheet."""
    windows = np.lib.stride_tricks.sliding_window_view(
        sheet[..., 0].astype(int), (28, 28)
    )
    near = np.argwhere(np.abs(windows[..., 0, 0] - int(face[0, 0, 0])) <= 1)
    return any(
        np.abs(windows[tuple(place)] - face[..., 0]).max() <= 1 for place in near
    )


def save_directions(run, generator_of="best"):
    vectors = np.zeros((2, models.LATENT), "float32")
    vectors[[0, 1], [3, 4]] = 1
    each = np.ones(2)
    found = directions.Directions(
        *(
            np.array(["Smiling", "Black_Hair"]),
            vectors,
            each,
            each[:, None],
            each,
            each,
        ),
        steps=each,
        generator=generators.read(run, generator_of).facts["sha256"],
        seed=1,
    )
    directions.save(run, found)
    return vectors


def test_each_face_is_the_middle_of_a_row_along_a_direction(generator, capsys):
    save("runs/a", generator)
    vector = save_directions("runs/a")[0]
    along = ["--direction", "smiling", "--faces", "3,17", "--steps", "5"]
    generate.main([*along, "--scale", "1", "--reach", "2"])
    assert capsys.readouterr().out.endswith(
        "faces.png shows 2 faces with less and more Smiling.\n"
    )
    moved = latent.along(noise_of(3, 17), vector, [-2, -1, 0, 1, 2])
    drawn = models.draw(generator, moved.reshape(-1, models.LATENT))
    for face in drawn:
        assert holds(pixels(), face)
    assert_are(drawn[[2, 7]], models.draw(generator, noise_of(3, 17)))
    save("runs/a", other_than(generator))
    generate.main(along)
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("The directions are those of another generator")
    assert told.endswith("python directions.py --run runs/a")


def test_a_direction_that_is_not_there_is_one_line(generator):
    save("runs/a", generator)
    with pytest.raises(SystemExit, match=r"python directions\.py --run runs/a$"):
        generate.main(["--direction", "smiling"])
    save_directions("runs/a")
    with pytest.raises(SystemExit, match=r"only Smiling, Black_Hair$"):
        generate.main(["--direction", "beard"])


def test_a_walk_passes_the_faces_that_are_named(generator):
    save("runs/a", generator)
    walk = ["--walk", "2", "--faces", "17,40", "--fps", "10", "--out", "walk.webp"]
    generate.main(walk)
    with Image.open("walk.webp") as film:
        assert film.n_frames == 20
        expected = grid(models.draw(generator, noise_of(17)), 1, 5)
        apart = np.subtract(film.convert("RGB"), expected, dtype=int)
    assert np.abs(apart).mean() < 8
    with pytest.raises(SystemExit, match=r"a walk through these is --walk 2$"):
        generate.main(["--walk", "3", "--faces", "17,40"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--between", "3"], "--between 3: two faces at least"),
        (["--between", "3;17"], "as in 3,17,40$"),
        (["--faces", "0"], "--faces 0: faces are told by their numbers, from 1"),
        (["--minus", "3"], "Say of which: --mean 3,17,40"),
        (["--mean", "3", "--minus", "3"], "cancel each other out"),
        (["--mean", "3", "--between", "3,4"], "BETWEEN and MEAN do not go together"),
        (["--direction", "x", "--steps", "8"], r"Try --steps 7$"),
        (["--direction", "x", "--walk", "2"], "WALK and DIRECTION do not go"),
        (["--between", "3,4", "--singles", "s"], "BETWEEN and SINGLES do not go"),
        (["--history", "--faces", "3"], "HISTORY and FACES do not go together"),
        (["--history", "--walk", "8"], "HISTORY and WALK do not go together"),
        (["--walk", "8", "--singles", "a"], "WALK and SINGLES do not go together"),
        (["--between", "3,4", "--steps", "99", "--scale", "400"], "at most 16"),
        (["--pick", "2", "--faces", "3"], "PICK and FACES do not go together"),
        (["--pick", "11", "--count", "10000"], "more than the 100,000 faces"),
    ],
)
def test_what_does_not_go_together_is_one_line(generator, capsys, given, message):
    save("runs/a", generator)
    with pytest.raises(SystemExit) as refused:
        generate.main(given)
    said = capsys.readouterr().err or refused.value.code
    assert re.search(message, said.strip())
    assert "\n" not in said.strip()
    assert not Path("faces.png").exists()
