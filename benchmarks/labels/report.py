"""Tables of all runs that are there, as Markdown and CSV, and one picture."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from keras_swapout.study import store
from keras_swapout.study.measuring.measure import Measure
from keras_swapout.study.measuring.statistics import mean_interval, paired, spread
from keras_swapout.study.report.dots import Group, Mean, dots
from keras_swapout.study.report.drawing import COLOURS

#: A method as it is, and stopped where the validation labels, as given, were predicted best.
STOPPED = {
    "early stopping (accuracy)": "stopped by accuracy",
    "early stopping (likelihood)": "stopped by likelihood",
}
TITLES = {
    "plain": "plain",
    "smoothing": "label smoothing",
    "rblock": "R-Block, α",
    "rblock_s": "R-Block, SDropDML, α",
    "rblock_late": "R-Block, α 1, at last",
    "rdrop": "R-Drop, α",
    "gjs": "R-Block, GJS, π",
    "gjs_augmented": "GJS, augmented views, π",
    "stochastic_depth": "stochastic depth",
    "swapout": "Swapout",
    "bdropdml": "BDropDML",
    "folds": "plain, five folds",
}
#: Methods that the validation labels choose from: those that most cells have.
CHOICES = ("plain", "rblock@3", "gjs@0.5@3")
#: Methods of the summary.
SUMMED = ("rblock@3", "rblock@10", "gjs@0.5", "gjs@0.5@3")
Runs = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]


def read(out: Path) -> Runs:
    """{cell: {method: runs}}, by seed."""
    found: Any = defaultdict(lambda: defaultdict(list))
    for path in sorted((out / "runs").glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        found[run["cell"]][run["method"]].append(run)
    return found


def write(out: Path) -> None:
    """tables.md and results.csv of all runs under `out`."""
    runs = read(out)
    store.write_csv(
        out / "results.csv", [_row(run) for c in runs.values() for m in c.values() for run in m]
    )
    parts = ["# Wrong labels: all figures", _HOW, "## Gains", _summary(runs)]
    parts += [_cell(cell, methods) for cell, methods in runs.items()]
    parts += ["## When it pays", _rule(runs), "## Chosen by the validation labels", _chosen(runs)]
    _picture(runs).savefig(out / "gains.png", dpi=130, facecolor="white")
    store.write_text(out / "tables.md", "\n\n".join(part for part in parts if part) + "\n")


_HOW = """Made by `python benchmarks/wrong_labels.py --report`, of the runs in runs/. Test labels
are right; training and validation labels are as wrong as the cell says. Mean ± standard deviation
over the seeds; the difference from plain in points with its 95 % interval, paired by seed. "Fitted"
is at the temperature (of two classes also the threshold) that suits the validation labels as given
best; where all of them are predicted, as on digits whose labels are right, none is best, and it is
exp(-4). "Memorised": of the wrongly labelled training images the share that the network predicts as
they are labelled, and as they are in truth. CPU time is of the training over plain's."""


def _picture(runs):
    """Of each cell the gain of R-Block with GJS over plain, a dot for each seed."""
    measure = Measure("gain", "Accuracy (elpv: AUROC)", "", unit="%")
    groups = []
    for method, colour in zip(("gjs@0.5@3", "rblock@3"), COLOURS[1:], strict=False):
        rows = []
        for cell, methods in runs.items():
            if not {"plain", method} <= set(methods):
                continue
            first, second = _pairs(
                methods["plain"], methods[method], "test", _lead(methods["plain"])
            )
            values = np.subtract(second, first)
            ends = mean_interval(values) if len(values) > 2 else None
            rows.append(Mean(cell, colour, float(np.mean(values)), ends, values.tolist()))
        groups.append(Group(title(method), rows, 0.0))
    return dots(groups, measure, difference=True)


def title(method: str) -> str:
    """What tables call a method."""
    method, _, epochs = method.partition("-")
    base, _, numbers = method.partition("@")
    numbers = numbers.replace("@", ", α ") + (f", {epochs} epochs" if epochs else "")
    return f"{TITLES.get(base, base)} {numbers}".strip().replace(" ,", ",")


def _summary(runs):
    """Of each cell what plain has, and what the methods that decide gain."""
    rows = []
    for cell, methods in runs.items():
        if "plain" not in methods:
            continue
        plain = methods["plain"]
        lead = _lead(plain)
        heart = [run["memorised"]["given"] for run in plain if "memorised" in run]
        row = [cell, _mean([run["test"][lead] for run in plain], lead)]
        row += [_percent(np.mean(heart)) if heart else ""]
        row += [_difference(plain, plain, "stopped by accuracy", lead)]
        for name in SUMMED:
            found = methods.get(name)
            row.append(f"{_difference(plain, found, 'test', lead)} [{len(found)}]" if found else "")
        rows.append(row)
    head = ["set/noise", "plain, %", "wrong labels it has learnt", "early stopping"]
    said = "Test accuracy, of two classes AUROC; in square brackets the number of seeds."
    return f"{said}\n\n{_table([*head, *map(title, SUMMED)], rows)}"


