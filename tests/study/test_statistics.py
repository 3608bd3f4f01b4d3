"""Tests, intervals and verdicts of all commands, against formulas and simulations."""

import warnings

import numpy as np
import pytest

stats = pytest.importorskip("scipy.stats", reason='pip install "keras-swapout[pilot]"')
pytest.importorskip("statsmodels", reason='pip install "keras-swapout[pilot]"')

from keras_swapout.study.measuring.comparison import (  # noqa: E402
    BETTER,
    NO_DIFFERENCE,
    NOT_TESTABLE,
    WORSE,
    against,
    contrast,
    judge,
    summary,
)
from keras_swapout.study.measuring.measure import Measure  # noqa: E402
from keras_swapout.study.measuring.statistics import (  # noqa: E402
    holm,
    mean_interval,
    paired,
    welch,
)

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend

ACCURACY = Measure("accuracy", "Accuracy", "accuracy", unit="%", digits=1)
LOSS = Measure("loss", "Loss", "loss", higher_is_better=False)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_welch_by_hand():
    # Means 2 and 5, variances 1 and 16/3, so v is 1/3 and 4/3, t = 3 / sqrt(5/3) and
    # df = (5/3)^2 / ((1/3)^2 / 2 + (4/3)^2 / 3) = 30/7.
    result = welch([1.0, 2.0, 3.0], [3.0, 3.0, 7.0, 7.0])
    half = stats.t.ppf(0.975, 30 / 7) * np.sqrt(5 / 3)
    assert result.difference == pytest.approx(3)
    assert result.p == pytest.approx(2 * stats.t.sf(3 / np.sqrt(5 / 3), 30 / 7))
    assert (result.low, result.high) == pytest.approx((3 - half, 3 + half))


@pytest.mark.parametrize("sizes", [(2, 2), (3, 5), (30, 4)])
def test_welch_is_its_formula(sizes):
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = (rng.normal(0.9, 10 ** rng.uniform(-6, 0), n) for n in sizes)
        v = np.array([first.var(ddof=1), second.var(ddof=1)]) / sizes
        df = v.sum() ** 2 / (v**2 / (np.array(sizes) - 1)).sum()
        difference, error = second.mean() - first.mean(), v.sum() ** 0.5
        half = stats.t.ppf(0.975, df) * error
        result = welch(first.tolist(), second.tolist())
        assert result.p == pytest.approx(2 * stats.t.sf(abs(difference) / error, df))
        assert (result.low, result.high) == pytest.approx((difference - half, difference + half))


def test_welch_with_one_side_without_spread():
    result = welch([0.9, 0.9, 0.9], [0.91, 0.92, 0.93])
    alone = stats.ttest_1samp([0.91, 0.92, 0.93], 0.9)
    interval = alone.confidence_interval(0.95)
    assert result.p == pytest.approx(alone.pvalue)
    assert (result.low + 0.9, result.high + 0.9) == pytest.approx((interval.low, interval.high))


def test_paired_is_student_s_test_of_the_differences():
    first, second = np.random.default_rng(0).normal(0.9, 0.1, (2, 7))
    result, d = paired(first, second), second - first
    error = d.std(ddof=1) / 7**0.5
    half = stats.t.ppf(0.975, 6) * error
    assert result.difference == pytest.approx(d.mean())
    assert result.p == pytest.approx(2 * stats.t.sf(abs(d.mean()) / error, 6))
    assert (result.low, result.high) == pytest.approx((d.mean() - half, d.mean() + half))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: welch([0.9], [0.9, 0.8]), "two values, got 1 and 2"),
        (lambda: welch([0.1 + 0.2, 0.3], [0.5, 0.5]), "spread"),
        (lambda: paired([0.9], [0.8]), "two pairs are needed, got 1 and 1"),
        (lambda: paired([0.9, 0.8, 0.7], [0.8, 0.7]), "got 3 and 2"),
        (lambda: paired([0.9, 0.8], [0.8, 0.7]), "spread"),
        (lambda: holm([float("nan")]), "p-values"),
        (lambda: holm([-0.1]), "p-values"),
        (lambda: holm([1.1, 0.5]), "p-values"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_holm_by_hand():
    # Wikipedia's example in "Holm-Bonferroni method", where only the first and the last of these
    # are rejected at 0.05: 4, 3, 2 and 1 times the sorted values, then made monotone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9, 0.8]) == pytest.approx([1, 1, 1])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(1)
    for _ in range(200):
        p = rng.uniform(0, 0.1, rng.integers(1, 7))
        rejected = np.zeros(len(p), bool)
        for k, index in enumerate(np.argsort(p)):
            if p[index] >= 0.05 / (len(p) - k):
                break
            rejected[index] = True
        assert (np.array(holm(p)) < 0.05).tolist() == rejected.tolist()


def test_mean_interval_agrees_with_scipy():
    values = [0.91, 0.94, 0.92, 0.9]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)
    assert mean_interval([0.9]) is None


