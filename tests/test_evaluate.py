import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_inception import HOSTILE, faces, write_old, write_state_dict

import evaluate
import models
import preprocess
from dcgan.common.console import UserError
from dcgan.common.options import current
from dcgan.runs import generators
from dcgan.scores import inception, metrics

COUNT = 30  # photos
SAMPLES = 24


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Make photos and, once, the array of them; return the folder with both."""
    folder = tmp_path_factory.mktemp("photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("photos").mkdir()
        for number, face in enumerate(faces(COUNT)):
            Image.fromarray(face).save(f"photos/{number:02d}.png")
        preprocess.prepare("photos", 28, 0)
    return folder


@pytest.fixture(autouse=True)
def place(photos, here, monkeypatch):
    shutil.copytree(photos, here, dirs_exist_ok=True)
    for name, value in current(evaluate).items():
        monkeypatch.setattr(evaluate, name, value)
    monkeypatch.setattr(evaluate, "SAMPLES", SAMPLES)
    monkeypatch.setattr(evaluate, "WEIGHTS", here / "weights")


def real_faces():
    return np.load("data/photos-28.npy")


def checksum(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def save(run="runs/a", seed=1, **changes):
    models.keras.utils.set_random_seed(seed)
    generator = models.build_generator("dcgan", 28)
    about = json.loads(Path("data/photos-28.json").read_text())
    about = {
        **{"network": "dcgan", "image_size": 28, "latent": models.LATENT},
        **{"epochs": 3, "averaged": True},
        "data": {"name": "photos", "count": COUNT, "source": "photos"}
        | {"checksum": about["checksum"]},
    }
    generators.save_generator(run, generator, {**about, **changes})
    return generator


def metrics_of(run="runs/a"):
    return json.loads(Path(run, "metrics.json").read_text())


@pytest.fixture
def network(here, monkeypatch):
    """Write a small network and let it pass for the right one."""
    write_state_dict("net.pth")
    monkeypatch.setattr(inception, "OUT_OF_WHEEL", checksum("net.pth"))
    return "net.pth"


class Eyes:
    """A network that sees mean colours, and counts how often it looks."""

    def __init__(self, checksum="e" * 64):
        self.sha256, self.looks = checksum, 0

    def features(self, faces, bar, batch_size):
        self.looks += 1
        return faces.mean((1, 2), dtype="float32")


def test_the_newest_run_is_scored_against_its_own_data(network, capsys):
    generator = save()
    evaluate.main(["--network", network, "--seed", "4"])
    noise = np.random.default_rng((4, evaluate.FAKE)).uniform(-1, 1, (SAMPLES, 100))
    fake, real = models.draw(generator, noise.astype("float32")), real_faces()
    seen = inception.load(network)
    fake_features, real_features = seen.features(fake), seen.features(real)
    found = metrics_of()
    assert found["mmd"] == pytest.approx(metrics.mmd(real, fake), rel=1e-3)
    fid = metrics.fid(real_features, fake_features)
    assert found["fid"] == pytest.approx(fid, rel=1e-3)
    assert found["kid_standard_error"] > 0
    assert {0 <= found[name] <= 1 for name in ("precision", "recall")} == {True}
    told = capsys.readouterr().out
    assert "Generator from runs/a: dcgan, 28 x 28" in told
    assert "Device    " in told
    assert f"FID        {found['fid']:.2f}" in told
    assert f"KID        {found['kid']:.5f} +- {found['kid_standard_error']:.5f}" in told
    assert f"MMD        {found['mmd']:.5f}" in told


def test_the_last_generator_is_scored_where_it_is_asked_for():
    save("runs/a")
    other = save("runs/b", seed=2, epochs=9)
    about = json.loads(Path("runs/b", generators.ABOUT).read_text())
    generators.save_generator("runs/a", other, about, "last")
    for which, epochs in (("last", "9"), ("best", "3")):
        evaluate.main(["--run", "runs/a", "--which", which, "--network", "none"])
        assert metrics_of()["protocol"]["epochs"] == epochs


def test_the_whole_protocol_stands_beside_the_scores(network, capsys):
    save()
    evaluate.main(["--network", network])
    told, protocol = capsys.readouterr().out, metrics_of()["protocol"]
    pixels = hashlib.sha256(real_faces().tobytes()).hexdigest()
    weights = checksum(f"runs/a/{generators.GENERATOR}")
    expected = {
        "generator": f"runs/a, sha256 {weights[:8]}",
        "weights": "averaged weights",
        "epochs": "3",
        "fake": "24, seed 1",
        "real": f"30 of 30 of photos, sha256 {pixels[:8]}",
        "split": "all that it was trained on, none held out",
        "crop": preprocess.helper.CROP,
        "filter": "bilinear, to 28 x 28",
        "network": f"{inception.NAME}, net.pth, sha256 {checksum(network)[:8]}",
    }
    assert {name: protocol[name] for name in expected} == expected
    for name, text in protocol.items():
        assert f"{name:<11}{text}\n" in told
    assert "too few: biased upwards" in told


def test_equally_many_of_both_are_paired(monkeypatch):
    asked = []
    monkeypatch.setattr(metrics, "kid", lambda *sets: asked.append(sets) or (0, 0))
    monkeypatch.setattr(
        metrics, "precision_recall", lambda *sets: asked.append(sets) or (0, 0)
    )
    save()
    evaluate.score_features(Eyes(), open_own(), faces(SAMPLES))
    assert [[len(each) for each in sets] for sets in asked] == [[24, 24]] * 2
    assert asked[0][0] is asked[1][0]
    seen = {row.tobytes() for row in faces(COUNT).mean((1, 2), dtype="float32")}
    assert {row.tobytes() for row in asked[0][0]} < seen  # the real come first


def open_own():
    return evaluate.open_real(
        Path("runs/a"), json.loads(Path("runs/a/generator.json").read_text())
    )


def test_features_of_real_faces_are_kept_and_used_again(capsys):
    save()
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
    evaluate.REAL = 12
    return Eyes()


def change_choice():
    evaluate.REAL = 12
    evaluate.features_of_real(Eyes(), open_own())
    evaluate.SEED = 2
    return Eyes()


def flip_a_feature():
    path = Path("data/photos-28.features.npz")
    with np.load(path) as file:
        found, about = file["features"], file["about"]
    found[3, 1] += 1
    np.savez(path, features=found, about=about)
    return Eyes()


def break_off():
    path = Path("data/photos-28.features.npz")
    path.write_bytes(path.read_bytes()[:-100])
    return Eyes()


def claim_another_packing():
    path = Path("data/photos-28.features.npz")
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\1\2")
    data[directory + 10] = 99
    path.write_bytes(data)
    return Eyes()


class Code:
    def __reduce__(self):
        return os.system, ("touch was-run",)


def write_a_pickle():
    array = np.array([Code()], dtype=object)
    np.savez("data/photos-28.features.npz", features=array, about=array)
    return Eyes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_network, "their network is another"),
        (change_pixels, "their pixels is another"),
        (change_count, "their count is another"),
        (change_choice, "their chosen is another"),
        (flip_a_feature, "they are damaged"),
        (break_off, "they are damaged"),
        (claim_another_packing, "they are damaged"),
        (write_a_pickle, "they are damaged"),
    ],
)
def test_features_of_anything_else_are_made_again(capsys, change, reason):
    save()
    evaluate.features_of_real(Eyes(), open_own())
    eyes = change()
    real = open_own()
    found = evaluate.features_of_real(eyes, real)
    assert eyes.looks == 1
    assert not Path("was-run").exists()
    assert f"cannot be used: {reason}" in capsys.readouterr().out
    chosen = evaluate.pick(real.faces, evaluate.REAL, evaluate.CHOICE)
    assert (found == chosen.mean((1, 2), dtype="float32")).all()
    again = Eyes(eyes.sha256)
    evaluate.features_of_real(again, real)
    assert again.looks == 0


def test_faces_are_picked_by_the_seed_and_each_once():
    rows = np.arange(50)
    first = evaluate.pick(rows, 20, 1)
    assert len(set(first)) == 20
    assert (evaluate.pick(rows, 20, 1) == first).all()
    assert (evaluate.pick(rows, 20, 2) != first).any()
    evaluate.SEED = 7
    assert (evaluate.pick(rows, 20, 1) != first).any()
    assert evaluate.pick(rows, 0, 1) is rows


def test_without_a_network_there_is_the_mmd(capsys):
    save()
    evaluate.main(["--network", "none"])
    assert {"mmd"} == {"mmd", "fid", "kid", "precision", "recall"} & metrics_of().keys()
    told = capsys.readouterr().out
    assert "MMD" in told
    assert "FID" not in told
    assert "network    none" in told
    assert not list(Path("data").glob("inception*"))


@pytest.mark.parametrize("named", ["nowhere.pth", "hostile.pth"])
def test_a_network_that_is_refused_leaves_the_mmd_and_a_reason(capsys, named):
    save()
    write_old("hostile.pth", HOSTILE["os.system"])
    with pytest.raises(UserError, match=rf"No FID, no KID.*{named}.*Get https"):
        evaluate.main(["--network", named])
    assert "MMD" in capsys.readouterr().out
    assert "fid" not in metrics_of()
    assert not Path("was-run").exists()


def test_fewer_real_faces_are_said_to_be_drawn():
    save()
    evaluate.main(["--network", "none", "--real", "12", "--seed", "3"])
    told = metrics_of()["protocol"]["real"]
    assert told.startswith("12 of 30 of photos, drawn with seed 3")


def test_other_pictures_are_named_as_such(capsys):
    save()
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
    save()
    with pytest.raises(UserError, match="REAL = 3: at least 10, or 0 for all"):
        evaluate.main(["--network", "none", "--real", "3"])
    assert not capsys.readouterr().out


def test_too_few_pictures_are_refused():
    save(data={"name": "photos", "count": 4, "source": "photos"})
    with pytest.raises(UserError, match="4 pictures in photos: at least 10"):
        evaluate.main(["--network", "none"])


def test_where_metrics_cannot_be_written_the_table_is_printed(capsys):
    save()
    Path("runs/a/metrics.json").mkdir()
    evaluate.main(["--network", "none"])
    told = capsys.readouterr().out
    assert "MMD" in told
    assert "Cannot write runs/a/metrics.json" in told
    assert "The table above is all there is." in told


def test_real_faces_never_go_among_the_suites_weights(capsys, monkeypatch, here):
    save("weights/shipped")
    monkeypatch.setattr(generators, "SHIPPED", str(here / "weights/shipped"))
    evaluate.main(["--network", "none"])
    assert Path("nearest.png").exists()
    assert list(Path("weights").rglob("*.png")) == []
    assert metrics_of("weights/shipped")["mmd"]
    assert "\nnearest.png shows 10 fakes above" in capsys.readouterr().out


def test_a_run_gets_its_nearest_faces_beside_its_weights(capsys):
    generator = save()
    evaluate.main(["--network", "none"])
    assert not Path("nearest.png").exists()
    with Image.open("runs/a/nearest.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (2 * 84 + 2, 10 * 84 + 9 * 2, 3)
    noise = np.random.default_rng((1, evaluate.FAKE)).uniform(-1, 1, (SAMPLES, 100))
    fake = models.draw(generator, noise.astype("float32"))[:10]
    above = Image.fromarray(fake[3]).resize((84, 84), Image.Resampling.BICUBIC)
    assert (sheet[:84, 3 * 86 : 3 * 86 + 84] == np.asarray(above)).all()
    real = real_faces()
    real = np.concatenate([real, real[:, :, ::-1]]).astype(int)
    nearest = real[((real - fake[3]) ** 2).sum((1, 2, 3)).argmin()].astype("uint8")
    below = Image.fromarray(nearest).resize((84, 84), Image.Resampling.BICUBIC)
    assert (sheet[86:, 3 * 86 : 3 * 86 + 84] == np.asarray(below)).all()


def test_the_nearest_face_is_found_mirrored_or_not():
    real = np.concatenate([faces(1200, 28), faces(3, 28)])
    near = real[[1190, 5]].copy()
    near[:, 3, 3] ^= 1
    near[1] = near[1, :, ::-1]
    found, apart = evaluate.nearest(near, real)
    assert (found[0] == real[1190]).all()
    assert (found[1] == real[5, :, ::-1]).all()
    assert apart == pytest.approx(np.sqrt(3 / (28 * 28 * 3)))


def test_a_face_is_not_its_own_nearest():
    real = faces(40)
    found, apart = evaluate.nearest(real[[7, 30]], real, np.array([7, 30]))
    assert apart > 1
    assert (found[0] != real[7]).any()
    assert (found[1] != real[30]).any()


def test_full_memory_is_said_in_one_line():
    class Full:
        def features(self, *_):
            raise MemoryError

    evaluate.BATCH_SIZE = 20
    with pytest.raises(UserError, match=r"Out of memory.*--batch-size 10"):
        evaluate.features(Full(), faces(3), "Faces")


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
