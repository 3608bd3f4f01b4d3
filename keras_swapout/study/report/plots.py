"""Figures of robustness, calibration and abstention, as `matplotlib.figure.Figure`.

A row is what a table has a row for: a method of the pilot, a model in one way of inference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_swapout.study.report.drawing import (
    GREY,
    INK,
    PAPER,
    Style,
    add_band,
    add_legend,
    as_float,
    legend_height,
    legend_key,
    new_figure,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Runs = Mapping[str, Sequence[Mapping[str, Any]]]
FEW = 10


def severities(runs: Runs, drawn: Mapping[str, Style]) -> Figure | None:
    """Accuracy against severity, averaged over the corruptions, with a band of one deviation.

    Args:
        runs: of every row to draw its runs, each with "test" {"accuracy"} and "corruption" {name:
            {severity: accuracy}}; what is missing is passed over.
        drawn: the look of every row, in order.

    Returns:
        The figure, or None if there is nothing to draw.
    """
    handles, levels = {}, {0}
    figure, (axes,) = new_figure(7.6, legend_height(drawn))
    for name, style in drawn.items():
        curves = []
        for run in runs.get(name, ()):
            curve = {int(level): value for level, value in _by_severity(run).items()}
            if curve:
                levels |= set(curve)
                curves.append({0: run.get("test", {}).get("accuracy")} | curve)
        if curves:
            handles[name] = legend_key(style, marker=True)
            add_band(
                axes,
                sorted(set().union(*curves)),
                lambda level, curves=curves: [100 * as_float(curve.get(level)) for curve in curves],
                style,
                marker=True,
            )
    if not handles:
        return None
    axes.set_xticks(sorted(levels), ["clean" if k == 0 else str(k) for k in sorted(levels)])
    axes.set_xlabel("Severity of the corruption")
    axes.set_ylabel("Accuracy (%)")
    add_legend(figure, handles, drawn)
    return figure


def calibration(
    runs: Runs,
    drawn: Mapping[str, Style],
    ece: Mapping[str, float | None],
    baseline: str | None = None,
) -> Figure | None:
    """Accuracy against confidence, seeds pooled, bins weighted by their counts.

    A panel for each row, with the baseline behind it: a dozen curves in one would hide each other.
    Bins with fewer than `FEW` images in all are left out.

    Args:
        runs, drawn: as for `severities`; each run with a `calibration`.
        ece: expected calibration error of every row, or None.
        baseline: the row to draw behind the others.

    Returns:
        The figure, or None if there is nothing to draw.
    """
    pooled = {}
    for name in drawn:
        count, confidence, accuracy = pooled_bins(runs.get(name, ()))
        full = (count > 0) & (count >= min(FEW, count.max(initial=0)))
        if full.any():
            pooled[name] = (100 * confidence[full], 100 * accuracy[full], count[full] / count.sum())
    if not pooled:
        return None
    rows = math.ceil(len(pooled) / 4)
    columns = math.ceil(len(pooled) / rows)
    figure, panels = new_figure(0.5 + 2.2 * columns, 0.4 + 2.55 * rows, rows, columns, share="all")
    lowest = min(min(x.min(), y.min()) for x, y, _ in pooled.values())
    start = max(0.0, 10 * math.floor(lowest / 10 - 0.2))
    for axes, name in zip(panels, pooled, strict=False):
        axes.plot([0, 100], [0, 100], color=INK, lw=1, ls=(0, (4, 3)), alpha=0.6, zorder=0)
        if name != baseline and baseline in pooled:
            axes.plot(*pooled[baseline][:2], color=GREY, lw=1, alpha=0.7, zorder=1)
        x, y, share = pooled[name]
        style = drawn[name]
        axes.plot(x, y, color=style.colour, lw=1.4, zorder=2)
        look = {"color": style.colour, "edgecolors": PAPER, "lw": 0.6}
        axes.scatter(x, y, s=12 + 60 * share, zorder=3, **look)
        axes.set_xlim(start, 103)
        axes.set_ylim(start, 103)
        title = wrapped(style.title, 24)
        if ece.get(name) is not None:
            title += f"\nECE {100 * ece[name]:.1f} %"
        axes.set_title(title, loc="left", fontsize=9.5, color=INK, parse_math=False)
    for axes in panels[len(pooled) :]:
        axes.remove()
    for place, axes in enumerate(panels[: len(pooled)]):
        below = place + columns >= len(pooled)
        axes.tick_params(labelbottom=below, labelleft=place % columns == 0)
        axes.set_xlabel("Confidence (%)" if below else "")
        axes.set_ylabel("Accuracy (%)" if place % columns == 0 else "")
    return figure


def risk_coverage(runs: Runs, drawn: Mapping[str, Style]) -> Figure | None:
    """Error rate among the images that are predicted, if the least sure ones are left to a person.

    Args:
        runs, drawn: as for `severities`; each run with a "risk_coverage" {"coverage", "risk"},
            lists of shares, the same coverages in all.

    Returns:
        The figure, or None if there is nothing to draw.
    """
    handles = {}
    figure, (axes,) = new_figure(7.6, legend_height(drawn))
    for name, style in drawn.items():
        curves = [run["risk_coverage"] for run in runs.get(name, ()) if run.get("risk_coverage")]
        if curves:
            handles[name] = legend_key(style)
            places = [100 * share for share in curves[0]["coverage"]]
            risks = 100 * np.transpose([curve["risk"] for curve in curves])
            by_place = dict(zip(places, risks.tolist(), strict=True))
            add_band(axes, places, by_place.__getitem__, style)
    if not handles:
        return None
    axes.set_xlim(0, 101)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Coverage: images predicted, the surest first (%)")
    axes.set_ylabel("Error rate among them (%)")
    add_legend(figure, handles, drawn)
    return figure


def pooled_bins(
    runs: Sequence[Mapping[str, Any]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibration bins of several runs as one.

    In bin b, count = sum_r n_rb and confidence = sum_r n_rb c_rb / count; accuracy likewise.

    Args:
        runs: runs with a `calibration` entry; others are passed over.

    Returns:
        Count, confidence and accuracy per bin; the latter two NaN in empty bins.

    Raises:
        ValueError: two runs have different bins.

    Example:
        >>> bins = {"edges": [0, 1], "count": [1], "confidence": [0.5], "accuracy": [1.0]}
        >>> more = {"edges": [0, 1], "count": [3], "confidence": [0.9], "accuracy": [1.0]}
        >>> count, confidence, _ = pooled_bins([{"calibration": bins}, {"calibration": more}])
        >>> count.tolist(), confidence.round(2).tolist()
        ([4.0], [0.8])
    """
    found = [run["calibration"] for run in runs if run.get("calibration")]
    if not found:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    if any(list(bins["edges"]) != list(found[0]["edges"]) for bins in found):
        raise ValueError("the runs have different calibration bins")
    count = np.array([bins["count"] for bins in found], float)

    def pool(key: str) -> np.ndarray:
        values = np.array([bins[key] for bins in found], float)
        # Empty bins hold null, which is NaN here.
        total = np.where(count > 0, count * values, 0).sum(0)
        return np.where(count.sum(0) > 0, total / np.maximum(count.sum(0), 1), np.nan)

    return count.sum(0), pool("confidence"), pool("accuracy")


def _by_severity(run: Mapping[str, Any]) -> dict[str, float]:
    """Mean accuracy over the corruptions at each severity."""
    found: dict[str, list[float]] = {}
    for by_severity in (run.get("corruption") or {}).values():
        for severity, accuracy in by_severity.items():
            found.setdefault(severity, []).append(as_float(accuracy))
    return {severity: float(np.mean(values)) for severity, values in found.items()}
