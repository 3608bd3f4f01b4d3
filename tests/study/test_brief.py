"""The answer in 25 lines: what is established first, losses as plainly as gains."""

import itertools

import numpy as np
import pytest

from keras_swapout.study.pilot.brief import brief
from keras_swapout.study.pilot.compare import compare
from keras_swapout.study.pilot.noise import noisy
from keras_swapout.study.pilot.plan import Plan, epochs_that_fit
from keras_swapout.study.pilot.settings import make_settings
from keras_swapout.study.report.brief import Brief, Line, lines_of

pytestmark = pytest.mark.tensorflow  # no backend matters here
TITLES = {"plain": "plain", "swapout": "Swapout", "rblock_bdropdml": "R-Block, BDropDML"}
TITLES["gjs_bdropdml"] = "R-Block, GJS"


def pilot(accuracies, seeds=5, data="photographs", rise=1.0):
    """Results of {(method, share of wrong labels): accuracy}, with a spread of 0.6 points."""
    spread = np.random.default_rng(0)
    runs = [
        {
            "method": method,
            "noise": noise,
            "seed": seed,
            "test": {"accuracy": accuracy + 0.006 * spread.normal(), "nll": 1 - accuracy},
            "train": {"accuracy": 1.0},
            "memorised": {"given": 0.9, "right": 0.1} if noise else None,
            "history": {"val_loss": [2.0, 1.0, rise]},
        }
        for (method, noise), accuracy in accuracies.items()
        for seed in range(seeds)
    ]
    methods = {name: {"title": TITLES[name]} for name in dict(accuracies.keys())}
    results = {"methods": methods, "runs": runs, "settings": {"data": data}}
    return results, compare(results)


def text_of(found, width=80):
    lines = [line for line, _ in lines_of(found, width)]
    assert len(lines) <= 25 and max(map(len, lines)) <= width, lines
    return "\n".join(lines)


BOTH = {
    ("plain", 0.0): 0.98,
    ("plain", 0.3): 0.85,
    ("swapout", 0.0): 0.95,
    ("swapout", 0.3): 0.85,
    ("rblock_bdropdml", 0.0): 0.98,
    ("rblock_bdropdml", 0.3): 0.93,
}


def test_what_forgives_labels_is_not_tuned_by_their_likelihood():
    gained = {("plain", 0.0): 0.85, ("gjs_bdropdml", 0.0): 0.93}
    joined = " ".join(text_of(brief(*pilot(gained))).split())
    assert "tune --data photographs --method gjs_bdropdml --objective accuracy." in joined


def test_what_is_established_comes_first_and_losses_are_said():
    text = text_of(brief(*pilot(BOTH)))
    joined = " ".join(text.split())
    assert joined.startswith(
        "With 30 % of the training labels wrong, better than plain in test accuracy: R-Block, "
        "BDropDML (+"
    )
    assert "With the labels as they are, worse than plain in test accuracy: Swapout (−" in joined
    assert "With the labels as they are, lost: test accuracy (Swapout)" in joined
    assert "it repeats 90 % of the wrong ones" in joined
    assert "Next: keras-swapout tune --data photographs --method rblock_bdropdml" in joined
    rows = [line for line in text.splitlines() if line.startswith("Accuracy")]
    assert [row.endswith(("better", "worse")) for row in rows] == [True, False, True, False]


def test_a_validation_loss_that_turns_says_what_that_has_meant():
    for rise, said in ((1.0, "does not rise again"), (1.3, "ends at 1.3 times its lowest")):
        joined = " ".join(text_of(brief(*pilot(BOTH, rise=rise))).split())
        assert f"its validation loss {said}" in joined


def test_nothing_established_says_what_could_have_been():
    accuracies = {("plain", 0.0): 0.90, ("swapout", 0.0): 0.901}
    text = " ".join(text_of(brief(*pilot(accuracies))).split())
    assert "No method differs from plain in test accuracy by more than the seeds do" in text
    assert "5 seeds show differences from" in text and "keep plain" in text


