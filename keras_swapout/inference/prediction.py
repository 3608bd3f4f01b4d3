"""A prediction, and how it is summed up from the samples of sub-models.

The samples of a call are reduced on the device, to what pools: T x N x C numbers never leave it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swapout.consistency.divergence import Head
from keras_swapout.inference.moments import Moments


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a network predicts, and how sure it is. Arrays, float32.

    Below q_t is the prediction of sub-model t, of T; for one output of softmax classes everything
    with "(n, classes)" has the outputs' shape, and everything with "(n,)" that shape without the
    axis of the classes. For sigmoid outputs all have the outputs' shape.

    Attributes:
        mean: (n, classes). Mean prediction q = 1/T sum_t q_t: probabilities, whether the network
            gives those or logits; plain numbers where the outputs are no distribution.
        samples: (T, n, classes) with `return_samples=True`, else None.
        variance: (n, classes). Variance of q_t over the sub-models, unbiased. None where there
            are fewer than two independent draws: T < 2, or T < 4 in antithetic pairs.
        entropy: (n,), nats. Predictive entropy H(q): all uncertainty. None for plain numbers, as
            are the next two.
        mutual_information: (n,), nats. H(q) - 1/T sum_t H(q_t), at least 0: the part that the
            sub-models disagree about.
        expected_entropy: (n,), nats. 1/T sum_t H(q_t): the part that they agree about.
        standard_error: (n, classes). Standard deviation of `mean` itself, from the spread of
            independent draws (pairs, if antithetic): whether T was enough. None where `variance`
            is.
        count: (n,), ints. T of each input.

    A deterministic prediction has one `mean` and its `entropy`; the rest is None, and `count` 0.
    """

    mean: np.ndarray
    samples: np.ndarray | None
    variance: np.ndarray | None
    entropy: np.ndarray | None
    mutual_information: np.ndarray | None
    expected_entropy: np.ndarray | None
    standard_error: np.ndarray | None
    count: np.ndarray


# One output, on the device.


def probabilities(outputs: Any, head: Head) -> Any:
    """float32 or more: the probabilities behind the outputs, or the outputs as they are."""
    if keras.backend.standardize_dtype(outputs.dtype) != "float64":
        outputs = ops.cast(outputs, "float32")
    if not head.from_logits or head.distribution is None:
        return outputs
    if head.distribution == "softmax":
        return ops.softmax(outputs, axis=head.axis)
    return ops.sigmoid(outputs)


