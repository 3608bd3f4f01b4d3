"""How far apart the predictions of two views are.

All work in log space and in at least float32, so they and their gradients are finite for logits as
large as float16 holds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops


class Head(NamedTuple):
    """What the numbers of an output mean.

    Attributes:
        distribution: "softmax", one of several classes along `axis`; "sigmoid", each number is a
            binary label of its own; None, no distribution.
        from_logits: whether they are logits, before the softmax or the sigmoid.
        axis: axis of the classes.
    """

    distribution: str | None = "softmax"
    from_logits: bool = False
    axis: int = -1


def two_way(
    a: Any, b: Any, divergence: str = "kl", head: Head | None = None, stop_gradient: bool = False
) -> Any:
    """The divergence between two predictions of the same samples, in both directions.

        [D(a, b) + D(b, a)] / 2,   with D(p, q)
        "kl":   KL(p || q) = sum_c p_c (log p_c - log q_c)
        "js":   KL(p || m) / 2 + KL(q || m) / 2,  m = (p + q) / 2;  at most log 2
        "mse":  mean of (p - q)^2 over the last axis, of the numbers as they are

    Args:
        a, b: outputs of the two views, of one shape (batch, ..., units).
        divergence: "kl", "js" or "mse".
        head: what the outputs are, for "kl" and "js"; default softmax probabilities. Probabilities
            below 1e-7 (in float16, 2**-14) count as that.
        stop_gradient: whether the first argument of each D is a constant: each view learns from the
            other as it is, the form of deep mutual learning. The value is the same.

    Returns:
        float32 or more, one number for each distribution: (batch, ...) for
        "softmax" and "mse", (batch, ..., units) for "sigmoid".

    Raises:
        ValueError: `divergence` is unknown, or "kl" or "js" for an output that is no distribution.

    Example:

    >>> import numpy as np
    >>> a, b = np.array([[4.0, 0.0]]), np.array([[0.0, 0.0]])
    >>> for divergence in ("kl", "js", "mse"):
    ...     value = two_way(a, b, divergence, Head("softmax", from_logits=True))
    ...     print(round(float(value[0]), 4))
    0.964
    0.1804
    8.0

    Source: R-Block (Wang, Hu 2023), the two-way KL term, as in R-Drop (Liang et al. 2021, equation
    1); with `stop_gradient` deep mutual learning (Zhang et al. 2018, section 2.2). "js" and "mse"
    are additions.
    """
    if divergence not in DIVERGENCES:
        raise ValueError(
            f"Argument `divergence` must be one of {tuple(DIVERGENCES)}. "
            f"Received: divergence={divergence!r}"
        )
    head = Head() if head is None else head
    if divergence == "mse":
        a, b = (_at_least_float32(x) for x in (a, b))
    elif head.distribution is None:
        raise ValueError(
            f"Argument `divergence={divergence!r}` needs outputs that are a distribution. "
            f"Received: head={head}"
        )
    else:
        a, b = (log_probabilities(x, head) for x in (a, b))
    constant = ops.stop_gradient if stop_gradient else (lambda x: x)
    measure = DIVERGENCES[divergence]
    return (measure(constant(a), b) + measure(constant(b), a)) / 2


def log_probabilities(outputs: Any, head: Head) -> Any:
    """log p of every outcome, along a last axis: the classes, or (label is 1, label is 0).

    Args:
        outputs: logits or probabilities, as `head` says.
        head: what they are; `distribution` not None.

    Returns:
        float32 or float64: (batch, ..., classes), or (batch, ..., units, 2) for "sigmoid".

    Example:

    >>> import numpy as np
    >>> log_p = log_probabilities(np.array([[0.25]]), Head("sigmoid"))
    >>> np.round(ops.convert_to_numpy(ops.exp(log_p)), 6).tolist()
    [[[0.25, 0.75]]]
    """
    outputs = ops.convert_to_tensor(outputs)
    # 1 / least is a gradient, which has to fit the dtype of the outputs.
    half = keras.backend.standardize_dtype(outputs.dtype) == "float16"
    least = 2.0**-14 if half else 1e-7
    outputs = _at_least_float32(outputs)
    if head.distribution == "softmax":
        outputs = ops.moveaxis(outputs, head.axis, -1)
        if head.from_logits:
            return ops.log_softmax(outputs)
        return ops.log(ops.clip(outputs, least, 1.0))
    if head.from_logits:
        return ops.stack([ops.log_sigmoid(outputs), ops.log_sigmoid(-outputs)], axis=-1)
    outputs = ops.clip(outputs, least, 1.0 - least)
    return ops.stack([ops.log(outputs), ops.log1p(-outputs)], axis=-1)


def _at_least_float32(x):
    x = ops.convert_to_tensor(x)
    return x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


def _kl(p, q):
    return ops.sum(ops.exp(p) * (p - q), axis=-1)


def _js(p, q):
    middle = ops.logaddexp(p, q) - ops.log(ops.cast(2.0, p.dtype))
    return (_kl(p, middle) + _kl(q, middle)) / 2


def _mse(p, q):
    return ops.mean(ops.square(p - q), axis=-1)


DIVERGENCES = {"kl": _kl, "js": _js, "mse": _mse}
