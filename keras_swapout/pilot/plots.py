"""The report's figures, one function each, as `matplotlib.figure.Figure`.

Nothing here touches pyplot or its global state. Text and axes are drawn in `INK` and gaps in
`PAPER`, which the report exchanges for the page's own colours.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_swapout.pilot.measures import PRIMARY, at
from keras_swapout.pilot.statistics import mean_interval
from keras_swapout.pilot.verdicts import BASELINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#21242a"
PAPER = "#fefefd"
PLAIN = "#7d8188"
# Okabe and Ito's palette less its yellow and black, which vanish on one of the two backgrounds,
# then muted colours. Line and marker change as well, so that no method rests on its colour alone.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#a03b70",
    "#8f8a1e",
    "#6a5acd",
    "#8c6d4f",
    "#3fa39a",
)
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
FEW = 10


class Style(NamedTuple):
    """How a method is drawn everywhere."""

    title: str
    colour: str
    dashes: Any
    marker: str


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
    """Test accuracy: every seed a dot, the mean with its 95 % interval.

    Args:
        results: what a pilot measured.
        comparison: what `compare` made of it.

    Returns:
        The figure, or None if there is nothing to draw.
    """
    rows = {
        name: row
        for name, method in comparison["methods"].items()
        if (row := method["measures"].get(PRIMARY.name)) and row["n"]
    }
    if not rows:
        return None
    figure, (axes,) = _figure(7.6, 0.9 + 0.46 * len(rows))
    drawn, ends = styles(results), []
    for place, (name, row) in enumerate(rows.items()):
        style, values = drawn[name], 100 * np.array(row["values"])
        below = place + 0.2
        if interval := mean_interval(row["values"]):
            axes.plot(100 * np.array(interval), [below] * 2, color=style.colour, lw=1.8, zorder=2)
            ends += [100 * end for end in interval]
        axes.plot([100 * row["mean"]] * 2, [below - 0.13, below + 0.13], color=style.colour, lw=2.5)
        # Equal accuracies are common on small test sets: lift the dots apart.
        lift = np.linspace(-0.09, 0.09, len(values)) if len(values) > 1 else np.zeros(1)
        look = {"color": style.colour, "edgecolors": PAPER, "lw": 0.7}
        axes.scatter(values, place - 0.14 + lift, s=28, zorder=3, **look)
    if BASELINE in rows:
        axes.axvline(100 * rows[BASELINE]["mean"], color=PLAIN, lw=1, ls=(0, (4, 3)), zorder=0)
    # With two or three seeds an interval can be wider than all that was seen; the dots set the
    # scale, and a wide interval runs out of the picture.
    everything = 100 * np.concatenate([row["values"] for row in rows.values()])
    low, high = everything.min(), everything.max()
    room = max(0.6 * (high - low), 0.5)
    edge = 0.04 * (high - low) + 0.1
    low, high = max(low - room, min([low, *ends])), min(high + room, max([high, *ends]))
    axes.set_xlim(max(low - edge, -1), min(high + edge, 100 + edge))
    _rows(axes, [drawn[name].title for name in rows])
    axes.set_xlabel("Test accuracy (%)")
    return figure


def severities(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Figure | None:
    """Accuracy against severity, averaged over the corruptions.

    Arguments and result as for `seeds`.
    """
    drawn, handles, levels = styles(results), {}, {0}
    figure, (axes,) = _figure(7.6, _beside_legend(drawn))
    for name, style in drawn.items():
        curves = []
        for run in _runs(results, name):
            curve = {int(level): value for level, value in _by_severity(run).items()}
            if curve:
                levels |= set(curve)
                curves.append({0: run.get("test", {}).get("accuracy")} | curve)
        if curves:
            handles[name] = _key(style, marker=True)
            _band(
                axes,
                sorted(set().union(*curves)),
                lambda level, curves=curves: [100 * _number(curve.get(level)) for curve in curves],
                style,
                marker=True,
            )
    if not handles:
        return None
    axes.set_xticks(sorted(levels), ["clean" if k == 0 else str(k) for k in sorted(levels)])
    axes.set_xlabel("Severity of the corruption")
    axes.set_ylabel("Accuracy (%)")
    _legend(figure, handles, drawn)
    return figure


def calibration(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Figure | None:
    """Accuracy against confidence, seeds pooled, bins weighted by their counts.

    A panel for each method, with plain behind it: a dozen curves in one would hide each other.
    Bins with fewer than `FEW` images in all are left out. Arguments and result as for `seeds`.
    """
    drawn, pooled = styles(results), {}
    for name in drawn:
        count, confidence, accuracy = pooled_bins(_runs(results, name))
        full = (count > 0) & (count >= min(FEW, count.max(initial=0)))
        if full.any():
            pooled[name] = (100 * confidence[full], 100 * accuracy[full], count[full] / count.sum())
    if not pooled:
        return None
    rows = math.ceil(len(pooled) / 4)
    columns = math.ceil(len(pooled) / rows)
    figure, panels = _figure(0.5 + 2.2 * columns, 0.4 + 2.55 * rows, rows, columns, share="all")
    lowest = min(min(x.min(), y.min()) for x, y, _ in pooled.values())
    start = max(0.0, 10 * math.floor(lowest / 10 - 0.2))
    for axes, name in zip(panels, pooled, strict=False):
        axes.plot([0, 100], [0, 100], color=INK, lw=1, ls=(0, (4, 3)), alpha=0.6, zorder=0)
        if name != BASELINE and BASELINE in pooled:
            axes.plot(*pooled[BASELINE][:2], color=PLAIN, lw=1, alpha=0.7, zorder=1)
        x, y, share = pooled[name]
        style = drawn[name]
        axes.plot(x, y, color=style.colour, lw=1.4, zorder=2)
        look = {"color": style.colour, "edgecolors": PAPER, "lw": 0.6}
        axes.scatter(x, y, s=12 + 60 * share, zorder=3, **look)
        axes.set_xlim(start, 103)
        axes.set_ylim(start, 103)
        title = _wrapped(style.title, 24)
        row = comparison["methods"][name]["measures"].get("ece")
        if row and row["mean"] is not None:
            title += f"\nECE {100 * row['mean']:.1f} %"
        axes.set_title(title, loc="left", fontsize=9.5, color=INK, parse_math=False)
    for axes in panels[len(pooled) :]:
        axes.remove()
    for place, axes in enumerate(panels[: len(pooled)]):
        below = place + columns >= len(pooled)
        axes.tick_params(labelbottom=below, labelleft=place % columns == 0)
        axes.set_xlabel("Confidence (%)" if below else "")
        axes.set_ylabel("Accuracy (%)" if place % columns == 0 else "")
    return figure


def training(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Figure | None:
    """Training loss and validation accuracy over the epochs, mean and one standard deviation.

    Arguments and result as for `seeds`.
    """
    panels = (("loss", "Training loss", 1), ("val_accuracy", "Validation accuracy (%)", 100))
    drawn, handles = styles(results), {}
    figure, both = _figure(9.6, _beside_legend(drawn), columns=2)
    for axes, (key, label, scale) in zip(both, panels, strict=True):
        for name, style in drawn.items():
            curves = [
                [scale * _number(value) for value in run.get("history", {}).get(key) or []]
                for run in _runs(results, name)
            ]
            length = max(map(len, curves), default=0)
            if length:
                handles[name] = _key(style)
                _band(
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
    _log_if_wide(both[0])
    _legend(figure, handles, drawn)
    return figure


def cost(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Figure | None:
    """Time of a training step and of inference as ratios to plain, median and quartiles.

    Arguments and result as for `seeds`.
    """
    costs = {
        name: method["cost"]
        for name, method in comparison["methods"].items()
        if method["cost"] and method["cost"].get("train_step_ratio") is not None
    }
    if not costs:
        return None
    figure, both = _figure(7.6, 1.0 + 0.36 * len(costs), columns=2, share="rows")
    drawn = styles(results)
    panels = (("train_step", "Training step"), ("inference", "Inference"))
    for axes, (key, label) in zip(both, panels, strict=True):
        axes.axvline(1, color=PLAIN, lw=1, ls=(0, (4, 3)), zorder=0)
        ends = [1.0]
        for place, (name, entry) in enumerate(costs.items()):
            ratio = entry.get(f"{key}_ratio")
            if ratio is None:
                continue
            low = entry.get(f"{key}_ratio_low")
            high = entry.get(f"{key}_ratio_high")
            colour = drawn[name].colour
            if low is not None and high is not None:
                axes.plot([low, high], [place] * 2, color=colour, lw=2)
                ends += [low, high]
            axes.scatter([ratio], [place], s=34, color=colour, edgecolors=PAPER, zorder=3)
            axes.annotate(
                f"{ratio:.2f}",
                (1.02, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=9,
                color=INK,
                annotation_clip=False,
            )
            ends.append(ratio)
        room = max(0.08 * (max(ends) - min(ends)), 0.03)
        axes.set_xlim(min(ends) - room, max(ends) + room)
        axes.set_title(label, loc="left", fontsize=10, color=INK)
        axes.set_xlabel("Time as a multiple of plain's")
        axes.locator_params(axis="x", nbins=5)
    _rows(both[0], [drawn[name].title for name in costs])
    both[1].tick_params(axis="y", length=0, labelleft=False)
    both[1].grid(visible=False, axis="y")
    return figure


def agreement(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Figure | None:
    """Disagreement and train-inference gap of every method: every seed a dot.

    Arguments and result as for `seeds`.
    """
    found = comparison["agreement"]
    panels = [m for m in (found or {}).get("measures", ()) if m["name"] in _AGREEMENT]
    if not panels:
        return None
    rows = {
        name: row for name, row in found["methods"].items() if row[panels[-1]["name"]]["values"]
    }
    if not rows:
        return None
    figure, every = _figure(9.0, 1.0 + 0.33 * len(rows), columns=len(panels), share="rows")
    drawn = styles(results)
    for axes, measure in zip(every, panels, strict=True):
        scale = 100 if measure["unit"] == "%" else 1
        for place, (name, row) in enumerate(rows.items()):
            summary, colour = row[measure["name"]], drawn[name].colour
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
        unit = f" ({measure['unit']})" if measure["unit"] else ""
        axes.set_title(_wrapped(measure["title"] + unit, 30), loc="left", fontsize=9.5, color=INK)
        axes.locator_params(axis="x", nbins=5)
    _rows(every[0], [drawn[name].title for name in rows])
    for axes in every[1:]:
        axes.tick_params(axis="y", length=0, labelleft=False)
        axes.grid(visible=False, axis="y")
    return figure


_AGREEMENT = ("two_way_kl", "disagreement", "loss_gap")


def alpha(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Figure | None:
    """Test accuracy, disagreement and gap against alpha, a line for each kind of layer.

    Arguments and result as for `seeds`. None where no layer was trained with two alphas.
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
    figure, every = _figure(10.5, 3.8, columns=3)
    for axes, (label, path, scale) in zip(every, panels, strict=True):
        for alone, names in lines.items():

            def values(name, path=path, scale=scale):
                return [scale * _number(at(run, path)) for run in _runs(results, name)]

            by_alpha = {place: values(name) for place, name in names.items()}
            _band(axes, sorted(names), by_alpha.__getitem__, drawn[alone], marker=True)
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
    _legend(figure, {alone: _key(style, marker=True) for alone, style in drawn.items()}, drawn)
    return figure


