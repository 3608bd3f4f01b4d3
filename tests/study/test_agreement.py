"""The pilot's contrasts: R-Block against the same layers alone, and its two forms."""

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("statsmodels")

from pages import finite
from scipy import stats

from keras_swapout.study.pilot import make_settings, plots
from keras_swapout.study.pilot.agreement import agreement
from keras_swapout.study.pilot.compare import compare
from keras_swapout.study.pilot.methods import METHODS, find

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend

NAMES = ("plain", "bdropdml", "rblock_bdropdml", "sdropdml", "rblock_sdropdml")


def make_results(names=NAMES, seeds=5, shift=0.04):
    rng = np.random.default_rng(0)
    runs = []
    for name in names:
        for seed in range(seeds):
            better = shift if name.startswith("rblock") else 0.0
            consistency = {
                "disagreement": 0.1 - better + rng.normal(0, 0.005),
                "loss_gap": 0.5 + rng.normal(0, 0.05),
            }
            if name == "plain":
                consistency["disagreement"] = None
            runs.append(
                {
                    "method": name,
                    "seed": seed,
                    "test": {"accuracy": 0.9 + rng.normal(0, 0.01)},
                    "consistency": consistency,
                }
            )
    methods = {
        name: {key: getattr(find(name), key) for key in ("title", "alone", "alpha")}
        for name in names
    }
    return {"methods": methods, "runs": runs}


def values(results, name, key):
    return [run["consistency"][key] for run in results["runs"] if run["method"] == name]


def test_contrasts_are_welch_tests_with_holm_over_the_contrasts():
    results = make_results()
    found = agreement(results)
    pairs = [(c["first"], c["second"]) for c in found["contrasts"]]
    assert pairs == [
        ("bdropdml", "rblock_bdropdml"),
        ("sdropdml", "rblock_sdropdml"),
        ("bdropdml", "sdropdml"),
        ("rblock_bdropdml", "rblock_sdropdml"),
    ]
    expected = [
        stats.ttest_ind(
            values(results, b, "disagreement"), values(results, a, "disagreement"), equal_var=False
        )
        for a, b in pairs
    ]
    rows = [c["measures"]["disagreement"] for c in found["contrasts"]]
    np.testing.assert_allclose([row["p"] for row in rows], [test.pvalue for test in expected])
    order = np.argsort([test.pvalue for test in expected])
    adjusted = np.maximum.accumulate(
        [min(1, (4 - i) * expected[k].pvalue) for i, k in enumerate(order)]
    )
    np.testing.assert_allclose([rows[k]["p_adjusted"] for k in order], adjusted)
    for row, (a, b) in zip(rows, pairs, strict=True):
        difference = np.mean(values(results, b, "disagreement")) - np.mean(
            values(results, a, "disagreement")
        )
        assert row["difference"] == pytest.approx(difference)
    assert "Welch" in found["test"] and "4 comparisons" in found["test"]
    assert finite(found)


def test_sentences_say_what_was_measured():
    choice, _, sentence, *_ = agreement(make_results())["sentences"]
    assert sentence.startswith("R-Block, SDropDML against SDropDML: no difference measured in test")
    assert "better in sub-model disagreement by 4." in sentence
    assert choice.startswith("BDropDML or SDropDML, under R-Block? No difference from R-Block, BD")
    assert "in test accuracy was measured for R-Block, SDropDML" in choice
    assert "in sub-model disagreement was measured for R-Block, SDropDML" in choice
    one_seed = agreement(make_results(seeds=1))
    assert "can't be tested" in one_seed["sentences"][0] and one_seed["test"] == ""
    assert all("not testable in" in sentence for sentence in one_seed["sentences"][1:])
    # One reason for all the measures, said once.
    assert all(sentence.count("a test needs") == 1 for sentence in one_seed["sentences"][1:])


def test_plain_has_no_sub_models_but_a_gap():
    found = agreement(make_results())
    assert found["methods"]["plain"]["disagreement"]["mean"] is None
    assert found["methods"]["plain"]["loss_gap"]["mean"] == pytest.approx(0.5, abs=0.1)


def test_runs_without_consistency_have_no_agreement():
    results = make_results()
    for run in results["runs"]:
        del run["consistency"]
    assert compare(results)["agreement"] is None


def test_settings_choose_a_family_and_alphas():
    def of(*families):
        return tuple(n for n, m in METHODS.items() if m.family in ("reference", *families))

    for family in ("swapout", "rblock", "own"):
        assert make_settings(family=family).methods == of(family)
    few = ("plain", "swapout", "gjs_bdropdml")
    assert make_settings().methods == few
    assert make_settings(model="VGG16").methods == (*few[:2], "rblock_own", few[2])
    every = make_settings(methods=["all"]).methods
    assert every == of("swapout", "rblock")  # our networks drop nothing
    assert make_settings(methods=["all"], model="VGG16").methods == of("swapout", "rblock", "own")
    chosen = make_settings(methods=["sdropdml", "rblock_sdropdml"], alpha=[3, 0.1, 1]).methods
    assert chosen == (
        "plain",
        "sdropdml",
        "rblock_sdropdml@0.1",
        "rblock_sdropdml",
        "rblock_sdropdml@3",
    )
    assert [find(name).alpha for name in chosen] == [None, None, 0.1, 1.0, 3.0]
    assert make_settings(alpha=[1, 3]).methods == ("plain", "swapout", "gjs_bdropdml@1", few[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "dropout"}, "`family`.*family='dropout'"),
        ({"alpha": [1, -1]}, r"`alpha`.*alpha=\[1, -1\]"),
        ({"alpha": []}, "`alpha`.*none"),
        ({"alpha": [3], "methods": ["swapout"]}, "`alpha` is for .*gjs_bdropdml.*methods=swapout"),
        ({"alpha": [float("nan")]}, "`alpha`.*nan"),
        ({"methods": ["rblock_sdropdml@x"]}, "`methods`.*rblock_sdropdml@x"),
        ({"methods": ["swapout@3"]}, "`methods`.*swapout@3"),
        ({"methods": ["plain"], "family": "rblock"}, "`methods` and `family`"),
    ],
)
def test_bad_choices_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_settings(**arguments)


def test_figures_show_consistency_and_alpha():
    pytest.importorskip("matplotlib")
    names = ("plain", "sdropdml", "rblock_sdropdml@0.1", "rblock_sdropdml", "rblock_sdropdml@3")
    results = make_results(names)
    comparison = compare(results)
    figure = plots.agreement(results, comparison)
    shown = figure.axes[0].collections
    assert [len(dots.get_offsets()) for dots in shown] == [5] * 4  # plain has no sub-models
    figure = plots.alpha(results, comparison)
    means = [
        np.mean([r["test"]["accuracy"] for r in results["runs"] if r["method"] == name])
        for name in names[2:]
    ]
    line = figure.axes[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), [0.1, 1, 3])
    np.testing.assert_allclose(line.get_ydata(), 100 * np.array(means))
    assert plots.alpha(make_results(), compare(make_results())) is None
