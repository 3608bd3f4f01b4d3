"""A page: an answer, and sections of sentences, tables, figures and facts below it.

A command says what is on its page as data; one template makes it HTML, and the terminal prints a
part of it. A page is one file that needs neither network nor scripts.
"""

from __future__ import annotations

import io
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_swapout.study import store
from keras_swapout.study.report.drawing import INK, PAPER, Style
from keras_swapout.study.report.tables import (
    MARKS,
    Cell,
    Column,
    Row,
    Table,
    for_terminal,
    print_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console


class Text(NamedTuple):
    """A paragraph; `style` "verdict" sets it as a line of a list, "notes" and "test" small.

    `lead` is what it begins with, to be set in bold beside a chip of `colour`.
    """

    text: str
    style: str = ""
    lead: str = ""
    colour: str = ""


class Picture(NamedTuple):
    """A figure with its title and what to see in it; left out where there is none.

    `alt` says the same to who can't see it; "" for the title.
    """

    name: str
    title: str
    caption: str
    figure: Figure | None
    alt: str = ""


class Facts(NamedTuple):
    """Lines of (name, value); left out where there are none."""

    heading: str
    lines: Sequence[tuple[str, str]]


class Code(NamedTuple):
    """What somebody types."""

    text: str


class Strips(NamedTuple):
    """Rows of small images: (name, [data: URLs])."""

    strips: Sequence[tuple[str, Sequence[str]]]


class Section(NamedTuple):
    """A heading and parts; a part that is a string is a heading of its own.

    `terminal`: whether its tables, verdicts and how they were tested are printed as well.
    `folded`: what is written on the fold, for parts that few will read.
    """

    heading: str
    parts: Sequence[Any]
    terminal: bool = False
    folded: str = ""


class Page(NamedTuple):
    """What a command reports; `picture` is the one that shows the answer, or None."""

    title: str
    under: str
    answer: str
    details: Sequence[str]
    sections: Sequence[Section]
    picture: Picture | None = None


def write(page: Page, out: Path) -> Path:
    """Writes `report.html` into a folder, whole or not at all, and returns its path."""
    path = Path(out) / "report.html"
    store.write_text(path, render(page))
    return path


def render(page: Page) -> str:
    """The page as HTML; whatever it says is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        # By hand, since the default goes by the file's suffix, which is not .html.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [section._replace(parts=_shown(section.parts)) for section in page.sections]
    sections = [section for section in sections if section.parts]
    (picture,) = _shown([page.picture]) or (None,)
    environment.tests["heading"] = lambda part: isinstance(part, str)
    for kind in (Text, Table, Picture, Facts, Code, Strips):
        environment.tests[kind.__name__.lower()] = lambda part, kind=kind: isinstance(part, kind)
    return environment.get_template("page.html.j2").render(
        page=page._replace(sections=sections, picture=picture), svg=svg, marks=MARKS
    )


def _shown(parts):
    """The parts that have something to show."""
    return [
        part
        for part in parts
        if not (
            part is None
            or (isinstance(part, Picture) and part.figure is None)
            or (isinstance(part, Facts) and not part.lines)
            or (isinstance(part, Text | Code) and not part.text)
            or (isinstance(part, Table) and not part.rows)
        )
    ]


def show(page: Page, console: Console | None = None) -> None:
    """Prints the answer, and of the sections for the terminal tables, verdicts and tests."""
    from rich.console import Console

    console = console or Console()
    text = for_terminal(console)
    console.print()
    console.print(text(page.answer, "bold"))
    for line in page.details:
        console.print(text(line))
    for section in page.sections:
        for part in _shown(section.parts) if section.terminal else ():
            if isinstance(part, Table):
                print_table(part, console)
            elif isinstance(part, Text) and part.style in ("verdict", "test"):
                console.print(text(part.text, "dim" if part.style == "test" else ""))


def shades(
    first: str,
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    drawn: Mapping[str, Style],
    baseline: str | None,
) -> Table | None:
    """Mean accuracy by row and corruption, shaded by its difference from the baseline.

    Args:
        first: heads the rows' titles.
        runs: of every row its runs, each with "corruption", {name: {severity: accuracy}}.
        drawn: the look of every row.
        baseline: a row, which may be missing.

    Returns:
        The table, blue above the baseline and orange below; None where no run has a corruption.
    """
    every = (name for row in runs.values() for run in row for name in run.get("corruption") or ())
    names = list(dict.fromkeys(every))
    means: dict[str, list[float]] = {}
    for row, its in runs.items():
        values = [
            [v for run in its for v in ((run.get("corruption") or {}).get(name) or {}).values()]
            for name in names
        ]
        if any(values):
            means[row] = [float(np.mean(v)) if v else math.nan for v in values]
    if not means:
        return None
    base = means.get(baseline)

    def shade(value, delta):
        # Full colour at 15 points, so that a page without real differences stays pale.
        strength = 0.0 if math.isnan(delta) else round(0.5 * min(1.0, abs(delta) / 0.15), 2)
        text = "–" if math.isnan(value) else f"{100 * value:.1f}"
        return Cell(text, shade=f"rgb({'0 114 178' if delta > 0 else '213 94 0'} / {strength})")

    rows = [
        Row(
            drawn[row].title,
            list(map(shade, accuracies, np.subtract(accuracies, base or accuracies))),
            colour=drawn[row].colour,
        )
        for row, accuracies in means.items()
    ]
    columns = [Column(str(name).replace("_", " ")) for name in names]
    return Table(first, columns, rows, shaded=True)


def how_measured(
    results: Mapping[str, Any], parts: Sequence[Any], command: str | None, limits: Sequence[str]
) -> list[Section]:
    """The last two sections of every page: data, settings, environment, and what it can't say.

    Args:
        results: with "data", "settings" and "environment", whose entries are listed.
        parts: what comes before them.
        command: that repeats it, or None.
        limits: sentences on what the report cannot say.
    """
    facts = [
        Facts("Data", described(results.get("data") or {})),
        *(
            Facts(name.capitalize(), flat(results.get(name) or {}))
            for name in ("settings", "environment")
        ),
    ]
    again = ["To repeat it", Code(command)] if command else []
    return [
        Section("How it was measured", [*parts, *facts, *again], folded="data, settings, versions"),
        Section("What this report cannot say", [Text(limit, "limit") for limit in limits]),
    ]


def command(words: Sequence[str], settings: Mapping[str, Any], options: Sequence[str]) -> str:
    """The command line with these settings, written out in full.

    Example:

    >>> settings = {"data": "my images", "seeds": 3, "new_head": True}
    >>> command(["keras-swapout", "pilot"], settings, ["data", "limit", "new_head"])
    "keras-swapout pilot --data 'my images' --new-head"
    """
    line = list(words)
    for name in options:
        value = settings.get(name)
        if value is None or value is False:
            continue
        several = value if isinstance(value, list | tuple) else [value]
        flag = f"--{name.replace('_', '-')}"
        line += [flag] if value is True else [flag, *map(str, several)]
    return shlex.join(line)


def described(data: dict[str, Any]) -> list[tuple[str, str]]:
    """A data set as lines of a table."""
    classes = data.get("classes") or []
    shown = ", ".join(map(str, classes[:20])) + (", …" if len(classes) > 20 else "")
    sizes = data.get("sizes") or {}
    entries = {
        "Name": data.get("name"),
        "Source and licence": data.get("source"),
        "Images": ", ".join(f"{size:,} {split}" for split, size in sizes.items()),
        "Shape": " × ".join(map(str, data.get("image_shape") or [])),
        "Classes": f"{len(classes)}: {shown}" if classes else "",
        "Mean per channel": plain(data.get("mean") or ""),
        "Deviation per channel": plain(data.get("std") or ""),
    }
    known = {"name", "source", "sizes", "image_shape", "classes", "mean", "std"}
    rest = {key: value for key, value in data.items() if key not in known}
    return [(key, str(value)) for key, value in entries.items() if value] + flat(rest)


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines, keys joined by dots."""
    lines = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            lines += flat(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}".replace("_", " "), plain(value)))
    return lines


def plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def svg(picture: Picture) -> Any:
    """The figure as an `<svg>` element that takes the page's font and colours."""
    import matplotlib
    from markupsafe import Markup, escape

    figure, name = picture.figure, picture.name
    buffer = io.StringIO()
    # Text as text: it can be searched, and takes the page's font. The salt makes the same figure
    # the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    # Several figures share one page, so their identifiers must differ.
    text = re.sub(r'(<\w[^<>]*?\s)id="', rf'\1id="{name}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    text = text.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
    alt = escape(picture.alt or picture.title)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{alt}"', 1))
