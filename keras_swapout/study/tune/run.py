"""The search as a whole: trials, the final runs on the test images, and what is made of them."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from keras_swapout.study import store
from keras_swapout.study.hardware import environment
from keras_swapout.study.packages import TUNE, check_packages
from keras_swapout.study.pilot.methods import METHODS, REFERENCE
from keras_swapout.study.pilot.run import record, run_pilot
from keras_swapout.study.pilot.settings import OPTIONS
from keras_swapout.study.report.words import counted
from keras_swapout.study.shapes import each, holds, many, maybe, number, text
from keras_swapout.study.tune.settings import TuneSettings, fitting

GROW = ("trials", "seeds")  # no finished trial becomes wrong by that
_FOLDERS = ("search",)
_DEFAULT = holds(values=each(maybe(number)), measures=each(maybe(number)))


def run_tune(
    settings: TuneSettings, out: str | os.PathLike, verbose: bool = False
) -> dict[str, Any] | None:
    """Searches a method's numbers, or what is left of it, then measures what was found.

    The objective is of the validation images. When the trials are done, the pilot trains plain, the
    method untuned and the method tuned, with other seeds than the search's, and reports on the test
    images. Under the same `out` only the number of trials and of final seeds may grow.

    With KerasTuner's environment variables (`KERASTUNER_TUNER_ID`, `KERASTUNER_ORACLE_IP`,
    `KERASTUNER_ORACLE_PORT`) a process is the chief, which hands out the trials and makes the final
    runs, or a worker, which trains trials.

    Args:
        settings: from `make_settings`.
        out: folder for settings.json, search/ (KerasTuner's), default.json, trials.csv, best.json
            (for `pilot --settings`), pilot/, results.json and report.html; made where it is
            missing. A worker writes nothing there.
        verbose: whether to print all tables and sentences, not only the answer.

    Returns:
        The contents of results.json; None of a worker.

    Raises:
        ValueError, OSError: as `keras_swapout.study.pilot.run_pilot`; no trial was completed.
        ImportError: a package is missing.

    Example::

        results = run_tune(make_settings("swapout", trials=20, data="digits"), "tune-digits")
    """
    start = time.perf_counter()
    out = Path(out)
    check_packages(TUNE, settings.pilot.data)
    old = store.read(out / store.SETTINGS, holds(objective=text))
    if settings.objective is None and old is not None:
        settings = dataclasses.replace(settings, objective=old["objective"])
    if settings.objective is not None:
        store.check(out, _record(settings), _FOLDERS, GROW)

    # Not before the cheap checks: these import what takes seconds.
    from keras_swapout.study.pilot.data import PilotData
    from keras_swapout.study.pilot.recipe import loss_for
    from keras_swapout.study.tune import search

    part = search.role()
    data = PilotData(settings.pilot)
    loss = loss_for(data.network.example, data.network.task)
    reason = METHODS[settings.method].unfit(data.network.example, loss)
    if reason:
        raise ValueError(
            f"Argument `method`: {settings.method} can't be put into {settings.pilot.model}: "
            f"{reason}"
        )
    settings = fitting(settings, data.network.task, data.has_consistency)
    recorded = _record(settings)
    store.check(out, recorded, _FOLDERS, GROW)
    trials = search.Trials(settings, data)
    if part == "worker":
        _work(settings, trials)
        return None
    recorded["data_checksum"] = data.checksum
    with store.claimed(out, recorded, _FOLDERS, GROW):
        return _run(settings, recorded, trials, out, part, verbose, start)


def _run(settings, recorded, trials, out, part, verbose, start):
    from keras_swapout.study.report import brief as short
    from keras_swapout.study.report import page
    from keras_swapout.study.tune import report, search
    from keras_swapout.study.tune.brief import brief

    rows, default, before = _search(settings, trials, out, part)
    best = _best(rows, settings)
    tuned = search.method_of(best["values"], settings)
    final = dataclasses.replace(
        settings.pilot, methods=tuple(dict.fromkeys((REFERENCE, settings.method, tuned.name)))
    )
    _write_best(out, final, best)
    confirmation = None
    if not settings.search_only:
        confirmation = run_pilot(_more(final, out), out / "pilot", answer=False)

    method, measure = METHODS[settings.method], settings.measure
    results = {
        "settings": recorded,
        "environment": environment(before + time.perf_counter() - start),
        "data": trials.data.describe(),
        "objective": {
            **{key: getattr(measure, key) for key in ("name", "title", "unit", "digits")},
            "direction": settings.direction,
        },
        "method": {
            **{key: getattr(method, key) for key in ("name", "title", "formula")},
            "tuned": tuned.name,
        },
        "parameters": search.parameters(settings),
        "trials": rows,
        "default": default,
        "best": best["id"],
        "confirmation": confirmation,
    }
    store.write_json(out / "results.json", results)
    analysis = report.analyse(results)
    made = report.make_page(results, analysis)
    page.write(made, out)
    if verbose:
        page.show(made)
    short.show(brief(analysis, out))
    return results


def _work(settings, trials):
    """A worker's part: trials until the chief has no more."""
    from keras_swapout.study.tune import search

    with tempfile.TemporaryDirectory() as folder:  # what is worth keeping, the chief keeps
        tuner = search.make_tuner(settings, trials, Path(folder) / "search")
        print(f"{tuner.tuner_id}: waiting for trials of the chief", flush=True)
        tuner.search()
    print(f"{tuner.tuner_id}: no trials left", flush=True)


def _search(settings, trials, out, part):
    """All trials as rows, the untuned default, and the seconds spent on trials before now."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    from keras_swapout.study.tune import search
    from keras_swapout.study.tune.progress import Display

    tuner = search.make_tuner(settings, trials, out / "search")
    oracle = tuner.oracle

    def rows(names):
        return [search.row(oracle.trials[name], settings) for name in names]

    ended = rows(oracle.end_order)
    display = Display(settings, ended)
    done = f", {len(ended)} already done" if ended else ""
    display.say(
        f"{settings.pilot.data}: {settings.trials} trials of {settings.method} by "
        f"{settings.tuner} search{done}; {settings.pilot.model}, {settings.pilot.epochs} epochs x "
        f"{settings.executions_per_trial}"
        + (f"; then {counted(display.final, 'final run')}" if display.final else "")
    )
    if part == "chief":
        display.say("This is the chief: workers train the trials.")

    def finished(name):
        display.trial_finished(*rows([name]), len(oracle.tuner_ids))
        store.write_csv(out / "trials.csv", [_flat(row) for row in rows(oracle.end_order)])

    search.keep_safe(tuner, finished)
    trials.watch = display.watch
    with display.live():
        display.doing(f"{settings.method}, untuned")
        default = _default(out, settings, trials)
        # The surrogate's matrices are so small that threads only slow it down, fourfold.
        with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
            # KerasTuner's surrogate often ends at a bound, which needs nobody's attention.
            warnings.simplefilter("ignore", ConvergenceWarning)
            try:
                tuner.search()
            except RuntimeError as error:  # of KerasTuner: too many trials in a row have failed
                message = str(error).strip().splitlines()[-1]
                raise ValueError(
                    f"The search was given up, as trials keep failing: {message}"
                ) from error
    return rows(oracle.start_order), default, sum(row["seconds"] or 0 for row in ended)


def _default(out, settings, trials):
    """The method untuned, measured as a trial is."""
    from keras_swapout.study.tune import search

    found = store.read_json(out / "default.json", _DEFAULT)
    if found is None:
        measures = trials(METHODS[settings.method])
        values = {p["name"]: p["default"] for p in search.parameters(settings)}
        found = {"values": values, "measures": measures}
        store.write_json(out / "default.json", found)
    return found


def _best(rows, settings):
    complete = [row for row in rows if settings.objective in row["measures"]]
    if not complete:
        raise ValueError(f"No trial was completed. The last said: {rows[-1]['message']}")
    pick = max if settings.direction == "max" else min
    return pick(complete, key=lambda row: row["measures"][settings.objective])


def _more(final, out):
    """The final runs, with those of what was the best before there were more trials."""
    before = store.read(out / "pilot" / store.SETTINGS, holds(methods=many(text)))
    methods = [*(before["methods"] if before else ()), *final.methods]
    return dataclasses.replace(final, methods=tuple(dict.fromkeys(methods)))


def _write_best(out, final, best):
    """best.json: what `keras-swapout pilot --settings` takes."""
    values = dataclasses.asdict(final)
    pilot = {name: values[name] for name in OPTIONS if values[name] is not None}
    found = {"values": best["values"], "validation": best["measures"], "trial": best["id"]}
    store.write_json(out / "best.json", {"pilot": pilot, **found})


def _record(settings):
    """What settings.json holds: all that a trial's result depends on."""
    own = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    del own["pilot"]
    own["ranges"] = {name: list(ends) for name, ends in settings.ranges.items()}
    pilot = record(settings.pilot)
    if pilot["label_noise"] == [0.0]:  # earlier versions knew nothing of it
        del pilot["label_noise"]
    return {**{k: v for k, v in pilot.items() if k != "methods"}, **own}


def _flat(row):
    numbers = {**row["values"], **row["measures"]}
    return {"id": row["id"], "status": row["status"], **numbers, "seconds": row["seconds"]}
