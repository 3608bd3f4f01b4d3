"""Groups of values against each other: which differences are more than chance."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_swapout.study.measuring.measure import Measure
from keras_swapout.study.measuring.statistics import ALPHA, holm, paired, spread, welch

BETTER = "better"
WORSE = "worse"
NO_DIFFERENCE = "no difference measured"
NOT_TESTABLE = "not testable"


def summary(values: Sequence[float]) -> dict[str, Any]:
    """{"values", "n", "mean", "sd"} of a group; a mean of nothing and a spread of one are None.

    Example:

    >>> summary([0.5, 0.7])["mean"], summary([])["mean"]
    (0.6, None)
    """
    return {
        "values": list(values),
        "n": len(values),
        "mean": float(np.mean(values)) if len(values) else None,
        "sd": spread(values) if len(values) > 1 else None,
    }


def contrast(
    first: Sequence[float], second: Sequence[float], pairs: bool = False, what: str = "run"
) -> dict[str, Any]:
    """The difference of two groups, and the p-value of none: Welch's t-test, or the paired one.

    Args:
        first, second: the values of each; with `pairs` as many of the one as of the other.
        pairs: whether the values belong together one by one.
        what: one value is of a ...

    Returns:
        {"n" (of each), "means", "difference" (second minus first), "low", "high" (of its 95 %
        interval), "p", "p_adjusted", "verdict", "reason"}. `judge` sets the verdict of what was
        tested; what can't be is "not testable" or, where both are equal, "no difference
        measured", with the reason. What does not apply is None.

    Example:

    >>> row = contrast([0.90, 0.91], [0.95, 0.96])
    >>> round(row["difference"], 3), round(row["p"], 3), contrast([0.9], [0.95])["reason"]
    (0.05, 0.019, 'a test needs two runs of each, and there are 1 against 1')
    """
    sizes = [len(first), len(second)]
    row = dict.fromkeys(("means", "difference", "low", "high", "p", "p_adjusted", "reason"))
    row |= {"n": sizes, "verdict": NOT_TESTABLE}
    if all(sizes):
        row["means"] = [float(np.mean(first)), float(np.mean(second))]
        row["difference"] = row["means"][1] - row["means"][0]
    if min(sizes) < 2:
        # The second first, as wherever a reader sees both.
        counts = f"are {sizes[1]} against {sizes[0]}"
        if pairs:
            counts = f"is {sizes[0]}" if sizes[0] else "are none"
        which = f"{what}s in common" if pairs else f"{what}s of each"
        return row | {"reason": f"a test needs two {which}, and there {counts}"}
    if np.allclose(first, second, rtol=1e-12, atol=0) if pairs else not spread([*first, *second]):
        same = f"every {what} gave {'both ' if pairs else ''}the same value"
        return row | {"verdict": NO_DIFFERENCE, "reason": same}
    try:
        result = (paired if pairs else welch)(first, second)
    except ValueError:
        alike = f"the difference is the same for every {what}, so it has no spread"
        none = f"no spread over the {what}s, so the t-test is undefined"
        return row | {"reason": alike if pairs else none}
    return row | {"low": result.low, "high": result.high, "p": result.p}


def judge(rows: Iterable[tuple[Measure, dict[str, Any]]]) -> None:
    """Gives contrasts that were tested together their adjusted p-values (Holm) and verdicts."""
    tested = [(measure, row) for measure, row in rows if row["p"] is not None]
    for (measure, row), p in zip(tested, holm([row["p"] for _, row in tested]), strict=True):
        better = (row["difference"] > 0) == measure.higher_is_better
        row["p_adjusted"] = p
        row["verdict"] = (BETTER if better else WORSE) if p < ALPHA else NO_DIFFERENCE


def against(
    pairs: Iterable[Mapping[str, Any]],
    measures: Sequence[Measure],
    values: Callable[[str, Measure, str], Sequence[float] | None],
    within: bool = True,
) -> list[dict[str, Any]]:
    """Comparisons of two groups each, in all measures.

    Args:
        pairs: each with "first" and "second" (names of groups), "subject" and "reference" (what a
            reader calls the second and the first), "over" (what a value is of: "seeds", "images",
            ...) and "paired".
        measures: what to compare.
        values: (group, measure, over) -> its values, or None where there are none of that kind.
        within: whether Holm's correction is over the pairs within each measure, or else over all.

    Returns:
        Of each pair its entries and "measures", the name of each measure to its `contrast`.
    """
    found = []
    for pair in pairs:
        rows = {}
        for measure in measures:
            groups = [values(pair[name], measure, pair["over"]) for name in ("first", "second")]
            if all(group is not None for group in groups):
                rows[measure.name] = contrast(*groups, pair["paired"], pair["over"].rstrip("s"))
        found.append({**pair, "measures": rows})
    families = [
        [(m, one["measures"][m.name]) for one in found if m.name in one["measures"]]
        for m in measures
    ]
    for family in families if within else [itertools.chain(*families)]:
        judge(family)
    return found
