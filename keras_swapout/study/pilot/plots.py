"""The report's figures, one function each, as `matplotlib.figure.Figure`.

Those that `keras-swapout evaluate` draws too are in `keras_swapout.study.report.plots`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_swapout.study.measuring.measure import at
from keras_swapout.study.measuring.statistics import mean_interval
from keras_swapout.study.pilot.compare import BASELINE, condition
from keras_swapout.study.report import plots as shared
from keras_swapout.study.report.dots import Group, Mean, dots
from keras_swapout.study.report.drawing import (
    COLOURS,
    DASHES,
    INK,
    MARKERS,
    PAPER,
    Style,
    add_band,
    add_legend,
    as_float,
    legend_height,
    legend_key,
    log_if_wide,
    name_rows,
    new_figure,
    wrapped,
)
from keras_swapout.study.report.drawing import GREY as PLAIN

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def styles(results: Mapping[str, Any]) -> dict[str, Style]:
    """Title, colour, dashes and marker of every method, by its place in the order.

    Example:
        >>> drawn = styles({"methods": {"plain": {"title": "Plain"}, "a": {"title": "A"}}})
        >>> drawn["plain"].colour == PLAIN, drawn["a"].colour == COLOURS[0]
        (True, True)
    """
    found = {}
    others = [name for name in results["methods"] if name != BASELINE]
    for name, method in results["methods"].items():
        title = str(method.get("title", name))
        if name == BASELINE:
            found[name] = Style(title, PLAIN, "-", "o")
            continue
        i = others.index(name)
        found[name] = Style(
            title,
            COLOURS[i % len(COLOURS)],
            DASHES[i // 4 % len(DASHES)],
            MARKERS[i % len(MARKERS)],
        )
    return found


def seeds(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Figure | None:
    """The measure that decides: every seed a dot, the mean with its 95 % interval, by condition.

    Args:
        results: what a pilot measured.
        comparison: what `compare` made of it.

    Returns:
        The figure, or None if there is nothing to draw.
    """
    return dots(groups(results, comparison), comparison["primary"])


def groups(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> list[Group]:
    """What `seeds` draws: the methods of each condition, and plain's mean to see them against."""
    primary, conditions, drawn = comparison["primary"], comparison["conditions"], styles(results)
    found = []
    for share, own in conditions.items() if primary else ():
        rows = {
            name: row
            for name, method in own["methods"].items()
            if (row := method["measures"].get(primary.name)) and row["n"]
        }
        means = [
            Mean(
                drawn[name].title,
                drawn[name].colour,
                row["mean"],
                mean_interval(row["values"]) if row["n"] > 2 else None,
                row["values"],
            )
            for name, row in rows.items()
        ]
        heading = condition(share).removeprefix("With ").capitalize() if len(conditions) > 1 else ""
        found.append(Group(heading, means, rows[BASELINE]["mean"] if BASELINE in rows else None))
    return found


