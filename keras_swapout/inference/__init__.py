"""Prediction once or with many sub-models, and batch normalisation that fits what predicts.

predictor.py       `predict` and `Predictor`
prediction.py      `Prediction`: the mean of the samples and how sure it is
recalibration.py   `recalibrate_batch_norm`: statistics of the network without noise
batches.py         inputs of any structure in batches; moments.py, means that arrive in pieces
"""

from keras_swapout.inference.prediction import Prediction
from keras_swapout.inference.predictor import Predictor, predict
from keras_swapout.inference.recalibration import (
    batch_norm_statistics,
    recalibrate_batch_norm,
    restore_batch_norm,
)

__all__ = [
    "Prediction",
    "Predictor",
    "batch_norm_statistics",
    "predict",
    "recalibrate_batch_norm",
    "restore_batch_norm",
]


def __dir__() -> list[str]:
    return __all__
