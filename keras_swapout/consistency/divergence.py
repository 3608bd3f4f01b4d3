"""How far apart the predictions of two views are.

All work in log space and in at least float32, so they and their gradients are finite for logits as
large as float16 holds.
"""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any

import keras
from keras import ops

from keras_swapout.arguments import checked, checked_flag, checked_tensor, one_of
from keras_swapout.consistency.jensen_shannon import (
    LABEL_WEIGHT,
    checked_label_weight,
    consistency_weight,
    js,
    kl,
    label_part,
)

__all__ = ["Head", "generalized_js", "log_probabilities", "two_way"]


def __dir__() -> list[str]:
    return __all__


@dataclasses.dataclass(frozen=True)
class Head:
    """What the numbers of an output mean.

    Attributes:
        distribution: "softmax", one of several classes along `axis`; "sigmoid", each number is a
            binary label of its own; None, no distribution.
        from_logits: whether they are logits, before the softmax or the sigmoid.
        axis: axis of the classes.

    Raises:
        TypeError, ValueError: an attribute is not as above.
    """

    distribution: str | None = "softmax"
    from_logits: bool = False
    axis: int = -1

    def __post_init__(self) -> None:
        if self.distribution is not None:
            one_of(self.distribution, ("softmax", "sigmoid"), "distribution")
        checked_flag(self.from_logits, "from_logits")
        checked(self.axis, numbers.Integral, "axis", "an int")


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
        TypeError: an argument has the wrong type. ValueError: `divergence` is unknown, or "kl" or
            "js" for an output that is no distribution.

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
    one_of(divergence, tuple(DIVERGENCES), "divergence")
    checked_flag(stop_gradient, "stop_gradient")
    head = Head() if head is None else checked(head, Head, "head", HEAD)
    a, b = _checked_pair(a, b)
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


def generalized_js(
    labels: Any, a: Any, b: Any, label_weight: float = LABEL_WEIGHT, head: Head | None = None
) -> Any:
    """The generalised Jensen-Shannon divergence of a label and two predictions of its sample.

        GJS = [pi KL(y || M) + (1 - pi)/2 KL(p || M) + (1 - pi)/2 KL(q || M)] / Z
        with M = pi y + (1 - pi)/2 p + (1 - pi)/2 q,  Z = -(1 - pi) log(1 - pi)

    It is bounded. Of p = q it goes to KL(y || p), the crossentropy of a one-hot label, as pi -> 0,
    and to 1 - p_y, half the absolute error, as pi -> 1; what p and q differ weighs more and more as
    pi -> 0.

    Args:
        labels: for "softmax" either classes, ints in [0, classes) of shape (batch, ...), that of
            `a` without the axis of the classes; or probabilities with the sum 1, floats of the
            shape of `a`. For "sigmoid" numbers in [0, 1] of the shape of `a`, in any dtype.
        a, b: outputs of the two views, of one shape (batch, ..., units).
        label_weight: pi, a number in (0, 1).
        head: what the outputs are; default softmax probabilities.

    Returns:
        float32 or more, one number for each distribution: (batch, ...) for "softmax",
        (batch, ..., units) for "sigmoid".

    Raises:
        TypeError: an argument has the wrong type. ValueError: it is out of range, the shapes do not
            fit, or the labels are ints of the outputs' shape, which may be classes or not.

    Example:

    >>> import numpy as np
    >>> a, b = np.array([[0.8, 0.1, 0.1]]), np.array([[0.4, 0.4, 0.2]])
    >>> round(float(generalized_js(np.array([0]), a, b)[0]), 4)
    0.6037
    >>> round(float(generalized_js(np.array([[1.0, 0.0, 0.0]]), a, b)[0]), 4)
    0.6037

    Source: Englesson, Azizpour 2021 (arXiv 2105.04522), with two predictions, which are there those
    of two augmentations.
    """
    label_weight = checked_label_weight(label_weight)
    a, b = _checked_pair(a, b)
    head = Head() if head is None else head
    log_a, log_b = log_probabilities(a, head), log_probabilities(b, head)
    y = _label_outcomes(checked_tensor(labels, "labels"), a, head)
    label = label_part(y, log_a, log_b, label_weight)
    return label + ops.cast(consistency_weight(label_weight), label.dtype) * js(log_a, log_b)


