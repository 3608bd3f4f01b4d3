"""Does any method differ from plain, by more than the luck of the seed?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_swapout.study.measuring.comparison import BETTER, WORSE, against, summary
from keras_swapout.study.measuring.measure import Measure, at
from keras_swapout.study.pilot.agreement import agreement
from keras_swapout.study.pilot.inference import inference
from keras_swapout.study.pilot.measures import MEASURES, PRIMARY
from keras_swapout.study.report.answer import answer, how_tested, sentence
from keras_swapout.study.report.words import counted, listed, lower, size_text, value_text

BASELINE = "plain"


def compare(results: Mapping[str, Any]) -> dict[str, Any]:
    """`compare_runs` for each share of wrong labels.

    Returns:
        The first condition's dict, and "conditions": the share of wrong labels to the dict of each.

    Example:

    >>> runs = [
    ...     {"method": "plain", "noise": noise, "seed": 0, "test": {"accuracy": 0.9 - 2 * noise}}
    ...     for noise in (0.0, 0.25)
    ... ]
    >>> found = compare({"methods": {"plain": {"title": "plain"}}, "runs": runs})
    >>> [one["methods"]["plain"]["measures"]["accuracy"]["mean"]
    ...  for one in found["conditions"].values()]
    [0.9, 0.4]
    """
    conditions = {
        share: compare_runs({**results, "runs": runs})
        for share, runs in by_condition(results).items()
    }
    return {**conditions[min(conditions)], "conditions": conditions}


def by_condition(results: Mapping[str, Any]) -> dict[float, list[Mapping[str, Any]]]:
    """The runs of each share of wrong labels, in order; version 0.1.0 had none that were wrong."""
    found: dict[float, list[Mapping[str, Any]]] = {}
    for run in results["runs"]:
        found.setdefault(run.get("noise", 0.0), []).append(run)
    return dict(sorted(found.items())) or {0.0: []}


def condition(share: float) -> str:
    """What a share of wrong labels is called.

    Example:

    >>> condition(0.3)
    'With 30 % of the training labels wrong'
    """
    if not share:
        return "With the labels as they are"
    return f"With {100 * share:g} % of the training labels wrong"


def compare_runs(results: Mapping[str, Any]) -> dict[str, Any]:
    """Compares every method with plain, measure by measure, over seeds.

    By Welch's t-test, with Holm's correction over the methods within each measure.

    Args:
        results: what a pilot measured. Read here: `methods` (name to title, in order), `runs`
            (each with `method`, `seed` and the paths in `MEASURES`), `timing` and
            `data["sizes"]["test"]`. Runs or values may be missing; values that are not finite
            count as missing.

    Returns:
        A dict:

        - `answer`: the overall answer, one sentence; `details`: sentences to go with it.
        - `test`: how the verdicts were reached, and what they do not cover.
        - `resolution`: the binomial standard error of an accuracy on that many `test_images`
          (None if the number is unknown).
        - `measures`: those with at least one value; `primary`: the one that decides, or None.
        - `methods`: name to `title`, `runs` (how many), `verdict` (sentences), `cost` (the
          method's timing, or None), `measures` (name to its `summary`) and `against` (name to its
          `contrast` with plain), both of `keras_swapout.study.measuring.comparison`.
        - `agreement` and `inference`: see the modules of these names.

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
    >>> comparison = compare_runs({"methods": titles, "runs": runs})
    >>> print(comparison["methods"]["swapout"]["verdict"])
    Swapout against plain: better in test accuracy by 5.0 points (95 % interval 2.0 to 8.0;
    95.5 % against 90.5 %, adjusted p = 0.019).
    """
    runs = _runs_by_method(results)
    size = at(results, "data.sizes.test")
    measures = [
        measure.on(size)
        for measure in MEASURES
        if any(measure.read(run) is not None for run in results["runs"])
    ]
    values = {
        name: {
            m.name: [v for run in runs[name] if (v := m.read(run)) is not None] for m in measures
        }
        for name in runs
    }
    methods = {
        name: {
            "title": str(method.get("title", name)),
            "runs": len(runs[name]),
            "verdict": "",
            "cost": (results.get("timing") or {}).get("methods", {}).get(name),
            "measures": {m.name: summary(values[name][m.name]) for m in measures},
            "against": {},
        }
        for name, method in results["methods"].items()
    }
    pairs = [
        {
            "first": BASELINE,
            "second": name,
            "subject": method["title"],
            "reference": BASELINE,
            "over": "seeds",
            "paired": False,
        }
        for name, method in methods.items()
        if name != BASELINE and BASELINE in methods
    ]
    comparisons = against(pairs, measures, lambda name, measure, over: values[name][measure.name])
    for one in comparisons:
        methods[one["second"]]["against"] = one["measures"]
    primary = next((m for m in measures if m.name in PRIMARY), None)
    resolution = _resolution(methods, size)
    most = max((method["runs"] for method in methods.values()), default=0)
    for name, method in methods.items():
        method["verdict"] = " ".join(
            _verdict(name, methods, comparisons, measures, primary, most, resolution)
        )
    text, details = _answer(methods, comparisons, measures, primary, resolution)
    return {
        "answer": text,
        "details": details,
        "test": _how_tested(comparisons, measures, size, resolution),
        "test_images": None if size is None else int(size),
        "resolution": resolution,
        "measures": measures,
        "primary": primary,
        "methods": methods,
        "agreement": agreement(results),
        "inference": inference(results),
    }


def _runs_by_method(results):
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


def _resolution(methods, size):
    means = {
        name: method["measures"]["accuracy"]["mean"]
        for name, method in methods.items()
        if method["measures"].get("accuracy", {"mean": None})["mean"] is not None
    }
    if not size or not means:
        return None
    accuracy = means.get(BASELINE, float(np.mean(list(means.values()))))
    # At accuracy 1 the formula gives zero, but no test set resolves less than one image.
    return max(math.sqrt(accuracy * (1 - accuracy) / size), 1 / size)


def _answer(methods, comparisons, measures, primary, resolution):
    start = "On this data, at this budget,"
    finished = [one for one in comparisons if methods[one["second"]]["runs"]]
    if primary is None:
        return f"{start} nothing was measured: no run finished with a test accuracy.", []
    if BASELINE not in methods:
        return f"{start} nothing can be compared, since plain was not run.", []
    if not finished:
        return f"{start} only plain was run: there is nothing to compare it with.", []
    text, details = answer(finished, primary, "methods")
    small = [
        one["subject"]
        for one in finished
        if primary.name == "accuracy" and _small(one["measures"], resolution, BETTER)
    ]
    if small:
        details.append(_caveat(f"For {listed(small)} the gain is", primary, resolution))
    for measure in measures:
        if measure is primary:
            continue
        found = [
            f"{verdict} with {listed(who)}"
            for verdict in (BETTER, WORSE)
            if (who := [o["subject"] for o in finished if _is(o, measure, verdict)])
        ]
        alone = any(_is(o, measure, BETTER) and not _is(o, primary, BETTER) for o in finished)
        caveat = f" ({measure.caveat})" if alone and measure.caveat else ""
        details += [f"{measure.title} is {'; '.join(found)}{caveat}."] if found else []
    unfinished = [method["title"] for method in methods.values() if not method["runs"]]
    details += [f"No finished runs: {listed(unfinished)}."] if unfinished else []
    return f"{start} {lower(text)}", details


def _is(one, measure, verdict):
    return one["measures"][measure.name]["verdict"] == verdict


def _small(rows, resolution, *verdicts):
    """Whether a measured difference in accuracy is less than the test set resolves."""
    row = rows.get("accuracy")
    return (
        row is not None
        and resolution is not None
        and row["verdict"] in verdicts
        and abs(row["difference"]) < resolution
    )


def _caveat(start, primary, resolution):
    return (
        f"{start} less than the test set's own standard error of "
        f"{size_text(primary, resolution)}, so other images may not show it."
    )


def _verdict(name, methods, comparisons, measures, primary, most, resolution):
    """One method's sentences."""
    method = methods[name]
    title = method["title"]
    if not method["runs"]:
        return [f"{title}: no finished runs."]
    sentences = []
    if name == BASELINE or BASELINE not in methods:
        own = method["measures"][primary.name] if primary else None
        if own is None or own["mean"] is None:
            sentences.append(f"{title}: no test accuracy was measured.")
        else:
            spread = "" if own["sd"] is None else f" ± {value_text(primary, own['sd'], False)}"
            mean = value_text(primary, own["mean"], unit=False)
            unit = f" {primary.unit}" if primary.unit else ""
            role = {1: "there is nothing to compare it with", 2: "the other is compared with it"}
            role = role.get(len(methods), "the others are compared with it")
            if name != BASELINE:
                role = "there is nothing to compare it with, since plain was not run"
            seeds = counted(own["n"], "seed")
            sentences.append(
                f"{title}: {lower(primary.title)} {mean}{spread}{unit} over {seeds}; {role}."
            )
    else:
        one = next(one for one in comparisons if one["second"] == name)
        sentences.append(sentence(one, measures))
        if _small(one["measures"], resolution, BETTER, WORSE):
            sentences.append(
                _caveat("The difference in accuracy is", _accuracy(measures), resolution)
            )
    if method["runs"] < most:  # a run that diverged is left out of the means and must not vanish
        sentences.append(f"Only {method['runs']} of {most} runs finished.")
    missing = [
        f"{lower(m.title)} {method['runs'] - method['measures'][m.name]['n']} of {method['runs']}"
        for m in measures
        if method["measures"][m.name]["n"] < method["runs"]
    ]
    if missing:
        sentences.append(
            f"Runs left out for want of a finite value, diverged perhaps: {listed(missing)}."
        )
    step = _ratio(method["cost"])
    if step and name != BASELINE:
        sentences.append(f"Training takes {step} times plain's time.")
    return sentences


def _ratio(cost):
    """ "1.06 (quartiles 1.02 to 1.10)", or "" where it was not measured."""
    middle, low, high = (
        (cost or {}).get(f"train_step_ratio{end}") for end in ("", "_low", "_high")
    )
    if middle is None:
        return ""
    return f"{middle:.2f}" + (
        "" if None in (low, high) else f" (quartiles {low:.2f} to {high:.2f})"
    )


def _accuracy(measures):
    return next(measure for measure in measures if measure.name == "accuracy")


def _how_tested(comparisons: Sequence[Any], measures: Sequence[Measure], size, resolution) -> str:
    text = (
        f"{how_tested(comparisons)} The spread is over initial weights, batch order and masks, "
        "with the split fixed, so it says nothing about other test images."
    )
    if resolution is not None:
        text += (
            f" A test set of {counted(int(size), 'image')} itself resolves an accuracy to "
            f"±{size_text(_accuracy(measures), resolution)} (one binomial standard error)."
        )
    return text.strip()
