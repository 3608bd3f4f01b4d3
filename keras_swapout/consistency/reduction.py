"""The consistency stands beside a loss: weighed, masked and reduced as that loss does it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops, tree

from keras_swapout import backend
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

    Where the loss has one value and there are several (binary labels, say), their mean counts: of
    those that it does not leave out.

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
    # A loss with a `__call__` of its own may have no values.
    if loss is not None and labels is not None and type(loss).call is not keras.losses.Loss.call:
        values, masks_of_loss = _as_counted(values, loss, labels, prediction)
        masks += masks_of_loss
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


def _as_counted(values, loss, labels, prediction):
    """`values` with no more axes than the loss has, 0 where it leaves them out, and masks of them.

    Compiled, nothing of it is computed but what depends on the labels.
    """

    def values_of(prediction):
        y, p = (
            tree.map_structure(lambda x: ops.convert_to_tensor(x, dtype=loss.dtype), x)
            for x in (labels, prediction)
        )
        return loss.call(y, p)

    prediction = ops.stop_gradient(prediction)
    of_loss, mask = MaskOf()(values_of(prediction))
    rank = len(of_loss.shape)
    within = tuple(range(rank, len(values.shape)))  # axes over which the loss takes its own mean
    features = tuple(range(len(values.shape), rank))  # a loss may have a value for each
    masks = []
    if within and not is_of_keras(loss):
        counted = _counted(values_of, prediction, values)
        if rank:
            values = ops.sum(ops.where(counted, values, 0), axis=within)
            number = ops.sum(ops.cast(counted, values.dtype), axis=within)
            values = values / ops.maximum(number, 1)
        else:
            masks.append(counted)
    elif within and rank:
        values = ops.mean(values, axis=within)
    elif rank:
        # Left out is what is 0 whatever is predicted; a good prediction alone may make it 0 too.
        left_out = ops.logical_and(ops.equal(of_loss, 0), ops.equal(values_of(1 - prediction), 0))
        left_out = ops.all(left_out, axis=features) if features else left_out
        values = ops.where(left_out, 0, values)
    if mask is not None and rank:
        masks.append(ops.any(mask, axis=features) if features else mask)
    return values, masks


def _counted(values_of, prediction, values):
    """Of which `values` a loss that hides its own depends on the prediction."""
    # Not at 0 or 1, where a crossentropy of probabilities is clipped.
    elsewhere = 0.75 - prediction / 2
    slopes = [backend.gradient(values_of, x) for x in (prediction, elsewhere)]
    counted = ops.logical_or(*(ops.not_equal(slope, 0) for slope in slopes))
    if features := tuple(range(len(values.shape), len(counted.shape))):
        counted = ops.any(counted, axis=features)
    shapes = zip(counted.shape, values.shape, strict=False)
    if len(counted.shape) < len(values.shape) or any(
        a != b and None not in (a, b) for a, b in shapes
    ):
        return ops.ones_like(values, dtype="bool")  # of a divergence of one's own
    return counted


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
