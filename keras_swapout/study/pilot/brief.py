"""A pilot's answer in 25 lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_swapout.study.measuring.comparison import BETTER, WORSE
from keras_swapout.study.measuring.measure import at
from keras_swapout.study.measuring.statistics import enough, resolvable
from keras_swapout.study.pilot.compare import BASELINE, by_condition, condition
from keras_swapout.study.pilot.methods import METHODS
from keras_swapout.study.report.brief import Brief, Line, line
from keras_swapout.study.report.words import (
    difference_text,
    listed,
    lower,
    size_text,
    upper,
)

FEWEST = 3  # seeds of which an interval says something
#: Plain memorises where it knows its training labels, and the test images that much less well.
KNOWN, LESS = 0.9, 0.05
#: Where plain's validation loss ends above this many times its lowest, R-Block has paid: the rule
#: of docs/wrong-labels, of labels for training and validation that are wrong alike.
RISE = 1.1
SHOWN = ("accuracy", "rmse", "balanced_accuracy", "auroc", "nll", "corruption_accuracy")


def brief(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Brief:
    """What to print at the end of a pilot.

    Args:
        results: what it measured.
        comparison: what `keras_swapout.study.pilot.compare.compare` made of that.
    """
    conditions = comparison["conditions"]
    seeds = min((m["runs"] for c in conditions.values() for m in c["methods"].values()), default=0)
    few = seeds < FEWEST
    rows = {share: _rows(found, few) for share, found in conditions.items()}
    order = sorted(rows, key=lambda share: (not any(r.verdict for r in rows[share]), -share))
    several = len(conditions) > 1
    lines = [
        one
        for share in order
        for one in ([Line(condition(share))] if several else []) + rows[share]
    ]
    said = [_sentence(share, conditions[share], several, seeds) for share in order]
    lost = [] if few else _lost(conditions, order, several)
    notes = [*lost, *_memorised(results)]
    return Brief(
        answer=" ".join(said),
        columns=("method", BASELINE, "difference, 95 % interval" if not few else "difference"),
        lines=lines,
        notes=notes,
        then=_then(results, conditions, few),
    )


def _rows(found, few):
    """The rows of a condition: first what is established, then the first measure of the rest."""
    primary = found["primary"]
    if primary is None:
        return []
    first, rest = [], []
    for measure in found["measures"]:
        if measure.name not in SHOWN:
            continue
        for name, method in found["methods"].items():
            row = method["against"].get(measure.name)
            if name == BASELINE or row is None or row["difference"] is None:
                continue
            found_line = line(measure, method["title"], row, few)
            if found_line.verdict:
                first.append(found_line)
            elif measure.name == primary.name:
                rest.append(found_line)
    return first + rest


def _sentence(share, found, several, seeds):
    """The answer in one condition."""
    primary = found["primary"]
    start = f"{condition(share)}, " if several else ""
    if primary is None or not any(m["against"] for m in found["methods"].values()):
        return found["answer"]
    name, methods = lower(primary.title), found["methods"]
    rows = {n: m["against"][primary.name] for n, m in methods.items() if m["against"]}
    if seeds < FEWEST:
        return upper(f"{start}there are too few seeds to tell{_how_many(primary, rows, methods)}.")
    by = {
        verdict: [n for n, row in rows.items() if row["verdict"] == verdict]
        for verdict in (BETTER, WORSE)
    }
    said = []
    for verdict in (BETTER, WORSE):
        each = [
            f"{methods[n]['title']} ({difference_text(primary, rows[n]['difference'], True)})"
            for n in sorted(by[verdict], key=lambda n: -abs(rows[n]["difference"]))
        ]
        if each:
            said.append(f"{verdict} than plain in {name}: {listed(each)}")
    if said:
        return upper(f"{start}{'; '.join(said)}.")
    least = resolvable([m["measures"][primary.name]["values"] for m in methods.values()])
    could = f"; {seeds} seeds show differences from {size_text(primary, least)}" if least else ""
    return upper(f"{start}no method differs from plain in {name} by more than the seeds do{could}.")


def _how_many(primary, rows, methods):
    """How many seeds would establish the largest difference, by the pooled spread."""
    groups = [m["measures"][primary.name]["values"] for m in methods.values()]
    largest = max((row["difference"] or 0 for row in rows.values()), key=abs, default=0)
    seeds = enough(largest, groups)
    if not seeds:
        return ""
    size = difference_text(primary, largest, points=True)
    return f": the largest difference seen, {size}, would take about {seeds} of them"


def _lost(conditions, order, several):
    """What is worse, in any measure, said as plainly as what is better."""
    said = []
    for share in order:
        found = conditions[share]
        worse: dict[str, list[str]] = {}
        for measure in found["measures"]:
            for method in found["methods"].values():
                if method["against"].get(measure.name, {}).get("verdict") == WORSE:
                    worse.setdefault(lower(measure.title), []).append(method["title"])
        if worse:
            what = "; ".join(f"{name} ({listed(who)})" for name, who in worse.items())
            said.append(
                f"{condition(share) if several else 'Lost'}{', lost' if several else ''}: {what}."
            )
    return said or ["Nothing that was measured got worse by more than the seeds differ."]


def _memorised(results):
    """Whether plain has learnt its training labels by heart."""
    said = []
    for share, every in by_condition(results).items():
        runs = [run for run in every if run["method"] == BASELINE]
        train, test = (
            [value for run in runs if (value := at(run, f"{split}.accuracy")) is not None]
            for split in ("train", "test")
        )
        if not train or not test:
            return []
        a, b = float(np.mean(train)), float(np.mean(test))
        if share == 0:
            does = a >= KNOWN and a - b >= LESS
            said.append(
                f"plain {'memorises' if does else 'does not memorise'}: it knows {100 * a:.0f} % "
                f"of its training labels and {100 * b:.0f} % of the test labels"
            )
            said += _rising(runs)
        else:
            given = [value for run in runs if (value := at(run, "memorised.given")) is not None]
            if given:
                said.append(
                    f"with {100 * share:g} % wrong it repeats {100 * np.mean(given):.0f} % of "
                    "the wrong ones"
                )
    return [upper(f"{'; '.join(said)}.")] if said else []


def _rising(runs):
    """Whether the validation loss turns, and what that has meant on the sets that were measured."""
    curves = [(run.get("history") or {}).get("val_loss") for run in runs]
    if not all(curve and min(curve) > 0 for curve in curves):
        return []
    rise = float(np.mean([curve[-1] / min(curve) for curve in curves]))
    if rise > RISE:
        meant = f"ends at {rise:.1f} times its lowest, where R-Block has mostly paid"
    else:
        meant = "does not rise again, where R-Block has not paid"
    return [f"its validation loss {meant} on what we measured"]


def _then(results, conditions, few):
    settings = results.get("settings") or {}
    if few:
        return ["Next: more seeds (--seeds 5)."]
    gained = [
        name
        for found in conditions.values()
        if found["primary"]
        for name, method in found["methods"].items()
        if method["against"].get(found["primary"].name, {}).get("verdict") == BETTER
    ]
    if settings.get("data") == "digits":
        return ["Next: your own images, keras-swapout pilot --data FOLDER [--model FILE.keras]."]
    if not gained:
        return ["Next: keep plain; or --label-noise 0.2, if your labels may be wrong."]
    name = gained[0].partition("@")[0]
    # By wrong labels the likelihood of one who forgives them is poor, however right it is.
    by = " --objective accuracy" if "label_weight" in METHODS[name].values else ""
    data = settings.get("data", "FOLDER")
    return [f"Next: keras-swapout tune --data {data} --method {name}{by}."]
