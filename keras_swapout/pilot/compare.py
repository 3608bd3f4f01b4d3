"""Does any method differ from plain, by more than the luck of the seed?

`compare` turns the runs of a pilot into numbers, tests and sentences. To add a measure, enter it
in `MEASURES`; tables, figures and verdicts follow from there.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

BASELINE = "plain"
ALPHA = 0.05
FEW = 4  # methods named one by one in a sentence

BETTER = "better"
WORSE = "worse"
NO_DIFFERENCE = "no difference measured"
NOT_TESTABLE = "not testable"


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number read from a run.

    Attributes:
        name: key in the comparison.
        title: what a reader sees.
        path: where it stands in a run, keys joined by dots.
        minus: path of a second number to subtract, or None.
        higher_is_better: False where less is better.
        unit: "%" (stored as a fraction, shown times 100, differences in points) or "".
        digits: decimals shown. With "%" one more on test sets of 2000 images and above.
        terminal: whether it has a column in the terminal's table.
        note: what a difference in it does not mean, as a clause, or "".
    """

    name: str
    title: str
    path: str
    minus: str | None = None
    higher_is_better: bool = True
    unit: str = ""
    digits: int = 3
    terminal: bool = True
    note: str = ""

    def read(self, run: Mapping[str, Any]) -> float | None:
        """The value in one run, or None where it is missing or not finite.

        Example:
            >>> PRIMARY.read({"test": {"accuracy": 0.5}}), PRIMARY.read({})
            (0.5, None)
        """
        value = _at(run, self.path)
        if self.minus is not None and value is not None:
            other = _at(run, self.minus)
            value = None if other is None else value - other
        return value


# The first one decides the overall answer.
MEASURES = (
    Measure("accuracy", "Test accuracy", "test.accuracy", unit="%", digits=1),
    Measure("nll", "Negative log likelihood", "test.nll", higher_is_better=False),
    Measure(
        "ece",
        "Expected calibration error",
        "test.ece",
        higher_is_better=False,
        unit="%",
        digits=1,
    ),
    Measure(
        "corruption_accuracy",
        "Accuracy under corruption",
        "corruption_accuracy",
        unit="%",
        digits=1,
    ),
    Measure(
        "gap",
        "Generalisation gap",
        "train.accuracy",
        minus="test.accuracy",
        higher_is_better=False,
        unit="%",
        digits=1,
        terminal=False,
        note="a smaller gap alone is no gain: it also shrinks when training accuracy falls",
    ),
)
PRIMARY = MEASURES[0]


class Welch(NamedTuple):
    """What `welch` returns: second mean minus first, its interval, t, degrees of freedom, p."""

    difference: float
    low: float
    high: float
    t: float
    df: float
    p: float


