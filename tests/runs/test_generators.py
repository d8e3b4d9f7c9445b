import gc
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import models
from dcgan.common import files
from dcgan.runs import generators
from tests.runs.saved import FACTS, flip_a_bit, make_old, sign

SUITE = Path(__file__).parents[2]
WEIGHTS = Path("runs/a/generator.weights.h5")


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def generator(gan):
    return gan.average


@pytest.fixture(scope="module")
def saved_once(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    generators.save(folder / "a", built.average, FACTS)
    return folder


@pytest.fixture
def saved(here, built, saved_once):
    """Put a generator into runs/a; hand out the model, to be looked at."""
    shutil.copytree(saved_once, "runs")
    return built.average


def same(generator, other):
    pairs = zip(generator.get_weights(), other.get_weights(), strict=True)
    return all((a == b).all() for a, b in pairs)


def rewrite(**changes):
    facts = json.loads(Path("runs/a/generator.json").read_text())
    sign("runs/a", {**facts, **changes})


def facts_read(which="best"):
    return generators.read("runs/a", which).facts


def test_a_generator_is_one_file_that_tells_of_itself_and_a_json_for_people(saved):
    told = facts_read()
    assert {name: told[name] for name in FACTS} == FACTS
    assert json.loads(Path("runs/a/generator.json").read_text()) == told
    Path("runs/a/generator.json").unlink()
    loaded, facts = models.load_generator("runs/a")
    assert facts == told
    assert same(loaded, saved)
    Path("runs/a/generator.json").write_text("{")
    assert facts_read() == told


def test_the_checksum_is_of_the_facts_as_well_as_of_the_numbers(saved):
    with h5py.File(WEIGHTS, "a") as file:
        text = file.attrs[generators.FACTS].replace(b'"epochs": 3', b'"epochs": 4')
        file.attrs[generators.FACTS] = np.bytes_(text)
    with pytest.raises(SystemExit, match="is damaged"):
        generators.read("runs/a")
    sign("runs/a")
    assert facts_read()["epochs"] == 4
    with h5py.File(WEIGHTS, "a") as file:
        names = []
        file.visit(names.append)
        array = next(file[name] for name in names if hasattr(file[name], "shape"))
        array[(0,) * array.ndim] += 1
    with pytest.raises(SystemExit, match="is damaged"):
        generators.read("runs/a")


@pytest.mark.parametrize("name", ["celeba-28", "celeba-64"])
def test_what_came_along_says_where_it_comes_from_and_loads(name):
    folder = SUITE / "weights" / name
    generator, facts = models.load_generator(folder)
    assert generator.output_shape[1] == facts["image_size"] == int(name[-2:])
    assert facts["data"]["count"] == 20075
    assert facts["epochs"] >= 20
    assert facts["scored_by"].startswith("KID")
    assert facts["data"]["source"] == facts["constants"]["DATA"] == "celeba-20075"
    assert facts["constants"]["SEED"] == facts["seed"]
    assert facts["commit"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 16 * 2**20


def test_the_json_alone_tells_of_the_weights_of_an_older_run(saved):
    facts = make_old("runs/a")
    assert generators.read("runs/a") == (WEIGHTS, facts)
    loaded, told = models.load_generator("runs/a")
    assert told == facts
    assert same(loaded, saved)
    # It was killed while it replaced them: the JSON of both is there, the old weights
    after = {**facts, "epochs": 7, "sha256": "0" * 64}
    Path("runs/a/generator.json").write_text(json.dumps({**after, "before": facts}))
    assert facts_read() == facts
    make_old_again = {**facts, "before": {**after}}
    Path("runs/a/generator.json").write_text(json.dumps(make_old_again))
    assert facts_read() == facts
    flip_a_bit(WEIGHTS)
    with pytest.raises(SystemExit, match="is damaged"):
        generators.read("runs/a")
    generators.save("runs/a", saved, {**FACTS, "epochs": 9})
    assert facts_read()["epochs"] == 9


def empty():
    shutil.rmtree("runs/a")
    Path("runs/a").mkdir()


def delete_weights():
    WEIGHTS.unlink()


def cut():
    WEIGHTS.write_bytes(WEIGHTS.read_bytes()[:-1000])


def take_another_width():
    models.build_generator("dcgan", 28, 0.1).save_weights(WEIGHTS)
    sign("runs/a", FACTS)


def lose_an_array():
    """What Keras finds nothing for it would leave as it is, and only warn."""
    with h5py.File(WEIGHTS, "a") as file:
        name = next(name for name in file["layers"] if "conv" in name)
        del file["layers"][name]["vars"]["0"]
    sign("runs/a")


def spoil_an_old_json():
    make_old("runs/a")
    Path("runs/a/generator.json").write_text("[]")


def nest_an_old_json_without_end():
    make_old("runs/a")
    Path("runs/a/generator.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda: shutil.rmtree("runs/a"), r"^There is no runs/a\. Another: --run "),
        (empty, r"No generator in runs/a yet\. Train one: "),
        (lambda: flip_a_bit(WEIGHTS), f"{WEIGHTS} is damaged or was not written"),
        (cut, f"{WEIGHTS} is damaged or was not written"),
        (delete_weights, f"{WEIGHTS} is damaged or was not written"),
        (spoil_an_old_json, "is damaged or was not written"),
        (nest_an_old_json_without_end, "is damaged or was not written"),
        (take_another_width, "does not hold a dcgan generator of 28 x 28"),
        (lose_an_array, "does not hold a dcgan generator of 28 x 28"),
        (lambda: rewrite(latent=7), "wrong latent: it draws from 7 numbers"),
        (lambda: rewrite(image_size=50), "dcgan network cannot draw 50 pixels"),
        (lambda: rewrite(network="gan"), "There is no network 'gan'"),
        (lambda: rewrite(network=7), "has a wrong network"),
        (lambda: rewrite(latent="7"), "has a wrong latent"),
        (lambda: rewrite(data=3), "has a wrong data"),
        (lambda: rewrite(epochs=-3), "has a wrong epochs"),
        (lambda: rewrite(width=float("nan")), "has a wrong width"),
        (lambda: rewrite(width=1e9), "has a wrong width"),
        (lambda: rewrite(score=float("nan"), scored_by="MMD"), "has a wrong score"),
        (lambda: rewrite(score=0.1, scored_by="\x1b[1m"), "has a wrong score"),
        (
            lambda: rewrite(data={"name": "x\nDevice    GPU", "count": 3}),
            "has a wrong name in data",
        ),
        (lambda: rewrite(data={"name": "x", "count": -5}), "a wrong count in data"),
        (
            lambda: rewrite(data={"name": "x", "count": 3, "source": 3}),
            "has a wrong source in data",
        ),
    ],
)
def test_a_generator_that_cannot_be_used_is_refused_in_one_line(saved, harm, message):
    harm()
    with pytest.raises(SystemExit, match=message) as refused:
        models.load_generator("runs/a")
    assert "\n" not in refused.value.code


def test_full_memory_is_no_fault_of_the_file(saved, monkeypatch):
    def fill(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    monkeypatch.setattr(generators, "fill", fill)
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
        models.load_generator("runs/a")


def test_pictures_may_lie_in_a_folder_of_any_letters(saved):
    for source in ("my\u202fpictures", "\u5199\u3000\u771f", "\udcff", "a\nb", "\0"):
        data = {"name": "x", "count": 3, "source": source}
        generators.save("runs/a", saved, {**FACTS, "data": data})
        assert facts_read()["data"]["source"] == source


def with_link(file):
    file["more"] = h5py.ExternalLink("elsewhere.h5", "/x")


def with_soft_link(file):
    file["more"] = h5py.SoftLink("/more")


def with_claim(file):
    file.create_dataset("more", shape=(10**6, 10**6), dtype="f4", chunks=(10, 10))


def with_text(file):
    file["more"] = "letters"


def with_outer_file(file):
    file.create_dataset("more", (3,), "f4", external=[("/etc/passwd", 0, 12)])


def with_virtual(file):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (3,))
    file.create_virtual_dataset("more", layout)


def without_end(file):
    """Two ways from each of 60 groups to the next are 2 to the 60 ways to the last."""
    group = file.create_group("more")
    for number in range(60):
        group["a"] = group["b"] = file.create_group(f"more-{number}")
        group = group["a"]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (with_link, "has a link"),
        (with_soft_link, "has a link"),
        (with_claim, "too large"),
        (with_text, "something else than numbers, more"),
        (with_outer_file, "something else than numbers, more"),
        (with_virtual, "something else than numbers, more"),
        (without_end, "there twice"),
    ],
)
def test_weights_that_lead_astray_or_claim_terabytes_are_refused(saved, harm, message):
    with h5py.File(WEIGHTS, "a") as file:
        harm(file)
    with pytest.raises(SystemExit, match=message):
        generators.read("runs/a")


