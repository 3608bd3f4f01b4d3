"""What tuning gained: the tuned setting against the untuned one and plain, on the test images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_swapout.study.measuring.comparison import (
    BETTER,
    NO_DIFFERENCE,
    NOT_TESTABLE,
    WORSE,
    against,
    summary,
)
from keras_swapout.study.measuring.measure import at
from keras_swapout.study.pilot.measures import MEASURES, PRIMARY
from keras_swapout.study.report.answer import answer, how_tested, sentence
from keras_swapout.study.report.words import lower

_NAMES = ("accuracy", "nll", "ece", "corruption_accuracy", "rmse", "mae", "corruption_rmse")
COMPARED = tuple(m for m in MEASURES if m.name in _NAMES)
SPREAD = (
    "The spread is over initial weights, batch order and masks, with one split, so it says nothing "
    "about other test images."
)
_WORTH = {
    BETTER: "Tuning was worth it. ",
    WORSE: "Tuning did harm. ",
    NO_DIFFERENCE: "No gain from tuning was measured. ",
    NOT_TESTABLE: "Whether tuning gained can't be told. ",
}


def gain(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tuned setting against the untuned default and against plain, over the same seeds.

    For each measure the paired t-test of the differences seed by seed, with Holm's correction over
    all of these tests.

    Args:
        results: of a search; read here: "method", "objective" and "confirmation", the results of a
            pilot with plain, the method untuned and the method tuned.

    Returns:
        None without a confirmation, else a dict:

        - "primary": name of the measure that decides, the objective where it is among them, or
          else accuracy; "measures": those with a value.
        - "methods": "tuned", "default" and "plain", those that were run, to {"name", "title",
          "measures"}, the last one name to its `summary`.
        - "contrasts": "default" and "plain" to an entry of `against` (both of
          `keras_swapout.study.measuring.comparison`) with "sentence" and, in the primary measure,
          the "differences" seed by seed; second is the tuned one.
        - "answers": a sentence for each contrast, in the primary measure; "test": how the verdicts
          were reached.

    Example:

    >>> runs = [{"method": method, "seed": seed, "test": {"accuracy": accuracy}}
    ...         for method, values in {"m": (0.90, 0.91, 0.92), "m@1": (0.95, 0.965, 0.97)}.items()
    ...         for seed, accuracy in enumerate(values)]
    >>> results = {"method": {"name": "m", "title": "M", "tuned": "m@1"},
    ...            "objective": {"name": "accuracy"},
    ...            "confirmation": {"methods": {"m": {}, "m@1": {}}, "runs": runs}}
    >>> print(gain(results)["contrasts"]["default"]["sentence"])
    M tuned against untuned: better in test accuracy by 5.2 points (95 % interval 4.4 to
    5.9; 96.2 % against 91.0 %, adjusted p = 0.001).
    """
    confirmation, method = results.get("confirmation"), results["method"]
    if not confirmation or method["tuned"] not in confirmation["methods"]:
        return None
    names = {"tuned": method["tuned"], "default": method["name"], "plain": "plain"}
    present = {role: name for role, name in names.items() if name in confirmation["methods"]}
    if names["tuned"] == names["default"]:
        del present["default"]
    size = at(confirmation, "data.sizes.test")
    measures = [m.on(size) for m in COMPARED]
    values = {
        role: {
            measure.name: {
                run["seed"]: value
                for run in confirmation["runs"]
                if run["method"] == name and (value := measure.read(run)) is not None
            }
            for measure in measures
        }
        for role, name in present.items()
    }
    measures = [m for m in measures if any(of[m.name] for of in values.values())]
    pairs = [
        {
            "first": (role, "tuned"),
            "second": ("tuned", role),
            "subject": f"{method['title']} tuned",
            "reference": {"default": "untuned", "plain": "plain"}[role],
            "over": "seeds",
            "paired": True,
        }
        for role in present
        if role != "tuned"
    ]

    def common(roles, measure, over):
        """The values of the first of two roles, over the seeds that both have."""
        own, other = (values[role][measure.name] for role in roles)
        return [own[seed] for seed in sorted(own) if seed in other]

    found = against(pairs, measures, common, within=False)
    wanted = results["objective"]["name"]
    there = [m.name for m in measures]
    primary = next((name for name in (wanted, *PRIMARY) if name in there), PRIMARY[0])
    decides = [m for m in measures if m.name == primary]

    def seed_by_seed(one):
        """How far the tuned setting is above the other, in what decides."""
        ends = [[common(one[end], m, "") for end in ("first", "second")] for m in decides]
        return [tuned - other for pair in ends for other, tuned in zip(*pair, strict=True)]

    contrasts = {
        one["first"][0]: one
        | {"sentence": sentence(one, measures), "differences": seed_by_seed(one)}
        for one in found
    }
    return {
        "primary": primary,
        "measures": measures,
        "methods": {
            role: {
                "name": name,
                "title": str(confirmation["methods"][name].get("title", name)),
                "measures": {
                    m.name: summary(list(values[role][m.name].values())) for m in measures
                },
            }
            for role, name in present.items()
        },
        "contrasts": contrasts,
        "answers": [_answered(role, one, m) for m in decides for role, one in contrasts.items()],
        "test": f"{how_tested(found, within=False)} {SPREAD}".strip(),
    }


def _answered(role, one, measure):
    text, details = answer([one], measure)
    worth = _WORTH[one["measures"][measure.name]["verdict"]] if role == "default" else ""
    return f"{worth}On the test images, {' '.join([lower(text), *details])}"
