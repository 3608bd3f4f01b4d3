"""How well the sub-models of a stochastic network agree with the network itself.

Plain NumPy on predictions. `keras_swapout.consistency` makes the predictions.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from keras_swapout.arguments import checked, checked_array
from keras_swapout.metrics.inputs import TOLERANCE


def mean_two_way_kl(full: Any, sub_models: Any, axis: int = -1) -> float:
    """Mean divergence between the full model's prediction and each sub-model's.

        mean over t and n of [KL(p_n || q_tn) + KL(q_tn || p_n)] / 2

    Args:
        full: log probabilities p of the full model, (n, ..., outcomes).
        sub_models: log probabilities q of T sub-models, (T, n, ..., outcomes).
        axis: axis of the outcomes, an int < 0: counted from the end, as `sub_models` have one more
            in front.

    Returns:
        A float >= 0, in nats.

    Raises:
        TypeError: an argument has the wrong type. ValueError: the shapes do not fit, a value is
            NaN, or the values are no log probabilities, whose exponentials sum to 1 (give or take
            0.05, for half precision).

    Example:

    >>> full, sub = np.log([[0.5, 0.5]]), np.log([[[0.9, 0.1]], [[0.5, 0.5]]])
    >>> round(mean_two_way_kl(full, sub), 4)
    0.2197

    Source: the term that R-Block (Wang, Hu 2023) trains, here between sub-model and full model.
    """
    full, sub_models = _checked(full, sub_models, axis)
    for name, values in (("full", full), ("sub_models", sub_models)):
        _check_logarithms(name, np.exp(np.minimum(values, 99)).sum(axis=axis), least=1)
    # p - q sums to zero, so this is both directions at once.
    both = (np.exp(full) - np.exp(sub_models)) * (full - sub_models)
    return float(both.sum(axis=axis).mean() / 2)


def disagreement(full: Any, sub_models: Any, axis: int = -1) -> float:
    """Share of predictions in which a sub-model's most likely outcome is not the full model's.

    Args, Raises: as `mean_two_way_kl`, but probabilities or logits will do as well.

    Returns:
        A float in [0, 1].

    Example:

    >>> disagreement([[0.6, 0.4]], [[[0.9, 0.1]], [[0.2, 0.8]]])
    0.5
    """
    full, sub_models = _checked(full, sub_models, axis)
    return float(np.mean(full.argmax(axis=axis) != sub_models.argmax(axis=axis)))


def spread(sub_models: Any) -> float:
    """Standard deviation of a predicted probability over the sub-models, on average.

        mean over n and outcomes of sqrt(1 / (T - 1) sum_t (q_tn - mean_t q_tn)^2)

    Args:
        sub_models: log probabilities of T >= 2 sub-models, (T, n, ..., outcomes).

    Returns:
        A float in [0, 0.71].

    Raises:
        TypeError: `sub_models` is no array. ValueError: fewer than two sub-models, or a value is
            NaN or above 0, as no log probability is.

    Example:

    >>> round(spread(np.log([[[0.5, 0.5]], [[0.7, 0.3]]])), 4)
    0.1414
    """
    sub_models = _numbers(sub_models, "sub_models")
    if len(sub_models.shape) < 2 or len(sub_models) < 2 or not sub_models.size:
        raise ValueError(
            "Argument `sub_models` must hold at least two sub-models, (T, n, ..., outcomes). "
            f"Received: shape {sub_models.shape}"
        )
    p = np.exp(np.minimum(sub_models, 99))
    _check_logarithms("sub_models", p, least=0)
    return float(p.std(axis=0, ddof=1).mean())


def _check_logarithms(name, p, least):
    """Whether exponentials are in [least, 1], give or take what half precision makes of them."""
    if p.min() < least - TOLERANCE or p.max() > 1 + TOLERANCE:
        what = "a sum of exponentials of 1" if least else "exponentials in [0, 1]"
        raise ValueError(
            f"Argument `{name}` must hold log probabilities, with {what}; of logits log_softmax "
            f"makes them. Received: {p.min():g} .. {p.max():g}"
        )


def _checked(full, sub_models, axis):
    full, sub_models = _numbers(full, "full"), _numbers(sub_models, "sub_models")
    if not full.shape or sub_models.shape[1:] != full.shape or not sub_models.size:
        raise ValueError(
            "Arguments `full` and `sub_models` must have shapes (n, ...) and (sub-models, n, ...). "
            f"Received: {full.shape} and {sub_models.shape}"
        )
    axes = range(-full.ndim, 0)
    checked(axis, numbers.Integral, "axis", f"an int in {[*axes]}", lambda n: n in axes)
    return full, sub_models


def _numbers(values, name):
    values = checked_array(values, name).astype(np.float64, copy=False)
    if np.isnan(values).any():
        raise ValueError(f"Argument `{name}` must not be NaN. Received: NaN in {name}")
    return values
