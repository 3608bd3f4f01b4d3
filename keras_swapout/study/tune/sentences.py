"""What a search found, in plain sentences, which claim no more than was measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from keras_swapout.study.measuring.measure import Measure
from keras_swapout.study.report.words import (
    counted,
    interval_text,
    lower,
    size_text,
    upper,
    value_text,
)

WORTH, SMALL, NOT, UNSETTLED, UNKNOWN = "worth it", "small", "not worth it", "unsettled", "unknown"


def of_sensitivity(
    found: Mapping[str, Any], parameters: Sequence[Mapping[str, Any]], objective: Measure
) -> dict[str, Any]:
    """The verdict, answer and sentences of `sensitivity`; each parameter's own goes to it too.

    Args:
        found: the numbers of `sensitivity`.
        parameters: those that were searched.
        objective: what was searched for.
    """
    name = lower(objective.title).removeprefix("validation ")
    verdict, answer = _answer(found, finer(found, objective), name)
    sentences = []
    rows = found["parameters"]
    for parameter in sorted(parameters, key=lambda p: -rows.get(p["name"], {"range": 0})["range"]):
        if row := rows.get(parameter["name"]):
            row["sentence"] = _parameter(parameter, row, found, finer(found, objective))
            sentences.append(row["sentence"])
    if found["capped"]:
        whole = "counts" if found["capped"] == 1 else "count"
        sentences.append(
            f"{counted(found['capped'], 'trial')} far worse than the rest {whole} as "
            f"{value_text(objective, found['cap'])} here, so costs near there are too low."
        )
    return {"verdict": verdict, "answer": answer, "sentences": sentences}


def _answer(found, objective, name):
    noise = found["noise"]
    if found["reason"] and noise:
        return NOT, (
            f"Nothing measurable depends on what was searched: over {found['trials']} measured "
            f"settings {name} varies with a standard deviation of "
            f"{size_text(objective, noise['sd'])}, and {found['reason']}. The best trial's lead "
            "may be luck; effects that are small against that deviation would not be seen."
        )
    if found["reason"]:
        return UNKNOWN, f"Whether {name} depends on the setting can't be told: {found['reason']}."
    luck = f"the noise of one trial, {size_text(objective, noise['sd'])}"
    default = found["default"]
    if default is None or default["cost"] is None:
        return UNKNOWN, (
            f"At its best, {name} is {value_text(objective, found['optimum']['mean'])} "
            f"(± {size_text(objective, found['optimum']['sd'])}); there is no untuned default to "
            "compare that with."
        )
    gain, low, high = default["cost"], default["low"], default["high"]
    size = f"{size_text(objective, gain)} ({interval(objective, low, high)})"
    if low > 0 and gain > noise["sd"]:
        return WORTH, (
            f"On the validation images tuning is worth it: the best setting improves {name} over "
            f"the untuned default by {size}, {gain / noise['sd']:.1f} times {luck}."
        )
    if low > 0:
        return SMALL, (
            f"On the validation images tuning gains little: {name} improves over the untuned "
            f"default by {size}, which is less than {luck}."
        )
    if high < noise["sd"]:
        return NOT, (
            "On the validation images tuning is not worth it: the untuned default is as good as "
            f"can be told. The best setting is better in {name} by {size}, within {luck}."
        )
    return UNSETTLED, (
        "On the validation images it is not settled whether tuning is worth it: the best setting "
        f"may be better in {name} than the untuned default by {size}; {luck}."
    )


def _parameter(parameter, row, found, objective):
    title = upper(parameter["title"])
    low, high = (number(parameter, end) for end in row["interval"])
    best = number(parameter, found["optimum"]["values"][parameter["name"]])
    every = [look for step in row["costs"] for look in (step["below"], step["above"])]
    every = [look for look in every + row["ends"] if look is not None]
    most = max(every, key=lambda look: look["cost"])
    at_most = (
        f"{size_text(objective, most['cost'])} at {number(parameter, most['value'])} "
        f"({interval(objective, most['low'], most['high'])})"
    )
    whole = all(
        math.isclose(a, b, rel_tol=1e-5)
        for a, b in zip(row["interval"], (parameter["low"], parameter["high"]), strict=True)
    )
    if whole and row["measured"]:
        return f"{title} matters little: it costs less than the noise anywhere, at most {at_most}."
    if whole:
        return (
            f"{title}: no effect measured; all values from {low} to {high} are as good as can be "
            f"told. The largest cost is {at_most}."
        )
    if not row["measured"]:
        return (
            f"{title} is not settled: values outside {low} to {high} may cost up to {at_most}, but "
            "with several values looked at that could be chance."
        )
    # The step in the middle, which is neither the noise nor the edge, or else the smallest.
    steps = [step for step in row["costs"] if step["below"] or step["above"]]
    step = steps[min(1, len(steps) - 1)] if steps else {"below": None, "above": None}
    looks = [look for look in (step["below"], step["above"]) if look]
    costs = [
        f"{number(parameter, look['value'])} costs {size_text(objective, look['cost'])} "
        f"({interval(objective, look['low'], look['high'])})"
        for look in looks
    ]
    if not any(look["low"] > 0 for look in looks):  # that it matters shows elsewhere
        costs.append(f"the most it can cost is {at_most}")
    text = (
        f"{title} matters: best at {best}, anything from {low} to {high} is as good as can be "
        f"told; {', '.join(costs)}"
    )
    if row["default"]:
        look = row["default"]
        ends = interval(objective, look["low"], look["high"])
        text += f"; its default, {number(parameter, look['value'])}, costs "
        text += f"{size_text(objective, look['cost'])} ({ends})"
    return text + "."


def finer(found: Mapping[str, Any], objective: Measure) -> Measure:
    """The objective with as many digits as show the noise with two figures."""
    sd = (found["noise"] or {}).get("sd") or 0
    scaled = sd * (100 if objective.unit == "%" else 1)
    digits = math.ceil(-math.log10(scaled)) + 1 if scaled else 0
    return dataclasses.replace(objective, digits=min(max(objective.digits, digits), 9))


def interval(objective: Measure, low: float, high: float) -> str:
    return f"95 % interval {interval_text(objective, low, high)}"


def number(parameter: Mapping[str, Any], value: float | None) -> str:
    """A parameter's value as a reader sees it, to about a hundredth of its range.

    Example:

    >>> number({"type": "float", "scale": "linear", "low": 0.3, "high": 1.0}, 0.71828)
    '0.72'
    """
    if value is None:
        return "–"
    if parameter["type"] == "int":
        return f"{value:.0f}"
    if parameter["scale"] == "log":
        return f"{value:.2g}"
    width = parameter["high"] - parameter["low"]
    digits = max(0, 2 - math.ceil(math.log10(width))) if width > 0 else 3
    return f"{value:.{digits}f}".replace("-", "−")
