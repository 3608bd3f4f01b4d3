"""Image classification data, split and standardised the same way whatever the source.

`read` returns NumPy arrays, `load` wraps them in `tf.data`. Images are uint8, held in memory; those
of a folder that would take much of it stay in a file, as `Rows`.
"""

from keras_swapout.datasets.pipeline import Data, load, training_batches
from keras_swapout.datasets.sources import READERS, Source
from keras_swapout.datasets.splits import Arrays, Info, Split, read, stratified
from keras_swapout.datasets.stored import Rows

__all__ = [
    "READERS",
    "Arrays",
    "Data",
    "Info",
    "Rows",
    "Source",
    "Split",
    "load",
    "read",
    "stratified",
    "training_batches",
]


def __dir__() -> list[str]:
    return __all__
