"""Stochastic regularisation layers."""

from keras_swapout.layers.drop import Dropout, DropPath
from keras_swapout.layers.region import BDropDML, DropBlock2D, SDropDML
from keras_swapout.layers.swapout import ResidualDropout, SkipForward, StochasticDepth, Swapout

__all__ = [
    "BDropDML",
    "DropBlock2D",
    "DropPath",
    "Dropout",
    "ResidualDropout",
    "SDropDML",
    "SkipForward",
    "StochasticDepth",
    "Swapout",
]


def __dir__() -> list[str]:
    return __all__
