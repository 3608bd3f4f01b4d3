"""How well the sub-models of a stochastic network agree with the network itself.

Plain NumPy on predictions. `keras_swapout.consistency` makes the predictions.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def mean_two_way_kl(full: Any, sub_models: Any, axis: int = -1) -> float:
    """Mean divergence between the full model's prediction and each sub-model's.

        mean over t and n of [KL(p_n || q_tn) + KL(q_tn || p_n)] / 2

    Args:
        full: log probabilities p of the full model, (n, ..., outcomes).
        sub_models: log probabilities q of T sub-models, (T, n, ..., outcomes).
        axis: axis of the outcomes.

    Returns:
        A float >= 0, in nats.

    Raises:
        ValueError: the shapes do not fit, or a value is NaN.

    Example:

    >>> full, sub = np.log([[0.5, 0.5]]), np.log([[[0.9, 0.1]], [[0.5, 0.5]]])
    >>> round(mean_two_way_kl(full, sub), 4)
    0.2197

    Source: the term that R-Block (Wang, Hu 2023) trains, here between sub-model and full model.
    """
    full, sub_models = _checked(full, sub_models)
    # p - q sums to zero, so this is both directions at once.
    both = (np.exp(full) - np.exp(sub_models)) * (full - sub_models)
    return float(both.sum(axis=axis).mean() / 2)


def disagreement(full: Any, sub_models: Any, axis: int = -1) -> float:
    """Share of predictions in which a sub-model's most likely outcome is not the full model's.

    Args, Raises: as `mean_two_way_kl`; probabilities or logits will do as well.

    Returns:
        A float in [0, 1].

    Example:

    >>> disagreement([[0.6, 0.4]], [[[0.9, 0.1]], [[0.2, 0.8]]])
    0.5
    """
    full, sub_models = _checked(full, sub_models)
    return float(np.mean(full.argmax(axis=axis) != sub_models.argmax(axis=axis)))


def spread(sub_models: Any) -> float:
    """Standard deviation of a predicted probability over the sub-models, on average.

        mean over n and outcomes of sqrt(1 / (T - 1) sum_t (q_tn - mean_t q_tn)^2)

    Args:
        sub_models: log probabilities of T >= 2 sub-models, (T, n, ..., outcomes).

    Returns:
        A float in [0, 0.71].

    Raises:
        ValueError: fewer than two sub-models, or a value is NaN.

    Example:

    >>> round(spread(np.log([[[0.5, 0.5]], [[0.7, 0.3]]])), 4)
    0.1414
    """
    _, sub_models = _checked(sub_models[0], sub_models)
    if len(sub_models) < 2:
        raise ValueError(
            "Argument `sub_models` must hold at least two sub-models. "
            f"Received: shape {sub_models.shape}"
        )
    return float(np.exp(sub_models).std(axis=0, ddof=1).mean())


def _checked(full, sub_models):
    full, sub_models = np.asarray(full, np.float64), np.asarray(sub_models, np.float64)
    if sub_models.shape[1:] != full.shape or not sub_models.size:
        raise ValueError(
            "Arguments `full` and `sub_models` must have shapes (n, ...) and (sub-models, n, ...). "
            f"Received: {full.shape} and {sub_models.shape}"
        )
    if np.isnan(full).any() or np.isnan(sub_models).any():
        raise ValueError("Arguments `full` and `sub_models` must not be NaN. Received: NaN")
    return full, sub_models
