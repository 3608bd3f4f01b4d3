"""keras-swapout: Swapout, R-Block and their relatives for Keras."""

from typing import Any

from keras_swapout import (
    callbacks,
    datasets,
    divergence,
    inference,
    layers,
    metrics,
    models,
    random,
    schedules,
    views,
)
from keras_swapout._version import __version__
from keras_swapout.consistency import TrainInferenceConsistency
from keras_swapout.fork import fork
from keras_swapout.rblock import RBlock

__all__ = [
    "RBlock",
    "TrainInferenceConsistency",
    "__version__",
    "callbacks",
    "datasets",
    "divergence",
    "fork",
    "inference",
    "layers",
    "metrics",
    "models",
    "random",
    "schedules",
    "views",
]


def __getattr__(name: str) -> Any:
    if name != "tuning":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Not before it is asked for: it imports KerasTuner.
    import importlib

    return importlib.import_module("keras_swapout.tuning")
