"""The pilot's loop: make what is missing, wherever, save each run, report."""

from __future__ import annotations

import dataclasses
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_swapout._version import __version__
from keras_swapout.arguments import checked_count, checked_number
from keras_swapout.study import store
from keras_swapout.study.executors import Place, completed
from keras_swapout.study.hardware import environment
from keras_swapout.study.loading import checksum
from keras_swapout.study.packages import PILOT, check_packages
from keras_swapout.study.pilot import settings as options
from keras_swapout.study.pilot.methods import REFERENCE, find
from keras_swapout.study.pilot.plan import Plan, epochs_that_fit, estimate
from keras_swapout.study.pilot.runs import model_path, name_of, run_path
from keras_swapout.study.pilot.settings import OPTIONS, Settings, make_settings
from keras_swapout.study.report.words import counted, to_go
from keras_swapout.study.shapes import holds, number

if TYPE_CHECKING:
    from keras_swapout.study.networks import Network

ANNOUNCED = 600  # seconds: what takes longer is said, with a command that takes less
GROW = ("seeds", "methods", "label_noise")  # no finished run becomes wrong by that
_FOLDERS = ("runs", "models")
#: What is tried where a loss does not allow it.
INSTEAD = {"gjs_bdropdml": "rblock_bdropdml"}


def run_pilot(
    settings: Settings,
    out: str | os.PathLike,
    save_models: bool = False,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    minutes: float | None = None,
    shorten: bool = False,
    verbose: bool = False,
    answer: bool = True,
) -> dict[str, Any]:
    """Runs a pilot, or what an interrupted one has left to do, and reports.

    The seeds are the outer loop, so that an interrupted pilot holds complete comparisons. Every
    finished run is on disk at once, and is never made again. Under the same `out` the seeds,
    methods and shares of wrong labels may grow; with any other changed setting, or other data, it
    is refused.

    Args:
        settings: from `make_settings`.
        out: folder for settings.json, runs/, results.json, results.csv and report.html; made where
            it is missing.
        save_models: whether to keep each trained network as models/<method>-seed<k>.keras, from
            which a run that was interrupted while it was evaluated goes on.
        jobs: processes of one thread each, an int >= 1; what they find is the same to the bit,
            whatever their number. None: this process, with its threads.
        scheduler: address of a dask scheduler, whose workers see the same files and have the same
            KERAS_BACKEND, instead of `jobs`.
        minutes: the time to keep to, a number above 0: as many seeds as fit, at least one, at most
            `settings.seeds`; and where one is too much for all methods, fewer of these. None: all
            that is asked for.
        shorten: whether there may be fewer epochs, so that three seeds fit `minutes`.
        verbose: whether to print all tables and sentences, not only the answer.
        answer: whether to print that.

    Returns:
        The contents of results.json.

    Raises:
        ValueError: `out` is a file, holds runs made otherwise or is in use by another process; the
            data is unknown or does not fit; a run diverges.
        FileNotFoundError: the data has not been downloaded. ImportError: a package is missing.
        OSError: `out` can't be written to. RuntimeError: a process is killed again and again.

    Example::

        results = run_pilot(make_settings("digits", methods=["swapout"], seeds=2), "pilot-digits")
    """
    start = time.perf_counter()
    out = Path(out)
    if jobs is not None:
        checked_count(jobs, "jobs")
    if minutes is not None:
        checked_number(minutes, lambda n: n > 0, "minutes", "a number above 0")
    check_packages(PILOT, settings.data)
    store.check(out, record(settings), _FOLDERS, GROW)

    # Not before the cheap checks: it imports what takes seconds.
    from keras_swapout.study.pilot.work import data_of

    data = data_of(settings)
    settings = fitting(settings, data.network)
    place = Place(jobs, scheduler)
    if jobs or scheduler or minutes:
        settings = _budgeted(settings, place, data, out, minutes, shorten)
    recorded = record(settings)
    recorded["data_checksum"] = data.checksum
    with store.claimed(out, recorded, _FOLDERS, GROW):
        plan = Plan(settings, out, minutes, start, place.width)
        _make(plan, place, data, out if save_models else None, out)
        settings = dataclasses.replace(settings, seeds=plan.seeds, methods=plan.methods)
        return _reported(settings, recorded, data, plan.found, out, start, verbose, answer)


