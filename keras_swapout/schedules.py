"""Theta over depth: one probability for each block of a network."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_swapout.arguments import checked, checked_count, checked_number, refusal

if TYPE_CHECKING:
    import keras

__all__ = ["constant", "linear", "per_block", "per_stage", "probability"]


def __dir__() -> list[str]:
    return __all__


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
    num = checked_count(num, "num")
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
    return [probability(value, "value")] * checked_count(num, "num")


def per_stage(values: Sequence[float], num: int) -> list[float]:
    """One probability for each of several parts of the network, of equal length.

        theta_i = values[floor(i * stages / num)],   i = 0 .. num - 1,   stages = len(values)

    Args:
        values: probabilities in [0, 1], of the first stage, the second, ...
        num: number of blocks, an int >= 1, at least one for each stage.

    Raises:
        TypeError: `values` is no sequence of numbers, or `num` no int. ValueError: a number is out
            of range, or there are none or more of them than blocks.

    Example:

    >>> per_stage([0.9, 0.8, 0.5], 6)
    [0.9, 0.9, 0.8, 0.8, 0.5, 0.5]
    """
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise refusal(TypeError, "values", "a sequence of numbers in [0, 1]", values)
    return _in_parts(_probabilities(list(values), "values"), checked_count(num, "num"), "values")


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
        TypeError: `layer` makes no layers; a schedule is not a number, a tuple or a list of them.
            ValueError: a number is out of range; in a network, there are more stages than blocks.

    Example:

    >>> import keras
    >>> merge = per_block(keras.layers.Dropout, rate=(0.0, 0.5))
    >>> [merge(i, 3).rate for i in range(3)]
    [0.0, 0.25, 0.5]
    """
    if not callable(layer) or hasattr(layer, "built"):  # one that is made can't be in every block
        raise refusal(TypeError, "layer", "a layer class or a function that makes layers", layer)
    thetas = {name: _probabilities(value, name) for name, value in schedules.items()}

    def merge(block: int, blocks: int) -> keras.Layer:
        blocks = checked_count(blocks, "blocks")
        expected = f"an int in [0, {blocks})"
        checked(block, numbers.Integral, "block", expected, lambda n: 0 <= n < blocks)
        over_depth = {name: _over(values, blocks, name) for name, values in thetas.items()}
        return layer(**{name: values[block] for name, values in over_depth.items()})

    return merge


def _over(values, num, name):
    return linear(*values, num) if len(values) == 2 else _in_parts(values, num, name)


def _in_parts(values, num, name):
    if len(values) > num:
        raise refusal(ValueError, name, f"at most {num} numbers, one for each block", values)
    return [values[block * len(values) // num] for block in range(num)]


def _probabilities(values, name):
    """A number or several, as a list."""
    if not isinstance(values, (tuple, list)):
        return [probability(values, name)]
    if not values:
        raise refusal(ValueError, name, "one number or more", values)
    return [probability(value, f"{name}[{i}]") for i, value in enumerate(values)]


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
    return checked_number(value, lambda p: 0 <= p <= 1, name, "a number in [0, 1]")
