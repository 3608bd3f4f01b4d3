"""How good a classifier's logits are. Plain NumPy, no model and no backend."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_swapout.study.shapes import holds, many, maybe, number, share

BINS = 15
#: What `quality` returns.
QUALITY = holds(accuracy=share, nll=number, ece=share)
#: What `errors` returns, and `calibration_curve`.
ERRORS = holds(rmse=number, mae=number)
CURVE = holds(
    edges=many(share, BINS + 1),
    count=many(number, BINS),
    confidence=many(maybe(share), BINS),
    accuracy=many(maybe(share), BINS),
)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of samples whose largest logit is that of their label.

    Args:
        logits: (n, classes), finite.
        labels: (n,), ints in 0 .. classes - 1.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: the shapes do not fit, a logit is not finite, a label is out of range.

    Example:

    >>> accuracy(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0]))
    0.5
    """
    logits, labels = _checked(logits, labels)
    return float(np.mean(logits.argmax(axis=1) == labels))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log p_c = z_c - log sum_k exp z_k, finite for finite logits.

    Args:
        logits: (..., classes).

    Returns:
        Float64, the shape of `logits`.

    Example:

    >>> log_softmax(np.array([1000.0, 0.0])).tolist()
    [0.0, -1000.0]
    """
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the samples of -log p(label), the cross-entropy in nats.

    Args, Raises: as `accuracy`.

    Returns:
        A float >= 0. Computed from the logits, so a confident mistake is a large number, never
        infinity.

    Example:

    >>> round(negative_log_likelihood(np.array([[0.0, 0.0]]), np.array([1])), 4)
    0.6931
    """
    logits, labels = _checked(logits, labels)
    # max: a probability of 1 would otherwise give -0.0
    return max(0.0, float(-log_softmax(logits)[np.arange(len(labels)), labels].mean()))


def calibration_curve(
    logits: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> dict[str, list[Any]]:
    """Confidence against accuracy, in equal-width bins of confidence.

    Confidence is the largest predicted probability; bin i holds the samples with a confidence in
    (edges[i], edges[i + 1]].

    Args:
        logits, labels: as `accuracy`.
        bins: number of bins, an int >= 1.

    Returns:
        A dict of lists: "edges" (bins + 1), "count" (bins), and of each bin the mean "confidence"
        and the "accuracy" (bins), None where it is empty.

    Raises:
        ValueError: as `accuracy`; `bins` is not an int >= 1.

    Example:

    >>> curve = calibration_curve(np.array([[0.0, 0.0], [9.0, 0.0]]), np.array([0, 0]), bins=2)
    >>> curve["count"], curve["confidence"][0], curve["accuracy"][0]
    ([1, 1], 0.5, 1.0)

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, section 2.
    """
    logits, labels = _checked(logits, labels)
    if not isinstance(bins, int) or isinstance(bins, bool) or bins < 1:
        raise ValueError(f"Argument `bins` must be an int >= 1. Received: bins={bins!r}")
    confidence = np.exp(log_softmax(logits).max(axis=1))
    correct = logits.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)
    index = np.digitize(confidence, edges[1:-1], right=True)
    members = [index == i for i in range(bins)]
    return {
        "edges": edges.tolist(),
        "count": [int(member.sum()) for member in members],
        "confidence": [_mean(confidence[member]) for member in members],
        "accuracy": [_mean(correct[member]) for member in members],
    }


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """How far confidence is from accuracy, on average over the bins of `calibration_curve`.

        ECE = sum_i count_i / n * |accuracy_i - confidence_i|

    Args, Raises: as `calibration_curve`.

    Returns:
        A float in [0, 1].

    Example:

    >>> expected_calibration_error(np.array([[0.0, 0.0], [0.0, 0.0]]), np.array([0, 0]))
    0.5

    Source: Guo et al. 2017, section 2, equation 3; 15 bins as in its experiments.
    """
    curve = calibration_curve(logits, labels, bins)
    gaps = [
        count * abs(accuracy - confidence)
        for count, confidence, accuracy in zip(
            curve["count"], curve["confidence"], curve["accuracy"], strict=True
        )
        if count
    ]
    return sum(gaps) / len(labels)


def quality(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All three numbers of some logits: "accuracy", "nll" and "ece".

    Args, Raises: as `accuracy`.

    Example:

    >>> quality(np.array([[100.0, 0.0]]), np.array([0]))
    {'accuracy': 1.0, 'nll': 0.0, 'ece': 0.0}
    """
    return {
        "accuracy": accuracy(logits, labels),
        "nll": negative_log_likelihood(logits, labels),
        "ece": expected_calibration_error(logits, labels),
    }


def balanced(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measures that a large class does not decide: "balanced_accuracy" and "auroc".

        balanced accuracy = mean over classes of the accuracy on its samples
        AUROC = probability that a sample of a class has a larger p(class) than one of the others,
            ties counting half; of two classes that of class 1, of more the mean over classes

    Args, Raises: as `accuracy`; also ValueError: a class has no samples.

    Example:

    >>> logits = np.array([[2.0, 1.0], [3.0, 1.0], [3.0, 2.5], [1.0, 2.0]])
    >>> balanced(logits, np.array([0, 0, 1, 1]))
    {'balanced_accuracy': 0.75, 'auroc': 1.0}

    Source: `sklearn.metrics.balanced_accuracy_score` and `roc_auc_score` (one against the rest).
    """
    from sklearn import metrics

    logits, labels = _checked(logits, labels)
    p = np.exp(log_softmax(logits))
    return {
        "balanced_accuracy": float(metrics.balanced_accuracy_score(labels, logits.argmax(axis=1))),
        "auroc": float(
            metrics.roc_auc_score(
                labels, p[:, 1] if p.shape[1] == 2 else p, multi_class="ovr", average="macro"
            )
        ),
    }


def errors(predicted: np.ndarray, numbers: np.ndarray) -> dict[str, float]:
    """How far predicted numbers are from the right ones: "rmse" and "mae".

        rmse = sqrt(mean (p - y)^2),   mae = mean |p - y|

    Args:
        predicted, numbers: of one shape, finite, in the units of the labels.

    Raises:
        ValueError: the shapes differ, or a prediction is not finite.

    Example:

    >>> errors(np.array([1.0, 3.0]), np.array([1.0, 1.0]))["mae"]
    1.0
    """
    predicted, numbers = (np.asarray(x, np.float64) for x in (predicted, numbers))
    if predicted.shape != numbers.shape or not predicted.size:
        raise ValueError(
            "Arguments `predicted` and `numbers` must have one shape. "
            f"Received: {predicted.shape} and {numbers.shape}"
        )
    if not np.isfinite(predicted).all():
        raise ValueError("Argument `predicted` must be finite. Received: NaN or infinity")
    off = predicted - numbers
    return {"rmse": float(np.sqrt(np.mean(off**2))), "mae": float(np.abs(off).mean())}


def _mean(values):
    return float(values.mean()) if len(values) else None


def _checked(logits, labels):
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            "Arguments `logits` and `labels` must have shapes (n, classes) and (n,), n >= 1. "
            f"Received: {logits.shape} and {labels.shape}"
        )
    if not np.isfinite(logits).all():
        raise ValueError("Argument `logits` must be finite. Received: NaN or infinity")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"Argument `labels` must be in 0 .. {logits.shape[1] - 1}. "
            f"Received: {labels.min()} .. {labels.max()}"
        )
    return logits, labels
