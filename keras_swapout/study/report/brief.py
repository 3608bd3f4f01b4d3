"""The last thing that a command prints: an answer of at most 25 lines, and what to do next."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_swapout.study.measuring.comparison import BETTER, WORSE
from keras_swapout.study.measuring.measure import Measure
from keras_swapout.study.report.tables import for_terminal
from keras_swapout.study.report.words import difference_text, interval_text, value_text

if TYPE_CHECKING:
    from rich.console import Console

WIDTH, MOST = 80, 25
_COLOURS = {BETTER: "green", WORSE: "red"}


class Line(NamedTuple):
    """A row of the table: a label, a value, the reference's, their difference; or a heading."""

    label: str
    value: str = ""
    reference: str = ""
    difference: str = ""
    verdict: str = ""


class Brief(NamedTuple):
    """What somebody reads who reads nothing else.

    Attributes:
        answer: in one sentence, or a few.
        columns: what heads the values, the reference's and the differences.
        lines: of the table, the first ones first to stay where there is no room for all.
        notes: sentences: what was lost, what these runs can't tell.
        then: sentences: what to do next.
        where: where the rest is.
    """

    answer: str
    columns: tuple[str, str, str]
    lines: Sequence[Line]
    notes: Sequence[str] = ()
    then: Sequence[str] = ()
    where: str = ""


def line(measure: Measure, title: str, row: Mapping[str, Any], few: bool = False) -> Line:
    """A contrast as a row of the table.

    Args:
        measure: what it is of.
        title: what was compared.
        row: of `keras_swapout.study.measuring.comparison.contrast`.
        few: whether its interval says nothing, as there are too few values.
    """
    difference = difference_text(measure, row["difference"])
    if row["low"] is not None and not few:
        difference += f" ({interval_text(measure, row['low'], row['high'])})"
    verdict = row["verdict"] if row["verdict"] in (BETTER, WORSE) and not few else ""
    unit = f", {measure.unit}" if measure.unit else ""
    return Line(
        f"{_short(measure)}{unit}: {title}",
        *(value_text(measure, mean, unit=False) for mean in reversed(row["means"])),
        difference,
        verdict,
    )


def established(lines: Sequence[Line]) -> list[Line]:
    """The same rows, those with a verdict first."""
    return sorted(lines, key=lambda line: not line.verdict)


def _short(measure):
    short = {
        "nll": "NLL",
        "balanced_accuracy": "Balanced",
        "auroc": "AUROC",
        "corruption_accuracy": "Corrupted",
        "corrupted_accuracy": "Corrupted",
        "corrupted_nll": "Corrupted NLL",
        "ece": "ECE",
    }
    return short.get(measure.name, measure.title.removeprefix("Test ").capitalize())


def lines_of(brief: Brief, width: int = WIDTH, most: int = MOST) -> list[tuple[str, str]]:
    """The lines to print, each with a style of rich: at most `most` of `width` characters.

    Where there is no room for all, rows of the table are left out from its end, with a line that
    says how many.

    Example:

    >>> row = Line("Test accuracy, %", "95.5", "90.5", "+5.0 (2.0 to 8.0)", "better")
    >>> columns = ("Swapout", "plain", "difference (95 %)")
    >>> for text, _ in lines_of(Brief("It helps.", columns, [row])):
    ...     print(text)
    It helps.
    <BLANKLINE>
                      Swapout  plain  difference (95 %)
    Test accuracy, %     95.5   90.5  +5.0 (2.0 to 8.0) better
    """
    above = [(text, "bold") for text in _wrapped([brief.answer], width)]
    below = [(text, "") for text in _wrapped([*brief.notes, *brief.then, brief.where], width)]
    room = most - len(above) - len(below) - (2 if below else 1)
    table = _table(brief, width)
    if len(table) > max(room, 0):
        cut = len(table) - max(room, 1) + 1
        left = f"({cut} rows more on the page)"
        table = [*table[: len(table) - cut], (left, "dim")]
    return [*above, *([("", "")] if table else []), *table, *([("", "")] if below else []), *below]


def _table(brief, width):
    rows = [line for line in brief.lines if line.value]
    if not rows:
        return []
    cells = [[r.value, r.reference, r.difference] for r in rows]
    widths = [
        max(len(head), *(len(row[i]) for row in cells)) for i, head in enumerate(brief.columns)
    ]
    verdicts = max(len(row.verdict) for row in rows)
    label = max(len(line.label) for line in brief.lines)
    label = min(label, width - sum(widths) - 3 * 2 - verdicts - 1)

    def joined(name, value, reference, difference, verdict=""):
        text = f"{name[:label]:<{label}}  {value:>{widths[0]}}  {reference:>{widths[1]}}  "
        return f"{text}{difference:<{widths[2]}} {verdict}".rstrip()

    found = [(joined("", *brief.columns), "dim")]
    for line in brief.lines:
        if not line.value:
            found.append((line.label, "bold"))
        else:
            found.append((joined(*line), _COLOURS.get(line.verdict, "")))
    return found


def _wrapped(sentences, width):
    return [line for text in sentences if text for line in textwrap.wrap(text, width)]


def show(brief: Brief, console: Console | None = None) -> None:
    """Prints it, no wider than the screen."""
    from rich.console import Console

    console = console or Console()
    text = for_terminal(console)
    console.print()
    for line, style in lines_of(brief, min(WIDTH, max(console.width, 40))):
        console.print(text(line, style), no_wrap=True, crop=False, overflow="ignore")