def _lead(plain):
    return "auroc" if "fitted_balanced_accuracy" in plain[0]["test"] else "accuracy"


def _cell(cell, methods):
    scored = {name: runs for name, runs in methods.items() if "test" in runs[0]}
    if "plain" not in scored:
        return ""
    lead = _lead(scored["plain"])
    two = lead == "auroc"
    columns = ["accuracy", *(["balanced_accuracy", "auroc"] if two else []), "nll", "ece"]
    columns += ["fitted_nll", "fitted_ece", *(["fitted_balanced_accuracy"] if two else [])]
    head = ["method", "seeds", f"{_named(lead)}, difference from plain", *map(_named, columns)]
    head += ["training labels met", "memorised, in truth", "CPU time"]
    rows = []
    for name, runs in scored.items():
        for suffix, part in ({"": "test"} | (STOPPED if name == "plain" else {})).items():
            called = f"{title(name)}{suffix and ', '}{suffix}"
            cells = [_mean([run[part][c] for run in runs], c) for c in columns]
            own, cost = "", ""
            if not suffix:
                cost = _ratio(runs, scored["plain"])
                if "memorised" in runs[0]:
                    own = ", ".join(
                        _percent(np.mean([run["memorised"][k] for run in runs]))
                        for k in ("given", "right")
                    )
            met = "" if suffix else _mean([run["curves"]["train"][-1] for run in runs], "accuracy")
            difference = "" if called == "plain" else _difference(scored["plain"], runs, part, lead)
            rows.append([called, str(len(runs)), difference, *cells, met, own, cost])
    text = f"## {cell}\n\n{_table(head, rows)}"
    return text + _lists(methods)


def _lists(methods):
    rows = []
    for name, runs in methods.items():
        if "list" not in runs[0]:
            continue
        for score in runs[0]["list"]:
            values = [run["list"][score] for run in runs if score in run["list"]]

            def mean(key, values=values):
                known = [v[key] for v in values if v.get(key) is not None]
                return f"{np.mean(known):.3f} ± {spread(known):.3f}" if known else ""

            if score.startswith("flagged"):
                cells = ["", "", mean("precision"), mean("recall"), mean("suggested right")]
            else:
                cells = [mean("auroc"), mean("average_precision"), "", "", ""]
            rows.append([title(name), score, str(len(values)), *cells])
    if not rows:
        return ""
    head = [
        "trained",
        "score or flag",
        "seeds",
        "AUROC",
        "average precision",
        "precision",
        "recall",
    ]
    return f"\n\nThe wrong labels found:\n\n{_table([*head, 'suggestion right'], rows)}"


