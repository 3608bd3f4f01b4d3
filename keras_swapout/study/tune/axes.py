"""What the pictures of a search have in common: the objective's axis, a parameter's, the legend."""

from __future__ import annotations

import numpy as np

from keras_swapout.study.measuring.measure import at
from keras_swapout.study.report.drawing import INK, wrapped


def scale_of(results):
    return 100 if results["objective"]["unit"] == "%" else 1


def label_of(results):
    objective = results["objective"]
    unit = f" ({objective['unit']})" if objective["unit"] else ""
    return without_math(wrapped(objective["title"] + unit, 34))


def without_math(text):
    return text.replace("$", r"\$")


def value_of(results, trial):
    return at(trial.get("measures") or {}, results["objective"]["name"])


def best_of(results):
    found = (t for t in results["trials"] if t["id"] == results.get("best"))
    best = next(found, None)
    return best if best and value_of(results, best) is not None else None


def window(results, values, room=0.05):
    """Ends of the objective's axis: what is far worse than most lies on the edge, not beyond."""
    scale, sign = scale_of(results), 1 if results["objective"]["direction"] == "min" else -1
    default = value_of(results, results.get("default") or {})
    worse = sign * np.append(values, [] if default is None else scale * default)
    best = worse.min()
    high = worse[worse <= best + 12 * (np.quantile(worse, 0.6) - best)].max()
    # At least one step of the last digit, where all values are the same.
    margin = room * max(high - best, 10.0 ** -results["objective"]["digits"])
    low, high = sorted((sign * (best - margin), sign * (high + margin)))
    return float(low), float(high)


def set_axis(axes, p, axis="x"):
    """A parameter's axis, with a little room at the ends."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    own = axes.xaxis if axis == "x" else axes.yaxis
    limits = axes.set_xlim if axis == "x" else axes.set_ylim
    if p["scale"] == "log":
        (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
        wide = p["high"] > 30 * p["low"]
        own.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        own.set_major_formatter(StrMethodFormatter("{x:g}"))
        own.set_minor_formatter(NullFormatter())
        edge = (p["high"] / p["low"]) ** 0.03
        limits(p["low"] / edge, p["high"] * edge)
        return
    edge = 0.03 * (p["high"] - p["low"]) or 0.5
    limits(p["low"] - edge, p["high"] + edge)
    own.get_major_locator().set_params(nbins=6, integer=p["type"] == "int")


def add_legend(figure, handles, columns=5):
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        columnspacing=1.4,
        handletextpad=0.5,
    )
