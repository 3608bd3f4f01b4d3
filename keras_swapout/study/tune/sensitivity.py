"""How much worse the objective gets as each parameter leaves its best value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_swapout.study.measuring.measure import at
from keras_swapout.study.measuring.statistics import ALPHA, spread
from keras_swapout.study.report.words import counted
from keras_swapout.study.tune import sentences
from keras_swapout.study.tune.observed import (
    as_number,
    capped,
    measured_default,
    objective_of,
    observations,
    place_of,
    seed_noise,
    usable,
)
from keras_swapout.study.tune.surrogate import Surrogate, from_unit, to_unit

_GRID = 61  # values of a profile
_MAP = 33  # of each side of the map


def sensitivity(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the trials say about each parameter, as numbers and as sentences.

    A Gaussian process (see `Surrogate`) through the completed trials of full length, and the
    untuned default, gives the objective without the noise of a single trial. The cost of a setting
    is how much worse it is there than the optimum of the process; its uncertainty is that of the
    difference, and 95 % intervals use Student's t with as many degrees of freedom as there are
    trials beyond the hyperparameters.

    Args:
        results: of a search. Read here: "objective", "parameters", "trials", "default", "best",
            "method" and "confirmation", whose validation values, where two seeds have the same
            setting, give the noise of a trial.

    Returns:
        Plain dicts and lists, ready for JSON, costs positive where the objective is worse:

        - "reason": why there is no surrogate, or None; "verdict": "worth it", "small", "not worth
          it", "unsettled" or "unknown"; "answer" and "sentences", the parameter's own also there.
        - "trials" (number used, with the default), "epochs" (theirs), "capped" (how many were so
          bad that they count as "cap") and "r2", the share of the variance explained.
        - "noise": {"sd", "source": "seeds", "surrogate" or "trials", "runs"} or None.
        - "best" {"id", "values", "objective", "mean", "sd"}: the best trial, what was measured and
          what the process says of it; "optimum" {"values", "mean", "sd"}; "default" likewise with
          "objective", "cost", "low", "high", or None.
        - "parameters": name to "profile" {"value", "mean", "sd"}, others at the optimum; "range"
          of its mean; "costs", a list of {"step", "below", "above"}, each None or {"value",
          "cost", "sd", "low", "high"}; "ends" likewise, of the range's two; "interval" (low, high)
          of values that cost less than the noise; "default", a cost; "measured", whether any of
          the costs is beyond chance; "sentence". Empty without a surrogate.
        - "map": {"x", "y" (names), "xs", "ys", "mean"} of the two most important, or None.

    Example:

    >>> results = {"objective": {"name": "nll", "title": "NLL", "direction": "min", "unit": "",
    ...                          "digits": 3}, "parameters": [], "trials": []}
    >>> print(sensitivity(results)["reason"])
    no trial was completed
    """
    objective = results["objective"]
    parameters = [p for p in results["parameters"] if p["low"] < p["high"]]
    sign = 1 if objective["direction"] == "min" else -1
    trials = usable(results)
    x, y = observations(results, parameters, trials)
    best = next((t for t in results["trials"] if t["id"] == results.get("best")), None)
    value = at(best["measures"], objective["name"]) if best else None
    known = {"id": best["id"], "values": dict(best["values"])} if best else {}
    found: dict[str, Any] = {
        "reason": None,
        "trials": len(y),
        "epochs": trials[0]["epochs"] if trials else None,
        "capped": 0,
        "cap": None,
        "r2": None,
        "noise": None,
        "best": known | {"objective": value, "mean": None, "sd": None} if best else None,
        "optimum": None,
        "default": measured_default(results),
        "parameters": {},
        "map": None,
    }
    found["reason"] = _too_few(len(y), len(parameters), y)
    if found["reason"] is None:
        from threadpoolctl import threadpool_limits

        y, found["cap"], found["capped"] = capped(y, sign)
        with threadpool_limits(1):  # matrices so small that threads took ten times as long
            _fit(found, Surrogate(x, y), parameters, results, sign)
    found |= sentences.of_sensitivity(found, parameters, objective_of(results))
    return found


def _too_few(trials: int, parameters: int, y: np.ndarray) -> str | None:
    if not trials:
        return "no trial was completed"
    if not parameters:
        return "nothing was searched"
    least = max(8, 3 * parameters)
    if trials < least:
        ask = f"{least} are needed for {counted(parameters, 'parameter')}"
        return f"{counted(trials, 'measured setting')} of full length are too few: {ask}"
    return None if spread(y) else "every trial gave the same value"


def _fit(found, surrogate, parameters, results, sign):
    found["r2"] = surrogate.r2
    if surrogate.r2 > 0 and surrogate.evidence > 0:
        _explain(found, surrogate, parameters, results, sign)
    else:
        found["reason"] = "the parameters explain nothing that chance would not"
        noise = math.sqrt(found["trials"] / (found["trials"] - 1)) * surrogate.scale
        found["noise"] = {"sd": noise, "source": "trials", "runs": found["trials"]}