def test_two_seeds_are_too_few_and_have_no_interval():
    text = text_of(brief(*pilot(BOTH, seeds=2)))
    joined = " ".join(text.split())
    assert joined.count("there are too few seeds to tell: the largest difference seen") == 2
    assert " to " not in "".join(x for x in text.splitlines() if x.startswith("Accuracy"))
    assert "better" not in joined and "ost" not in joined and "--seeds 5" in joined


def test_rows_give_way_to_the_answer():
    rows = [Line(f"measure {number}", "1.0", "2.0", "−1.0", "worse") for number in range(40)]
    found = Brief(
        "An answer. " * 20, ("a", "b", "difference"), rows, ["A note."], ["Next: x."], "y"
    )
    for width in (40, 80):
        text = text_of(found, width)
        assert "rows more on the page" in text and "Next: x." in text and "measure 0" in text


def test_wrong_labels_are_wrong_and_as_many_as_said():
    labels = np.arange(1000) % 7
    found = noisy(labels, 0.3, 7, seed=3)
    wrong = found != labels
    assert wrong.sum() == 300 and set(found) == set(range(7))
    np.testing.assert_array_equal(found, noisy(labels, 0.3, 7, seed=3))
    assert not np.array_equal(found, noisy(labels, 0.3, 7, seed=4))
    # Each other class alike: 300 draws of 6 steps, 50 of each, within 5 standard deviations.
    steps = np.bincount((found - labels)[wrong] % 7, minlength=7)
    assert steps[0] == 0 and (abs(steps[1:] - 50) < 5 * np.sqrt(300 / 6 * 5 / 6)).all()
    np.testing.assert_array_equal(noisy(labels, 0.0, 7, seed=3), labels)


# --- the plan ------------------------------------------------------------------------------------


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)


def made(plan, clock, took, compiling=0.0):
    """Runs a plan by the clock, one after the other."""
    clock.now += compiling
    for key in plan.asked():
        clock.now += took[key[0]]
        plan.found[key] = {"took": took[key[0]], "seconds": 1.0}
    return clock.now / 60


@pytest.mark.parametrize("took", [10, 30, 55])
def test_as_many_seeds_as_fit(took, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    settings = make_settings("digits", ["swapout"], seeds=20, label_noise=[0])
    plan = Plan(settings, tmp_path, minutes=10, start=0.0, width=1)
    minutes = made(plan, clock, {"plain": took, "swapout": 1.5 * took})
    assert 8 <= minutes <= 12 or plan.seeds == 20
    assert set(plan.found) == set(plan.wanted)  # complete comparisons


def test_methods_give_way_where_one_seed_is_too_much(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    names = ["swapout", "bdropdml", "rblock_bdropdml"]
    settings = make_settings("digits", names, seeds=20, label_noise=[0])
    plan = Plan(settings, tmp_path, minutes=10, start=0.0, width=1)
    made(plan, clock, dict.fromkeys(["plain", *names], 250.0))
    assert plan.methods == ("plain", "swapout") and plan.seeds == 1
    assert set(plan.found) == set(plan.wanted)


def test_without_a_time_all_is_made_and_what_is_there_is_not(tmp_path):
    settings = make_settings("digits", ["swapout"], seeds=2, label_noise=[0, 0.2])
    plan = Plan(settings, tmp_path, minutes=None, start=0.0, width=2)
    keys = list(itertools.product(("plain", "swapout"), (0.0, 0.2), range(2)))
    assert sorted(plan.asked()) == sorted(keys)
    plan.found[keys[0]] = {}
    assert keys[0] not in list(plan.asked())


def test_epochs_that_fit_leave_time_for_three_seeds():
    settings = make_settings("digits", ["swapout"], seeds=20, epochs=60, label_noise=[0])
    epochs = epochs_that_fit(settings, minutes=10, step=0.1, steps=40, width=2)
    assert 3 <= epochs < 60
    assert 6 * epochs * 40 * 0.1 / 2 < 600
    assert epochs_that_fit(settings, 10, 0.001, 10, 2) == 60
    assert epochs_that_fit(settings, 1, 10.0, 100, 2) == 3
