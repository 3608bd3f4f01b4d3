"""What is measured of a prediction, and how a reader sees it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_swapout.inference import Prediction
from keras_swapout.study.measuring import scores
from keras_swapout.study.measuring.measure import Measure
from keras_swapout.study.shapes import Shape, both, holds, many, maybe, number

COVERAGES = 50  # points of a risk-coverage curve

PRIMARY = Measure(
    "corrupted_accuracy", "Accuracy under corruption", "corrupted.accuracy", unit="%", digits=1
)
#: What decides where there are no corruptions.
ACCURACY = Measure("accuracy", "Accuracy", "test.accuracy", unit="%", digits=1)
#: Of numbers to predict.
ERROR = Measure("mae", "Mean absolute error", "test.mae", higher_is_better=False)
CORRUPTED_ERROR = Measure(
    "corrupted_mae", "Mean absolute error under corruption", "corrupted.mae", higher_is_better=False
)
#: In the order of the table.
MEASURES = (
    ACCURACY,
    PRIMARY,
    ERROR,
    CORRUPTED_ERROR,
    Measure("rmse", "Root mean squared error", "test.rmse", higher_is_better=False),
    Measure("nll", "Negative log likelihood", "test.nll", higher_is_better=False),
    Measure(
        "corrupted_nll",
        "Negative log likelihood under corruption",
        "corrupted.nll",
        higher_is_better=False,
    ),
    Measure(
        "ece",
        "Calibration error",
        "test.ece",
        higher_is_better=False,
        unit="%",
        digits=1,
        note="expected calibration error, in 15 bins of equal width",
    ),
    Measure(
        "corrupted_ece",
        "Calibration error under corruption",
        "corrupted.ece",
        higher_is_better=False,
        unit="%",
        digits=1,
        terminal=False,
    ),
    Measure(
        "brier",
        "Brier score",
        "test.brier",
        higher_is_better=False,
        terminal=False,
        note="squared distance of the probabilities from the label, from 0 to 2",
    ),
    Measure(
        "aurc",
        "Error left after abstaining",
        "test.aurc",
        higher_is_better=False,
        unit="%",
        digits=2,
        terminal=False,
        note="area under the risk-coverage curve: the error rate among the images that are "
        "predicted, on average over how many of the least sure ones are left out; the uncertainty "
        "is the predictive entropy",
    ),
    Measure(
        "error_auroc",
        "Error detection",
        "test.error_auroc",
        unit="%",
        digits=1,
        terminal=False,
        note="area under the ROC curve of the predictive entropy as a detector of wrong "
        "predictions; 50 % is chance",
    ),
    Measure(
        "standard_error",
        "Standard error",
        "standard_error",
        higher_is_better=False,
        unit="%",
        digits=2,
        terminal=False,
        note="of the mean prediction of the sub-models, on average over images and classes: what "
        "another draw of the masks would change",
    ),
    Measure(
        "time",
        "Time ×",
        "time",
        higher_is_better=False,
        digits=2,
        note="per image, as a multiple of deterministic inference with the same model",
    ),
)
#: Those that are compared; for the answer the first one that there is.
COMPARED = tuple(
    {m.name: m for m in MEASURES}[name]
    for name in ("corrupted_accuracy", "corrupted_nll", "accuracy", "nll", "corrupted_mae", "mae")
)
DECIDE = (PRIMARY, ACCURACY, CORRUPTED_ERROR, ERROR)
#: What is kept of each image or, of numbers, sample, and the measure that it is averaged to.
BY_IMAGE = {"correct": "accuracy", "nll": "nll", "absolute": "mae"}


_MORE = holds(**dict.fromkeys(("brier", "aurc", "error_auroc"), number))


def clean_part(images: int, numbers: bool = False) -> Shape:
    """What `of_clean` returns for so many images, of classes or of numbers."""
    if numbers:
        return holds(test=scores.ERRORS, absolute=many(number, images))
    return holds(
        test=both(scores.QUALITY, _MORE),
        calibration=scores.CURVE,
        risk_coverage=holds(coverage=many(number, COVERAGES), risk=many(number, COVERAGES)),
        standard_error=maybe(number),
        correct=many(number, images),
        nll=many(number, images),
    )


def corrupted_part(images: int, severities: Iterable[int], numbers: bool = False) -> Shape:
    """What is kept of `of_corrupted` for so many images under a corruption."""
    if numbers:
        quality = holds(**dict.fromkeys(map(str, severities), scores.ERRORS))
        return holds(quality=quality, absolute=many(number, images))
    return holds(
        quality=holds(**dict.fromkeys(map(str, severities), scores.QUALITY)),
        correct=many(number, images),
        nll=many(number, images),
    )


def of_clean(prediction: Prediction, labels: np.ndarray) -> dict[str, Any]:
    """All that is measured on the clean images.

    Args:
        prediction: of n images, (n, classes) probabilities.
        labels: (n,), ints.

    Returns:
        A dict: "test", {"accuracy", "nll", "ece", "brier", "aurc", "error_auroc"}; "calibration", a
        `scores.calibration_curve`; "risk_coverage", {"coverage", "risk"}; "standard_error", the
        mean over images and classes, or None; and "correct" and "nll" of each image.

    Example:

    >>> from keras_swapout.inference import predict
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Softmax()])
    >>> found = of_clean(predict(model, np.array([[9.0, 0.0], [0.0, 1.0]])), np.array([0, 0]))
    >>> found["test"]["accuracy"], found["test"]["error_auroc"], found["correct"]
    (0.5, 1.0, [1, 0])
    """
    from keras_swapout import metrics

    p, entropy = prediction.mean, prediction.entropy
    parts = of_corrupted(prediction, labels)
    error = prediction.standard_error
    return {
        "test": parts["quality"]
        | {
            "brier": _result(metrics.BrierScore(), labels, p),
            "aurc": _result(metrics.AreaUnderRiskCoverage(), labels, p, uncertainty=entropy),
            "error_auroc": _result(metrics.ErrorAUROC(), labels, p, uncertainty=entropy),
        },
        "calibration": scores.calibration_curve(_logits(p), labels),
        "risk_coverage": risk_coverage(entropy, p.argmax(axis=1) != labels),
        "standard_error": None if error is None else float(np.mean(error)),
        "correct": parts["correct"],
        "nll": parts["nll"],
    }


def of_corrupted(prediction: Prediction, labels: np.ndarray) -> dict[str, Any]:
    """What is measured on corrupted images: "quality", and "correct" and "nll" of each image.

    Arguments as for `of_clean`. A probability of 0 counts as the smallest number of float32, so
    that the likelihood is finite.
    """
    logits = _logits(prediction.mean)
    rows = np.arange(len(labels))
    return {
        "quality": scores.quality(logits, labels),
        "correct": (logits.argmax(axis=1) == labels).astype(int).tolist(),
        "nll": (-scores.log_softmax(logits)[rows, labels]).tolist(),
    }


def numbers_of_clean(prediction: Prediction, labels: np.ndarray) -> dict[str, Any]:
    """As `of_clean`, of numbers: "test", {"rmse", "mae"}, and "absolute", the error of each sample.

    Args:
        prediction: of n samples, (n, ...).
        labels: the right numbers, of that shape.

    Example:

    >>> from keras_swapout.consistency.divergence import Head
    >>> from keras_swapout.inference import predict
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(2.0)])
    >>> prediction = predict(model, np.array([[1.0], [2.0]]), head=Head(None))
    >>> numbers_of_clean(prediction, np.array([[1.0], [4.0]]))["absolute"]
    [1.0, 0.0]
    """
    parts = numbers_of_corrupted(prediction, labels)
    return {
        "test": parts["quality"],
        "calibration": None,
        "risk_coverage": None,
        "standard_error": None,  # a share elsewhere; here it would be in the units of the labels
        "absolute": parts["absolute"],
    }


def numbers_of_corrupted(prediction: Prediction, labels: np.ndarray) -> dict[str, Any]:
    """As `of_corrupted`, of numbers: "quality" and "absolute"."""
    off = np.abs(prediction.mean.astype(np.float64) - labels)
    return {
        "quality": scores.errors(prediction.mean, labels),
        "absolute": off.reshape(len(off), -1).mean(axis=1).tolist(),
    }


def risk_coverage(uncertainty: np.ndarray, wrong: np.ndarray) -> dict[str, list[float]]:
    """The error rate among the least uncertain images, against their share.

    Args:
        uncertainty: (n,), the larger the less sure; ties stay in the order given.
        wrong: (n,), whether the prediction is.

    Returns:
        {"coverage", "risk"}: `COVERAGES` shares in (0, 1] and the error rates.

    Example:

    >>> curve = risk_coverage(np.array([0.3, 0.1, 0.2, 0.0]), np.array([1, 0, 0, 0], bool))
    >>> curve["coverage"][-1], curve["risk"][-1], curve["risk"][24]
    (1.0, 0.25, 0.0)
    """
    count = len(wrong)
    coverage = np.arange(1, COVERAGES + 1) / COVERAGES
    kept = np.ceil(coverage * count - 1e-9).astype(int)
    errors = np.cumsum(np.asarray(wrong)[np.argsort(uncertainty, kind="stable")])
    return {"coverage": coverage.tolist(), "risk": (errors[kept - 1] / kept).tolist()}


def _logits(p):
    return np.log(np.maximum(p, np.finfo(np.float32).tiny))


def _result(metric: keras.metrics.Metric, *args, **kwargs):
    metric.update_state(*args, **kwargs)
    return float(metric.result())
