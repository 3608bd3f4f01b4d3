"""Search spaces: plain calls of a `keras_tuner.HyperParameters`, for anybody's build function."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from keras_swapout import schedules
from keras_swapout.arguments import checked, checked_count, checked_number, one_of, refusal
from keras_swapout.schedules import probability

if TYPE_CHECKING:
    import keras_tuner

KINDS = ("linear", "constant", "stage")
MOST = 10_000  # blocks of a network, or stages

Range = tuple[float, float]
ALPHA: Range = (0.03, 10.0)  # wrong labels want more than 1, docs/wrong-labels


def theta_schedule(
    hp: keras_tuner.HyperParameters,
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
        num: number of blocks, an int in [1, 10000].
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
    _check(hp, name)
    one_of(kind, KINDS, "kind")
    num = checked_count(num, "num", most=MOST)
    stages = checked_count(stages, "stages", most=MOST)
    _range(start, "start", "a number in [0, 1]", probability)
    if kind == "constant":
        return schedules.constant(_keep(hp, name, theta, step, "theta"), num)
    if kind == "linear":
        first = _keep(hp, f"{name}_start", start, step, "start")
        return schedules.linear(first, _keep(hp, f"{name}_stop", theta, step, "theta"), num)
    if stages > num:
        raise refusal(ValueError, "stages", f"at most num={num}", stages)
    parts = range(1, stages + 1)
    values = [_keep(hp, f"{name}_stage_{part}", theta, step, "theta") for part in parts]
    return schedules.per_stage(values, num)


def drop_rate(
    hp: keras_tuner.HyperParameters,
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
    _check(hp, name)
    low, high = _range(rate, "rate", "a number in [0, 1)", _below_one)
    return _float(hp, name, low, high, step, default=low)


def block_size(
    hp: keras_tuner.HyperParameters,
    name: str = "block_size",
    block_size: int | tuple[int, int] = (2, 7),
    step: int = 1,
) -> int:
    """The side of a region layer's blocks, to be searched.

    Args:
        hp: a `keras_tuner.HyperParameters`.
        name: of the hyperparameter.
        block_size: a range (low, high) of ints >= 1, both included, or one int.
        step: distance of the values to try, an int >= 1.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Example:

    >>> import keras_tuner
    >>> block_size(keras_tuner.HyperParameters(), block_size=(3, 7), step=2)
    3
    """
    _check(hp, name)
    low, high = _range(block_size, "block_size", "an int >= 1", checked_count)
    step = checked_count(step, "step")
    return low if low == high else hp.Int(name, low, high, step=step, default=low)


def alpha(
    hp: keras_tuner.HyperParameters, name: str = "alpha", alpha: float | Range = ALPHA
) -> float:
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
    _check(hp, name)
    low, high = _range(alpha, "alpha", "a number >= 0", _weight)
    if low == high:
        return low
    if low == 0:
        expected = "a range of numbers > 0, as its scale is logarithmic"
        raise refusal(ValueError, "alpha", expected, alpha)
    return hp.Float(name, low, high, sampling="log", default=low)


def _check(hp, name):
    if not callable(getattr(hp, "Float", None)):
        raise refusal(TypeError, "hp", "a keras_tuner.HyperParameters", hp)
    checked(name, str, "name", "a string")


def _range(value, name, of, check):
    """(low, high) of a range or a number, each checked by `check(value, name)`."""
    ends = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
    try:
        low, high = (check(end, name) for end in ends)
        if low > high:
            raise ValueError
    except (TypeError, ValueError) as error:
        expected = f"{of} or a range (low, high) of them"
        raise refusal(type(error), name, expected, value) from None
    return low, high


def _keep(hp, name, value, step, argument):
    low, high = _range(value, argument, "a number in [0, 1]", probability)
    return _float(hp, name, low, high, step, default=high)


def _float(hp, name, low, high, step, default):
    if step is not None:
        width = high - low or 1.0  # of a number, which is not searched, step has to make sense only
        expected = f"None or a number in (0, {width:g}], the width of the range"
        step = checked_number(step, lambda n: 0 < n <= width, "step", expected)
    return low if low == high else hp.Float(name, low, high, step=step, default=default)


def _below_one(value, name):
    return checked_number(value, lambda n: 0 <= n < 1, name, "in [0, 1)")


def _weight(value, name):
    return checked_number(value, lambda n: 0 <= n < math.inf, name, ">= 0")
