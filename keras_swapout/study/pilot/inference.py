"""What the way of predicting changes: deterministic, recalibrated, stochastic; the same networks.

Beside the comparison with plain (compare.py): here a network is compared with itself, so the test
is paired over the seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_swapout.study.measuring.comparison import BETTER, WORSE, against, summary
from keras_swapout.study.measuring.ways import DETERMINISTIC, RECALIBRATED
from keras_swapout.study.pilot.measures import MEASURES
from keras_swapout.study.report.answer import how_tested, sentence

#: Read from one way's entry in a run.
QUALITY = tuple(
    dataclasses.replace(measure, path=measure.name)
    for measure in MEASURES
    if measure.name in ("accuracy", "nll", "ece", "rmse", "mae")
)


def inference(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The quality and the cost of every way of predicting, for each method.

    Each way is compared with deterministic inference of the same networks by a paired t-test over
    the seeds, with Holm's correction over all these comparisons within each measure. The share of
    the gap that recalibration closes is

        (d - r) / (d - s)   of the means over seeds of a loss (error, negative log likelihood)

    with d deterministic, r recalibrated and s stochastic inference with the most samples; it is
    given where s is better than d in every seed.

    Args:
        results: what a pilot measured.

    Returns:
        None where no run has such figures, all of them finite; else a dict:

        - "ways": the names, in order; "measures": those of `QUALITY` that there are;
        - "methods": name to way to {"cost": time of a prediction relative to deterministic, median
          over seeds, "once": seconds spent beforehand, or None, "measures": name of each of
          `QUALITY` to its `summary`};
        - "contrasts": as of `against`, both of `keras_swapout.study.measuring.comparison`;
        - "sentences"; "test": how they were tested.

    Example:

    >>> ways = {"deterministic": (0.8, 0.50), "stochastic T=30": (0.9, 0.30)}
    >>> runs = [
    ...     {
    ...         "method": "swapout",
    ...         "seed": seed,
    ...         "inference": {
    ...             way: {"accuracy": a, "nll": nll + seed * a / 100, "ece": 0.1, "seconds": 1.0}
    ...             for way, (a, nll) in ways.items()
    ...         },
    ...     }
    ...     for seed in range(3)
    ... ]
    >>> found = inference({"methods": {"swapout": {"title": "Swapout"}}, "runs": runs})
    >>> print(found["sentences"][0])
    Swapout, stochastic T=30 against deterministic inference: not testable in test accuracy (the
    difference is the same for every seed, so it has no spread); better in negative log likelihood
    by 0.199 (95 % interval 0.197 to 0.201; 0.309 against 0.508, adjusted p < 0.001); no difference
    measured in expected calibration error (every seed gave both the same value).
    """
    measures = [m for m in QUALITY if any(_has(run, m) for run in results["runs"])]
    runs = [run for run in results["runs"] if _finite(run.get("inference"), measures)]
    ways = list(dict.fromkeys(way for run in runs for way in run["inference"]))
    if not ways:
        return None
    entries = {
        (name, way): [
            run["inference"] for run in runs if run["method"] == name and way in run["inference"]
        ]
        for name in results["methods"]
        for way in ways
    }
    entries = {key: found for key, found in entries.items() if found}
    titles = {name: str(m.get("title", name)) for name, m in results["methods"].items()}
    pairs = [
        {
            "first": (name, way, DETERMINISTIC),
            "second": (name, way, way),
            "subject": f"{titles[name]}, {way}",
            "reference": f"{DETERMINISTIC} inference",
            "over": "seeds",
            "paired": True,
        }
        for name, way in entries
        if way != DETERMINISTIC
    ]

    def values(group, measure, over):
        name, way, read = group
        return [measure.read(entry[read]) for entry in entries[name, way]]

    contrasts = against(pairs, measures, values)
    methods: dict[str, dict[str, Any]] = {}
    for (name, way), found in entries.items():
        ratios = [entry[way]["seconds"] / entry[DETERMINISTIC]["seconds"] for entry in found]
        once = [entry[way]["once"] for entry in found if "once" in entry[way]]
        methods.setdefault(name, {})[way] = {
            "cost": float(np.median(ratios)),
            "once": float(np.median(once)) if once else None,
            "measures": {m.name: summary(values((name, way, way), m, "")) for m in measures},
        }
    sentences = [sentence(one, measures) for one in contrasts if _measured(one)]
    for name, rows in methods.items():
        sentences += _closed(titles[name], rows)
    same: dict[str, list[str]] = {}
    for name, way, _ in (one["second"] for one in contrasts if not _measured(one)):
        same.setdefault(titles[name], []).append(way)
    if same:
        said = "; ".join(f"{title} ({', '.join(its)})" for title, its in same.items())
        sentences.append(
            f"No difference from {DETERMINISTIC} inference was established for {said}."
        )
    return {
        "ways": ways,
        "measures": measures,
        "methods": methods,
        "contrasts": contrasts,
        "sentences": sentences,
        "test": how_tested(contrasts),
    }


def _has(run, measure):
    return any(measure.name in way for way in (run.get("inference") or {}).values())


def _finite(ways, measures):
    """Whether there are figures, and all of them finite, as those of a diverged run are not."""
    return bool(ways) and all(m.read(way) is not None for way in ways.values() for m in measures)


def _measured(one):
    return any(row["verdict"] in (BETTER, WORSE) for row in one["measures"].values())


def _closed(title: str, rows: Mapping[str, Any]) -> list[str]:
    """How much of the gap between one prediction and many recalibration closes."""
    many = [way for way in rows if way not in (DETERMINISTIC, RECALIBRATED)]
    if not many or RECALIBRATED not in rows:
        return []
    closed, open_ = [], []
    losses = (("accuracy", "error"), ("nll", "negative log likelihood"), ("rmse", "error"))
    for name, words in losses:
        if name not in rows[DETERMINISTIC]["measures"]:
            continue
        sign = -1 if name == "accuracy" else 1
        d, r, s = (
            sign * np.array(rows[way]["measures"][name]["values"])
            for way in (DETERMINISTIC, RECALIBRATED, many[-1])
        )
        if (s < d).all():
            share = (d.mean() - r.mean()) / (d.mean() - s.mean())
            closed.append(f"{100 * share:.0f} % of it in {words}".replace("-", "−"))
        else:
            open_.append(words)
    sentences = []
    if open_:
        sentences.append(
            f"{title}: {many[-1]} beats deterministic inference in {' or '.join(open_)} in some "
            "seeds at most, so there is no such gap to close."
        )
    if closed:
        once, cost = rows[RECALIBRATED]["once"], rows[many[-1]]["cost"]
        sentences.append(
            f"{title}: of the gap between deterministic inference and {many[-1]}, recalibration "
            f"closes {' and '.join(closed)}. It took {once:.1f} s once; {many[-1]} costs "
            f"{cost:.0f} times as much as one prediction, every time."
        )
    return sentences
