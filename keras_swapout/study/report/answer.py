"""The few sentences that every command ends with; they claim no more than was measured.

A comparison is an entry of `keras_swapout.study.measuring.comparison.against`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_swapout.study.measuring.comparison import BETTER, NO_DIFFERENCE, NOT_TESTABLE, WORSE
from keras_swapout.study.measuring.measure import Measure
from keras_swapout.study.measuring.statistics import ALPHA
from keras_swapout.study.report.words import (
    amount,
    difference_text,
    interval_text,
    listed,
    lower,
    p_text,
    upper,
)

MOST = 4  # comparisons named one by one

Comparison = Mapping[str, Any]


def answer(
    comparisons: Sequence[Comparison], measure: Measure, noun: str = "comparisons"
) -> tuple[str, list[str]]:
    """In one measure: what is better, or else worse, or else no different; and what else is.

    Args:
        comparisons: those that the answer is about.
        measure: by which it is given.
        noun: what several comparisons are called.

    Returns:
        A sentence, and the sentences to go with it; an empty one where there is nothing to say.

    Example:

    >>> from keras_swapout.study.measuring.comparison import against
    >>> pair = {"first": "a", "second": "b", "subject": "Swapout", "reference": "plain",
    ...         "over": "seeds", "paired": False}
    >>> values = {"a": [0.90, 0.91], "b": [0.95, 0.96]}
    >>> accuracy = Measure("accuracy", "Test accuracy", "test.accuracy", unit="%", digits=1)
    >>> found = against([pair], [accuracy], lambda group, measure, over: values[group])
    >>> print(answer(found, accuracy)[0])
    Better than plain in test accuracy: Swapout by 5.0 points (95 % interval over 2 seeds 2.0 to
    8.0; 95.5 % against 90.5 %, adjusted p = 0.019).
    """
    asked = [one for one in comparisons if measure.name in one["measures"]]
    by = {verdict: [] for verdict in (BETTER, WORSE, NO_DIFFERENCE, NOT_TESTABLE)}
    for one in sorted(
        asked, key=lambda one: -abs(one["measures"][measure.name]["difference"] or 0)
    ):
        by[one["measures"][measure.name]["verdict"]].append(one)
    first = next((verdict for verdict in by if by[verdict]), None)
    if first is None:
        return "", []
    references = {one["reference"] for one in asked}
    shared = references.pop() if len(references) == 1 else ""

    def who(one: Comparison) -> str:
        return one["subject"] if shared else f"{one['subject']} against {one['reference']}"

    def by_how_much(ones: Sequence[Comparison], signed: bool = False) -> str:
        said = []
        for one in ones[:MOST]:
            row = one["measures"][measure.name]
            over = f"{listed([f'{n:,}' for n in dict.fromkeys(row['n'][::-1])])} {one['over']}"
            size = amount(measure, row, signed, over)
            said.append(f"{who(one)}{': ' if signed else ' by '}{size}")
        more = f"{len(ones) - MOST} more"
        return listed([*said, more] if len(ones) > MOST else said)

    def rows(ones: Sequence[Comparison]) -> list[Mapping[str, Any]]:
        return [one["measures"][measure.name] for one in ones]

    def reasons(ones: Sequence[Comparison]) -> str:
        said = zip(map(who, ones), (row["reason"] for row in rows(ones)), strict=True)
        return "; ".join(_by_reason(said))

    name, than = lower(measure.title), f"than {shared} " if shared else ""
    from_ = f"from {shared} " if shared else ""
    same, details = by[NO_DIFFERENCE], []
    whom = [who(one) for one in same]
    if first == BETTER or (first == WORSE and len(asked) == 1):
        text = f"{upper(first)} {than}in {name}: {by_how_much(by[first])}."
    elif first == WORSE:
        best = f"Nothing was measured to be better {than}in {name}"
        text = f"{best}; worse: {by_how_much(by[first])}."
    elif first == NO_DIFFERENCE:
        every = listed(whom, "or") if len(same) <= MOST else f"any of the {len(same)} {noun}"
        if len(same) == 1:
            every = by_how_much(same, signed=True)
            every += f", since {reason}" if (reason := rows(same)[0]["reason"]) else ""
        text = f"No difference {from_}in {name} was measured for {every}."
    else:
        text = f"Whether {name} differs {from_}can't be tested: {reasons(by[first])}."
        details += _seen(measure, rows(by[first]), by[first][0]["over"])
    if first == BETTER and by[WORSE]:
        details.append(f"Worse: {by_how_much(by[WORSE])}.")
    if same and first != NO_DIFFERENCE:
        others = listed(whom) if len(same) <= MOST else f"the other {len(same)} {noun}"
        details.append(f"No difference measured: {others}.")
    details += _not_ruled_out(measure, rows(same), first == NO_DIFFERENCE and len(same) == 1)
    if first != NOT_TESTABLE and by[NOT_TESTABLE]:
        details.append(f"Not testable: {reasons(by[NOT_TESTABLE])}.")
    return text, details


def _by_reason(said):
    """ "a and b (why)" of pairs of a name and a reason."""
    names: dict[str, list[str]] = {}
    for name, reason in said:
        names.setdefault(reason, []).append(name)
    return [f"{listed(its)} ({reason})" for reason, its in names.items()]


def _range(measure, values):
    """ "+0.4 to +1.2 points"."""
    ends = dict.fromkeys(difference_text(measure, end) for end in (min(values), max(values)))
    return " to ".join(ends) + (" points" if measure.unit == "%" else "")


def _seen(measure, rows, over):
    found = [row["difference"] for row in rows if row["difference"] is not None]
    if not found:
        return []
    few = any(min(row["n"]) < 2 for row in rows)
    more = f"; three {over} or more would tell" if few else ""
    what = "difference" if len(found) == 1 else "differences"
    return [f"The {what} seen, {_range(measure, found)}, may be chance{more}."]


def _not_ruled_out(measure, rows, said):
    ends = [row[end] for row in rows if row["low"] is not None for end in ("low", "high")]
    if not ends:
        return []
    if said:
        return ["Differences within that interval are not ruled out."]
    whose = "interval reaches" if len(ends) == 2 else "intervals reach"
    return [
        f"The 95 % {whose} from {_range(measure, ends)}, so differences of that size are not "
        "ruled out."
    ]


def sentence(one: Comparison, measures: Sequence[Measure]) -> str:
    """What one comparison found in all measures: "B against A: better in ...; worse in ...".

    The verdict on the first measure comes first. A measure's caveat goes with a gain in it, unless
    the first measure gained as well.
    """
    rows = [(m, one["measures"][m.name]) for m in measures if m.name in one["measures"]]
    found: dict[str, list[str]] = {BETTER: [], WORSE: [], NO_DIFFERENCE: [], NOT_TESTABLE: []}
    untested: dict[str, list[tuple[str, str]]] = {NO_DIFFERENCE: [], NOT_TESTABLE: []}
    for measure, row in rows:
        name, verdict = lower(measure.title), row["verdict"]
        if verdict in (BETTER, WORSE):
            said = f"in {name} by {amount(measure, row)}"
            if verdict == BETTER and measure.caveat and rows[0][1]["verdict"] != BETTER:
                said = f"{said[:-1]}; {measure.caveat})"
            found[verdict].append(said)
        elif row["low"] is None:
            untested[verdict].append((name, row["reason"]))
        else:
            ends = interval_text(measure, row["low"], row["high"])
            size = difference_text(measure, row["difference"], points=True)
            what, which = ("", "") if found[verdict] else ("95 % interval ", "adjusted ")
            p = p_text(row["p_adjusted"])
            found[verdict].append(f"{name} ({size}, {what}{ends}, {which}{p})")
    for verdict, said in untested.items():
        found[verdict] += _by_reason(said)
    order = dict.fromkeys([*(row["verdict"] for _, row in rows[:1]), *found])
    parts = [
        f"{verdict} {'' if verdict in (BETTER, WORSE) else 'in '}{', '.join(found[verdict])}"
        for verdict in order
        if found[verdict]
    ]
    return f"{one['subject']} against {one['reference']}: {'; '.join(parts) or 'not measured'}."


def how_tested(comparisons: Sequence[Comparison], within: bool = True) -> str:
    """Which tests, and for how many of them the p-values are corrected; "" where there was none.

    Args:
        comparisons: all that were tested together.
        within: as for `keras_swapout.study.measuring.comparison.against`.
    """
    counts = [sum(row["p"] is not None for row in one["measures"].values()) for one in comparisons]
    if not any(counts):
        return ""
    kinds = dict.fromkeys((one["paired"], one["over"]) for one in comparisons)
    tests = [f"{'paired' if p else 'Welch'} t-tests over {over}" for p, over in kinds]
    count = sum(n > 0 if within else n for n in counts)
    where = " within each measure and none over the measures" if within else ""
    correction = f", with Holm's correction over the {count} comparisons{where}"
    none = "; no correction over the measures" if within else ""
    return (
        f"{upper(listed(tests))}, two-sided at alpha = {ALPHA:g}"
        f"{correction if count > 1 else none}; the 95 % intervals are not corrected."
    )
