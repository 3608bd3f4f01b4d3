"""A comparison in plain sentences, which claim no more than was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_swapout.study.measuring.measure import (
    BETTER,
    NO_DIFFERENCE,
    NOT_TESTABLE,
    WORSE,
    Measure,
    counted,
    difference_text,
    p_text,
    value_text,
)
from keras_swapout.study.measuring.statistics import ALPHA
from keras_swapout.study.pilot.measures import PRIMARY

BASELINE = "plain"
FEW = 4  # methods named one by one in a sentence


def how_tested(comparison: Mapping[str, Any]) -> str:
    """Which test, and what it does not cover."""
    count = sum(name != BASELINE for name in comparison["methods"])
    text = ""
    if count and BASELINE in comparison["methods"]:
        methods = f"the {count} methods" if count > 1 else "the methods (here one)"
        text = (
            "Each method is compared with plain by a two-sided Welch t-test over seeds at "
            f"alpha = {ALPHA:g}, with Holm's correction over {methods} within each measure but "
            "none over the measures, and 95 % intervals of the difference without correction. "
        )
    text += (
        "The spread is over initial weights, batch order and masks, with the split fixed, so it "
        "says nothing about other test images."
    )
    if comparison["resolution"] is not None:
        text += (
            f" A test set of {counted(comparison['test_images'], 'image')} itself resolves an "
            f"accuracy to ±{_points(comparison, comparison['resolution'])} (one binomial standard "
            "error)."
        )
    return text


def verdict(name: str, comparison: Mapping[str, Any], most: int) -> list[str]:
    """One method's sentences."""
    method = comparison["methods"][name]
    title = method["title"]
    if not method["runs"]:
        return [f"{title}: no finished runs."]
    measures = {measure["name"]: measure for measure in comparison["measures"]}
    sentences = []
    first = measures.get(PRIMARY.name)
    row = method["measures"].get(PRIMARY.name)
    if first is None or row is None or row["mean"] is None:
        sentences.append(f"{title}: no test accuracy was measured.")
    elif name == BASELINE:
        spread = "" if row["sd"] is None else f" ± {value_text(first, row['sd'], unit=False)}"
        others = len(comparison["methods"]) - 1
        role = {0: "there is nothing to compare it with", 1: "the other method is compared with it"}
        sentences.append(
            f"{title}: test accuracy {value_text(first, row['mean'], unit=False)}{spread} % over "
            f"{counted(row['n'], 'seed')}; "
            f"{role.get(others, 'the other methods are compared with it')}."
        )
    else:
        sentences += _primary_sentences(title, first, row, comparison)

    rest = {
        key: entry
        for key, entry in method["measures"].items()
        if key != PRIMARY.name and entry["verdict"] is not None
    }
    for verdict in (BETTER, WORSE):
        found = []
        for key, entry in rest.items():
            if entry["verdict"] == verdict:
                # A measure's caveat is for those who gain nothing else by it.
                alone = verdict == BETTER and not (row and row["verdict"] == BETTER)
                note = measures[key]["note"] if alone else ""
                note = f"; {note}" if note else ""
                lead = "" if found else "95 % interval "
                amount = _amount(measures[key], entry, lead)
                found.append(f"{_lower(measures[key])} by {amount}{note})")
        if found:
            also = "Also " if row and row["verdict"] == verdict else ""
            word = f"{also}{verdict}" if also else verdict.capitalize()
            sentences.append(f"{word}: {_listed(found)}.")
    same = [_lower(measures[key]) for key in rest if rest[key]["verdict"] == NO_DIFFERENCE]
    if same:
        either = " either" if row and row["verdict"] == NO_DIFFERENCE else ""
        sentences.append(f"No difference measured in {_listed(same, 'or')}{either}.")
    sentences += _gaps(method, measures, most)
    if name != BASELINE:
        step, inference = (_ratio(method["cost"], what) for what in ("train_step", "inference"))
        if step:
            then = f"; inference costs {inference}" if inference else ""
            start, _, spread = step.partition(" ")
            spread = f" {spread}" if spread else ""
            sentences.append(f"A training step costs {start} times plain's{spread}{then}.")
    return sentences


