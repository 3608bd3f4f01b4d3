"""What an argument has to be, and Keras' form of the message where it is not."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np


def one_of(value: Any, allowed: tuple[str, ...], name: str) -> str:
    """`value`, or a ValueError that names the argument and what is allowed."""
    if value not in allowed:
        raise ValueError(f"Argument `{name}` must be one of {allowed}. Received: {name}={value!r}")
    return value


def checked_seed(seed: int | None) -> int | None:
    """`seed`, or an error unless it is None or an int in [0, 2**31)."""
    message = f"Argument `seed` must be None or an int in [0, 2**31). Received: seed={seed!r}"
    if seed is None:
        return None
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
        raise TypeError(message)
    if not 0 <= seed < 2**31:  # the range of Keras' seed generator under torch
        raise ValueError(message)
    return int(seed)


def checked_count(value: Any, name: str, least: int = 1, also: str = "") -> int:
    """`value`, or a ValueError unless it is an int >= `least`; `also` says what else would do."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(
            f"Argument `{name}` must be an int >= {least}{also}. Received: {name}={value!r}"
        )
    return value


def checked_number(value: Any, fits: Callable[[float], bool], name: str, expected: str) -> float:
    """`value` as a float, or an error that says what the argument must be.

    `fits` has to be false for NaN, as a chain of comparisons is.
    """
    message = f"Argument `{name}` must be {expected}. Received: {name}={value!r}"
    if not isinstance(value, numbers.Real) or isinstance(value, (bool, np.bool_)):
        raise TypeError(message)
    if not fits(value):
        raise ValueError(message)
    return float(value)
