"""A search's answer in 25 lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_swapout.study.report.brief import Brief, established, line


def brief(analysis: Mapping[str, Any], out: Any) -> Brief:
    """What to print at the end of a search.

    Args:
        analysis: of `keras_swapout.study.tune.report.analyse`.
        out: the folder of the results.
    """
    gained = analysis["gain"]
    lines = [
        line(measure, f"tuned against {one['reference']}", row)
        for one in (gained["contrasts"].values() if gained else ())
        for measure in gained["measures"]
        if (row := one["measures"].get(measure.name)) and row["difference"] is not None
    ]
    return Brief(
        analysis["answer"],
        ("tuned", "against", "difference, 95 % interval"),
        established(lines),
        analysis["details"],
        [f"To use it: keras-swapout pilot --settings {out}/best.json"],
        f"All of it: {out}/report.html",
    )
