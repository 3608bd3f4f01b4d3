"""What R-Block claims: do sub-models agree with the network, does training match inference?

Beside the comparison with plain (compare.py): plain has no sub-models, so R-Block is held against
the same layers trained without it, and its two forms against each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_swapout.study.measuring.measure import Measure, value_text
from keras_swapout.study.measuring.statistics import ALPHA, holm, spread, welch
from keras_swapout.study.pilot.measures import MEASURES
from keras_swapout.study.pilot.verdicts import changes

CONSISTENCY = (
    Measure(
        "two_way_kl",
        "Sub-model divergence",
        "consistency.two_way_kl",
        higher_is_better=False,
        note="mean two-way KL between a sub-model's prediction and the network's, in nats",
    ),
    Measure(
        "disagreement",
        "Sub-model disagreement",
        "consistency.disagreement",
        higher_is_better=False,
        unit="%",
        digits=1,
        note="share of test images on which a sub-model predicts another class than the network",
    ),
    Measure(
        "spread",
        "Sub-model spread",
        "consistency.spread",
        higher_is_better=False,
        unit="%",
        digits=2,
        note="standard deviation of a class's probability over sub-models, on average",
    ),
    Measure(
        "accuracy_gap",
        "Training gap in accuracy",
        "consistency.accuracy_gap",
        higher_is_better=False,
        unit="%",
        digits=1,
        note="difference between training mode and inference, on the same test images",
    ),
    Measure(
        "loss_gap",
        "Training gap in loss",
        "consistency.loss_gap",
        higher_is_better=False,
        note="likewise, in nats",
    ),
)
#: A contrast is about these.
CONTRASTED = (*MEASURES[:2], *CONSISTENCY)
FORMS = ("bdropdml", "sdropdml")


def agreement(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The consistency of every method, and the contrasts among R-Block's.

    A contrast is tested as compare.py tests a method against plain: by Welch's t-test over the
    seeds, with Holm's correction over the contrasts within each measure.

    Args:
        results: what a pilot measured.

    Returns:
        None where no run has a consistency; else a dict:

        - "measures": the entries of `CONSISTENCY` with a value, as dicts;
        - "methods": name to measure to {"values", "mean", "sd"};
        - "contrasts": a list of {"first", "second", "title", "measures"}, the last one name to
          {"means", "difference" (second minus first), "low", "high", "p", "p_adjusted"};
        - "sentences": what the contrasts say.

    Example:

    >>> runs = [
    ...     {"method": m, "seed": s, "consistency": {"disagreement": d + s / 1000}}
    ...     for m, d in (("sdropdml", 0.10), ("rblock_sdropdml", 0.04))
    ...     for s in range(2)
    ... ]
    >>> methods = {
    ...     "sdropdml": {"title": "SDropDML"},
    ...     "rblock_sdropdml": {"title": "R-Block, SDropDML", "alone": "sdropdml"},
    ... }
    >>> print(agreement({"methods": methods, "runs": runs})["sentences"][0])
    R-Block, SDropDML against SDropDML: sub-model disagreement falls by 6.0 points
    (10.1 % to 4.0 %, adjusted p < 0.001).
    """
    values = {
        name: {
            measure.name: [
                value
                for run in results["runs"]
                if run["method"] == name and (value := measure.read(run)) is not None
            ]
            for measure in CONTRASTED
        }
        for name in results["methods"]
    }
    shown = [m for m in CONSISTENCY if any(values[name][m.name] for name in values)]
    if not shown:
        return None
    contrasts = [
        {
            "first": first,
            "second": second,
            "title": " against ".join(
                str(results["methods"][name].get("title", name)) for name in (second, first)
            ),
            "measures": {
                measure.name: row
                for measure in CONTRASTED
                if (row := _contrast(values[first][measure.name], values[second][measure.name]))
            },
        }
        for first, second in _pairs(results["methods"])
    ]
    for measure in CONTRASTED:
        rows = [c["measures"][measure.name] for c in contrasts if measure.name in c["measures"]]
        tested = [row for row in rows if row["p"] is not None]
        for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_adjusted"] = adjusted
    return {
        "measures": [dataclasses.asdict(measure) for measure in shown],
        "methods": {
            name: {measure.name: _summary(values[name][measure.name]) for measure in shown}
            for name in values
        },
        "contrasts": contrasts,
        "sentences": [*_choice(contrasts), *filter(None, map(_sentence, contrasts))],
    }


def _pairs(methods: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each R-Block method and the same layers alone, then BDropDML and SDropDML."""
    pairs = [
        (method["alone"], name)
        for name, method in methods.items()
        if method.get("alone") in methods
    ]
    forms = [FORMS, tuple(f"rblock_{name}" for name in FORMS)]
    return pairs + [pair for pair in forms if set(pair) <= set(methods)]


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {
        "values": list(values),
        "mean": float(np.mean(values)) if values else None,
        "sd": spread(values) if len(values) > 1 else None,
    }


def _contrast(first: Sequence[float], second: Sequence[float]) -> dict[str, Any] | None:
    if not first or not second:
        return None
    means = float(np.mean(first)), float(np.mean(second))
    row = {"means": means, "difference": means[1] - means[0]}
    row |= dict.fromkeys(("low", "high", "p", "p_adjusted"))
    if min(len(first), len(second)) > 1 and (spread(first) or spread(second)):
        result = welch(first, second)
        row |= {"low": result.low, "high": result.high, "p": result.p}
    return row


def _choice(contrasts: Sequence[Mapping[str, Any]]) -> list[str]:
    """BDropDML or SDropDML for this data? By test accuracy, and then by agreement."""
    for contrast in contrasts:
        if (contrast["first"], contrast["second"]) != tuple(f"rblock_{name}" for name in FORMS):
            continue
        found = []
        for measure in (CONTRASTED[0], CONSISTENCY[1]):
            row = contrast["measures"].get(measure.name)
            if row is None or row["p_adjusted"] is None:
                continue
            entry = dataclasses.asdict(measure)
            ends = " against ".join(value_text(entry, mean) for mean in row["means"])
            name = measure.title[0].lower() + measure.title[1:]
            if row["p_adjusted"] >= ALPHA:
                found.append(f"no difference measured in {name} ({ends})")
                continue
            better = (row["difference"] > 0) == measure.higher_is_better
            found.append(f"{('BDropDML', 'SDropDML')[better]} is better in {name} ({ends})")
        if found:
            return [f"BDropDML or SDropDML, under R-Block? {'; '.join(found)}."]
    return []


def _sentence(contrast: Mapping[str, Any]) -> str:
    text = changes(CONTRASTED, contrast["measures"])
    return text and f"{contrast['title']}: {text}."
