"""The distribution that a crossentropy of Keras takes a label for."""

from __future__ import annotations

from typing import Any

from keras import ops, tree

from keras_swapout.arguments import checked_tensor, refusal
from keras_swapout.consistency.divergence import Head, outcomes
from keras_swapout.consistency.heads import is_of_keras, known_loss, setting

_SPARSE = "sparsecategoricalcrossentropy"
_CROSSENTROPIES = (_SPARSE, "categoricalcrossentropy", "binarycrossentropy")


def check_crossentropies(loss: Any) -> None:
    """Refuses losses, as `compile` takes them, of which the labels' distribution is not known.

    Raises:
        ValueError: one is none of Keras' own crossentropies.

    Example:

    >>> check_crossentropies({"a": "binary_crossentropy", "b": None})
    >>> check_crossentropies("mse")
    Traceback (most recent call last):
        ...
    ValueError: Argument `loss` must be Keras' own SparseCategoricalCrossentropy, ...
    """
    for one in tree.flatten(loss):
        if one is not None and not (is_of_keras(one) and known_loss(one) in _CROSSENTROPIES):
            raise refusal(
                ValueError,
                "loss",
                "Keras' own SparseCategoricalCrossentropy, CategoricalCrossentropy or "
                'BinaryCrossentropy (an object, its name or its function) for divergence="gjs", '
                "which takes its labels and its place in training",
                one,
            )


def distribution(labels: Any, outputs: Any, loss: Any, head: Head) -> Any:
    """Probabilities of every outcome along a last axis, as `log_probabilities` has its own.

    Args:
        labels: as `loss` takes them: ints, in any dtype, or probabilities.
        outputs: (batch, ...), what they are the labels of.
        loss: one that `check_crossentropies` lets pass. Its `label_smoothing` is in the result; a
            label of its `ignore_class` is some class.
        head: what the outputs are.

    Returns:
        float32: (batch, ..., classes), or (batch, ..., units, 2) for "sigmoid".

    Example:

    >>> loss = "sparse_categorical_crossentropy"
    >>> y = distribution([2, 0], ops.ones((2, 3)), loss, Head("softmax"))
    >>> ops.convert_to_numpy(y).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    labels = checked_tensor(labels, "y", "labels of each output that has a loss")
    if known_loss(loss) == _SPARSE:
        if len(labels.shape) == len(outputs.shape):
            labels = ops.squeeze(labels, head.axis)
        ignored = setting(loss, "ignore_class", None)
        if ignored is not None:
            labels = ops.where(ops.equal(labels, ops.cast(ignored, labels.dtype)), 0, labels)
        return ops.one_hot(ops.cast(labels, "int32"), outputs.shape[head.axis], dtype="float32")
    # A last axis of one may be missing on either side.
    labels = ops.reshape(ops.cast(labels, "float32"), ops.shape(outputs))
    y, smoothing = outcomes(labels, head), setting(loss, "label_smoothing", 0.0)
    return y * (1 - smoothing) + smoothing / y.shape[-1]
