"""Tests and intervals for the difference of a few values, by scipy and statsmodels."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

ALPHA = 0.05


class Test(NamedTuple):
    """Second mean minus first, the ends of its 95 % interval, and the p-value of no difference."""

    difference: float
    low: float
    high: float
    p: float


def welch(first: Sequence[float], second: Sequence[float]) -> Test:
    """Two-sided Welch t-test and 95 % interval for the difference of two means.

    Args:
        first, second: at least two values each; one of the two may be without spread.

    Raises:
        ValueError: a side has fewer than two values, or neither has any spread.

    Example:

    >>> result = welch([1.0, 2.0, 3.0], [4.0, 5.0, 9.0])
    >>> print(f"{result.difference:.1f} ({result.low:.2f} to {result.high:.2f}), {result.p:.3f}")
    4.0 (-1.74 to 9.74), 0.106

    Source: `scipy.stats.ttest_ind(second, first, equal_var=False)`.
    """
    from scipy import stats

    if min(len(first), len(second)) < 2:
        raise ValueError(f"each side needs two values, got {len(first)} and {len(second)}")
    if not (spread(first) or spread(second)):
        raise ValueError("neither side has any spread, so t is undefined")
    return _test(lambda: stats.ttest_ind(second, first, equal_var=False), first, second)


def paired(first: Sequence[float], second: Sequence[float]) -> Test:
    """Two-sided paired t-test and 95 % interval: the same seeds, or images, in two ways.

    Args:
        first, second: at least two values each, as many of the one as of the other.

    Raises:
        ValueError: fewer than two pairs, unequal lengths, or differences without any spread.

    Example:

    >>> result = paired([1.0, 2.0, 3.0], [2.0, 4.0, 3.5])
    >>> print(f"{result.difference:.2f} ({result.low:.2f} to {result.high:.2f}), {result.p:.3f}")
    1.17 (-0.73 to 3.06), 0.118

    Source: `scipy.stats.ttest_rel(second, first)`.
    """
    from scipy import stats

    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"at least two pairs are needed, got {len(first)} and {len(second)}")
    if not spread(np.subtract(second, first)):
        raise ValueError("the differences have no spread, so t is undefined")
    return _test(lambda: stats.ttest_rel(second, first), first, second)


def _test(run: Callable[[], Any], first, second) -> Test:
    with warnings.catch_warnings():
        # Of a side that is nearly constant, as few seeds on a small test set often are.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        result = run()
        ends = result.confidence_interval(1 - ALPHA)
    difference = float(np.mean(second) - np.mean(first))
    return Test(difference, float(ends.low), float(ends.high), float(result.pvalue))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: below alpha is rejected.

    Args:
        p: p-values in [0, 1]; may be empty.

    Raises:
        ValueError: a value is NaN or outside [0, 1].

    Example:

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]

    Source: `statsmodels.stats.multitest.multipletests(method="holm")`.
    """
    if not all(0 <= value <= 1 for value in p):
        raise ValueError(f"p-values must be in [0, 1], got {list(p)}")
    if not len(p):
        return []
    from statsmodels.stats.multitest import multipletests

    gc.freeze()  # it begins with a garbage collection, a third of a second beside TensorFlow
    try:
        return multipletests(p, ALPHA, "holm")[1].tolist()
    finally:
        gc.unfreeze()


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval for a mean, or None for fewer than two values.

    Example:

    >>> low, high = mean_interval([1.0, 2.0, 3.0])
    >>> print(f"{low:.2f} {high:.2f}")
    -0.48 4.48
    """
    from scipy import stats

    n = len(values)
    if n < 2:
        return None
    error = spread(values) / n**0.5
    half = float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * error
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def resolvable(groups: Sequence[Sequence[float]]) -> float | None:
    """The smallest difference of two means that as many values would establish, uncorrected.

        t(0.975, 2n - 2) * s * sqrt(2 / n),   s the standard deviation pooled over all groups

    Pooled, as methods differ little in how much their seeds do; n is the fewest values of a group.

    Returns:
        None where a group has fewer than two values, or none has any spread.

    Example:

    >>> round(resolvable([[0.90, 0.91, 0.92], [0.91, 0.92, 0.93]]), 4)
    0.0227
    """
    from scipy import stats

    n = min(map(len, groups), default=0)
    if n < 2 or not (s := _pooled(groups)):
        return None
    return float(stats.t.ppf(1 - ALPHA / 2, 2 * n - 2)) * s * (2 / n) ** 0.5


def enough(difference: float, groups: Sequence[Sequence[float]], most: int = 100) -> int | None:
    """How many values of each of two groups would establish a difference, as `resolvable` has it.

    Returns:
        None where that can't be told: no spread is known, or it is more than `most`.

    Example:

    >>> enough(0.02, [[0.90, 0.92], [0.91, 0.93]])
    6
    """
    from scipy import stats

    s = _pooled([group for group in groups if len(group) > 1])
    if not s or not difference:
        return None
    for n in range(3, most + 1):
        if float(stats.t.ppf(1 - ALPHA / 2, 2 * n - 2)) * s * (2 / n) ** 0.5 < abs(difference):
            return n
    return None


def _pooled(groups):
    """The standard deviation within groups, pooled; 0 where there is none."""
    free = sum(len(group) - 1 for group in groups)
    squares = sum((len(group) - 1) * spread(group) ** 2 for group in groups)
    return (squares / free) ** 0.5 if free > 0 else 0.0


def spread(values: Sequence[float]) -> float:
    """Standard deviation over n - 1; rounding noise among equal values counts as none."""
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        return 0.0
    return float(np.std(values, ddof=1))
