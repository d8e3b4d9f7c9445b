"""A page that draws by itself: in a browser its faces are those of Keras."""

import json
import re
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from PIL import Image

import models
from dcgan.networks import browser, export
from dcgan.networks.backend import keras, layers
from tests.chromium import Chromium, Page, in_a_browser
from tests.networks.narrow import apart, narrow, noise_of
from tests.runs import saved

HOSTILE = "</script><img src=x onerror=alert(1)>"

LARGE = [("dcgan", 128, 1), ("tutorial", 64, 3)]

# All kinds of networks, the sizes of which are drawn in different ways
NETWORKS = [
    *(("dcgan", 28, 3), ("dcgan", 32, 1), ("dcgan", 64, 3), ("blog", 28, 3)),
    *(pytest.param(each, marks=pytest.mark.slow) for each in LARGE),
]

# What a test does in the page: draw noise, and return red, green and blue of each pixel
DRAW = """(async () => {
  const drawn = [];
  for (const noise of %s) {
    const { data } = await draw(Float32Array.from(noise));
    drawn.push([...data].filter((_, n) => n %% 4 < 3));
  }
  return drawn;
})()"""


# Changes the address, and waits until the page has heard of it
GO = """new Promise(heard => {
  addEventListener("hashchange", heard, { once: true });
  location.hash = "%s";
}).then(() => Promise.all(busy.values())).then(() => null)"""

DATA = "canvas => [...canvas.getContext('2d').getImageData(0, 0, side, side).data]"

FACTS = {**saved.FACTS, "sha256": "5ab"}


@pytest.fixture(autouse=True)
def place(here):
    """Work in an empty folder."""


@pytest.fixture(scope="module")
def generator():
    return narrow()


@pytest.fixture(scope="module")
def chromium():
    """Start Chromium once for all tests."""
    chromium = Chromium()
    yield chromium
    chromium.close()


@pytest.fixture
def opened(chromium):
    """Export a generator as a page, and open it in a browser."""

    def open_page(model, width=1280, directions=()):
        export.save(model, "faces.html", FACTS, directions)
        return Page(chromium, Path("faces.html"), width)

    return open_page


def halved(model):
    """Return a generator whose kernels are rounded as the page's are."""
    model = export.plain(model)
    for variable in model.variables:
        if variable.name == "kernel":
            variable.assign(variable.numpy().astype("float16").astype("float32"))
    return model


def drawn_in(page, noise, side):
    """Return the faces (n, S, S, 3) uint8 that a page draws from noise (n, latent)."""
    drawn = page.ask(DRAW % json.dumps(noise.tolist()))
    return np.array(drawn, "uint8").reshape(-1, side, side, 3)


def faces_of(model, noise):
    """Return the faces (n, S, S, 3) uint8 that Keras draws; grey ones as the page's."""
    faces = models.draw(halved(model), noise)
    return np.broadcast_to(faces, (*faces.shape[:3], 3))


@in_a_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_ten_faces_as_keras_draws_them(opened, generator, width):
    with opened(generator, width) as page:
        page.ask("Promise.all(busy.values())")
        noise = page.ask("ten().map(face => [...noiseOf(face)])")
        shown = page.ask(f"[...document.querySelectorAll('canvas')].map({DATA})")
        wide = page.ask("document.documentElement.scrollWidth")
        about = page.ask("at('about').textContent")
        assert page.ask("at('trouble').textContent") == ""
        assert page.complaints == []
    pixels = np.array(shown, "uint8").reshape(-1, 28, 28, 4)
    assert (pixels[..., 3] == 255).all()
    faces = faces_of(generator, np.array(noise, "float32"))
    assert apart(pixels[:10, ..., :3], faces) <= 1
    assert (pixels[:10, ..., :3] != faces).mean() < 0.05
    assert apart(pixels[10], pixels[0]) == 0  # the large one
    assert faces.std() > 30
    assert wide == width  # nothing is cut off
    assert about == "dcgan, 28 x 28 · trained on 1,234 pictures of toys for 3 epochs"


@in_a_browser
@pytest.mark.parametrize("shape", NETWORKS, ids=str)
def test_every_network_draws_in_a_browser_as_in_keras(opened, shape):
    model = narrow(*shape)
    with opened(model) as page:
        pixels = drawn_in(page, noise_of(2), shape[1])
        assert page.complaints == []
    assert apart(pixels, faces_of(model, noise_of(2))) <= 1
    assert pixels.std() > 10


