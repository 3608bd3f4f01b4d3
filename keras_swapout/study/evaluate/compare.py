"""Does a model, or a way of inference, differ from another by more than chance?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_swapout.study.evaluate import verdicts
from keras_swapout.study.evaluate.measures import COMPARED, MEASURES
from keras_swapout.study.measuring.measure import (
    BETTER,
    NO_DIFFERENCE,
    NOT_TESTABLE,
    WORSE,
    Measure,
)
from keras_swapout.study.measuring.statistics import (
    ALPHA,
    holm,
    mean_interval,
    paired,
    spread,
    welch,
)
from keras_swapout.study.measuring.ways import DETERMINISTIC


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
        - "rows": name to {"model", "way", "runs", "measures"}, the last one name to {"values",
          "mean", "sd"}; what does not apply is None.
        - "comparisons": a list of {"first", "second", "kind": "way" or "model", "over": "networks"
          or "images", "n", "measures", "sentence"}; the measures name to {"means", "difference"
          (second minus first), "low", "high", "p", "p_adjusted", "verdict", "reason"}.

    Example:

    >>> rows = {name: {"model": name, "way": "deterministic"} for name in "ab"}
    >>> runs = [{"row": "a", "seed": 0, "corrupted": {"accuracy": 0.5}},
    ...         {"row": "b", "seed": 0, "corrupted": {"accuracy": 0.75}}]
    >>> images = {"a": {"corrupted_accuracy": np.array([0.5, 0.4, 0.6, 0.5])},
    ...           "b": {"corrupted_accuracy": np.array([0.7, 0.7, 0.8, 0.8])}}
    >>> print(compare(rows, runs, images)["answer"])
    Accuracy under corruption goes up with b: by 25.0 points against a (95 % interval over images
    15.8 to 34.2; 75.0 % against 50.0 %).
    """
    values = {
        row: {
            m.name: [v for run in runs if run["row"] == row and (v := m.read(run)) is not None]
            for m in MEASURES
        }
        for row in rows
    }
    comparisons = [
        {
            "first": first,
            "second": second,
            "kind": kind,
            "over": "networks" if several else "images",
            "n": _counts(values, images, first, second, several),
            "measures": {
                measure.name: _test(
                    measure,
                    *(
                        (values if several else images)[row][measure.name]
                        for row in (first, second)
                    ),
                    same=kind == "way" or not several,
                )
                for measure in COMPARED
                if measure.name in images[first] and measure.name in images[second]
            },
        }
        for kind, first, second in _pairs(rows)
        for several in [_several(values, first, second)]
    ]
    for measure in COMPARED:
        tested = [
            row
            for one in comparisons
            if (row := one["measures"].get(measure.name)) and row["p"] is not None
        ]
        for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_adjusted"] = p
            better = (row["difference"] > 0) == measure.higher_is_better
            row["verdict"] = (BETTER if better else WORSE) if p < ALPHA else NO_DIFFERENCE
    shown = [m for m in MEASURES if any(values[row][m.name] for row in rows)]
    comparison = {
        "measures": [dataclasses.asdict(measure) for measure in shown],
        "rows": {
            name: {
                **row,
                "runs": sum(run["row"] == name for run in runs),
                "measures": {m.name: _summary(values[name][m.name]) for m in shown},
            }
            for name, row in rows.items()
        },
        "comparisons": comparisons,
    }
    for one in comparisons:
        one["sentence"] = verdicts.sentence(one, rows)
    alone = mean_interval(images[next(iter(rows))].get(COMPARED[0].name, ()))
    comparison["answer"], comparison["details"] = verdicts.answer(comparison, alone)
    comparison["test"] = verdicts.how_tested(comparison)
    return comparison


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


def _several(values, first, second):
    return min(len(values[row][COMPARED[0].name]) for row in (first, second)) > 1


def _counts(values, images, first, second, several):
    if several:
        return [len(values[row][COMPARED[0].name]) for row in (first, second)]
    return [len(next(iter(images[row].values()))) for row in (first, second)]


def _test(measure: Measure, first, second, same: bool) -> dict[str, Any]:
    means = float(np.mean(first)), float(np.mean(second))
    row = {"means": list(means), "difference": means[1] - means[0]}
    row |= dict.fromkeys(("low", "high", "p", "p_adjusted", "reason"))
    try:
        result = (paired if same else welch)(first, second)
    except ValueError:
        equal = abs(row["difference"]) < 1e-12
        row["verdict"] = NO_DIFFERENCE if equal else NOT_TESTABLE
        row["reason"] = "all values are equal" if equal else "the values have no spread"
        return row
    return row | {"low": result.low, "high": result.high, "p": result.p}


def _summary(values: Sequence[float]) -> dict[str, Any]:
    return {
        "values": list(values),
        "mean": float(np.mean(values)) if values else None,
        "sd": spread(values) if len(values) > 1 else None,
    }
