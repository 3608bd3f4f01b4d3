"""What a search found: against objectives whose truth is known."""

import json
import math

import numpy as np
import pytest

for package in ("jinja2", "matplotlib", "rich", "scipy", "sklearn", "statsmodels"):
    pytest.importorskip(package, reason='pip install "keras-swapout[pilot]"')

from pages import HOSTILE, finite, printed, read  # noqa: E402

from keras_swapout.study.measuring.comparison import (  # noqa: E402
    BETTER,
    NO_DIFFERENCE,
    NOT_TESTABLE,
)
from keras_swapout.study.measuring.statistics import holm  # noqa: E402
from keras_swapout.study.tune.gain import gain  # noqa: E402
from keras_swapout.study.tune.plots import FIGURES, gained  # noqa: E402
from keras_swapout.study.tune.report import analyse, make_page  # noqa: E402
from keras_swapout.study.tune.sensitivity import sensitivity  # noqa: E402
from keras_swapout.study.tune.surrogate import Surrogate  # noqa: E402

pytestmark = pytest.mark.tensorflow  # no backend matters here: once is enough

NLL = {
    "name": "nll",
    "title": "Validation negative log likelihood",
    "direction": "min",
    "unit": "",
    "digits": 3,
}


def parameter(name, low=0.0, high=1.0, scale="linear", type="float", default=0.5, title=None):
    values = {"low": low, "high": high, "scale": scale, "type": type, "default": default}
    return {"name": name, "title": title or f"θ of {name}", **values}


def draw(p, u):
    if p["scale"] == "log":
        value = p["low"] * (p["high"] / p["low"]) ** u
    else:
        value = p["low"] + (p["high"] - p["low"]) * u
    return round(value) if p["type"] == "int" else float(value)


def make_results(truth, parameters, trials=30, noise=0.02, seed=0, objective=NLL, seeds=None):
    """Results of a search: truth(values) plus noise; half of the trials near the best ones."""
    rng = np.random.default_rng(seed)
    pick = min if objective["direction"] == "min" else max
    rows = []
    for number in range(trials):
        u = rng.random(len(parameters))
        if rows and number >= trials // 2:  # as a tuner does
            best = pick(rows, key=lambda r: truth(r["values"]))["place"]
            u = np.clip(best + 0.15 * rng.normal(size=len(u)), 0, 1)
        values = {p["name"]: draw(p, u[i]) for i, p in enumerate(parameters)}
        value = float(truth(values) + noise * rng.normal())
        rows.append(
            {
                "id": f"{number:03d}",
                "status": "COMPLETED",
                "values": values,
                "epochs": 12,
                "measures": {objective["name"]: value, "ece": 0.03},
                "seconds": 5.1,
                "worker": None,
                "message": None,
                "place": u,
            }
        )
    best = pick(rows, key=lambda r: r["measures"][objective["name"]])["id"]
    default = {p["name"]: p["default"] for p in parameters if p["default"] is not None}
    for row in rows:
        del row["place"]
    return {
        "settings": {
            "method": "swapout",
            "trials": trials,
            "executions_per_trial": 1,
            "epochs": 12,
        },
        "environment": {"keras": "3.15", "gpu": None},
        "data": {"name": "digits", "sizes": {"train": 1000, "validation": 200, "test": 360}},
        "objective": objective,
        "method": {
            "name": "swapout",
            "title": "Swapout",
            "formula": "Y = Θ₁ X + Θ₂ F(X)",
            "tuned": "swapout@theta_1=1-0.72",
        },
        "parameters": parameters,
        "trials": rows,
        "default": {
            "values": default,
            "measures": {objective["name"]: float(truth(default) + noise * rng.normal())},
        },
        "best": best,
        "confirmation": None if seeds is None else confirmation(seeds),
    }