def log_probabilities(outputs: Any, head: Head) -> Any:
    """log p of every outcome, along a last axis: the classes, or (label is 1, label is 0).

    Args:
        outputs: logits or probabilities, as `head` says.
        head: what they are; `distribution` not None.

    Returns:
        float32 or float64: (batch, ..., classes), or (batch, ..., units, 2) for "sigmoid".

    Raises:
        TypeError: an argument has the wrong type. ValueError: `head` does not fit the outputs.

    Example:

    >>> import numpy as np
    >>> log_p = log_probabilities(np.array([[0.25]]), Head("sigmoid"))
    >>> np.round(ops.convert_to_numpy(ops.exp(log_p)), 6).tolist()
    [[[0.25, 0.75]]]
    """
    outputs = checked_tensor(outputs, "outputs")
    checked_distribution(head, len(outputs.shape))
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


def outcomes(labels: Any, head: Head) -> Any:
    """Probabilities as `head` has them, along a last axis as that of `log_probabilities`.

    Example:

    >>> ops.convert_to_numpy(outcomes(ops.array([[0.25]]), Head("sigmoid"))).tolist()
    [[[0.25, 0.75]]]
    """
    if head.distribution == "softmax":
        return ops.moveaxis(labels, head.axis, -1)
    return ops.stack([labels, 1 - labels], axis=-1)


def checked_distribution(head: Any, rank: int) -> Head:
    """`head`, or an error unless outputs of `rank` axes can be such a distribution."""
    expected = f"{HEAD} of a distribution along one of {rank} axes"
    return checked(
        head, Head, "head", expected, lambda h: h.distribution and -rank <= h.axis < rank
    )


def _checked_pair(a, b):
    a, b = checked_tensor(a, "a"), checked_tensor(b, "b")
    if not a.shape or not _fits(a.shape, b.shape):
        raise ValueError(
            "Arguments `a` and `b` must have one shape (batch, ..., units). "
            f"Received: a of shape {tuple(a.shape)} and b of shape {tuple(b.shape)}"
        )
    return a, b


def _label_outcomes(labels, outputs, head):
    """Probabilities of the labels that `generalized_js` takes."""
    dtype = keras.backend.standardize_dtype(labels.dtype)
    without = list(outputs.shape)
    classes = without.pop(head.axis)
    if head.distribution == "softmax" and "int" in dtype:
        if _fits(labels.shape, without):
            return ops.one_hot(labels, classes, dtype="float32")
    elif _fits(labels.shape, outputs.shape) and (
        head.distribution == "sigmoid" or "float" in dtype
    ):
        return outcomes(_at_least_float32(labels), head)
    whole = f"of shape {tuple(outputs.shape)}"
    expected = {
        "softmax": f"classes, ints of shape {tuple(without)}, or probabilities, floats {whole}",
        "sigmoid": f"numbers in [0, 1] {whole}",
    }
    raise ValueError(
        f"Argument `labels` must be {expected[head.distribution]}. "
        f"Received: labels of {dtype} and shape {tuple(labels.shape)}"
    )


def _fits(shape, other):
    """Whether two shapes may be one, as far as they are known."""
    return len(shape) == len(other) and all(
        m == n or None in (m, n) for m, n in zip(shape, other, strict=True)
    )


def _at_least_float32(x):
    return x if keras.backend.standardize_dtype(x.dtype) == "float64" else ops.cast(x, "float32")


def _mse(p, q):
    return ops.mean(ops.square(p - q), axis=-1)


HEAD = "a keras_swapout.divergence.Head"
DIVERGENCES = {"kl": kl, "js": js, "mse": _mse}
