"""An audit's answer in 25 lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_swapout.study.report.brief import Brief, Line
from keras_swapout.study.report.words import counted, listed

#: Share of the labels below which nearly none is contradicted, and of a class above which it was
#: not learnt.
FEW, MANY = 0.002, 0.5
NAMED = 3  # classes
NO_PROOF = (
    "The list is what a network contradicts, and no proof: samples that are hard or rare are on "
    "it, and wrong labels that look right are not."
)


def brief(results: Mapping[str, Any], out: Path) -> Brief:
    """What to print at the end of an audit.

    Args:
        results: the contents of results.json.
        out: the folder of the results.
    """
    found = results["audit"]
    lines = [
        Line(
            f"{pair['given']} -> {pair['suggested']}",
            f"{pair['suspicious']:,}",
            f"{pair['samples']:,}",
            share(pair["suspicious"], pair["samples"]),
        )
        for pair in found["pairs"]
    ]
    table = "suspicious.csv" if found["suspicious"] else "labels.csv"
    then = (
        f"Next: look at them on the page, or in the order of {out / table}; correct what is wrong, "
        "and train anew."
    )
    return Brief(
        answer=answer(results),
        columns=("suspicious", "of", "share"),
        lines=lines,
        notes=[*details(results), NO_PROOF],
        then=[then],
    )


def answer(results: Mapping[str, Any]) -> str:
    """How many labels are contradicted, in a sentence."""
    found, folds = results["audit"], results["settings"]["folds"]
    number, samples = found["suspicious"], found["samples"]
    which = "networks that have not seen them" if folds else "the network that was trained on them"
    s = "" if folds else "s"
    if not number:
        return f"No label of {samples:,} looks wrong: {which} contradict{s} none."
    many = f"{number:,} of {counted(samples, 'label')} ({share(number, samples)})"
    if number > MANY * samples:
        return f"These data were not learnt: {which} contradict{s} {many}. The list says little."
    return f"{many} look{'s' * (number == 1)} wrong: {which} contradict{s} them."


def details(results: Mapping[str, Any]) -> list[str]:
    """Which classes, how sure, and what is to be held against the list."""
    found, folds = results["audit"], results["settings"]["folds"]
    said = []
    if found["suspicious"]:
        worst = sorted(found["classes"], key=lambda c: -c["suspicious"] / c["samples"])
        worst = [c for c in worst[:NAMED] if c["suspicious"]]
        named = [f"{c['name']} ({c['suspicious']:,} of {c['samples']:,})" for c in worst]
        said.append(
            f"Most contradicted: {listed(named)}. Half of the suggestions have a probability of "
            f"{found['sure']:.2f} or more."
        )
    unlearnt = [c["name"] for c in found["classes"] if c["suspicious"] > MANY * c["samples"]]
    if unlearnt:
        augmented = results["data"].get("augmented")
        flips = ", --unaugmented (neither flipped nor shifted)" if augmented else ""
        said.append(
            f"Not learnt, as more than half of their labels are contradicted: {listed(unlearnt)}. "
            f"There the list says little. Try more --epochs{flips} or another --model."
        )
    elif found["suspicious"] < FEW * found["samples"]:
        said.append(
            "So few are contradicted that the labels are right"
            + ("." if folds else ", or the network has memorised them: --folds 5 would tell.")
        )
    return said


def share(part: int, whole: int) -> str:
    """A percentage: "5.2 %"."""
    return f"{100 * part / whole:.1f} %"