def _explain(found, surrogate, parameters, results, sign):
    from scipy.special import stdtrit

    freedom = max(found["trials"] - len(parameters) - 2, 1)
    t = float(stdtrit(freedom, 1 - ALPHA / 2))
    best = surrogate.best(parameters, sign)
    noise = found["noise"] = seed_noise(results) or {
        "sd": surrogate.noise,
        "source": "surrogate",
        "runs": found["trials"],
    }

    def setting(place):
        values = {p["name"]: from_unit(p, u) for p, u in zip(parameters, place, strict=True)}
        return {p["name"]: as_number(p, values[p["name"]]) for p in parameters}

    def says(place):
        point = place.reshape(1, -1)
        mean, sd = surrogate.mean(point)[0], surrogate.deviation(point)[0]
        return {"mean": float(mean), "sd": float(sd)}

    def costs(points):
        mean, sd = surrogate.difference(np.reshape(points, (-1, len(parameters))), best)
        mean = sign * mean
        rows = zip(mean, sd, mean - t * sd, mean + t * sd, strict=True)
        return [dict(zip(("cost", "sd", "low", "high"), map(float, r), strict=True)) for r in rows]

    found["optimum"] = {"values": setting(best)} | says(best)
    for point, cost in ((found["best"], False), (found["default"], True)):
        place = place_of(point, parameters)
        if place is not None:
            point |= (costs(place)[0] if cost else {}) | says(place)  # its own deviation
    for index, p in enumerate(parameters):

        def cost_at(value, index=index, p=p):
            """The cost with this value and the others at the optimum; None out of range."""
            if value is None or not p["low"] - 1e-9 <= value <= p["high"] + 1e-9:
                return None
            place = best.copy()
            place[index] = to_unit(p, value)
            return {"value": as_number(p, value)} | costs(place)[0]

        grid = np.linspace(0, 1, _GRID)
        if p["type"] == "int":
            grid = np.unique(np.clip(to_unit(p, from_unit(p, grid)), 0, 1))
        grid = np.unique(np.append(grid, best[index]))
        line = np.tile(best, (len(grid), 1))
        line[:, index] = grid
        profile = surrogate.mean(line)
        cost = np.array([row["cost"] for row in costs(line)])
        middle = int(np.searchsorted(grid, best[index]))
        centre = float(from_unit(p, best[index]))
        row = {
            "profile": {
                "value": [as_number(p, v) for v in from_unit(p, grid)],
                "mean": profile.tolist(),
                "sd": surrogate.deviation(line).tolist(),
            },
            "range": float(np.ptp(profile)),
            "costs": [
                {"step": step, "below": cost_at(below), "above": cost_at(above)}
                for step, below, above in _steps(p, centre)
            ],
            "ends": [cost_at(p["low"]), cost_at(p["high"])],
            "interval": [
                as_number(p, from_unit(p, grid[middle - _run(cost[:middle][::-1], noise["sd"])])),
                as_number(p, from_unit(p, grid[middle + _run(cost[middle + 1 :], noise["sd"])])),
            ],
            "default": cost_at(at((found["default"] or {}).get("values", {}), p["name"])),
        }
        looks = [*row["ends"], *(c[side] for c in row["costs"] for side in ("below", "above"))]
        looks = [look for look in looks if look is not None]
        # Several looks, so each at a stricter level (Bonferroni).
        strict = float(stdtrit(freedom, 1 - ALPHA / 2 / len(looks)))
        row["measured"] = any(look["cost"] > strict * look["sd"] for look in looks)
        found["parameters"][p["name"]] = row
    found["map"] = _map(surrogate, parameters, best, found["parameters"])


def _map(surrogate, parameters, best, rows):
    if len(parameters) < 2:
        return None
    order = sorted(range(len(parameters)), key=lambda i: -rows[parameters[i]["name"]]["range"])
    first, second = sorted(order[:2])
    grid = np.linspace(0, 1, _MAP)
    points = np.tile(best, (_MAP * _MAP, 1))
    points[:, second], points[:, first] = np.array(list(itertools.product(grid, grid))).T
    x, y = parameters[first], parameters[second]
    as_floats = [dict(p, type="float") for p in (x, y)]
    return {
        "x": x["name"],
        "y": y["name"],
        "xs": from_unit(as_floats[0], grid).tolist(),
        "ys": from_unit(as_floats[1], grid).tolist(),
        "mean": surrogate.mean(points).reshape(_MAP, _MAP).tolist(),
    }


def _steps(p, centre) -> Iterable[tuple[str, float, float]]:
    """(name, value below, value above) of the steps away from the optimum."""
    if p["scale"] == "log":
        snap = round if p["type"] == "int" else float
        return [(f"× {factor}", snap(centre / factor), snap(centre * factor)) for factor in (2, 5)]
    if p["type"] == "int":
        return [(str(step), centre - step, centre + step) for step in (1, 2)]
    width = p["high"] - p["low"]
    # In tenths of the range where a tenth of 1 would be next to nothing or all of it.
    unit = 0.1 if 0.3 <= width <= 3 else 0.1 * width
    return [(f"{k * unit:.3g}", centre - k * unit, centre + k * unit) for k in (1, 2, 3)]


def _run(costs: Sequence[float], noise: float) -> int:
    """How many from the first on are at most `noise`."""
    return sum(1 for _ in itertools.takewhile(lambda cost: cost <= noise, costs))
