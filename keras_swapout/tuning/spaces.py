"""Search spaces: plain calls of a `keras_tuner.HyperParameters`, for anybody's build function."""

from __future__ import annotations

import math
from typing import Any

from keras_swapout import schedules
from keras_swapout.arguments import checked_count, checked_number, one_of
from keras_swapout.schedules import probability

KINDS = ("linear", "constant", "stage")

Range = tuple[float, float]


def theta_schedule(
    hp: Any,
    num: int,
    name: str = "theta",
    kind: str = "linear",
    theta: float | Range = (0.3, 1.0),
    start: float | Range = 1.0,
    stages: int = 3,
    step: float | None = None,
) -> list[float]:
    """Keep probabilities of the blocks of a network, to be searched.

        "linear":    theta_i = start + (theta - start) i / (num - 1);   searches `<name>_stop`, and
                     `<name>_start` if `start` is a range
        "constant":  theta_i = theta;   searches `<name>`
        "stage":     one theta for each of `stages` parts of the network;   searches
                     `<name>_stage_1`, `<name>_stage_2`, ...

    Args:
        hp: a `keras_tuner.HyperParameters`.
        num: number of blocks, an int >= 1.
        name: of the hyperparameters, or what their names begin with.
        kind: "linear", "constant" or "stage".
        theta: probability of KEEPING, for "linear" in the last block: a range (low, high) in
            [0, 1], or a number, which is not searched.
        start: for "linear" the probability in the first block: a number or a range.
        stages: for "stage", number of parts of equal length, an int in 1 .. num.
        step: distance of the values to try, or None for any; a grid search needs it.

    Returns:
        `num` floats.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Example:

    >>> import keras_tuner
    >>> hp = keras_tuner.HyperParameters()
    >>> theta_schedule(hp, 3, name="theta_2", theta=(0.4, 1.0))  # a value not yet chosen is high
    [1.0, 1.0, 1.0]
    >>> hp.values["theta_2_stop"] = 0.5
    >>> theta_schedule(hp, 3, name="theta_2", theta=(0.4, 1.0))
    [1.0, 0.75, 0.5]

    Source: Swapout (Singh, Hoiem, Forsyth 2016), section 4, tries constant and Linear(a, b).
    """
    one_of(kind, KINDS, "kind")
    if kind == "constant":
        return schedules.constant(_keep(hp, name, theta, step, "theta"), num)
    if kind == "linear":
        first = _keep(hp, f"{name}_start", start, step, "start")
        return schedules.linear(first, _keep(hp, f"{name}_stop", theta, step, "theta"), num)
    if checked_count(stages, "stages") > checked_count(num, "num"):
        raise ValueError(f"Argument `stages` must be at most num={num}. Received: stages={stages}")
    parts = range(1, stages + 1)
    values = [_keep(hp, f"{name}_stage_{part}", theta, step, "theta") for part in parts]
    return schedules.per_stage(values, num)


def drop_rate(
    hp: Any,
    name: str = "rate",
    rate: float | Range = (0.0, 0.5),
    step: float | None = None,
) -> float:
    """A drop rate, to be searched.

    Args:
        hp: a `keras_tuner.HyperParameters`.
        name: of the hyperparameter.
        rate: probability of DROPPING: a range (low, high) in [0, 1), or a number.
        step: distance of the values to try, or None for any.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Example:

    >>> import keras_tuner
    >>> drop_rate(keras_tuner.HyperParameters(), rate=(0.1, 0.4))
    0.1
    """
    low, high = _range(rate, "rate", _below_one)
    if low == high:
        return low
    return hp.Float(name, low, high, step=_checked_step(step, high - low), default=low)


def block_size(
    hp: Any, name: str = "block_size", block_size: int | tuple[int, int] = (2, 7), step: int = 1
) -> int:
    """The side of a region layer's blocks, to be searched.

    Args:
        hp: a `keras_tuner.HyperParameters`.
        name: of the hyperparameter.
        block_size: a range (low, high) of ints >= 1, both included, or one int.
        step: distance of the values to try, an int >= 1.

    Raises:
        ValueError: an argument is not as above.

    Example:

    >>> import keras_tuner
    >>> block_size(keras_tuner.HyperParameters(), block_size=(3, 7), step=2)
    3
    """
    low, high = _range(block_size, "block_size", checked_count)
    if low == high:
        return low
    return hp.Int(name, low, high, step=checked_count(step, "step"), default=low)


def alpha(hp: Any, name: str = "alpha", alpha: float | Range = (0.03, 3.0)) -> float:
    """The weight of R-Block's consistency term, to be searched on a logarithmic scale.

    Args:
        hp: a `keras_tuner.HyperParameters`.
        name: of the hyperparameter.
        alpha: a range (low, high) of numbers > 0, or a number >= 0.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Example:

    >>> import keras_tuner
    >>> alpha(keras_tuner.HyperParameters(), alpha=(0.1, 1.0))
    0.1
    """
    low, high = _range(alpha, "alpha", _weight)
    if low == high:
        return low
    if low == 0:
        raise ValueError(
            "Argument `alpha` must be a range of numbers > 0, as its scale is logarithmic. "
            f"Received: alpha={alpha}"
        )
    return hp.Float(name, low, high, sampling="log", default=low)


def _range(value, name, check):
    """(low, high) of a range or a number, each checked by `check(value, name)`."""
    low, high = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
    low, high = check(low, name), check(high, name)
    if low > high:
        raise ValueError(
            f"Argument `{name}` must be a number or a range (low, high). Received: {name}={value}"
        )
    return low, high


def _keep(hp, name, value, step, argument):
    low, high = _range(value, argument, probability)
    if low == high:
        return low
    return hp.Float(name, low, high, step=_checked_step(step, high - low), default=high)


def _checked_step(step, width):
    if step is None:
        return None
    expected = f"None or a number in (0, {width:g}], the width of the range"
    return checked_number(step, lambda n: 0 < n <= width, "step", expected)


def _below_one(value, name):
    return checked_number(value, lambda n: 0 <= n < 1, name, "numbers in [0, 1)")


def _weight(value, name):
    return checked_number(value, lambda n: 0 <= n < math.inf, name, "numbers >= 0")
