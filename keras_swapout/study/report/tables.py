"""Tables as data: what the terminal prints and the page shows."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_swapout.study.measuring.comparison import BETTER, NO_DIFFERENCE, NOT_TESTABLE, WORSE
from keras_swapout.study.measuring.measure import Measure
from keras_swapout.study.report.words import difference_text, interval_text, p_text, value_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

MARKS = {BETTER: "▲", WORSE: "▼", NO_DIFFERENCE: "=", NOT_TESTABLE: "?"}
_COLOURS = {BETTER: "green", WORSE: "red", NO_DIFFERENCE: "dim", NOT_TESTABLE: "dim"}
_ASCII = str.maketrans({"▲": "+", "▼": "-", "−": "-", "–": "-", "±": "+/-", "×": "x", "…": "..."})


class Cell(NamedTuple):
    """Text, its spread, small lines below it, and the verdict on a difference."""

    text: str
    spread: str = ""
    lines: Sequence[str] = ()
    verdict: str = ""
    p: str = ""
    shade: str = ""  # a CSS colour

    @property
    def kind(self) -> str:
        """The verdict as a word, for the page's style."""
        return {BETTER: "better", WORSE: "worse"}.get(self.verdict, "same")


class Column(NamedTuple):
    """A heading, a small line below it, and whether the terminal has room for it."""

    title: str
    small: str = ""
    terminal: bool = True


class Row(NamedTuple):
    """A line of a table; `colour` is that of its chip, "" for none. Without cells, a heading."""

    title: str
    cells: Sequence[Cell]
    small: str = ""
    colour: str = ""
    best: bool = False


class Table(NamedTuple):
    """Rows under columns; `first` heads the titles.

    For the terminal's legend: `against` says what the verdicts are about, "Against plain", and
    `over` what the spreads are over, "seeds".
    """

    first: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    shaded: bool = False
    against: str = ""
    over: str = ""


def column(measure: Measure, better: str = "better") -> Column:
    """The heading of a measure: "higher is better"."""
    unit = f"{measure.unit}, " if measure.unit else ""
    small = f"{unit}{'higher' if measure.higher_is_better else 'lower'} is {better}"
    return Column(measure.title, small, measure.terminal)


def cell(
    measure: Measure,
    group: Mapping[str, Any],
    row: Mapping[str, Any] | None = None,
    whose: str = "",
) -> Cell:
    """A group's mean and spread, and its contrast with another, if there is one.

    Args:
        measure: what is measured.
        group: of `keras_swapout.study.measuring.comparison.summary`.
        row: of `contrast` there, or None.
        whose: written before the difference.
    """
    text = value_text(measure, group["mean"], unit=False)
    spread = "" if group["sd"] is None else value_text(measure, group["sd"], unit=False)
    if row is None:
        return Cell(text, spread)
    interval = interval_text(measure, row["low"], row["high"])
    difference = difference_text(measure, row["difference"])
    line = f"{whose}{difference}{f' ({interval})' if interval else ''}"
    lines = () if row["difference"] is None else (line,)
    return Cell(text, spread, lines, row["verdict"], p_text(row["p_adjusted"]))


def for_terminal(console: Console) -> Callable[..., Text]:
    """`text(content, style="")` -> what the console can show of it, not read as markup."""
    from rich.text import Text

    def text(content: str, style: str = "") -> Text:
        if console.options.ascii_only:
            content = content.translate(_ASCII).encode("ascii", "replace").decode()
        # `Text` rather than markup: a folder may be called "[red]".
        return Text(content, style=style)

    return text


def print_table(table: Table, console: Console) -> None:
    """Prints the columns for the terminal. Below 100 characters spreads go on their own line."""
    from rich import box
    from rich import table as tables

    text, narrow = for_terminal(console), console.width < 100
    kept = [i for i, c in enumerate(table.columns) if c.terminal]
    if not kept:
        return
    shown = tables.Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    shown.collapse_padding = narrow
    shown.add_column("", overflow="fold")
    for c in (table.columns[i] for i in kept):
        unit = f" ({c.small.partition(',')[0]})" if c.small.startswith("%") else ""
        # Numbers stay whole; where room is short, the titles of the rows give way.
        title = c.title.replace("Negative log likelihood", "NLL") if narrow else c.title
        words = (title + unit).split() or [""]
        lines = textwrap.wrap(title + unit, max(map(len, words)) if narrow else 12)
        shown.add_column(text("\n".join(lines)), justify="right", no_wrap=True)
    marked = any(one.verdict for row in table.rows for one in row.cells)
    for row in table.rows:
        if not row.cells:
            shown.add_row(text(row.title, "bold"))
            continue
        cells = []
        for one in (row.cells[i] for i in kept):
            content = text(one.text)
            spread = f"{chr(10) if narrow else ' '}± {one.spread}" if one.spread else ""
            parts = [text(spread, "dim")]
            if marked:
                parts.append(text(f" {MARKS.get(one.verdict, ' ')}", _COLOURS.get(one.verdict, "")))
            for part in reversed(parts) if narrow else parts:
                content.append(part)
            cells.append(content)
        shown.add_row(text(row.title.replace(", ", ",\n") if narrow else row.title), *cells)
    console.print()
    console.print(shown)
    legend = []
    if marked:
        marks = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
        legend.append(f"{table.against}: {marks}.")
    if any(row.cells[i].spread for row in table.rows if row.cells for i in kept):
        legend.append(f"± is the standard deviation over {table.over}.")
    if legend:
        console.print(text(" ".join(legend), "dim"))