def _budgeted(settings, place, data, out, minutes, shorten):
    """Says how long it takes where that is long, and has fewer epochs where that is wanted."""
    from keras_swapout.study.pilot.work import spec_of, time_step
    from keras_swapout.study.report.page import command

    before = store.read(out / store.SETTINGS, holds(epochs=number)) if shorten else None
    if before is not None and any((out / "runs").glob("*.json")):
        return dataclasses.replace(settings, epochs=before["epochs"])
    if not minutes and (_short(settings) or not Plan(settings, out, None, 0, 1).missing):
        return settings
    spec = spec_of(settings, REFERENCE, 0.0, 0, data.checksum, None)
    specs = ((number, spec) for number in range(min(place.width, 4)))
    step = max(seconds for _, seconds in completed(place, time_step, specs))
    if minutes and shorten:
        epochs = epochs_that_fit(settings, minutes, step, data.steps, place.width)
        if epochs < settings.epochs:
            print(f"{epochs} epochs instead of {settings.epochs}, to fit {minutes:g} minutes")
        return dataclasses.replace(settings, epochs=epochs)
    seconds = estimate(settings, step, data.steps, place.width)
    if not minutes and seconds > 60:
        said = f"This takes about {counted(math.ceil(seconds / 60), 'minute')}"
        if seconds > ANNOUNCED:
            shown = {name: value for name, value in settings.record().items() if value}
            options = [name for name in OPTIONS if name in ("data", "model", "image_size")]
            less = command(["keras-swapout", "pilot"], shown, options)
            said += f"; to have an answer in 10: {less} --minutes 10"
        print(said)
    return settings


def _short(settings):
    """Whether it is known to take little time: the demonstration, or less of it."""
    known = make_settings()
    epochs, demonstrated = (
        s.epochs * s.seeds * len(s.methods) * len(s.label_noise) for s in (settings, known)
    )
    ours = (settings.data, settings.model, settings.width) == (known.data, known.model, known.width)
    return ours and epochs <= demonstrated


def _make(plan, place, data, models, out):
    """Makes the runs that are missing."""
    from keras_swapout.study.pilot.work import run_one, spec_of
    from keras_swapout.study.progress import Display

    settings = plan.settings
    display = Display(len(plan.wanted), len(plan.found), settings.epochs, "runs")
    done = f", {len(plan.found)} of {len(plan.wanted)} runs already done"
    display.say(f"{_compared(settings, data, plan.minutes)}{done if plan.found else ''}")

    def watched(spec):
        name = name_of(spec["method"], spec["noise"], spec["seed"])
        return run_one(spec, lambda *done: display.epoch(name, *done))

    def specs():
        for key in plan.asked():
            path = model_path(models, *key) if models else None
            yield key, spec_of(settings, *key, data.checksum, path)

    here = place.jobs is None and place.scheduler is None
    known = len(plan.found) + place.width  # by then each process has compiled something
    with display.live():
        display.doing("compiling")
        for key, run in completed(place, watched if here else run_one, specs()):
            store.write_json(run_path(out, *key), run)
            plan.found[key] = run
            display.total = len(plan.wanted)
            display.finished(_said(run), lasting=False)
            told = plan.minutes is not None or len(plan.found) != known
            left = plan.missing
            if not told and (said := to_go(plan.seconds(left), counted(len(left), "run"))):
                display.say(said)


def _compared(settings, data, at_most):
    what = "images" if data.info.kind == "images" else "samples"
    noise = " and ".join(f"{100 * share:g} %" for share in settings.label_noise)
    wrong = f", {noise} of the labels wrong" if any(settings.label_noise) else ""
    seeds = f"at most {settings.seeds}" if at_most else settings.seeds
    return (
        f"{settings.data}: {data.info.sizes['train']} training {what}{data.augmentation}{wrong}; "
        f"{settings.model}, {settings.epochs} epochs; {len(settings.methods)} methods x {seeds} "
        "seeds"
    )


def _reported(settings, recorded, data, runs, out, start, verbose, answer):
    from keras_swapout.study.pilot import compare, report
    from keras_swapout.study.pilot.brief import brief
    from keras_swapout.study.pilot.training import momentum_for
    from keras_swapout.study.report import brief as short
    from keras_swapout.study.report import page

    ordered = [
        runs[name, noise, seed]
        for name in settings.methods
        for noise in settings.label_noise
        for seed in range(settings.seeds)
    ]
    momentum = momentum_for(data.steps * settings.epochs)
    results = {
        "settings": recorded,
        "environment": environment(time.perf_counter() - start),
        "data": data.describe(),
        "recipe": {"batch normalisation, momentum at most": round(momentum, 4)},
        "methods": {
            name: {key: getattr(find(name), key) for key in ("title", "formula", "alone", "alpha")}
            for name in settings.methods
        },
        "runs": ordered,
        "timing": times(ordered),
    }
    store.write_json(out / "results.json", results)
    store.write_csv(out / "results.csv", [_row(run) for run in results["runs"]])
    comparison = compare.compare(results)
    made = report.make_page(results, comparison)
    page.write(made, out)
    if verbose:
        page.show(made)
    if answer:
        took = f"{results['environment']['seconds']:.0f} s"
        where = f"All of it, after {took}: {out / 'report.html'}"
        short.show(brief(results, comparison)._replace(where=where))
    return results