def confirmation(seeds=5, gain=0.05, noise=0.01, seed=0):
    """A pilot of plain, the method untuned and tuned; the tuned nll is better by `gain`."""
    rng = np.random.default_rng(seed)
    methods = {"plain": "Plain", "swapout": "Swapout", "swapout@theta_1=1-0.72": "Swapout, tuned"}
    runs = []
    for method in methods:
        for s in range(seeds):
            nll = 0.2 - gain * ("@" in method) + noise * rng.normal()
            test = {"accuracy": round(360 * (1 - nll / 5)) / 360, "nll": nll, "ece": nll / 9}
            runs.append(
                {
                    "method": method,
                    "seed": 100 + s,
                    "validation": {"accuracy": 0.95, "nll": nll + 0.01, "ece": 0.02},
                    "test": test,
                    "corruption_accuracy": test["accuracy"] - 0.1,
                }
            )
    titles = {name: {"title": title} for name, title in methods.items()}
    return {"methods": titles, "runs": runs, "data": {"sizes": {"test": 360}}}


# --- sensitivity: truths that are known ---------------------------------------------------------


def bowl(values):
    return 0.1 + 1.0 * (values["a"] - 0.7) ** 2 + 0.5 * (values["b"] - 0.6) ** 2


A, B = parameter("a"), parameter("b")


def test_the_cost_of_leaving_a_bowl_is_its_curvature_times_the_square():
    inside = total = 0
    for seed in range(8):
        found = sensitivity(make_results(bowl, [A, B], seed=seed))
        assert found["reason"] is None and found["verdict"] == "worth it"
        best = found["optimum"]["values"]
        for name in "ab":
            for step in found["parameters"][name]["costs"]:
                for look in filter(None, (step["below"], step["above"])):
                    truth = bowl(best | {name: look["value"]}) - bowl(best)
                    inside += look["low"] <= truth <= look["high"]
                    total += 1
        assert best["a"] == pytest.approx(0.7, abs=0.12)
        assert found["noise"]["sd"] == pytest.approx(0.02, rel=0.5)
        default = bowl({"a": 0.5, "b": 0.5}) - bowl(best)
        assert found["default"]["low"] <= default <= found["default"]["high"]
    # 95 % intervals, which are not independent: the process is one for all looks at a search.
    assert inside / total > 0.9, f"{inside} of {total}"


def test_a_default_at_the_optimum_costs_nothing_for_certain():
    results = make_results(bowl, [A, B])
    results["default"] = None
    results["default"] = {"values": sensitivity(results)["optimum"]["values"], "measures": {}}
    default = sensitivity(results)["default"]
    assert abs(default["cost"]) < 1e-4 and default["high"] - default["low"] < 1e-3
    assert default["sd"] > 1e-3 and default["objective"] is None
    assert sensitivity(results)["verdict"] == "not worth it"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_where_nothing_depends_on_anything_it_says_so(count):
    parameters = [parameter(name) for name in "abcd"[:count]]
    said = 0
    for seed in range(10):
        found = sensitivity(make_results(lambda values: 0.1, parameters, trials=25, seed=seed))
        said += (
            "Nothing measurable depends" in found["answer"] and found["verdict"] == "not worth it"
        )
        if found["reason"]:
            assert found["parameters"] == {} and found["optimum"] is None
            assert found["noise"]["source"] == "trials"
    # Akaike's criterion errs now and then: at most one of ten, at a rate of 5 %, in 91 % of cases.
    assert said >= 9


def test_an_irrelevant_parameter_is_told_from_a_relevant_one():
    for seed in range(5):
        found = sensitivity(
            make_results(lambda values: 0.1 + (values["a"] - 0.8) ** 2, [A, B], seed=seed)
        )
        a, b = (found["parameters"][name] for name in "ab")
        assert a["measured"] and not b["measured"]
        assert a["range"] > 5 * b["range"]
        assert "matters: best at" in a["sentence"]
        assert "matters" not in b["sentence"]
        assert a["interval"][0] < 0.8 < a["interval"][1]
        assert found["sentences"][0] == a["sentence"]


