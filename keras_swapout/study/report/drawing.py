"""What figures are drawn with: colours, axes, bands and legends, without pyplot's global state.

Text and axes are drawn in `INK` and gaps in `PAPER`, which a page exchanges for its own colours.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#21242a"
PAPER = "#fefefd"
GREY = "#7d8188"
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


class Style(NamedTuple):
    """How a method is drawn everywhere."""

    title: str
    colour: str
    dashes: Any
    marker: str


def as_float(value: Any) -> float:
    return float("nan") if value is None else float(value)


def new_figure(
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


def wrapped(title: str, width: int = 26) -> str:
    lines = textwrap.wrap(title, width, max_lines=2, placeholder=" …")
    return "\n".join(lines) or " "


def name_rows(axes: Axes, titles: Sequence[str]) -> None:
    """One row per method, the first on top."""
    axes.set_yticks(range(len(titles)), [wrapped(title) for title in titles])
    for label in axes.get_yticklabels():
        label.set(fontsize=9.5, parse_math=False, linespacing=1.0)
    axes.set_ylim(len(titles) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def add_band(
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


def log_if_wide(axes: Axes) -> None:
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


def legend_key(style: Style, marker: bool = False) -> Any:
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


def legend_height(drawn: Mapping[str, Style]) -> float:
    """Height of a figure, such that the legend fits beside it."""
    lines = sum(1.4 + wrapped(style.title).count("\n") for style in drawn.values())
    return max(3.8, 0.4 + 0.165 * lines)


def add_legend(
    figure: Figure,
    handles: Mapping[str, Any],
    drawn: Mapping[str, Style],
) -> None:
    texts = [wrapped(drawn[name].title) for name in handles]
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
