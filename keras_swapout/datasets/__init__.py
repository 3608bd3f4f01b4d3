"""Image classification data, split and standardised the same way whatever the source.

`read` returns NumPy arrays, `load` wraps them in `tf.data`. Everything is held in memory as uint8.
"""

from keras_swapout.datasets.pipeline import Data, load, training_batches
from keras_swapout.datasets.sources import READERS, Source
from keras_swapout.datasets.splits import Arrays, Info, Split, read, stratified

__all__ = [
    "READERS",
    "Arrays",
    "Data",
    "Info",
    "Source",
    "Split",
    "load",
    "read",
    "stratified",
    "training_batches",
]


def __dir__() -> list[str]:
    return __all__
