"""The audit's loop: train what is missing, save each training, write the tables, copy, report."""

from __future__ import annotations

import math
import os
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_swapout.arguments import checked_count
from keras_swapout.study import store
from keras_swapout.study.executors import Place, completed
from keras_swapout.study.hardware import environment
from keras_swapout.study.packages import PILOT, check_packages
from keras_swapout.study.pilot import settings as pilot
from keras_swapout.study.pilot.methods import find
from keras_swapout.study.pilot.plan import SLOWER
from keras_swapout.study.pilot.run import fitting
from keras_swapout.study.pilot.run import record as record_of
from keras_swapout.study.pilot.settings import Settings
from keras_swapout.study.report.words import counted
from keras_swapout.study.shapes import holds, number

if TYPE_CHECKING:
    from keras_swapout.consistency.labels import LabelIssues

#: What is trained where nobody says, and how long: what is learnt late is learnt by heart.
METHOD, EPOCHS = "rblock_bdropdml@3", 12
STEPS = 200  # of a training; fewer teach a new network little
#: The settings of a pilot that are for what is compared, and those of an audit too, in order.
_PILOTS = ("methods", "seeds", "label_noise", "corruption_images", "samples")
OPTIONS = tuple(name for name in pilot.OPTIONS if name not in _PILOTS)
FOLDER = "trainings"
_TRAINED = holds(seconds=number)


def make_settings(method: str = METHOD, epochs: int | None = None, **options: Any) -> Settings:
    """The settings of an audit, else with the pilot's defaults for its data, checked.

    Args:
        method: a name, as for `keras_swapout.study.pilot.methods.find`.
        epochs: passes over the samples; None for `EPOCHS`.
        **options: of `OPTIONS`, as for `keras_swapout.study.pilot.make_settings`.

    Raises:
        ValueError: as there.

    Example:

    >>> settings = make_settings(data="digits")
    >>> settings.methods, settings.epochs
    (('plain', 'rblock_bdropdml@3'), 12)
    """
    epochs = EPOCHS if epochs is None else epochs
    return pilot.make_settings(
        **options, epochs=epochs, methods=[method], label_noise=[0.0], seeds=1
    )


