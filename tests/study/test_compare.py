import json
import warnings

import numpy as np
import pytest

stats = pytest.importorskip("scipy.stats", reason='pip install "keras-swapout[pilot]"')

from keras_swapout.study.measuring.measure import difference_text, p_text, value_text  # noqa: E402
from keras_swapout.study.measuring.statistics import holm, mean_interval, welch  # noqa: E402
from keras_swapout.study.pilot import compare as module  # noqa: E402
from keras_swapout.study.pilot import measures  # noqa: E402
from keras_swapout.study.pilot.compare import compare  # noqa: E402
from keras_swapout.study.pilot.measures import MEASURES  # noqa: E402

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend

PERCENT = {"unit": "%", "digits": 1}


def pilot(accuracies, size=1000, **extra):
    """Results with nothing but test accuracies, one list for each method."""
    return {
        "data": {"sizes": {"test": size}},
        "methods": {name: {"title": name.replace("_", " ").capitalize()} for name in accuracies},
        "runs": [
            {"method": name, "seed": seed, "test": {"accuracy": value}} | extra
            for name, values in accuracies.items()
            for seed, value in enumerate(values)
        ],
    }


def verdict(results, name="swapout", measure="accuracy"):
    return compare(results)["methods"][name]["measures"][measure]["verdict"]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_welch_by_hand():
    # Means 2 and 5, variances 1 and 16/3, so v is 1/3 and 4/3, t = 3 / sqrt(5/3) and
    # df = (5/3)^2 / ((1/3)^2 / 2 + (4/3)^2 / 3) = 30/7.
    result = welch([1.0, 2.0, 3.0], [3.0, 3.0, 7.0, 7.0])
    assert result.difference == pytest.approx(3)
    assert result.t == pytest.approx(3 / np.sqrt(5 / 3))
    assert result.df == pytest.approx(30 / 7)
    assert result.p == pytest.approx(2 * stats.t.sf(3 / np.sqrt(5 / 3), 30 / 7))
    half = stats.t.ppf(0.975, 30 / 7) * np.sqrt(5 / 3)
    assert (result.low, result.high) == pytest.approx((3 - half, 3 + half))


@pytest.mark.parametrize("sizes", [(2, 2), (3, 5), (30, 4)])
def test_welch_agrees_with_scipy(sizes):
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = (rng.normal(0.9, 10 ** rng.uniform(-6, 0), n) for n in sizes)
        expected = stats.ttest_ind(second, first, equal_var=False)
        interval = expected.confidence_interval(0.95)
        result = welch(first.tolist(), second.tolist())
        assert result.t == pytest.approx(expected.statistic)
        assert result.df == pytest.approx(expected.df)
        assert result.p == pytest.approx(expected.pvalue)
        assert (result.low, result.high) == pytest.approx(tuple(interval))


def test_welch_with_one_side_without_spread():
    result = welch([0.9, 0.9, 0.9], [0.91, 0.92, 0.93])
    alone = stats.ttest_1samp([0.91, 0.92, 0.93], 0.9)
    assert result.df == pytest.approx(2)
    assert result.p == pytest.approx(alone.pvalue)


def test_welch_refuses():
    with pytest.raises(ValueError, match="two values, got 1 and 2"):
        welch([0.9], [0.9, 0.8])
    with pytest.raises(ValueError, match="spread"):
        welch([0.1 + 0.2, 0.3], [0.5, 0.5])


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


@pytest.mark.parametrize("bad", [[float("nan")], [-0.1], [1.1, 0.5]])
def test_holm_refuses(bad):
    with pytest.raises(ValueError, match="p-values"):
        holm(bad)


def test_mean_interval_agrees_with_scipy():
    values = [0.91, 0.94, 0.92, 0.9]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [3, 5])
def test_false_positives_are_as_rare_as_promised(seeds):
    """Nothing differs: 5 % of pilots at most may say that something does.

    With 1000 pilots and a true rate of 5 % the count exceeds the bound with probability 0.001.
    Holm over four methods that share plain's runs, and Welch with few seeds, are both below 5 %.
    """
    rng = np.random.default_rng(seeds)
    pilots, names = 1000, ("plain", "a", "b", "c", "d")
    family = alone = 0
    for _ in range(pilots):
        found = compare(pilot({name: rng.normal(0.9, 0.01, seeds).tolist() for name in names}))[
            "methods"
        ]
        rows = [found[name]["measures"]["accuracy"] for name in names[1:]]
        family += any(row["verdict"] != "no difference measured" for row in rows)
        alone += rows[0]["p"] < 0.05
    bound = stats.binom.ppf(0.999, pilots, 0.05)
    assert family <= bound
    assert alone <= bound
    # And not by never finding anything.
    assert alone >= 0.4 * 0.05 * pilots


