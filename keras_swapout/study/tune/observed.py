"""What a search measured, as points and numbers: the completed trials, the default, the noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_swapout.study.measuring.measure import Measure, at
from keras_swapout.study.measuring.statistics import spread
from keras_swapout.study.tune.surrogate import to_unit

_FAR = 20  # times the median's distance from the best


def objective_of(results: Mapping[str, Any]) -> Measure:
    """What was searched for, as it is in the measures of a trial."""
    found = results["objective"]
    return Measure(
        found["name"],
        found["title"],
        found["name"],
        higher_is_better=found["direction"] == "max",
        unit=found["unit"],
        digits=found["digits"],
    )


def usable(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The completed trials with a finite objective and the largest number of epochs."""
    name = results["objective"]["name"]
    completed = [
        trial
        for trial in results["trials"]
        if trial["status"] == "COMPLETED" and at(trial["measures"] or {}, name) is not None
    ]
    most = max((trial["epochs"] or 0 for trial in completed), default=0)
    return [trial for trial in completed if (trial["epochs"] or 0) == most]


def observations(results, parameters, trials):
    """Places in [0, 1] and objectives of the trials, and of the default if it is none of them."""
    measured = list(trials)
    default = results.get("default")
    if default and all(default["values"] != trial["values"] for trial in trials):
        measured.append(default)
    x, y = [], []
    for point in measured:
        values = [at(point["values"], p["name"]) for p in parameters]
        objective = at(point["measures"] or {}, results["objective"]["name"])
        if objective is not None and None not in values:
            place = [float(to_unit(p, v)) for p, v in zip(parameters, values, strict=True)]
            if np.isfinite(place).all():
                x.append(place)
                y.append(objective)
    return np.array(x).reshape(len(y), len(parameters)), np.array(y)


def place_of(point, parameters):
    values = [at((point or {}).get("values", {}), p["name"]) for p in parameters]
    if None in values:
        return None
    place = np.array([to_unit(p, v) for p, v in zip(parameters, values, strict=True)])
    return place if np.isfinite(place).all() else None


def as_number(p, value):
    return round(float(value)) if p["type"] == "int" else float(f"{float(value):.6g}")


def capped(y: np.ndarray, sign: int) -> tuple[np.ndarray, float | None, int]:
    """One trial that diverged must not be all that the process sees.

    Returns:
        The objectives, those far worse than most as bad as the worst of the rest; that value, or
        None; and how many they are.
    """
    worse = sign * y
    middle = float(np.median(worse))
    far = worse > middle + _FAR * (middle - worse.min())
    if middle == worse.min() or not far.any():
        return y, None, 0
    cap = worse[~far].max()
    return sign * np.minimum(worse, cap), float(sign * cap), int(far.sum())


def seed_noise(results):
    """Deviation among validation values of the same setting, pooled over settings, or None.

    A trial is a mean over its executions, so its own noise is less.
    """
    runs = (results.get("confirmation") or {}).get("runs") or []
    path = f"validation.{results['objective']['name']}"
    squares = freedom = count = 0
    for method in {results["method"]["name"], results["method"]["tuned"]}:
        own = [v for run in runs if run["method"] == method and (v := at(run, path)) is not None]
        if len(own) > 1:
            squares += (len(own) - 1) * spread(own) ** 2
            freedom += len(own) - 1
            count += len(own)
    if not squares:
        return None
    executions = results["settings"].get("executions_per_trial") or 1
    return {"sd": math.sqrt(squares / freedom / executions), "source": "seeds", "runs": count}


def measured_default(results):
    default = results.get("default")
    if not default:
        return None
    measured = at(default["measures"] or {}, results["objective"]["name"])
    empty = dict.fromkeys(("mean", "sd", "cost", "low", "high"))
    return {"values": dict(default["values"]), "objective": measured} | empty
