"""A search's report: the answer in the terminal, and a page that stands on its own."""

from __future__ import annotations

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
)
from keras_swapout.study.tune.gain import against, gain
from keras_swapout.study.tune.sensitivity import sensitivity
from keras_swapout.study.tune.sentences import amount, finer
from keras_swapout.study.tune.tables import gain_rows, sensitivity_rows, setting_rows, trial_rows

if TYPE_CHECKING:
    from rich.console import Console

MANY = 40  # trials, above which their table is folded
LIMITS = (
    "Every trial was judged on one and the same validation split: what is best there need not be "
    "best on other images, and the noise given here does not include the choice of the split.",
    "The best trial's value is optimistic, since it was picked for it. The surrogate's value at "
    "the same setting is less so, and the final runs not at all: they have fresh seeds and are "
    "measured on the test images.",
    "A trial is noisy: with another seed the same setting gives another value. Costs below the "
    "noise of one trial can matter only on average over many trainings.",
    "The surrogate is a smooth guess. Away from the trials it knows little, and its intervals "
    "take its own smoothness for granted.",
    "The profile of a parameter holds the others at the optimum; away from it, another value may "
    "be best.",
    "A longer training, a larger network or more data may have another optimum.",
)


def analyse(results: Mapping[str, Any]) -> dict[str, Any]:
    """What a search found: was it worth it, and how much does each parameter matter?

    Args:
        results: of a search.

    Returns:
        Plain dicts and lists, ready for JSON:

        - "answer": one sentence, from the test images where there are final runs, or else from the
          validation images; "details": sentences to go with it.
        - "trials": {"started", "completed", "failed"}.
        - "sensitivity": see `sensitivity`; "gain": see `gain`, or None.
    """
    found, gained = sensitivity(results), gain(results)
    statuses = [trial["status"] for trial in results["trials"]]
    said = [against(gained, results, role) for role in ("default", "plain")] if gained else []
    answer, *details = [*filter(None, said), found["answer"]]
    return {
        "answer": answer,
        "details": details,
        "trials": {
            "started": len(statuses),
            "completed": statuses.count("COMPLETED"),
            "failed": sum(status in ("FAILED", "INVALID") for status in statuses),
        },
        "sensitivity": found,
        "gain": gained,
    }


def print_summary(
    results: Mapping[str, Any], analysis: Mapping[str, Any], console: Console | None = None
) -> None:
    """Prints the answer, the settings, what each parameter costs, and the gain on test.

    Args:
        results: of a search.
        analysis: what `analyse` made of it.
        console: where to print; default the standard output.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from keras_swapout.study.report.page import for_terminal

    console = console or Console()
    text = for_terminal(console)
    console.print()
    console.print(text(analysis["answer"], "bold"))
    for sentence in analysis["details"]:
        console.print(text(sentence))
    console.print()
    titles, rows = setting_rows(results, analysis)
    table = Table("", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title in titles:
        table.add_column(text(title), justify="right")
    for title, cells in rows:
        table.add_row(*map(text, [title, *cells]))
    console.print(table)
    for sentence in analysis["sensitivity"]["sentences"]:
        console.print(text(sentence))
    if analysis["gain"]:
        table = Table("", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        for measure in analysis["gain"]["measures"]:
            unit = f" ({measure['unit']})" if measure["unit"] else ""
            table.add_column(text(measure["title"] + unit), justify="right", max_width=16)
        for row in gain_rows(analysis):
            cells = []
            for cell in row["cells"]:
                content = text(cell["mean"])
                content.append(
                    text(
                        f" {MARKS.get(cell['verdict'], ' ')}", MARK_COLOURS.get(cell["verdict"], "")
                    )
                )
                cells.append(content)
            table.add_row(text(row["part"]), *cells)
        console.print(table)
        for one in analysis["gain"]["contrasts"].values():
            console.print(text(one["sentence"]))
        legend = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
        console.print(text(f"Tuned against these: {legend}. {analysis['gain']['test']}", "dim"))


def write_report(results: Mapping[str, Any], analysis: Mapping[str, Any], out: Path) -> Path:
    """Writes `report.html`, one file that needs neither network nor scripts.

    Args:
        results: of a search. Beside what is analysed it may hold "settings", "environment" and
            "data", whose entries are listed as they are.
        analysis: what `analyse` made of it.
        out: the folder; it is made if need be.

    Returns:
        The path of the page.
    """
    from keras_swapout.study import store
    from keras_swapout.study.report import page
    from keras_swapout.study.tune import plots

    figures = {
        name: page.svg(figure, name)
        for name, draw in plots.FIGURES.items()
        if (figure := draw(results, analysis)) is not None
    }
    data = dict(results.get("data") or {})
    settings = dict(results.get("settings") or {})
    found = analysis["sensitivity"]
    shown = finer(found, results["objective"])
    text = page.template(Path(__file__).parent / "report.html.j2").render(
        name=str(data.get("name", "")),
        analysis=analysis,
        found=found,
        gained=analysis["gain"],
        method=results["method"],
        objective=results["objective"],
        parameters=results["parameters"],
        noise=amount(shown, found["noise"]["sd"]) if found["noise"] else None,
        chosen=setting_rows(results, analysis),
        sensitivity_rows=sensitivity_rows(results, analysis),
        gain_rows=gain_rows(analysis),
        trial_rows=trial_rows(results),
        many=MANY,
        marks=MARKS,
        classes={BETTER: "better", WORSE: "worse", NO_DIFFERENCE: "same", NOT_TESTABLE: "open"},
        figures=figures,
        minutes=sum(trial["seconds"] or 0 for trial in results["trials"]) / 60,
        data=page.described(data),
        command=settings.pop("command", None),
        settings=page.flat(settings),
        environment=page.flat(results.get("environment") or {}),
        limits=LIMITS,
    )
    path = Path(out) / "report.html"
    store.write_text(path, text)
    return path