def test_the_sign_follows_the_direction():
    accuracy = NLL | {"name": "accuracy", "title": "Validation accuracy", "direction": "max"}
    accuracy |= {"unit": "%", "digits": 1}
    down = sensitivity(make_results(bowl, [A, B]))
    turned = make_results(bowl, [A, B])
    turned["objective"] = accuracy
    for row in [*turned["trials"], turned["default"]]:
        row["measures"] = {"accuracy": 1 - row["measures"]["nll"]}
    up = sensitivity(turned)
    assert up["default"]["cost"] == pytest.approx(down["default"]["cost"], rel=1e-3)
    assert up["optimum"]["mean"] == pytest.approx(1 - down["optimum"]["mean"], rel=1e-3)
    assert "points" in up["answer"]


def test_log_and_int_parameters_leave_by_factors_and_whole_steps():
    p = parameter("alpha", 0.01, 1.0, "log", default=0.01)
    n = parameter("blocks", 1, 9, type="int", default=7)
    found = sensitivity(
        make_results(
            lambda v: 0.1 + 0.03 * math.log(v["alpha"] / 0.1) ** 2 + 0.01 * (v["blocks"] - 4) ** 2,
            [p, n],
            trials=40,
            noise=0.01,
        )
    )
    alpha, blocks = found["parameters"]["alpha"], found["parameters"]["blocks"]
    best = found["optimum"]["values"]
    assert best["alpha"] == pytest.approx(0.1, rel=0.5) and best["blocks"] == 4
    assert isinstance(best["blocks"], int)
    assert [step["step"] for step in alpha["costs"]] == ["× 2", "× 5"]
    assert alpha["costs"][1]["above"]["value"] == pytest.approx(5 * best["alpha"], rel=1e-4)
    assert [step["below"]["value"] for step in blocks["costs"]] == [3, 2]
    assert blocks["profile"]["value"] == list(range(1, 10))
    look = blocks["costs"][1]["above"]
    assert look["low"] < 0.04 < look["high"]


def test_the_optimum_is_less_optimistic_than_the_best_trial():
    """Winner's curse: the best of many equal trials is better than they are."""
    lead, said = [], []
    for seed in range(8):
        found = sensitivity(make_results(bowl, [A, B], trials=40, noise=0.03, seed=seed))
        values = found["best"]["values"]
        lead.append(bowl(values) - found["best"]["objective"])
        said.append(bowl(values) - found["best"]["mean"])
    assert np.mean(lead) > 0.02
    assert abs(np.mean(said)) < 0.5 * np.mean(lead)


def test_seeds_of_one_setting_give_the_noise():
    results = make_results(bowl, [A, B], seeds=5)
    noise = sensitivity(results)["noise"]
    runs = results["confirmation"]["runs"]
    variances = [
        np.var([r["validation"]["nll"] for r in runs if r["method"] == m], ddof=1)
        for m in ("swapout", "swapout@theta_1=1-0.72")
    ]
    assert noise == {"sd": pytest.approx(np.mean(variances) ** 0.5), "source": "seeds", "runs": 10}
    results["settings"]["executions_per_trial"] = 4
    assert sensitivity(results)["noise"]["sd"] == pytest.approx(noise["sd"] / 2)


def test_a_trial_that_diverged_does_not_drown_the_others():
    results = make_results(bowl, [A, B])
    clean = sensitivity(results)
    results["trials"][3]["measures"]["nll"] = 1e6
    found = sensitivity(results)
    assert found["capped"] == 1 and found["cap"] < 2
    assert found["optimum"]["values"]["a"] == pytest.approx(
        clean["optimum"]["values"]["a"], abs=0.1
    )
    assert "1 trial far worse than the rest" in found["sentences"][-1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r.update(trials=[]) or r.update(default=None), "no trial was completed"),
        (
            lambda r: r.update(trials=r["trials"][:5]),
            "6 measured settings of full length are too few",
        ),
        (lambda r: r.update(parameters=[]), "nothing was searched"),
        (
            lambda r: [t["measures"].update(nll=0.5) for t in [*r["trials"], r["default"]]],
            "every trial gave the same value",
        ),
    ],
)
def test_without_enough_to_go_by_there_are_no_statements(change, reason):
    results = make_results(bowl, [A, B])
    change(results)
    found = check_page(results)[0]["sensitivity"]
    assert found["reason"].startswith(reason)
    assert found["verdict"] == "unknown" and found["parameters"] == {}
    assert found["reason"] in found["answer"]