# The figures in the order of the report, by name.
FIGURES: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Figure | None]] = {
    "seeds": seeds,
    "severities": severities,
    "calibration": calibration,
    "training": training,
    "cost": cost,
    "agreement": agreement,
    "alpha": alpha,
}


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


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _runs(results: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [run for run in results["runs"] if run["method"] == name]


def _by_severity(run: Mapping[str, Any]) -> dict[str, float]:
    """Mean accuracy over the corruptions at each severity."""
    found: dict[str, list[float]] = {}
    for by_severity in (run.get("corruption") or {}).values():
        for severity, accuracy in by_severity.items():
            found.setdefault(severity, []).append(_number(accuracy))
    return {severity: float(np.mean(values)) for severity, values in found.items()}


def _figure(
    width: float, height: float, rows: int = 1, columns: int = 1, share: str = "none"
) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    FigureCanvasAgg(figure)
    sharex = "all" if share == "all" else "none"
    sharey = "none" if share == "none" else "all"
    every = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).ravel()
    for axes in every:
        axes.set_facecolor("none")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set(color=INK, alpha=0.5, linewidth=0.8)
        axes.tick_params(colors=INK, labelsize=9, width=0.8, length=3)
        axes.grid(color=INK, alpha=0.12, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.label.set(color=INK, fontsize=9.5)
        axes.yaxis.label.set(color=INK, fontsize=9.5)
    return figure, list(every)


def _wrapped(title: str, width: int = 26) -> str:
    lines = textwrap.wrap(title, width, max_lines=2, placeholder=" …")
    return "\n".join(lines) or " "


def _rows(axes: Axes, titles: Sequence[str]) -> None:
    """One row per method, the first on top."""
    axes.set_yticks(range(len(titles)), [_wrapped(title) for title in titles])
    for label in axes.get_yticklabels():
        label.set(fontsize=9.5, parse_math=False, linespacing=1.0)
    axes.set_ylim(len(titles) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _band(
    axes: Axes,
    places: Sequence[float],
    values: Callable[[float], list[float]],
    style: Style,
    marker: bool = False,
) -> None:
    """Mean over seeds with one standard deviation either side."""
    mean, sd = [], []
    for place in places:
        here = [value for value in values(place) if math.isfinite(value)]
        mean.append(float(np.mean(here)) if here else float("nan"))
        sd.append(float(np.std(here, ddof=1)) if len(here) > 1 else 0.0)
    axes.plot(
        places,
        mean,
        color=style.colour,
        ls=style.dashes,
        lw=1.6,
        # A single epoch has no line to see.
        marker=style.marker if marker or len(places) == 1 else None,
        ms=5,
        mec=PAPER,
        mew=0.6,
    )
    if any(sd):
        axes.fill_between(
            places,
            np.subtract(mean, sd),
            np.add(mean, sd),
            color=style.colour,
            alpha=0.13,
            lw=0,
        )


def _log_if_wide(axes: Axes) -> None:
    """A logarithmic vertical axis where the values span more than a factor of 20."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    values = np.concatenate([line.get_ydata() for line in axes.lines] or [np.ones(1)])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)


def _key(style: Style, marker: bool = False) -> Any:
    """A method's entry in a legend."""
    from matplotlib.lines import Line2D

    return Line2D(
        [],
        [],
        color=style.colour,
        ls=style.dashes,
        lw=1.6,
        marker=style.marker if marker else None,
        ms=5,
        mec=PAPER,
        mew=0.6,
    )


def _beside_legend(drawn: Mapping[str, Style]) -> float:
    """Height of a figure, such that the legend fits beside it."""
    lines = sum(1.4 + _wrapped(style.title).count("\n") for style in drawn.values())
    return max(3.8, 0.4 + 0.165 * lines)


def _legend(
    figure: Figure,
    handles: Mapping[str, Any],
    drawn: Mapping[str, Style],
) -> None:
    texts = [_wrapped(drawn[name].title) for name in handles]
    legend = figure.legend(
        list(handles.values()),
        # A label that starts with an underscore would be left out.
        [f"\u200b{text}" if text.startswith("_") else text for text in texts],
        loc="outside right upper",
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=2.6,
        labelspacing=0.6,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