def test_killed_while_it_is_replaced_a_generator_is_the_old_or_the_new_one(
    gan, saved, monkeypatch
):
    """Killed before the weights are renamed, and between these and the JSON."""
    before = [weight.copy() for weight in saved.get_weights()]
    calls = []

    def deadly(old, new):
        if len(calls) == written:
            raise Killed
        calls.append(new)
        os.replace(old, new)

    saved.set_weights([weight + 1 for weight in before])
    for written, epochs, added in ((0, 3, 0), (1, 4, 1)):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(files, "replace", deadly)
            with pytest.raises(Killed):
                generators.save("runs/a", saved, {**FACTS, "epochs": 4})
        assert [path.name for path in calls] == [WEIGHTS.name][:written]
        loaded, facts = models.load_generator("runs/a")
        assert facts["epochs"] == epochs
        for weight, old in zip(loaded.get_weights(), before, strict=True):
            np.testing.assert_array_equal(weight, old + added)


def test_a_generator_that_is_replaced_while_it_is_read_is_read_again(
    gan, saved, monkeypatch
):
    """Facts of one and weights of the other would be a wrong pair."""
    build, before = models.build_generator, saved.get_weights()

    def build_slowly(*given):
        if facts_read()["epochs"] == 3:
            saved.set_weights([weight + 1 for weight in before])
            generators.save("runs/a", saved, {**FACTS, "epochs": 4})
        return build(*given)

    monkeypatch.setattr(models, "build_generator", build_slowly)
    loaded, facts = models.load_generator("runs/a")
    assert facts["epochs"] == 4
    assert same(loaded, saved)


