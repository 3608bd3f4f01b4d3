"""A Gaussian process through the trials of a search: the objective without its noise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_RESTARTS = 4
_CANDIDATES = 4096  # points looked at for the optimum; a power of 2, as Sobol's sequence asks


def to_unit(parameter: Mapping[str, Any], value: Any) -> Any:
    """Where a value lies between low (0) and high (1) of its parameter, on its own scale.

    Example:

    >>> round(float(to_unit({"low": 0.01, "high": 1.0, "scale": "log"}, 0.1)), 12)
    0.5
    """
    ends = np.array([parameter["low"], parameter["high"], 0.0])
    value = np.asarray(value, float)
    if parameter["scale"] == "log":
        with np.errstate(all="ignore"):  # a default of 0 has no place, which is NaN
            ends[:2], value = np.log(ends[:2]), np.log(np.where(value > 0, value, np.nan))
    return (value - ends[0]) / (ends[1] - ends[0])


def from_unit(parameter: Mapping[str, Any], place: Any) -> Any:
    """The value at a place in [0, 1], rounded where the parameter is an int.

    Example:

    >>> float(from_unit({"low": 1, "high": 5, "scale": "linear", "type": "int"}, 0.4))
    3.0
    """
    low, high = float(parameter["low"]), float(parameter["high"])
    place = np.asarray(place, float)
    if parameter["scale"] == "log":
        value = np.exp(math.log(low) + place * (math.log(high) - math.log(low)))
    else:
        value = low + place * (high - low)
    return np.rint(value) if parameter["type"] == "int" else value


class Surrogate:
    """A Gaussian process with a Matern 5/2 kernel, a length scale for each input, and noise.

        y_i = f(x_i) + e_i,   f ~ GP(mean(y), s^2 k(|(x - x') / l|)),   e_i ~ N(0, noise^2)

    The hyperparameters are those of greatest likelihood times weak log-normal priors (length scale
    about sqrt(inputs) / 2, noise about a third of the spread): with a few dozen trials the
    likelihood alone all too often takes noise for structure, and its intervals are too narrow.

    Attributes:
        noise: standard deviation of one trial given its setting.
        r2: 1 - sum (y_i - mean_(-i)(x_i))^2 / sum (y_i - mean(y))^2, the share of the variance that
            is explained of trials that are left out one at a time (Rasmussen, Williams 2006,
            equation 5.12: y_i - mean_(-i)(x_i) = (K^-1 y)_i / (K^-1)_ii).
        evidence: what Akaike's criterion gains over pure noise: difference in log likelihood less
            the number of additional hyperparameters.

    Args:
        x: (trials, parameters), in [0, 1].
        y: the objective, not all equal.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        n, inputs = x.shape
        self.x, self.shift, self.scale = x, float(y.mean()), float(y.std())
        target = (y - self.shift) / self.scale
        length = math.sqrt(inputs) / 2
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern([length] * inputs, (0.1, 1e3), nu=2.5)
        kernel += WhiteKernel(0.1, (1e-6, 2.0))
        centre = np.log([1.0, *[length] * inputs, 0.1])
        process = GaussianProcessRegressor(
            kernel,
            optimizer=_with_prior(centre, np.array([1.0] * (inputs + 1) + [1.5])),
            n_restarts_optimizer=_RESTARTS,
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit(x, target)
        self.signal = process.kernel_.k1
        self.noise = self.scale * math.sqrt(process.kernel_.k2.noise_level)
        self.precision = np.linalg.inv(process.kernel_(x))
        self.weights = self.precision @ target
        self.r2 = 1 - float(np.sum((self.weights / np.diag(self.precision)) ** 2)) / n
        alone = -n / 2 * (math.log(2 * math.pi) + 1)
        found = process.log_marginal_likelihood(process.kernel_.theta)
        self.evidence = float(found - alone) - (inputs + 1)

    def mean(self, points: np.ndarray) -> np.ndarray:
        """Posterior mean of f at (m, parameters) points."""
        return self.shift + self.scale * (self.signal(points, self.x) @ self.weights)

    def deviation(self, points: np.ndarray) -> np.ndarray:
        """Posterior standard deviation of f."""
        return self.scale * np.sqrt(np.maximum(np.diag(self._covariance(points)), 0))

    def difference(self, points: np.ndarray, reference: np.ndarray) -> tuple[Any, Any]:
        """Mean and standard deviation of f(points) - f(reference), from their joint posterior."""
        both = np.vstack([reference, points])
        mean, covariance = self.mean(both), self._covariance(both)
        variance = np.diag(covariance)[1:] + covariance[0, 0] - 2 * covariance[0, 1:]
        return mean[1:] - mean[0], self.scale * np.sqrt(np.maximum(variance, 0))

    def best(self, parameters: Sequence[Mapping[str, Any]], sign: int) -> np.ndarray:
        """The point of [0, 1]^parameters with the least `sign` times mean; ints stay ints."""
        from scipy.stats import qmc

        def snapped(points):
            columns = zip(parameters, np.clip(points, 0, 1).T, strict=True)
            return np.clip(np.stack([to_unit(p, from_unit(p, c)) for p, c in columns], 1), 0, 1)

        generator, inputs = np.random.default_rng(0), len(parameters)
        points = snapped(np.vstack([self.x, qmc.Sobol(inputs, seed=0).random(_CANDIDATES)]))
        for reach in (0.1, 0.03, 0.01, 0.003, 0.0):
            place = points[np.argmin(sign * self.mean(points))]
            steps = reach * generator.normal(size=(_CANDIDATES // 8, inputs))
            points = np.vstack([place, snapped(place + steps)])
        return place

    def _covariance(self, points):
        across = self.signal(points, self.x)
        return self.signal(points) - across @ self.precision @ across.T


def _with_prior(centre: np.ndarray, width: np.ndarray) -> Callable[..., tuple[np.ndarray, float]]:
    """scikit-learn's optimiser, with normal priors on the logarithms of the hyperparameters."""
    from scipy.optimize import minimize

    def optimizer(objective, initial, bounds):
        def penalised(theta):
            value, gradient = objective(theta)
            z = (theta - centre) / width
            return value + z @ z / 2, gradient + z / width

        found = minimize(penalised, initial, jac=True, method="L-BFGS-B", bounds=bounds)
        return found.x, float(found.fun)

    return optimizer
