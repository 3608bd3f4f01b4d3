"""Sub-models that are made to agree, and how far they do.

divergence.py       how far two predictions are apart
jensen_shannon.py   of two predictions and a label
heads.py            what a network's outputs are: softmax or sigmoid, logits or not
targets.py          the distribution that a label stands for
terms.py            the terms of the loss that the outputs of two views make
rblock.py           `RBlock`, which trains for agreement
measure.py          `TrainInferenceConsistency`, which measures it
labels.py           `find_label_issues`: labels that a network trained so contradicts
"""

from keras_swapout.consistency import divergence
from keras_swapout.consistency.labels import LabelIssues, find_label_issues
from keras_swapout.consistency.measure import TrainInferenceConsistency
from keras_swapout.consistency.rblock import RBlock

__all__ = [
    "LabelIssues",
    "RBlock",
    "TrainInferenceConsistency",
    "divergence",
    "find_label_issues",
]


def __dir__() -> list[str]:
    return __all__
