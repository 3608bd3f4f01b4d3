"""Whether uncertainty knows what it should: the wrong predictions, or inputs from elsewhere."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_swapout.arguments import checked_flag, checked_tensor
from keras_swapout.metrics import histogram, inputs


class Ranking(keras.metrics.Metric):
    """A metric of two kinds of samples along a score, as a histogram of each kind."""

    def __init__(self, name: str | None, dtype: Any) -> None:
        super().__init__(name=name, dtype=dtype)
        self.precision = inputs.precision(self.dtype)
        size = (2 * histogram.SIGNED_BINS,)
        self.histogram = self.add_variable(size, "zeros", self.precision, name="histogram")

    def add(self, score: Any, positive: Any, weight: Any) -> None:
        of_positive = inputs.weighted(weight, positive)
        histogram.add(self.histogram, score, weight - of_positive, of_positive)


class MistakeRanking(Ranking):
    """The wrong predictions along a score that is the uncertainty."""

    def __init__(self, from_logits: bool, name: str | None, dtype: Any) -> None:
        super().__init__(name, dtype)
        self.from_logits = checked_flag(from_logits, "from_logits")

    def update_state(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, uncertainty: Any = None
    ) -> None:
        scores, weight, leading = inputs.class_scores(
            y_pred, sample_weight, self.from_logits, self.precision
        )
        label = inputs.labels(y_true, leading, scores.shape[-1], weight, self.precision)
        rows = inputs.probabilities(scores, self.from_logits)
        score, correct = inputs.confidence(rows, label)
        if uncertainty is not None:
            # A prediction that is NaN has no rank, whatever its uncertainty.
            correct = ops.where(ops.isnan(score), score, correct)
            score = ops.cast(inputs.per_sample(uncertainty, leading, "uncertainty"), self.precision)
        self.add(score, 1 - correct, weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits}


@keras.saving.register_keras_serializable("keras_swapout")
class AreaUnderRiskCoverage(MistakeRanking):
    """The error rate of a classifier that may abstain, on average over how often it does.

        AURC = 1 / n sum_{k = 1..n} errors among the k least uncertain samples / k

    Samples of equal uncertainty are in random order, and this is the expectation. Smaller is
    better; an uncertainty that says nothing gives the error rate. "Equal" means in the same bin of
    `histogram`: uncertainties that differ by less than 0.14 %, so a score with a large constant in
    it should be given without. The state is 832 KiB.

    Args:
        from_logits, name, dtype: as `NegativeLogLikelihood`.

    `update_state(y_true, y_pred, sample_weight=None, uncertainty=None)`:
        y_true, y_pred: as `ExpectedCalibrationError`.
        sample_weight: None. The mean is over counts of samples, k.
        uncertainty: (n, ...), any real number, the larger the less sure; e.g. the mutual
            information of sub-models. None: 1 - the largest probability, as the sum of the others.

    Raises:
        TypeError, ValueError: as `NegativeLogLikelihood`; there is a `sample_weight`; the shape of
            `uncertainty` does not fit.

    Example:

    >>> metric = AreaUnderRiskCoverage()
    >>> metric.update_state([0, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    >>> round(float(metric.result()), 4)  # (0 + 1 / 2 + 1 / 3) / 3
    0.2778

    Source: Geifman, Uziel, El-Yaniv, "Bias-reduced uncertainty estimation for deep neural
    classifiers", ICLR 2019, section 2; the curve is from El-Yaniv, Wiener, "On the foundations of
    noise-free selective classification", 2010. Ties in expectation are not in the papers.
    """

    def __init__(
        self,
        from_logits: bool = False,
        name: str | None = "area_under_risk_coverage",
        dtype: Any = None,
    ) -> None:
        super().__init__(from_logits, name, dtype)

    def update_state(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, uncertainty: Any = None
    ) -> None:
        if sample_weight is not None:
            raise ValueError(
                "Argument `sample_weight` must be None: the area under the risk-coverage curve is "
                f"a mean over counts of samples. Received: {type(sample_weight).__name__}"
            )
        super().update_state(y_true, y_pred, uncertainty=uncertainty)

    def result(self) -> Any:
        right, wrong = histogram.read(self.histogram)
        return _area_under_risk_coverage(right + wrong, wrong)


@keras.saving.register_keras_serializable("keras_swapout")
class ErrorAUROC(MistakeRanking):
    """How well uncertainty detects wrong predictions: the area under its ROC curve.

        AUROC = P(uncertainty of a wrong one > of a right one) + P(they are equal) / 2

    with every sample drawn at its weight. "Equal" as in `AreaUnderRiskCoverage`. Where all
    predictions are right, or all are wrong, it is not defined and the result is 0.5.

    Args, `update_state`: as `AreaUnderRiskCoverage`, but `sample_weight` may be given, as in
        `NegativeLogLikelihood`.

    Raises:
        TypeError, ValueError: as `NegativeLogLikelihood`; the shape of `uncertainty` does not fit.

    Example:

    >>> metric = ErrorAUROC()
    >>> metric.update_state([0, 0, 1, 1], [[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.4, 0.6]])
    >>> float(metric.result())
    0.666...

    Source: Hendrycks, Gimpel, "A baseline for detecting misclassified and out-of-distribution
    examples in neural networks", ICLR 2017, section 2.
    """

    def __init__(
        self, from_logits: bool = False, name: str | None = "error_auroc", dtype: Any = None
    ) -> None:
        super().__init__(from_logits, name, dtype)

    def result(self) -> Any:
        return _area_under_roc(*histogram.read(self.histogram))


@keras.saving.register_keras_serializable("keras_swapout")
class OutOfDistributionAUROC(Ranking):
    """How well a score detects inputs from elsewhere: the area under its ROC curve.

        AUROC = P(score of a positive > of a negative) + P(they are equal) / 2

    "Equal" as in `AreaUnderRiskCoverage`. With positives or negatives only it is not defined and
    the result is 0.5.

    Args:
        name, dtype: as `NegativeLogLikelihood`.

    `update_state(y_true, y_pred, sample_weight=None)`:
        y_true: 1 or True where the input is out of distribution, or is whatever else the score is
            to detect, 0 or False elsewhere; (n, ...).
        y_pred: the score, (n, ...) or (n, ..., 1), any real number, the larger the more likely 1.
        sample_weight: as `NegativeLogLikelihood`.

    Raises:
        TypeError, ValueError: as `NegativeLogLikelihood`, for labels that are neither 0 nor 1.

    Example:

    >>> metric = OutOfDistributionAUROC()
    >>> metric.update_state([0, 0, 1, 1], [-3.0, 0.5, 0.25, 7.0])
    >>> float(metric.result())
    0.75

    Source: Hendrycks, Gimpel 2017, section 2.
    """

    def __init__(self, name: str | None = "out_of_distribution_auroc", dtype: Any = None) -> None:
        super().__init__(name, dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        score = ops.cast(checked_tensor(y_pred, "y_pred"), self.precision)
        if not len(score.shape):
            raise ValueError(
                "Argument `y_pred` must have shape (n, ...) or (n, ..., 1). Received: shape ()"
            )
        if len(score.shape) > 1 and score.shape[-1] == 1:
            score = ops.squeeze(score, -1)
        leading = tuple(ops.shape(score))
        weight = inputs.weights(sample_weight, leading, self.precision)
        positive = inputs.labels(y_true, leading, 2, weight, self.precision)
        self.add(ops.reshape(score, (-1,)), positive, weight)

    def result(self) -> Any:
        return _area_under_roc(*histogram.read(self.histogram))


def _area_under_roc(negative, positive):
    below = ops.cumsum(negative)
    wins = ops.sum(positive * (below - negative / 2))
    return inputs.ratio(wins, below[-1] * ops.sum(positive), nothing=0.5)


def _area_under_risk_coverage(count, wrong):
    """From how many samples each group of ties has, and how many of them are wrong.

    After N samples with E errors, a group of m with e errors adds, with r = e / m,
    sum_{j = 1..m} (E + j r) / (N + j) = r m + (E - r N) (H(N + m) - H(N)), H the harmonic numbers.
    """
    after, errors_after = ops.cumsum(count), ops.cumsum(wrong)
    before, errors_before = after - count, errors_after - wrong
    rate = inputs.ratio(wrong, count, nothing=0.0)
    terms = wrong + (errors_before - rate * before) * _harmonic_difference(before, after, count)
    return inputs.ratio(ops.sum(terms), after[-1], nothing=0.0)


def _harmonic_difference(before, after, count):
    """H(after) - H(before), of the size of count / after and accurate relative to that.

    H(n) = H(n + 4) - 1 / (n + 1) - ... - 1 / (n + 4), and H(n) = log(x) + 1 / (24 x^2) - ... up to
    a constant, with x = n + 1 / 2. What is left out is below 1e-5 for before >= 1; where it is 0,
    the difference is multiplied by 0.
    """
    x, y = before + 4.5, after + 4.5
    difference = ops.log1p(count / x) + (1 / ops.square(y) - 1 / ops.square(x)) / 24
    for shift in range(1, 5):
        difference = difference + count / ((before + shift) * (after + shift))
    return difference
