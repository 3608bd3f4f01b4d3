"""What a pilot's runs say: every method against plain, in numbers and in sentences."""

import re
import warnings

import numpy as np
import pytest

stats = pytest.importorskip("scipy.stats", reason='pip install "keras-swapout[pilot]"')
pytest.importorskip("statsmodels", reason='pip install "keras-swapout[pilot]"')

from pages import finite  # noqa: E402

from keras_swapout.study.measuring.statistics import holm  # noqa: E402
from keras_swapout.study.pilot import compare as module  # noqa: E402
from keras_swapout.study.pilot import measures  # noqa: E402
from keras_swapout.study.pilot.compare import compare  # noqa: E402
from keras_swapout.study.pilot.measures import MEASURES  # noqa: E402
from keras_swapout.study.report.words import p_text  # noqa: E402

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend

BASE, UP, DOWN = [0.9, 0.91, 0.9], [0.95, 0.96, 0.95], [0.8, 0.81, 0.8]


def pilot(accuracies, size=1000):
    """Results with nothing but test accuracies, one list for each method."""
    return {
        "data": {"sizes": {"test": size}},
        "methods": {name: {"title": name.replace("_", " ").capitalize()} for name in accuracies},
        "runs": [
            {"method": name, "seed": seed, "test": {"accuracy": value}}
            for name, values in accuracies.items()
            for seed, value in enumerate(values)
        ],
    }


def with_values(results, part, key, values):
    for run, value in zip(results["runs"], values, strict=True):
        run.setdefault(part, {})[key] = value
    return results


def row(results, name="swapout", measure="accuracy"):
    return compare(results)["methods"][name]["against"][measure]


def said(comparison):
    """The answer with its details."""
    return " ".join([comparison["answer"], *comparison["details"]])


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_every_method_is_against_plain_by_welch_and_holm_within_a_measure():
    rng = np.random.default_rng(0)
    names = ("plain", "a", "b")
    results = pilot({name: rng.normal(0.9, 0.01, 4).tolist() for name in names})
    with_values(results, "test", "nll", rng.normal(0.5, 0.1, 12))
    comparison = compare(results)
    for measure, size in (("accuracy", 4), ("nll", 4)):
        values = {
            n: [r["test"][measure] for r in results["runs"] if r["method"] == n] for n in names
        }
        p = [stats.ttest_ind(values[n], values["plain"], equal_var=False).pvalue for n in "ab"]
        rows = [comparison["methods"][n]["against"][measure] for n in "ab"]
        assert [r["p"] for r in rows] == pytest.approx(p)
        assert [r["p_adjusted"] for r in rows] == pytest.approx(holm(p))
        for name in names:
            own = comparison["methods"][name]["measures"][measure]
            assert own["n"] == size and own["values"] == values[name]
            assert own["mean"] == pytest.approx(np.mean(values[name]))
            assert own["sd"] == pytest.approx(np.std(values[name], ddof=1))
    assert comparison["methods"]["plain"]["against"] == {}
    accuracy = comparison["methods"]["plain"]["measures"]["accuracy"]["mean"]
    assert comparison["resolution"] == pytest.approx(np.sqrt(accuracy * (1 - accuracy) / 1000))
    assert finite(comparison)


def test_lower_is_better_where_it_is():
    results = pilot({"plain": [0.9] * 3, "swapout": [0.9] * 3})
    with_values(results, "test", "nll", (0.5, 0.51, 0.52, 0.3, 0.31, 0.32))
    assert row(results, measure="nll")["verdict"] == "better"
    assert row(results)["verdict"] == "no difference measured"
    text = compare(results)["methods"]["swapout"]["verdict"]
    assert "better in negative log likelihood by 0.200 (95 % interval 0.177 to 0.223;" in text
    assert "no difference measured in test accuracy (every seed gave the same value)" in text


