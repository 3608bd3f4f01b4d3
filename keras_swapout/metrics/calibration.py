"""Whether probabilities mean what they say: calibration error, likelihood and Brier score."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swapout.arguments import checked_count, checked_flag, one_of
from keras_swapout.metrics import histogram, inputs

MOST_BINS = 10_000  # each confidence is compared with the edges of all
BINNINGS = ("equal_width", "equal_mass")


class CompensatedSum(keras.metrics.Metric):
    """A metric whose state is a sum of float32, kept to twice that precision.

    Every addition's rounding error is added up next to the sum (Knuth's two-sum), so after 1e7
    samples the sum is as good as after one; without, it is off by 1e-3 for constant summands.
    """

    def __init__(self, shape: tuple[int, ...], name: str | None, dtype: Any) -> None:
        super().__init__(name=name, dtype=dtype)
        self.precision = inputs.precision(self.dtype)
        self.sums = self.add_variable(shape, "zeros", dtype=self.precision, name="sums")
        self.errors = self.add_variable(shape, "zeros", dtype=self.precision, name="errors")

    def add(self, values: Any) -> None:
        before = ops.convert_to_tensor(self.sums)
        after = before + values
        of_values = after - before
        error = (before - (after - of_values)) + (values - of_values)
        self.errors.assign(ops.convert_to_tensor(self.errors) + error)
        self.sums.assign(after)

    def total(self) -> Any:
        return ops.convert_to_tensor(self.sums) + ops.convert_to_tensor(self.errors)


class MeanOfSamples(CompensatedSum):
    """The weighted mean of one number per sample, `of_samples`."""

    def __init__(self, from_logits: bool, name: str | None, dtype: Any) -> None:
        super().__init__((2,), name, dtype)
        self.from_logits = checked_flag(from_logits, "from_logits")

    def of_samples(self, target: Any, scores: Any) -> Any:
        """(n,) from targets and scores, both (n, classes)."""
        raise NotImplementedError

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        scores, weight, leading = inputs.class_scores(
            y_pred, sample_weight, self.from_logits, self.precision
        )
        target = inputs.targets(y_true, leading, scores.shape[-1], weight, self.precision)
        values = inputs.weighted(weight, self.of_samples(target, scores))
        self.add(ops.stack([ops.sum(values), ops.sum(weight)]))

    def result(self) -> Any:
        total = self.total()
        return inputs.ratio(total[0], total[1], nothing=0.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits}


@keras.saving.register_keras_serializable("keras_swapout")
class NegativeLogLikelihood(MeanOfSamples):
    """Mean over the samples of -log p(label), the cross-entropy in nats.

        NLL = sum_n w_n sum_c -t_nc log p_nc / sum_n w_n

    with t the one-hot label. From logits it is computed in log space, so a confident mistake is a
    large number, never infinity. A probability below 1e-7 counts as 1e-7, at most 16.1 nats; they
    are not rescaled to a sum of 1.

    Args:
        from_logits: whether `y_pred` holds logits rather than probabilities.
        name, dtype: those of `keras.metrics.Metric`. Computed in float32, or in float64 if that is
            `dtype`, whatever `y_pred` is.

    `update_state(y_true, y_pred, sample_weight=None)`:
        y_true: labels in 0 .. classes - 1, (n, ...) or (n, ..., 1); or targets that are used as
            they are, (n, ..., classes).
        y_pred: (n, ..., classes), floats; with one class, or (n,), the probability (logit) of label
            1 of two.
        sample_weight: None, or floats >= 0 of the labels' shape or of its first axes. What has the
            weight 0 does not count, whatever its label and prediction are.

    Raises:
        TypeError: an argument has the wrong type. ValueError: the shapes do not fit; a label or a
            weight is out of range, or without `from_logits` a row of `y_pred` is not in [0, 1] or
            does not sum to 1 (give or take 0.05, for half precision), and its value is known.
            Inside a compiled step it is not, and the result is NaN: of a model with logits, for
            want of `from_logits=True`. So it is where a prediction is NaN.

    Example:

    >>> metric = NegativeLogLikelihood()
    >>> metric.update_state([0, 1], [[0.5, 0.5], [0.75, 0.25]])
    >>> round(float(metric.result()), 4)
    1.0397

    Source: the usual definition; Good, "Rational decisions", 1952. The floor of 1e-7 is Keras'.
    """

    def __init__(
        self,
        from_logits: bool = False,
        name: str | None = "negative_log_likelihood",
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, name, dtype)

    def of_samples(self, target: Any, scores: Any) -> Any:
        log_p = inputs.log_probabilities(scores, self.from_logits)
        return -ops.sum(ops.where(target == 0, ops.zeros_like(log_p), target * log_p), axis=-1)


@keras.saving.register_keras_serializable("keras_swapout")
class BrierScore(MeanOfSamples):
    """Mean over the samples of the squared distance of the probabilities from the label.

        BS = sum_n w_n sum_c (p_nc - t_nc)^2 / sum_n w_n,  in [0, 2]

    with t the one-hot label. This is the form for any number of classes, also with two: half of it
    is scikit-learn's `brier_score_loss` of a binary problem.

    Args, `update_state`, Raises: as `NegativeLogLikelihood`.

    Example:

    >>> metric = BrierScore()
    >>> metric.update_state([0, 1], [[0.5, 0.5], [1.0, 0.0]])
    >>> float(metric.result())
    1.25

    Source: Brier, "Verification of forecasts expressed in terms of probability", 1950, equation 2.
    """

    def __init__(
        self, from_logits: bool = False, name: str | None = "brier_score", dtype: Any = None
    ) -> None:
        super().__init__(from_logits, name, dtype)

    def of_samples(self, target: Any, scores: Any) -> Any:
        p = inputs.probabilities(scores, self.from_logits)
        return ops.sum(ops.square(p - target), axis=-1)


@keras.saving.register_keras_serializable("keras_swapout")
class ExpectedCalibrationError(CompensatedSum):
    """How far confidence is from accuracy, on average over groups of similar confidence.

        ECE = sum_b |sum_{n in b} w_n (correct_n - confidence_n)| / sum_n w_n,  in [0, 1]

    Confidence is the largest probability, as predicted: no temperature is fitted, nothing is
    rescaled. What a group b is:

    - "equal_width": bin i holds the samples with a confidence in (i / bins, (i + 1) / bins]. Exact.
    - "equal_mass": the samples sorted by confidence, in `bins` groups of the same weight. A sample,
      or a run of equal confidences, that lies across a boundary is split in proportion:
      |G((b + 1) W / bins) - G(b W / bins)| with G the cumulated sum of w (correct - confidence),
      linear in between, and W the total weight. "Equal" means in the same bin of `histogram`, where
      confidences differ by less than 0.14 % of 1 - confidence; that moves the result by less than
      2e-4. The state is 292 KiB.

    Args:
        bins: number of groups, an int in [1, 10000].
        binning: "equal_width" or "equal_mass".
        from_logits, name, dtype: as `NegativeLogLikelihood`.

    `update_state`: as `NegativeLogLikelihood`; of targets (n, ..., classes) the largest is the
        label.

    Raises:
        TypeError, ValueError: as `NegativeLogLikelihood`; `bins` or `binning` is none of the above.

    Example:

    >>> metric = ExpectedCalibrationError()
    >>> metric.update_state([0, 0, 1], [[0.75, 0.25], [0.75, 0.25], [0.5, 0.5]])
    >>> float(metric.result())  # (2 * |1 - 0.75| + |0 - 0.5|) / 3
    0.333...

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, section 2,
    equation 3, for equal width and 15 bins; Nguyen, O'Connor, "Posterior calibration and
    exploratory analysis for natural language processing models", EMNLP 2015, for bins of equal
    mass. What happens to ties at a boundary is in neither.
    """

    def __init__(
        self,
        bins: int = 15,
        binning: str = "equal_width",
        from_logits: bool = False,
        name: str | None = "expected_calibration_error",
        dtype: Any = None,
    ) -> None:
        bins = checked_count(bins, "bins", most=MOST_BINS)
        one_of(binning, BINNINGS, "binning")
        super().__init__((bins, 2) if binning == "equal_width" else (), name, dtype)
        self.bins, self.binning = bins, binning
        self.from_logits = checked_flag(from_logits, "from_logits")
        if binning == "equal_mass":
            size = (2 * histogram.UNIT_BINS,)
            self.histogram = self.add_variable(size, "zeros", self.precision, name="histogram")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        scores, weight, leading = inputs.class_scores(
            y_pred, sample_weight, self.from_logits, self.precision
        )
        label = inputs.labels(y_true, leading, scores.shape[-1], weight, self.precision)
        rows = inputs.probabilities(scores, self.from_logits)
        uncertainty, correct = inputs.confidence(rows, label)
        # correct - confidence, without the rounding of a confidence next to 1
        gap = inputs.weighted(weight, uncertainty - (1 - correct))
        if self.binning == "equal_mass":
            histogram.add(self.histogram, uncertainty, weight, gap)
            return
        edges = ops.convert_to_tensor(np.linspace(0, 1, self.bins + 1)[1:-1], self.precision)
        largest = ops.expand_dims(ops.max(rows, axis=-1), -1)
        index = ops.sum(ops.cast(largest > edges, "int32"), axis=-1)
        self.add(ops.segment_sum(ops.stack([weight, gap], -1), index, num_segments=self.bins))

    def result(self) -> Any:
        if self.binning == "equal_mass":
            return _equal_mass(*histogram.read(self.histogram), self.bins)
        total = self.total()
        gaps = ops.sum(ops.abs(total[:, 1]))
        return inputs.ratio(gaps, ops.sum(total[:, 0]), nothing=0.0)

    def get_config(self) -> dict[str, Any]:
        config = {"bins": self.bins, "binning": self.binning, "from_logits": self.from_logits}
        return {**super().get_config(), **config}


def _equal_mass(weight, gap, groups):
    """From the weight and the sum of gaps at ascending uncertainty: the order does not matter."""
    dtype = ops.dtype(weight)
    below, cumulated = ops.cumsum(weight), ops.cumsum(gap)
    total = below[-1]
    boundary = total * ops.convert_to_tensor(np.arange(groups + 1) / groups, dtype)
    index = ops.minimum(_count_below(below, boundary), weight.shape[0] - 1)
    of_bin, gap_of_bin = ops.take(weight, index), ops.take(gap, index)
    # How much of its bin lies beyond the boundary.
    beyond = inputs.ratio(ops.take(below, index) - boundary, of_bin, nothing=0.0)
    at_boundary = ops.take(cumulated, index) - ops.clip(beyond, 0.0, 1.0) * gap_of_bin
    differences = ops.abs(at_boundary[1:] - at_boundary[:-1])
    return inputs.ratio(ops.sum(differences), total, nothing=0.0)


def _count_below(ascending, values):
    """How many of `ascending` are below each value; Keras 3.10's searchsorted needs eager tensors.

    Example:

    >>> ascending = ops.convert_to_tensor([1.0, 2.0, 2.0, 5.0])
    >>> values = ops.convert_to_tensor([0.0, 2.0, 3.0, 9.0])
    >>> ops.convert_to_numpy(_count_below(ascending, values)).tolist()
    [0, 1, 3, 4]
    """
    size = ascending.shape[0]
    count = ops.zeros_like(values, dtype="int32")
    for power in reversed(range(size.bit_length())):
        more = ops.minimum(count + 2**power, size)
        count = ops.where(ops.take(ascending, more - 1) < values, more, count)
    return count
