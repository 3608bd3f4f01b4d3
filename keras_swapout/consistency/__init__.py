"""Sub-models that are made to agree, and how far they do.

divergence.py   how far two predictions are apart
heads.py        what a network's outputs are: softmax or sigmoid, logits or not
rblock.py       `RBlock`, which trains for agreement
measure.py      `TrainInferenceConsistency`, which measures it
"""

from keras_swapout.consistency import divergence
from keras_swapout.consistency.measure import TrainInferenceConsistency
from keras_swapout.consistency.rblock import RBlock

__all__ = ["RBlock", "TrainInferenceConsistency", "divergence"]


def __dir__() -> list[str]:
    return __all__
