"""What an argument has to be, and Keras' form of the message where it is not."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np

FLAG = (bool, np.bool_)


def refusal(error: type[Exception], name: str, expected: str, value: Any) -> Exception:
    """The error to raise for an argument: a TypeError for a wrong type, else a ValueError."""
    return error(f"Argument `{name}` must be {expected}. Received: {name}={value!r}")


def is_int(value: Any) -> bool:
    """Whether `value` is an int, of Python or NumPy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def checked(
    value: Any,
    types: type | tuple[type, ...],
    name: str,
    expected: str,
    fits: Callable[[Any], bool] | None = None,
) -> Any:
    """`value`, or an error that says what the argument must be: of `types`, and so that it `fits`.

    A bool is no number, and `fits` has to be false for NaN, as a chain of comparisons is.
    """
    if not isinstance(value, types) or (isinstance(value, bool) and types is not FLAG):
        raise refusal(TypeError, name, expected, value)
    if fits and not fits(value):
        raise refusal(ValueError, name, expected, value)
    return value


def one_of(value: Any, allowed: tuple[str, ...], name: str) -> str:
    """`value`, or an error unless it is one of the strings that are allowed."""
    return checked(value, str, name, f"one of {allowed}", lambda text: text in allowed)


def checked_flag(value: Any, name: str) -> bool:
    """`value`, or a TypeError unless it is a bool: "False" would count as true."""
    return bool(checked(value, FLAG, name, "True or False"))


def checked_verbose(value: Any) -> bool:
    """Whether to show progress: a flag, or 1 or 0 as elsewhere in Keras."""
    number = is_int(value) and value in (0, 1)
    return checked_flag(bool(value) if number else value, "verbose")


def checked_seed(seed: Any) -> int | None:
    """`seed`, or an error unless it is None or an int in [0, 2**31)."""
    if seed is None:
        return None
    expected = "None or an int in [0, 2**31)"  # the range of Keras' seed generator under torch
    return int(checked(seed, numbers.Integral, "seed", expected, lambda n: 0 <= n < 2**31))


def checked_count(
    value: Any, name: str, least: int = 1, also: str = "", most: float = math.inf
) -> int:
    """`value`, or an error unless it is an int in range; `also` says what else would do."""
    expected = (f"an int >= {least}" if most == math.inf else f"an int in [{least}, {most}]") + also
    return int(checked(value, numbers.Integral, name, expected, lambda n: least <= n <= most))


def checked_number(value: Any, fits: Callable[[float], bool], name: str, expected: str) -> float:
    """`value` as a float, or an error that says what the argument must be."""
    checked(value, numbers.Real, name, expected, fits)
    try:
        # Also as a float: a fraction just below 1 becomes 1.
        return checked(float(value), float, name, expected, fits)
    except OverflowError:
        raise refusal(ValueError, name, expected, value) from None


def checked_array(value: Any, name: str, expected: str = "an array of numbers") -> np.ndarray:
    """`value` as a NumPy array, or a TypeError unless it holds numbers or bools."""
    try:
        array = np.asarray(value)
    except Exception as error:  # every library has its own
        raise refusal(TypeError, name, expected, value) from error
    if array.dtype.kind in "OSUMmc":  # objects, texts, dates, complex numbers
        raise refusal(TypeError, name, expected, value)
    return array


def checked_tensor(value: Any, name: str, expected: str = "a tensor of numbers") -> Any:
    """`value` as a tensor, or a TypeError unless it holds numbers or bools."""
    from keras import backend, ops  # here: the command checks its options without Keras

    try:
        tensor = ops.convert_to_tensor(value)
    except Exception as error:  # every backend has its own
        raise refusal(TypeError, name, expected, value) from error
    if backend.standardize_dtype(tensor.dtype) in ("string", "complex64", "complex128"):
        raise refusal(TypeError, name, expected, value)
    return tensor
