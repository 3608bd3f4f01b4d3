"""What R-Block claims: do sub-models agree with the network, does training match inference?

Beside the comparison with plain (compare.py): plain has no sub-models, so R-Block is held against
the same layers trained without it, and its two forms against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_swapout.study.measuring.comparison import against, summary
from keras_swapout.study.pilot.measures import CONSISTENCY, MEASURES
from keras_swapout.study.report.answer import answer, how_tested, sentence

#: A contrast is about these.
CONTRASTED = (*(m for m in MEASURES if m.name in ("accuracy", "nll")), *CONSISTENCY)
FORMS = ("bdropdml", "sdropdml")


def agreement(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The consistency of every method, and the contrasts among R-Block's.

    By Welch's t-test, with Holm's correction over the contrasts within each measure.

    Args:
        results: what a pilot measured.

    Returns:
        None where no run has a consistency; else a dict:

        - "measures": the entries of `CONSISTENCY` with a value;
        - "methods": name to measure to its `summary`;
        - "contrasts": as of `against`, both of `keras_swapout.study.measuring.comparison`;
        - "sentences": what the contrasts say; "test": how they were tested.

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
    R-Block, SDropDML against SDropDML: better in sub-model disagreement by 6.0 points
    (95 % interval 5.7 to 6.3; 4.0 % against 10.1 %, adjusted p < 0.001).
    """
    methods = results["methods"]
    values = {
        name: {
            measure.name: [
                value
                for run in results["runs"]
                if run["method"] == name and (value := measure.read(run)) is not None
            ]
            for measure in CONTRASTED
        }
        for name in methods
    }
    shown = [m for m in CONSISTENCY if any(values[name][m.name] for name in values)]
    if not shown:
        return None
    pairs = [
        {
            "first": first,
            "second": second,
            "subject": str(methods[second].get("title", second)),
            "reference": str(methods[first].get("title", first)),
            "over": "seeds",
            "paired": False,
        }
        for first, second in _pairs(methods)
    ]
    contrasts = against(
        pairs, CONTRASTED, lambda name, measure, over: values[name][measure.name] or None
    )
    sentences = [sentence(one, CONTRASTED) for one in contrasts]
    return {
        "measures": shown,
        "methods": {
            name: {m.name: summary(values[name][m.name]) for m in shown} for name in values
        },
        "contrasts": contrasts,
        "sentences": [*_choice(contrasts), *sentences],
        "test": how_tested(contrasts),
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


def _choice(contrasts):
    """BDropDML or SDropDML for this data? By test accuracy, and then by agreement."""
    forms = tuple(f"rblock_{name}" for name in FORMS)
    both = [one for one in contrasts if (one["first"], one["second"]) == forms]
    found = [answer(both, measure)[0] for measure in (CONTRASTED[0], CONSISTENCY[1])]
    found = " ".join(filter(None, found))
    return [f"BDropDML or SDropDML, under R-Block? {found}"] if found else []
