"""An evaluation's report: a table in the terminal, and a page that stands on its own."""

from __future__ import annotations

import base64
import io
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_swapout.study.evaluate.measures import COMPARED
from keras_swapout.study.measuring.measure import (
    MARK_COLOURS,
    MARKS,
    difference_text,
    p_text,
    value_text,
)
from keras_swapout.study.report import page, plots
from keras_swapout.study.report.drawing import COLOURS, DASHES, MARKERS, Style

if TYPE_CHECKING:
    from rich.console import Console

    from keras_swapout.study.evaluate.data import Images

# The settings that the command line takes, in the order to show them.
OPTIONS = (
    "data",
    "samples",
    "split",
    "limit",
    "image_size",
    "scale",
    "mean",
    "std",
    "corruption_images",
    "severities",
    "batch_size",
)
SIDE = 96  # pixels of an example on the page, at most

LIMITS = (
    "“No difference measured” does not mean that there is none: the interval beside it says how "
    "large a difference may still be.",
    "An interval over images says what other images of the same kind would show of these trained "
    "networks. Training again gives other networks, and only several seeds of each model tell how "
    "much that changes.",
    "The corruptions are synthetic. They are a stand-in for worse images, not a sample of yours: "
    "the examples above show whether they look like what your cameras do.",
    "The mean over corruptions and severities gives each of them the same weight. If some matter "
    "more to you, read their columns.",
    "Images that were trained on, or by which a model was chosen, flatter it. That the options "
    "give the split of the training can't be checked from a model file.",
    "The correction is for the number of comparisons, not for the number of measures.",
    "Times are of this machine, this batch size and this framework.",
)


