"""What scale of inputs a trained network expects, found by trying each on samples it knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax

from keras_swapout.datasets.splits import KINDS, count

if TYPE_CHECKING:
    import keras

    from keras_swapout.datasets import Info
    from keras_swapout.study.task import Task

#: A network knows something of images where it is this part of the way from the commonest class to
#: no mistakes, or its loss is less than this part of that of the shares of the classes.
NEAR, BETTER = 0.2, 0.95
TRIED_IMAGES = 256
TEMPERATURES = 2.0 ** np.arange(-4, 8.5, 0.5)


def losses(
    model: keras.Model, task: Task, inputs: Any, labels: Any, info: Info, scales: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """(loss, accuracy) with each scale of the inputs; infinite and 0 for NaN.

    The loss is the negative log likelihood at the best temperature. As it is, it would choose the
    scale that makes a network as sure as it should be: of 24 small networks, 6 that had learnt for
    two epochs seemed to expect another scale than their own, at the best temperature none. Of
    numbers to predict it is the mean squared error, with an accuracy of 0. Of several outputs it is
    their sum.
    """
    from keras_swapout.inference import predict

    found = {}
    for scale in scales:
        scaled = dataclasses.replace(info, scale=scale).scaled(inputs)
        values = task.predicted(predict(model, scaled, head=task.heads, verbose=False))
        each = [_loss(*pair) for pair in zip(values, task.labels(labels), strict=True)]
        loss, accuracies = sum(one[0] for one in each), [one[1] for one in each]
        found[scale] = (loss, float(np.mean(accuracies))) if np.isfinite(loss) else (np.inf, 0.0)
    return found


def _loss(values, labels):
    if values.shape == labels.shape:  # numbers
        return float(np.mean((values - labels) ** 2)), 0.0
    values, labels = values.reshape(-1, values.shape[-1]).astype(np.float64), labels.reshape(-1)
    rows = np.arange(len(labels))
    tempered = [log_softmax(values / t, axis=1)[rows, labels] for t in TEMPERATURES]
    accuracy = float((values.argmax(axis=1) == labels).mean())
    return -float(max(one.mean() for one in tempered)) + 0.0, accuracy


def _guessing(labels, numbers):
    """(loss, accuracy) of always saying the same."""
    if numbers:
        return float(np.var(labels)), 0.0
    shares = np.bincount(labels.reshape(-1)) / labels.size
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum()), float(shares.max())


def found_scale(
    model: keras.Model,
    task: Task,
    inputs: Any,
    labels: Any,
    info: Info,
    scales: Sequence[str] | None = None,
) -> tuple[str, str]:
    """The scale with the lowest loss on samples that the network may know, and how it was found.

    Args:
        model: a trained network.
        task: what it predicts.
        inputs: raw, of n samples.
        labels: of these, as the data have them.
        info: of the data; "standardise" is by its mean and standard deviation.
        scales: which to try; None for all that there are for such inputs.

    Returns:
        The scale, and a line for the user.

    Raises:
        ValueError: with no scale it is better than guessing.
    """
    tried = losses(model, task, inputs, labels, info, scales or KINDS[info.kind])
    guesses = [
        _guessing(one, output.head.distribution is None)
        for one, output in zip(task.labels(labels), task.outputs, strict=True)
    ]
    entropy = sum(loss for loss, _ in guesses)
    commonest = float(np.mean([accuracy for _, accuracy in guesses]))
    best = min(tried, key=lambda scale: tried[scale][0])
    loss, accuracy = tried[best]
    what = "negative log likelihood, tempered," if task.classifies else "mean squared error"
    said = ", ".join(f"{scale} {value:.3g}" for scale, (value, _) in tried.items())
    said = f"{what} on {count(labels)} samples: {said}"
    near = task.classifies and accuracy - commonest >= NEAR * (1 - commonest)
    if loss > BETTER * entropy and not near:
        raise ValueError(
            f"Argument `scale` must be given: with none is {model.name!r} better than guessing. "
            f"Its {said}; guessing has {entropy:.3g}. One that is given is not doubted"
        )
    return best, f"scale: {best} ({said})"
