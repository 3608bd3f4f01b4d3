"""The statistics of a pilot: Welch's test, Holm's correction, Student's interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

ALPHA = 0.05


class Welch(NamedTuple):
    """What `welch` returns: second mean minus first, its interval, t, degrees of freedom, p."""

    difference: float
    low: float
    high: float
    t: float
    df: float
    p: float


def welch(first: Sequence[float], second: Sequence[float], level: float = 1 - ALPHA) -> Welch:
    """Two-sided Welch t-test and interval for the difference of two means.

        d = mean(second) - mean(first),   v_i = s_i^2 / n_i,   t = d / sqrt(v_1 + v_2)
        df = (v_1 + v_2)^2 / (v_1^2 / (n_1 - 1) + v_2^2 / (n_2 - 1))
        interval: d -+ t_(level, df) sqrt(v_1 + v_2)

    The same numbers as `scipy.stats.ttest_ind(second, first, equal_var=False)`. That function
    warns and returns NaN when a side has no spread, which few seeds on a small test set often
    have; one such side is nothing unusual here.

    Args:
        first: at least two values.
        second: at least two values.
        level: coverage of the interval.

    Returns:
        A `Welch`.

    Raises:
        ValueError: a side has fewer than two values, or neither has any spread.

    Example:
        >>> result = welch([1.0, 2.0, 3.0], [4.0, 5.0, 9.0])
        >>> print(f"{result.difference:.1f} ({result.low:.2f} to {result.high:.2f})")
        4.0 (-1.74 to 9.74)
        >>> print(f"t {result.t:.3f}, df {result.df:.2f}, p {result.p:.3f}")
        t 2.449, df 2.56, p 0.106

    Source: B. L. Welch, "The generalization of 'Student's' problem when several different
    population variances are involved", Biometrika 34 (1947).
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"each side needs at least two values, got {len(first)} and {len(second)}")
    if not (spread(first) or spread(second)):
        raise ValueError("neither side has any spread, so t is undefined")
    difference = float(np.mean(second) - np.mean(first))
    v1, v2 = spread(first) ** 2 / len(first), spread(second) ** 2 / len(second)
    error = math.sqrt(v1 + v2)
    # Shares rather than squares of the variances, which could underflow.
    share = v1 / (v1 + v2)
    df = 1 / (share**2 / (len(first) - 1) + (1 - share) ** 2 / (len(second) - 1))
    t = difference / error
    half = float(special.stdtrit(df, (1 + level) / 2)) * error
    p = 2 * float(special.stdtr(df, -abs(t)))
    return Welch(difference, difference - half, difference + half, t, df, p)


def paired(first: Sequence[float], second: Sequence[float], level: float = 1 - ALPHA) -> Welch:
    """Two-sided paired t-test and interval: the same seeds, or images, under two conditions.

        d_i = second_i - first_i,   t = mean(d) / (s_d / sqrt(n)),   df = n - 1

    The same numbers as `scipy.stats.ttest_rel(second, first)`.

    Args:
        first, second: at least two values each, as many of the one as of the other.
        level: coverage of the interval.

    Returns:
        A `Welch`.

    Raises:
        ValueError: fewer than two pairs, unequal lengths, or differences without any spread.

    Example:
        >>> result = paired([1.0, 2.0, 3.0], [2.0, 4.0, 3.5])
        >>> print(f"{result.difference:.2f} ({result.low:.2f} to {result.high:.2f}), "
        ...       f"p {result.p:.3f}")
        1.17 (-0.73 to 3.06), p 0.118

    Source: Student (W. S. Gosset), "The probable error of a mean", Biometrika 6 (1908).
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"at least two pairs are needed, got {len(first)} and {len(second)}")
    differences = np.subtract(second, first)
    if not spread(differences):
        raise ValueError("the differences have no spread, so t is undefined")
    difference, df = float(differences.mean()), len(differences) - 1
    error = spread(differences) / math.sqrt(len(differences))
    half = float(special.stdtrit(df, (1 + level) / 2)) * error
    t = difference / error
    p = 2 * float(special.stdtr(df, -abs(t)))
    return Welch(difference, difference - half, difference + half, t, float(df), p)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values.

    With the m values in rising order, p~_(i) = max over j <= i of min(1, (m - j + 1) p_(j)).
    Rejecting where p~ < alpha keeps the chance of any false rejection at or below alpha, whatever
    the dependence between the tests.

    Args:
        p: p-values in [0, 1], in any order; may be empty.

    Returns:
        The adjusted values in the order given.

    Raises:
        ValueError: a value is NaN or outside [0, 1].

    Example:
        >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6 (1979).
    """
    if not all(0 <= value <= 1 for value in p):
        raise ValueError(f"p-values must be in [0, 1], got {list(p)}")
    adjusted = [0.0] * len(p)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = float(largest)
    return adjusted


def mean_interval(values: Sequence[float], level: float = 1 - ALPHA) -> tuple[float, float] | None:
    """Student's interval for a mean, mean -+ t_(level, n - 1) s / sqrt(n).

    Args:
        values: the sample.
        level: its coverage.

    Returns:
        `(low, high)`, or None for fewer than two values.

    Example:
        >>> low, high = mean_interval([1.0, 2.0, 3.0])
        >>> print(f"{low:.2f} {high:.2f}")
        -0.48 4.48
        >>> mean_interval([1.0]) is None
        True
    """
    n = len(values)
    if n < 2:
        return None
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * spread(values) / math.sqrt(n)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def spread(values: Sequence[float]) -> float:
    """Standard deviation over n - 1; rounding noise among equal values counts as none."""
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        return 0.0
    return float(np.std(values, ddof=1))
