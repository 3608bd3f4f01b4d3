"""What tuning gained: the tuned setting against the untuned one and plain, on the test images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_swapout.study.measuring.measure import (
    BETTER,
    NO_DIFFERENCE,
    NOT_TESTABLE,
    WORSE,
    Measure,
    at,
    counted,
    difference_text,
    p_text,
    value_text,
)
from keras_swapout.study.measuring.statistics import ALPHA, holm, paired, spread
from keras_swapout.study.pilot.measures import MEASURES, PRIMARY
from keras_swapout.study.tune.sentences import amount, interval, lower

COMPARED = tuple(m for m in MEASURES if m.name in ("accuracy", "nll", "ece", "corruption_accuracy"))


def gain(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tuned setting against the untuned default and against plain, over the same seeds.

    For each measure the paired t-test of the differences seed by seed (see `paired`), with Holm's
    correction over all of these tests.

    Args:
        results: of a search; read here: "method", "objective" and "confirmation", the results of a
            pilot with plain, the method untuned and the method tuned.

    Returns:
        None without a confirmation, else plain dicts and lists, ready for JSON:

        - "primary": name of the measure that decides, the objective where it is among them, or
          else accuracy; "measures": those with a value, as dicts of `Measure`'s attributes.
        - "methods": "tuned", "default" and "plain", those that were run, to {"name", "title",
          "measures"}, the last one name to {"values", "mean", "sd"}.
        - "contrasts": "default" and "plain" to {"measures", "sentence"}, the measures name to
          {"n" (pairs), "means" (of the other, of the tuned), "difference" (tuned minus other),
          "low", "high", "p", "p_adjusted", "verdict", "reason"}.
        - "test": how the verdicts were reached.

    Example:

    >>> runs = [{"method": method, "seed": seed, "test": {"accuracy": accuracy}}
    ...         for method, values in {"m": (0.90, 0.91, 0.92), "m@1": (0.95, 0.965, 0.97)}.items()
    ...         for seed, accuracy in enumerate(values)]
    >>> results = {"method": {"name": "m", "tuned": "m@1"}, "objective": {"name": "accuracy"},
    ...            "confirmation": {"methods": {"m": {}, "m@1": {}}, "runs": runs}}
    >>> print(gain(results)["contrasts"]["default"]["sentence"])
    Tuned against the untuned default: better in test accuracy by 5.2 points (95 % interval 4.4 to
    5.9; 96.2 % against 91.0 %, adjusted p = 0.001).
    """
    confirmation = results.get("confirmation")
    if not confirmation or results["method"]["tuned"] not in confirmation["methods"]:
        return None
    names = {"tuned": results["method"]["tuned"], "default": results["method"]["name"]}
    names["plain"] = "plain"
    present = {role: name for role, name in names.items() if name in confirmation["methods"]}
    if names["tuned"] == names["default"]:
        del present["default"]
    size = at(confirmation, "data.sizes.test")
    values = {
        role: {
            measure.name: {
                run["seed"]: value
                for run in confirmation["runs"]
                if run["method"] == name and (value := measure.read(run)) is not None
            }
            for measure in COMPARED
        }
        for role, name in present.items()
    }
    shown = [m for m in COMPARED if any(of[m.name] for of in values.values())]
    contrasts = {
        role: {m.name: _test(values[role][m.name], values["tuned"][m.name]) for m in shown}
        for role in present
        if role != "tuned"
    }
    tested = [
        (m, of[m.name]) for of in contrasts.values() for m in shown if of[m.name]["p"] is not None
    ]
    for (measure, row), p in zip(tested, holm([row["p"] for _, row in tested]), strict=True):
        row["p_adjusted"] = p
        improved = (row["difference"] > 0) == measure.higher_is_better
        row["verdict"] = (BETTER if improved else WORSE) if p < ALPHA else NO_DIFFERENCE
    fine = size is not None and size >= 2000
    entries = {
        m.name: dataclasses.asdict(m) | {"digits": m.digits + (fine and m.unit == "%")}
        for m in shown
    }
    wanted = results["objective"]["name"]
    return {
        "primary": wanted if wanted in entries else PRIMARY.name,
        "measures": list(entries.values()),
        "methods": {
            role: {
                "name": name,
                "title": str(confirmation["methods"][name].get("title", name)),
                "measures": {m.name: _summary(list(values[role][m.name].values())) for m in shown},
            }
            for role, name in present.items()
        },
        "contrasts": {
            role: {"measures": rows, "sentence": _sentence(role, rows, entries)}
            for role, rows in contrasts.items()
        },
        "test": _how_tested(len(tested)),
    }


