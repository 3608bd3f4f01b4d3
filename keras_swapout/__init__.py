"""keras-swapout: Swapout and its relatives as Keras layers."""

from keras_swapout import datasets, layers, models, random, schedules
from keras_swapout._version import __version__

__all__ = ["__version__", "datasets", "layers", "models", "random", "schedules"]
