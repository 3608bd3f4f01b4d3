"""What the way of predicting changes: deterministic, recalibrated, stochastic; the same networks.

Beside the comparison with plain (compare.py): here a network is compared with itself, so the test
is paired over the seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_swapout.study.measuring.statistics import ALPHA, holm, paired, spread
from keras_swapout.study.measuring.ways import DETERMINISTIC, RECALIBRATED
from keras_swapout.study.pilot.measures import MEASURES
from keras_swapout.study.pilot.verdicts import changes

#: Read from one way's entry in a run.
QUALITY = tuple(dataclasses.replace(measure, path=measure.name) for measure in MEASURES[:3])


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
        None where no run has such figures; else a dict:

        - "ways": the names, in order;
        - "measures": the entries of `QUALITY`, as dicts;
        - "methods": name to way to {"cost": time of a prediction relative to deterministic, median
          over seeds, "once": seconds spent beforehand, or None, "measures": name to {"values",
          "mean", "sd", "means" (deterministic, this one), "difference", "low", "high", "p",
          "p_adjusted"}};
        - "sentences".

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
    Swapout: stochastic T=30 against deterministic: negative log likelihood falls by 0.199
    (0.508 to 0.309, adjusted p < 0.001); not testable, for want of seeds or of spread: test
    accuracy, expected calibration error.
    """
    runs = [run for run in results["runs"] if run.get("inference")]
    ways = list(dict.fromkeys(way for run in runs for way in run["inference"]))
    if not ways:
        return None
    methods = {
        name: {
            way: _row([run["inference"] for run in runs if run["method"] == name], way)
            for way in ways
            if any(run["method"] == name and way in run["inference"] for run in runs)
        }
        for name in results["methods"]
    }
    methods = {name: rows for name, rows in methods.items() if rows}
    for measure in QUALITY:
        rows = [
            way["measures"][measure.name] for ways_ in methods.values() for way in ways_.values()
        ]
        tested = [row for row in rows if row["p"] is not None]
        for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_adjusted"] = adjusted
    sentences, unchanged = [], []
    for name, rows in methods.items():
        title, others = str(results["methods"][name].get("title", name)), []
        for way, row in rows.items():
            if any((m["p_adjusted"] or 1) < ALPHA for m in row["measures"].values()):
                text = changes(QUALITY, row["measures"])
                sentences.append(f"{title}: {way} against {DETERMINISTIC}: {text}.")
            elif way != DETERMINISTIC:
                others.append(way)
        sentences += _closed(title, rows)
        unchanged += [f"{title} ({', '.join(others)})"] if others else []
    if unchanged:
        sentences.append(
            f"No difference from {DETERMINISTIC} inference was established for "
            f"{'; '.join(unchanged)}."
        )
    return {
        "ways": ways,
        "measures": [dataclasses.asdict(measure) for measure in QUALITY],
        "methods": methods,
        "sentences": sentences,
    }


def _row(entries: Sequence[Mapping[str, Any]], way: str) -> dict[str, Any]:
    """One way of one method: its figures over the seeds, and against deterministic inference."""
    entries = [entry for entry in entries if way in entry]
    measures = {}
    for measure in QUALITY:
        values = [measure.read(entry[way]) for entry in entries]
        base = [measure.read(entry[DETERMINISTIC]) for entry in entries]
        row = {
            "values": values,
            "mean": float(np.mean(values)),
            "sd": spread(values) if len(values) > 1 else None,
            "means": (float(np.mean(base)), float(np.mean(values))),
            "difference": float(np.mean(values) - np.mean(base)),
        }
        row |= dict.fromkeys(("low", "high", "p", "p_adjusted"))
        if way != DETERMINISTIC and len(values) > 1 and spread(np.subtract(values, base)):
            test = paired(base, values)
            row |= {"low": test.low, "high": test.high, "p": test.p}
        measures[measure.name] = row
    ratios = [entry[way]["seconds"] / entry[DETERMINISTIC]["seconds"] for entry in entries]
    once = [entry[way]["once"] for entry in entries if "once" in entry[way]]
    return {
        "cost": float(np.median(ratios)),
        "once": float(np.median(once)) if once else None,
        "measures": measures,
    }


def _closed(title: str, rows: Mapping[str, Any]) -> list[str]:
    """How much of the gap between one prediction and many recalibration closes."""
    many = [way for way in rows if way not in (DETERMINISTIC, RECALIBRATED)]
    if not many or RECALIBRATED not in rows:
        return []
    closed, open_ = [], []
    for name, words in (("accuracy", "error"), ("nll", "negative log likelihood")):
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
