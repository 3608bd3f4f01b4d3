"""The layers into a network that somebody has, and out of it again."""

from keras_swapout.surgery.dropouts import set_rates, swap_dropouts
from keras_swapout.surgery.find import Residual, Residuals, find_residuals
from keras_swapout.surgery.insert import block_ends, insert_after
from keras_swapout.surgery.strip import strip
from keras_swapout.surgery.swap import swap_residuals

__all__ = [
    "Residual",
    "Residuals",
    "block_ends",
    "find_residuals",
    "insert_after",
    "set_rates",
    "strip",
    "swap_dropouts",
    "swap_residuals",
]


def __dir__() -> list[str]:
    return __all__