@in_a_browser
def test_layers_that_no_network_of_ours_has_are_drawn_as_in_keras(opened):
    def spread(filters, kernel, strides, padding, **options):
        return layers.Conv2DTranspose(filters, kernel, strides, padding, **options)

    model = keras.Sequential(
        [
            keras.Input((7,)),
            layers.Reshape((1, 1, 7)),
            spread(5, 3, 1, "valid", activation="relu"),  # 3 x 3
            spread(6, 3, 2, "same", use_bias=False),  # 6 x 6
            layers.BatchNormalization(center=False),
            layers.Activation("sigmoid"),
            layers.Conv2D(7, 4, 1, "valid", activation="leaky_relu"),  # 3 x 3
            layers.UpSampling2D((2, 3)),  # 6 x 9
            layers.Conv2D(6, (3, 2), (1, 2), "same"),  # 6 x 5
            layers.BatchNormalization(scale=False),
            layers.LeakyReLU(0.1),
            spread(5, (2, 5), (3, 4), "valid"),  # 18 x 21
            layers.Conv2D(3, 5, 2, "same"),  # 9 x 11
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(5 * 5 * 3, activation="tanh"),
            layers.Reshape((5, 5, 3)),
        ]
    )
    random = np.random.default_rng(3)
    for variable in model.variables:
        drawn = random.normal(size=variable.shape)
        if variable.dtype == "float32":
            variable.assign(drawn**2 if "variance" in variable.name else drawn / 2)
    noise = random.uniform(-1, 1, (3, 7)).astype("float32")
    with opened(model) as page:
        pixels = drawn_in(page, noise, 5)
    assert apart(pixels, faces_of(model, noise)) <= 1
    assert pixels.std() > 20


@in_a_browser
def test_weights_that_are_small_for_half_precision_count(opened):
    noise = keras.Input((100,))
    x = layers.BatchNormalization(epsilon=1e-9)(layers.Dense(48)(noise))
    model = keras.Model(noise, layers.Reshape((4, 4, 3))(layers.Activation("tanh")(x)))
    kernel = np.random.default_rng(4).normal(size=(100, 48))
    model.layers[1].kernel.assign(2e-5 * kernel)  # below 6e-5 halves are sparse
    model.layers[2].moving_variance.assign(np.full(48, 1e-8))
    with opened(model) as page:
        pixels = drawn_in(page, noise_of(2), 4)
    assert apart(pixels, faces_of(model, noise_of(2))) <= 1
    assert pixels.std() > 30


