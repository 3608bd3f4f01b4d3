"""The comparisons of an evaluation in plain sentences, which claim no more than was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_swapout.study.evaluate.measures import COMPARED, MEASURES, PRIMARY
from keras_swapout.study.measuring.measure import (
    BETTER,
    NO_DIFFERENCE,
    NOT_TESTABLE,
    WORSE,
    counted,
    difference_text,
    p_text,
    value_text,
)
from keras_swapout.study.measuring.statistics import ALPHA
from keras_swapout.study.measuring.ways import DETERMINISTIC

MOST = 4  # comparisons named one by one in a sentence
_NAMES = {measure.name: measure.title[0].lower() + measure.title[1:] for measure in MEASURES}


def answer(
    comparison: Mapping[str, Any], alone: tuple[float, float] | None
) -> tuple[str, list[str]]:
    """Does accuracy under corruption go up? One sentence, and those to go with it.

    Args:
        comparison: of `compare`, with its rows and comparisons.
        alone: interval over the images of the first row's accuracy under corruption.
    """
    rows, every = comparison["rows"], comparison["comparisons"]
    every = [one for one in every if PRIMARY.name in one["measures"]]
    models = [one for one in every if one["kind"] == "model"]
    asked = models or every
    if not asked:
        return _alone(rows, alone)
    by = {
        verdict: sorted(
            (one for one in asked if _primary(one)["verdict"] == verdict),
            key=lambda one: -abs(_primary(one)["difference"]),
        )
        for verdict in (BETTER, WORSE, NO_DIFFERENCE, NOT_TESTABLE)
    }
    details = []
    for verdict, change in ((BETTER, "goes up"), (WORSE, "goes down")):
        if by[verdict]:
            lead = f"Accuracy under corruption {change} with "
            text = lead + "; ".join(
                f"{_subject(one, rows)}: by {_amount(one, rows, signed=False)}"
                for one in by[verdict][:MOST]
            )
            break
    else:
        none = by[NO_DIFFERENCE] or by[NOT_TESTABLE]
        lead = (
            "No difference in accuracy under corruption was measured: "
            if by[NO_DIFFERENCE]
            else "Whether accuracy under corruption goes up can't be tested: "
        )
        text = lead + "; ".join(
            f"{_subject(one, rows)} {_amount(one, rows)}" for one in none[:MOST]
        )
        verdict = _primary(none[0])["verdict"]
    if len(by[verdict]) > MOST:
        text += f"; and {len(by[verdict]) - MOST} more"
    for other, title in (
        (WORSE, "It goes down with"),
        (NO_DIFFERENCE, "No difference in it was measured for"),
        (NOT_TESTABLE, "Not testable"),
    ):
        if other != verdict and by[other]:
            found = "; ".join(
                f"{_subject(one, rows)}, {_amount(one, rows)}" for one in by[other][:MOST]
            )
            details.append(f"{title}: {found}.")
    ways = [one for one in every if one["kind"] == "way"] if models else []
    for verdict, change in ((BETTER, "up"), (WORSE, "down")):
        found = [one for one in ways if _primary(one)["verdict"] == verdict]
        if found:
            named = "; ".join(f"{_subject(one, rows)} {_amount(one, rows)}" for one in found[:MOST])
            details.append(f"With the way of inference it goes {change}: {named}.")
    if ways and not any(_primary(one)["verdict"] in (BETTER, WORSE) for one in ways):
        details.append("No way of inference made a measured difference to it.")
    details.append(_scope(asked))
    return f"{text}.", details


def _alone(rows, interval):
    row = next(iter(rows.values()))
    summary = row["measures"].get(PRIMARY.name) or {"mean": None}
    if summary["mean"] is None:
        return "Nothing was measured.", []
    text = f"Accuracy under corruption is {_value(PRIMARY, summary['mean'])}"
    clean = row["measures"].get("accuracy")
    if interval:
        text += f" (95 % interval over images {_interval(PRIMARY, *interval)})"
    if clean and clean["mean"] is not None:
        text += f", on clean images {_value(PRIMARY, clean['mean'])}"
    return f"{text}; with one model in one way of inference there is nothing to compare.", []


def sentence(one: Mapping[str, Any], rows: Mapping[str, Any]) -> str:
    """What one comparison found, in all measures."""
    parts = []
    for verdict in (BETTER, WORSE):
        found = [
            f"{_NAMES[m.name]} by {_amount(one, rows, m, signed=False, reference=False)}"
            for m in COMPARED
            if one["measures"].get(m.name, {}).get("verdict") == verdict
        ]
        if found:
            parts.append(f"{verdict}: {', '.join(found)}")
    same = [
        f"{_NAMES[m.name]} ({_difference(one['measures'][m.name], m)})"
        for m in COMPARED
        if one["measures"].get(m.name, {}).get("verdict") == NO_DIFFERENCE
    ]
    if same:
        parts.append(f"{NO_DIFFERENCE}: {', '.join(same)}")
    untested = [
        f"{_NAMES[m.name]} ({one['measures'][m.name]['reason']})"
        for m in COMPARED
        if one["measures"].get(m.name, {}).get("verdict") == NOT_TESTABLE
    ]
    if untested:
        parts.append(f"{NOT_TESTABLE}: {', '.join(untested)}")
    title = f"{_subject(one, rows)} against {_reference(one, rows)}"
    return f"{title}: {'; '.join(parts)}."


def how_tested(comparison: Mapping[str, Any]) -> str:
    """Which tests, and what they do not cover."""
    every = comparison["comparisons"]
    if not every:
        return ""
    text = []
    if any(one["over"] == "images" for one in every):
        text.append(
            "Over images: a paired t-test of the differences image by image, each the mean over "
            "corruptions and severities."
        )
    if any(one["over"] == "networks" for one in every):
        text.append(
            "Over trained networks: Welch's t-test between models, a paired t-test between two "
            "ways of the same networks."
        )
    count = len(every)
    if count > 1:
        text.append(
            f"All two-sided at alpha = {ALPHA:g}, with Holm's correction over the {count} "
            "comparisons within each measure and none over the measures; the 95 % intervals are "
            "not corrected."
        )
    else:
        text.append(f"Two-sided at alpha = {ALPHA:g}; no correction over the measures.")
    return " ".join(text)


def _scope(asked: Sequence[Mapping[str, Any]]) -> str:
    over = {one["over"] for one in asked}
    if over == {"images"} and all(one["kind"] == "way" for one in asked):
        return (
            f"The interval is over {counted(asked[0]['n'][0], 'image')} and for this trained "
            "network: it covers other images of the same kind, not other training runs."
        )
    if over == {"images"}:
        return (
            f"The interval is over {counted(asked[0]['n'][0], 'image')}: it covers other images of "
            "the same kind, but not other training runs. Two networks trained alike differ too; "
            "with two seeds of each model or more (name-seed0.keras, name-seed1.keras, ...) the "
            "verdict covers that."
        )
    if over == {"networks"}:
        return "The interval is over the trained networks of each model, on the same images."
    return (
        "Where both models have two trained networks or more, the interval is over them; where "
        "not, it is over images and does not cover other training runs."
    )


def _primary(one):
    return one["measures"][PRIMARY.name]


def _subject(one, rows):
    row = rows[one["second"]]
    if one["kind"] == "model":
        return row["model"]
    way = row["way"]
    return f"{way} inference of {row['model']}"


def _reference(one, rows):
    return rows[one["first"]]["model"] if one["kind"] == "model" else DETERMINISTIC


def _amount(one, rows, measure=PRIMARY, signed=True, reference=True):
    """ "3.2 points against plain (95 % interval over images 1.1 to 5.3; 78.2 % against 75.0 %)"."""
    row = one["measures"][measure.name]
    difference, low, high = row["difference"], row["low"], row["high"]
    if not signed and difference < 0:
        difference = -difference
        low, high = (None, None) if low is None else (-high, -low)
    entry = _entry(measure, difference)
    size = difference_text(entry, difference) if signed else value_text(entry, difference, False)
    unit = " points" if measure.unit == "%" else ""
    inside = []
    if low is not None:
        over = f" over {one['over']}" if reference else ""
        inside.append(f"95 % interval{over} {_interval(entry, low, high)}")
    inside.append(" against ".join(_value(measure, mean) for mean in reversed(row["means"])))
    if not reference and row["p_adjusted"] is not None:
        inside.append(f"adjusted {p_text(row['p_adjusted'])}")
    against = f" against {_reference(one, rows)}" if reference else ""
    return f"{size}{unit}{against} ({'; '.join(inside)})"


def _difference(row, measure):
    text = difference_text(dataclasses.asdict(measure), row["difference"])
    if row["low"] is None:
        return row["reason"]
    unit = " points" if measure.unit == "%" else ""
    return f"{text}{unit}, 95 % interval {_interval(measure, row['low'], row['high'])}"


def _entry(measure, difference):
    """The measure with so many digits that a measured difference is never shown as 0.0."""
    entry = dataclasses.asdict(measure)
    while difference and entry["digits"] < 9:
        if value_text(entry, abs(difference), unit=False).strip("0."):
            break
        entry["digits"] += 1
    return entry


def _value(measure, value):
    return value_text(dataclasses.asdict(measure), value)


def _interval(measure, low, high):
    entry = measure if isinstance(measure, dict) else dataclasses.asdict(measure)
    return " to ".join(value_text(entry, end, unit=False) for end in (low, high))
