"""The ways of predicting with one network, and what the pilot says of them."""

import keras
import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("statsmodels")

from scipy import stats

import keras_swapout as ks
from keras_swapout.study.measuring.ways import Ways
from keras_swapout.study.pilot.inference import inference

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend


def network(*layers):
    return keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3)])


def data(n=40):
    return np.random.default_rng(0).normal(3, 2, size=(n, 6)).astype("float32")


@pytest.mark.parametrize(
    "layers, names",
    [
        ([], ["deterministic"]),
        ([keras.layers.BatchNormalization()], ["deterministic", "recalibrated"]),
        ([ks.layers.BDropDML(0.5)], ["deterministic", "stochastic T=2", "stochastic T=5"]),
    ],
)
def test_a_network_has_the_ways_that_its_layers_give_it(layers, names):
    assert list(Ways(network(*layers), samples=(2, 5)).names) == names


def test_each_way_is_what_the_library_predicts():
    model, x = network(keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)), data()
    ways = Ways(model, samples=(4,))
    ways.recalibrate(x)
    recalibrated = ks.inference.recalibrate_batch_norm(model, x, verbose=False)
    for name, expected in {
        "deterministic": ks.inference.predict(model, x[:5]),
        "recalibrated": ks.inference.predict(recalibrated, x[:5]),
        "stochastic T=4": ks.inference.predict(model, x[:5], 4, seed=7),
    }.items():
        np.testing.assert_allclose(ways.predict(name, x[:5], seed=7).mean, expected.mean, rtol=1e-5)


def test_recalibration_follows_the_weights():
    model, x = network(keras.layers.Dense(4), keras.layers.BatchNormalization()), data()
    ways = Ways(model)
    ways.recalibrate(x)
    before = ways.predict("recalibrated", x).mean
    model.layers[0].set_weights([2 * w for w in model.layers[0].get_weights()])
    ways.recalibrate(x)
    # Twice the activations, and statistics to match, are the same but for epsilon.
    np.testing.assert_allclose(ways.predict("recalibrated", x).mean, before, atol=1e-3)
    assert np.abs(ways.predict("deterministic", x).mean - before).max() > 0.01


WAYS = ("deterministic", "recalibrated", "stochastic T=5", "stochastic T=30")


def make_results(gains=(0.0, 0.06, 0.02, 0.08), seeds=5):
    rng = np.random.default_rng(0)
    runs = []
    for seed in range(seeds):
        level = rng.normal(0.8, 0.05)  # of the network, whatever the way
        figures = {
            way: {
                "accuracy": level + gain + rng.normal(0, 0.005),
                "nll": 1 - level - gain + rng.normal(0, 0.005),
                "ece": 0.1 + rng.normal(0, 0.01),
                "seconds": 2.0 if "30" in way else 1.0,
            }
            for way, gain in zip(WAYS, gains, strict=True)
        }
        figures["recalibrated"]["once"] = 9.0
        runs.append({"method": "swapout", "seed": seed, "inference": figures})
    return {"methods": {"swapout": {"title": "Swapout"}}, "runs": runs}


def values(results, way, key):
    return [run["inference"][way][key] for run in results["runs"]]


def test_ways_are_compared_in_pairs_with_holm_over_the_comparisons():
    results = make_results()
    found = inference(results)
    p = [
        stats.ttest_rel(values(results, way, "nll"), values(results, WAYS[0], "nll")).pvalue
        for way in WAYS[1:]
    ]
    order = np.argsort(p)
    adjusted = np.empty(3)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.array([3, 2, 1]) * np.array(p)[order]))
    contrasts = {one["second"][:2]: one["measures"]["nll"] for one in found["contrasts"]}
    assert list(contrasts) == [("swapout", way) for way in WAYS[1:]]
    np.testing.assert_allclose([row["p_adjusted"] for row in contrasts.values()], adjusted)
    rows = found["methods"]["swapout"]
    for way in WAYS:
        assert rows[way]["measures"]["nll"]["values"] == values(results, way, "nll")
    assert rows["stochastic T=30"]["cost"] == 2 and rows["recalibrated"]["once"] == 9
    assert "Paired" in found["test"] and "3 comparisons" in found["test"]
    # The spread between networks is ten times that of a way, and no matter in pairs.
    assert any("recalibrated against deterministic" in s for s in found["sentences"])


def test_the_share_of_the_gap_that_recalibration_closes():
    results = make_results()
    d, r, s = (np.mean(values(results, way, "nll")) for way in (*WAYS[:2], WAYS[3]))
    sentence = next(s for s in inference(results)["sentences"] if "closes" in s)
    assert f"and {100 * (d - r) / (d - s):.0f} % of it in negative log likelihood" in sentence


def test_no_gap_is_called_none():
    sentences = inference(make_results(gains=(0.0, 0.1, 0.0, -0.05)))["sentences"]
    assert any("no such gap to close" in s for s in sentences)
    assert not any("closes" in s for s in sentences)


def test_ways_without_a_difference_are_named_by_method():
    results = make_results(gains=(0.0, 0.0, 0.08, 0.08))
    sentences = inference(results)["sentences"]
    assert sentences[-1].endswith("inference was established for Swapout (recalibrated).")


def test_a_run_that_diverged_is_left_out():
    results = make_results()
    results["runs"][1]["inference"]["stochastic T=5"]["nll"] = float("nan")
    found = inference(results)
    assert all(row["n"] == [4, 4] for one in found["contrasts"] for row in one["measures"].values())


def test_runs_of_an_older_pilot_have_no_ways():
    assert inference({"methods": {}, "runs": [{"method": "plain", "seed": 0}]}) is None
