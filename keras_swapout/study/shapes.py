"""What a file has to hold, as functions that tell of a value whether it is so.

>>> run = holds(seed=number, history=each(many(number)))
>>> run({"seed": 0, "history": {"loss": [0.5, 0.25]}, "note": None})
True
>>> run({"seed": None, "history": {}}), run({"seed": 0, "history": {"loss": [float("nan")]}})
(False, False)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Shape = Callable[[Any], bool]


def number(value: Any) -> bool:
    """A finite number, and no bool."""
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and -math.inf < value < math.inf


def share(value: Any) -> bool:
    """A number in [0, 1]."""
    return number(value) and 0 <= value <= 1


def text(value: Any) -> bool:
    return isinstance(value, str)


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def maybe(shape: Shape) -> Shape:
    """None, or what `shape` says."""
    return lambda value: value is None or shape(value)


def many(shape: Shape, count: int | None = None) -> Shape:
    """A list, of `count` elements if that is not None."""
    return lambda value: (
        isinstance(value, list) and count in (None, len(value)) and all(map(shape, value))
    )


def both(*shapes: Shape) -> Shape:
    """What all of them say."""
    return lambda value: all(shape(value) for shape in shapes)


def either(*shapes: Shape) -> Shape:
    """What one of them says, or several."""
    return lambda value: any(shape(value) for shape in shapes)


def each(shape: Shape) -> Shape:
    """A dict with whatever keys."""
    return lambda value: isinstance(value, dict) and all(map(shape, value.values()))


def holds(**shapes: Shape) -> Shape:
    """A dict with at least these keys."""
    return lambda value: (
        isinstance(value, dict)
        and all(name in value and shape(value[name]) for name, shape in shapes.items())
    )