def test_the_gap_is_train_minus_test_and_alone_no_gain():
    results = pilot({"plain": [0.90, 0.90], "swapout": [0.90, 0.90]})
    with_values(results, "train", "accuracy", (0.99, 1.0, 0.93, 0.94))
    comparison = compare(results)
    swapout = comparison["methods"]["swapout"]
    assert swapout["measures"]["gap"]["mean"] == pytest.approx(0.035)
    assert swapout["against"]["gap"]["verdict"] == "better"
    caveat = "a smaller gap alone is no gain"
    assert caveat in swapout["verdict"] and caveat in said(comparison)
    gained = pilot({"plain": BASE, "swapout": UP})
    comparison = compare(with_values(gained, "train", "accuracy", [0.99] * 6))
    assert comparison["methods"]["swapout"]["against"]["gap"]["verdict"] == "better"
    assert caveat not in comparison["methods"]["swapout"]["verdict"] + said(comparison)


def test_untestable_methods_leave_holm_alone():
    full = {"plain": BASE, "a": [0.92, 0.93, 0.92], "b": [0.9, 0.92, 0.9]}
    alone, beside = (row(pilot(full | extra), "a") for extra in ({}, {"c": [0.5]}))
    assert alone == beside and alone["p_adjusted"] is not None


def test_interrupted():
    comparison = compare(pilot({"plain": BASE, "a": [0.92, 0.93], "b": []}))
    assert "Only 2 of 3 runs finished." in comparison["methods"]["a"]["verdict"]
    assert comparison["methods"]["a"]["against"]["accuracy"]["p"] is not None
    assert "over 2 and 3 seeds" in comparison["answer"]
    assert comparison["methods"]["b"]["verdict"] == "B: no finished runs."
    assert "No finished runs: B." in comparison["details"]
    assert "Holm" not in comparison["test"]  # of one test


@pytest.mark.parametrize("lost", [float("nan"), float("inf"), None])
def test_a_diverged_run_is_left_out_and_named(lost):
    comparison = compare(pilot({"plain": BASE, "swapout": [0.92, lost, 0.91]}))
    swapout = comparison["methods"]["swapout"]
    assert swapout["measures"]["accuracy"]["n"] == 2
    assert "left out" in swapout["verdict"] and "test accuracy 1 of 3" in swapout["verdict"]
    assert finite(comparison)


def test_refuses_unknown_methods_and_repeated_runs():
    results = pilot({"plain": [0.9, 0.91]})
    with pytest.raises(ValueError, match="'swapout'"):
        compare(results | {"runs": [{"method": "swapout", "seed": 0}]})
    with pytest.raises(ValueError, match="two runs"):
        compare(results | {"runs": results["runs"] * 2})