def test_false_positives_on_the_grid_of_a_small_test_set():
    """Accuracies are multiples of 1/n, so that ties and sides without spread are common."""
    rng = np.random.default_rng(0)
    pilots, size = 1000, 100
    wrong = sum(
        verdict(pilot({m: (rng.binomial(size, 0.99, 3) / size).tolist() for m in names}, size))
        in ("better", "worse")
        for names in [("plain", "swapout")] * pilots
    )
    assert wrong <= stats.binom.ppf(0.999, pilots, 0.05)


def test_power_where_the_effect_is_large():
    """Four methods, one of them 5 standard deviations better, five seeds."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        values = {m: rng.normal(0.9, 0.01, 5).tolist() for m in ("plain", "a", "b", "c")}
        values["swapout"] = rng.normal(0.95, 0.01, 5).tolist()
        found += verdict(pilot(values)) == "better"
    assert found >= 195


def test_interval_covers_the_true_difference():
    rng = np.random.default_rng(0)
    trials = 1000
    inside = 0
    for _ in range(trials):
        row = welch(rng.normal(0.9, 0.01, 5), rng.normal(0.92, 0.03, 4))
        inside += row.low <= 0.02 <= row.high
    low, high = stats.binom.ppf([0.001, 0.999], trials, 0.95)
    assert low - 0.01 * trials <= inside <= high + 0.01 * trials


def test_numbers_of_a_row():
    plain, swapout = [0.90, 0.92, 0.91], [0.95, 0.96, 0.94]
    comparison = compare(pilot({"plain": plain, "swapout": swapout}))
    row = comparison["methods"]["swapout"]["measures"]["accuracy"]
    assert row["mean"] == pytest.approx(0.95)
    assert row["sd"] == pytest.approx(0.01)
    assert row["n"] == 3
    assert row["difference"] == pytest.approx(0.04)
    assert (
        row["p"]
        == row["p_adjusted"]
        == pytest.approx(stats.ttest_ind(plain, swapout, equal_var=False).pvalue)
    )
    assert comparison["resolution"] == pytest.approx(np.sqrt(0.91 * 0.09 / 1000))
    base = comparison["methods"]["plain"]["measures"]["accuracy"]
    assert base["verdict"] is None and base["difference"] is None
    json.dumps(comparison, allow_nan=False)


def test_lower_is_better_where_it_is():
    plain = [{"nll": v, "accuracy": 0.9} for v in (0.5, 0.51, 0.52)]
    swapout = [{"nll": v, "accuracy": 0.9} for v in (0.3, 0.31, 0.32)]
    results = pilot({"plain": [0.9] * 3, "swapout": [0.9] * 3})
    for run, test in zip(results["runs"], plain + swapout, strict=True):
        run["test"] = test
    assert verdict(results, measure="nll") == "better"
    text = compare(results)["methods"]["swapout"]["verdict"]
    assert "Better: negative log likelihood by 0.200 (95 % interval 0.177 to 0.223)" in text
    assert verdict(results) == "no difference measured"


def test_the_gap_is_train_minus_test_and_alone_no_gain():
    results = pilot({"plain": [0.90, 0.90], "swapout": [0.90, 0.90]})
    for run, train in zip(results["runs"], (0.99, 1.0, 0.93, 0.94), strict=True):
        run["train"] = {"accuracy": train}
    comparison = compare(results)
    row = comparison["methods"]["swapout"]["measures"]["gap"]
    assert row["mean"] == pytest.approx(0.035)
    assert row["verdict"] == "better"
    assert "a smaller gap alone is no gain" in comparison["methods"]["swapout"]["verdict"]
    assert "a smaller gap alone is no gain" in " ".join(comparison["details"])


@pytest.mark.parametrize(
    "plain, swapout, expected, reason",
    [
        ([0.9], [0.95], "not testable", "plain has 1 run"),
        ([0.9, 0.91], [0.95], "not testable", "it has 1 run"),
        ([0.9, 0.91], [], "not testable", "it has no runs"),
        ([0.9, 0.9], [0.9, 0.9], "no difference measured", "same value"),
        ([0.3, 0.3], [0.1 + 0.2, 0.3], "no difference measured", "same value"),
        ([0.9, 0.9], [0.95, 0.95], "not testable", "no spread"),
        ([1.0, 1.0], [1.0, 1.0], "no difference measured", "same value"),
    ],
)
def test_degenerate(plain, swapout, expected, reason):
    comparison = compare(pilot({"plain": plain, "swapout": swapout}))
    row = comparison["methods"]["swapout"]["measures"]["accuracy"]
    assert row["verdict"] == expected
    assert reason in row["reason"]
    assert row["p"] is row["low"] is None
    json.dumps(comparison, allow_nan=False)


def test_without_plain():
    comparison = compare(pilot({"swapout": [0.9, 0.91], "skip_forward": [0.8, 0.81]}))
    for method in comparison["methods"].values():
        assert method["measures"]["accuracy"]["verdict"] == "not testable"
        assert "plain was not run" in method["verdict"]
    assert "plain was not run" in comparison["answer"]


def test_untestable_methods_leave_holm_alone():
    full = {"plain": [0.9, 0.91, 0.9], "a": [0.92, 0.93, 0.92], "b": [0.9, 0.92, 0.9]}
    rows = {
        extra: compare(pilot(full | ({"c": [0.5]} if extra else {})))["methods"]["a"]
        for extra in (False, True)
    }
    assert rows[False]["measures"] == rows[True]["measures"]


def test_interrupted():
    results = pilot({"plain": [0.9, 0.91, 0.9], "a": [0.92, 0.93], "b": []})
    comparison = compare(results)
    assert "Only 2 of 3 runs finished." in comparison["methods"]["a"]["verdict"]
    assert comparison["methods"]["a"]["measures"]["accuracy"]["p"] is not None
    assert comparison["methods"]["b"]["verdict"] == "B: no finished runs."
    assert "No finished runs: B." in comparison["details"]


@pytest.mark.parametrize("lost", [float("nan"), float("inf"), None])
def test_a_diverged_run_is_left_out_and_named(lost):
    results = pilot({"plain": [0.9, 0.91, 0.9], "swapout": [0.92, lost, 0.91]})
    comparison = compare(results)
    swapout = comparison["methods"]["swapout"]
    assert swapout["measures"]["accuracy"]["n"] == 2
    assert "left out" in swapout["verdict"] and "test accuracy 1 of 3" in swapout["verdict"]
    json.dumps(comparison, allow_nan=False)


def test_refuses_unknown_methods_and_repeated_runs():
    results = pilot({"plain": [0.9, 0.91]})
    with pytest.raises(ValueError, match="'swapout'"):
        compare(results | {"runs": [{"method": "swapout", "seed": 0}]})
    with pytest.raises(ValueError, match="two runs"):
        compare(results | {"runs": results["runs"] * 2})


def test_nothing_at_all():
    comparison = compare({"methods": {}, "runs": []})
    assert "nothing was measured" in comparison["answer"]
    assert comparison["measures"] == [] and comparison["methods"] == {}


ANSWERS = [
    ({"plain": [0.9, 0.91]}, "only plain was run"),
    ({"plain": [0.9], "a": [0.91]}, "test accuracy of A cannot be tested against plain: plain has"),
    ({"plain": [0.9], "a": [0.91], "b": [0.9]}, "of the methods cannot be tested"),
    ({"plain": [0.9, 0.92], "a": [0.91, 0.9]}, "no difference from plain in test accuracy was"),
    ({"plain": [0.9, 0.92], "a": [0.91, 0.9], "b": [0.9, 0.93]}, "measured for either of the 2"),
    ({"plain": [0.9, 0.91, 0.9], "a": [0.8, 0.81, 0.8]}, "A was worse than plain"),
    (
        {"plain": [0.9, 0.91, 0.9], "a": [0.8, 0.81, 0.8], "b": [0.9, 0.9, 0.91]},
        "no method was measured to be better than plain in test accuracy; A was worse.",
    ),
    (
        {"plain": [0.9, 0.91, 0.9], "a": [0.95, 0.96, 0.95], "b": [0.97, 0.98, 0.97]},
        "better than plain in test accuracy: B by 7.0 points (95 % interval 5.7 to 8.3) and "
        "A by 5.0 points (3.7 to 6.3).",
    ),
]


@pytest.mark.parametrize("accuracies, expected", ANSWERS)
def test_answer(accuracies, expected):
    answer = compare(pilot(accuracies))["answer"]
    assert answer.startswith("On this data, at this budget, ")
    assert expected in answer
    assert answer.count("(") == answer.count(")")


def test_no_difference_says_what_is_not_ruled_out():
    comparison = compare(pilot({"plain": [0.9, 0.92, 0.91], "a": [0.91, 0.9, 0.92]}))
    assert "not ruled out" in comparison["details"][0]
    assert "adjusted p = 1" in comparison["methods"]["a"]["verdict"]


def test_a_gain_below_the_resolution_of_the_test_set_says_so():
    accuracies = {"plain": [0.900, 0.901, 0.899], "a": [0.910, 0.911, 0.909]}
    small, large = (compare(pilot(accuracies, size)) for size in (100, 100_000))
    for comparison, expected in ((small, True), (large, False)):
        assert comparison["methods"]["a"]["measures"]["accuracy"]["verdict"] == "better"
        texts = comparison["methods"]["a"]["verdict"], " ".join(comparison["details"])
        assert all(("other images may not show it" in text) == expected for text in texts)


def test_resolution_never_below_one_image():
    assert compare(pilot({"plain": [1.0, 1.0]}, 50))["resolution"] == pytest.approx(0.02)


def test_the_test_is_stated():
    text = compare(pilot({"plain": [0.9, 0.91], "a": [0.9, 0.92]}))["test"]
    for words in ("Welch", "Holm", "alpha = 0.05", "split fixed", "other test images", "binomial"):
        assert words in text


def test_cost_is_reported():
    results = pilot({"plain": [0.9, 0.91], "a": [0.9, 0.92]})
    results["timing"] = {"methods": {"a": {"train_step_ratio": 1.06, "inference_ratio": 0.999}}}
    text = compare(results)["methods"]["a"]["verdict"]
    assert text.endswith("A training step costs 1.06 times plain's; inference costs 1.00.")
    results["timing"]["methods"]["a"] |= {"train_step_ratio_low": 1, "train_step_ratio_high": 1.1}
    text = compare(results)["methods"]["a"]["verdict"]
    assert text.endswith("1.06 times plain's (quartiles 1.00 to 1.10); inference costs 1.00.")


def test_a_new_measure_needs_one_entry(monkeypatch):
    extra = measures.Measure("kl", "Disagreement", "consistency.kl", higher_is_better=False)
    monkeypatch.setattr(module, "MEASURES", (*MEASURES, extra))
    results = pilot({"plain": [0.9, 0.91, 0.92], "a": [0.9, 0.91, 0.92]})
    for run, kl in zip(results["runs"], (0.5, 0.51, 0.5, 0.1, 0.11, 0.1), strict=True):
        run["consistency"] = {"kl": kl}
    comparison = compare(results)
    assert comparison["methods"]["a"]["measures"]["kl"]["verdict"] == "better"
    assert "Better: disagreement by 0.400" in comparison["methods"]["a"]["verdict"]
    assert "Disagreement is better with A." in comparison["details"]


def test_measures_without_values_are_not_shown():
    names = [measure["name"] for measure in compare(pilot({"plain": [0.9]}))["measures"]]
    assert names == ["accuracy"]


def test_large_test_sets_get_another_decimal():
    for size, expected in ((360, "91.2 %"), (10_000, "91.23 %")):
        comparison = compare(pilot({"plain": [0.91234]}, size))
        assert expected in comparison["methods"]["plain"]["verdict"]


def test_number_texts():
    assert value_text(PERCENT, None) == "–"
    assert value_text(PERCENT, -0.0001) == "0.0 %"
    assert value_text(PERCENT, -0.012, unit=False) == "−1.2"
    assert difference_text(PERCENT, 0.0001) == "0.0"
    assert difference_text(PERCENT, -0.01) == "−1.0"
    assert difference_text(PERCENT, None) == "–"
    # Never rounded across the threshold.
    assert p_text(0.0497) == "p = 0.050" and p_text(0.0994) == "p = 0.099"
    assert p_text(None) == ""


def test_a_measured_difference_is_never_shown_as_zero():
    accuracies = {"plain": [0.9, 0.900001, 0.9], "a": [0.9002, 0.900201, 0.9002]}
    text = compare(pilot(accuracies))["methods"]["a"]["verdict"]
    assert "better by 0.02 points" in text
