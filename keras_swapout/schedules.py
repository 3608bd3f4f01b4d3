"""Theta over depth: one probability for each block of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np


def linear(start: float, stop: float, num: int) -> list[float]:
    """Linear(start, stop): from `start` at the first block to `stop` at the last.

        theta_i = start + (stop - start) * i / (num - 1),   i = 0 .. num - 1

    A single block gets `start`.

    Args:
        start, stop: probabilities in [0, 1].
        num: number of blocks, an int >= 1.

    Returns:
        A list of `num` floats; the first is exactly `start`, the last exactly `stop`.

    Raises:
        TypeError: an argument is not a number. ValueError: it is out of range.

    Example:

    >>> linear(1.0, 0.5, 3)
    [1.0, 0.75, 0.5]

    Source: Swapout (Singh, Hoiem, Forsyth 2016), section 4, "Linear(a, b)".
    """
    start, stop = probability(start, "start"), probability(stop, "stop")
    num = _count(num)
    if num == 1:
        return [start]
    # Not start + i * step: both ends have to be exact, since 0 and 1 are special.
    return [start * (1 - i / (num - 1)) + stop * (i / (num - 1)) for i in range(num)]


def constant(value: float, num: int) -> list[float]:
    """The same probability for every block.

    Args:
        value: a probability in [0, 1].
        num: number of blocks, an int >= 1.

    Raises:
        TypeError: an argument is not a number. ValueError: it is out of range.

    Example:

    >>> constant(0.5, 3)
    [0.5, 0.5, 0.5]
    """
    return [probability(value, "value")] * _count(num)


def per_stage(values: Sequence[float], num: int) -> list[float]:
    """One probability for each of several parts of the network, of equal length.

        theta_i = values[floor(i * stages / num)],   i = 0 .. num - 1,   stages = len(values)

    Args:
        values: probabilities in [0, 1], of the first stage, the second, ...
        num: number of blocks, an int >= 1, at least one for each stage.

    Raises:
        TypeError: an argument is not a number. ValueError: it is out of range.

    Example:

    >>> per_stage([0.9, 0.8, 0.5], 6)
    [0.9, 0.9, 0.8, 0.8, 0.5, 0.5]
    """
    values = [probability(value, "values") for value in values]
    if not 1 <= len(values) <= _count(num):
        raise ValueError(
            f"Argument `values` must hold 1 to num={num} probabilities. Received: {len(values)}"
        )
    return [values[block * len(values) // num] for block in range(num)]


def per_block(
    layer: Callable[..., keras.Layer], **schedules: float | Sequence[float]
) -> Callable[[int, int], keras.Layer]:
    """A `merge` for `keras_swapout.models`: `layer`, with each argument on its own schedule.

    Args:
        layer: a layer class or function, called with one keyword for each schedule.
        **schedules: for each argument of `layer` a number (the same in every block), a pair
            (start, stop) for Linear(start, stop), or three and more, one for each stage of the
            network.

    Returns:
        A function (block_index, number_of_blocks) -> layer.

    Raises:
        TypeError, ValueError: a schedule is not a number in [0, 1] or a sequence of them.

    Example:

    >>> merge = per_block(keras.layers.Dropout, rate=(0.0, 0.5))
    >>> [merge(i, 3).rate for i in range(3)]
    [0.0, 0.25, 0.5]
    """
    checked = {}
    for name, value in schedules.items():
        values = value if isinstance(value, (tuple, list)) else [value]
        checked[name] = [probability(v, name) for v in values]

    def merge(block: int, blocks: int) -> keras.Layer:
        return layer(**{name: _over(values, blocks)[block] for name, values in checked.items()})

    return merge


def _over(values, num):
    return linear(*values, num) if len(values) == 2 else per_stage(values, num)


def probability(value: float, name: str) -> float:
    """`value` as a float in [0, 1], or an error that names the argument.

    Raises:
        TypeError: not a real number. ValueError: NaN or outside [0, 1].

    Example:

    >>> probability(1.5, "theta")
    Traceback (most recent call last):
        ...
    ValueError: Argument `theta` must be a number in [0, 1]. Received: theta=1.5
    """
    message = f"Argument `{name}` must be a number in [0, 1]. Received: {name}={value!r}"
    if isinstance(value, (bool, np.bool_, str)):
        raise TypeError(message)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(message) from None
    if not 0.0 <= number <= 1.0:  # also refuses NaN
        raise ValueError(message)
    return number


def _count(num: int) -> int:
    message = f"Argument `num` must be an int >= 1. Received: num={num!r}"
    if not isinstance(num, int) or isinstance(num, bool):
        raise TypeError(message)
    if num < 1:
        raise ValueError(message)
    return num
