"""The pictures of a search, one function each, as `matplotlib.figure.Figure`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_swapout.study.measuring.measure import Measure, at
from keras_swapout.study.report.dots import Group, Mean
from keras_swapout.study.report.drawing import COLOURS, GREY, INK, PAPER, new_figure, wrapped
from keras_swapout.study.tune.axes import (
    add_legend,
    best_of,
    label_of,
    scale_of,
    set_axis,
    value_of,
    window,
    without_math,
)
from keras_swapout.study.tune.observed import usable
from keras_swapout.study.tune.parallel import parallel
from keras_swapout.study.tune.surrogate import to_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN = COLOURS[:3]


def objective(results: Mapping[str, Any], analysis: Mapping[str, Any]) -> Figure | None:
    """The objective against each parameter, a panel each: trials, default, best and profile.

    Args:
        results: of a search.
        analysis: what `analyse` made of it.

    Returns:
        The figure, or None if there is nothing to draw.
    """
    trials, parameters = usable(results), results["parameters"]
    if not trials or not parameters:
        return None
    found, scale = analysis["sensitivity"], scale_of(results)
    columns = min(len(parameters), 3 if len(parameters) in (3, 5, 6) else 4)
    rows = math.ceil(len(parameters) / columns)
    width = {1: 7.0, 2: 9.6}.get(columns, 10.8)
    figure, panels = new_figure(width, 0.7 + 2.8 * rows, rows, columns, share="rows")
    order = [t["id"] for t in results["trials"]]
    # Later trials stronger.
    shades = [0.4 + 0.6 * order.index(t["id"]) / max(len(order) - 1, 1) for t in trials]
    values = scale * np.array([value_of(results, t) for t in trials])
    default, best, handles = results.get("default") or {}, best_of(results), {}
    optimum = found["optimum"]  # which may be better than any trial
    expected = [] if optimum is None else [scale * optimum["mean"]]
    low, high = window(results, np.append(values, expected))
    for place, (axes, p) in enumerate(zip(panels, parameters, strict=False)):
        row = found["parameters"].get(p["name"])
        if row:
            x, mean, sd = (np.array(row["profile"][key]) for key in ("value", "mean", "sd"))
            mean, sd = scale * mean, scale * sd
            (line,) = axes.plot(x, mean, color=GREEN, lw=1.8, zorder=2)
            band = axes.fill_between(x, mean - 2 * sd, mean + 2 * sd, color=GREEN, alpha=0.15, lw=0)
            handles["surrogate ± 2 deviations"] = (band, line)
        x = [at(t["values"], p["name"]) for t in trials]
        kept = [i for i, v in enumerate(x) if v is not None]
        handles["trial (later ones stronger)"] = axes.scatter(
            [x[i] for i in kept],
            np.clip(values[kept], low, high),
            s=26,
            color=BLUE,
            alpha=[shades[i] for i in kept],
            edgecolors="none",
            zorder=3,
            clip_on=False,
        )
        usual, measured = at(default.get("values") or {}, p["name"]), value_of(results, default)
        if usual is not None and (p["scale"] != "log" or usual > 0):
            axes.axvline(usual, color=GREY, lw=1, ls=(0, (4, 3)), zorder=0)
            if measured is not None:
                y = np.clip(scale * measured, low, high)
                look = {"s": 52, "marker": "D", "color": GREY, "edgecolors": PAPER, "zorder": 4}
                handles["untuned default"] = axes.scatter([usual], [y], clip_on=False, **look)
        if best and at(best["values"], p["name"]) is not None:
            handles["best trial"] = axes.scatter(
                [best["values"][p["name"]]],
                [scale * value_of(results, best)],
                **{"s": 150, "marker": "*", "color": ORANGE, "edgecolors": PAPER, "zorder": 5},
            )
        set_axis(axes, p)
        axes.set_ylim(low, high)
        axes.set_xlabel(without_math(wrapped(p["title"], 34)))
        axes.set_ylabel(label_of(results) if place % columns == 0 else "")
        axes.tick_params(labelleft=place % columns == 0)
    for axes in panels[len(parameters) :]:
        axes.remove()
    add_legend(figure, handles)
    return figure


def surface(results: Mapping[str, Any], analysis: Mapping[str, Any]) -> Figure | None:
    """The objective over two parameters: the surrogate, or where there is none the trials' own.

    Arguments and result as for `objective`.
    """
    found, trials = analysis["sensitivity"], usable(results)
    surface = found["map"]
    if len(results["parameters"]) < 2 or not trials:
        return None
    chosen = [surface["x"], surface["y"]] if surface else None
    x, y = [p for p in results["parameters"] if chosen is None or p["name"] in chosen][:2]
    scale, least = scale_of(results), results["objective"]["direction"] == "min"
    figure, (axes,) = new_figure(7.4, 5.2)
    # Cividis: even steps in lightness, the same for the colour-blind. Bright is better.
    shades = "cividis_r" if least else "cividis"
    handles, dots = {}, {"color": "white", "s": 24}
    if surface:
        filled = axes.contourf(
            surface["xs"],
            surface["ys"],
            scale * np.array(surface["mean"]),
            levels=14,
            cmap=shades,
            zorder=0,
        )
        filled.set_edgecolor("face")
    else:
        values = scale * np.array([value_of(results, t) for t in trials])
        low, high = window(results, values)
        dots = {"c": np.clip(values, low, high), "cmap": shades, "s": 60}
    # Black and white rather than the page's colours: they lie on the map, not on the page.
    marks = [
        ("trial", trials, dots | {"edgecolors": "black", "lw": 0.7}),
        (
            "untuned default",
            [results.get("default") or {}],
            {"s": 62, "marker": "D", "color": GREY, "edgecolors": "white", "lw": 1.2},
        ),
        (
            "surrogate's optimum",
            [found["optimum"] or {}],
            {"s": 90, "marker": "P", "color": "white", "edgecolors": "black", "lw": 1},
        ),
        (
            "best trial",
            [best_of(results) or {}],
            {"s": 190, "marker": "*", "color": ORANGE, "edgecolors": "white", "lw": 1},
        ),
    ]
    for name, points, look in marks:
        places = [[at(point.get("values") or {}, p["name"]) for p in (x, y)] for point in points]
        places = [
            place
            for place in places
            if None not in place
            and all(np.isfinite(to_unit(p, v)) for p, v in zip((x, y), place, strict=True))
        ]
        if places:
            handles[name] = axes.scatter(*np.transpose(places), zorder=3, clip_on=False, **look)
    for axis, p, set_label in (("x", x, axes.set_xlabel), ("y", y, axes.set_ylabel)):
        set_axis(axes, p, axis)
        set_label(without_math(p["title"]))
    axes.grid(visible=False)
    bar = figure.colorbar(filled if surface else handles["trial"], ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=9, length=3)
    bar.set_label(label_of(results), color=INK, fontsize=9.5)
    add_legend(figure, handles)
    return figure


def gained(analysis: Mapping[str, Any]) -> tuple[list[Group], Measure | None]:
    """For `dots`: the tuned setting less the untuned one and less plain, seed by seed."""
    found = analysis["gain"] or {"measures": (), "contrasts": {}}
    measure = next((m for m in found["measures"] if m.name == found["primary"]), None)
    if measure is None:
        return [], None
    rows = [
        Mean(
            f"tuned against {one['reference']}",
            {"default": BLUE, "plain": ORANGE}[role],
            row["difference"],
            (row["low"], row["high"]) if row["low"] is not None and row["n"][0] > 2 else None,
            one["differences"],
        )
        for role, one in found["contrasts"].items()
        if (row := one["measures"][measure.name])["difference"] is not None
    ]
    return [Group("", rows, 0.0)] if rows else [], measure


def progress(results: Mapping[str, Any], analysis: Mapping[str, Any]) -> Figure | None:
    """The objective trial by trial and the best so far. Arguments and result as for `objective`."""
    full = [t["id"] for t in usable(results)]
    if not full:
        return None
    scale, least = scale_of(results), results["objective"]["direction"] == "min"
    figure, (axes,) = new_figure(5.2, 3.6)
    numbered = list(enumerate(results["trials"], start=1))
    done = [(i, scale * value_of(results, t)) for i, t in numbered if t["id"] in full]
    low, high = window(results, np.array([value for _, value in done]))
    other = [
        (i, scale * value_of(results, t))
        for i, t in numbered
        if t["id"] not in full and t["status"] == "COMPLETED" and value_of(results, t) is not None
    ]
    failed = [i for i, t in numbered if t["status"] in ("FAILED", "INVALID")]
    handles, dots = {}, {"s": 26, "zorder": 3, "clip_on": False}
    x, y = np.transpose(done)
    handles["trial"] = axes.scatter(
        x, np.clip(y, low, high), color=BLUE, edgecolors=PAPER, lw=0.5, **dots
    )
    if other:
        i, value = np.transpose(other)
        handles["trial of fewer epochs"] = axes.scatter(
            i, np.clip(value, low, high), facecolors="none", edgecolors=BLUE, lw=1, **dots
        )
    if failed:
        handles["failed trial"] = axes.scatter(
            failed, [high if least else low] * len(failed), marker="x", color=ORANGE, **dots
        )
    best = np.minimum.accumulate(y) if least else np.maximum.accumulate(y)
    (handles["best so far"],) = axes.step(
        np.append(x, len(numbered)), np.append(best, best[-1]), where="post", color=ORANGE, lw=1.8
    )
    measured = value_of(results, results.get("default") or {})
    if measured is not None and low <= scale * measured <= high:
        look = {"color": GREY, "lw": 1.3, "ls": (0, (4, 3)), "zorder": 0}
        handles["untuned default"] = axes.axhline(scale * measured, **look)
    axes.set_ylim(low, high)
    axes.set_xlim(0.5 - 0.01 * len(numbered), len(numbered) + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("Trial, in order of start")
    axes.set_ylabel(label_of(results))
    add_legend(figure, handles, 3)
    return figure


#: Every picture of the page.
FIGURES: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Any]] = {
    "objective": objective,
    "surface": surface,
    "parallel": parallel,
    "progress": progress,
}
