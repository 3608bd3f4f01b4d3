"""A pilot's page, as data; `keras_swapout.study.report.page` writes it and prints its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_swapout.study.pilot import plots
from keras_swapout.study.pilot.brief import brief
from keras_swapout.study.pilot.compare import BASELINE, by_condition, condition
from keras_swapout.study.pilot.measures import SAMPLED_IMAGES
from keras_swapout.study.pilot.settings import OPTIONS
from keras_swapout.study.report.dots import in_words
from keras_swapout.study.report.page import (
    Facts,
    Page,
    Picture,
    Section,
    Text,
    command,
    flat,
    how_measured,
    shades,
)
from keras_swapout.study.report.plots import FEW
from keras_swapout.study.report.tables import Cell, Column, Row, Table, cell, column
from keras_swapout.study.report.words import counted, lower

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
    "Times are of this machine, with runs side by side; keras-swapout benchmark measures a step.",
)


def make_page(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Page:
    """The page of a pilot.

    Args:
        results: what a pilot measured. Beside what is compared it may hold "settings",
            "environment", "data", "recipe" and "timing"; each may be missing.
        comparison: what `compare` made of it.

    Example:

    >>> from keras_swapout.study.pilot.compare import compare
    >>> results = {
    ...     "methods": {"plain": {"title": "Plain"}},
    ...     "runs": [{"method": "plain", "seed": 0, "test": {"accuracy": 0.975}}],
    ... }
    >>> make_page(results, compare(results)).answer
    'On this data, at this budget, only plain was run: there is nothing to compare it with.'
    """
    drawn, name = plots.styles(results), str((results.get("data") or {}).get("name", ""))
    settings, primary = results.get("settings") or {}, comparison["primary"]
    again = None
    if "data" in settings:
        again = command(["keras-swapout", "pilot"], settings, OPTIONS)
    formulas = [
        (str(m.get("title", n)), m.get("formula", "")) for n, m in results["methods"].items()
    ]
    recipe = Facts("Recipe", flat(results.get("recipe") or {}))
    short, conditions = brief(results, comparison), comparison["conditions"]
    seen = plots.groups(results, comparison)
    picture = Picture(
        "seeds",
        f"{primary.title if primary else 'Test accuracy'}, seed by seed",
        "Each dot is one seed, the upright stroke their mean and the bar its 95 % interval (a bar "
        "that runs out of the picture is wider than drawn); the dashed line is plain's mean. Dots "
        "of two methods that mix freely mean that the seed matters as much as the method.",
        plots.seeds(results, comparison),
        in_words(seen, primary) if primary else "",
    )
    sections = [Section("The numbers", _numbers(results, conditions, drawn), terminal=True)]
    runs, several = by_condition(results), len(conditions) > 1
    for place, (share, found) in enumerate(conditions.items()):
        own = f": {lower(condition(share))}" if several else ""
        sections += _sections(
            {**results, "runs": runs[share]}, found, drawn, own, f"-{place}" * several
        )
    return Page(
        title=f"Pilot report{f': {name}' if name else ''}",
        under=_under(results, comparison),
        answer=short.answer,
        details=[*short.notes, *short.then],
        sections=[
            *sections,
            *how_measured(results, [Facts("Methods", formulas), recipe], again, LIMITS),
        ],
        picture=picture,
    )


def _sections(results, found, drawn, own, suffix):
    """What there is to say of one condition; `own` goes to the headings."""
    figures = {key: draw(results, found) for key, draw in plots.FIGURES.items()}
    verdicts = [
        *map(Text, found["details"]),
        *(
            Text(method["verdict"], "verdict", method["title"], drawn[n].colour)
            for n, method in found["methods"].items()
        ),
        Text(found["test"], "test"),
    ]
    sections = [
        Section(f"Method by method{own}", verdicts, True, "a sentence for each"),
        Section(
            f"Training against inference{own}",
            _agreement(found, drawn, figures),
            True,
            "do sub-models agree?",
        ),
        Section(
            f"Ways of inference{own}", _inference(found, drawn, figures), True, "the same networks"
        ),
        Section(
            f"Pictures{own}",
            _pictures(results, found, drawn, figures),
            folded="corruptions, calibration, learning curves",
        ),
    ]

    def named(part):
        return part._replace(name=part.name + suffix) if isinstance(part, Picture) else part

    return [section._replace(parts=list(map(named, section.parts))) for section in sections]


def _under(results, comparison):
    minutes = sum(run.get("seconds") or 0 for run in results["runs"]) / 60
    parts = [
        counted(len(comparison["methods"]), "method"),
        counted(len({run["seed"] for run in results["runs"]}), "seed"),
    ]
    if comparison["test_images"]:
        parts.append(counted(comparison["test_images"], "test image"))
    if minutes >= 0.1:
        parts.append(f"{minutes:.1f} minutes of training in all")
    return f"{', '.join(parts)}."


def _numbers(results, conditions, drawn):
    """One table, the conditions as groups of its rows."""
    measures = list(dict.fromkeys(m for found in conditions.values() for m in found["measures"]))
    timed, compared, rows = bool(results.get("timing")), False, []
    columns = [column(measure) for measure in measures]
    if timed:
        columns += [Column("Training time ×", "of plain’s")]
    for share, found in conditions.items():
        methods = found["methods"]
        compared = compared or (len(methods) > 1 and BASELINE in methods)
        rows += [Row(condition(share), ())] if len(conditions) > 1 else []
        for name, method in methods.items():
            cells = [
                cell(m, method["measures"][m.name], method["against"].get(m.name))
                if m.name in method["measures"]
                else Cell("")
                for m in measures
            ]
            if timed:
                cells.append(_cost(method["cost"], name))
            title, runs = method["title"], counted(method["runs"], "run")
            rows.append(Row(title, cells, runs, drawn[name].colour))
    note = "Mean ± standard deviation over seeds"
    if compared:
        note += (
            "; below it the difference from plain with its 95 % interval in brackets, and the "
            "verdict with its adjusted p-value"
        )
    note += "; times as medians over runs with quartiles" if timed else ""
    caveats = [Text(f"{m.title}: {m.caveat}.", "notes") for m in measures if m.caveat]
    return [
        Table("Method", columns, rows, against="Against plain", over="seeds"),
        Text(f"{note}.", "notes"),
        *caveats,
    ]


def _cost(cost, name):
    middle, low, high = (
        (cost or {}).get(f"train_step_ratio{end}") for end in ("", "_low", "_high")
    )
    if middle is None:
        return Cell("–")
    lines = [] if low is None or name == BASELINE else [f"{low:.2f} to {high:.2f}"]
    return Cell(f"{middle:.2f}", lines=lines)


def _agreement(comparison, drawn, figures):
    found = comparison["agreement"]
    if not found:
        return []
    measures = found["measures"]
    rows = [
        Row(drawn[name].title, [cell(m, row[m.name]) for m in measures], "", drawn[name].colour)
        for name, row in found["methods"].items()
    ]
    notes = " ".join(f"{m.title}: {m.note}." for m in measures)
    return [
        Text(
            "A sub-model is the network with one draw of its masks. Where sub-models and network "
            "agree, what was trained is what predicts."
        ),
        Table("Method", [column(m, "more consistent") for m in measures], rows, over="seeds"),
        Text(
            f"Mean ± standard deviation over seeds, on the test images. {notes} A network without "
            "stochastic layers has no sub-models.",
            "notes",
        ),
        *[Text(sentence, "verdict") for sentence in found["sentences"]],
        Text(found["test"], "test"),
        Picture(
            "agreement",
            "Consistency, seed by seed",
            "Each dot is one seed and the stroke their mean; further left is more consistent.",
            figures["agreement"],
        ),
        Picture(
            "alpha",
            "What alpha does",
            "Mean over seeds with one standard deviation; the dashed lines are the same layers "
            "trained without R-Block. A larger alpha asks the sub-models for more agreement: where "
            "accuracy falls it was too much.",
            figures["alpha"],
        ),
    ]


def _inference(comparison, drawn, figures):
    found = comparison["inference"]
    if not found:
        return []
    against = {one["second"][:2]: one["measures"] for one in found["contrasts"]}
    rows, seen = [], comparison["test_images"]
    for name, ways in found["methods"].items():
        for way, row in ways.items():
            rows_of = against.get((name, way), {})
            cells = [
                cell(m, row["measures"][m.name], rows_of.get(m.name)) for m in found["measures"]
            ]
            cost = f"{row['cost']:.2g}" if row["cost"] < 10 else f"{row['cost']:.0f}"
            rows.append(
                Row(f"{drawn[name].title}, {way}", [*cells, Cell(cost)], "", drawn[name].colour)
            )
    images = f"{min(seen, SAMPLED_IMAGES):,}" if seen else "the"
    return [
        Text(
            "The same trained networks, asked differently. Deterministic: once, without noise. "
            "Recalibrated: once, after batch normalisation's statistics were estimated again on "
            "the training images without noise. Stochastic: the mean of T predictions with the "
            "masks of training."
        ),
        Table(
            "Method, way of inference",
            [*map(column, found["measures"]), Column("Time ×", "of deterministic")],
            rows,
            against="Against deterministic inference",
            over="seeds",
        ),
        Text(
            f"Mean ± standard deviation over seeds, on {images} test images; below it the "
            "difference from deterministic inference of the same networks with its 95 % interval "
            "in brackets, and the verdict with its adjusted p-value.",
            "notes",
        ),
        *[Text(sentence, "verdict") for sentence in found["sentences"]],
        Text(found["test"], "test"),
        Picture(
            "inference",
            "Error and likelihood by way of inference",
            "Mean over seeds (with a band of one standard deviation where there are few methods); "
            "a method without stochastic layers has no sub-models to sample.",
            figures["inference"],
        ),
    ]


def _pictures(results, comparison, drawn, figures):
    runs = plots.by_method(results)
    table = shades("Method", runs, drawn, BASELINE)
    corrupted = (results.get("settings") or {}).get("corruption_images")
    if corrupted and comparison["test_images"]:
        corrupted = min(corrupted, comparison["test_images"])
    part = f"{corrupted:,} images of it" if corrupted else "possibly a part of it"
    shaded = len(comparison["methods"]) > 1 and BASELINE in comparison["methods"]
    colours = "; blue is above plain and orange below, the stronger the further" if shaded else ""
    texts = {
        "severities": (
            "Accuracy on corrupted images",
            "Read from left to right how fast a method loses accuracy as the images get worse: the "
            f"mean over {len(table.columns) if table else 'all'} corruptions, with a band of one "
            "standard deviation over seeds; clean images are the whole test set, corrupted ones "
            f"{part}.",
        ),
        "calibration": (
            "Calibration",
            "On the dashed diagonal the network is right as often as it claims, below it, it is "
            "overconfident; the grey line is plain, seeds are pooled, a dot grows with its bin's "
            f"share of the test images, and bins with fewer than {FEW} images are left out (ECE: "
            "expected calibration error).",
        ),
        "training": (
            "Training",
            "Mean over seeds with a band of one standard deviation; the training loss is measured "
            "with the masks on, so a method's loss may lie above plain's without being worse, and "
            "the curves on the right are the ones to compare.",
        ),
    }
    pictures = [Picture(key, *text, figures[key]) for key, text in texts.items()]
    corruptions = [
        "Corruption by corruption",
        table,
        Text(
            f"Accuracy (%), mean over severities and seeds{colours}. No single cell is tested.",
            "notes",
        ),
    ]
    return [*pictures[:1], *(corruptions if table else []), *pictures[1:]]
