"""Parallel coordinates: every trial of a search as one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_swapout.study.measuring.measure import at
from keras_swapout.study.report.drawing import COLOURS, GREY, INK, new_figure, wrapped
from keras_swapout.study.tune.axes import (
    add_legend,
    label_of,
    scale_of,
    value_of,
    window,
    without_math,
)
from keras_swapout.study.tune.observed import usable
from keras_swapout.study.tune.sentences import number
from keras_swapout.study.tune.surrogate import to_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE = COLOURS[:2]
_FEW = 10  # trials that are coloured as the best


def parallel(results: Mapping[str, Any], analysis: Mapping[str, Any]) -> Figure | None:
    """Every trial a line through its values to its objective.

    Args:
        results: of a search.
        analysis: what `analyse` made of it.

    Returns:
        The figure, or None if there is nothing to draw.
    """
    parameters = [p for p in results["parameters"] if p["low"] < p["high"]]
    trials = [
        t
        for t in usable(results)
        if all(at(t["values"], p["name"]) is not None for p in parameters)
    ]
    if not trials or not parameters:
        return None
    scale, least = scale_of(results), results["objective"]["direction"] == "min"
    values = scale * np.array([value_of(results, t) for t in trials])
    low, high = window(results, values, room=0.0)
    high = high if high > low else low + 1
    last = (np.clip(values, low, high) - low) / (high - low)
    lines = [
        [float(to_unit(p, t["values"][p["name"]])) for p in parameters]
        + [1 - share if least else share]  # better on top
        for t, share in zip(trials, last, strict=True)
    ]
    order = np.argsort(values if least else -values, kind="stable")
    best = order[: max(1, min(_FEW, len(order) // 5))]
    figure, (axes,) = new_figure(max(6.4, min(1.9 + 1.5 * len(parameters), 11)), 4.4)
    places = range(len(parameters) + 1)
    handles = {}
    for i in order[::-1]:
        name, look = "other trials", {"color": GREY, "lw": 0.9, "alpha": 0.35, "zorder": 1}
        if i in best:
            name, look = f"best {len(best)}", {"color": BLUE, "lw": 1.6, "alpha": 0.9, "zorder": 2}
        if i == order[0]:
            name, look = "best trial", {"color": ORANGE, "lw": 2.4, "zorder": 3}
        handles[name] = axes.plot(places, lines[i], **look)[0]
    titles = [wrapped(p["title"], 18) for p in parameters] + [wrapped(label_of(results), 20)]
    axes.set_xticks(places, [without_math(title) for title in titles])
    axes.tick_params(axis="x", length=0, pad=16)
    axes.set_yticks([])
    axes.set_xlim(-0.3, len(parameters) + 0.4)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    for place in places:
        axes.plot([place] * 2, [0, 1], color=INK, lw=0.8, alpha=0.6, zorder=0)
        for share in (0.0, 0.5, 1.0) if place == len(parameters) else (0.0, 1.0):
            if place < len(parameters):
                p = parameters[place]
                text = number(p, p["high"] if share else p["low"])
            else:
                end = low + (high - low) * (1 - share if least else share)
                text = f"{end:.{results['objective']['digits']}f}"
            across = {"ha": "center", "va": "bottom" if share else "top"}
            shift = (0, 4 if share else -4)
            if share == 0.5:
                across, shift = {"ha": "left", "va": "center"}, (5, 0)
            axes.annotate(
                text,
                (place, share),
                xytext=shift,
                textcoords="offset points",
                fontsize=9,
                color=INK,
                annotation_clip=False,
                **across,
            )
    add_legend(figure, dict(reversed(handles.items())))
    return figure