def run_audit(
    settings: Settings,
    out: str | os.PathLike,
    *,
    folds: int | None = None,
    copy: str | os.PathLike | None = None,
    jobs: int | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """Lists the labels that a network contradicts, the most suspicious first.

    It is trained on all samples, those of training, validation and test together, labels as they
    are. Which labels it contradicts, `keras_swapout.consistency.find_label_issues` defines. Every
    finished training is on disk at once, and is never made again; under the same `out` another
    audit, or one of other data, is refused. The user's files are never moved or changed.

    Args:
        settings: from `make_settings`.
        out: folder for settings.json, trainings/, labels.csv, suspicious.csv, results.json and
            audit.html; made where it is missing, and not within the data. suspicious.csv is missing
            where nothing is.
        folds: the predictions are those of networks that were not trained on the sample, in so many
            stratified folds, an int >= 2, at most the samples of the smallest class. None: of one
            network, which was.
        copy: folder, new or empty and not within the data, for copies of the suspicious files as
            <given>-to-<suggested>/<name>; a name that is taken gets a number. None: no copies.
        jobs: processes of one thread each for the folds, an int >= 1. None: this process.
        verbose: whether to print all tables and sentences, not only the answer.

    Returns:
        The contents of results.json.

    Raises:
        ValueError: an argument is not as above; `out` holds another audit or is in use by another
            process; the data are unknown, or are no classes with at least three samples each; the
            method does not fit the network, or is none of R-Block and there are no folds; the
            training diverges.
        FileNotFoundError: the data has not been downloaded. ImportError: a package is missing.
        OSError: `out` or `copy` can't be written to.

    Example::

        run_audit(make_settings(data="photographs"), "audit-photographs")
    """
    start = time.perf_counter()
    out = Path(out)
    if folds is not None:
        checked_count(folds, "folds", 2)
    if jobs is not None:
        checked_count(jobs, "jobs")
    method = settings.methods[-1]
    if folds is None and not find(method).pairs:
        raise ValueError(
            "Argument `method` must be of R-Block where there are no `folds`: another network "
            f"memorises the labels that it is trained on. Received: method={method!r}"
        )
    check_packages(PILOT, settings.data)
    _check_outside(out, "out", settings.data)
    if copy is not None:
        copy = _checked_copy(Path(copy), out, settings.data)
    record = {k: v for k, v in record_of(settings).items() if k not in _PILOTS}
    record |= {"method": method, "folds": folds}
    store.check(out, record, [FOLDER])

    # Not before the cheap checks: it imports what takes seconds.
    from keras_swapout.consistency.labels import find_label_issues
    from keras_swapout.study.audit.work import data_of

    data = data_of(settings, folds)
    fitting(settings, data.network)
    record["data_checksum"] = data.checksum
    with store.claimed(out, record, [FOLDER]):
        probabilities = _judged(settings, folds, data, out, Place(jobs))
        issues = find_label_issues(data.samples.labels, probabilities)
        _write_tables(data, issues, probabilities, out)
        if copy is not None:
            _copy(data, issues, copy)
        return _reported(record, data, issues, probabilities, out, verbose, start)


def _check_outside(folder, name, data):
    if os.path.isdir(data) and Path(data).resolve() in (
        folder.resolve(),
        *folder.resolve().parents,
    ):
        raise ValueError(
            f"Argument `{name}` must be outside of the data, which is left as it is. Received: "
            f"{name}={str(folder)!r} with data={data!r}"
        )


def _checked_copy(copy, out, data):
    if not os.path.isdir(data):
        raise ValueError(
            f"Argument `copy` is for data that are a folder of files. Received: data={data!r}"
        )
    _check_outside(copy, "copy", data)
    if copy.exists() and (not copy.is_dir() or any(copy.iterdir())):
        raise ValueError(
            f"Argument `copy` must be a folder that is new or empty. Received: copy={str(copy)!r}"
        )
    if copy.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(
            f"Argument `copy` must not hold `out`. Received: copy={str(copy)!r}, out={str(out)!r}"
        )
    return copy


# --- training ------------------------------------------------------------------------------------


def _judged(settings, folds, data, out, place):
    """(n, classes): the probabilities of all samples; makes the trainings that are missing."""
    from keras_swapout.study.audit.work import judge, spec_of, time_step
    from keras_swapout.study.progress import Display

    wanted = range(folds or 1)
    judged = {fold: np.flatnonzero(data.fold == fold) for fold in wanted}
    shapes = {fold: (len(judged[fold]), len(data.classes)) for fold in wanted}
    found = {f: p for f in wanted if (p := _kept(out, f, shapes[f])) is not None}
    missing = [fold for fold in wanted if fold not in found]
    display = Display(len(wanted), len(found), settings.epochs, "trainings")
    display.say(_audited(settings, data, folds, len(found)))
    specs = [(fold, spec_of(settings, folds, fold, data.checksum)) for fold in missing]
    if specs:
        if (steps := settings.epochs * data.steps) < STEPS:
            enough = math.ceil(STEPS / data.steps)
            display.say(f"{steps} steps teach a new network little: --epochs {enough} make {STEPS}")
        width = min(place.width, len(specs))
        step = max(seconds for _, seconds in completed(place, time_step, specs[:width]))
        rounds = math.ceil(len(specs) / width)
        seconds = rounds * settings.epochs * data.steps * step * SLOWER
        if seconds > 60:
            display.say(f"This takes about {counted(math.ceil(seconds / 60), 'minute')}")

    def watched(spec):
        name = f"fold {spec['fold'] + 1}" if folds else find(settings.methods[-1]).title
        return judge(spec, lambda *done: display.epoch(name, *done))

    with display.live():
        for fold, trained in completed(place, judge if place.jobs else watched, specs):
            found[fold] = trained["probabilities"]
            with store.written(_path(out, fold).with_suffix(".npy")) as temporary:
                np.save(temporary, found[fold])
            store.write_json(_path(out, fold), {"seconds": trained["seconds"]})  # last
            display.finished(f"trained in {trained['seconds']:.1f} s", lasting=False)
    every = np.empty((len(data.fold), len(data.classes)), np.float32)
    for fold, probabilities in found.items():
        every[judged[fold]] = probabilities
    return every


def _audited(settings, data, folds, done):
    what = "images" if data.info.kind == "images" else "samples"
    how = f"{folds} folds" if folds else "trained on all of them"
    said = f", {done} of {folds or 1} trainings already done" if done else ""
    return (
        f"{settings.data}: {len(data.fold):,} {what}{data.augmentation} in {len(data.classes)} "
        f"classes, {how}; {settings.model}, {settings.epochs} epochs{said}"
    )


def _path(out, fold):
    return out / FOLDER / f"{fold}.json"


def _kept(out, fold, shape):
    """The probabilities of a finished training, or None."""
    path = _path(out, fold)
    if store.read_json(path, _TRAINED) is None:
        return None
    try:
        found = np.load(path.with_suffix(".npy"))
        if found.shape == shape and np.isfinite(found).all():
            return found
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        pass
    store.warn_broken(path.with_suffix(".npy"))
    return None


# --- what it writes ------------------------------------------------------------------------------


def _write_tables(data, issues, probabilities, out):
    rows = {}
    for rank, i in enumerate(issues.order, 1):
        given, suggested = data.samples.labels[i], issues.suggested[i]
        rows[i] = {
            "rank": rank,
            **data.name_of(i),
            "given": data.classes[given],
            "suggested": data.classes[suggested],
            "p_given": _rounded(probabilities[i, given]),
            "p_suggested": _rounded(probabilities[i, suggested]),
            "margin": _rounded(issues.margin[i]),
            **{
                f"p {name}": _rounded(p)
                for name, p in zip(data.classes, probabilities[i], strict=True)
            },
        }
    store.write_csv(out / "labels.csv", [rows[i] for i in sorted(rows)])
    if flagged := list(rows.values())[: int(issues.flags.sum())]:
        store.write_csv(out / "suspicious.csv", flagged)


def _rounded(value):
    return round(float(value), 4)


def _copy(data, issues, folder):
    """Copies of the suspicious files, by what is given and what is suggested."""
    for i in issues.order[: int(issues.flags.sum())]:
        given, suggested = data.samples.labels[i], issues.suggested[i]
        to = folder / f"{data.classes[given]}-to-{data.classes[suggested]}"
        to.mkdir(parents=True, exist_ok=True)
        file, number = data.files[i], 1
        path = to / file.name
        while path.exists():  # of another folder within the class
            number += 1
            path = to / f"{file.stem}-{number}{file.suffix}"
        shutil.copyfile(file, path)


def summary(
    labels: np.ndarray, issues: LabelIssues, probabilities: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """What is to be said of an audit, as JSON has it.

    Returns:
        "samples", "suspicious": how many; "sure": the median probability of the suggestions, None
        without any; "classes" and "pairs": for each class, and each pair of a given and a suggested
        one that occurs, the most frequent first, its names and figures.
    """
    flagged = np.flatnonzero(issues.flags)
    given, suggested = labels[flagged], issues.suggested[flagged]
    sure = probabilities[flagged, suggested]
    sizes = np.bincount(labels, minlength=len(classes))
    pairs = Counter(zip(given.tolist(), suggested.tolist(), strict=True))

    def middle(chosen):
        return _rounded(np.median(sure[chosen])) if chosen.any() else None

    return {
        "samples": len(labels),
        "suspicious": len(flagged),
        "sure": middle(np.ones(len(flagged), bool)),
        "classes": [
            {
                "name": name,
                "samples": int(sizes[c]),
                "suspicious": int((given == c).sum()),
                "suggested": int((suggested == c).sum()),
            }
            for c, name in enumerate(classes)
        ],
        "pairs": [
            {
                "given": classes[a],
                "suggested": classes[b],
                "suspicious": number,
                "samples": int(sizes[a]),
                "sure": middle((given == a) & (suggested == b)),
            }
            for (a, b), number in pairs.most_common()
        ],
    }


def _reported(record, data, issues, probabilities, out, verbose, start):
    from keras_swapout.study.audit import report
    from keras_swapout.study.audit.brief import brief
    from keras_swapout.study.report import brief as short
    from keras_swapout.study.report import page

    results = {
        "settings": record,
        "environment": environment(time.perf_counter() - start),
        "data": data.describe(),
        "audit": summary(data.samples.labels, issues, probabilities, data.classes),
    }
    store.write_json(out / "results.json", results)
    made = report.make_page(results, report.gallery(data, issues, probabilities))
    path = out / "audit.html"
    store.write_text(path, page.render(made))
    if verbose:
        page.show(made)
    took = f"{results['environment']['seconds']:.0f} s"
    short.show(brief(results, out)._replace(where=f"All of it, after {took}: {path}"))
    return results