# Of each: the accuracies; what the answer and its details say, "…" for words left out; and what
# they don't say.
ANSWERS = [
    ({}, "nothing was measured", "compare"),
    ({"plain": [0.9, 0.91]}, "only plain was run", "better"),
    ({"a": [0.9, 0.91], "b": [0.8, 0.81]}, "nothing can be compared…plain was not run", "better"),
    (
        {"plain": [0.9], "a": [0.91]},
        "can't be tested: A (a test needs two seeds of each, and there are 1 against 1). The "
        "difference seen, +1.0 points, may be chance; three seeds or more",
        "differences",
    ),
    (
        {"plain": [0.9], "a": [0.91], "b": [0.88]},
        "can't be tested: B and A (…The differences seen, −2.0 to +1.0 points, may be chance",
        "better",
    ),
    ({"plain": [0.9, 0.9], "a": [0.95, 0.95]}, "can't be tested: A (no spread…+5.0", "three"),
    ({"plain": [], "a": [0.9, 0.91]}, "can't be tested…2 against 0…No finished runs: Pl", "seen"),
    (
        {"plain": [0.9, 0.92, 0.91], "a": [0.91, 0.9, 0.93]},
        "no difference from plain in test accuracy was measured for A: +0.3 points (95 % interval "
        "over 3 seeds −2.8 to 3.5; 91.3 % against 91.0 %, adjusted p = 0.77)…not ruled out",
        "since",
    ),
    ({"plain": [0.9, 0.9], "a": [0.9, 0.9]}, "for A: 0.0 points…every seed gave the same", "ruled"),
    (
        {"plain": [0.9, 0.92], "a": [0.91, 0.9], "b": [0.9, 0.93]},
        "no difference from plain in test accuracy was measured for A or B.…intervals reach from "
        "−8.5 to +9.5 points…not ruled out",
        "against",
    ),
    (
        {"plain": [0.9, 0.92]} | {name: [0.91, 0.9] for name in "abcde"},
        "no difference from plain in test accuracy was measured for any of the 5 methods.",
        "A",
    ),
    (
        {"plain": BASE, "a": DOWN},
        "worse than plain in test accuracy: A by 10.0 points (…8.7 to 11.3",
        "better",
    ),
    (
        {"plain": BASE, "a": DOWN, "b": [0.9, 0.9, 0.91]},
        "nothing was measured to be better than plain in test accuracy; worse: A by 10.0 points…No "
        "difference measured: B. The 95 % interval reaches from −1.3 to +1.3 points",
        "B by",
    ),
    (
        {"plain": BASE, "a": UP, "b": [0.97, 0.98, 0.97], "c": DOWN, "d": BASE, "e": [0.9]},
        "better than plain in test accuracy: B by 7.0 points (95 % interval over 3 seeds 5.7 to "
        "8.3; 97.3 % against 90.3 %, adjusted p < 0.001) and A by 5.0 points (…3.7 to 6.3…Worse: "
        "C by 10.0 points (…No difference measured: D.…Not testable: E (a test needs",
        "nothing",
    ),
    ({"plain": BASE} | {f"m{i}": UP for i in range(6)}, "M0 by 5.0…M3 by 5.0…and 2 more.", "M4"),
]


@pytest.mark.parametrize(("accuracies", "words", "not_said"), ANSWERS)
def test_answer(accuracies, words, not_said):
    comparison = compare(pilot(accuracies))
    text = said(comparison)
    assert comparison["answer"].startswith("On this data, at this budget, ")
    assert re.search(".*".join(map(re.escape, words.split("…"))), text), text
    assert not_said not in text
    for sentence in (comparison["answer"], *comparison["details"], comparison["test"]):
        assert sentence.endswith(".") and sentence.count("(") == sentence.count(")")
        assert ".." not in sentence and "  " not in sentence
    assert finite(comparison)
    for name, method in comparison["methods"].items():
        assert method["verdict"].startswith(f"{method['title']}")
        if "plain" not in accuracies:
            assert method["against"] == {} and "plain was not run" in method["verdict"]
        elif name != "plain" and method["runs"]:
            assert method["verdict"].startswith(f"{method['title']} against plain: ")
            assert method["against"]["accuracy"]["verdict"] in method["verdict"]


def test_other_measures_are_in_the_details():
    results = pilot({"plain": BASE, "a": BASE, "b": DOWN})
    with_values(results, "test", "nll", [0.5, 0.51, 0.5, 0.1, 0.11, 0.1, 0.8, 0.81, 0.8])
    comparison = compare(results)
    assert "Negative log likelihood is better with A; worse with B." in comparison["details"]
    verdict = comparison["methods"]["b"]["verdict"]
    assert verdict.startswith("B against plain: worse in test accuracy by 10.0 points")
    assert "in negative log likelihood by 0.300" in verdict


def test_an_interval_without_zero_that_is_no_verdict_has_its_p():
    """Corrected, a difference may be chance though its own interval excludes zero."""
    results = pilot(
        {"plain": [0.9, 0.91, 0.9], "a": [0.91, 0.92, 0.92]} | dict.fromkeys("bc", BASE)
    )
    found = row(results, "a")
    assert found["low"] > 0 and found["verdict"] == "no difference measured"
    assert f"adjusted {p_text(found['p_adjusted'])}" in compare(results)["methods"]["a"]["verdict"]


