"""The picture below an answer: values as dots, their means, and intervals as bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_swapout.study.measuring.measure import Measure
from keras_swapout.study.report.drawing import GREY, PAPER, name_rows, new_figure
from keras_swapout.study.report.page import Picture
from keras_swapout.study.report.words import difference_text, interval_text, value_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Mean(NamedTuple):
    """A row of `dots`: its mean, the ends of its 95 % interval or None, and what it is of."""

    title: str
    colour: str
    mean: float
    interval: tuple[float, float] | None
    values: Sequence[float] = ()


class Group(NamedTuple):
    """Rows of `dots` under a heading, or none; `line` is what to compare them with, or None."""

    heading: str
    rows: Sequence[Mean]
    line: float | None = None


def dots(groups: Sequence[Group], measure: Measure, difference: bool = False) -> Figure | None:
    """Every value a dot, the mean a stroke and its interval a bar, below each other.

    Narrow enough to be read on a telephone.

    Args:
        groups: what to draw, one below the other. Of a row without values the mean is the dot.
        measure: what it is of.
        difference: whether the values are differences.

    Returns:
        The figure, or None if there is nothing to draw.
    """
    groups = [group for group in groups if group.rows]
    if not groups:
        return None
    scale = 100 if measure.unit == "%" else 1
    figure, (axes,) = new_figure(
        5.2, 1.1 + 0.46 * sum(len(group.rows) + bool(group.heading) for group in groups)
    )
    headings = {group.heading for group in groups}
    names, seen, ends = [], [], []
    for group in groups:
        names += [group.heading] if group.heading else []
        if group.line is not None:
            seen.append(scale * group.line)
            height = [len(names) - 0.5, len(names) + len(group.rows) - 0.5]
            axes.plot(seen[-1:] * 2, height, color=GREY, lw=1, ls=(0, (4, 3)))
        for place, row in enumerate(group.rows, start=len(names)):
            values = scale * np.array(row.values or [row.mean])
            mean, interval = scale * row.mean, [scale * end for end in row.interval or ()]
            # The values above, the mean and its interval below; a mean alone on its interval.
            above, below = (-0.14, 0.2) if row.values else (0, 0)
            look = {"color": row.colour}
            axes.plot(interval, [place + below] * len(interval), lw=1.8, zorder=2, **look)
            if row.values:
                ends += interval
                axes.plot([mean] * 2, [place + below - 0.13, place + below + 0.13], lw=2.5, **look)
            else:
                seen += interval
            # Equal values are common on small test sets: lift the dots apart.
            lift = np.linspace(-0.09, 0.09, len(values)) if len(values) > 1 else np.zeros(1)
            look |= {"edgecolors": PAPER, "lw": 0.7, "zorder": 3}
            axes.scatter(values, place + above + lift, s=28 if row.values else 44, **look)
            seen += list(values)
            names.append(row.title)
    # With two or three seeds an interval can be wider than all that was seen; the dots set the
    # scale, and a wide interval runs out of the picture.
    low, high = min(seen), max(seen)
    room, edge = max(0.6 * (high - low), 0.005 * scale), 0.04 * (high - low) + 0.001 * scale
    low, high = max(low - room, min([low, *ends])), min(high + room, max([high, *ends]))
    bounds = (-math.inf, math.inf) if difference else (0, 100 if scale == 100 else math.inf)
    axes.set_xlim(max(low, bounds[0]) - edge, min(high, bounds[1]) + edge)
    name_rows(axes, names)
    axes.tick_params(labelsize=10.5)
    axes.locator_params(axis="x", nbins=5)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_weight("bold" if name in headings else "normal")
    unit = "points" if difference and measure.unit == "%" else measure.unit
    title = f"{_titled(measure, difference)}{f' ({unit})' if unit else ''}"
    better = "right" if measure.higher_is_better else "left"
    axes.set_xlabel(f"{title}\nfurther {better} is better", size=10.5)
    return figure


def in_words(groups: Sequence[Group], measure: Measure, difference: bool = False) -> str:
    """What `dots` shows, for who can't see it.

    Example:

    >>> nll = Measure("nll", "NLL", "nll")
    >>> in_words([Group("", [Mean("tuned", "red", -0.25, (-0.5, 0.0))], 0.0)], nll, True)
    'NLL, difference. tuned: −0.250 (95 % interval −0.500 to 0.000).'
    """
    text = difference_text if difference else value_text
    said = [f"{_titled(measure, difference)}."]
    for group in groups:
        said += [f"{group.heading}:"] if group.heading else []
        for row in group.rows:
            ends = interval_text(measure, *(row.interval or (None, None)))
            interval = f" (95 % interval {ends})" if ends else ""
            said.append(f"{row.title}: {text(measure, row.mean)}{interval}.")
    return " ".join(said)


def differences(title: str, each: str, groups: Sequence[Group], measure: Measure) -> Picture:
    """The picture of an answer that is about differences, as of `dots`.

    Args:
        title: heads it, behind the measure's.
        each: sentences on what a row is made of.
        groups, measure: as for `dots`.
    """
    caption = (
        f"{each} On the dashed line there is no difference: a bar that crosses it has not settled "
        "which is better, and one that does not is still to be corrected for how much was "
        "compared, as below."
    )
    figure, alt = dots(groups, measure, True), in_words(groups, measure, True)
    return Picture("differences", f"{measure.title}: {title}", caption, figure, alt)


def _titled(measure, difference):
    return f"{measure.title}{', difference' if difference else ''}"