def against(gained: Mapping[str, Any], results: Mapping[str, Any], role: str) -> str | None:
    """The verdict on the test images against "default" or "plain", or None without such runs."""
    row = (gained["contrasts"].get(role) or {"measures": {}})["measures"].get(gained["primary"])
    if row is None:
        return None
    measure = next(m for m in gained["measures"] if m["name"] == gained["primary"])
    name = lower(measure["title"]).removeprefix("test ")
    who, test = f"{results['method']['title']} tuned", "on the test images"
    other = {"default": "untuned", "plain": "plain"}[role]
    if row["verdict"] in (BETTER, WORSE):
        worth = {BETTER: "Tuning was worth it: ", WORSE: "Tuning did harm: "}[row["verdict"]]
        text = (
            f"{test} {who} is {row['verdict']} in {name} than {other} by {in_words(measure, row)}."
        )
        return worth + text if role == "default" else f"{text[0].upper()}{text[1:]}"
    if row["verdict"] == NOT_TESTABLE:
        return f"Whether {who} differs in {name} from {other} can't be tested: {row['reason']}."
    text = f"No difference in {name} between {who} and {other} was measured {test}"
    if role == "default":
        text = f"No gain from tuning was measured {test}, in {name} of {who} against {other}"
    if row["low"] is None:
        return f"{text}: {row['reason']}."
    size, low, high = (difference_text(measure, row[key]) for key in ("difference", "low", "high"))
    points = " points" if measure["unit"] == "%" else ""
    seeds = counted(row["n"], "seed")
    return f"{text}: {size}{points}, 95 % interval {low} to {high}, over {seeds}."


def _test(other: Mapping[int, float], tuned: Mapping[int, float]) -> dict[str, Any]:
    """One measure over the seeds that both sides have."""
    seeds = [seed for seed in other if seed in tuned]
    first, second = [other[seed] for seed in seeds], [tuned[seed] for seed in seeds]
    row = dict.fromkeys(("means", "difference", "low", "high", "p", "p_adjusted", "reason"))
    row |= {"n": len(seeds), "verdict": NOT_TESTABLE}
    if seeds:
        row["means"] = [float(np.mean(first)), float(np.mean(second))]
        row["difference"] = float(np.mean(np.subtract(second, first)))
    if len(seeds) < 2:
        return row | {"reason": f"{counted(len(seeds), 'common seed')}, and a test needs two"}
    if spread(list(np.subtract(second, first))):
        result = paired(first, second)
        return row | {"low": result.low, "high": result.high, "p": result.p}
    if first == second:
        return row | {"verdict": NO_DIFFERENCE, "reason": "the same value with every seed"}
    return row | {"reason": "the difference is the same with every seed, so it has no spread"}


def _summary(values):
    return {
        "values": values,
        "mean": float(np.mean(values)) if values else None,
        "sd": spread(values) if len(values) > 1 else None,
    }


def in_words(measure: Mapping[str, Any] | Measure, row: Mapping[str, Any]) -> str:
    """ "5.2 points (95 % interval ...; 96.2 % against 91.0 %, adjusted p = 0.001)", unsigned."""
    size, low, high = row["difference"], row["low"], row["high"]
    if size < 0:
        size, low, high = -size, -high, -low
    shown = dict(measure)
    # A measured difference is never shown as 0.0.
    while size and not value_text(shown, size, unit=False).strip("0.") and shown["digits"] < 9:
        shown["digits"] += 1
    means = " against ".join(value_text(measure, mean) for mean in reversed(row["means"]))
    return (
        f"{amount(shown, size)} ({interval(shown, low, high)}; {means}, adjusted "
        f"{p_text(row['p_adjusted'])})"
    )


def _sentence(role, rows, measures):
    whom = {"default": "the untuned default", "plain": "plain"}[role]
    parts = [
        f"{row['verdict']} in {lower(measures[name]['title'])} by {in_words(measures[name], row)}"
        for verdict in (BETTER, WORSE)
        for name, row in rows.items()
        if row["verdict"] == verdict
    ]
    same, untested = [], []
    for name, row in rows.items():
        title, measure = lower(measures[name]["title"]), measures[name]
        if row["verdict"] == NO_DIFFERENCE:
            said = row["reason"]
            if row["low"] is not None:
                points = " points" if measure["unit"] == "%" else ""
                said = f"{difference_text(measure, row['difference'])}{points}, "
                said += interval(measure, row["low"], row["high"])
            same.append(f"{title} ({said})")
        elif row["verdict"] == NOT_TESTABLE:
            untested.append(f"{title} ({row['reason']})")
    if same:
        parts.append(f"{NO_DIFFERENCE} in {', '.join(same)}")
    if untested:
        parts.append(f"{NOT_TESTABLE}: {', '.join(untested)}")
    return f"Tuned against {whom}: {'; '.join(parts) or 'nothing was measured'}."


def _how_tested(count):
    if not count:
        return ""
    all_of_them = f" with Holm's correction over all {count} of them;" if count > 1 else ""
    return (
        f"Paired t-tests over seeds, two-sided at alpha = {ALPHA:g},{all_of_them} the 95 % "
        "intervals are not corrected. The spread is over initial weights, batch order and masks, "
        "with one split, so it says nothing about other test images."
    )
