"""Does a model, or a way of inference, differ from another by more than chance?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_swapout.study.evaluate.measures import COMPARED, DECIDE, MEASURES, PRIMARY
from keras_swapout.study.measuring.comparison import BETTER, WORSE, against, summary
from keras_swapout.study.measuring.statistics import mean_interval
from keras_swapout.study.measuring.ways import DETERMINISTIC
from keras_swapout.study.report.answer import answer, how_tested, sentence
from keras_swapout.study.report.words import amount, counted, interval_text, lower, value_text

INFERENCE = f"{DETERMINISTIC} inference"


def compare(
    rows: Mapping[str, Mapping[str, str]],
    runs: Sequence[Mapping[str, Any]],
    images: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    """Each way against the deterministic one, and each model against the first, measure by measure.

    Where both sides have two trained networks or more, the verdict is over them: a paired t-test
    for two ways of the same networks, Welch's for two models. Otherwise it is over the images, in
    pairs: the difference on an image is the mean over the corruptions and severities, and over the
    networks of a model if it has several. Holm's correction is over all comparisons of a measure.

    Args:
        rows: name to {"model", "way"}, the ways of the first model first.
        runs: what was measured: each with "row", "seed" and the paths in `MEASURES`.
        images: row to measure of `COMPARED` to its values by image, (n,), means over the networks.

    Returns:
        Plain dicts and lists, ready for JSON:

        - "answer": does accuracy under corruption go up? "details": sentences to go with it;
          "test": how the verdicts were reached.
        - "measures": the measures with a value, as dicts of `Measure`'s attributes.
        - "rows": name to {"model", "way", "runs", "measures"}, the last one name to `summary`.
        - "comparisons": a list as of `against` (both of
          `keras_swapout.study.measuring.comparison`), with "kind", "way" or "model", and
          "sentence"; "over" is "networks" or "images".

    Example:

    >>> rows = {name: {"model": name, "way": "deterministic"} for name in "ab"}
    >>> runs = [{"row": "a", "seed": 0, "corrupted": {"accuracy": 0.5}},
    ...         {"row": "b", "seed": 0, "corrupted": {"accuracy": 0.75}}]
    >>> images = {"a": {"corrupted_accuracy": np.array([0.5, 0.4, 0.6, 0.5])},
    ...           "b": {"corrupted_accuracy": np.array([0.7, 0.7, 0.8, 0.8])}}
    >>> print(compare(rows, runs, images)["answer"])
    Better than a in accuracy under corruption: b by 25.0 points (95 % interval over 4 images 15.8
    to 34.2; 75.0 % against 50.0 %, adjusted p = 0.003).
    """
    values = {
        row: {
            m.name: [v for run in runs if run["row"] == row and (v := m.read(run)) is not None]
            for m in MEASURES
        }
        for row in rows
    }

    # Of what is no image there is no corruption, and of numbers no accuracy.
    there = [m for m in DECIDE if all(m.name in images[row] for row in rows)]
    primary = there[0] if there else PRIMARY

    def several(row):
        return len(values[row][primary.name]) > 1

    def groups(row, measure, over):
        return (images if over == "images" else values)[row].get(measure.name)

    pairs = []
    for kind, first, second in _pairs(rows):
        over = "networks" if several(first) and several(second) else "images"
        model, way = rows[second]["model"], rows[second]["way"]
        named = {"model": (model, rows[first]["model"]), "way": (f"{model}, {way}", INFERENCE)}
        subject, reference = named[kind]
        pairs.append(
            {
                "kind": kind,
                "first": first,
                "second": second,
                "subject": subject,
                "reference": reference,
                "over": over,
                "paired": kind == "way" or over == "images",
            }
        )
    compared = [m for m in COMPARED if all(m.name in images[row] for row in rows)]
    comparisons = against(pairs, compared, groups)
    for one in comparisons:
        one["sentence"] = sentence(one, compared)
    shown = [m for m in MEASURES if any(values[row][m.name] for row in rows)]
    text, details = _answer(rows, values, comparisons, images, primary)
    return {
        "measures": [dataclasses.asdict(measure) for measure in shown],
        "rows": {
            name: {
                **row,
                "runs": sum(run["row"] == name for run in runs),
                "measures": {m.name: summary(values[name][m.name]) for m in shown},
            }
            for name, row in rows.items()
        },
        "comparisons": comparisons,
        "answer": text,
        "details": details,
        "test": _how_tested(comparisons),
    }


def _pairs(rows):
    """(kind, first, second): each model against the first one, then each model's ways."""
    base = {row["model"]: name for name, row in rows.items() if row["way"] == DETERMINISTIC}
    first = next(iter(base.values()))
    pairs = [("model", first, name) for name in base.values() if name != first]
    return pairs + [
        ("way", base[row["model"]], name)
        for name, row in rows.items()
        if row["way"] != DETERMINISTIC
    ]


def _answer(rows, values, comparisons, images, primary):
    models = [one for one in comparisons if one["kind"] == "model"]
    ways = [one for one in comparisons if one["kind"] == "way"]
    text, details = answer(models or ways, primary)
    if not text:
        return _alone(values[next(iter(rows))], images[next(iter(rows))], primary), []
    if models and ways:
        name = lower(primary.title)
        found = [
            (one, row)
            for one in ways
            if (row := one["measures"].get(primary.name)) and row["verdict"] in (BETTER, WORSE)
        ]
        said = [
            f"{one['subject']}, {amount(primary, row, True, one['over'])}" for one, row in found
        ]
        details.append(
            f"The way of inference changes {name}: {'; '.join(said)}."
            if found
            else f"No way of inference made a measured difference to {name}."
        )
    return text, [*details, _scope(models or ways)]


def _alone(values, images, primary):
    if not values[primary.name]:
        return "Nothing was measured."
    mean = {name: float(np.mean(own)) for name, own in values.items() if own}
    text = f"{primary.title} is {value_text(primary, mean[primary.name])}"
    if interval := mean_interval(images.get(primary.name, ())):
        text += f" (95 % interval over images {interval_text(primary, *interval)})"
    if primary is PRIMARY and "accuracy" in mean:
        text += f", on clean images {value_text(primary, mean['accuracy'])}"
    return f"{text}; with one model in one way of inference there is nothing to compare."


def _scope(asked):
    over = {one["over"] for one in asked}
    count = next((row["n"][0] for one in asked for row in one["measures"].values()), 0)
    images = f"The interval is over {counted(count, 'image')}"
    if over == {"images"} and all(one["kind"] == "way" for one in asked):
        return (
            f"{images} and for this trained network: it covers other images of the same kind, not "
            "other training runs."
        )
    if over == {"images"}:
        return (
            f"{images}: it covers other images of the same kind, but not other training runs. Two "
            "networks trained alike differ too; with two seeds of each model or more "
            "(name-seed0.keras, name-seed1.keras, ...) the verdict covers that."
        )
    if over == {"networks"}:
        return "The interval is over the trained networks of each model, on the same images."
    return (
        "Where both models have two trained networks or more, the interval is over them; where "
        "not, it is over images and does not cover other training runs."
    )


def _how_tested(comparisons):
    text = how_tested(comparisons)
    if text and any(one["over"] == "images" for one in comparisons):
        text += (
            " Under corruption, the difference on an image is the mean over corruptions and "
            "severities."
        )
    if len({one["paired"] for one in comparisons if one["over"] == "networks"}) > 1:
        text += " Two ways of the same networks are paired, two models are not."
    return text
