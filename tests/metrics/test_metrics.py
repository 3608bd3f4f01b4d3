"""Calibration and ranking metrics against scikit-learn, sorting in NumPy and closed forms.

Most tests share one shape, N samples of C classes: JAX compiles every operation for every shape.
"""

import keras
import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("sklearn")

from backends import reduced
from refusals import NO_ARRAY, NO_FLAG, NO_INT, NO_TEXT, refuses
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

import keras_swapout as ks
from keras_swapout.metrics import calibration, histogram, ranking
from keras_swapout.study.measuring import scores

N, C = 240, 5
BACKEND = keras.backend.backend()
m = ks.metrics


def equal_mass(*args, **kwargs):
    return m.ExpectedCalibrationError(*args, binning="equal_mass", **kwargs)


CLASSIFIERS = {
    "nll": m.NegativeLogLikelihood,
    "brier": m.BrierScore,
    "ece": m.ExpectedCalibrationError,
    "ece_mass": equal_mass,
    "aurc": m.AreaUnderRiskCoverage,
    "error_auroc": m.ErrorAUROC,
}
each_classifier = pytest.mark.parametrize("name", CLASSIFIERS)
each_weighted = pytest.mark.parametrize("name", [n for n in CLASSIFIERS if n != "aurc"])


def value(metric, *args, **kwargs):
    metric.update_state(*args, **kwargs)
    return float(metric.result())


def of_logits(name, *args, **kwargs):
    return value(CLASSIFIERS[name](from_logits=True), *args, **kwargs)


def of_probabilities(name, *args, **kwargs):
    return value(CLASSIFIERS[name](), *args, **kwargs)