def summary_of(p: Any, head: Head, antithetic: bool) -> dict[str, Any]:
    """(views, n, ...) -> what a window needs of them, summed over the views.

    Squares are of deviations from the mean: a difference of large sums would lose the small
    variances in float32.
    """
    p = ops.convert_to_tensor(p)
    mean = ops.mean(p, axis=0)
    found = {"mean": mean, "squares": ops.sum(ops.square(p - mean), axis=0)}
    if antithetic and p.shape[0] > 1:
        paired = p.shape[0] // 2 * 2
        pairs = ops.mean(ops.reshape(p[:paired], (paired // 2, 2, *sizes(p)[1:])), axis=1)
        middle = ops.mean(pairs, axis=0)
        found |= {"pairs": middle, "pair_squares": ops.sum(ops.square(pairs - middle), axis=0)}
    if head.distribution is not None:
        found["entropy"] = ops.mean(entropy_of(p, head, ops), axis=0)
    return found


def sizes(p: Any) -> list[Any]:
    """The shape of a tensor, with a scalar tensor for each side that is not known."""
    return [known or size for known, size in zip(p.shape, ops.shape(p), strict=True)]


def entropy_of(p: Any, head: Head, ops: ModuleType = np) -> Any:
    """-sum_c p_c log p_c over the classes, nats; of a binary label over its two values."""

    def plogp(p):
        positive = p > 0
        return p * ops.log(ops.where(positive, p, ops.ones_like(p)))

    if head.distribution == "softmax":
        return -ops.sum(plogp(p), axis=head.axis)
    return -(plogp(p) + plogp(1 - p))


# One output of one window, on the host.


class Deterministic:
    """One prediction, without noise."""

    def __init__(self, p: np.ndarray, head: Head) -> None:
        self.p, self.head = p, head

    def result(self) -> Prediction:
        entropy = None if self.head.distribution is None else entropy_of(self.p, self.head)
        return _prediction(mean=self.p, entropy=entropy, count=np.zeros(len(self.p), int))


class Running:
    """The sums over the samples that were drawn so far, of `count` inputs."""

    def __init__(self, count: int, head: Head, antithetic: bool, samples: Any = None) -> None:
        self.head, self.antithetic, self.samples = head, antithetic, samples
        self.size = count
        self.drawn = np.zeros(count, int)
        self.all = self.groups = self.entropies = None

    def add(self, chosen: np.ndarray, views: int, sums: dict[str, Any]) -> Running:
        """`views` more samples of the inputs `chosen`, as `summary_of` gives them."""
        sums = {name: ops.convert_to_numpy(value) for name, value in sums.items()}
        if self.all is None:
            shape = (self.size, *sums["mean"].shape[1:])
            self.column = (self.size,) + (1,) * (len(shape) - 1)
            self.all, self.groups = (
                Moments(np.zeros(self.column), np.zeros(shape), np.zeros(shape)) for _ in range(2)
            )
            if "entropy" in sums:
                self.entropies = np.zeros((self.size, *sums["entropy"].shape[1:]))
        _pool(self.all, chosen, Moments(views, sums["mean"], sums["squares"]))
        if self.antithetic:
            if views > 1:
                pairs = Moments(views // 2, sums["pairs"], sums["pair_squares"])
                _pool(self.groups, chosen, pairs)
        else:
            _pool(self.groups, chosen, Moments(views, sums["mean"], sums["squares"]))
        if self.entropies is not None:
            self.entropies[chosen] += views * sums["entropy"]
        self.drawn[chosen] += views
        return self

    def worst_error(self) -> np.ndarray:
        """The largest standard error of each input."""
        error = self._error_and_variance()[0]
        return error.reshape(self.size, -1).max(axis=1)

    def _error_and_variance(self):
        """Standard error of the mean and variance of a sample, None where there are too few.

        Pairs are independent of each other, the two samples of a pair are not. The mean of k pairs
        and s single samples, T = 2 k + s, has the variance (4 k v + s w) / T^2 with v that of a
        pair's mean and w that of a sample; and the mean squared deviation of the samples from their
        mean is on average w less the variance of that mean. Solved for w.
        """
        total, k = self.all.count, self.groups.count
        if k.min() < 2:
            return None, None
        v, deviation = self.groups.squares / (k - 1), self.all.squares / total
        if self.antithetic:
            single = total - 2 * k
            w = (deviation + 4 * k * v / total**2) / (1 - single / total**2)
            return np.sqrt((4 * k * v + single * w) / total**2), w
        return np.sqrt(v / total), v

    def result(self) -> Prediction:
        error, variance = self._error_and_variance()
        mean, entropy, expected, information = self.all.mean, None, None, None
        if self.entropies is not None:
            drawn = self.drawn.reshape((-1,) + (1,) * (self.entropies.ndim - 1))
            entropy, expected = entropy_of(mean, self.head), self.entropies / drawn
            # Not below 0, by Jensen's inequality, but for rounding.
            information = np.maximum(entropy - expected, 0)
        return _prediction(
            mean=mean,
            samples=self.samples,
            variance=variance,
            entropy=entropy,
            mutual_information=information,
            expected_entropy=expected,
            standard_error=error,
            count=self.drawn,
        )


def _pool(total, chosen, more):
    for whole, part in zip(total, Moments(*(a[chosen] for a in total)).pooled(more), strict=True):
        whole[chosen] = part


def _prediction(**arrays):
    count = arrays.pop("count")
    values = dict.fromkeys(field.name for field in dataclasses.fields(Prediction))
    values |= {k: None if a is None else np.asarray(a, np.float32) for k, a in arrays.items()}
    return Prediction(**{**values, "count": count})


def joined(parts: Sequence[Prediction]) -> Prediction:
    """The predictions of several windows as one."""
    arrays = {}
    for field in dataclasses.fields(Prediction):
        values = [getattr(part, field.name) for part in parts]
        axis = 1 if field.name == "samples" else 0
        arrays[field.name] = None if values[0] is None else np.concatenate(values, axis=axis)
    return Prediction(**arrays)