def print_table(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the answer, a row for each model and way, and what the comparisons found.

    Args:
        results: of `keras_swapout.study.evaluate.evaluate`.
        console: where to print; default the standard output. Below 100 columns, deviations go on
            a line of their own.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    text, comparison = page.for_terminal(console), results["comparison"]
    narrow = console.width < 100
    console.print()
    console.print(text(comparison["answer"], "bold"))
    for sentence in comparison["details"]:
        console.print(text(sentence))
    console.print()
    measures = [measure for measure in comparison["measures"] if measure["terminal"]]
    if narrow:
        measures = [measure for measure in measures if measure["name"] != "corrupted_ece"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=narrow)
    table.add_column("")
    for measure in measures:
        heading = _heading(measure) + (f" ({measure['unit']})" if measure["unit"] else "")
        table.add_column(text("\n".join(textwrap.wrap(heading, 12))), justify="right", no_wrap=True)
    for row in _rows(comparison):
        cells = [text(row["title"].replace(", ", ",\n") if narrow else row["title"])]
        for measure in measures:
            cell = row["cells"][measure["name"]]
            content, verdict = text(cell["mean"]), cell["verdict"]
            parts = [
                text(f" {MARKS[verdict]}", MARK_COLOURS[verdict]) if verdict else None,
                text(f"{chr(10) if narrow else ' '}± {cell['sd']}", "dim") if cell["sd"] else None,
            ]
            for part in filter(None, parts if narrow else reversed(parts)):
                content.append(part)
            cells.append(content)
        table.add_row(*cells)
    console.print(table)
    if comparison["comparisons"]:
        legend = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
        legend += ": a way against deterministic inference, a model against the first one."
        if len(results["runs"]) > len(results["rows"]):
            legend += " ± is the standard deviation over seeds."
        console.print(text(legend))
        console.print()
    for one in comparison["comparisons"]:
        console.print(text(one["sentence"]))
    if comparison["test"]:
        console.print()
        console.print(text(comparison["test"], "dim"))


def write_report(results: Mapping[str, Any], examples: Mapping[str, Any] | None, out: Path) -> Path:
    """Writes `report.html`, one file that needs neither network nor scripts.

    Args:
        results: of `keras_swapout.study.evaluate.evaluate`.
        examples: of `examples`, or None to leave them out.
        out: the folder; it is made if need be.

    Returns:
        The path of the page.
    """
    comparison, drawn = results["comparison"], styles(results["rows"])
    runs = {row: [run for run in results["runs"] if run["row"] == row] for row in drawn}
    ece = {row: one["measures"]["ece"]["mean"] for row, one in comparison["rows"].items()}
    figures = {
        "severities": plots.severities(runs, drawn),
        "calibration": plots.calibration(runs, drawn, ece),
        "risk_coverage": plots.risk_coverage(runs, drawn),
    }
    first = next(iter(drawn))
    compared = [*(measure.name for measure in COMPARED), "time"]
    headings = [(measure, _heading(measure)) for measure in comparison["measures"]]
    settings = dict(results["settings"])
    settings.pop("models")
    path = Path(out) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = page.template(Path(__file__).with_name("report.html.j2")).render(
        name=results["data"]["name"],
        comparison=comparison,
        rows=_rows(comparison),
        compared=[m for m in headings if m[0]["name"] in compared],
        others=[m for m in headings if m[0]["name"] not in compared],
        notes=[(_heading(m), m["note"]) for m in comparison["measures"] if m["note"]],
        marks=MARKS,
        classes={"better": "better", "worse": "worse"},
        styles=drawn,
        figures={k: page.svg(figure, k) for k, figure in figures.items() if figure is not None},
        few=plots.FEW,
        corruptions=page.corruptions(runs, {row: s.title for row, s in drawn.items()}, first),
        first=first,
        examples=examples,
        sizes=results["data"]["sizes"],
        severities=results["settings"]["severities"],
        models=results["models"],
        seeds=sum(len(model["files"]) for model in results["models"].values()),
        sources=_sources(results["corruptions"]["sources"]),
        left_out=results["corruptions"]["left_out"],
        recalibrated=any(row["way"] == "recalibrated" for row in results["rows"].values()),
        split=results["settings"]["split"],
        data=page.described(results["data"]),
        settings=page.flat(settings),
        environment=page.flat(results["environment"]),
        command=_command(results),
        limits=LIMITS,
    )
    path.write_text(text, encoding="utf-8")
    return path


def styles(rows: Mapping[str, Mapping[str, str]]) -> dict[str, Style]:
    """The look of every row: a colour for each model, dashes and marker for each way.

    Of one model the ways have colours of their own.

    Example:

    >>> drawn = styles({"a, x": {"model": "a", "way": "x"}, "a, y": {"model": "a", "way": "y"}})
    >>> drawn["a, x"].colour == drawn["a, y"].colour
    False
    """
    models = list(dict.fromkeys(row["model"] for row in rows.values()))
    ways = list(dict.fromkeys(row["way"] for row in rows.values()))
    found = {}
    for name, row in rows.items():
        model, way = models.index(row["model"]), ways.index(row["way"])
        found[name] = Style(
            name,
            COLOURS[(model if len(models) > 1 else way) % len(COLOURS)],
            DASHES[way % len(DASHES)],
            MARKERS[way % len(MARKERS)],
        )
    return found


def examples(images: Images) -> dict[str, Any]:
    """One image, clean and under each corruption at three severities, as PNG.

    Returns:
        {"clean": a data: URL, "severities", "corrupted": {name: [data: URLs]}}.
    """
    severities = images.options.severities
    shown = sorted({severities[0], severities[len(severities) // 2], severities[-1]})
    return {
        "clean": _png(images.images[images.chosen[0]]),
        "severities": shown,
        "corrupted": {
            name: [_png(images.corrupted(name, severity, count=1)[0]) for severity in shown]
            for name in images.corruptions
        },
    }


def _png(image):
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if max(picture.size) > SIDE:
        picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _heading(measure):
    short = {"Negative log likelihood": "NLL", "Calibration error": "ECE"}
    return next(
        (measure["title"].replace(k, v) for k, v in short.items() if k in measure["title"]),
        measure["title"],
    )


def _rows(comparison):
    """The table's cells as text, for the terminal and the page alike."""
    against = {one["second"]: one["measures"] for one in comparison["comparisons"]}
    rows = []
    for name, row in comparison["rows"].items():
        cells = {}
        for measure in comparison["measures"]:
            summary = row["measures"][measure["name"]]
            found = against.get(name, {}).get(measure["name"])
            cells[measure["name"]] = {
                "mean": value_text(measure, summary["mean"], unit=False),
                "sd": ""
                if summary["sd"] is None
                else value_text(measure, summary["sd"], unit=False),
                "difference": "" if not found else difference_text(measure, found["difference"]),
                "interval": ""
                if not found or found["low"] is None
                else " to ".join(
                    value_text(measure, found[e], unit=False) for e in ("low", "high")
                ),
                "p": p_text(found["p_adjusted"]) if found else "",
                "verdict": found["verdict"] if found else "",
            }
        rows.append({"name": name, "title": name, "runs": row["runs"], "cells": cells})
    return rows


def _sources(sources):
    """Source to the corruptions that come from it, as text."""
    found: dict[str, list[str]] = {}
    for name, source in sources.items():
        found.setdefault(source, []).append(name.replace("_", " "))
    return {source: ", ".join(names) for source, names in found.items()}


def _command(results):
    settings = results["settings"]
    words = ["keras-swapout", "evaluate"]
    for model in results["models"].values():
        words += model["files"]
    for name in OPTIONS:
        value = settings[name]
        if value is not None:
            several = value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, several)]
    if results["imports"]:
        words += ["--import", *results["imports"]]
    return shlex.join(words)
