"""The tables of a search's report, as cells of text for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_swapout.study.measuring.measure import at, difference_text, p_text, value_text
from keras_swapout.study.tune.sentences import finer, number

ROLES = {"tuned": "tuned", "default": "untuned default", "plain": "plain"}


def setting_rows(
    results: Mapping[str, Any], analysis: Mapping[str, Any]
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Best trial, surrogate's optimum and default as columns: their titles, and rows of cells."""
    found, objective = analysis["sensitivity"], results["objective"]
    shown = finer(found, objective)
    titles = {"best": "Best trial", "optimum": "Surrogate's optimum", "default": "Untuned default"}
    columns = [key for key in titles if found[key]]

    def expected(mean, sd):
        if mean is None:
            return "–"
        text = f"{value_text(shown, mean, unit=False)} ± {value_text(shown, sd, unit=False)}"
        return text + (" %" if objective["unit"] == "%" else "")

    rows = [
        (p["title"], [number(p, found[key]["values"].get(p["name"])) for key in columns])
        for p in results["parameters"]
    ]
    measured = [value_text(shown, found[key].get("objective")) for key in columns]
    rows.append((objective["title"], measured))
    if found["optimum"]:
        said = [expected(found[key]["mean"], found[key]["sd"]) for key in columns]
        rows.append(("The same, as the surrogate has it", said))
    return [titles[key] for key in columns], rows


def sensitivity_rows(results, analysis) -> list[dict[str, Any]]:
    """One row for each parameter, the most important first, as cells of text."""
    found = analysis["sensitivity"]
    shown = finer(found, results["objective"])

    def cost(look, p):
        if look is None:
            return None
        ends = " to ".join(value_text(shown, look[end], unit=False) for end in ("low", "high"))
        size = value_text(shown, look["cost"], unit=False)
        return {"at": number(p, look["value"]), "cost": size, "interval": ends}

    rows = []
    for p in results["parameters"]:
        if row := found["parameters"].get(p["name"]):
            steps = [
                (_named(step["step"], side), cost(step[side], p))
                for step in row["costs"]
                for side in ("below", "above")
            ]
            rows.append(
                {
                    "title": p["title"],
                    "range": row["range"],
                    "best": number(p, found["optimum"]["values"][p["name"]]),
                    "interval": " to ".join(number(p, end) for end in row["interval"]),
                    "costs": [(name, cell) for name, cell in steps if cell],
                    "default": cost(row["default"], p),
                    "size": value_text(shown, row["range"], unit=False),
                }
            )
    return sorted(rows, key=lambda row: -row["range"])


def _named(step, side):
    """ "0.1 below", "÷ 2"."""
    factor = step.removeprefix("× ")
    if factor == step:
        return f"{step} {side}"
    return step if side == "above" else f"÷ {factor}"


def gain_rows(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tuned, default and plain as cells of text; the others with tuned's difference from them."""
    gained, rows = analysis["gain"], []
    for role, method in (gained["methods"] if gained else {}).items():
        cells = []
        for measure in gained["measures"]:
            own = method["measures"][measure["name"]]
            text = value_text(measure, own["mean"], unit=False)
            text += "" if own["sd"] is None else f" ± {value_text(measure, own['sd'], unit=False)}"
            row = (gained["contrasts"].get(role) or {"measures": {}})["measures"]
            row = row.get(measure["name"]) or {"low": None, "p_adjusted": None, "verdict": None}
            interval = (
                ""
                if row["low"] is None
                else " to ".join(
                    value_text(measure, row[end], unit=False) for end in ("low", "high")
                )
            )
            cells.append(
                {
                    "mean": text,
                    "difference": difference_text(measure, row.get("difference")),
                    "interval": interval,
                    "verdict": row["verdict"],
                    "p": p_text(row["p_adjusted"]),
                }
            )
        title = f"{ROLES[role].capitalize()}" if role == "plain" else method["title"]
        rows.append({"role": role, "title": title, "part": ROLES[role], "cells": cells})
    return rows


def trial_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All trials, the best first, those without an objective last."""
    objective, rows = results["objective"], []
    for place, trial in enumerate(results["trials"], start=1):
        value = at(trial["measures"] or {}, objective["name"])
        worse = value if objective["direction"] == "min" else -(value or 0)
        rows.append(
            {
                "key": (value is None, worse if value is not None else 0, place),
                "place": place,
                "id": trial["id"],
                "best": trial["id"] == results.get("best"),
                "values": [
                    number(p, at(trial["values"], p["name"])) for p in results["parameters"]
                ],
                "objective": value_text(objective, value, unit=False),
                "epochs": trial["epochs"],
                "seconds": trial["seconds"],
                "worker": trial.get("worker"),
                "status": trial["status"].lower(),
                "message": trial.get("message"),
            }
        )
    return sorted(rows, key=lambda row: row["key"])
