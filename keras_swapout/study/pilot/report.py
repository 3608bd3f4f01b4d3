"""A pilot's report: a table in the terminal, and a page that stands on its own."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_swapout.study.measuring.measure import (
    BETTER,
    MARK_COLOURS,
    MARKS,
    NO_DIFFERENCE,
    NOT_TESTABLE,
    WORSE,
    difference_text,
    p_text,
    value_text,
)
from keras_swapout.study.pilot.settings import OPTIONS
from keras_swapout.study.pilot.verdicts import BASELINE

if TYPE_CHECKING:
    from rich.console import Console


LIMITS = (
    "“No difference measured” does not mean that there is none: the interval beside it says how "
    "large a difference may still be.",
    "The seeds share one split. Whether a difference holds for other images of the same kind is "
    "a matter of the size of the test set, not of the number of seeds.",
    "A method whose title has no numbers ran with its default probabilities, which were not tuned "
    "on this data (keras-swapout tune does that). Another setting may do better or worse.",
    "A longer training, a larger network or more data may rank the methods differently.",
    "The correction is for the number of methods, not for the number of measures: the more "
    "measures are looked at, the likelier it is that one of them shows a difference by chance.",
    "The corruptions are synthetic. They are a stand-in for worse images, not a sample of yours.",
    "Times are of this machine, this batch size and this framework.",
)


def print_table(
    results: Mapping[str, Any], comparison: Mapping[str, Any], console: Console | None = None
) -> None:
    """Prints the answer, a table of the methods, and the verdicts.

    Args:
        results: what a pilot measured.
        comparison: what `compare` made of it.
        console: where to print; default the standard output. Below 100 columns, deviations go on
            a line of their own.

    Example:
        >>> from rich.console import Console
        >>> from keras_swapout.study.pilot.compare import compare
        >>> results = {
        ...     "methods": {"plain": {"title": "Plain"}},
        ...     "runs": [{"method": "plain", "seed": 0, "test": {"accuracy": 0.975}}],
        ... }
        >>> print_table(results, compare(results), Console(width=60, no_color=True))
        <BLANKLINE>
        On this data, at this budget, only plain was run: there is
        nothing to compare it with.
        ...
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from keras_swapout.study.report.page import for_terminal

    console = console or Console()
    narrow = console.width < 100

    text = for_terminal(console)
    console.print()
    console.print(text(comparison["answer"], "bold"))
    for sentence in comparison["details"]:
        console.print(text(sentence))
    console.print()

    measures = [measure for measure in comparison["measures"] if measure["terminal"]]
    timed = any(method["cost"] for method in comparison["methods"].values())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=narrow)
    headings = [
        f"{measure['title']}{' (' + measure['unit'] + ')' if measure['unit'] else ''}"
        for measure in measures
    ] + (["Train step ×", "Inference ×"] if timed else [])
    table.add_column("")
    for heading in headings:
        # Numbers stay whole; where room is short, the titles of the methods give way.
        width = max(map(len, heading.split())) if narrow else 12
        wrapped = "\n".join(textwrap.wrap(heading, width))
        table.add_column(text(wrapped), justify="right", no_wrap=True)
    for row in _rows(comparison):
        cells = [text(row["title"])]
        for measure in measures:
            cell = row["measures"][measure["name"]]
            content = text(cell["mean"])
            if cell["sd"]:
                content.append(text(f"{chr(10) if narrow else ' '}± {cell['sd']}", "dim"))
            if len(comparison["methods"]) > 1:
                mark = MARKS.get(cell["verdict"], " ")
                content.append(text(f" {mark}", MARK_COLOURS.get(cell["verdict"], "")))
            cells.append(content)
        for key in ("train_step_ratio", "inference_ratio") if timed else ():
            ratio = (row["cost"] or {}).get(key)
            cells.append(text("–" if ratio is None else f"{ratio:.2f}"))
        table.add_row(*cells)
    console.print(table)
    if len(comparison["methods"]) > 1:
        legend = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
        console.print(text(f"Against plain: {legend}. ± is the standard deviation over seeds."))
    console.print()
    for method in comparison["methods"].values():
        console.print(text(method["verdict"]))
    console.print()
    console.print(text(comparison["test"], "dim"))
    if comparison["agreement"]:
        _print_agreement(comparison, console, text)
    if comparison["inference"]:
        _print_inference(comparison, console, text)


