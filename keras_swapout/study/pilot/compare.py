"""Does any method differ from plain, by more than the luck of the seed?

`compare` turns the runs of a pilot into numbers, tests and sentences.
"""

from __future__ import annotations

import dataclasses
import math
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
)
from keras_swapout.study.measuring.statistics import ALPHA, holm, spread, welch
from keras_swapout.study.pilot import verdicts
from keras_swapout.study.pilot.agreement import agreement
from keras_swapout.study.pilot.inference import inference
from keras_swapout.study.pilot.measures import MEASURES, PRIMARY
from keras_swapout.study.pilot.verdicts import BASELINE


def compare(results: Mapping[str, Any]) -> dict[str, Any]:
    """Compares every method with plain, measure by measure, over seeds.

    A verdict on a measure is "better" or "worse" when the Welch t-test's p-value (see `welch`),
    corrected by Holm's method over the methods of that measure (see `holm`), is below 0.05;
    otherwise "no difference measured"; or "not testable", with the reason. Two groups without any
    spread are "no difference measured" if equal, else "not testable".

    Args:
        results: what a pilot measured. Read here: `methods` (name to title, in order), `runs`
            (each with `method`, `seed` and the paths in `MEASURES`), `timing` and
            `data["sizes"]["test"]`. Runs or values may be missing; values that are not finite
            count as missing.

    Returns:
        Plain dicts and lists, ready for JSON:

        - `answer`: the overall answer, one sentence; `details`: sentences to go with it.
        - `test`: how the verdicts were reached, and what they do not cover.
        - `baseline`, `alpha`, `test_images` and `resolution`, the binomial standard error of an
          accuracy on that many images (None if the number is unknown).
        - `measures`: the measures with at least one value, as dicts of `Measure`'s attributes.
        - `methods`: name to `title`, `runs` (how many), `verdict` (sentences), `cost` (the
          method's timing, or None) and `measures`: name to `values`, `n`, `mean`, `sd`,
          `difference`, `low`, `high`, `p`, `p_adjusted`, `verdict`, `reason`; what does not
          apply is None.
        - `agreement`: see `keras_swapout.study.pilot.agreement`.
        - `inference`: see `keras_swapout.study.pilot.inference`.

    Raises:
        ValueError: a run names a method that is not in `methods`, or two runs have the same
            method and seed.

    Example:
        >>> runs = [
        ...     {"method": method, "seed": seed, "test": {"accuracy": accuracy}}
        ...     for method, accuracies in {"plain": (0.90, 0.91), "swapout": (0.95, 0.96)}.items()
        ...     for seed, accuracy in enumerate(accuracies)
        ... ]
        >>> titles = {"plain": {"title": "Plain"}, "swapout": {"title": "Swapout"}}
        >>> comparison = compare({"methods": titles, "runs": runs})
        >>> print(comparison["methods"]["swapout"]["verdict"])
        Swapout: test accuracy is better by 5.0 points (95 % interval 2.0 to 8.0; 95.5 % against
        90.5 %, adjusted p = 0.019).
    """
    runs = _runs_by_method(results)
    size = at(results, "data.sizes.test")
    measures = []
    for measure in MEASURES:
        if any(measure.read(run) is not None for run in results["runs"]):
            fine = measure.unit == "%" and size is not None and size >= 2000
            measures.append(dataclasses.asdict(measure) | {"digits": measure.digits + fine})

    comparison: dict[str, Any] = {
        "answer": "",
        "details": [],
        "test": "",
        "baseline": BASELINE,
        "alpha": ALPHA,
        "test_images": None if size is None else int(size),
        "resolution": None,
        "measures": measures,
        "methods": {
            name: {
                "title": str(method.get("title", name)),
                "runs": len(runs[name]),
                "verdict": "",
                "cost": (results.get("timing") or {}).get("methods", {}).get(name),
                "measures": {},
            }
            for name, method in results["methods"].items()
        },
    }
    for measure in MEASURES:
        if any(shown["name"] == measure.name for shown in measures):
            values = {
                name: [value for run in runs[name] if (value := measure.read(run)) is not None]
                for name in runs
            }
            for name, row in _test(measure, values).items():
                comparison["methods"][name]["measures"][measure.name] = row

    comparison["resolution"] = _resolution(comparison)
    comparison["test"] = verdicts.how_tested(comparison)
    most = max((method["runs"] for method in comparison["methods"].values()), default=0)
    for name, method in comparison["methods"].items():
        method["verdict"] = " ".join(verdicts.verdict(name, comparison, most))
    comparison["answer"], comparison["details"] = verdicts.answer(comparison)
    comparison["agreement"] = agreement(results)
    comparison["inference"] = inference(results)
    return comparison


def _runs_by_method(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    runs: dict[str, list[Mapping[str, Any]]] = {name: [] for name in results["methods"]}
    seen = set()
    for run in results["runs"]:
        name, seed = run["method"], run["seed"]
        if name not in runs:
            raise ValueError(f"a run has method {name!r}, which is not among {list(runs)}")
        # A run counted twice would look like agreement between seeds.
        if (name, seed) in seen:
            raise ValueError(f"two runs have method {name!r} and seed {seed!r}")
        seen.add((name, seed))
        runs[name].append(run)
    return runs


def _test(measure: Measure, values: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Every method's row for one measure."""
    rows = {}
    base = values.get(BASELINE, [])
    for name, own in values.items():
        row = dict.fromkeys(
            ("difference", "low", "high", "p", "p_adjusted", "verdict", "reason"), None
        )
        row |= {
            "values": own,
            "n": len(own),
            "mean": float(np.mean(own)) if own else None,
            "sd": spread(own) if len(own) > 1 else None,
        }
        rows[name] = row
        if name == BASELINE:
            continue
        if own and base:
            row["difference"] = float(np.mean(own) - np.mean(base))
        row["verdict"] = NOT_TESTABLE
        if BASELINE not in values:
            row["reason"] = "plain was not run"
        elif len(base) < 2:
            row["reason"] = f"plain has {counted(len(base), 'run')} and a test needs two"
        elif len(own) < 2:
            row["reason"] = f"it has {counted(len(own), 'run')} and a test needs two"
        elif spread(own) or spread(base):
            result = welch(base, own)
            row |= {"p": result.p, "low": result.low, "high": result.high}
        elif not spread([np.mean(own), np.mean(base)]):
            row["verdict"] = NO_DIFFERENCE
            row["reason"] = "every run of both gave the same value"
        else:
            row["reason"] = "no spread over the seeds on either side, so the t-test is undefined"
    tested = [row for row in rows.values() if row["p"] is not None]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_adjusted"] = adjusted
        improved = (row["difference"] > 0) == measure.higher_is_better
        row["verdict"] = (BETTER if improved else WORSE) if adjusted < ALPHA else NO_DIFFERENCE
    return rows


def _resolution(comparison: Mapping[str, Any]) -> float | None:
    size = comparison["test_images"]
    means = {
        name: row["mean"]
        for name, method in comparison["methods"].items()
        if (row := method["measures"].get(PRIMARY.name)) and row["mean"] is not None
    }
    if not size or not means:
        return None
    accuracy = means.get(BASELINE, float(np.mean(list(means.values()))))
    # At accuracy 1 the formula gives zero, but no test set resolves less than one image.
    return max(math.sqrt(accuracy * (1 - accuracy) / size), 1 / size)
