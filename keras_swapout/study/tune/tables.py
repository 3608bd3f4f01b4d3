"""The tables of a search's report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_swapout.study.measuring.measure import Measure, at
from keras_swapout.study.report.tables import Cell, Column, Row, Table, cell, column
from keras_swapout.study.report.words import interval_text, value_text
from keras_swapout.study.tune.observed import objective_of
from keras_swapout.study.tune.sentences import finer, number

ROLES = {"tuned": "Tuned", "default": "Untuned default", "plain": "Plain"}


def settings(results: Mapping[str, Any], analysis: Mapping[str, Any]) -> Table:
    """Best trial, surrogate's optimum and default as columns."""
    found = analysis["sensitivity"]
    objective = finer(found, objective_of(results))
    titles = {"best": "Best trial", "optimum": "Surrogate's optimum", "default": "Untuned default"}
    shown = [key for key in titles if found[key]]

    def expected(mean, sd):
        if mean is None:
            return "–"
        text = f"{value_text(objective, mean, False)} ± {value_text(objective, sd, False)}"
        return text + (" %" if objective.unit == "%" else "")

    rows = [
        (p["title"], [number(p, found[key]["values"].get(p["name"])) for key in shown])
        for p in results["parameters"]
    ]
    measured = [value_text(objective, found[key].get("objective")) for key in shown]
    rows.append((objective.title, measured))
    if found["optimum"]:
        said = [expected(found[key]["mean"], found[key]["sd"]) for key in shown]
        rows.append(("The same, as the surrogate has it", said))
    columns = [Column(titles[key]) for key in shown]
    return Table("", columns, [Row(title, list(map(Cell, cells))) for title, cells in rows])


def sensitivity(results: Mapping[str, Any], analysis: Mapping[str, Any]) -> Table:
    """One row for each parameter, the most important first: what leaving its best value costs."""
    found = analysis["sensitivity"]
    objective = finer(found, objective_of(results))
    points = " (points)" if objective.unit == "%" else ""
    rows = []
    for p in results["parameters"]:
        if row := found["parameters"].get(p["name"]):
            best = number(p, found["optimum"]["values"][p["name"]])
            interval = " to ".join(number(p, end) for end in row["interval"])
            looks = [
                (_named(step["step"], side), look)
                for step in row["costs"]
                for side in ("below", "above")
                if (look := step[side])
            ]
            steps = [
                f"{name} ({number(p, look['value'])}): {_cost(objective, look)}"
                for name, look in looks
            ]
            size = value_text(objective, row["range"], unit=False)
            look = row["default"]
            cells = [
                Cell(best),
                Cell(interval),
                Cell(size),
                Cell("" if steps else "–", lines=steps),
                Cell(_cost(objective, look) if look else "–"),
            ]
            rows.append((row["range"], Row(p["title"], cells)))
    columns = [
        Column("Best", terminal=False),
        Column("As good as can be told", terminal=False),
        Column("Over its range", f"change of the objective{points}", terminal=False),
        Column(f"Cost of leaving the best value{points}", terminal=False),
        Column(f"Cost of the default{points}", terminal=False),
    ]
    return Table("Parameter", columns, [row for _, row in sorted(rows, key=lambda r: -r[0])])


def _cost(objective: Measure, look: Mapping[str, Any]) -> str:
    cost = value_text(objective, look["cost"], unit=False)
    return f"{cost} ({interval_text(objective, look['low'], look['high'])})"


def _named(step, side):
    """ "0.1 below", "÷ 2"."""
    factor = step.removeprefix("× ")
    if factor == step:
        return f"{step} {side}"
    return step if side == "above" else f"÷ {factor}"


def gain(gained: Mapping[str, Any]) -> Table:
    """Tuned, default and plain; of the others with the tuned one's difference from them."""
    measures, rows = gained["measures"], []
    for role, method in gained["methods"].items():
        against = gained["contrasts"].get(role, {"measures": {}})["measures"]
        cells = [
            cell(m, method["measures"][m.name], against.get(m.name), whose="tuned ")
            for m in measures
        ]
        small = method["title"] if method["title"].lower() != role else ""
        rows.append(Row(ROLES[role], cells, small))
    against = "The tuned setting against this one"
    return Table("Setting", list(map(column, measures)), rows, against=against, over="seeds")


def trials(results: Mapping[str, Any]) -> Table:
    """All trials, the best first, those without an objective last."""
    objective, rows = objective_of(results), []
    for place, trial in enumerate(results["trials"], start=1):
        value = at(trial["measures"] or {}, objective.name)
        worse = 0 if value is None else -value if objective.higher_is_better else value
        values = [number(p, at(trial["values"], p["name"])) for p in results["parameters"]]
        seconds = trial["seconds"]
        cells = [
            *map(Cell, values),
            Cell(value_text(objective, value, unit=False)),
            Cell("–" if trial["epochs"] is None else str(trial["epochs"])),
            Cell("–" if seconds is None else f"{seconds:.1f}"),
            Cell(trial["status"].lower(), lines=[trial["message"]] if trial.get("message") else []),
        ]
        who = f", {trial['worker']}" if trial.get("worker") else ""
        best = trial["id"] == results.get("best")
        row = Row(str(place), cells, f"{trial['id']}{who}", best=best)
        rows.append(((value is None, worse, place), row))
    columns = [
        *(Column(p["title"]) for p in results["parameters"]),
        column(objective),
        *map(Column, ("Epochs", "Seconds", "Status")),
    ]
    return Table("Trial", columns, [row for _, row in sorted(rows, key=lambda row: row[0])])
