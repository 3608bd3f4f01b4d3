"""The consistency stands beside a loss: weighed, masked and reduced as that loss does it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops, tree

from keras_swapout.consistency.heads import is_of_keras, loss_of

# What Keras makes of a function that is given as a loss; it has no public name.
_OfFunction = keras.losses.MeanSquaredError.__base__


def reduced(
    values: Any,
    loss: Any = None,
    labels: Any = None,
    prediction: Any = None,
    weight: Any = None,
    mask: Any = None,
    share: Any = 1,
) -> Any:
    """One number of the values of a batch, as a loss makes one of its own values.

    Where the loss has one value and there are several (binary labels, say), their mean counts.

    Args:
        values: (batch, ...).
        loss: what `compile` was given for this output; None: the mean.
        labels, prediction: what the loss is called with; None: it leaves nothing out.
        weight: sample weights as Keras takes them, or None.
        mask: of `prediction`, or None.
        share: the share of all samples that these are; a sum is one over all of them.

    Returns:
        a scalar: of "sum" the sum, of "mean_with_sample_weight" the mean by weight, else the mean.
        (Without a reduction Keras hands on the loss' values as they are, and the gradient is that
        of their sum: the mean, added to each of them, is in it the sum.)

    Example:

    >>> loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    >>> values, labels = ops.array([1.0, 5.0]), ops.array([2.0, -1.0])
    >>> float(reduced(values, loss, labels, prediction=ops.ones((2, 3)) / 3))
    1.0
    """
    loss = _loss_object(loss)
    reduction = "mean" if loss is None else loss.reduction
    masks = [] if mask is None else [mask]
    # A loss with a `__call__` of its own may have no values, and one that is a number hides them.
    if loss is not None and labels is not None and type(loss).call is not keras.losses.Loss.call:
        of_loss, left_out, its_mask = _looked_at(loss, labels, prediction)
        if rank := len(of_loss.shape):
            if len(values.shape) > rank:
                values = ops.mean(values, axis=tuple(range(rank, len(values.shape))))
            # A loss may have a value for each feature: left out is of which all are.
            features = tuple(range(len(values.shape), rank))
            if features and left_out is not None:
                left_out = ops.all(left_out, axis=features)
            if features and its_mask is not None:
                its_mask = ops.any(its_mask, axis=features)
            if its_mask is not None:
                masks.append(its_mask)
            if left_out is not None:
                values = ops.where(_along(left_out, values), 0, values)
    factors = [] if weight is None else [_along(ops.cast(weight, values.dtype), values)]
    if masks:
        factors.append(_valid(masks, values, reduction))
    weight = None
    for factor in factors:
        weight = factor if weight is None else weight * factor
    if weight is not None:
        weight = weight * ops.ones_like(values)
    if reduction in (None, "none"):
        return ops.mean(values if weight is None else values * weight)
    if reduction == "sum":
        values = values / ops.cast(share, values.dtype)
    # Keras' own, which also knows what a replica's share is.
    return Values("consistency", reduction)(values, values, sample_weight=weight)


class Values(keras.losses.Loss):
    """Values in a loss' place."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return y_pred


class MaskOf(keras.layers.Layer):
    """What Keras keeps as the mask of a tensor, or None: layers are told, and nobody else is."""

    def __init__(self) -> None:
        super().__init__(autocast=False)
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return inputs, mask

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        return None


def _loss_object(loss):
    loss = loss_of(loss)
    return loss if loss is None or isinstance(loss, keras.losses.Loss) else _OfFunction(loss)


def _looked_at(loss, labels, prediction):
    """The values of a loss, which of them it leaves out by itself, and its mask of them, or None.

    Compiled, nothing of it is computed but what depends on the labels.
    """

    def values_of(prediction):
        y, p = (
            tree.map_structure(lambda x: ops.convert_to_tensor(x, dtype=loss.dtype), x)
            for x in (labels, prediction)
        )
        return loss.call(y, p)

    prediction = ops.stop_gradient(prediction)
    values, mask = MaskOf()(values_of(prediction))
    if is_of_keras(loss):  # these mask what they leave out
        return values, None, mask
    # Left out is what is 0 whatever is predicted; a good prediction alone may make it 0 too.
    left_out = ops.logical_and(ops.equal(values, 0), ops.equal(values_of(1 - prediction), 0))
    return values, left_out, mask


def _valid(masks, values, reduction):
    """Factors of `values` by masks: of a mean, what is masked does not count in the number."""
    valid = ops.ones_like(values)
    for mask in masks:
        valid = valid * _along(ops.cast(mask, values.dtype), values)
    if reduction in ("mean", "sum_over_batch_size"):
        valid = valid * ops.cast(ops.size(valid), valid.dtype) / ops.maximum(ops.sum(valid), 1)
    return valid


def _along(factor, values):
    """`factor`, of the first axes of `values`, with as many axes."""
    if len(factor.shape) > len(values.shape):
        factor = ops.squeeze(factor, -1)
    missing = len(values.shape) - len(factor.shape)
    return ops.reshape(factor, (*ops.shape(factor), *(1,) * missing))
