"""Which labels a network contradicts: those that may be wrong, the most suspicious first."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_swapout.arguments import checked, checked_array, checked_count, refusal
from keras_swapout.consistency.divergence import Head
from keras_swapout.consistency.heads import heads
from keras_swapout.consistency.rblock import RBlock
from keras_swapout.submodels.sampling import AtInference

LABELS = "ints (n,), n >= 1, each a class"
PROBABILITIES = "numbers (n, classes) in [0, 1], each row with the sum 1, or (n, 1) of class 1"
MODEL = "a network with one output, of classes: softmax, or sigmoid of one unit"
#: By how much a row's sum may miss 1: rows of bfloat16 do by some thousandths.
LOOSE = 0.01


class LabelIssues(NamedTuple):
    """What `find_label_issues` returns: arrays over the n samples.

    Attributes:
        flags: bool, whether another class than the given one is predicted.
        suggested: int, the predicted class; the given one where that is as probable as any.
        self_confidence: float in [0, 1], the probability of the given label.
        margin: float in [-1, 1], that less the largest probability of another class.
        order: int, the indices of the samples by margin, the most suspicious first.
    """

    flags: np.ndarray
    suggested: np.ndarray
    self_confidence: np.ndarray
    margin: np.ndarray
    order: np.ndarray


def find_label_issues(
    labels: Any,
    probabilities: Any = None,
    *,
    model: keras.Model | None = None,
    x: Any = None,
    batch_size: int = 32,
) -> LabelIssues:
    """The labels that a network contradicts, by its predictions of the samples.

        self_confidence = p[y],   margin = p[y] - max_{c != y} p[c],   flag = margin < 0

    for a sample with probabilities p and label y. The threshold is 0, where the network stops
    predicting the given label: it needs no clean data to be chosen by, and no share of wrong labels
    to be known. To look at more or fewer, go through `order`.

    Which predictions: those of an R-Block on its own training samples, wrong labels and all, since
    two sub-models made to agree do not easily agree on what has to be learnt by heart, best the
    mean of those after each epoch (`keras_swapout.callbacks.AreaUnderMargin`); or those of any
    network on samples that it was not trained on. The predictions of a plain network on its own
    training samples say nothing: once it has memorised them, nothing is contradicted.

    Args:
        labels: (n,), ints in 0 .. classes - 1, as they were given.
        probabilities: (n, classes), each row with the sum 1; or (n, 1), those of class 1 of two.
        model: a network, or an `RBlock`, in place of them: one output, of classes, softmax or a
            sigmoid of one unit, as logits or probabilities, which its loss or its last activation
            tells.
        x: with `model`, the n inputs, scaled as it expects them.
        batch_size: with `model`, samples at a time, an int >= 1.

    Raises:
        TypeError: an argument has the wrong type. ValueError: it is out of range, or NaN; both of
            `probabilities` and `model` are given, or neither; `model` without `x`, or its output is
            something else.

    Example:

    >>> issues = find_label_issues([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    >>> issues.flags.tolist(), issues.suggested.tolist()
    ([False, False, True], [0, 1, 0])
    >>> issues.margin.round(1).tolist(), issues.order.tolist()
    ([0.8, 0.6, -0.4], [2, 1, 0])

    Source: self-confidence and normalised margin as in Northcutt, Jiang, Chuang (2021, "Confident
    learning", section 3), there of out-of-sample probabilities and with a threshold for each class;
    that the training predictions of one R-Block are enough is ours.
    """
    labels = checked_labels(labels, "labels")
    if (probabilities is None) == (model is None) or (model is None) != (x is None):
        given = [
            n
            for n, v in (("probabilities", probabilities), ("model", model), ("x", x))
            if v is not None
        ]
        raise ValueError(
            "Argument `probabilities` must be given, or else both `model` and `x`. Received: "
            + (" and ".join(given) or "none of them")
        )
    if model is None:
        p = _checked_probabilities(probabilities)
    else:
        batch_size = checked_count(batch_size, "batch_size")
        p = softmax(ClassLogits(model)(x, batch_size))
    margin = margins(p, labels, "labels")
    flags = margin < 0
    return LabelIssues(
        flags=flags,
        suggested=np.where(flags, p.argmax(axis=1), labels),
        self_confidence=p[np.arange(len(p)), labels],
        margin=margin,
        order=np.argsort(margin, kind="stable"),
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (n, classes) of logits.

    Example:

    >>> softmax(np.array([[1000.0, 1000.0]])).tolist()
    [[0.5, 0.5]]
    """
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def margins(values: np.ndarray, labels: np.ndarray, name: str) -> np.ndarray:
    """The value of the given class less the largest of another.

    Args:
        values: (n, classes), probabilities or logits.
        labels: (n,), from `checked_labels`.
        name: what messages call them.

    Raises:
        ValueError: there are more labels, or fewer, or one is no class.

    Example:

    >>> margins(np.array([[2.0, 5.0, 1.0]]), np.array([2]), "labels")
    array([-4.])
    """
    number, classes = values.shape
    if len(labels) != number:
        raise ValueError(
            f"Argument `{name}` must be one for each of the {number} predictions. "
            f"Received: {len(labels)}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"Argument `{name}` must be ints in 0 .. {classes - 1}. "
            f"Received: {labels.min()} .. {labels.max()}"
        )
    given = np.arange(classes) == labels[:, None]
    return values[given] - np.where(given, -np.inf, values).max(axis=1)


def checked_labels(labels: Any, name: str) -> np.ndarray:
    """`labels` as an array, or an error unless they are ints (n,)."""
    array = checked_array(labels, name, LABELS)
    if array.dtype.kind not in "iu":
        raise refusal(TypeError, name, LABELS, labels)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"Argument `{name}` must be {LABELS}. Received: shape {array.shape}")
    return array.astype(np.int64)


def _checked_probabilities(probabilities):
    p = checked_array(probabilities, "probabilities", PROBABILITIES).astype(np.float64)
    if p.ndim != 2 or 0 in p.shape:
        raise ValueError(
            f"Argument `probabilities` must be {PROBABILITIES}. Received: shape {p.shape}"
        )
    if p.shape[1] == 1:
        p = np.concatenate([1 - p, p], axis=1)
    # Written so that NaN, which compares false with everything, is refused too.
    wrong = ~((p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) <= LOOSE))
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(
            f"Argument `probabilities` must be {PROBABILITIES}. Received: {wrong.sum()} rows that "
            f"are not, the first of them row {first}, {p[first].tolist()}"
        )
    return p


class ClassLogits:
    """What a network says of each class without noise: logits, or the log of probabilities.

    Args:
        model: a network, or an `RBlock`, of one output: softmax, or a sigmoid of one unit, which is
            two classes, the first with the logit 0.

    Raises:
        TypeError: `model` is no network. ValueError: its output is something else.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, "sigmoid", False)])
    >>> model.set_weights([np.array([[2.0]])])
    >>> ClassLogits(model)(np.array([[1.0], [-1.0]]), batch_size=2).round(3).tolist()
    [[0.0, 2.0], [0.0, -2.0]]
    """

    def __init__(self, model: keras.Model) -> None:
        checked(model, keras.Model, "model", MODEL)
        self.model = model
        network = model.model if isinstance(model, RBlock) else model
        found = heads(network, model)
        if len(found) != 1 or found[0].distribution is None:
            raise refusal(ValueError, "model", MODEL, model)
        self.head: Head = found[0]
        self._inference = AtInference(network)

    def __call__(self, x: Any, batch_size: int) -> np.ndarray:
        """(n, classes), float64.

        Args:
            x: n inputs.
            batch_size: samples at a time.

        Raises:
            ValueError: the output has another shape than (n, classes), or NaN.
        """
        outputs = self._inference.predict(x, batch_size=batch_size, verbose=0)
        (outputs,) = keras.tree.flatten(outputs)
        outputs = ops.convert_to_numpy(ops.cast(outputs, "float32")).astype(np.float64)
        binary = self.head.distribution == "sigmoid"
        if outputs.ndim != 2 or (outputs.shape[1] == 1) != binary:
            raise ValueError(
                f"Argument `model` must be {MODEL}. Received: {self.model.name!r}, with "
                f"{self.head.distribution} outputs of shape {outputs.shape}"
            )
        if np.isnan(outputs).any():
            raise refusal(ValueError, "x", "inputs whose predictions are not NaN", x)
        if not self.head.from_logits:
            if binary:
                outputs = np.concatenate([1 - outputs, outputs], axis=1)
            outputs = np.log(np.maximum(outputs, np.finfo(np.float32).tiny))
            return outputs - outputs[:, :1] if binary else outputs
        return np.concatenate([np.zeros_like(outputs), outputs], axis=1) if binary else outputs
