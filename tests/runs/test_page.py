import base64
import csv
import html
import html.parser
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan.common.files import write_json
from dcgan.runs import curves, page
from tests.chromium import Chromium, Page, in_a_browser

TEMPLATE = Path(page.__file__).with_suffix(".html").read_text()
ACTS = Path(__file__).with_name("acts.js")
HOSTILE = "</script><img src=x onerror=alert(1)>"
CONSTANTS = {
    **{"NETWORK": "dcgan", "IMAGE_SIZE": 28, "EPOCHS": 3, "SAMPLES": 12},
    **{"DATA": "toys", "LOSS": "cross-entropy"},
}
CHANGE = {"from": "runs/b", "epochs": 1, "iterations": 5, "constants": {"R1": [0, 0.1]}}


def faces_of(epoch, side=28, count=12):
    """Draw faces of one colour each, another in every epoch."""
    colours = np.random.default_rng(epoch).integers(0, 256, (count, 1, 1, 3))
    return np.broadcast_to(colours, (count, side, side, 3)).astype("uint8")


def write_log(rows, run="runs/a"):
    with open(f"{run}/log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def rows_of(scores, alarm=""):
    """Return a row for each score, of epochs that take 10, 20, ... seconds."""
    return [
        {
            **{"epoch": n, "iterations": 5 * n, "d_loss": 0.5 / n, "g_loss": 1.25},
            **{"real_accuracy": 0.75, "fake_accuracy": 0.875, "diversity": 1.0},
            **{"kid": score, "pictures_per_second": 1234.5, "seconds": 10 * n},
            **{"end_seconds": 1, "alarm": alarm if n > 1 else ""},
        }
        for n, score in enumerate(scores, 1)
    ]


def make_run(run="runs/a", scores=(0.5, None), alarm="", **changed):
    """Write what a run of some epochs leaves, but for its page and its weights."""
    begun_with = {"precision": "float32", "backend": "jax", "count": 4321}
    written = {"constants": {**CONSTANTS, **changed}, "begun_with": begun_with}
    written |= {"device": "A device", "keras": "3.15.1", "changes": [CHANGE]}
    write_json(Path(run, "constants.json"), written)
    write_log(rows_of(scores, alarm), run)
    for epoch in range(1, len(scores) + 1):
        curves.save_sheet(run, epoch, faces_of(epoch))


@pytest.fixture
def run(here):
    make_run()
    return Path("runs/a")


def shown(run="runs/a"):
    """Read what the page of a run shows."""
    _, text = page.HELD.search(Path(run, "index.html").read_text()).groups()
    return json.loads(text)


def faces_in(sheet, side=28):
    """Return the faces (n, side, side, 3) of an encoded sheet."""
    with Image.open(io.BytesIO(base64.b64decode(sheet["webp"]))) as image:
        assert image.format == "WEBP"
        tiles = np.asarray(image).reshape(-1, side, image.width // side, side, 3)
    return tiles.swapaxes(1, 2).reshape(-1, side, side, 3)


def shows(sheet, faces):
    """Tell whether a sheet holds just these faces, up to what WebP loses."""
    found = faces_in(sheet, faces.shape[1])[: len(faces)].astype(int)
    return np.abs(found - faces).mean() < 6


def test_the_page_has_the_numbers_of_the_run(run):
    page.save(run, undecided=0.69)
    told = shown()
    assert (told["name"], told["command"]) == ("a", "python generate.py --run runs/a")
    assert (told["epochs"], told["finished"]) == (3, False)
    assert told["left"] == told["epoch_seconds"] == 21  # the last one's, with its end
    assert told["took"] == 32
    assert told["best"] == {"epoch": 1, "score": 0.5}
    assert [row["kid"] for row in told["rows"]] == [0.5, None]
    assert [row["d_loss"] for row in told["rows"]] == [0.5, 0.25]
    assert told["constants"] == CONSTANTS
    assert told["changes"] == [CHANGE]
    assert told["versions"] == {"device": "A device", "keras": "3.15.1"}
    assert (told["undecided"], told["nearest"], told["metrics"]) == (0.69, False, {})
    page.save(run)
    assert shown()["undecided"] == 0.69  # whoever makes it again need not know


def test_a_run_that_is_trained_longer_is_finished_later(run):
    write_log(rows_of([0.5, 0.25, 0.75, 0.5]))
    page.save(run)
    assert (shown()["finished"], shown()["left"]) == (True, 0)
    assert shown()["best"] == {"epoch": 2, "score": 0.25}
    # constants.json keeps what the run was begun with
    facts = {"constants": {**CONSTANTS, "EPOCHS": 6}, "data": {"name": "toys"}}
    write_json(run / "generator-last.json", facts)
    page.save(run)
    assert (shown()["epochs"], shown()["finished"]) == (6, False)
    assert shown()["left"] == 2 * (20 + 30 + 40 + 3) / 3  # as the last three epochs


@pytest.mark.parametrize(("side", "count"), [(28, 12), (64, 50), (128, 3)])
def test_the_faces_of_a_sheet_are_kept_as_they_were_drawn(here, side, count):
    grey = np.random.default_rng(0).integers(0, 256, (count, 7, 7)).astype("uint8")
    large = [Image.fromarray(each).resize((side, side)).convert("RGB") for each in grey]
    faces = np.stack([np.asarray(each) for each in large])
    curves.save_sheet("runs/a", 1, faces)
    write_json(Path("runs/a/constants.json"), {"constants": {"IMAGE_SIZE": side}})
    page.save("runs/a")
    [sheet] = shown()["sheets"]
    assert shows(sheet, faces[:40])
    assert len(faces_in(sheet, side)) <= 40


def test_sheets_that_the_page_has_are_taken_over_and_others_encoded(run):
    page.save(run)
    before = shown()["sheets"]
    first = run / "samples/epoch-001.png"
    facts = first.stat()
    first.write_bytes(bytes(facts.st_size))  # nobody looks at it any more
    os.utime(first, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    curves.save_sheet(run, 2, faces_of(9))
    curves.save_sheet(run, 3, faces_of(3))
    page.save(run)
    after = shown()["sheets"]
    assert after[0] == before[0]
    assert [sheet["epoch"] for sheet in after] == [1, 2, 3]
    assert shows(after[1], faces_of(9))
    assert shows(after[2], faces_of(3))


def test_a_damaged_page_is_made_anew(run):
    page.save(run)
    whole = (run / "index.html").read_bytes()
    inside = whole.index(b'"webp":"') + 200
    bad = whole[:inside] + (b"A" if whole[inside] != ord("A") else b"B")
    (run / "index.html").write_bytes(bad + whole[inside + 1 :])
    page.save(run)
    assert (run / "index.html").read_bytes() == whole
    other = re.sub(rb'"of":', b'"at":', whole)  # as another version may have written it
    checksum = page.zlib.crc32(page.HELD.search(other.decode())[2].encode())
    other = re.sub(rb'checksum="\d+"', f'checksum="{checksum}"'.encode(), other)
    for damaged in (whole[:5000], b"", b"\xff\xfe", TEMPLATE.encode(), other):
        (run / "index.html").write_bytes(damaged)
        page.save(run)
        assert (run / "index.html").read_bytes() == whole


@pytest.mark.parametrize("damage", [None, b"", b"\xff\xfe\x00", b"[1, 2", b'{"a": 1}'])
def test_what_is_damaged_or_not_there_is_done_without(run, damage):
    names = ["log.csv", "constants.json", "samples/epoch-001.png", "metrics.json"]
    page.save(run)
    epochs = {name: [1, 2] for name in names} | {names[2]: [2], names[1]: []}
    for name in names:
        make_run()
        (run / name).unlink(missing_ok=True)
        if damage is not None:
            (run / name).write_bytes(damage)
        page.save(run)
        assert [sheet["epoch"] for sheet in shown()["sheets"]] == epochs[name]
        assert len(shown()["rows"]) == 2 * (name != "log.csv")


def test_numbers_that_json_does_not_know_do_not_spoil_the_page(run):
    write_log(rows_of([float("nan"), float("inf")]))
    (run / "metrics.json").write_text('{"fid": NaN, "kid": 0.5}')
    page.save(run)
    assert [row["kid"] for row in shown()["rows"]] == [None, None]
    assert shown()["best"] is None
    assert shown()["metrics"] == {"fid": None, "kid": 0.5}
    assert not re.search(r"\b(NaN|Infinity)\b", json.dumps(shown()))


def test_of_many_epochs_some_are_shown_and_each_is_encoded_once():
    for most in (1, 7.5, 100):
        before = []
        for count in range(1, 300):
            epochs = range(1, count + 1)
            chosen = page.spread(epochs, most)
            assert {1, count} <= {*chosen}
            assert len(chosen) <= most + 2
            assert {*chosen[:-1]} <= {*before}
            before = chosen
    assert page.spread(range(1, 8), 7) == [1, 2, 3, 4, 5, 6, 7]
    assert page.spread([], 7) == []


def test_a_page_of_200_epochs_of_64_pixels_has_less_than_5_megabytes():
    sheet = Path(page.__file__).parents[2] / "weights/celeba-64/samples.png"
    most = page.PIXELS / (40 * 64**2)
    shown = [len(page.spread(range(1, count), most)) for count in range(1, 400)]
    assert max(shown) * len(page.encode(sheet, 64)) < 4.9e6
    assert shown[200] >= 50


def test_real_faces_are_shown_where_they_lie_and_are_no_part_of_the_page(run):
    Image.fromarray(faces_of(7)[0]).save(run / "nearest.png")
    write_json(run / "metrics.json", {"fid": 12.5, "protocol": {"fake": "10"}})
    page.save(run)
    assert shown()["nearest"]
    assert shown()["metrics"]["fid"] == 12.5
    picture = base64.b64encode((run / "nearest.png").read_bytes()).decode()
    assert picture[:60] not in (run / "index.html").read_text()


class Tags(html.parser.HTMLParser):
    """Takes down the tags of a page, and holds them to be closed in order."""

    VOID = ("meta", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, *attributes))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tags_of(text):
    """Return all tags of a page but for the checksum in one of them."""
    return Tags(re.sub(r'data-checksum="\d+"', "", text)).tags


def test_no_name_and_no_constant_becomes_a_part_of_the_page(here):
    run = f"runs/{HOSTILE}"
    make_run(run, DATA=HOSTILE, RUN=run)
    page.save(run)
    text = Path(run, "index.html").read_text()
    assert tags_of(text) == tags_of(TEMPLATE)
    assert HOSTILE not in text
    assert shown(run)["name"] == "script><img src=x onerror=alert(1)>"
    assert shown(run)["command"] == f"python generate.py --run '{run}'"
    assert shown(run)["constants"]["DATA"] == HOSTILE


def test_the_page_asks_for_nothing_from_elsewhere(run):
    page.save(run)
    text = (run / "index.html").read_text()
    assert set(re.findall(r"\w+://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'; img-src 'self' file: data:;" in text
    named = [fact for _, *facts in tags_of(text) for fact in facts]
    assert [value for name, value in named if name in ("src", "href")] == ["data:,"]


def make_again(*words):
    command = [sys.executable, "-m", "dcgan.runs.page", *words]
    path = str(Path(page.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_command_makes_the_page_of_an_older_run(run):
    made = make_again("runs/a")
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout == ("runs/a/index.html shows the run. Open it in a browser.\n")
    assert len(shown()["rows"]) == 2


def test_what_is_no_run_is_refused_in_a_line(here, monkeypatch):
    def refused(*words):
        monkeypatch.setattr("sys.argv", ["page", *words])
        with pytest.raises(SystemExit) as error:
            page.main()
        assert "\n" not in error.value.code
        return error.value.code

    Path("photos").mkdir()
    usage = "python -m dcgan.runs.page runs/celeba-64"
    for name in ("photos", "nowhere"):
        message = f"{name} is no run: there is no constants.json in it. As in: {usage}"
        assert refused(name) == message
    assert list(here.rglob("*")) == [here / "photos"]
    for words in ([], ["--help"], ["a", "b"]):
        assert refused(*words) == f"Say of which run: {usage}"


def test_a_page_that_cannot_be_written_is_told_of_in_a_line(run):
    (run / "index.html").mkdir()
    with pytest.raises(SystemExit, match="Cannot write runs/a/index"):
        page.save(run)


def test_only_a_page_that_is_there_is_renewed(run):
    page.renew(run)
    assert not (run / "index.html").exists()
    page.save(run)
    write_json(run / "metrics.json", {"fid": 12.5})
    page.renew(run)
    assert shown()["metrics"] == {"fid": 12.5}


@pytest.fixture(scope="module")
def chromium():
    """Start Chromium once for all tests."""
    chromium = Chromium()
    yield chromium
    chromium.close()


def seen(chromium, path, width, ready, anchor=""):
    """Return a page as it is once `ready`, a script's words, holds: see document()."""
    with Page(chromium, Path(path), width, anchor) as shown:
        document = shown.document(ready)
        assert shown.complaints == []
    return document


def says(text):
    return f"document.body.textContent.includes('{text}')"


@in_a_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_goes_through_the_epochs_and_shows_faces(run, chromium, width):
    make_run(scores=(0.5, None, 0.25), alarm="collapse")
    page.save(run, undecided=0.69)
    acts = f"<script>{ACTS.read_text()}</script></body>"
    text = (run / "index.html").read_text().replace("</body>", acts)
    (run / "acted.html").write_text(text)
    document = seen(chromium, run / "acted.html", width, "at('said')")
    written = re.search(r'<pre id="said">(.+?)</pre>', document)[1]
    said = json.loads(html.unescape(written))
    one = "epoch 1 of 3; 0.5,1.25,0.5,75.0 %,87.5 %,1"
    two = "epoch 2 of 3; 0.25,1.25,\N{EN DASH},75.0 %,87.5 %,1"
    three = "epoch 3 of 3; 0.167,1.25,0.25,75.0 %,87.5 %,1"
    assert said[:5] == [three, two, one, two, one]
    about, drawn, closed, *played = said[5:]
    assert about == ["Face 11, epoch 2", 3, "#epoch=2&face=10"]
    assert np.abs(np.array(drawn) - faces_of(2)[10, 9, 9]).max() < 12
    assert closed
    assert played == [two, three, one, three]
    assert "<dt>Finished</dt><dd>in 63 s<" in document
    assert re.search(r"<dt>Alarm</dt><dd><span[^>]*>collapse<", document)
    assert document.count(">collapse</text>") == 4  # a word in each chart
    assert document.count(">R1</text>") == 4
    # Lines: at the loss of a D that cannot tell, half right, as diverse as real faces
    assert document.count("</i>D cannot tell</span>") == 1
    assert document.count('class="reference"') == 3


@in_a_browser
def test_a_browser_takes_names_for_text_and_goes_back_to_its_place(here, chromium):
    run = f"runs/{HOSTILE}"
    make_run(run, DATA=HOSTILE)
    page.save(run)
    ready, place = says("Face 3, epoch 1"), "#epoch=1&face=2"
    document = seen(chromium, f"{run}/index.html", 900, ready, place)
    assert "<img" not in document.partition("<main>")[0]
    assert '<h1 id="name">script&gt;&lt;img src=x' in document
    assert ">epoch 1 of 2<" in document
    assert ">Face 3, epoch 1<" in document
    assert re.search(r"<dt>Time left</dt><dd>about \d+ s<", document)


@in_a_browser
def test_a_browser_shows_a_run_of_which_nearly_nothing_is_left(here, chromium):
    for name in ("constants.json", "log.csv", "samples/epoch-001.png"):
        make_run()
        kept = Path("runs/b", name)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(f"runs/a/{name}", kept)
        page.save("runs/b")
        seen(chromium, "runs/b/index.html", 900, says("generate.py --run runs/b"))
        shutil.rmtree("runs/b")


# In the last chart, of diversity: the epochs that each alarm lasts, the words above the
# curve, and how high that is
CURVE = """[
  [...document.querySelectorAll(".chart:last-child rect.alarm")].map(alarm => {
    const epoch = (alarm.parentElement.clientWidth - LEFT - RIGHT) / (last - first);
    return Math.round(alarm.width.baseVal.value / epoch);
  }),
  document.querySelectorAll(".chart:last-child text.alarmed").length,
  [...document.querySelector(".chart:last-child polyline").points].map(({ y }) => y),
]"""


def alarmed(alarms):
    """Return a row for each alarm; those where it is None drew no samples."""
    rows = rows_of([1 / n for n in range(1, len(alarms) + 1)])
    for row, alarm in zip(rows, alarms, strict=True):
        row["alarm"] = alarm or ""
        row["diversity"] = None if alarm is None else 1 / row["epoch"]
    return rows


@in_a_browser
@pytest.mark.parametrize(
    ("alarms", "spans"),
    [
        (["", "", *40 * ["collapse", None, None]], [118]),
        (["", *40 * ["collapse", None], *9 * ["collapse; D has won", None]], [97, 17]),
        (["", *3 * ["collapse", None], "", "collapse", None, ""], [5, 1]),
        (["", *40 * ["collapse", "", None]], 40 * [1]),
        (["", *20 * ["collapse", None, "D has won"], ""], 40 * [1]),
    ],
)
def test_many_alarms_leave_room_for_the_curves(run, chromium, alarms, spans):
    write_log(alarmed(alarms))
    page.save(run)
    with Page(chromium, run / "index.html", 390) as opened:
        opened.document(says("Losses"))
        found, words, (highest, *_, lowest) = opened.ask(CURVE)
        assert opened.complaints == []
    assert found == spans
    assert min(len(spans), 4) <= words <= len(spans)
    assert 0 < highest < lowest - 90 < 178 - 90  # y grows downwards


@in_a_browser
def test_a_page_that_someone_is_at_is_not_loaded_anew(run, chromium):
    page.save(run)
    catch = """loads = 0, navigation.onnavigate = event => {
      if (event.navigationType !== "reload") return;
      loads += 1;
      event.preventDefault();
    }"""
    look = "loads = touched = 0, lookForNews(), loads"
    tab = {"key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}
    click = {"button": "left", "clickCount": 1}
    with Page(chromium, run / "index.html") as opened:
        opened.document(says("Losses"))
        place = "at('faces').firstElementChild.getBoundingClientRect()"
        first = opened.ask(f"(({{ x, y }}) => ({{ x: x + 9, y: y + 9 }}))({place})")
        opened.ask(catch)
        assert opened.ask(look) == 1
        for kind in ("mousePressed", "mouseReleased"):
            opened.tell("Input.dispatchMouseEvent", type=kind, **first, **click)
        assert opened.ask("document.activeElement === at('faces').firstElementChild")
        assert opened.ask(look) == 1
        opened.tell("Input.dispatchKeyEvent", type="keyDown", **tab)
        assert opened.ask("document.activeElement === at('faces').children[1]")
        assert opened.ask(look) == 0
        opened.ask("document.activeElement.blur()")
        assert opened.ask(look) == 1
        opened.ask("getSelection().selectAllChildren(at('name'))")
        assert opened.ask(look) == 0


@in_a_browser
def test_an_address_that_is_pasted_into_the_open_page_is_gone_to(run, chromium):
    page.save(run)
    with Page(chromium, run / "index.html") as opened:
        opened.ask("location.hash = 'epoch=1&face=2'")
        assert ">epoch 1 of 2<" in opened.document(says("Face 3, epoch 1"))
        assert not opened.ask("at('one').hidden")
        opened.ask("location.hash = 'epoch=2&open=1'")
        opened.document("at('one').hidden && at('details').open")
        assert opened.ask("at('shown').textContent") == "epoch 2 of 2"
        assert opened.complaints == []