def times(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What training cost: seconds over those of plain with the same seed and labels.

    Returns:
        {"methods": {name: {"train_step_ratio", "..._low", "..._high"}}}: median and quartiles.

    Example:

    >>> runs = [{"method": m, "noise": 0.0, "seed": 0, "seconds": s}
    ...         for m, s in (("plain", 2.0), ("swapout", 3.0))]
    >>> times(runs)["methods"]["swapout"]["train_step_ratio"]
    1.5
    """

    def place(run):
        return run.get("noise", 0.0), run["seed"]  # 0.1.0 had no wrong labels

    plain = {place(run): run["seconds"] for run in runs if run["method"] == REFERENCE}
    found = {}
    for name in dict.fromkeys(run["method"] for run in runs):
        ratios = [
            run["seconds"] / plain[place(run)]
            for run in runs
            if run["method"] == name and plain.get(place(run))
        ]
        if ratios:
            low, middle, high = np.percentile(ratios, [25, 50, 75])
            found[name] = {
                "train_step_ratio": float(middle),
                "train_step_ratio_low": float(low),
                "train_step_ratio_high": float(high),
            }
    return {"methods": found}


def fitting(settings: Settings, network: Network) -> Settings:
    """The settings with the methods that can be put into the network; says which can't, and why.

    Raises:
        ValueError: there is none but the reference.
    """
    from keras_swapout.study.pilot.recipe import loss_for

    model, methods = network.example, {name: find(name) for name in settings.methods}
    loss = loss_for(model, network.task)
    reasons = {name: m.unfit(model, loss) or m.idle(model) for name, m in methods.items()}
    methods = tuple(name for name, reason in reasons.items() if not reason)
    unfit = {}
    for name, reason in reasons.items():
        if reason:
            unfit.setdefault(reason, []).append(name)
    said = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in unfit.items())
    for name, other in INSTEAD.items():
        if reasons.get(name) and other not in reasons and not find(other).unfit(model, loss):
            methods += (other,)
            said += f". {other} takes the place of {name}"
    if methods == (REFERENCE,) != settings.methods:
        raise ValueError(
            f"Argument `methods`: none can be put into {settings.model}. They don't fit: {said}"
        )
    if said:
        warnings.warn(f"Left out, as they don't fit {settings.model}: {said}", stacklevel=2)
    return dataclasses.replace(settings, methods=methods)


def _said(run):
    said = []
    if "accuracy" in run["test"]:
        said += [f"test accuracy {run['test']['accuracy']:.2%}", f"nll {run['test']['nll']:.3f}"]
    if "rmse" in run["test"]:
        said += [f"test error {run['test']['rmse']:.4g}"]
    if run.get("corruption_accuracy") is not None:
        said += [f"corrupted {run['corruption_accuracy']:.2%}"]
    name = name_of(run["method"], run.get("noise", 0.0), run["seed"])
    return f"{name}: {', '.join(said)}, {run['seconds']:.1f} s"


def record(settings: Settings) -> dict[str, Any]:
    """What settings.json holds: all that a run's result depends on."""
    import keras

    values = settings.record()
    # What is not asked for is left out: earlier versions knew nothing of it.
    late = ("weights", "from_scratch", "new_head", "scale", "optimizer")
    late += ("unaugmented", "skip_unreadable")
    brought = {name: getattr(settings, name) for name in late}
    files = [x for x in (settings.model, settings.weights) if x and Path(x).is_file()]
    checksums = {f"checksum of {file}": checksum(Path(file)) for file in files}
    return {
        **{k: v for k, v in values.items() if k not in brought},
        **{name: value for name, value in brought.items() if value},
        **checksums,
        "momentum": options.MOMENTUM,
        "weight_decay": options.WEIGHT_DECAY,
        "backend": keras.backend.backend(),
        "version": __version__,
    }


def _row(run):
    row = {name: run[name] for name in ("method", "seed", "seconds", "epochs", "parameters")}
    if run.get("noise"):
        row["noise"] = run["noise"]
    for split in ("test", "validation", "train"):
        row |= {f"{split}_{name}": value for name, value in run[split].items()}
    row |= {name: run[name] for name in run if name.startswith("corruption_")}
    row |= {f"own_{name}": value for name, value in (run.get("metrics") or {}).items()}
    row |= run["consistency"]
    for way, values in run["inference"].items():
        row |= {f"{way.replace(' ', '_')}_{name}": value for name, value in values.items()}
    for name, severities in run["corruption"].items():
        row |= {f"{name}_{severity}": value for severity, value in severities.items()}
    return row
