"""A generator to take along: a file, or folder, that needs nothing of this suite.

By its name it is Keras' own (.keras), ONNX, TensorFlow Lite (.tflite), a SavedModel (a
folder), or a page that draws faces in a browser (.html, see browser.py). All but the
page map noise (n, LATENT) float32 in [-1, 1] to faces (n, S, S, C) float32 in [-1, 1],
of any n. Pixels are ((faces + 1) * 127.5).round().clip(0, 255) of that, as uint8.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from dcgan.common.console import UserError
from dcgan.common.files import check_new_folder, write_whole
from dcgan.common.options import typed
from dcgan.networks import browser
from dcgan.networks.backend import keras, layers, ops

ANYWHERE = dict.fromkeys(("tensorflow", "jax", "torch"), "keras")


class Format(NamedTuple):
    """A kind of file: how Keras calls it, what writes it and what reads it."""

    name: str  # for Model.export(); "" where that does not write it
    packages: dict  # {backend: the package that writes it there}
    reader: str


FORMATS = {
    ".keras": Format("", ANYWHERE, "keras.saving.load_model"),
    ".onnx": Format(
        "onnx", {"tensorflow": "tf2onnx", "jax": "jax2onnx"}, "ONNX Runtime"
    ),
    ".tflite": Format("litert", {"tensorflow": "tensorflow"}, "LiteRT"),
    "": Format("tf_saved_model", {"tensorflow": "tensorflow"}, "TensorFlow"),
    ".html": Format("", ANYWHERE, "a browser"),
}


def check(path):
    """Raise UserError, before anything is loaded, if no such file can be written."""
    ending, option = _ending(path), typed(export=path)
    if ending not in FORMATS:
        raise UserError(
            f"{option}: a generator is written as .keras, .onnx, .tflite or .html, or "
            "as a folder, whose name ends in /"
        )
    packages, backend = FORMATS[ending].packages, keras.backend.backend()
    if backend not in packages:
        raise UserError(
            f"{option} cannot be written on {backend}. Set KERAS_BACKEND=tensorflow; "
            "the weights are the same"
        )
    if not find_spec(packages[backend]):
        raise UserError(f"{option} needs a package: pip install {packages[backend]}")
    if ending == "":
        check_new_folder(path)


def save(generator, path, facts, directions=()):
    """Write a Keras model that draws faces as `path`, whole or not at all.

    facts: what is told of it; directions: as browser.save() takes (both for .html).
    Returns a line that says what was written. Raises UserError if it has layers that
    are no layers of Keras, or if it cannot be written.
    """
    model, ending = plain(generator), _ending(path)
    kind = FORMATS[ending]
    with write_whole(path) as part:
        try:
            if ending == ".html":
                browser.save(model, part, facts, directions)
            elif ending == ".keras":
                model.save(part)
            else:
                model(ops.zeros((1, model.input_shape[1])))  # Keras asks for it
                model.export(str(part), format=kind.name, verbose=False)
                if ending == ".onnx":
                    _take_in(part)
        except OSError:
            raise
        except Exception as error:  # what converters, of others, raise is anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"Cannot write {path}: {reason[:300]}") from error
    files = (Path(path), *Path(path).rglob("*"))
    size = sum(file.stat().st_size for file in files if file.is_file())
    return f"{path} ({size / 1e6:.1f} MB) is the generator, for {kind.reader}."


def _take_in(onnx_file):
    """Take the weights into an ONNX file that jax2onnx has laid beside it."""
    beside = onnx_file.with_name(f"{onnx_file.name}.data")
    if beside.exists():
        import onnx

        try:
            onnx.save_model(onnx.load(onnx_file), onnx_file)
        finally:
            beside.unlink()


def plain(generator):
    """Return a generator of Keras' own layers alone, with the weights of another.

    Ours have the names and the numbers of Keras' own (see layers.py), which any program
    knows that has Keras.
    """

    def own(layer):
        if not isinstance(layer, layers.Layer):  # a sum, say, which is Keras' own
            return layer
        kind = getattr(layers, type(layer).__name__, None)
        if kind is None:
            raise UserError(
                f"{type(layer).__name__} is no layer of Keras: a file with it could "
                "not be loaded without this suite."
            )
        config = layer.get_config()
        # Not our initializer, which other programs do not know: the file has weights
        config = {k: v for k, v in config.items() if not k.endswith("_initializer")}
        return kind.from_config(config)

    model = keras.models.clone_model(generator, clone_function=own)
    model.set_weights(generator.get_weights())
    return model


def _ending(path):
    """Return the ending that says the format; "" of a folder."""
    return "" if str(path).endswith("/") else Path(path).suffix.lower()
