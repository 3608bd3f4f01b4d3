"""What `update_state` is given, checked and as one row per sample.

A label or a prediction that cannot be used is an error where its value is known. Inside a compiled
step it is not, and nothing can be raised: there it is NaN from here on, and so is the result, which
is seen. That takes no more time than looking for NaN does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from keras_swapout.arguments import checked_tensor

# Below log(1e-13), far above where float32 overflows: two finite logits can be 6e38 apart.
LOWEST_LOG_PROBABILITY = -1e30
LOWEST_PROBABILITY = 1e-7
# By how much probabilities may miss 0 and a sum of 1: a softmax in bfloat16 does by 0.006, and by
# 0.035 where its logarithm is what was rounded.
TOLERANCE = 0.05


def precision(dtype: str) -> str:
    """The dtype to compute and to add up in, for a metric of this dtype."""
    return "float64" if dtype == "float64" else "float32"


def class_scores(
    y_pred: Any, sample_weight: Any, from_logits: bool, dtype: str
) -> tuple[Any, Any, tuple[Any, ...]]:
    """`y_pred` as (samples, classes >= 2), `sample_weight` as (samples,), and the labels' shape.

    A row with a NaN anywhere is NaN everywhere, so that no maximum or label can hide it. So is one
    that is no distribution, unless it holds logits.

    Raises:
        ValueError: a shape does not fit, a weight is known to be below 0 or NaN, or a row that has
            a weight is known to be no distribution.
    """
    y_pred = ops.stop_gradient(ops.cast(checked_tensor(y_pred, "y_pred"), dtype))
    shape = tuple(y_pred.shape)
    classes = shape[-1] if len(shape) > 1 else len(shape)
    if not classes:
        raise ValueError(
            "Argument `y_pred` must have shape (n,) or (n, ..., classes) with a known number of "
            f"classes >= 1. Received: shape {shape}"
        )
    leading = tuple(ops.shape(y_pred))[: max(1, len(shape) - 1)]
    weight = weights(sample_weight, leading, dtype)
    rows = ops.reshape(y_pred, (-1, classes))
    if classes == 1:
        other = ops.zeros_like(rows) if from_logits else 1 - rows
        rows = ops.concatenate([other, rows], axis=-1)
    if from_logits:
        usable = ~ops.any(ops.isnan(rows), axis=-1)
    else:
        total = ops.sum(rows, axis=-1)
        usable = (ops.abs(total - 1) <= TOLERANCE) & (ops.min(rows, axis=-1) >= -TOLERANCE)
        known = _concrete(usable | (weight == 0) | ops.isnan(total))
        if known is not None and not known.all():
            wrong = _concrete(rows)[~known, -classes:]
            total = wrong.sum(axis=-1)
            raise ValueError(
                "Argument `y_pred` must hold probabilities, in [0, 1] and with a sum of 1 over the "
                "classes; a metric of logits is made with `from_logits=True`. Received: "
                f"{wrong.min():g} .. {wrong.max():g} among them, sums of {total.min():g} .. "
                f"{total.max():g}"
            )
    rows = _nan_unless(ops.expand_dims(usable, -1), rows, dtype)
    return rows, weight, leading


def probabilities(scores: Any, from_logits: bool) -> Any:
    return ops.softmax(scores, axis=-1) if from_logits else scores


def log_probabilities(scores: Any, from_logits: bool) -> Any:
    if from_logits:
        return ops.maximum(ops.log_softmax(scores, axis=-1), LOWEST_LOG_PROBABILITY)
    return ops.log(ops.clip(scores, LOWEST_PROBABILITY, 1.0))


def labels(y_true: Any, leading: tuple[Any, ...], classes: int, weight: Any, dtype: str) -> Any:
    """(samples,), the class of each as a float, NaN where there is none such.

    Raises:
        ValueError: the shape does not fit, or a label that has a weight is known to be none of
            0 .. classes - 1.
    """
    y_true = checked_tensor(y_true, "y_true")
    if _is_one_hot(y_true, leading, classes):
        rows = ops.cast(ops.reshape(y_true, (-1, classes)), dtype)
        label = ops.cast(ops.argmax(rows, axis=-1), dtype)
        return _nan_unless(~ops.any(ops.isnan(rows), axis=-1), label, dtype)
    label = ops.cast(per_sample(y_true, leading, "y_true"), dtype)
    valid = (label >= 0) & (label < classes) & (label == ops.floor(label))
    known, counts = _concrete(label), _concrete(valid | (weight == 0))
    if known is not None and counts is not None and not counts.all():
        wrong = known[~counts]
        raise ValueError(
            f"Argument `y_true` must hold whole numbers in 0 .. {classes - 1}. "
            f"Received: {wrong.min():g} .. {wrong.max():g} among them"
        )
    return _nan_unless(valid, label, dtype)


def targets(y_true: Any, leading: tuple[Any, ...], classes: int, weight: Any, dtype: str) -> Any:
    """(samples, classes), one-hot from labels, or as given. Raises as `labels`."""
    y_true = checked_tensor(y_true, "y_true")
    if _is_one_hot(y_true, leading, classes):
        return ops.cast(ops.reshape(y_true, (-1, classes)), dtype)
    label = ops.expand_dims(labels(y_true, leading, classes, weight, dtype), -1)
    one_hot = ops.cast(label == ops.arange(classes, dtype=dtype), dtype)
    return _nan_unless(~ops.isnan(label), one_hot, dtype)


def confidence(rows: Any, label: Any) -> tuple[Any, Any]:
    """Of (samples, classes) probabilities: 1 - the largest, and 1.0 where that is the label's.

    The first is the sum of the others: accurate also where it is far below the float's epsilon.
    """
    dtype = ops.dtype(rows)
    predicted = ops.expand_dims(ops.argmax(rows, axis=-1), -1)
    is_predicted = predicted == ops.arange(rows.shape[-1], dtype=ops.dtype(predicted))
    uncertainty = ops.sum(ops.where(is_predicted, ops.zeros_like(rows), rows), axis=-1)
    correct = ops.cast(ops.cast(predicted[:, 0], dtype) == label, dtype)
    return uncertainty, _nan_unless(~ops.isnan(label), correct, dtype)


def weights(sample_weight: Any, leading: tuple[Any, ...], dtype: str) -> Any:
    """(samples,), ones where there are no weights. One weight may stand for all of a row.

    Raises:
        ValueError: the shape does not fit, or a weight is known to be below 0 or NaN.
    """
    if sample_weight is None:
        return ops.reshape(ops.ones(leading, dtype), (-1,))
    weight = ops.cast(checked_tensor(sample_weight, "sample_weight"), dtype)
    known = _concrete(weight)
    if known is not None and not (known >= 0).all():
        raise ValueError(
            "Argument `sample_weight` must hold numbers >= 0. "
            f"Received: {known.min():g} .. {known.max():g} among them"
        )
    weight = _nan_unless(weight >= 0, weight, dtype)
    shape = tuple(weight.shape)
    if len(shape) == len(leading) + 1 and shape[-1] == 1:
        weight, shape = ops.squeeze(weight, -1), shape[:-1]
    if len(shape) > len(leading) or not _fit(shape, leading[: len(shape)], or_one=True):
        raise ValueError(
            "Argument `sample_weight` must have the shape of the labels, or of its first axes, "
            f"{_static(leading)}. Received: shape {shape}"
        )
    for _ in range(len(leading) - len(shape)):
        weight = ops.expand_dims(weight, -1)
    return ops.reshape(ops.broadcast_to(weight, leading), (-1,))


def per_sample(values: Any, leading: tuple[Any, ...], name: str) -> Any:
    """`values` as (samples,), of one value for each label."""
    values = checked_tensor(values, name)
    shape = tuple(values.shape)
    if not _fit(shape, leading) and not _fit(shape, (*leading, 1)):
        raise ValueError(
            f"Argument `{name}` must have shape {_static(leading)} or {(*_static(leading), 1)} "
            f"to fit `y_pred`. Received: shape {shape}"
        )
    return ops.reshape(values, (-1,))


def weighted(weight: Any, values: Any) -> Any:
    """weight * values, where no weight is 0 whatever the value: padding may be anything."""
    return ops.where(weight == 0, ops.zeros_like(values), weight * values)


def ratio(part: Any, whole: Any, nothing: float) -> Any:
    """part / whole, and `nothing` where whole is 0. NaN stays NaN."""
    empty = whole == 0
    value = part / ops.where(empty, ops.ones_like(whole), whole)
    return ops.where(empty, ops.cast(nothing, ops.dtype(value)), value)


def _is_one_hot(y_true, leading, classes):
    return classes > 1 and _fit(tuple(y_true.shape), (*leading, classes))


def _nan_unless(condition, values, dtype):
    return ops.where(condition, values, ops.cast(np.nan, dtype))


def _fit(shape, expected, or_one=False):
    return len(shape) == len(expected) and all(
        a == b or (or_one and a == 1) or not isinstance(a, int) or not isinstance(b, int)
        for a, b in zip(shape, expected, strict=True)
    )


def _static(shape):
    return tuple(size if isinstance(size, int) else None for size in shape)


def _concrete(tensor):
    """`tensor` as NumPy, or None inside a compiled step, where every backend has its own error."""
    try:
        return ops.convert_to_numpy(tensor)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return None
