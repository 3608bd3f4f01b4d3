"""One number that is measured, and how a reader sees it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


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
        digits: decimals shown.
        terminal: whether it has a column in the terminal's table.
        note: what it is, as a clause, or "".
        caveat: what a gain in it alone does not mean, as a clause, or "".
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
    caveat: str = ""

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

    def on(self, images: float | None) -> Measure:
        """The measure on that many images: of 2000 and more a share has another decimal.

        Example:

        >>> Measure("accuracy", "Accuracy", "accuracy", unit="%", digits=1).on(10_000).digits
        2
        """
        fine = self.unit == "%" and images is not None and images >= 2000
        return dataclasses.replace(self, digits=self.digits + 1) if fine else self

    def finer(self, difference: float | None) -> Measure:
        """The measure with so many digits that this difference is not shown as 0.0.

        Example:

        >>> Measure("ece", "ECE", "ece", digits=1).finer(0.004).digits
        3
        """
        shown, scale = self, 100 if self.unit == "%" else 1
        while difference and not round(abs(difference) * scale, shown.digits) and shown.digits < 9:
            shown = dataclasses.replace(shown, digits=shown.digits + 1)
        return shown


def at(tree: Mapping[str, Any], path: str) -> float | None:
    """The finite number at a path, keys joined by dots, or None."""
    node: Any = tree
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    if node is None or isinstance(node, str | Mapping) or not math.isfinite(node):
        return None
    return float(node)
