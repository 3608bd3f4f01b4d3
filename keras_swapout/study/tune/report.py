"""A search's page, as data; `keras_swapout.study.report.page` writes it and prints its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_swapout.study.pilot.settings import OPTIONS as PILOT_OPTIONS
from keras_swapout.study.report.dots import differences
from keras_swapout.study.report.page import (
    Code,
    Facts,
    Page,
    Picture,
    Section,
    Text,
    command,
    how_measured,
)
from keras_swapout.study.report.words import counted, listed, lower, size_text, value_text
from keras_swapout.study.tune import plots, tables
from keras_swapout.study.tune.gain import gain
from keras_swapout.study.tune.observed import objective_of
from keras_swapout.study.tune.sensitivity import sensitivity
from keras_swapout.study.tune.sentences import finer

#: The settings that the command line takes, in the order to show them.
OPTIONS = (
    "method",
    "tuner",
    "trials",
    "executions_per_trial",
    "objective",
    "schedule",
    "step",
    *(name for name in PILOT_OPTIONS if name != "methods"),
)
LIMITS = (
    "Every trial was judged on one and the same validation split: what is best there need not be "
    "best on other images, and the noise given here does not include the choice of the split.",
    "The best trial's value is optimistic, since it was picked for it. The surrogate's value at "
    "the same setting is less so, and the final runs not at all: they have fresh seeds and are "
    "measured on the test images.",
    "A trial is noisy: with another seed the same setting gives another value. Costs below the "
    "noise of one trial can matter only on average over many trainings.",
    "The surrogate is a smooth guess. Away from the trials it knows little, and its intervals "
    "take its own smoothness for granted.",
    "The profile of a parameter holds the others at the optimum; away from it, another value may "
    "be best.",
    "A longer training, a larger network or more data may have another optimum.",
)


def analyse(results: Mapping[str, Any]) -> dict[str, Any]:
    """What a search found: was it worth it, and how much does each parameter matter?

    Args:
        results: of a search.

    Returns:
        A dict:

        - "answer": one sentence, from the test images where there are final runs, or else from the
          validation images; "details": sentences to go with it.
        - "trials": {"started", "completed", "failed"}.
        - "sensitivity": see `sensitivity`; "gain": see `gain`, or None.
    """
    found, gained = sensitivity(results), gain(results)
    statuses = [trial["status"] for trial in results["trials"]]
    answer, *details = [*(gained["answers"] if gained else []), found["answer"]]
    return {
        "answer": answer,
        "details": details,
        "trials": {
            "started": len(statuses),
            "completed": statuses.count("COMPLETED"),
            "failed": sum(status in ("FAILED", "INVALID") for status in statuses),
        },
        "sensitivity": found,
        "gain": gained,
    }


def make_page(results: Mapping[str, Any], analysis: Mapping[str, Any]) -> Page:
    """The page of a search.

    Args:
        results: of a search. Beside what is analysed it may hold "settings", "environment" and
            "data", whose entries are listed as they are.
        analysis: what `analyse` made of it.
    """
    name = str((results.get("data") or {}).get("name", ""))
    method, gained = results["method"], analysis["gain"]
    first, *pictures = _pictures(results, analysis)
    searched = [(p["title"], _range(p)) for p in results["parameters"]]
    facts = [
        Facts("Method", [(method["title"], method.get("formula", ""))]),
        Facts("Searched", searched),
    ]
    return Page(
        title=f"Tuning report{f': {name}' if name else ''}",
        under=_under(results, analysis),
        answer=analysis["answer"],
        details=analysis["details"],
        sections=[
            Section("The gain, on the test images", _gain(gained) if gained else [], terminal=True),
            Section("The best setting", _best(results, analysis), terminal=True),
            Section(
                "Comparison by comparison",
                [Text(one["sentence"], "verdict") for one in gained["contrasts"].values()]
                if gained
                else [],
                terminal=True,
                folded="a sentence for each",
            ),
            Section(
                "How much each parameter matters",
                _sensitivity(results, analysis),
                terminal=True,
                folded="a row for each",
            ),
            Section("Pictures", pictures, folded="the search, and what each parameter does"),
            Section(
                "All trials",
                [tables.trials(results)],
                folded=f"{counted(len(results['trials']), 'trial')}, the best first",
            ),
            *how_measured(results, facts, _again(results.get("settings") or {}), LIMITS),
        ],
        picture=first,
    )


def _under(results, analysis):
    trials, minutes = analysis["trials"], sum(t["seconds"] or 0 for t in results["trials"]) / 60
    searched = counted(len(results["parameters"]), "parameter")
    text = f"{results['method']['title']}, {searched} searched in "
    text += counted(trials["started"], "trial")
    text += f", {trials['failed']} of them failed" if trials["failed"] else ""
    text += f", {minutes:.1f} minutes" if minutes >= 0.1 else ""
    reported = ", reported on the test images" if analysis["gain"] else ""
    return f"{text}. Tuned on the validation images{reported}."


def _gain(gained):
    return [
        tables.gain(gained),
        Text(
            "Mean ± standard deviation over seeds that no trial had; below it how much the tuned "
            "setting is above (+) or below (−) it, with the 95 % interval in brackets, and whether "
            "that is better or worse, with its adjusted p-value.",
            "notes",
        ),
        Text(gained["test"], "test"),
    ]


def _best(results, analysis):
    found = analysis["sensitivity"]
    note = "The best trial is the best partly by luck"
    if found["optimum"]:
        note += "; the surrogate (a Gaussian process through the trials) says what to expect of it"
    if noise := found["noise"]:
        source = {
            "seeds": f"measured among {noise['runs']} final runs, on the validation images",
            "trials": "over all trials",
            "surrogate": "as estimated by the surrogate",
        }[noise["source"]]
        note += f". One trial has a standard deviation of {_noise(results, found)}, {source}"
    return [
        tables.settings(results, analysis),
        Text(f"{note}.", "notes"),
        Text(f"To use it, as {results['method']['tuned']}:"),
        Code("keras-swapout pilot --settings best.json"),
    ]


def _noise(results, found):
    return size_text(finer(found, objective_of(results)), found["noise"]["sd"])


def _sensitivity(results, analysis):
    found = analysis["sensitivity"]
    if not found["parameters"]:
        return [Text(found["answer"])]
    return [
        tables.sensitivity(results, analysis),
        Text(
            "Of the surrogate, the other parameters at its optimum: how much worse the validation "
            "objective gets, with 95 % intervals. As good as can be told: costs less than the "
            f"noise of one trial, {_noise(results, found)}. The surrogate explains "
            f"{100 * found['r2']:.0f} % of the variance of trials that are left out one by one "
            f"({found['trials']} points).",
            "notes",
        ),
        *[Text(sentence, "verdict") for sentence in found["sentences"]],
    ]


def _pictures(results, analysis):
    """The answer's first: what the final runs gained, or without them the search itself."""
    found = analysis["sensitivity"]
    others = ", the others at their best" if len(results["parameters"]) > 2 else ""
    line = (
        ". The line is the surrogate with the other parameters at their best, so trials that had "
        "other values there lie on its worse side; the band is two of its deviations"
    )
    over = " over the two parameters that matter most" if others else ""
    texts = {
        "progress": (
            "The search, trial by trial",
            "Once the orange line is flat, more trials bring little; a drop as small as the "
            "scatter of the dots may be luck.",
        ),
        "objective": (
            "The objective against each parameter",
            "Each dot is a trial, later ones stronger; a flat cloud means that the parameter "
            f"doesn't matter{line if found['parameters'] else ''}. Trials far worse than most lie "
            "on the edge.",
        ),
        "surface": (
            "Two parameters at once",
            f"The surrogate{over}{others}: bright is better. Where there are no dots it is a guess."
            if found["map"]
            else "The trials, bright ones better; there is no surrogate to draw between them.",
        ),
        "parallel": (
            "Every trial, all parameters",
            "A line is a trial, from its values on the left to its objective on the right, better "
            "on top. Where the best trials run together and the others fan out, the parameter "
            "matters.",
        ),
    }
    groups, measure = plots.gained(analysis)
    each = (
        "Each dot is one seed with both settings, the upright stroke their mean and the bar its "
        "95 % interval."
    )
    gained = [differences("what tuning changed", each, groups, measure)] if groups else []
    return gained + [
        Picture(key, *text, plots.FIGURES[key](results, analysis), _alt(results, found, text[0]))
        for key, text in texts.items()
    ]


def _alt(results, found, title):
    """A picture's title, and how good the best trial and the default are."""
    objective = objective_of(results)
    said = [
        f"{name} {value_text(objective, point['objective'])}"
        for name, point in (("best trial", found["best"]), ("untuned default", found["default"]))
        if point and point.get("objective") is not None
    ]
    return f"{title}, {lower(objective.title)}: {listed(said)}" if said else title


def _again(settings):
    if "data" not in settings:
        return None
    words = ["keras-swapout", "tune"]
    for name, ends in settings["ranges"].items():
        words += ["--range", name, *(f"{end:g}" for end in ends)]
    words += ["--search-only"] if settings["search_only"] else []
    return command(words, settings, OPTIONS)


def _range(p):
    text = f"{p['low']:g} to {p['high']:g}"
    text += ", logarithmic" if p["scale"] == "log" else ""
    text += ", whole numbers" if p["type"] == "int" else ""
    return text + ("" if p["default"] is None else f"; untuned {p['default']:g}")