def keep(generator, best, epoch, score):
    """Keep the generator of an epoch; return the best, after a look at what is there.

    Its first weight tells the epoch.
    """
    first = generator.weights[0]
    first.assign(np.full(first.shape, epoch, "float32"))
    facts = {**FACTS, "epochs": epoch, "score": score, "scored_by": "MMD"}
    best = generators.keep("runs/a", generator, facts, best)
    assert facts_read("last")["epochs"] == epoch
    return facts_read()["epochs"], best


def test_the_best_is_kept_beside_the_last(generator):
    best, kept = None, []
    for epoch, score in enumerate([None, 0.5, 0.3, None, 0.4, 0.3, 0.2], 1):
        epochs, best = keep(generator, best, epoch, score)
        kept.append((epochs, best and best["epoch"]))
        with h5py.File(WEIGHTS) as file:
            assert file["layers/dense/vars/0"][0, 0] == epochs
    assert kept == [(1, None), (2, 2), (3, 3), (3, 3), (3, 3), (3, 3), (7, 7)]
    assert best == {"epoch": 7, "score": 0.2}
    assert generators.epochs_of("runs/a") == 7


@pytest.mark.parametrize("end", [".weights.h5", ".json"])
def test_a_best_that_is_gone_is_the_best_no_more(generator, end):
    _, best = keep(generator, None, 1, 0.1)
    Path(f"runs/a/generator{end}").unlink()
    gone = end == ".weights.h5"  # the JSON is for people
    assert keep(generator, best, 2, 0.3)[0] == (2 if gone else 1)
    models.load_generator("runs/a")


def test_a_best_of_another_epoch_than_was_noted_is_replaced(generator):
    keep(generator, None, 3, 0.2)
    noted = {"epoch": 1, "score": 0.1}
    assert keep(generator, noted, 3, 0.3) == (3, {"epoch": 3, "score": 0.3})


def test_the_newest_run_is_the_one_whose_last_generator_is_newest(generator):
    assert generators.folder_of("") == generators.SHIPPED
    assert generators.folder_of("x/y") == Path("x/y")
    _, best = keep(generator, None, 1, 0.1)
    shutil.copytree("runs/a", "runs/b")
    shutil.copytree("runs/a", "runs/c")
    Path("runs/c/generator.weights.h5").unlink()  # it has no best to draw with
    keep(generator, best, 2, 0.3)
    os.utime("runs/c/generator-last.weights.h5", (2**32, 2**32))
    assert generators.folder_of("") == generators.newest_run("runs") == Path("runs/a")


def test_which_weights_were_loaded_and_their_score_are_told(generator):
    _, best = keep(generator, None, 1, 0.1)
    keep(generator, best, 2, 0.25)
    for which, words in (
        ("best", "for 1 epoch (MMD: 0.10000)"),
        ("last", "for 2 epochs (MMD: 0.25000)"),
    ):
        told = generators.in_words("runs/a", facts_read(which))
        assert told == (
            "Generator from runs/a: dcgan, 28 x 28\n"
            f"Trained on 1,234 pictures of toys {words}"
        )
    Path("runs/none").mkdir()
    with pytest.raises(SystemExit, match="No last generator in runs/none yet"):
        generators.read("runs/none", "last")
    Path("runs/none/constants.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"yet\. The command that began it goes on$"):
        generators.read("runs/none")


@pytest.mark.parametrize("share", [0, 0.03, 0.3, 0.9, 0.99])
def test_a_disk_that_fills_up_is_one_line_and_the_generator_of_before_stays(
    saved, capfd, share
):
    """HDF5 itself prints tracebacks then, or kills the process a little later."""
    resource = pytest.importorskip("resource")
    before = WEIGHTS.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * len(before)), limits[1]))
    try:
        with pytest.raises(SystemExit, match=f"^Cannot write {WEIGHTS}: .*large.$"):
            generators.save("runs/a", saved, {**FACTS, "epochs": 4})
        gc.collect()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Traceback" not in capfd.readouterr().err
    assert sorted(path.name for path in Path("runs/a").iterdir()) == [
        "generator.json",
        "generator.weights.h5",
    ]
    assert WEIGHTS.read_bytes() == before
