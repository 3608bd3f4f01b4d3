"""Mean and spread of values that arrive in pieces, pooled without loss. NumPy, float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Moments(NamedTuple):
    """How many values there were, their mean, and the sum of their squared deviations from it.

    Attributes:
        count: how many, a number or an array that broadcasts against `mean`.
        mean, squares: arrays of one shape. Each entry is a set of values of its own.
    """

    count: Any
    mean: Any
    squares: Any

    def pooled(self, other: Moments) -> Moments:
        """The moments of both sets together, exactly.

            m = m_1 + d n_2 / n,   M = M_1 + M_2 + d^2 n_1 n_2 / n,   d = m_2 - m_1

        Example:

        >>> a, b = Moments(2, np.array([1.0]), np.array([2.0])), Moments(1, np.array([4.0]), 0.0)
        >>> a.pooled(b)
        Moments(count=3, mean=array([2.]), squares=array([8.]))

        Source: Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", 2.1.
        """
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        delta = np.asarray(other.mean, np.float64) - self.mean
        return Moments(
            count,
            self.mean + delta * share,
            self.squares + other.squares + delta**2 * (self.count * share),
        )
