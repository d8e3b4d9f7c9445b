"""Keras, imported quietly and with a plain word if it is not there."""

import os

from dcgan.common.console import UserError, quiet_stderr

# Take the GPU's memory as it is needed, so that generate.py can draw beside a training
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

with quiet_stderr():
    try:
        import keras
        from keras import layers, ops
    except ModuleNotFoundError as error:
        chosen = os.environ.get("KERAS_BACKEND", "tensorflow")
        mend = "pip install -r requirements.txt"
        if error.name == chosen != "tensorflow":  # it comes with no requirements
            mend = f"pip install {chosen}; or, for TensorFlow, unset KERAS_BACKEND"
        raise UserError(f"{error.name} is not installed: {mend}") from error
    except Exception as error:  # a backend that is not known, or finds no device
        chosen = os.environ.get("KERAS_BACKEND", "tensorflow")
        line = " ".join(str(error).split())[:300]
        if "Key backend" in line:  # Keras imports Matplotlib, too
            shown = os.environ.get("MPLBACKEND")
            raise UserError(
                f"Matplotlib does not start with MPLBACKEND={shown}: {line}. Its "
                "default: unset MPLBACKEND"
            ) from error
        raise UserError(
            f"Keras does not start with KERAS_BACKEND={chosen}: {line}. Its default: "
            "KERAS_BACKEND=tensorflow. Keras reads ~/.keras/keras.json, too."
        ) from error

# Whatever the user's keras.json says
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)

__all__ = ["inferred", "keras", "layers", "on_cpu", "ops"]


def on_cpu():
    """Tell whether TensorFlow or JAX, whichever Keras runs on, has but a CPU."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "cpu"
    import tensorflow

    return not tensorflow.config.list_physical_devices("GPU")


def inferred(model, x):
    """Return model(x, training=False); on JAX by one program, kept with the model.

    Else JAX compiles each operation by itself, eighty for a face. Keras' own predict
    has one program, too, but gives the model's weights away while it computes.
    """
    if keras.backend.backend() != "jax":
        return model(x, training=False)
    import jax

    if not hasattr(model, "inference"):

        def call(trainable, others, x):
            return model.stateless_call(trainable, others, x, training=False)[0]

        model.inference = jax.jit(call)
    groups = model.trainable_variables, model.non_trainable_variables
    values = [[variable.value for variable in group] for group in groups]
    return model.inference(*values, x)