def severities(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Figure | None:
    """Accuracy against severity.

    Args:
        results: what a pilot measured in one condition.
        comparison: what `compare_runs` made of it.

    Returns:
        The figure, or None if there is nothing to draw.
    """
    return shared.severities(by_method(results), styles(results))


def calibration(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Figure | None:
    """Accuracy against confidence. Arguments and result as for `severities`."""
    ece = {
        name: (method["measures"].get("ece") or {}).get("mean")
        for name, method in comparison["methods"].items()
    }
    return shared.calibration(by_method(results), styles(results), ece, BASELINE)


def training(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Figure | None:
    """Training loss and validation accuracy over the epochs, mean and one standard deviation.

    Arguments and result as for `severities`.
    """
    panels = [("loss", "Training loss", 1), ("val_accuracy", "Validation accuracy (%)", 100)]
    if any("val_rmse" in (run.get("history") or {}) for run in results["runs"]):
        panels[1] = ("val_rmse", "Validation error (RMSE)", 1)
    drawn, handles = styles(results), {}
    figure, both = new_figure(9.6, legend_height(drawn), columns=2)
    for axes, (key, label, scale) in zip(both, panels, strict=True):
        for name, style in drawn.items():
            curves = [
                [scale * as_float(value) for value in run.get("history", {}).get(key) or []]
                for run in _runs(results, name)
            ]
            length = max(map(len, curves), default=0)
            if length:
                handles[name] = legend_key(style)
                add_band(
                    axes,
                    range(1, length + 1),
                    lambda epoch, curves=curves: [
                        curve[epoch - 1] for curve in curves if len(curve) >= epoch
                    ],
                    style,
                )
        axes.set_xlabel("Epoch")
        axes.set_title(label, loc="left", fontsize=10, color=INK)
        axes.xaxis.get_major_locator().set_params(integer=True)
    if not handles:
        return None
    log_if_wide(both[0])
    add_legend(figure, handles, drawn)
    return figure


def agreement(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Figure | None:
    """Disagreement and train-inference gap of every method: every seed a dot.

    Arguments and result as for `severities`.
    """
    found = comparison["agreement"]
    panels = [m for m in (found or {}).get("measures", ()) if m.name in _AGREEMENT]
    if not panels:
        return None
    rows = {name: row for name, row in found["methods"].items() if row[panels[-1].name]["values"]}
    if not rows:
        return None
    figure, every = new_figure(9.0, 1.0 + 0.33 * len(rows), columns=len(panels), share="rows")
    drawn = styles(results)
    for axes, measure in zip(every, panels, strict=True):
        scale = 100 if measure.unit == "%" else 1
        for place, (name, row) in enumerate(rows.items()):
            summary, colour = row[measure.name], drawn[name].colour
            if not summary["values"]:
                continue
            values = scale * np.array(summary["values"])
            axes.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color=colour, lw=2.2)
            axes.scatter(
                values,
                [place] * len(values),
                s=24,
                color=colour,
                edgecolors=PAPER,
                lw=0.7,
                zorder=3,
            )
        axes.set_xlim(left=0)
        unit = f" ({measure.unit})" if measure.unit else ""
        axes.set_title(wrapped(measure.title + unit, 30), loc="left", fontsize=9.5, color=INK)
        axes.locator_params(axis="x", nbins=5)
    name_rows(every[0], [drawn[name].title for name in rows])
    for axes in every[1:]:
        axes.tick_params(axis="y", length=0, labelleft=False)
        axes.grid(visible=False, axis="y")
    return figure


def inference(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Figure | None:
    """Error and likelihood of each way of inference, a line for each method.

    Arguments and result as for `severities`.
    """
    found = comparison["inference"]
    if not found:
        return None
    drawn = {name: style for name, style in styles(results).items() if name in found["methods"]}
    panels = [
        ("Test error (%)", "accuracy", lambda v: 100 * (1 - v)),
        ("Negative log likelihood", "nll", lambda v: v),
        ("Test error (RMSE)", "rmse", lambda v: v),
        ("Mean absolute error", "mae", lambda v: v),
    ]
    measured = [measure.name for measure in found["measures"]]
    panels = [panel for panel in panels if panel[1] in measured][:2]
    figure, both = new_figure(10.5, max(4.2, legend_height(drawn)), columns=2)
    for axes, (label, key, shown) in zip(both, panels, strict=True):
        for name, style in drawn.items():
            values = {
                found["ways"].index(way): [shown(v) for v in row["measures"][key]["values"]]
                for way, row in found["methods"][name].items()
            }
            if len(drawn) > 3:  # more bands would hide each other
                values = {place: [float(np.mean(v))] for place, v in values.items()}
            add_band(axes, list(values), values.__getitem__, style, marker=True)
        # The second name a line lower than the first, to have room.
        titles = [way.replace("stochastic ", "") for way in found["ways"]]
        titles[1:2] = [f"\n{title}" for title in titles[1:2]]
        axes.set_xticks(range(len(titles)), titles)
        axes.set_title(label, loc="left", fontsize=10, color=INK)
        log_if_wide(axes)
    add_legend(figure, {name: legend_key(s, marker=True) for name, s in drawn.items()}, drawn)
    return figure


_AGREEMENT = ("two_way_kl", "disagreement", "loss_gap")


def alpha(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Figure | None:
    """Test accuracy, disagreement and gap against alpha, a line for each kind of layer.

    Arguments and result as for `severities`. None where no layer was trained with two alphas.
    """
    lines: dict[str, dict[float, str]] = {}
    for name, method in results["methods"].items():
        if method.get("alpha") is not None:
            lines.setdefault(method["alone"], {})[method["alpha"]] = name
    lines = {alone: names for alone, names in lines.items() if len(names) > 1}
    if not lines:
        return None
    panels = (
        ("Test accuracy (%)", "test.accuracy", 100),
        ("Sub-model disagreement (%)", "consistency.disagreement", 100),
        ("Training gap in loss", "consistency.loss_gap", 1),
    )
    drawn = {
        # In the look of its first alpha, under the layer's own name.
        alone: styles(results)[names[min(names)]]._replace(
            title=str(results["methods"].get(alone, {}).get("title", alone)), dashes="-"
        )
        for alone, names in lines.items()
    }
    figure, every = new_figure(10.5, 3.8, columns=3)
    for axes, (label, path, scale) in zip(every, panels, strict=True):
        for alone, names in lines.items():

            def values(name, path=path, scale=scale):
                return [scale * as_float(at(run, path)) for run in _runs(results, name)]

            by_alpha = {place: values(name) for place, name in names.items()}
            add_band(axes, sorted(names), by_alpha.__getitem__, drawn[alone], marker=True)
            if without := [value for value in values(alone) if math.isfinite(value)]:
                look = {"color": drawn[alone].colour, "lw": 1, "ls": (0, (4, 3))}
                axes.axhline(float(np.mean(without)), **look)
        places = sorted({place for names in lines.values() for place in names})
        if places[0] > 0:
            axes.set_xscale("log")
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.minorticks_off()
        axes.set_xlabel("alpha")
        axes.set_title(label, loc="left", fontsize=10, color=INK)
    add_legend(
        figure, {alone: legend_key(style, marker=True) for alone, style in drawn.items()}, drawn
    )
    return figure


# The figures in the order of the report, by name.
FIGURES: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Figure | None]] = {
    "severities": severities,
    "calibration": calibration,
    "training": training,
    "agreement": agreement,
    "alpha": alpha,
    "inference": inference,
}


def by_method(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The runs of every method."""
    return {name: _runs(results, name) for name in results["methods"]}


def _runs(results: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [run for run in results["runs"] if run["method"] == name]