@pytest.mark.parametrize(
    ("layer", "fault"),
    [
        (layers.LayerNormalization(), "is none of Dense, Conv2D, "),
        (layers.Conv2D(4, 3, activation="gelu"), "has an activation that is none of"),
        (layers.Conv2D(4, 3, groups=2), "has groups, dilation or a padding"),
        (layers.Conv2DTranspose(4, 3, dilation_rate=2), "has groups, dilation or a"),
        (layers.Conv2DTranspose(4, 3, 2, output_padding=1), "has output_padding"),
        (layers.UpSampling2D(interpolation="bilinear"), "mixes pixels"),
        (layers.ReLU(6), "has a threshold or a largest value"),
        (layers.ReLU(threshold=1), "has a threshold or a largest value"),
        (layers.Dense(4), "stands in a picture"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_no_page_can_draw_is_refused_and_the_page_of_before_stays(layer, fault):
    noise = keras.Input((100,))
    model = keras.Model(noise, layer(layers.Reshape((5, 5, 4))(noise)))
    Path("faces.html").write_text("the page of before")
    line = f"No page can draw this: the layer {layer.name}, .+, {fault}"
    with pytest.raises(SystemExit, match=line) as refused:
        export.save(model, "faces.html", FACTS)
    assert "\n" not in refused.value.code
    assert Path("faces.html").read_text() == "the page of before"
    assert len(list(Path().iterdir())) == 1


def test_layers_that_do_not_follow_one_another_are_refused():
    noise = keras.Input((4,))
    branch = layers.Dense(4)(noise)
    model = keras.Model(noise, layers.ReLU()(noise) + branch)
    with pytest.raises(SystemExit, match="does not follow the layer before it"):
        export.save(model, "faces.html", FACTS)


def test_without_directions_the_first_layer_has_some(generator):
    export.save(generator, "faces.html", FACTS)
    found = held_in("faces.html")
    names = [each["name"] for each in found]
    vectors = np.array([each["vector"] for each in found])
    assert names == [f"direction {number}" for number in range(1, 6)]
    assert np.allclose(vectors @ vectors.T, np.eye(5), atol=1e-5)
    # No other direction of the noise changes the first layer's result as much
    kernel = generator.layers[1].kernel.numpy()
    largest = np.linalg.eigvalsh(kernel @ kernel.T)[::-1][:5]
    assert np.allclose(np.square(vectors @ kernel).sum(1), largest, rtol=1e-4)


def unit(count=6, latent=100):
    vectors = np.random.default_rng(2).normal(size=(count, latent))
    return (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype("float32")


def held_in(page):
    """Return the directions that a page on the disk has, [{"name", "vector"}]."""
    text = Path(page).read_text().partition('id="generator">')[2].partition("<")[0]
    return json.loads(text)["directions"]


def test_the_first_directions_that_are_handed_over_are_the_pages(generator):
    names = ["smile", "glasses", "age", "hair", "light", "hat"]
    export.save(generator, "six.html", FACTS, zip(names, unit(), strict=True))
    found = held_in("six.html")
    assert [each["name"] for each in found] == names[:5]
    assert np.allclose([each["vector"] for each in found], unit()[:5], atol=1e-8)
    export.save(generator, "two.html", FACTS, zip(names[:2], unit(2), strict=True))
    assert len(held_in("two.html")) == 2


@in_a_browser
def test_a_slider_turns_a_face_as_the_normal_distribution_says(
    chromium, opened, generator
):
    ways = [*zip(["smile", HOSTILE], unit(2), strict=True)]
    slide = """(async () => {
      await Promise.all(busy.values());
      at("faces").children[3].click();
      for (const [n, far] of [1.5, -2].entries()) {
        const slider = document.querySelectorAll("input[type=range]")[n];
        slider.value = far;
        slider.dispatchEvent(new Event("input"));
      }
      await busy.get(4);
      return [[...noiseOf(4)], at("sliders").innerText, location.hash];
    })()"""
    large = f"({DATA})(at('large'))"
    with opened(generator, directions=ways) as page:
        noise, words, address = page.ask(slide)
        data = page.ask(large)
        page.ask("at('back').click(), busy.get(4)")
        before = page.ask("[...drawn.get(4).data]")
        assert page.complaints == []
    normal = NormalDist()
    moved = [1.5, -2] @ unit(2)
    turned = [
        2 * normal.cdf(normal.inv_cdf((u + 1) / 2) + far) - 1
        for u, far in zip(noise, moved, strict=True)
    ]
    both = np.array([turned, noise], "float32")
    drawn = np.array([data, before], "uint8").reshape(2, 28, 28, 4)[..., :3]
    faces = faces_of(generator, both)
    assert apart(drawn, faces) <= 1
    assert apart(*faces) > 30
    assert words.split("\n") == ["smile", "1.5", HOSTILE, "-2.0"]
    assert address == "#face=4&turn=1.5+-2"
    with Page(chromium, Path("faces.html"), anchor=address) as page:
        page.ask("Promise.all(busy.values())")
        again = page.ask(large)
    assert again == data  # the address keeps the face


@in_a_browser
def test_ten_more_and_a_number_lead_to_other_faces(opened, generator):
    with opened(generator) as page:
        numbers = "at('more').click(), ten()"
        assert page.ask(numbers) == [*range(11, 21)]
        goes = (
            "at('number').value = %s, at('number').dispatchEvent(new Event('change'))"
        )
        page.ask(goes % 4294967290)
        assert page.ask("[chosen, ten().length]") == [4294967290, 10]
        page.ask(goes % 0)
        assert page.ask("chosen") == 4294967290  # there is no such face
        page.ask(goes % 37)
        labels = page.ask("[...at('faces').children].map(each => each.innerText)")
        assert labels == [str(number) for number in range(31, 41)]
        noise = np.array(page.ask("[...Array(200).keys()].map(n => [...noiseOf(n)])"))
        assert page.complaints == []
    assert len({each.tobytes() for each in noise}) == 200
    assert -1 <= noise.min() < -0.999 < 0.999 < noise.max() <= 1
    assert abs(noise.mean()) < 0.01
    assert np.abs(np.histogram(noise, 10, (-1, 1))[0] / noise.size - 0.1).max() < 0.01
    apart_from_each_other = np.corrcoef(noise[:50]) - np.eye(50)
    assert np.abs(apart_from_each_other).max() < 0.5


@in_a_browser
def test_faces_in_view_are_drawn_first_and_then_the_newest(opened, generator):
    with opened(generator) as page:
        page.ask("Promise.all(busy.values())")
        page.ask("idle.length = 1, drawn.clear()")  # one worker: one order
        more = "[1, 2, 3].forEach(() => at('more').click())"
        choose = "at('faces').children[4].click()"
        assert page.ask(f"{more}, {choose}, again.size") == 0  # asked for once
        page.ask("Promise.all(busy.values())")
        order = page.ask("[...drawn.keys()]")
    newest = [*range(31, 41)]
    assert order == [11, *newest, *range(30, 11, -1)]


@in_a_browser
def test_of_many_faces_those_in_view_and_the_last_are_kept(opened, generator):
    shown = f"[...at('faces').querySelectorAll('canvas')].map({DATA})"
    with opened(generator) as page:
        page.ask("Promise.all(busy.values())")
        before = page.ask(shown)
        page.ask("for (let n = 0; n < 12; n++) at('more').click()")
        page.ask("Promise.all(busy.values())")
        assert page.ask("ten().every(face => drawn.has(face)) && drawn.size") == 50
        assert not page.ask("drawn.has(1)")
        page.ask(GO % "face=1")
        assert page.ask(shown) == before  # drawn again


@in_a_browser
def test_an_address_that_is_pasted_into_the_open_page_is_gone_to(opened, generator):
    large = f"({DATA})(at('large'))"
    turned = "face=37&turn=1.5+0+-2+0+0"
    with opened(generator) as page:
        page.ask(GO % turned)
        assert page.ask("[chosen, turnOf(37).join(' ')]") == [37, "1.5 0 -2 0 0"]
        there = page.ask(large)
        page.ask(GO % "face=37")
        straight = page.ask(large)
        page.ask(GO % turned)
        assert page.ask(large) == there
        page.ask(GO % "face=0")
        assert page.ask("location.hash") == f"#{turned}"  # there is no such face
    assert there != straight


@in_a_browser
def test_the_page_knows_the_normal_distribution(opened, generator):
    normal = NormalDist()
    places = np.linspace(-5, 5, 201)
    shares = [1e-6, 0.001, 0.02425, 0.03, 0.3, 0.5, 0.7, 0.97, 0.98, 0.999999]
    with opened(generator) as page:
        below = page.ask(f"{places.tolist()}.map(below)")
        back = page.ask(f"{shares}.map(quantile)")
        ends = page.ask("[0, 1].map(quantile)")
    assert np.allclose(below, [normal.cdf(x) for x in places], atol=2e-7)
    assert np.allclose(back, [normal.inv_cdf(p) for p in shares], atol=1e-6)
    assert -7 < ends[0] < -5 < 5 < ends[1] < 7


@in_a_browser
def test_faces_are_saved_as_png(opened, generator):
    with opened(generator) as page:
        sheet = page.download("at('save-sheet').click()")
        face = page.download("at('faces').children[2].click(), at('save-face').click()")
        noise = page.ask("[[...noiseOf(1)], [...noiseOf(3)], [...noiseOf(9)]]")
        assert page.complaints == []
    faces = faces_of(generator, np.array(noise, "float32"))
    assert (sheet.name, face.name) == ("faces-1-10.png", "face-3.png")
    with Image.open(face) as image:
        assert image.format == "PNG"
        assert apart(np.asarray(image.convert("RGB")), faces[1]) <= 1
    with Image.open(sheet) as image:
        assert image.size == (5 * 140 + 4 * 2, 2 * 140 + 2)  # as generate.py's
        pixels = np.asarray(image.convert("RGB"))
    for row, column, drawn in ((0, 0, faces[0]), (142, 3 * 142, faces[2])):
        large = pixels[row : row + 140, column : column + 140].astype(float)
        small = large.reshape(28, 5, 28, 5, 3).mean((1, 3))
        assert np.corrcoef(small.ravel(), drawn.ravel())[0, 1] > 0.9


@in_a_browser
def test_the_faces_that_were_shown_at_the_click_are_those_that_are_saved(
    opened, generator
):
    more, save = "at('more').click()", "at('save-%s').click()"
    with opened(generator) as page:
        sheets = [page.download(f"{more}, {save % 'sheet'}, {more}")]
        page.ask("at('number').value = 11, at('number').onchange()")
        page.ask("Promise.all(busy.values())")
        sheets.append(page.download(save % "sheet"))
        face = page.download(f"{save % 'face'}, at('faces').children[5].click()")
        noise = page.ask("[[...noiseOf(11)]]")
    assert [sheet.name for sheet in sheets] == 2 * ["faces-11-20.png"]
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
    [drawn] = faces_of(generator, np.array(noise, "float32"))
    assert face.name == "face-11.png"
    with Image.open(face) as image:
        assert apart(np.asarray(image.convert("RGB")), drawn) <= 1


def test_the_page_asks_for_nothing_from_elsewhere_and_takes_no_name_for_a_tag(
    generator,
):
    data = {"name": HOSTILE, "count": 1}
    export.save(generator, "faces.html", {**FACTS, "data": data})
    text = Path("faces.html").read_text()
    assert "://" not in text
    assert "<img" not in text
    assert "default-src 'none'; img-src blob: data:;" in text
    held = json.loads(re.search(r'id="generator">([^<]+)<', text)[1])
    assert held["trained"] == f"trained on 1 pictures of {HOSTILE} for 3 epochs"
    template = Path(browser.__file__).with_suffix(".html").read_text()
    assert text.count("<") == template.count("<")