def test_trials_of_fewer_epochs_do_not_count():
    results = make_results(bowl, [A, B])
    for trial in results["trials"][::2]:
        trial |= {"epochs": 3, "measures": {"nll": 0.01}}
    found = sensitivity(results)
    assert found["trials"] == 16 and found["epochs"] == 12  # with the default


def test_leave_one_out_is_what_leaving_one_out_gives():
    rng = np.random.default_rng(0)
    x = rng.random((14, 2))
    y = (x[:, 0] - 0.5) ** 2 + 0.02 * rng.normal(size=14)
    surrogate = Surrogate(x, y)
    kernel = surrogate.signal
    noise = (surrogate.noise / surrogate.scale) ** 2
    errors = []
    for i in range(14):
        rest = np.arange(14) != i
        k = kernel(x[rest]) + noise * np.eye(13)
        mean = kernel(x[i : i + 1], x[rest]) @ np.linalg.solve(k, y[rest] - y.mean())
        errors.append(y[i] - y.mean() - mean[0])
    # The variance over all 14 as the yardstick.
    expected = 1 - np.sum(np.square(errors)) / np.sum((y - y.mean()) ** 2)
    assert surrogate.r2 == pytest.approx(expected, rel=1e-5)


def test_the_deviation_of_a_difference_is_of_the_joint_posterior():
    rng = np.random.default_rng(0)
    x = rng.random((12, 1))
    surrogate = Surrogate(x, np.sin(5 * x[:, 0]) + 0.1 * rng.normal(size=12))
    here = np.array([[0.5]])
    _, sd = surrogate.difference(np.array([[0.5], [0.5001], [0.9]]), here)
    assert sd[0] == pytest.approx(0, abs=1e-6) and sd[1] < 0.01 * sd[2]
    from sklearn.gaussian_process import GaussianProcessRegressor

    reference = GaussianProcessRegressor(
        surrogate.signal, alpha=(surrogate.noise / surrogate.scale) ** 2, optimizer=None
    ).fit(x, (np.sin(5 * x[:, 0]) - surrogate.shift) / surrogate.scale)
    _, c = reference.predict(np.array([[0.5], [0.9]]), return_cov=True)
    expected = surrogate.scale * (c[0, 0] + c[1, 1] - 2 * c[0, 1]) ** 0.5
    assert sd[2] == pytest.approx(expected, rel=1e-5)


# --- gain: the final runs ------------------------------------------------------------------------


def test_gain_is_the_paired_test_over_seeds():
    from scipy import stats

    results = make_results(bowl, [A, B], seeds=6)
    found = gain(results)
    nll = {
        m: [r["test"]["nll"] for r in results["confirmation"]["runs"] if r["method"] == m]
        for m in ("plain", "swapout", "swapout@theta_1=1-0.72")
    }
    for role, name in (("default", "swapout"), ("plain", "plain")):
        row = found["contrasts"][role]["measures"]["nll"]
        expected = stats.ttest_rel(nll["swapout@theta_1=1-0.72"], nll[name])
        interval = expected.confidence_interval(0.95)
        assert row["p"] == pytest.approx(expected.pvalue)
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        assert row["verdict"] == BETTER and row["n"] == [6, 6]
    assert found["primary"] == "nll"
    rows = [row for c in found["contrasts"].values() for row in c["measures"].values()]
    assert len(rows) == 8
    adjusted = holm([row["p"] for row in rows])
    assert [row["p_adjusted"] for row in rows] == pytest.approx(adjusted)
    assert "Paired" in found["test"] and "8 comparisons" in found["test"]
    row = found["contrasts"]["default"]["measures"]["nll"]
    answer, against_plain, *_ = [analyse(results)["answer"], *analyse(results)["details"]]
    assert answer.startswith(
        "Tuning was worth it. On the test images, better than untuned in negative log likelihood: "
        f"Swapout tuned by {-row['difference']:.3f} (95 % interval over 6 seeds "
        f"{-row['high']:.3f} to {-row['low']:.3f}; "
    )
    assert against_plain.startswith("On the test images, better than plain in negative log")
    harm = confirmation(6, gain=-0.05)
    worse = analyse(results | {"confirmation": harm})["answer"]
    assert worse.startswith("Tuning did harm. On the test images, worse than untuned in")