def _print_agreement(comparison, console, text):
    from rich import box
    from rich.table import Table

    found, narrow = comparison["agreement"], console.width < 100
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=narrow)
    table.add_column("")
    for measure in found["measures"]:
        unit = f" ({measure['unit']})" if measure["unit"] else ""
        heading = "\n".join(textwrap.wrap(measure["title"] + unit, 12))
        table.add_column(text(heading), justify="right", no_wrap=True)
    for row in agreement_rows(comparison):
        cells = [cell.replace(" ±", "\n±" if narrow else " ±") for cell in row["cells"]]
        table.add_row(text(row["title"]), *map(text, cells))
    console.print()
    console.print(table)
    for sentence in found["sentences"]:
        console.print(text(sentence))


def _print_inference(comparison, console, text):
    from rich import box
    from rich.table import Table

    found = comparison["inference"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("")
    table.add_column("Inference", no_wrap=True)
    for measure in found["measures"]:
        unit = f" ({measure['unit']})" if measure["unit"] else ""
        heading = "\n".join(textwrap.wrap(measure["title"] + unit, 12))
        table.add_column(text(heading), justify="right", no_wrap=True)
    table.add_column(text("Time ×"), justify="right")
    for row in inference_rows(comparison):
        table.add_row(
            text(row["title"] if row["first"] else ""),
            text(row["way"].replace("stochastic ", "")),
            *map(text, row["cells"]),
        )
    console.print()
    console.print(table)
    for sentence in found["sentences"]:
        console.print(text(sentence))


def _sampled_images(comparison):
    from keras_swapout.study.pilot.training import SAMPLED_IMAGES

    size = comparison["test_images"]
    return "the" if size is None else f"{min(size, SAMPLED_IMAGES):,}"


def agreement_rows(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The consistency table's cells as text: mean and standard deviation over seeds."""
    rows = []
    for name, summaries in comparison["agreement"]["methods"].items():
        cells = []
        for measure in comparison["agreement"]["measures"]:
            summary = summaries[measure["name"]]
            cell = value_text(measure, summary["mean"], unit=False)
            if summary["sd"] is not None:
                cell += f" ± {value_text(measure, summary['sd'], unit=False)}"
            cells.append(cell)
        title = comparison["methods"][name]["title"]
        rows.append({"name": name, "title": title, "cells": cells})
    return rows


def inference_rows(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cells of the table of ways of inference as text: mean and deviation, and the time."""
    rows = []
    for name, ways in comparison["inference"]["methods"].items():
        for number, (way, row) in enumerate(ways.items()):
            cells = []
            for measure in comparison["inference"]["measures"]:
                summary = row["measures"][measure["name"]]
                cell = value_text(measure, summary["mean"], unit=False)
                if summary["sd"] is not None:
                    cell += f" ± {value_text(measure, summary['sd'], unit=False)}"
                cells.append(cell)
            title = comparison["methods"][name]["title"]
            cells.append(f"{row['cost']:.2g}" if row["cost"] < 10 else f"{row['cost']:.0f}")
            rows.append(
                {"name": name, "title": title, "way": way, "first": number == 0, "cells": cells}
            )
    return rows


def write_report(results: Mapping[str, Any], comparison: Mapping[str, Any], out: Path) -> Path:
    """Writes `report.html`, one file that needs neither network nor scripts.

    Args:
        results: what a pilot measured. Beside the runs it may hold `settings`, `recipe`,
            `environment` and `data`, whose entries are listed as they are. The command to
            repeat the pilot is `settings["command"]`, or else made from the settings;
            `settings["corruption_images"]` is the number of test images that were corrupted.
        comparison: what `compare` made of it.
        out: the folder; it is made if need be.

    Returns:
        The path of the page.

    Raises:
        ImportError: a missing package; the message has the command.

    Example:
        >>> import tempfile
        >>> from keras_swapout.study.pilot.compare import compare
        >>> results = {"methods": {"plain": {"title": "Plain"}}, "runs": []}
        >>> write_report(results, compare(results), Path(tempfile.mkdtemp())).name
        'report.html'
    """
    try:
        from keras_swapout.study.pilot import plots
        from keras_swapout.study.report import page
        from keras_swapout.study.report import plots as shared

        figures = {
            name: page.svg(figure, name)
            for name, draw in plots.FIGURES.items()
            if (figure := draw(results, comparison)) is not None
        }
    except ImportError as error:
        raise ImportError(
            f'{error}. Install what is missing with: pip install "keras-swapout[pilot]"'
        ) from error
    settings = dict(results.get("settings") or {})
    surroundings = dict(results.get("environment") or {})
    data = dict(results.get("data") or {})
    recipe = results.get("recipe") or {}
    command = settings.pop("command", None) or _command(settings)
    corrupted = settings.get("corruption_images")
    if corrupted and comparison["test_images"]:
        corrupted = min(corrupted, comparison["test_images"])
    text = page.template(Path(__file__).parent / "report.html.j2").render(
        name=str(data.get("name", "")),
        data=page.described(data),
        comparison=comparison,
        rows=_rows(comparison),
        notes=[(m["title"], m["note"]) for m in comparison["measures"] if m["note"]],
        marks=MARKS,
        classes={
            BETTER: "better",
            WORSE: "worse",
            NO_DIFFERENCE: "same",
            NOT_TESTABLE: "open",
            None: "base",
        },
        styles=plots.styles(results),
        methods=results["methods"],
        figures=figures,
        few=shared.FEW,
        corruptions=page.corruptions(
            plots.by_method(results),
            {m: s.title for m, s in plots.styles(results).items()},
            BASELINE,
        ),
        corruption_images=corrupted,
        timing=results.get("timing") or {},
        seeds=sorted({run["seed"] for run in results["runs"]}),
        minutes=sum(run.get("seconds") or 0 for run in results["runs"]) / 60,
        recipe=page.flat(recipe) if isinstance(recipe, Mapping) else str(recipe),
        settings=page.flat(settings),
        environment=page.flat(surroundings),
        command=command,
        limits=LIMITS,
        agreement=comparison["agreement"],
        agreement_rows=agreement_rows(comparison) if comparison["agreement"] else [],
        inference=comparison["inference"],
        inference_rows=inference_rows(comparison) if comparison["inference"] else [],
        inference_images=_sampled_images(comparison),
    )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def _rows(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table's cells as text, for the terminal and the page alike."""
    rows = []
    for name, method in comparison["methods"].items():
        cells = {}
        for measure in comparison["measures"]:
            row = method["measures"][measure["name"]]
            # Against itself plain has no verdict, and one run has no deviation.
            cells[measure["name"]] = {
                "mean": value_text(measure, row["mean"], unit=False),
                "sd": "" if row["sd"] is None else value_text(measure, row["sd"], unit=False),
                "difference": ""
                if row["difference"] is None
                else difference_text(measure, row["difference"]),
                "interval": ""
                if row["low"] is None
                else f"{value_text(measure, row['low'], unit=False)} to "
                f"{value_text(measure, row['high'], unit=False)}",
                "p": p_text(row["p_adjusted"]),
                "verdict": row["verdict"],
            }
        rows.append(
            {
                "name": name,
                "title": method["title"],
                "runs": method["runs"],
                "cost": method["cost"],
                "measures": cells,
            }
        )
    return rows


def _command(settings: Mapping[str, Any]) -> str | None:
    """The command line with these settings, written out in full."""
    if "data" not in settings:
        return None
    words = ["keras-swapout", "pilot"]
    for name in OPTIONS:
        value = settings.get(name)
        if value is not None:
            several = value if isinstance(value, list | tuple) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, several)]
    return shlex.join(words)
