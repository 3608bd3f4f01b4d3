"""keras-swapout: Swapout, R-Block and their relatives for Keras."""

from keras_swapout import (
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
