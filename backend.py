"""Keras, imported quietly and with a plain word if it is not there."""

import os

from script import UserError, quiet_stderr

# Take the GPU's memory as it is needed, so that generate.py can draw beside a training
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

with quiet_stderr():
    try:
        import keras
        from keras import layers, ops
    except ModuleNotFoundError as error:
        raise UserError(
            f"{error.name} is not installed. What Keras runs on is KERAS_BACKEND's "
            "choice; for its default: pip install -r requirements.txt"
        ) from error

__all__ = ["keras", "layers", "ops"]