def test_gain_goes_by_common_seeds_and_finite_values():
    results = make_results(bowl, [A, B], seeds=5)
    runs = results["confirmation"]["runs"]
    del runs[5]  # the untuned default's first
    runs[6]["test"]["nll"] = float("nan")
    assert gain(results)["contrasts"]["default"]["measures"]["nll"]["n"] == [3, 3]


@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_gain_without_spread_is_not_tested(shift):
    results = make_results(bowl, [A, B], seeds=3)
    for run in results["confirmation"]["runs"]:
        run["test"]["nll"] = run["seed"] / 64 - shift * ("@" in run["method"])
    row = gain(results)["contrasts"]["default"]["measures"]["nll"]
    assert row["p"] is None and row["p_adjusted"] is None
    assert row["verdict"] == (NOT_TESTABLE if shift else NO_DIFFERENCE)
    assert "seed" in row["reason"]
    assert row["reason"] in analyse(results)["answer"]


def test_one_seed_is_not_testable_and_no_gain_is_no_gain():
    results = make_results(bowl, [A, B])
    assert gain(results) is None
    results["confirmation"] = confirmation(1)
    analysis, reader = check_page(results)
    assert analysis["answer"].startswith("Whether tuning gained can't be told. ")
    assert (
        "can't be tested: Swapout tuned (a test needs two seeds in common, and there is 1)"
        in (analysis["answer"])
    )
    assert "may be chance" in analysis["answer"] and "Holm" not in reader.text
    results["confirmation"] = confirmation(5, gain=0.0)
    answer = analyse(results)["answer"]
    assert answer.startswith("No gain from tuning was measured. On the test images, no difference")
    assert "95 % interval over 5 seeds" in answer and "not ruled out" in answer


def test_the_default_itself_is_compared_with_plain_alone():
    results = make_results(bowl, [A, B], seeds=3)
    results["method"]["tuned"] = "swapout"
    found = gain(results)
    assert list(found["methods"]) == ["tuned", "plain"] and list(found["contrasts"]) == ["plain"]
    results["confirmation"]["methods"].pop("plain")
    assert gain(results)["contrasts"] == {} and gain(results)["answers"] == []


# --- pictures and page ---------------------------------------------------------------------------


def check_page(results):
    """The analysis and the page as read, after checking that everything made of it is whole."""
    results = json.loads(json.dumps(results, allow_nan=True))
    analysis = analyse(results)
    assert finite(analysis)
    assert json.loads(json.dumps(analysis["sensitivity"])) == analysis["sensitivity"]
    made = make_page(results, analysis)
    reader = read(made)
    assert analysis["answer"] in reader.text
    terminal = " ".join(printed(made, 60, 120).split())
    sentences = [*analysis["details"], *analysis["sensitivity"]["sentences"]]
    if analysis["gain"]:
        sentences += [one["sentence"] for one in analysis["gain"]["contrasts"].values()]
        sentences += [analysis["gain"]["test"]]
    for sentence in sentences:
        assert sentence in reader.text and " ".join(sentence.split()) in terminal
    return analysis, reader