def signs(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What plain runs show beforehand, by noisy labels alone: means over the seeds."""
    curves = [run["curves"] for run in runs]
    met = np.mean([c["train"][-1] for c in curves])
    held = np.mean([c["validation"][-1] for c in curves])
    best = np.mean([max(c["validation"]) for c in curves])
    return {
        "training labels met": met,
        "validation accuracy": held,
        "gap between the two": met - held,
        "validation accuracy lost since its best epoch": best - held,
        "best epoch by validation likelihood": np.mean(
            [1 + np.argmin(c["validation_nll"]) for c in curves]
        ),
        "rise of the validation likelihood's loss": np.mean(
            [c["validation_nll"][-1] / min(c["validation_nll"]) for c in curves]
        ),
        "best validation likelihood's loss": np.mean([min(c["validation_nll"]) for c in curves]),
    }


def _rule(runs):
    """Rank correlation over cells of each sign with each method's gain in test accuracy."""
    cells = {cell: methods for cell, methods in runs.items() if "plain" in methods}
    gains = {}
    for name in SUMMED:
        lead = {c: _gain(m["plain"], m[name]) for c, m in cells.items() if name in m}
        known = {c: g for c, g in lead.items() if g is not None}
        if len(known) >= 4:
            gains[name] = known
    if not gains:
        return "Too few cells yet."
    found = {cell: signs(methods["plain"]) for cell, methods in cells.items()}
    rows = []
    for sign in next(iter(found.values())):
        row = [sign]
        for known in gains.values():
            rank = stats.spearmanr([found[c][sign] for c in known], list(known.values()))
            row.append(f"{rank.statistic:+.2f} ({len(known)})")
        rows.append(row)
    head = ["of plain", *map(title, gains)]
    said = "Spearman's rank correlation, over cells, of what plain shows with a method's gain in "
    said += "test accuracy (of two classes AUROC); in brackets the number of cells."
    shown = [[c, *(f"{v:.3g}" for v in found[c].values())] for c in cells]
    shown = _table(["cell", *next(iter(found.values()))], shown)
    gained = [[c, *(f"{100 * k[c]:+.1f}" if c in k else "" for k in gains.values())] for c in cells]
    gained = _table(["cell", *head[1:]], gained)
    parts = [said, _table(head, rows), "The gains, in points:", gained, "Of plain:", shown]
    return "\n\n".join(parts)


def _chosen(runs):
    """Of each cell what the method gains that predicts the validation labels, as given, best."""
    rows, told = [], []
    for cell, methods in runs.items():
        if not set(CHOICES) <= set(methods):
            continue
        lead = _lead(methods["plain"])
        by_seed = [{run["seed"]: run for run in methods[name]} for name in CHOICES]
        seeds = sorted(set.intersection(*map(set, by_seed)))
        each = [[of[seed] for of in by_seed] for seed in seeds]
        held = np.array([[run["curves"]["validation"][-1] for run in some] for some in each])
        test = np.array([[run["test"][lead] for run in some] for some in each])
        held, test = held - held[:, :1], 100 * (test - test[:, :1])  # plain is the first
        pick = held.argmax(axis=1)  # of equals the first
        gain, times = test[np.arange(len(seeds)), pick], np.bincount(pick, minlength=len(CHOICES))
        told.append((held.mean(axis=0), test.mean(axis=0)))
        chosen = [f"{title(n)} {k}" for n, k in zip(CHOICES, times, strict=True) if k]
        figures = gain.mean(), gain.min(), test.max(axis=1).mean()
        rows.append([cell, str(len(seeds)), ", ".join(chosen), *(f"{v:+.1f}" for v in figures)])
    if not rows:
        return "Too few cells yet."
    head = ["cell", "seeds", "chosen", "gain", "worst seed", "of the best by the test labels"]
    said = f"Each seed takes of {', '.join(map(title, CHOICES))} the one with the best accuracy on "
    said += "the validation labels as they were given; its gain over plain on the test images in "
    said += "points, accuracy, of two classes AUROC."
    if len(rows) >= 4:
        ranks = [
            f"{title(name)} {stats.spearmanr(*of).statistic:+.2f} ({len(rows)} cells)"
            for name, of in list(zip(CHOICES, np.transpose(told, (2, 1, 0)), strict=True))[1:]
        ]
        said += " Rank correlation, over cells, of a method's gain on the validation labels with "
        said += f"that on the test labels: {', '.join(ranks)}."
    return f"{said}\n\n{_table(head, rows)}"


def _gain(plain, runs):
    first, second = _pairs(plain, runs, "test", _lead(plain))
    return float(np.mean(np.subtract(second, first))) if first else None


def _pairs(plain, runs, part, measure):
    by_seed = {run["seed"]: run["test"][measure] for run in plain}
    both = [(by_seed[r["seed"]], r[part][measure]) for r in runs if r["seed"] in by_seed]
    return [a for a, _ in both], [b for _, b in both]


def _difference(plain, runs, part, measure):
    first, second = _pairs(plain, runs, part, measure)
    if len(first) < 2 or not spread(np.subtract(second, first)):
        return f"{100 * np.mean(np.subtract(second, first)):+.1f}" if first else ""
    test = paired(first, second)
    low, high = 100 * test.low, 100 * test.high
    mark = "**" if low > 0 or high < 0 else ""
    return f"{mark}{100 * test.difference:+.1f}{mark} ({low:+.1f} to {high:+.1f})"


def _ratio(runs, plain):
    by_seed = {run["seed"]: run["cpu"] for run in plain}
    ratios = [run["cpu"] / by_seed[run["seed"]] for run in runs if run["seed"] in by_seed]
    return f"{np.median(ratios):.2f}" if ratios else ""


def _mean(values, name):
    if "nll" in name:
        return f"{np.mean(values):.3f} ± {spread(values):.3f}"
    return f"{100 * np.mean(values):.1f} ± {100 * spread(values):.1f}"


def _named(name):
    words = {"nll": "negative log likelihood", "ece": "calibration error", "auroc": "AUROC"}
    for short, long in words.items():
        name = name.replace(short, long)
    return name.replace("_", " ") + ("" if "likelihood" in name else ", %")


def _percent(value):
    return f"{100 * value:.0f} %"


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(run):
    row = {name: run[name] for name in ("cell", "method", "seed", "cpu")}
    for part in ("test", *STOPPED.values()):
        row |= {f"{part} {name}": value for name, value in run.get(part, {}).items()}
    row |= {f"memorised {name}": v for name, v in run.get("memorised", {}).items()}
    for score, values in run.get("list", {}).items():
        row |= {f"{score}, {name}": value for name, value in values.items()}
    return row
