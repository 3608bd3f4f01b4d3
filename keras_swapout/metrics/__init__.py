"""How good predictions are: agreement, calibration, and how uncertainty ranks mistakes.

`mean_two_way_kl`, `disagreement` and `spread` are functions on arrays; the others are
`keras.metrics.Metric`, for `model.compile(metrics=[...])` or on their own.
"""

from keras_swapout.metrics.agreement import disagreement, mean_two_way_kl, spread
from keras_swapout.metrics.calibration import (
    BrierScore,
    ExpectedCalibrationError,
    NegativeLogLikelihood,
)
from keras_swapout.metrics.ranking import (
    AreaUnderRiskCoverage,
    ErrorAUROC,
    OutOfDistributionAUROC,
)

__all__ = [
    "AreaUnderRiskCoverage",
    "BrierScore",
    "ErrorAUROC",
    "ExpectedCalibrationError",
    "NegativeLogLikelihood",
    "OutOfDistributionAUROC",
    "disagreement",
    "mean_two_way_kl",
    "spread",
]


def __dir__() -> list[str]:
    return __all__