def answer(comparison: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The overall answer and the sentences to go with it."""
    start = "On this data, at this budget,"
    methods = comparison["methods"]
    measures = {measure["name"]: measure for measure in comparison["measures"]}
    first = measures.get(PRIMARY.name)
    if first is None:
        return f"{start} nothing was measured: no run finished with a test accuracy.", []
    name = _lower(first)
    rows = {
        key: method["measures"][PRIMARY.name]
        for key, method in methods.items()
        if key != BASELINE and method["runs"]
    }
    if not rows:
        return f"{start} only plain was run: there is nothing to compare it with.", []

    def titles(keys: Sequence[str]) -> str:
        return _listed([methods[key]["title"] for key in keys])

    by = {
        verdict: [key for key in rows if rows[key]["verdict"] == verdict]
        for verdict in (BETTER, WORSE, NO_DIFFERENCE, NOT_TESTABLE)
    }
    for verdict in (BETTER, WORSE):
        by[verdict].sort(key=lambda key: -abs(rows[key]["difference"]))
    testable = len(rows) - len(by[NOT_TESTABLE])
    details = []
    if by[BETTER]:
        amounts = [
            f"{methods[key]['title']} by {_amount(first, rows[key], lead)})"
            for key, lead in zip(
                by[BETTER], ["95 % interval "] + [""] * (len(by[BETTER]) - 1), strict=True
            )
        ]
        answer = f"{start} better than plain in {name}: {_listed(amounts)}."
        if by[WORSE]:
            details.append(f"Worse: {titles(by[WORSE])}.")
        if by[NO_DIFFERENCE]:
            same = by[NO_DIFFERENCE]
            whom = titles(same) if len(same) <= FEW else f"the other {len(same)} methods"
            details.append(f"No difference measured: {whom}.")
        resolution = comparison["resolution"]
        small = [
            key
            for key in by[BETTER]
            if resolution is not None and abs(rows[key]["difference"]) < resolution
        ]
        if small:
            details.append(
                f"For {titles(small)} that is less than the test set's own standard error of "
                f"{_points(comparison, resolution)}, so other images may not show it."
            )
    elif by[WORSE]:
        answer = (
            f"{start} no method was measured to be better than plain in {name}; "
            f"{titles(by[WORSE])} {'was' if len(by[WORSE]) == 1 else 'were'} worse."
            if len(rows) > 1
            else f"{start} {titles(by[WORSE])} was worse than plain in {name}."
        )
    elif testable:
        whom = (
            titles(by[NO_DIFFERENCE])
            if testable == 1
            else f"{'either' if testable == 2 else 'any'} of the {testable} methods"
        )
        answer = f"{start} no difference from plain in {name} was measured for {whom}."
    else:
        reasons = list(dict.fromkeys(row["reason"] for row in rows.values()))
        reason = reasons[0] if len(reasons) == 1 else "the reasons are below"
        whom = titles(list(rows)) if len(rows) == 1 else "the methods"
        answer = f"{start} {name} of {whom} cannot be tested against plain: {reason}."
        differences = [row["difference"] for row in rows.values() if row["difference"] is not None]
        if differences:
            seen = [difference_text(first, end) for end in (min(differences), max(differences))]
            seen_text = seen[0] if seen[0] == seen[1] else f"{seen[0]} to {seen[1]}"
            details.append(
                f"The differences seen, {seen_text} points, may be chance; three seeds or more "
                "would tell."
            )
    open_ends = [rows[key] for key in by[NO_DIFFERENCE] if rows[key]["low"] is not None]
    if open_ends and not by[BETTER]:
        low = min(row["low"] for row in open_ends)
        high = max(row["high"] for row in open_ends)
        whose = "interval reaches" if len(open_ends) == 1 else "intervals reach"
        details.append(
            f"The 95 % {whose} from {difference_text(first, low)} to "
            f"{difference_text(first, high)} points, so differences of that size are not ruled "
            "out."
        )
    if testable and by[NOT_TESTABLE]:
        details.append(f"Not testable: {titles(by[NOT_TESTABLE])}.")
    unfinished = [key for key in methods if not methods[key]["runs"]]
    if unfinished:
        details.append(f"No finished runs: {titles(unfinished)}.")
    for key, measure in measures.items():
        if key == PRIMARY.name:
            continue
        found = []
        for verdict in (BETTER, WORSE):
            who = [m for m in rows if methods[m]["measures"][key]["verdict"] == verdict]
            if who:
                found.append(f"{verdict} with {titles(who)}")
        if found:
            alone = any(
                methods[m]["measures"][key]["verdict"] == BETTER and rows[m]["verdict"] != BETTER
                for m in rows
            )
            note = measure["note"] if alone else ""
            note = f" ({note})" if note else ""
            details.append(f"{measure['title']} is {'; '.join(found)}{note}.")
    return answer, details


def changes(measures: Sequence[Measure], rows: Mapping[str, Any]) -> str:
    """What changed from one group of runs to another, what did not, and what can't be told.

    Args:
        measures: what to speak of, in order.
        rows: name of a measure to {"means": (before, after), "difference", "p_adjusted"}; what is
            missing is passed over, and `p_adjusted` None means that there was no test.

    Returns:
        Clauses joined by semicolons, without a full stop; "" if `rows` has none of the measures.
    """
    found, same, untested = [], [], []
    for measure in measures:
        row = rows.get(measure.name)
        if row is None:
            continue
        name = measure.title[0].lower() + measure.title[1:]
        entry = dataclasses.asdict(measure)
        if row["p_adjusted"] is None:
            untested.append(name)
        elif row["p_adjusted"] < ALPHA:
            verb = "rises" if row["difference"] > 0 else "falls"
            amount = difference_text(entry, abs(row["difference"])).lstrip("+")
            unit = " points" if measure.unit == "%" else ""
            ends = " to ".join(value_text(entry, mean) for mean in row["means"])
            found.append(
                f"{name} {verb} by {amount}{unit} ({ends}, adjusted {p_text(row['p_adjusted'])})"
            )
        else:
            same.append(name)
    if same:
        found.append(f"no difference measured in {', '.join(same)}")
    if untested:
        found.append(f"not testable, for want of seeds or of spread: {', '.join(untested)}")
    return "; ".join(found)


def _primary_sentences(
    title: str, measure: Mapping[str, Any], row: Mapping[str, Any], comparison: Mapping[str, Any]
) -> list[str]:
    name = _lower(measure)
    base = comparison["methods"].get(BASELINE, {}).get("measures", {}).get(measure["name"])
    pair = value_text(measure, row["mean"])
    if base is not None and base["mean"] is not None:
        pair += f" against {value_text(measure, base['mean'])}"
    if row["verdict"] == NOT_TESTABLE:
        return [f"{title}: {name} is not testable ({pair}; {row['reason']})."]
    if row["p"] is None:
        return [f"{title}: {NO_DIFFERENCE} in {name} ({pair}; {row['reason']})."]
    p = f"adjusted {p_text(row['p_adjusted'])}"
    if row["verdict"] == NO_DIFFERENCE:
        interval = _interval(measure, row["low"], row["high"])
        return [
            f"{title}: {NO_DIFFERENCE} in {name} ({pair}; 95 % interval of the difference "
            f"{interval} points, {p})."
        ]
    amount = _amount(measure, row, "95 % interval ")
    sentences = [f"{title}: {name} is {row['verdict']} by {amount}; {pair}, {p})."]
    resolution = comparison["resolution"]
    if resolution is not None and abs(row["difference"]) < resolution:
        sentences.append(
            "That is less than the test set's own standard error of "
            f"{_points(comparison, resolution)}, so other images may not show it."
        )
    return sentences


def _gaps(method: Mapping[str, Any], measures: Mapping[str, Any], most: int) -> list[str]:
    """What is missing. A run that diverged is left out of the means and must not vanish."""
    sentences = []
    if method["runs"] < most:
        sentences.append(f"Only {method['runs']} of {most} runs finished.")
    missing = [
        f"{_lower(measures[key])} {method['runs'] - row['n']} of {method['runs']}"
        for key, row in method["measures"].items()
        if row["n"] < method["runs"]
    ]
    if missing:
        sentences.append(
            f"Runs left out for want of a finite value, diverged perhaps: {_listed(missing)}."
        )
    return sentences


def _ratio(cost: Mapping[str, Any] | None, what: str) -> str:
    """ "1.06 (quartiles 1.02 to 1.10)", or "" where it was not measured."""
    cost = cost or {}
    middle, low, high = (cost.get(f"{what}_ratio{end}") for end in ("", "_low", "_high"))
    if middle is None:
        return ""
    spread = "" if None in (low, high) else f" (quartiles {low:.2f} to {high:.2f})"
    return f"{middle:.2f}{spread}"


def _amount(measure: Mapping[str, Any], row: Mapping[str, Any], lead: str = "") -> str:
    """ "1.2 points (95 % interval 0.4 to 2.0", positive in the direction of the verdict."""
    low, high = sorted((row["low"], row["high"]), key=abs)
    if row["difference"] < 0:
        low, high = -low, -high
    size = abs(row["difference"])
    shown = dict(measure)
    # A measured difference is never shown as 0.0.
    while size and not value_text(shown, size, unit=False).strip("0.") and shown["digits"] < 9:
        shown["digits"] += 1
    unit = " points" if measure["unit"] == "%" else ""
    return f"{value_text(shown, size, unit=False)}{unit} ({lead}{_interval(shown, low, high)}"


def _interval(measure: Mapping[str, Any], low: float, high: float) -> str:
    ends = [value_text(measure, end, unit=False) for end in (low, high)]
    return f"{ends[0]} to {ends[1]}"


def _points(comparison: Mapping[str, Any], value: float) -> str:
    shown = {measure["name"]: measure for measure in comparison["measures"]}[PRIMARY.name]
    return f"{value_text(shown, value, unit=False)} points"


def _lower(measure: Mapping[str, Any]) -> str:
    return measure["title"][0].lower() + measure["title"][1:]


def _listed(items: Sequence[str], word: str = "and") -> str:
    # A title may have commas of its own.
    comma = "; " if any("," in item for item in items) else ", "
    return f" {word} ".join(filter(None, [comma.join(items[:-1]), *items[-1:]]))
