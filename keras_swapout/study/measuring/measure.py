"""One number that is measured, what is said of it, and how a reader sees it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

# Verdicts on a difference, and their marks in tables.
BETTER = "better"
WORSE = "worse"
NO_DIFFERENCE = "no difference measured"
NOT_TESTABLE = "not testable"
MARKS = {BETTER: "▲", WORSE: "▼", NO_DIFFERENCE: "=", NOT_TESTABLE: "?"}
MARK_COLOURS = {BETTER: "green", WORSE: "red", NO_DIFFERENCE: "dim", NOT_TESTABLE: "dim"}


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number read from a run.

    Attributes:
        name: key in the comparison.
        title: what a reader sees.
        path: where it stands in a run, keys joined by dots.
        minus: path of a second number to subtract, or None.
        higher_is_better: False where less is better.
        unit: "%" (stored as a fraction, shown times 100, differences in points) or "".
        digits: decimals shown. With "%" one more on test sets of 2000 images and above.
        terminal: whether it has a column in the terminal's table.
        note: what a difference in it does not mean, as a clause, or "".
    """

    name: str
    title: str
    path: str
    minus: str | None = None
    higher_is_better: bool = True
    unit: str = ""
    digits: int = 3
    terminal: bool = True
    note: str = ""

    def read(self, run: Mapping[str, Any]) -> float | None:
        """The value in one run, or None where it is missing or not finite.

        Example:
            >>> accuracy = Measure("accuracy", "Test accuracy", "test.accuracy")
            >>> accuracy.read({"test": {"accuracy": 0.5}}), accuracy.read({})
            (0.5, None)
        """
        value = at(run, self.path)
        if self.minus is not None and value is not None:
            other = at(run, self.minus)
            value = None if other is None else value - other
        return value


def value_text(measure: Mapping[str, Any], value: float | None, unit: bool = True) -> str:
    """A value as a reader sees it.

    Args:
        measure: an entry of a comparison's `measures`.
        value: the stored number, or None.
        unit: whether to write the unit.

    Example:
        >>> value_text({"unit": "%", "digits": 1}, 0.978)
        '97.8 %'
        >>> value_text({"unit": "", "digits": 3}, -0.25)
        '−0.250'
    """
    if value is None:
        return "–"
    percent = measure["unit"] == "%"
    text = f"{value * (100 if percent else 1):.{measure['digits']}f}".replace("-", "−")
    if not float(text.replace("−", "-")):
        text = text.lstrip("−")
    return f"{text} %" if percent and unit else text


def difference_text(measure: Mapping[str, Any], value: float | None) -> str:
    """A difference with its sign.

    Args:
        measure: an entry of a comparison's `measures`.
        value: the stored number, or None.

    Example:
        >>> difference_text({"unit": "%", "digits": 1}, 0.012)
        '+1.2'
    """
    text = value_text(measure, value, unit=False)
    return f"+{text}" if value is not None and text[0] != "−" and text.strip("0.") else text


def p_text(p: float | None) -> str:
    """A p-value as a reader sees it.

    Example:
        >>> p_text(0.4123), p_text(0.0123), p_text(1e-9), p_text(0.9999)
        ('p = 0.41', 'p = 0.012', 'p < 0.001', 'p = 1')
    """
    if p is None:
        return ""
    if p < 0.001:
        return "p < 0.001"
    if p > 0.995:
        return "p = 1"
    # Three decimals near the threshold, where two would round 0.0497 up to it.
    return f"p = {p:.3f}" if p < 0.0995 else f"p = {p:.2f}"


def counted(number: int, noun: str) -> str:
    """ "no runs", "1 run", "2 runs"."""
    return f"{'no' if number == 0 else f'{number:,}'} {noun}{'' if number == 1 else 's'}"


def at(tree: Mapping[str, Any], path: str) -> float | None:
    node: Any = tree
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    if node is None or isinstance(node, str | Mapping) or not math.isfinite(node):
        return None
    return float(node)