def welch(first: Sequence[float], second: Sequence[float], level: float = 1 - ALPHA) -> Welch:
    """Two-sided Welch t-test and interval for the difference of two means.

        d = mean(second) - mean(first),   v_i = s_i^2 / n_i,   t = d / sqrt(v_1 + v_2)
        df = (v_1 + v_2)^2 / (v_1^2 / (n_1 - 1) + v_2^2 / (n_2 - 1))
        interval: d -+ t_(level, df) sqrt(v_1 + v_2)

    The same numbers as `scipy.stats.ttest_ind(second, first, equal_var=False)`. That function
    warns and returns NaN when a side has no spread, which few seeds on a small test set often
    have; one such side is nothing unusual here.

    Args:
        first: at least two values.
        second: at least two values.
        level: coverage of the interval.

    Returns:
        A `Welch`.

    Raises:
        ValueError: a side has fewer than two values, or neither has any spread.

    Example:
        >>> result = welch([1.0, 2.0, 3.0], [4.0, 5.0, 9.0])
        >>> print(f"{result.difference:.1f} ({result.low:.2f} to {result.high:.2f})")
        4.0 (-1.74 to 9.74)
        >>> print(f"t {result.t:.3f}, df {result.df:.2f}, p {result.p:.3f}")
        t 2.449, df 2.56, p 0.106

    Source: B. L. Welch, "The generalization of 'Student's' problem when several different
    population variances are involved", Biometrika 34 (1947).
    """
    if min(len(first), len(second)) < 2:
        raise ValueError(f"each side needs at least two values, got {len(first)} and {len(second)}")
    if not (_spread(first) or _spread(second)):
        raise ValueError("neither side has any spread, so t is undefined")
    difference = float(np.mean(second) - np.mean(first))
    v1, v2 = _spread(first) ** 2 / len(first), _spread(second) ** 2 / len(second)
    error = math.sqrt(v1 + v2)
    # Shares rather than squares of the variances, which could underflow.
    share = v1 / (v1 + v2)
    df = 1 / (share**2 / (len(first) - 1) + (1 - share) ** 2 / (len(second) - 1))
    t = difference / error
    half = float(special.stdtrit(df, (1 + level) / 2)) * error
    p = 2 * float(special.stdtr(df, -abs(t)))
    return Welch(difference, difference - half, difference + half, t, df, p)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values.

    With the m values in rising order, p~_(i) = max over j <= i of min(1, (m - j + 1) p_(j)).
    Rejecting where p~ < alpha keeps the chance of any false rejection at or below alpha, whatever
    the dependence between the tests.

    Args:
        p: p-values in [0, 1], in any order; may be empty.

    Returns:
        The adjusted values in the order given.

    Raises:
        ValueError: a value is NaN or outside [0, 1].

    Example:
        >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6 (1979).
    """
    if not all(0 <= value <= 1 for value in p):
        raise ValueError(f"p-values must be in [0, 1], got {list(p)}")
    adjusted = [0.0] * len(p)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = float(largest)
    return adjusted


def mean_interval(values: Sequence[float], level: float = 1 - ALPHA) -> tuple[float, float] | None:
    """Student's interval for a mean, mean -+ t_(level, n - 1) s / sqrt(n).

    Args:
        values: the sample.
        level: its coverage.

    Returns:
        `(low, high)`, or None for fewer than two values.

    Example:
        >>> low, high = mean_interval([1.0, 2.0, 3.0])
        >>> print(f"{low:.2f} {high:.2f}")
        -0.48 4.48
        >>> mean_interval([1.0]) is None
        True
    """
    n = len(values)
    if n < 2:
        return None
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * _spread(values) / math.sqrt(n)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def compare(results: Mapping[str, Any]) -> dict[str, Any]:
    """Compares every method with plain, measure by measure, over seeds.

    A verdict on a measure is "better" or "worse" when the Welch t-test's p-value (see `welch`),
    corrected by Holm's method over the methods of that measure (see `holm`), is below 0.05;
    otherwise "no difference measured"; or "not testable", with the reason. Two groups without any
    spread are "no difference measured" if equal, else "not testable".

    Args:
        results: what a pilot measured. Read here: `methods` (name to title, in order), `runs`
            (each with `method`, `seed` and the paths in `MEASURES`), `timing` and
            `data["sizes"]["test"]`. Runs or values may be missing; values that are not finite
            count as missing.

    Returns:
        Plain dicts and lists, ready for JSON:

        - `answer`: the overall answer, one sentence; `details`: sentences to go with it.
        - `test`: how the verdicts were reached, and what they do not cover.
        - `baseline`, `alpha`, `test_images` and `resolution`, the binomial standard error of an
          accuracy on that many images (None if the number is unknown).
        - `measures`: the measures with at least one value, as dicts of `Measure`'s attributes.
        - `methods`: name to `title`, `runs` (how many), `verdict` (sentences), `cost` (the
          method's timing, or None) and `measures`: name to `values`, `n`, `mean`, `sd`,
          `difference`, `low`, `high`, `p`, `p_adjusted`, `verdict`, `reason`; what does not
          apply is None.

    Raises:
        ValueError: a run names a method that is not in `methods`, or two runs have the same
            method and seed.

    Example:
        >>> runs = [
        ...     {"method": method, "seed": seed, "test": {"accuracy": accuracy}}
        ...     for method, accuracies in {"plain": (0.90, 0.91), "swapout": (0.95, 0.96)}.items()
        ...     for seed, accuracy in enumerate(accuracies)
        ... ]
        >>> titles = {"plain": {"title": "Plain"}, "swapout": {"title": "Swapout"}}
        >>> comparison = compare({"methods": titles, "runs": runs})
        >>> print(comparison["methods"]["swapout"]["verdict"])
        Swapout: test accuracy is better by 5.0 points (95 % interval 2.0 to 8.0; 95.5 % against
        90.5 %, adjusted p = 0.019).
    """
    runs = _runs_by_method(results)
    size = _at(results, "data.sizes.test")
    measures = []
    for measure in MEASURES:
        if any(measure.read(run) is not None for run in results["runs"]):
            fine = measure.unit == "%" and size is not None and size >= 2000
            measures.append(dataclasses.asdict(measure) | {"digits": measure.digits + fine})

    comparison: dict[str, Any] = {
        "answer": "",
        "details": [],
        "test": "",
        "baseline": BASELINE,
        "alpha": ALPHA,
        "test_images": None if size is None else int(size),
        "resolution": None,
        "measures": measures,
        "methods": {
            name: {
                "title": str(method.get("title", name)),
                "runs": len(runs[name]),
                "verdict": "",
                "cost": (results.get("timing") or {}).get("methods", {}).get(name),
                "measures": {},
            }
            for name, method in results["methods"].items()
        },
    }
    for measure in MEASURES:
        if any(shown["name"] == measure.name for shown in measures):
            values = {
                name: [value for run in runs[name] if (value := measure.read(run)) is not None]
                for name in runs
            }
            for name, row in _test(measure, values).items():
                comparison["methods"][name]["measures"][measure.name] = row

    comparison["resolution"] = _resolution(comparison)
    comparison["test"] = _test_sentence(comparison)
    most = max((method["runs"] for method in comparison["methods"].values()), default=0)
    for name, method in comparison["methods"].items():
        method["verdict"] = " ".join(_verdict(name, comparison, most))
    comparison["answer"], comparison["details"] = _answer(comparison)
    return comparison


def value_text(measure: Mapping[str, Any], value: float | None, unit: bool = True) -> str:
    """A value as a reader sees it.

    Args:
        measure: an entry of a comparison's `measures`.
        value: the stored number, or None.
        unit: whether to write the unit.

    Example:
        >>> value_text({"unit": "%", "digits": 1}, 0.978)
        '97.8 %'
        >>> value_text({"unit": "", "digits": 3}, -0.25)
        '−0.250'
    """
    if value is None:
        return "–"
    percent = measure["unit"] == "%"
    text = f"{value * (100 if percent else 1):.{measure['digits']}f}".replace("-", "−")
    if not float(text.replace("−", "-")):
        text = text.lstrip("−")
    return f"{text} %" if percent and unit else text


def difference_text(measure: Mapping[str, Any], value: float | None) -> str:
    """A difference with its sign.

    Args:
        measure: an entry of a comparison's `measures`.
        value: the stored number, or None.

    Example:
        >>> difference_text({"unit": "%", "digits": 1}, 0.012)
        '+1.2'
    """
    text = value_text(measure, value, unit=False)
    return f"+{text}" if value is not None and text[0] != "−" and text.strip("0.") else text


def p_text(p: float | None) -> str:
    """A p-value as a reader sees it.

    Example:
        >>> p_text(0.4123), p_text(0.0123), p_text(1e-9), p_text(0.9999)
        ('p = 0.41', 'p = 0.012', 'p < 0.001', 'p = 1')
    """
    if p is None:
        return ""
    if p < 0.001:
        return "p < 0.001"
    if p > 0.995:
        return "p = 1"
    # Three decimals near the threshold, where two would round 0.0497 up to it.
    return f"p = {p:.3f}" if p < 0.0995 else f"p = {p:.2f}"


def _at(tree: Mapping[str, Any], path: str) -> float | None:
    node: Any = tree
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    if node is None or isinstance(node, str | Mapping) or not math.isfinite(node):
        return None
    return float(node)


def _spread(values: Sequence[float]) -> float:
    """Standard deviation over n - 1; rounding noise among equal values counts as none."""
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        return 0.0
    return float(np.std(values, ddof=1))


def _runs_by_method(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    runs: dict[str, list[Mapping[str, Any]]] = {name: [] for name in results["methods"]}
    seen = set()
    for run in results["runs"]:
        name, seed = run["method"], run["seed"]
        if name not in runs:
            raise ValueError(f"a run has method {name!r}, which is not among {list(runs)}")
        # A run counted twice would look like agreement between seeds.
        if (name, seed) in seen:
            raise ValueError(f"two runs have method {name!r} and seed {seed!r}")
        seen.add((name, seed))
        runs[name].append(run)
    return runs


def _test(measure: Measure, values: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Every method's row for one measure."""
    rows = {}
    base = values.get(BASELINE, [])
    for name, own in values.items():
        row = dict.fromkeys(
            ("difference", "low", "high", "p", "p_adjusted", "verdict", "reason"), None
        )
        row |= {
            "values": own,
            "n": len(own),
            "mean": float(np.mean(own)) if own else None,
            "sd": _spread(own) if len(own) > 1 else None,
        }
        rows[name] = row
        if name == BASELINE:
            continue
        if own and base:
            row["difference"] = float(np.mean(own) - np.mean(base))
        row["verdict"] = NOT_TESTABLE
        if BASELINE not in values:
            row["reason"] = "plain was not run"
        elif len(base) < 2:
            row["reason"] = f"plain has {_count(len(base), 'run')} and a test needs two"
        elif len(own) < 2:
            row["reason"] = f"it has {_count(len(own), 'run')} and a test needs two"
        elif _spread(own) or _spread(base):
            result = welch(base, own)
            row |= {"p": result.p, "low": result.low, "high": result.high}
        elif not _spread([np.mean(own), np.mean(base)]):
            row["verdict"] = NO_DIFFERENCE
            row["reason"] = "every run of both gave the same value"
        else:
            row["reason"] = "no spread over the seeds on either side, so the t-test is undefined"
    tested = [row for row in rows.values() if row["p"] is not None]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_adjusted"] = adjusted
        improved = (row["difference"] > 0) == measure.higher_is_better
        row["verdict"] = (BETTER if improved else WORSE) if adjusted < ALPHA else NO_DIFFERENCE
    return rows


def _resolution(comparison: Mapping[str, Any]) -> float | None:
    size = comparison["test_images"]
    means = {
        name: row["mean"]
        for name, method in comparison["methods"].items()
        if (row := method["measures"].get(PRIMARY.name)) and row["mean"] is not None
    }
    if not size or not means:
        return None
    accuracy = means.get(BASELINE, float(np.mean(list(means.values()))))
    # At accuracy 1 the formula gives zero, but no test set resolves less than one image.
    return max(math.sqrt(accuracy * (1 - accuracy) / size), 1 / size)


def _test_sentence(comparison: Mapping[str, Any]) -> str:
    count = sum(name != BASELINE for name in comparison["methods"])
    text = ""
    if count and BASELINE in comparison["methods"]:
        methods = f"the {count} methods" if count > 1 else "the methods (here one)"
        text = (
            "Each method is compared with plain by a two-sided Welch t-test over seeds at "
            f"alpha = {ALPHA:g}, with Holm's correction over {methods} within each measure but "
            "none over the measures, and 95 % intervals of the difference without correction. "
        )
    text += (
        "The spread is over initial weights, batch order and masks, with the split fixed, so it "
        "says nothing about other test images."
    )
    if comparison["resolution"] is not None:
        text += (
            f" A test set of {_count(comparison['test_images'], 'image')} itself resolves an "
            f"accuracy to ±{_points(comparison, comparison['resolution'])} (one binomial standard "
            "error)."
        )
    return text


def _count(number: int, noun: str) -> str:
    return f"{'no' if number == 0 else f'{number:,}'} {noun}{'' if number == 1 else 's'}"


def _listed(items: Sequence[str], word: str = "and") -> str:
    # A title may have commas of its own.
    comma = "; " if any("," in item for item in items) else ", "
    return f" {word} ".join(filter(None, [comma.join(items[:-1]), *items[-1:]]))


def _points(comparison: Mapping[str, Any], value: float) -> str:
    shown = {measure["name"]: measure for measure in comparison["measures"]}[PRIMARY.name]
    return f"{value_text(shown, value, unit=False)} points"


def _interval(measure: Mapping[str, Any], low: float, high: float) -> str:
    ends = [value_text(measure, end, unit=False) for end in (low, high)]
    return f"{ends[0]} to {ends[1]}"


def _amount(measure: Mapping[str, Any], row: Mapping[str, Any], lead: str = "") -> str:
    """ "1.2 points (95 % interval 0.4 to 2.0", positive in the direction of the verdict."""
    low, high = sorted((row["low"], row["high"]), key=abs)
    if row["difference"] < 0:
        low, high = -low, -high
    size = abs(row["difference"])
    shown = dict(measure)
    # A measured difference is never shown as 0.0.
    while size and not value_text(shown, size, unit=False).strip("0.") and shown["digits"] < 9:
        shown["digits"] += 1
    unit = " points" if measure["unit"] == "%" else ""
    return f"{value_text(shown, size, unit=False)}{unit} ({lead}{_interval(shown, low, high)}"


def _verdict(name: str, comparison: Mapping[str, Any], most: int) -> list[str]:
    """One method's sentences."""
    method = comparison["methods"][name]
    title = method["title"]
    if not method["runs"]:
        return [f"{title}: no finished runs."]
    measures = {measure["name"]: measure for measure in comparison["measures"]}
    sentences = []
    first = measures.get(PRIMARY.name)
    row = method["measures"].get(PRIMARY.name)
    if first is None or row is None or row["mean"] is None:
        sentences.append(f"{title}: no test accuracy was measured.")
    elif name == BASELINE:
        spread = "" if row["sd"] is None else f" ± {value_text(first, row['sd'], unit=False)}"
        others = len(comparison["methods"]) - 1
        role = {0: "there is nothing to compare it with", 1: "the other method is compared with it"}
        sentences.append(
            f"{title}: test accuracy {value_text(first, row['mean'], unit=False)}{spread} % over "
            f"{_count(row['n'], 'seed')}; "
            f"{role.get(others, 'the other methods are compared with it')}."
        )
    else:
        sentences += _primary_sentences(title, first, row, comparison)

    rest = {
        key: entry
        for key, entry in method["measures"].items()
        if key != PRIMARY.name and entry["verdict"] is not None
    }
    for verdict in (BETTER, WORSE):
        found = []
        for key, entry in rest.items():
            if entry["verdict"] == verdict:
                # A measure's caveat is for those who gain nothing else by it.
                alone = verdict == BETTER and not (row and row["verdict"] == BETTER)
                note = measures[key]["note"] if alone else ""
                note = f"; {note}" if note else ""
                lead = "" if found else "95 % interval "
                amount = _amount(measures[key], entry, lead)
                found.append(f"{_lower(measures[key])} by {amount}{note})")
        if found:
            also = "Also " if row and row["verdict"] == verdict else ""
            word = f"{also}{verdict}" if also else verdict.capitalize()
            sentences.append(f"{word}: {_listed(found)}.")
    same = [_lower(measures[key]) for key in rest if rest[key]["verdict"] == NO_DIFFERENCE]
    if same:
        either = " either" if row and row["verdict"] == NO_DIFFERENCE else ""
        sentences.append(f"No difference measured in {_listed(same, 'or')}{either}.")
    sentences += _gaps(method, measures, most)
    if name != BASELINE:
        step, inference = (_ratio(method["cost"], what) for what in ("train_step", "inference"))
        if step:
            then = f"; inference costs {inference}" if inference else ""
            start, _, spread = step.partition(" ")
            spread = f" {spread}" if spread else ""
            sentences.append(f"A training step costs {start} times plain's{spread}{then}.")
    return sentences


def _ratio(cost: Mapping[str, Any] | None, what: str) -> str:
    """ "1.06 (quartiles 1.02 to 1.10)", or "" where it was not measured."""
    cost = cost or {}
    middle, low, high = (cost.get(f"{what}_ratio{end}") for end in ("", "_low", "_high"))
    if middle is None:
        return ""
    spread = "" if None in (low, high) else f" (quartiles {low:.2f} to {high:.2f})"
    return f"{middle:.2f}{spread}"


def _lower(measure: Mapping[str, Any]) -> str:
    return measure["title"][0].lower() + measure["title"][1:]


def _primary_sentences(
    title: str, measure: Mapping[str, Any], row: Mapping[str, Any], comparison: Mapping[str, Any]
) -> list[str]:
    name = _lower(measure)
    base = comparison["methods"].get(BASELINE, {}).get("measures", {}).get(measure["name"])
    pair = value_text(measure, row["mean"])
    if base is not None and base["mean"] is not None:
        pair += f" against {value_text(measure, base['mean'])}"
    if row["verdict"] == NOT_TESTABLE:
        return [f"{title}: {name} is not testable ({pair}; {row['reason']})."]
    if row["p"] is None:
        return [f"{title}: {NO_DIFFERENCE} in {name} ({pair}; {row['reason']})."]
    p = f"adjusted {p_text(row['p_adjusted'])}"
    if row["verdict"] == NO_DIFFERENCE:
        interval = _interval(measure, row["low"], row["high"])
        return [
            f"{title}: {NO_DIFFERENCE} in {name} ({pair}; 95 % interval of the difference "
            f"{interval} points, {p})."
        ]
    amount = _amount(measure, row, "95 % interval ")
    sentences = [f"{title}: {name} is {row['verdict']} by {amount}; {pair}, {p})."]
    resolution = comparison["resolution"]
    if resolution is not None and abs(row["difference"]) < resolution:
        sentences.append(
            "That is less than the test set's own standard error of "
            f"{_points(comparison, resolution)}, so other images may not show it."
        )
    return sentences


def _gaps(method: Mapping[str, Any], measures: Mapping[str, Any], most: int) -> list[str]:
    """What is missing. A run that diverged is left out of the means and must not vanish."""
    sentences = []
    if method["runs"] < most:
        sentences.append(f"Only {method['runs']} of {most} runs finished.")
    missing = [
        f"{_lower(measures[key])} {method['runs'] - row['n']} of {method['runs']}"
        for key, row in method["measures"].items()
        if row["n"] < method["runs"]
    ]
    if missing:
        sentences.append(
            f"Runs left out for want of a finite value, diverged perhaps: {_listed(missing)}."
        )
    return sentences


def _answer(comparison: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The overall answer and the sentences to go with it."""
    start = "On this data, at this budget,"
    methods = comparison["methods"]
    measures = {measure["name"]: measure for measure in comparison["measures"]}
    first = measures.get(PRIMARY.name)
    if first is None:
        return f"{start} nothing was measured: no run finished with a test accuracy.", []
    name = _lower(first)
    rows = {
        key: method["measures"][PRIMARY.name]
        for key, method in methods.items()
        if key != BASELINE and method["runs"]
    }
    if not rows:
        return f"{start} only plain was run: there is nothing to compare it with.", []

    def titles(keys: Sequence[str]) -> str:
        return _listed([methods[key]["title"] for key in keys])

    by = {
        verdict: [key for key in rows if rows[key]["verdict"] == verdict]
        for verdict in (BETTER, WORSE, NO_DIFFERENCE, NOT_TESTABLE)
    }
    for verdict in (BETTER, WORSE):
        by[verdict].sort(key=lambda key: -abs(rows[key]["difference"]))
    testable = len(rows) - len(by[NOT_TESTABLE])
    details = []
    if by[BETTER]:
        amounts = [
            f"{methods[key]['title']} by {_amount(first, rows[key], lead)})"
            for key, lead in zip(
                by[BETTER], ["95 % interval "] + [""] * (len(by[BETTER]) - 1), strict=True
            )
        ]
        answer = f"{start} better than plain in {name}: {_listed(amounts)}."
        if by[WORSE]:
            details.append(f"Worse: {titles(by[WORSE])}.")
        if by[NO_DIFFERENCE]:
            same = by[NO_DIFFERENCE]
            whom = titles(same) if len(same) <= FEW else f"the other {len(same)} methods"
            details.append(f"No difference measured: {whom}.")
        resolution = comparison["resolution"]
        small = [
            key
            for key in by[BETTER]
            if resolution is not None and abs(rows[key]["difference"]) < resolution
        ]
        if small:
            details.append(
                f"For {titles(small)} that is less than the test set's own standard error of "
                f"{_points(comparison, resolution)}, so other images may not show it."
            )
    elif by[WORSE]:
        answer = (
            f"{start} no method was measured to be better than plain in {name}; "
            f"{titles(by[WORSE])} {'was' if len(by[WORSE]) == 1 else 'were'} worse."
            if len(rows) > 1
            else f"{start} {titles(by[WORSE])} was worse than plain in {name}."
        )
    elif testable:
        whom = (
            titles(by[NO_DIFFERENCE])
            if testable == 1
            else f"{'either' if testable == 2 else 'any'} of the {testable} methods"
        )
        answer = f"{start} no difference from plain in {name} was measured for {whom}."
    else:
        reasons = list(dict.fromkeys(row["reason"] for row in rows.values()))
        reason = reasons[0] if len(reasons) == 1 else "the reasons are below"
        whom = titles(list(rows)) if len(rows) == 1 else "the methods"
        answer = f"{start} {name} of {whom} cannot be tested against plain: {reason}."
        differences = [row["difference"] for row in rows.values() if row["difference"] is not None]
        if differences:
            seen = [difference_text(first, end) for end in (min(differences), max(differences))]
            seen_text = seen[0] if seen[0] == seen[1] else f"{seen[0]} to {seen[1]}"
            details.append(
                f"The differences seen, {seen_text} points, may be chance; three seeds or more "
                "would tell."
            )
    open_ends = [rows[key] for key in by[NO_DIFFERENCE] if rows[key]["low"] is not None]
    if open_ends and not by[BETTER]:
        low = min(row["low"] for row in open_ends)
        high = max(row["high"] for row in open_ends)
        whose = "interval reaches" if len(open_ends) == 1 else "intervals reach"
        details.append(
            f"The 95 % {whose} from {difference_text(first, low)} to "
            f"{difference_text(first, high)} points, so differences of that size are not ruled "
            "out."
        )
    if testable and by[NOT_TESTABLE]:
        details.append(f"Not testable: {titles(by[NOT_TESTABLE])}.")
    unfinished = [key for key in methods if not methods[key]["runs"]]
    if unfinished:
        details.append(f"No finished runs: {titles(unfinished)}.")
    for key, measure in measures.items():
        if key == PRIMARY.name:
            continue
        found = []
        for verdict in (BETTER, WORSE):
            who = [m for m in rows if methods[m]["measures"][key]["verdict"] == verdict]
            if who:
                found.append(f"{verdict} with {titles(who)}")
        if found:
            alone = any(
                methods[m]["measures"][key]["verdict"] == BETTER and rows[m]["verdict"] != BETTER
                for m in rows
            )
            note = measure["note"] if alone else ""
            note = f" ({note})" if note else ""
            details.append(f"{measure['title']} is {'; '.join(found)}{note}.")
    return answer, details