# --- what a study would find, many times ---------------------------------------------------------


def studies(first, second):
    """Contrasts of (studies, runs) values, by one call of scipy, as `contrast` has some of them."""
    found = stats.ttest_ind(second, first, axis=1, equal_var=False)
    low, high = found.confidence_interval(0.95)
    columns = {"p": found.pvalue, "low": low, "high": high}
    columns["difference"] = second.mean(axis=1) - first.mean(axis=1)
    rows = [
        dict(zip(columns, map(float, row), strict=True))
        for row in zip(*columns.values(), strict=True)
    ]
    for row, *values in list(zip(rows, first, second, strict=True))[:50]:
        expected = contrast(*values)
        assert row == pytest.approx({name: expected[name] for name in columns})
    return rows


@pytest.mark.parametrize("seeds", [3, 5])
def test_false_positives_are_as_rare_as_promised(seeds):
    """Nothing differs: 5 % of pilots at most may say that something does.

    With 1000 pilots and a true rate of 5 % the count exceeds the bound with probability 0.001.
    Holm over four methods that share plain's runs, and Welch with few seeds, are both below 5 %.
    """
    pilots = 1000
    plain, *methods = np.random.default_rng(seeds).normal(0.9, 0.01, (5, pilots, seeds))
    families = list(zip(*(studies(plain, method) for method in methods), strict=True))
    for family in families:
        judge([(ACCURACY, row) for row in family])
    wrong = sum(any(row["verdict"] != NO_DIFFERENCE for row in family) for family in families)
    alone = sum(family[0]["p"] < 0.05 for family in families)
    bound = stats.binom.ppf(0.999, pilots, 0.05)
    assert wrong <= bound
    assert alone <= bound
    # And not by never finding anything.
    assert alone >= 0.4 * 0.05 * pilots


@pytest.mark.parametrize("pairs", [False, True])
def test_false_positives_on_the_grid_of_a_small_test_set(pairs):
    """Accuracies are multiples of 1/n, so that ties and sides without spread are common."""
    rng = np.random.default_rng(0)
    pilots = 1000
    rows = [contrast(*rng.binomial(100, 0.99, (2, 3)) / 100, pairs) for _ in range(pilots)]
    for row in rows:
        judge([(ACCURACY, row)])
    wrong = sum(row["verdict"] in (BETTER, WORSE) for row in rows)
    assert wrong <= stats.binom.ppf(0.999, pilots, 0.05)


def test_power_where_the_effect_is_large():
    """Four methods, one of them 5 standard deviations better, five seeds."""
    plain, *methods = np.random.default_rng(0).normal(0.9, 0.01, (5, 200, 5))
    methods[-1] = methods[-1] + 0.05
    found = 0
    for family in zip(*(studies(plain, method) for method in methods), strict=True):
        judge([(ACCURACY, row) for row in family])
        found += family[-1]["verdict"] == BETTER
    assert found >= 195


def test_interval_covers_the_true_difference():
    rng = np.random.default_rng(0)
    trials = 1000
    rows = studies(rng.normal(0.9, 0.01, (trials, 5)), rng.normal(0.92, 0.03, (trials, 4)))
    inside = sum(row["low"] <= 0.02 <= row["high"] for row in rows)
    low, high = stats.binom.ppf([0.001, 0.999], trials, 0.95)
    assert low - 0.01 * trials <= inside <= high + 0.01 * trials


# --- contrasts -----------------------------------------------------------------------------------