def overconfident(n=N, classes=C, seed=0, scale=3.0):
    """Labels and logits of a network that is right in four of five cases and sure in most."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), y] += rng.gamma(2, 2, n)
    return y, (scale * logits).astype("float32")


def random_weights(high=None):
    rng = np.random.default_rng(1)
    return rng.random(N).astype("float32") if high is None else rng.integers(0, high, N)


def ranked(y, p):
    """1 - confidence, and 1.0 for every mistake."""
    p = np.asarray(p, np.float64)
    rest = np.where(np.arange(p.shape[1]) == p.argmax(1)[:, None], 0, p).sum(1)
    return rest, (p.argmax(1) != y).astype(float)


def exact_risk_coverage(uncertainty, wrong):
    """A loop over k, with the expected number of errors among k of random order within ties."""
    uncertainty, wrong = np.asarray(uncertainty), np.asarray(wrong)
    risks = []
    for k in range(1, len(wrong) + 1):
        last = np.sort(uncertainty)[k - 1]
        surely, tied = uncertainty < last, uncertainty == last
        risks.append((wrong[surely].sum() + wrong[tied].mean() * (k - surely.sum())) / k)
    return np.mean(risks)


def exact_equal_mass(rest, wrong, weight=None, bins=15):
    weight = np.ones(len(rest)) if weight is None else weight
    _, index = np.unique(rest, return_inverse=True)
    mass = np.cumsum(np.bincount(index, weight))
    gap = np.cumsum(np.bincount(index, weight * (rest - wrong)))
    at = np.interp(np.linspace(0, mass[-1], bins + 1), [0, *mass], [0, *gap])
    return np.abs(np.diff(at)).sum() / mass[-1]


# Against other implementations


@pytest.mark.parametrize("weights", [None, random_weights()])
def test_likelihood_and_brier_score_against_sklearn(weights):
    y, logits = overconfident()
    p = softmax(logits.astype(np.float64), axis=1)
    floored = np.maximum(p, 1e-7)[np.arange(N), y]
    squares = ((p - np.eye(C)[y]) ** 2).sum(1)
    expected = {
        "likelihood of logits": log_loss(y, p, sample_weight=weights),
        "likelihood of probabilities": np.average(-np.log(floored), weights=weights),
        "brier": np.average(squares, weights=weights),
    }
    got = {
        "likelihood of logits": of_logits("nll", y, logits, sample_weight=weights),
        "likelihood of probabilities": of_probabilities("nll", y, p, sample_weight=weights),
        "brier": of_probabilities("brier", y, p, sample_weight=weights),
    }
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.tensorflow
def test_binary_brier_score_is_twice_sklearns():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, N), rng.random(N)
    expected = 2 * brier_score_loss(y, p)
    assert of_probabilities("brier", y, p) == pytest.approx(expected, rel=1e-5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("bins", [1, 4, 15])
def test_equal_width_against_numpy(bins):
    y, logits = overconfident(scale=0.7)
    expected = scores.expected_calibration_error(logits, y, bins)
    metric = m.ExpectedCalibrationError(bins, from_logits=True)
    assert value(metric, y, logits) == pytest.approx(expected, abs=1e-6)


@pytest.mark.tensorflow
def test_equal_width_bins_are_open_below():
    """0.6 is in (0.4, 0.6], with the 0.5 that makes up for its gap."""
    p = np.repeat([[0.6, 0.4, 0, 0, 0], [0.5, 0.5, 0, 0, 0]], N // 2, axis=0)
    y = np.repeat([0, 1], N // 2)
    metric = m.ExpectedCalibrationError(5)
    assert value(metric, y, p) == pytest.approx(abs(0.4 - 0.5) / 2, abs=1e-6)


@pytest.mark.parametrize("bins", reduced([1, 7, 15], 15))
@pytest.mark.parametrize("scale", [0.7, 3.0])
def test_equal_mass_against_sorting(bins, scale):
    y, logits = overconfident(scale=scale)
    rest, wrong = ranked(y, softmax(logits.astype(np.float64), axis=1))
    for weight in (None, random_weights()):
        got = value(equal_mass(bins, from_logits=True), y, logits, sample_weight=weight)
        assert got == pytest.approx(exact_equal_mass(rest, wrong, weight, bins), abs=2e-5)


@pytest.mark.tensorflow
def test_equal_mass_splits_ties_in_proportion():
    p = np.repeat([[0.75, 0.25, 0, 0, 0], [1.0, 0, 0, 0, 0]], [3 * N // 5, 2 * N // 5], axis=0)
    y = np.repeat([0, 1, 0, 1], [2 * N // 5, N // 5, N // 5, N // 5])
    # Gaps: 2 * (1 / 4) - 3 / 4 over three fifths, -1 over two fifths.
    assert value(equal_mass(2), y, p) == pytest.approx((0.25 + 1) / 5, abs=1e-6)


def test_risk_coverage_against_a_loop():
    y, logits = overconfident()
    rest, wrong = ranked(y, softmax(logits.astype(np.float64), axis=1))
    assert of_logits("aurc", y, logits) == pytest.approx(exact_risk_coverage(rest, wrong), abs=1e-5)
    rng = np.random.default_rng(0)
    for uncertainty in (rng.normal(size=N) + wrong, rng.integers(-2, 3, N) + wrong):
        expected = exact_risk_coverage(uncertainty, wrong)
        got = of_logits("aurc", y, logits, uncertainty=uncertainty)
        assert got == pytest.approx(expected, abs=2e-5)


@pytest.mark.tensorflow
def test_risk_coverage_of_few_samples():
    for errors in ([0, 1, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 0]):
        for uncertainty in (np.arange(5.0), np.zeros(5), np.arange(5) // 2 - 1.0):
            got = of_probabilities("aurc", errors, np.zeros(5), uncertainty=uncertainty)
            assert got == pytest.approx(exact_risk_coverage(uncertainty, errors), abs=1e-5)


@pytest.mark.parametrize("weights", [None, random_weights(4)])
def test_area_under_roc_against_sklearn(weights):
    y, logits = overconfident()
    p = softmax(logits.astype(np.float64), axis=1)
    rest, wrong = ranked(y, p)
    expected = roc_auc_score(wrong, rest, sample_weight=weights)
    assert of_logits("error_auroc", y, logits, weights) == pytest.approx(expected, abs=1e-4)
    rng = np.random.default_rng(0)
    for score in (rng.normal(size=N) + wrong, rng.integers(-3, 4, N) + wrong, -p.max(1)):
        score = score.astype("float32")
        expected = pytest.approx(roc_auc_score(wrong, score, sample_weight=weights), abs=2e-4)
        assert of_logits("error_auroc", y, logits, weights, uncertainty=score) == expected
        assert value(m.OutOfDistributionAUROC(), wrong > 0, score, weights) == expected


@pytest.mark.tensorflow
def test_a_real_classifier_on_digits():
    x, y = load_digits(return_X_y=True)
    fitted = LogisticRegression(max_iter=200).fit(x[:150] / 16, y[:150])
    z, y = fitted.decision_function(x[-N:] / 16), y[-N:]
    p = softmax(z, axis=1)
    rest, wrong = ranked(y, p)
    assert 0.02 < wrong.mean() < 0.3
    expected = {
        "nll": log_loss(y, p),
        "brier": ((p - np.eye(10)[y]) ** 2).sum(1).mean(),
        "ece": scores.expected_calibration_error(z, y),
        "ece_mass": exact_equal_mass(rest, wrong),
        "aurc": exact_risk_coverage(rest, wrong),
    }
    for predicted, of in ((p, of_probabilities), (z, of_logits)):
        got = {name: of(name, y, predicted) for name in CLASSIFIERS}
        # Of 6,000 pairs of a right and a wrong one, a few are in the same bin.
        area = got.pop("error_auroc")
        assert area == pytest.approx(roc_auc_score(wrong, rest), abs=5e-4)
        assert got == pytest.approx(expected, abs=1e-4)


@pytest.mark.tensorflow
def test_accuracy_at_many_samples():
    n = 200_000
    y, logits = overconfident(n, 10)
    rest, wrong = ranked(y, softmax(logits.astype(np.float64), axis=1))
    assert np.mean(rest < 0.01) > 0.5
    risks = np.cumsum(wrong[np.argsort(rest)]) / np.arange(1, n + 1)
    expected = {
        "ece_mass": exact_equal_mass(rest, wrong),
        "aurc": risks.mean(),
        "error_auroc": roc_auc_score(wrong, rest),
    }
    got = {name: of_logits(name, y, logits) for name in expected}
    assert got == pytest.approx(expected, abs=1e-5)


@pytest.mark.tensorflow
def test_torchmetrics_agrees():
    functional = pytest.importorskip("torchmetrics.functional")
    torch = pytest.importorskip("torch")
    y, logits = overconfident(scale=0.7)
    p, y = softmax(logits, axis=1), y.astype("int64")
    theirs = functional.calibration_error(
        torch.tensor(p), torch.tensor(y), task="multiclass", num_classes=C, n_bins=15
    )
    assert of_probabilities("ece", y, p) == pytest.approx(float(theirs), abs=1e-6)
    _, wrong = ranked(y, p)
    theirs = functional.auroc(torch.tensor(1 - p.max(1)), torch.tensor(wrong > 0), task="binary")
    assert of_probabilities("error_auroc", y, p) == pytest.approx(float(theirs), abs=1e-4)


@pytest.mark.tensorflow
def test_torch_uncertainty_agrees():
    theirs = pytest.importorskip("torch_uncertainty.metrics", exc_type=ImportError)
    torch = pytest.importorskip("torch")
    y, logits = overconfident(scale=0.7)
    p, y = softmax(logits, axis=1), y.astype("int64")
    compared = {
        "nll": theirs.CategoricalNLL(),
        "brier": theirs.BrierScore(num_classes=C),
        "ece_mass": theirs.AdaptiveCalibrationError("multiclass", num_classes=C, num_bins=15),
        "aurc": theirs.AURC(),
    }
    expected = {name: float(f(torch.tensor(p), torch.tensor(y))) for name, f in compared.items()}
    # Theirs is the trapezoidal rule: half of the first risk and of the last are not in it.
    rest, wrong = ranked(y, p)
    ends = (wrong[rest.argmin()] + wrong.mean()) / 2
    expected["aurc"] = (expected["aurc"] * (N - 1) + ends) / N
    got = {name: of_probabilities(name, y, p) for name in expected}
    assert got == pytest.approx(expected, abs=2e-5)


# Closed forms


def test_a_perfect_classifier():
    y = np.arange(N) % C
    expected = dict.fromkeys(CLASSIFIERS, 0.0) | {"error_auroc": 0.5}
    assert {name: of_probabilities(name, y, np.eye(C)[y]) for name in CLASSIFIERS} == expected


def test_a_classifier_that_is_always_wrong_and_sure():
    y = np.arange(N) % C
    expected = {"nll": -np.log(1e-7), "brier": 2, "ece": 1, "ece_mass": 1, "aurc": 1}
    got = {name: of_probabilities(name, y, np.eye(C)[y - 1]) for name in CLASSIFIERS}
    assert got == pytest.approx(expected | {"error_auroc": 0.5}, rel=1e-6)


@pytest.mark.tensorflow
def test_constant_predictions():
    """Right in one of five: an uncertainty that says nothing gives the error rate and 1 / 2."""
    y, p = np.arange(N) % C, np.tile([0.6, 0.1, 0.1, 0.1, 0.1], (N, 1))
    expected = {
        "nll": -(np.log(0.6) + 4 * np.log(0.1)) / 5,
        "brier": (0.16 + 0.04 + 4 * (0.36 + 0.81 + 0.03)) / 5,
        "ece": 0.4,
        "ece_mass": 0.4,
        "aurc": 0.8,
        "error_auroc": 0.5,
    }
    got = {name: of_probabilities(name, y, p) for name in CLASSIFIERS}
    assert got == pytest.approx(expected, rel=1e-5)


@each_classifier
@pytest.mark.tensorflow
def test_nothing_seen(name):
    assert float(CLASSIFIERS[name]().result()) == (0.5 if name == "error_auroc" else 0)


@pytest.mark.tensorflow
def test_detection_of_what_is_apart_or_not_there():
    assert value(m.OutOfDistributionAUROC(), [0, 0, 1], [-2.0, -1.0, 5.0]) == 1
    assert value(m.OutOfDistributionAUROC(), [1, 1, 0], [-2.0, -1.0, 5.0]) == 0
    assert value(m.OutOfDistributionAUROC(), [1, 1, 1], [-2.0, -1.0, 5.0]) == 0.5


# The histogram, and sums


@pytest.mark.tensorflow
def test_bins_ascend_with_the_score():
    rng = np.random.default_rng(0)
    size = 2.0 ** rng.uniform(-60, 40, 20_000)
    near_one = 1 - 2.0 ** rng.uniform(-30, -1, 5000)
    score = np.sort(np.concatenate([size, -size, near_one, -near_one, [0, 1, -1, 3e38, -3e38]]))
    index = keras.ops.convert_to_numpy(histogram.bin_of(score.astype("float32")))
    assert (np.diff(index) >= 0).all()
    assert index[0] == 0 and index[-1] == histogram.SIGNED_BINS - 1


@pytest.mark.tensorflow
def test_bins_are_narrow_next_to_zero_and_next_to_one():
    score = 10.0 ** np.arange(-12, 9)
    pairs = np.stack([score, 1.0015 * score]).astype("float32")
    near_one = 1 - np.stack([score, 1.0015 * score])[:, 8:12]
    for pair in (pairs, -pairs, near_one.astype("float32")):
        first, second = keras.ops.convert_to_numpy(histogram.bin_of(pair))
        assert (first != second).all()


@pytest.mark.tensorflow
def test_harmonic_difference():
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, 200_001))])
    before = np.array([1, 1, 2, 5, 100, 1000, 100_000, 190_000])
    count = np.array([1, 1000, 1, 3, 1, 199_000, 1, 7])
    arguments = [keras.ops.convert_to_tensor(x, "float32") for x in (before, before + count, count)]
    got = keras.ops.convert_to_numpy(ranking._harmonic_difference(*arguments))
    np.testing.assert_allclose(got, harmonic[before + count] - harmonic[before], rtol=2e-5)


def compiled(function):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def test_compilers_keep_the_rounding_errors():
    """1e7 is so large that float32 drops every 0.3 that is added to it."""
    metric = calibration.CompensatedSum((), None, None)
    state = [keras.ops.convert_to_tensor(x, "float32") for x in (1e7, 0.0)]

    def step(state):
        with keras.StatelessScope(list(zip(metric.variables, state, strict=True))) as scope:
            metric.add(keras.ops.convert_to_tensor(0.3, "float32"))
        return [scope.get_current_value(v) for v in metric.variables]

    step = compiled(step)
    for _ in range(1000):
        state = step(state)
    assert float(state[0]) == 1e7
    assert float(state[1]) == pytest.approx(300, rel=1e-5)


# Inputs


@each_classifier
def test_batches_add_up(name):
    y, logits = overconfident()
    metric = CLASSIFIERS[name](from_logits=True)
    for part in np.split(np.arange(N), 4):
        metric.update_state(y[part], logits[part])
    once = of_logits(name, y, logits)
    assert float(metric.result()) == pytest.approx(once, abs=1e-6)
    metric.reset_state()
    assert value(metric, y, logits) == once


@each_classifier
def test_logits_are_probabilities(name):
    y, logits = overconfident(scale=1.0)
    p = softmax(logits.astype(np.float64), axis=1)
    assert of_logits(name, y, logits) == pytest.approx(of_probabilities(name, y, p), abs=1e-5)


@each_classifier
@pytest.mark.tensorflow
def test_one_column_is_two(name):
    rng = np.random.default_rng(0)
    y, z = rng.integers(0, 2, N), (2 * rng.normal(size=N)).astype("float32")
    p = 1 / (1 + np.exp(-z))
    for of, one, other in ((of_logits, z, 0 * z), (of_probabilities, p, 1 - p)):
        expected = of(name, y, np.stack([other, one], 1))
        for labels, predictions in ((y, one), (y[:, None], one[:, None]), (y, one[:, None])):
            assert of(name, labels, predictions) == pytest.approx(expected, abs=1e-6)


@each_classifier
@pytest.mark.tensorflow
def test_labels_of_every_form(name):
    y, logits = overconfident()
    expected = of_logits(name, y, logits)
    for form in (y[:, None], y.astype("float32"), y.astype("uint8"), y.tolist(), np.eye(C)[y]):
        assert of_logits(name, form, logits) == expected


@each_classifier
@pytest.mark.tensorflow
def test_segmentation(name):
    y, logits = overconfident()
    expected = pytest.approx(of_logits(name, y, logits), abs=1e-6)
    y, logits = y.reshape(2, 3, -1), logits.reshape(2, 3, -1, C)
    for labels in (y, y[..., None], np.eye(C)[y]):
        assert of_logits(name, labels, logits) == expected


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["aurc", "error_auroc"])
def test_uncertainty_of_every_pixel(name):
    y, logits = overconfident()
    uncertainty = np.random.default_rng(0).normal(size=N)
    expected = of_logits(name, y, logits, uncertainty=uncertainty)
    y, logits = y.reshape(2, 3, -1), logits.reshape(2, 3, -1, C)
    uncertainty = uncertainty.reshape(2, 3, -1, 1)
    assert of_logits(name, y, logits, uncertainty=uncertainty) == expected


def test_targets_that_are_no_labels():
    """As given for likelihood and Brier score, their largest for the others."""
    target = np.tile([0.8, 0.2, 0, 0, 0], (N, 1))
    p = np.tile([0.6, 0.4, 0, 0, 0], (N, 1))
    expected = {
        "nll": -(0.8 * np.log(0.6) + 0.2 * np.log(0.4)),
        "brier": 0.08,
        "ece": 0.4,
        "aurc": 0,
    }
    got = {name: of_probabilities(name, target, p) for name in expected}
    assert got == pytest.approx(expected, rel=1e-5)


@each_classifier
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_predictions_in_half_precision(name, dtype):
    y, logits = overconfident(scale=1.0)
    low = keras.ops.cast(logits, dtype)
    same = keras.ops.convert_to_numpy(keras.ops.cast(low, "float32"))
    metric = CLASSIFIERS[name](from_logits=True)
    assert value(metric, y, low) == of_logits(name, y, same)
    assert {keras.backend.standardize_dtype(v.dtype) for v in metric.variables} == {"float32"}


@each_classifier
@pytest.mark.tensorflow
@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")  # JAX has none
def test_metrics_of_other_dtypes(name, dtype):
    y, logits = overconfident()
    got = value(CLASSIFIERS[name](from_logits=True, dtype=dtype), y, logits)
    assert got == pytest.approx(of_logits(name, y, logits), rel=1e-4)


@each_classifier
@pytest.mark.parametrize("size", [1e4, 3e38])
def test_extreme_logits(name, size):
    right, even = np.float32([size, -size, 0, 0, 0]), np.float32([-size] * C)
    logits = np.stack([right, right, even, right] * (N // 4))
    got = of_logits(name, [1, 0, 2, 0] * (N // 4), logits)
    assert np.isfinite(got) and got >= 0
    if name == "nll":
        assert got == pytest.approx((min(2 * size, 1e30) + np.log(C)) / 4, rel=1e-5)


@pytest.mark.tensorflow
def test_confidence_next_to_one_is_ranked():
    """By 1 - p of 1e-12, 1e-9 and 1e-6, where p itself is 1 in float32."""
    z = np.log([[1, 1e-12], [1, 1e-9], [1, 1e-6]])
    for of, predicted in ((of_logits, z), (of_probabilities, np.exp(z))):
        assert of("aurc", [0, 1, 0], predicted) == pytest.approx((1 / 2 + 1 / 3) / 3, abs=1e-5)
        assert of("error_auroc", [0, 1, 0], predicted) == 0.5
        assert of("error_auroc", [0, 0, 1], predicted) == 1


@each_weighted
def test_a_weight_of_two_is_twice_there(name):
    y, logits = overconfident()
    weight = np.random.default_rng(0).permutation(np.repeat([0, 2], N // 2))
    repeated = of_logits(name, np.repeat(y, weight), np.repeat(logits, weight, axis=0))
    assert of_logits(name, y, logits, weight) == pytest.approx(repeated, abs=1e-6)


@each_weighted
@pytest.mark.tensorflow
def test_weights_of_every_shape(name):
    y, logits = overconfident()
    weight = random_weights()
    expected = pytest.approx(of_logits(name, y, logits, weight), abs=1e-6)
    assert of_logits(name, y, logits, weight[:, None]) == expected
    y, logits = y.reshape(2, 3, -1), logits.reshape(2, 3, -1, C)
    assert of_logits(name, y, logits, weight.reshape(y.shape)) == expected
    per_image = np.float32([2, 3])
    full = np.broadcast_to(per_image[:, None, None], y.shape)
    got = of_logits(name, y, logits, per_image)
    assert got == pytest.approx(of_logits(name, y, logits, full), abs=1e-6)


@each_weighted
def test_what_has_no_weight_may_be_anything(name):
    """As padding and "void" pixels are."""
    y, logits = overconfident()
    weight = np.where(np.arange(N) < 3, 0, random_weights())
    expected = of_logits(name, y, logits, weight)
    y[0], y[1], logits[2] = 255, -1, np.nan
    assert of_logits(name, y, logits, weight) == expected


@each_classifier
def test_nan_is_seen(name):
    y, logits = overconfident()
    for column in range(C):
        broken = logits.copy()
        broken[7, column] = np.nan
        assert np.isnan(of_logits(name, y, broken))
        assert np.isnan(of_probabilities(name, y, softmax(logits, 1) + 0 * broken))


@pytest.mark.tensorflow
def test_nan_scores_are_seen():
    assert np.isnan(value(m.OutOfDistributionAUROC(), [0, 1, 1], [np.nan, 1.0, 2.0]))
    p = np.array([[0.1, 0.9], [0.8, 0.2]])
    assert np.isnan(of_probabilities("error_auroc", [0, 0], p, uncertainty=[1.0, np.nan]))
    p[0, 1] = np.nan
    assert np.isnan(of_probabilities("error_auroc", [0, 0], p, uncertainty=[1.0, 2.0]))


# Errors


@each_classifier
def test_labels_out_of_range(name):
    p = np.full((3, 4), 0.25)
    for y, received in (([0, 4, -1], r"-1 \.\. 4"), ([0, 1.5, 0], r"1\.5 \.\. 1\.5")):
        for given in (y, np.array(y), keras.ops.convert_to_tensor(y)):
            with pytest.raises(ValueError, match=rf"`y_true`.*0 \.\. 3.*{received}"):
                of_probabilities(name, given, p)
    with pytest.raises(ValueError, match=r"`y_true`.*0 \.\. 1\. Received: 2"):
        of_probabilities(name, [2], [0.5])


NO_PROBABILITIES = {
    "logits": [[2.0, -1.0, 0.5], [0.2, 0.3, 0.5]],
    "one below 0": [[1.2, -0.1, -0.1], [0.2, 0.3, 0.5]],
    "a sum above 1": [[0.5, 0.5, 0.5], [0.2, 0.3, 0.5]],
    "a sum below 1": [[0.3, 0.3, 0.3], [0.2, 0.3, 0.5]],
    "infinity": [[np.inf, 0, 0], [0.2, 0.3, 0.5]],
    "one logit": [[3.0], [0.5]],
    "one negative logit": [-0.5, 0.5],
}


@each_classifier
@pytest.mark.parametrize("case", reduced(NO_PROBABILITIES, "logits", "one logit"))
def test_no_probabilities(name, case):
    """The message has the way out."""
    metric = CLASSIFIERS[name]()
    for given in (NO_PROBABILITIES[case], keras.ops.convert_to_tensor(NO_PROBABILITIES[case])):
        with pytest.raises(ValueError, match=r"`y_pred` must hold prob.*`from_logits=True`\. Rec"):
            metric.update_state([0, 1], given)
    assert not any(np.any(keras.ops.convert_to_numpy(v)) for v in metric.variables)
    if case != "infinity":
        assert np.isfinite(of_logits(name, [0, 1], NO_PROBABILITIES[case]))


@each_weighted
def test_no_probabilities_where_there_is_no_weight(name):
    p = np.array([[0.75, 0.25], [7.0, -3.0]])
    expected = of_probabilities(name, [0], p[:1])
    assert of_probabilities(name, [0, 1], p, [1, 0]) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="`y_pred`"):
        of_probabilities(name, [0, 1], p, [0, 1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("classes", reduced([2, 10, 1000], 10))
def test_probabilities_in_half_precision(dtype, classes):
    y, logits = overconfident(64, classes, scale=1.0)
    low = keras.ops.cast(logits, dtype)
    for p in (keras.ops.softmax(low), keras.ops.exp(keras.ops.log_softmax(low))):
        got = of_probabilities("brier", y, p)
        assert got == pytest.approx(of_logits("brier", y, logits), rel=0.05)
    p = keras.ops.sigmoid(low[:, 0])
    assert np.isfinite(of_probabilities("brier", y > 0, p))
    assert np.isfinite(m.spread([keras.ops.convert_to_numpy(keras.ops.log_softmax(low))] * 2))


@pytest.mark.tensorflow
def test_probabilities_of_few_digits():
    of_probabilities("nll", [0, 1], [[0.33, 0.33, 0.33], [0.34, 0.34, 0.33]])


@pytest.mark.tensorflow
def test_agreement_of_no_log_probabilities():
    log_p = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    subs = np.stack([log_p, log_p[::-1]])
    assert m.mean_two_way_kl(log_p, subs) > 0 and m.spread(subs) > 0
    minus_infinity = np.log(np.eye(3)[None] + 1e-320)
    assert m.spread(np.concatenate([minus_infinity, minus_infinity])) == 0
    for wrong in (np.exp(log_p), 100 * log_p, 1000 - log_p, np.zeros((2, 3))):
        with pytest.raises(ValueError, match=r"`full` must hold log probabilities.*log_softmax"):
            m.mean_two_way_kl(wrong, subs)
        with pytest.raises(ValueError, match="`sub_models` must hold log probabilities"):
            m.mean_two_way_kl(log_p, np.stack([log_p, wrong]))
        assert 0 <= m.disagreement(wrong, subs) <= 1
    for wrong in (np.exp(subs), -subs, subs + 1000):
        with pytest.raises(ValueError, match="`sub_models` must hold log probabilities"):
            m.spread(wrong)


def test_detection_labels_out_of_range():
    with pytest.raises(ValueError, match=r"`y_true`.*0 \.\. 1\. Received: 2"):
        m.OutOfDistributionAUROC().update_state([2], [0.5])


@each_classifier
def test_shapes_that_do_not_fit(name):
    p = np.full((3, 4), 0.25)
    for y in ([0, 1], np.zeros((3, 2)), np.zeros((3, 4, 1)), 0):
        with pytest.raises(ValueError, match=r"`y_true` must have shape \(3,\).*Received"):
            of_probabilities(name, y, p)
    with pytest.raises(ValueError, match=r"`y_pred`.*shape \(\)"):
        of_probabilities(name, [0], 0.5)
    with pytest.raises(ValueError, match=r"`y_pred`.*shape \(3, 0\)"):
        of_probabilities(name, [0, 0, 0], np.zeros((3, 0)))


@each_weighted
def test_weights_that_do_not_fit(name):
    for weight in (np.ones(2), np.ones((3, 4))):
        with pytest.raises(ValueError, match=r"`sample_weight`.*\(3,\)"):
            of_probabilities(name, [0, 1, 2], np.full((3, 4), 0.25), weight)


@each_weighted
def test_what_holds_no_numbers(name):
    given = {"y_true": [0, 1], "y_pred": [[0.1, 0.9], [0.8, 0.2]], "sample_weight": [1.0, 2.0]}
    given |= {"uncertainty": [0.5, 1.0]} if name == "error_auroc" else {}
    for argument in given:
        types = NO_ARRAY[1:] if argument in ("sample_weight", "uncertainty") else NO_ARRAY
        call = lambda x, argument=argument: of_probabilities(name, **{**given, argument: x})  # noqa: E731
        refuses(call, argument, types, TypeError)
    for weight, received in (([1, -2], r"-2 \.\. 1"), ([np.nan, 1], "nan")):
        with pytest.raises(ValueError, match=f"`sample_weight` must .* >= 0.* {received}"):
            of_probabilities(name, **{**given, "sample_weight": weight})


@pytest.mark.tensorflow
def test_arguments_that_do_not_fit():
    refuses(m.ExpectedCalibrationError, "bins", NO_INT, TypeError)
    refuses(m.ExpectedCalibrationError, "bins", (0, -1, 10**6, 10**30), ValueError)
    binning = lambda x: m.ExpectedCalibrationError(binning=x)  # noqa: E731
    refuses(binning, "binning", NO_TEXT, TypeError)
    refuses(binning, "binning", ("equal", ""), ValueError)
    for metric in CLASSIFIERS.values():
        refuses(lambda x, metric=metric: metric(from_logits=x), "from_logits", NO_FLAG, TypeError)
    y, p = [0, 1], [[0.1, 0.9], [0.8, 0.2]]
    with pytest.raises(ValueError, match="`sample_weight` must be None"):
        of_probabilities("aurc", y, p, [1, 1])
    for name in ("aurc", "error_auroc"):
        with pytest.raises(ValueError, match=r"`uncertainty`.*\(2,\)"):
            of_probabilities(name, y, p, uncertainty=[1.0, 2.0, 3.0])
    detection = m.OutOfDistributionAUROC()
    with pytest.raises(ValueError, match=r"`y_true`.*\(2,\)"):
        detection.update_state([0, 1, 1], [0.5, 0.5])
    with pytest.raises(ValueError, match=r"`y_pred` must have shape.*shape \(\)"):
        detection.update_state([0, 1], 0.5)
    refuses(lambda x: detection.update_state(x, [0.5, 0.5]), "y_true", NO_ARRAY, TypeError)
    refuses(lambda x: detection.update_state([0, 1], x), "y_pred", NO_ARRAY, TypeError)


# Inside Keras


def network(metrics, weighted_metrics=(), jit="auto"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile(
        "sgd",
        lambda y, z: keras.ops.mean(keras.ops.square(z), axis=-1),  # does not mind any label
        metrics=metrics,
        weighted_metrics=list(weighted_metrics),
        jit_compile=jit,
    )
    return model


def data(n=N):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 6)).astype("float32"), rng.integers(0, 3, n)


def test_compiled_is_what_it_is_outside():
    """And in it a label or weight out of range, which nothing can raise, makes the result NaN."""
    (x, y), weight = data(), np.linspace(0, 2, N)
    created = {name: create(from_logits=True, name=name) for name, create in CLASSIFIERS.items()}
    weighted = [created.pop(name) for name in ("ece", "error_auroc")]
    model = network(list(created.values()), weighted, jit=BACKEND != "torch")
    history = model.fit(
        x, y, sample_weight=weight, batch_size=60, verbose=0, validation_data=(x, y, weight)
    ).history
    evaluate = {"batch_size": 60, "verbose": 0, "return_dict": True}
    logs = model.evaluate(x, y, sample_weight=weight, **evaluate)
    logits = keras.ops.convert_to_numpy(model(x))
    expected = {name: of_logits(name, y, logits) for name in created} | {
        metric.name: of_logits(metric.name, y, logits, weight) for metric in weighted
    }
    assert {name: logs[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    for name in expected:
        assert history["val_" + name][0] == pytest.approx(expected[name], abs=1e-5)
        assert np.isfinite(history[name][0])
    if BACKEND != "torch":
        y[3] = 3
        logs = model.evaluate(x, y, sample_weight=weight, **evaluate)
        assert np.isnan([logs[name] for name in expected]).all()
        assert np.isfinite(logs["loss"])
        y[3], weight[5] = 0, -1
        logs = model.evaluate(x, y, sample_weight=weight, **evaluate)
        assert np.isnan([logs[metric.name] for metric in weighted]).all()


@pytest.mark.skipif(BACKEND == "torch", reason="torch compiles nothing and raises")
def test_compiled_metrics_of_logits_that_nobody_told_are_nan():
    x, y = data()
    names = ("nll", "ece", "error_auroc")
    model = network([CLASSIFIERS[name](name=name) for name in names], jit=BACKEND == "jax")
    logs = model.evaluate(x, y, batch_size=60, verbose=0, return_dict=True)
    assert np.isnan([logs[name] for name in names]).all() and np.isfinite(logs["loss"])


@pytest.mark.tensorflow
def test_out_of_distribution_as_a_metric_of_a_model():
    x, _ = data()
    y = (x[:, 0] + np.random.default_rng(0).normal(size=N) > 0).astype(int)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    model.compile(loss="mse", metrics=[m.OutOfDistributionAUROC()])
    logs = model.evaluate(x, y, batch_size=60, verbose=0, return_dict=True)
    expected = roc_auc_score(y, keras.ops.convert_to_numpy(model(x))[:, 0])
    assert logs["out_of_distribution_auroc"] == pytest.approx(expected, abs=2e-4)


@pytest.mark.tensorflow
def test_saved_with_the_model(tmp_path):
    x, y = data()
    ece = m.ExpectedCalibrationError(7, "equal_mass", from_logits=True)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile(loss="mse", metrics=[ece, m.AreaUnderRiskCoverage(True, name="other")])
    evaluate = {"batch_size": 60, "verbose": 0, "return_dict": True}
    y = np.eye(3)[y]
    logs = model.evaluate(x, y, **evaluate)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").evaluate(x, y, **evaluate)
    assert again.keys() == {"loss", "expected_calibration_error", "other"}
    assert again == pytest.approx(logs, rel=1e-6)


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")
def test_config():
    metric = m.ExpectedCalibrationError(7, "equal_mass", True, name="x", dtype="float64")
    for created in (metric, m.OutOfDistributionAUROC(), *(f(True) for f in ORDINARY)):
        config = keras.saving.serialize_keras_object(created)
        again = keras.saving.deserialize_keras_object(config)
        assert type(again) is type(created) and again.get_config() == created.get_config()
    assert metric.get_config() == {
        "bins": 7, "binning": "equal_mass", "from_logits": True, "name": "x", "dtype": "float64",
    }  # fmt: skip


ORDINARY = (m.NegativeLogLikelihood, m.BrierScore, m.AreaUnderRiskCoverage, m.ErrorAUROC)