def test_a_difference_below_the_resolution_of_the_test_set_says_so():
    accuracies = {"plain": [0.900, 0.901, 0.899], "a": [0.910, 0.911, 0.909]}
    small, large = (compare(pilot(accuracies, size)) for size in (100, 100_000))
    for comparison, expected in ((small, True), (large, False)):
        assert comparison["methods"]["a"]["against"]["accuracy"]["verdict"] == "better"
        texts = comparison["methods"]["a"]["verdict"], " ".join(comparison["details"])
        assert all(("other images may not show it" in text) == expected for text in texts)
    worse = compare(pilot(accuracies | {"a": [0.890, 0.891, 0.889]}, 100))
    assert "other images may not show it" in worse["methods"]["a"]["verdict"]


def test_resolution_never_below_one_image():
    assert compare(pilot({"plain": [1.0, 1.0]}, 50))["resolution"] == pytest.approx(0.02)


def test_the_test_is_stated():
    accuracies = {"plain": [0.9, 0.91], "a": [0.9, 0.92], "b": [0.9, 0.93]}
    text = compare(pilot(accuracies))["test"]
    words = ("Welch", "Holm", "2 comparisons", "alpha = 0.05", "split fixed", "other test images")
    for each in (*words, "1,000 images", "±0.9 points", "binomial", "not corrected"):
        assert each in text
    one_seed = compare(pilot({"plain": [0.9], "a": [0.9]}))["test"]
    assert "Welch" not in one_seed and "binomial" in one_seed  # no test was made


def test_cost_is_reported():
    results = pilot({"plain": [0.9, 0.91], "a": [0.9, 0.92]})
    cost = {"train_step_ratio": 1.06}
    results["timing"] = {"methods": {"plain": cost, "a": cost}}
    methods = compare(results)["methods"]
    end = "Training takes 1.06 times plain's time."
    assert methods["a"]["verdict"].endswith(end) and "takes" not in methods["plain"]["verdict"]
    cost |= {"train_step_ratio_low": 1, "train_step_ratio_high": 1.1}
    verdict = compare(results)["methods"]["a"]["verdict"]
    assert "1.06 (quartiles 1.00 to 1.10) times plain's time." in verdict


def test_a_new_measure_needs_one_entry(monkeypatch):
    extra = measures.Measure("kl", "Disagreement", "consistency.kl", higher_is_better=False)
    monkeypatch.setattr(module, "MEASURES", (*MEASURES, extra))
    results = pilot({"plain": [0.9, 0.91, 0.92], "a": [0.9, 0.91, 0.92]})
    with_values(results, "consistency", "kl", (0.5, 0.51, 0.5, 0.1, 0.11, 0.1))
    comparison = compare(results)
    assert [m.name for m in comparison["measures"]] == ["accuracy", "kl"]  # those with a value
    assert comparison["methods"]["a"]["against"]["kl"]["verdict"] == "better"
    assert "better in disagreement by 0.400" in comparison["methods"]["a"]["verdict"]
    assert "Disagreement is better with A." in comparison["details"]


def test_large_test_sets_get_another_decimal():
    for size, expected in ((360, "accuracy 91.2 %"), (10_000, "accuracy 91.23 %")):
        comparison = compare(pilot({"plain": [0.91234]}, size))
        assert expected in comparison["methods"]["plain"]["verdict"]


def test_a_measured_difference_is_never_shown_as_zero():
    accuracies = {"plain": [0.9, 0.900001, 0.9], "a": [0.9002, 0.900201, 0.9002]}
    comparison = compare(pilot(accuracies))
    for text in (comparison["answer"], comparison["methods"]["a"]["verdict"]):
        assert "by 0.02 points (95 % interval" in text