def test_numbers_of_a_contrast():
    first, second = [0.90, 0.92, 0.91], [0.95, 0.96]
    row = contrast(first, second)
    expected = stats.ttest_ind(second, first, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert row["n"] == [3, 2] and row["means"] == pytest.approx([0.91, 0.955])
    assert row["difference"] == pytest.approx(0.045)
    assert row["p"] == pytest.approx(expected.pvalue) and row["p_adjusted"] is None
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert summary(first) == {
        "values": first,
        "n": 3,
        "mean": pytest.approx(0.91),
        "sd": pytest.approx(0.01),
    }
    assert summary([0.9])["sd"] is summary([])["mean"] is summary([])["sd"] is None


@pytest.mark.parametrize(
    ("first", "second", "pairs", "verdict", "reason"),
    [
        ([0.9], [0.95, 0.96], False, NOT_TESTABLE, "two seeds of each, and there are 2 against 1"),
        ([0.9, 0.91], [], False, NOT_TESTABLE, "two seeds of each, and there are 0 against 2"),
        ([0.9, 0.9], [0.9, 0.9], False, NO_DIFFERENCE, "every seed gave the same value"),
        ([0.3, 0.3], [0.1 + 0.2, 0.3], False, NO_DIFFERENCE, "every seed gave the same value"),
        ([1.0, 1.0], [1.0, 1.0], False, NO_DIFFERENCE, "every seed gave the same value"),
        ([0.9, 0.9], [0.95, 0.95], False, NOT_TESTABLE, "no spread over the seeds"),
        ([0.9], [0.95], True, NOT_TESTABLE, "two seeds in common, and there is 1"),
        ([], [], True, NOT_TESTABLE, "two seeds in common, and there are none"),
        ([0.8, 0.3], [0.8, 0.1 + 0.2], True, NO_DIFFERENCE, "every seed gave both the same value"),
        ([0.25, 0.5], [0.5, 0.75], True, NOT_TESTABLE, "the difference is the same for every seed"),
    ],
)
def test_what_can_not_be_tested_says_why(first, second, pairs, verdict, reason):
    row = contrast(first, second, pairs, what="seed")
    assert row["verdict"] == verdict and reason in row["reason"]
    assert row["p"] is row["low"] is row["high"] is row["p_adjusted"] is None
    if first and second:
        assert row["difference"] == pytest.approx(np.mean(second) - np.mean(first))
    else:
        assert row["difference"] is row["means"] is None


def test_verdicts_follow_the_direction_and_holm_over_what_was_tested():
    rows = [contrast([0.9, 0.91, 0.92], [level, level + 0.01]) for level in (0.95, 0.93, 0.91)]
    rows += [contrast([0.9, 0.91, 0.92], [0.5])]
    for measure, verdict in ((ACCURACY, BETTER), (LOSS, WORSE)):
        judge([(measure, row) for row in rows])
        adjusted = holm([row["p"] for row in rows[:3]])
        assert [row["p_adjusted"] for row in rows] == [*adjusted, None]
        assert rows[0]["verdict"] == verdict and adjusted[0] < 0.05
        assert rows[2]["verdict"] == NO_DIFFERENCE and adjusted[2] >= 0.05
        assert rows[3]["verdict"] == NOT_TESTABLE


def test_against_tests_every_pair_in_every_measure_that_both_have():
    rng = np.random.default_rng(0)
    groups = {(name, m): rng.normal(0.9, 0.1, 4) for name in "abc" for m in ("accuracy", "loss")}
    groups["c", "loss"] = None
    pairs = [
        {"first": "a", "second": name, "over": "images", "paired": True, "subject": name}
        for name in "bc"
    ]

    def values(name, measure, over):
        assert over == "images"
        return groups[name, measure.name]

    within, over_all = (against(pairs, [ACCURACY, LOSS], values, w) for w in (True, False))
    assert [list(one["measures"]) for one in within] == [["accuracy", "loss"], ["accuracy"]]
    assert [one["subject"] for one in within] == ["b", "c"]
    p = {
        (name, m): stats.ttest_rel(groups[name, m], groups["a", m]).pvalue
        for name, m in (("b", "accuracy"), ("c", "accuracy"), ("b", "loss"))
    }
    families = [[("b", "accuracy"), ("c", "accuracy")], [("b", "loss")]]
    for found, keys in ((within, families), (over_all, [list(p)])):
        rows = {(one["second"], m): row for one in found for m, row in one["measures"].items()}
        assert {key: row["p"] for key, row in rows.items()} == pytest.approx(p)
        for family in keys:
            adjusted = [rows[key]["p_adjusted"] for key in family]
            assert adjusted == pytest.approx(holm([p[key] for key in family]))
