import functools
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import evaluate
import models
import preprocess
from dcgan.common.console import UserError
from dcgan.common.options import current
from dcgan.runs import generators, page
from dcgan.scores import inception, metrics
from tests.scores.narrow import HOSTILE, faces, write_torchscript

COUNT = 30  # photos
SAMPLES = 24
WIDTH = 0.05


def real_faces():
    return np.load("data/photos-28.npy")


def checksum(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def save(run="runs/a", seed=1, which="best", **changes):
    """Save a narrow generator of the photos as a run's; return it."""
    models.keras.utils.set_random_seed(seed)
    generator = models.build_generator("dcgan", 28, WIDTH)
    array = json.loads(Path("data/photos-28.json").read_text())
    facts = {
        **{"network": "dcgan", "image_size": 28, "latent": models.LATENT},
        **{"width": WIDTH, "epochs": 3, "averaged": True},
        "data": {"name": "photos", "count": COUNT, "source": "photos"}
        | {"checksum": array["checksum"]},
    }
    generators.save(run, generator, {**facts, **changes}, which)
    return generator


def metrics_of(run="runs/a"):
    return json.loads(Path(run, "metrics.json").read_text())


def drawn_by(generator, seed):
    """Draw the fakes that evaluate.py draws, or so many of them."""
    noise = np.random.default_rng((seed, 9)).uniform(-1, 1, (SAMPLES, 100))
    return models.draw(generator, noise.astype("float32"))


def set_constants(patch, folder):
    for name, value in current(evaluate).items():
        patch.setattr(evaluate, name, value)
    patch.setattr(evaluate, "SAMPLES", SAMPLES)
    patch.setattr(evaluate, "WEIGHTS", folder / "weights")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Score a run once, through the narrow Inception, in a folder with photos.

    folder: where; generator: the run's; network: as it sees.
    """
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("photos").mkdir()
        for number, face in enumerate(faces(COUNT)):
            Image.fromarray(face).save(f"photos/{number:02d}.png")
        preprocess.prepare("photos", 28, 0)
        generator = save()
        write_torchscript("net.pt")
        patch.setattr(inception, "OUT_OF_WHEEL", checksum("net.pt"))
        patch.setattr(inception, "load", functools.cache(inception.load))
        set_constants(patch, folder)
        evaluate.main(["--network", "net.pt", "--seed", "4"])
        network = inception.load(Path("net.pt"))
    return SimpleNamespace(folder=folder, generator=generator, network=network)


@pytest.fixture(autouse=True)
def place(scored, here, monkeypatch):
    """Work in a copy of the folder, before anything was scored."""
    shutil.copytree(scored.folder, here, dirs_exist_ok=True)
    for name in ("runs/a/metrics.json", "runs/a/nearest.png"):
        Path(name).unlink()
    Path("data/photos-28.features.npz").unlink()
    set_constants(monkeypatch, here)


class Eyes:
    """A network that sees mean colours, and counts how often it looks."""

    def __init__(self, checksum="e" * 64):
        self.sha256, self.looks = checksum, 0

    def features(self, faces, bar, batch_size):
        self.looks += 1
        return faces.mean((1, 2), dtype="float32")


def test_the_newest_run_is_scored_against_its_own_data(scored, monkeypatch, capsys):
    fake, real = drawn_by(scored.generator, 4), real_faces()
    fake_features = scored.network.features(fake)
    real_features = scored.network.features(real)
    scores = metrics_of(scored.folder / "runs/a")
    assert scores["mmd"] == pytest.approx(metrics.mmd(real, fake), rel=0.01)
    fid = metrics.fid(real_features, fake_features)
    assert scores["fid"] == pytest.approx(fid, rel=0.01)
    assert scores["kid_standard_error"] > 0
    assert {0 <= scores[name] <= 1 for name in ("precision", "recall")} == {True}
    table = evaluate.table(scores, scores["protocol"])
    assert f"FID        {scores['fid']:.2f}" in table
    kid = f"{scores['kid']:.5f} +- {scores['kid_standard_error']:.5f}"
    assert f"KID        {kid}" in table
    assert f"MMD        {scores['mmd']:.5f}" in table
    assert "too few: biased upwards" in table


def test_the_pictures_are_fitted_as_the_run_had_them(monkeypatch):
    save(constants={"FIT": "pad"})
    monkeypatch.setattr(evaluate, "NETWORK", "none")
    evaluate.main([])
    assert Path("data/photos-28-pad.npy").exists()
    crop = metrics_of()["protocol"]["crop"]
    assert crop == preprocess.helper.FITS["pad"].told


@pytest.mark.parametrize("which", ["generator.weights.h5", "checkpoint-000010.npz"])
def test_a_file_of_a_run_is_scored_against_what_the_run_was_trained_on(
    trained, monkeypatch, capsys, which
):
    shutil.copytree(trained / "runs/tiny", "runs/tiny")
    monkeypatch.setattr(evaluate, "DATA_FOLDER", str(trained / "data"))
    monkeypatch.setattr(evaluate, "SAMPLES", 20)
    monkeypatch.setattr(evaluate, "DATA", "")
    monkeypatch.setattr(evaluate, "NETWORK", "none")
    path = f"runs/tiny/{which}"
    monkeypatch.setattr(evaluate, "RUN", path)
    evaluate.main([])
    assert f"Generator from {path}: dcgan, 28 x 28" in capsys.readouterr().out
    protocol = metrics_of("runs/tiny")["protocol"]
    assert protocol["generator"].startswith(f"{path}, sha256 ")
    assert protocol["split"] == "all that it was trained on, none held out"
    assert protocol["weights"] == "averaged weights"


def test_the_whole_protocol_stands_beside_the_scores(scored):
    protocol = metrics_of(scored.folder / "runs/a")["protocol"]
    facts = generators.read("runs/a").facts
    pixels = hashlib.sha256(real_faces().tobytes()).hexdigest()
    network = checksum(scored.folder / "net.pt")
    expected = {
        "generator": f"runs/a, sha256 {facts['sha256'][:8]}",
        "weights": "averaged weights",
        "epochs": "3",
        "fake": "24, seed 4",
        "real": f"30 of 30 of photos, sha256 {pixels[:8]}",
        "split": "all that it was trained on, none held out",
        "crop": preprocess.helper.FITS["crop"].told,
        "filter": "bilinear, to 28 x 28",
        "network": f"{inception.NAME}, net.pt, sha256 {network[:8]}",
    }
    assert {name: protocol[name] for name in expected} == expected


def test_the_last_generator_is_scored_where_it_is_asked_for():
    save("runs/a", seed=2, which="last", epochs=9)
    save("runs/b", seed=3)
    for which, epochs in (("last", "9"), ("best", "3")):
        evaluate.main(["--run", "runs/a", "--which", which, "--network", "none"])
        assert metrics_of()["protocol"]["epochs"] == epochs


def test_equally_many_of_both_are_paired(monkeypatch):
    asked = []
    monkeypatch.setattr(metrics, "kid", lambda *sets: asked.append(sets) or (0, 0))
    monkeypatch.setattr(
        metrics, "precision_recall", lambda *sets: asked.append(sets) or (0, 0)
    )
    evaluate.score_features(Eyes(), open_own(), faces(SAMPLES))
    assert [[len(each) for each in sets] for sets in asked] == [[24, 24]] * 2
    assert asked[0][0] is asked[1][0]
    seen = {row.tobytes() for row in faces(COUNT).mean((1, 2), dtype="float32")}
    assert {row.tobytes() for row in asked[0][0]} < seen  # the real come first


def open_own():
    return evaluate.open_real(Path("runs/a"), generators.read("runs/a").facts)


def test_features_of_real_faces_are_kept_and_used_again(capsys):
    eyes, again = Eyes(), Eyes()
    first = evaluate.features_of_real(eyes, open_own())
    second = evaluate.features_of_real(again, open_own())
    assert (eyes.looks, again.looks) == (1, 0)
    assert (first == second).all()
    assert "Using data/photos-28.features.npz" in capsys.readouterr().out


def change_network():
    return Eyes("f" * 64)


def change_pixels():
    face = np.zeros((28, 28, 3), "uint8")
    Image.fromarray(face).save("photos/00.png")
    return Eyes()


def change_count():
    Path("data/photos-28.features.npz").unlink()
    evaluate.REAL = 13
    evaluate.features_of_real(Eyes(), open_own())
    evaluate.REAL = 12
    return Eyes()


def change_choice():
    change_count()
    evaluate.features_of_real(Eyes(), open_own())
    evaluate.SEED = 2
    return Eyes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_network, "their network is another"),
        (change_pixels, "their pixels is another"),
        (change_count, "their count is another"),
        (change_choice, "their chosen is another"),
    ],
)
def test_features_of_anything_else_are_made_again(capsys, change, reason):
    evaluate.features_of_real(Eyes(), open_own())
    eyes = change()
    real = open_own()
    seen = evaluate.features_of_real(eyes, real)
    assert eyes.looks == 1
    assert f"cannot be used: {reason}" in capsys.readouterr().out
    chosen = evaluate.some(real.faces, evaluate.REAL, "evaluate_choice")
    assert (seen == chosen.mean((1, 2), dtype="float32")).all()
    again = Eyes(eyes.sha256)
    evaluate.features_of_real(again, real)
    assert again.looks == 0


def test_features_of_all_outlast_those_of_some_and_serve_for_them():
    every = evaluate.features_of_real(Eyes(), open_own())
    evaluate.REAL, eyes = 12, Eyes()
    real = open_own()
    chosen = evaluate.some(real.faces, 12, "evaluate_choice")
    seen = evaluate.features_of_real(eyes, real)
    assert (seen == chosen.mean((1, 2), dtype="float32")).all()
    evaluate.features_of_real(Eyes("f" * 64), real)  # another network
    evaluate.REAL = 0
    assert (evaluate.features_of_real(eyes, real) == every).all()
    assert eyes.looks == 0


def test_faces_are_picked_by_the_seed_and_each_once():
    rows = np.arange(50)

    def picked(stream="evaluate_mmd", count=20):
        return evaluate.some(rows, count, stream)

    first = picked()
    assert len(set(first)) == 20
    assert (picked() == first).all()
    assert (picked("evaluate_pairs") != first).any()
    evaluate.SEED = 7
    assert (picked() != first).any()
    assert picked(count=0) is rows


def test_without_a_network_there_is_the_mmd_and_the_nearest_faces(scored, capsys):
    evaluate.main(["--network", "none", "--real", "12", "--seed", "3"])
    scores = metrics_of()
    assert {"mmd"} == {"mmd", "fid", "kid", "precision", "recall"} & scores.keys()
    # Of fewer real faces it is said that they were drawn
    real = scores["protocol"]["real"]
    assert real.startswith("12 of 30 of photos, drawn with seed 3")
    told = capsys.readouterr().out
    assert "Generator from runs/a: dcgan, 28 x 28" in told
    assert "Device    " in told
    assert "MMD" in told
    assert "FID" not in told
    assert "network    none" in told
    for name, text in scores["protocol"].items():
        assert f"{name:<11}{text}\n" in told
    assert not list(Path("data").glob("inception*"))
    check_nearest(drawn_by(scored.generator, 3)[:10])


def check_nearest(fake):
    """The fakes, above; below each the real face that is nearest, mirrored or not."""
    assert not Path("nearest.png").exists()
    with Image.open("runs/a/nearest.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * 84 + 2, 10 * 84 + 9 * 2, 3)
    above = Image.fromarray(fake[3]).resize((84, 84), Image.Resampling.BICUBIC)
    assert (sheet[:84, 3 * 86 : 3 * 86 + 84] == np.asarray(above)).all()
    real = real_faces()
    real = np.concatenate([real, real[:, :, ::-1]]).astype(int)
    nearest = real[((real - fake[3]) ** 2).sum((1, 2, 3)).argmin()].astype("uint8")
    below = Image.fromarray(nearest).resize((84, 84), Image.Resampling.BICUBIC)
    assert (sheet[86:, 3 * 86 : 3 * 86 + 84] == np.asarray(below)).all()


def test_without_a_network_scores_of_the_same_generator_stay(scored, capsys):
    shutil.copy(scored.folder / "runs/a/metrics.json", "runs/a")
    scores = metrics_of()
    evaluate.main(["--network", "none"])
    assert metrics_of() == scores
    assert "metrics.json stays as it is: it has the FID" in capsys.readouterr().out
    save(seed=2)
    evaluate.main(["--network", "none"])
    assert "fid" not in metrics_of()


@pytest.mark.parametrize("named", ["nowhere.pt", "hostile.pt"])
def test_a_network_that_is_refused_leaves_the_mmd_and_a_reason(capsys, named):
    write_torchscript("hostile.pt", HOSTILE["os.system"])
    with pytest.raises(UserError, match=rf"No FID, no KID.*{named}.*Get https"):
        evaluate.main(["--network", named])
    assert "MMD" in capsys.readouterr().out
    assert "fid" not in metrics_of()
    assert not Path("was-run").exists()


def test_other_pictures_are_named_as_such(capsys):
    Path("other").mkdir()
    for number, face in enumerate(faces(11)):
        Image.fromarray(face).save(f"other/{number}.png")
    evaluate.main(["--network", "none", "--data", "other"])
    assert (
        "not just the pictures that it was trained on"
        in metrics_of()["protocol"]["split"]
    )
    assert metrics_of()["protocol"]["real"].startswith("11 of 11 of other")


def test_a_generator_of_the_first_pictures_is_scored_against_those():
    first = hashlib.sha256(real_faces()[:20].tobytes()).hexdigest()
    data = {"name": "photos", "count": 20, "source": "photos", "checksum": first}
    save(data=data, averaged=False)
    evaluate.main(["--network", "none"])
    protocol = metrics_of()["protocol"]
    assert protocol["real"].startswith("20 of 20 of photos")
    assert protocol["split"].startswith("all that it was trained on")
    assert protocol["weights"].startswith("plain weights, not averaged")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "gone"}, "was trained on 'gone', not to be found.*--data FOLDER"),
        ({}, "was trained on pictures that are not named.*--data FOLDER"),
    ],
)
def test_pictures_that_are_not_here_are_asked_for(data, message):
    save(data={"name": "x", "count": 3, **data})
    with pytest.raises(UserError, match=message):
        evaluate.main(["--network", "none"])


def test_too_few_real_faces_are_refused_before_anything_is_drawn(capsys):
    with pytest.raises(UserError, match="REAL = 3: at least 10, or 0 for all"):
        evaluate.main(["--network", "none", "--real", "3"])
    assert not capsys.readouterr().out


def test_too_few_pictures_are_refused():
    save(data={"name": "photos", "count": 4, "source": "photos"})
    with pytest.raises(UserError, match="4 pictures in photos: at least 10"):
        evaluate.main(["--network", "none"])


def test_where_metrics_cannot_be_written_the_table_is_printed(capsys):
    Path("runs/a/metrics.json").mkdir()
    evaluate.main(["--network", "none"])
    told = capsys.readouterr().out
    assert "MMD" in told
    assert "Cannot write runs/a/metrics.json" in told
    assert "The table above is all there is." in told


def test_the_page_of_a_run_that_has_one_shows_the_scores(capsys, monkeypatch):
    Path("runs/a/index.html").touch()
    evaluate.main(["--network", "none"])
    text = page.HELD.search(Path("runs/a/index.html").read_text())[2]
    shown = json.loads(text)
    assert shown["metrics"] == metrics_of()
    assert shown["nearest"]
    monkeypatch.setattr("dcgan.common.files._part_name", lambda: "part")
    Path("runs/a/part-index.html").mkdir()  # in its way
    evaluate.main(["--network", "none"])
    assert "\nCannot write runs/a/index.html: " in capsys.readouterr().out


def test_real_faces_never_go_among_the_suites_weights(capsys):
    save("weights/shipped")
    evaluate.main(["--network", "none", "--run", "weights/shipped"])
    assert Path("nearest.png").exists()
    assert list(Path("weights").rglob("*.png")) == []
    assert metrics_of("weights/shipped")["mmd"]
    assert "\nnearest.png shows 10 fakes above" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--samples", "3"], "--samples 3: must be at least 10"),
        (["--netwrok", "x"], "no option --netwrok, did you mean --network?"),
    ],
)
def test_wrong_options_are_named(capsys, given, message):
    with pytest.raises(SystemExit):
        evaluate.main(given)
    assert message in capsys.readouterr().err
