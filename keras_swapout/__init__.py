"""keras-swapout: Swapout, R-Block and their relatives for Keras."""

from keras_swapout import datasets, layers, models, random, schedules
from keras_swapout._version import __version__
from keras_swapout.fork import fork

__all__ = ["__version__", "datasets", "fork", "layers", "models", "random", "schedules"]
