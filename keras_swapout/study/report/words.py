"""Numbers and differences as a reader sees them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from keras_swapout.study.measuring.comparison import BETTER, WORSE
from keras_swapout.study.measuring.measure import Measure


def value_text(measure: Measure, value: float | None, unit: bool = True) -> str:
    """A value.

    Args:
        measure: what it is of.
        value: the stored number, or None.
        unit: whether to write the unit.

    Example:

    >>> value_text(Measure("accuracy", "Accuracy", "a", unit="%", digits=1), 0.978)
    '97.8 %'
    >>> value_text(Measure("nll", "NLL", "nll"), -0.25)
    '−0.250'
    """
    if value is None:
        return "–"
    percent = measure.unit == "%"
    text = f"{value * (100 if percent else 1):.{measure.digits}f}".replace("-", "−")
    if not float(text.replace("−", "-")):
        text = text.lstrip("−")
    return f"{text} %" if percent and unit else text


def difference_text(measure: Measure, value: float | None, points: bool = False) -> str:
    """A difference with its sign; `points` says that they are percentage points.

    Example:

    >>> difference_text(Measure("accuracy", "Accuracy", "a", unit="%", digits=1), 0.012, True)
    '+1.2 points'
    """
    text = value_text(measure, value, unit=False)
    if value is not None and text[0] != "−" and text.strip("0."):
        text = f"+{text}"
    return f"{text} points" if points and measure.unit == "%" else text


def size_text(measure: Measure, value: float) -> str:
    """A difference without a plus: "1.2 points"."""
    return difference_text(measure, value, points=True).lstrip("+")


def interval_text(measure: Measure, low: float | None, high: float | None) -> str:
    """ "0.4 to 2.0", or "" where there is none."""
    if low is None:
        return ""
    return " to ".join(value_text(measure, end, unit=False) for end in (low, high))


def p_text(p: float | None) -> str:
    """A p-value.

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


def amount(measure: Measure, row: Mapping[str, Any], signed: bool = False, over: str = "") -> str:
    """ "5.0 points (95 % interval 2.0 to 8.0; 95.5 % against 90.5 %, adjusted p = 0.02)".

    The difference of a contrast.

    Args:
        measure: what the contrast is of.
        row: of `keras_swapout.study.measuring.comparison.contrast`.
        signed: whether the difference keeps its sign, or its size is given.
        over: what the interval is over, "5 seeds", where that has to be said.
    """
    difference, low, high = row["difference"], row["low"], row["high"]
    if not signed and difference < 0:
        difference, low, high = -difference, *((None, None) if low is None else (-high, -low))
    shown = measure.finer(difference) if row["verdict"] in (BETTER, WORSE) else measure
    size = difference_text(shown, difference, points=True)
    means = " against ".join(value_text(measure, mean) for mean in reversed(row["means"]))
    if low is None:
        return f"{size if signed else size.lstrip('+')} ({means})"
    p = f", adjusted {p_text(row['p_adjusted'])}" if row["p_adjusted"] is not None else ""
    interval = f"95 % interval {over and f'over {over} '}{interval_text(shown, low, high)}"
    return f"{size if signed else size.lstrip('+')} ({interval}; {means}{p})"


def counted(number: int, noun: str) -> str:
    """ "no runs", "1 run", "2 runs"."""
    return f"{'no' if number == 0 else f'{number:,}'} {noun}{'' if number == 1 else 's'}"


def to_go(seconds: float, what: str) -> str:
    """What is left of a command and how long it takes; "" where that is a minute or less.

    Example:

    >>> to_go(150.0, "12 trials"), to_go(50.0, "4 trials")
    ('about 3 minutes to go: 12 trials', '')
    """
    return f"about {math.ceil(seconds / 60)} minutes to go: {what}" if seconds > 60 else ""


def listed(items: Sequence[str], word: str = "and") -> str:
    """ "a, b and c"; semicolons where an item has commas of its own."""
    comma = "; " if any("," in item for item in items) else ", "
    return f" {word} ".join(filter(None, [comma.join(items[:-1]), *items[-1:]]))


def lower(title: str) -> str:
    """A title within a sentence; "NLL" and "θ" stay."""
    return title[:1].lower() + title[1:] if title[1:2].islower() else title


def upper(title: str) -> str:
    """A title that begins a sentence; "θ" stays, since "Θ" is something else."""
    return title[:1].upper() + title[1:] if title[:1].isascii() else title
