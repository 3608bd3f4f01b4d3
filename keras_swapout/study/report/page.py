"""What the pages of the commands share: templates, figures as SVG, settings as lines."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_swapout.study.report.drawing import INK, PAPER

if TYPE_CHECKING:
    import jinja2
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.text import Text

_ASCII = str.maketrans({"▲": "+", "▼": "-", "−": "-", "–": "-", "±": "+/-", "×": "x", "…": "..."})


def template(path: Path) -> jinja2.Template:
    """A page's template, which may include style.css and import macros.html.j2 from here."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, Path(__file__).parent]),
        # By hand, since the default goes by the file's suffix, which is not .html.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(path.name)


def for_terminal(console: Console) -> Callable[..., Text]:
    """`text(content, style="")` -> what the console can show of it, not read as markup."""
    from rich.text import Text

    def text(content: str, style: str = "") -> Text:
        if console.options.ascii_only:
            content = content.translate(_ASCII).encode("ascii", "replace").decode()
        # `Text` rather than markup: a folder may be called "[red]".
        return Text(content, style=style)

    return text


def corruptions(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    titles: Mapping[str, str],
    baseline: str | None,
) -> dict[str, Any] | None:
    """Mean accuracy by row and corruption, and the shade of its difference from the baseline.

    Args:
        runs: of every row its runs, each with "corruption", {name: {severity: accuracy}}.
        titles: of every row.
        baseline: a row, which may be missing.

    Returns:
        {"names", "rows"} for the macro `shades`, or None where no run has a corruption.
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
    rows = []
    for row, accuracies in means.items():
        shift = np.subtract(accuracies, base) if base else np.zeros(len(names))
        cells = [
            {
                "accuracy": "–" if math.isnan(value) else f"{100 * value:.1f}",
                "up": bool(delta > 0),
                # Full colour at 15 points, so that a page without real differences stays pale.
                "shade": 0.0 if math.isnan(delta) else round(0.5 * min(1.0, abs(delta) / 0.15), 2),
            }
            for value, delta in zip(accuracies, shift, strict=True)
        ]
        rows.append({"name": row, "title": titles[row], "cells": cells})
    return {"names": [str(name).replace("_", " ") for name in names], "rows": rows}


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


def svg(figure: Figure, name: str) -> Any:
    """The figure as an `<svg>` element that takes the page's font and colours."""
    import matplotlib
    from markupsafe import Markup

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
    return Markup(text)
