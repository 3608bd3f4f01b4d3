"""The generalised Jensen-Shannon divergence of a label and two predictions, in its two parts.

    JS_w(p_1, ..., p_n) = sum_i w_i KL(p_i || sum_j w_j p_j)
    GJS = JS_(pi, (1 - pi)/2, (1 - pi)/2)(y, p, q) / Z,              Z = -(1 - pi) log(1 - pi)
        = JS_(pi, 1 - pi)(y, m) / Z  +  JS(p, q) / -log(1 - pi),     m = (p + q) / 2

Predictions are logs of probabilities along the last axis, as `log_probabilities` gives them.

Source: Englesson, Azizpour, "Generalized Jensen-Shannon divergence loss for learning with noisy
labels", NeurIPS 2021, arXiv 2105.04522: the divergence of a label and two predictions, its Z, and
the two parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from keras_swapout.arguments import checked_number

LABEL_WEIGHT = 0.5
_FLOAT32 = np.finfo("float32")


def checked_label_weight(value: Any) -> float:
    """`value` as a float, or an error unless it is a number in (0, 1), as a float32 too."""
    expected = "a number in (0, 1), and there as a float32"
    return checked_number(
        value, lambda n: 0 < n < 1 and _FLOAT32.tiny <= np.float32(n) < 1, "label_weight", expected
    )


def kl(p: Any, q: Any) -> Any:
    """KL(p || q) = sum_c p_c (log p_c - log q_c), of log probabilities.

    Example:

    >>> p, q = ops.log([[0.5, 0.5]]), ops.log([[0.1, 0.9]])
    >>> round(float(kl(p, q)[0]), 4)
    0.5108
    """
    return ops.sum(ops.exp(p) * (p - q), axis=-1)


def js(p: Any, q: Any, weight: Any = 0.5) -> Any:
    """JS_(w, 1 - w)(p, q) = w KL(p || M) + (1 - w) KL(q || M),  M = w p + (1 - w) q.

    Args:
        p, q: log probabilities, of one shape and dtype.
        weight: w, a number in (0, 1) or a scalar tensor of one.

    Example:

    >>> p, q = ops.log([[0.5, 0.5]]), ops.log([[0.1, 0.9]])
    >>> round(float(js(p, q)[0]), 4)
    0.1017
    """
    w = ops.cast(weight, p.dtype)
    rest = 1 - w
    of_p = ops.sum(ops.exp(p) * _log_mixture(w, rest, q - p), axis=-1)  # -KL(p || M)
    of_q = ops.sum(ops.exp(q) * _log_mixture(rest, w, p - q), axis=-1)
    return -(w * of_p + rest * of_q)


def label_part(y: Any, p: Any, q: Any, label_weight: Any) -> Any:
    """JS_(pi, 1 - pi)(y, (p + q) / 2) / Z: what a label asks of two predictions.

    Args:
        y: probabilities of the label, (..., outcomes).
        p, q: log probabilities of that shape.
        label_weight: pi, a number in (0, 1) or a scalar tensor of one.

    Example:

    >>> p = ops.log([[0.6, 0.4]])
    >>> round(float(label_part(ops.array([[1.0, 0.0]]), p, p, 0.5)[0]), 4)
    0.4729
    """
    # Not `logaddexp`: where both are equal, TensorFlow gives one of them all of the gradient.
    mean = ops.logsumexp(ops.stack([p, q]), axis=0) - ops.log(ops.cast(2.0, p.dtype))
    # The log of 0 has to be finite, as exp of it is 0.
    y = ops.log(ops.maximum(ops.cast(y, mean.dtype), float(_FLOAT32.tiny)))
    pi = ops.cast(label_weight, mean.dtype)
    return js(y, mean, pi) / ((pi - 1) * ops.log1p(-pi))


def consistency_weight(label_weight: Any) -> Any:
    """1 / -log(1 - pi), the factor of JS(p, q) in GJS.

    Example:

    >>> round(float(consistency_weight(ops.array(0.5))), 4)
    1.4427
    """
    return -1 / ops.log1p(-ops.cast(label_weight, "float32"))


def _log_mixture(own, other, ratio):
    """log(own + other * exp(ratio)), own + other = 1, with the digits that it has near 0."""
    beyond = other * ops.expm1(ops.minimum(ratio, 80.0))  # exp(80) is finite
    near = ops.abs(beyond) < 0.5
    far = ops.log(own) + ops.softplus(ops.log(other) - ops.log(own) + ratio)
    return ops.where(near, ops.log1p(ops.where(near, beyond, 0)), far)
