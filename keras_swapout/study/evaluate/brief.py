"""An evaluation's answer in 25 lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_swapout.study.evaluate.measures import COMPARED
from keras_swapout.study.report.brief import Brief, Line, established, line
from keras_swapout.study.report.words import value_text


def brief(comparison: Mapping[str, Any], seen: str | None) -> Brief:
    """What to print at the end of an evaluation.

    Args:
        comparison: of `keras_swapout.study.evaluate.compare.compare`.
        seen: what there is to say where the models may have been trained on the images, or None.
    """
    lines = [
        line(measure, one["subject"], row)
        for one in comparison["comparisons"]
        for measure in COMPARED
        if (row := one["measures"].get(measure.name)) and row["difference"] is not None
    ]
    columns = ("", "against", "difference, 95 % interval")
    if not lines:  # one model in one way
        (row,) = comparison["rows"].values()
        lines = [
            Line(measure.title, value_text(measure, row["measures"][measure.name]["mean"]))
            for measure in COMPARED
            if measure.name in row["measures"]
        ]
        columns = ("", "", "")
    notes = [*comparison["details"], *([f"{seen[0].upper()}{seen[1:]}."] if seen else [])]
    return Brief(comparison["answer"], columns, established(lines), notes)