MIXED = [
    parameter("alpha", 0.03, 3.0, "log", default=None),
    parameter("blocks", 1, 7, type="int", default=5),
    *(parameter(f"p{i}") for i in range(6)),
]


@pytest.mark.parametrize(("count", "trials"), [(1, 12), (1, 1), (2, 200), (4, 30), (8, 40)])
def test_every_number_of_parameters_and_trials(count, trials):
    parameters = MIXED[-count:] if count < 8 else MIXED
    results = make_results(
        lambda v: 0.1 + sum((v.get(p["name"], 0) / p["high"] - 0.5) ** 2 for p in parameters),
        parameters,
        trials=trials,
        seeds=3 if count == 2 else None,
    )
    if count == 8:  # the default has no alpha, and trials failed, are running, or were shorter
        assert "alpha" not in results["default"]["values"]
        results["trials"][0] |= {"status": "FAILED", "measures": {}, "seconds": None}
        results["trials"][1] |= {"status": "RUNNING", "measures": {}, "epochs": None}
        results["trials"][2] |= {"status": "INVALID", "measures": {"nll": float("nan")}}
        results["trials"][3]["epochs"] = 4
    analysis, reader = check_page(results)
    drawn = {name: draw(results, analysis) for name, draw in FIGURES.items()}
    assert all(drawn[name] is not None for name in ("objective", "parallel", "progress"))
    assert (drawn["surface"] is None) == (count < 2)
    assert sum(axes.has_data() for axes in drawn["objective"].axes) == count
    final = results["confirmation"] is not None
    assert reader.tags.count("svg") == final + sum(one is not None for one in drawn.values())
    before_the_first_table = reader.tags[: reader.tags.index("table")]
    assert before_the_first_table.count("svg") == 1 and "details" not in before_the_first_table
    title = "what tuning changed" if final else "The search, trial by trial"
    assert title in reader.text.partition("best.json")[0]


def test_the_picture_has_the_difference_of_each_seed_and_its_interval():
    results = make_results(bowl, [A, B], seeds=5)
    analysis, reader = check_page(results)
    nll = {
        method: np.array(
            [r["test"]["nll"] for r in results["confirmation"]["runs"] if r["method"] == method]
        )
        for method in results["confirmation"]["methods"]
    }
    (group,), measure = gained(analysis)
    assert measure.name == "nll" and group.line == 0
    for row, other in zip(group.rows, ("swapout", "plain"), strict=True):
        differences = nll["swapout@theta_1=1-0.72"] - nll[other]
        assert row.values == pytest.approx(differences)
        assert row.mean == pytest.approx(differences.mean())
        assert row.interval[0] < row.mean < row.interval[1]
    said = f"tuned against untuned: −{-group.rows[0].mean:.3f} (95 % interval −"
    assert f'aria-label="Negative log likelihood, difference. {said}' in reader.source


def test_titles_and_messages_are_escaped():
    results = make_results(bowl, [parameter("a", title=HOSTILE), parameter("b", title="$x_1$")])
    results["data"]["name"] = results["method"]["title"] = HOSTILE
    results["trials"][0] |= {"status": "FAILED", "measures": {}, "message": HOSTILE}
    results["trials"][1]["worker"] = HOSTILE
    _, reader = check_page(results)
    assert "<script" not in reader.source and reader.text.count(HOSTILE) >= 8


def test_the_page_says_how_to_use_what_was_found():
    results = make_results(bowl, [A, B], seeds=4)
    options = {"data": "my images", "ranges": {"a": [0, 1]}, "search_only": False}
    results["settings"] |= options
    _, reader = check_page(results)
    assert "keras-swapout pilot --settings best.json" in reader.text
    assert results["method"]["tuned"] in reader.text
    again = "keras-swapout tune --range a 0 1 --method swapout --trials 30"
    assert again in reader.text and "--data 'my images' --epochs 12" in reader.text
