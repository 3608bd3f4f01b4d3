"""The evaluation's loop: load the models, measure what is missing, save each part, report."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_swapout._version import __version__
from keras_swapout.datasets.splits import samples as some
from keras_swapout.study import loading, store
from keras_swapout.study.evaluate.options import SEVERITIES, Options
from keras_swapout.study.evaluate.parts import CLEAN, FOLDER, Parts
from keras_swapout.study.hardware import environment
from keras_swapout.study.packages import EVALUATE, check_packages
from keras_swapout.study.shapes import each, holds, number, text

if TYPE_CHECKING:
    import keras

    from keras_swapout.study.evaluate.data import Images
    from keras_swapout.study.loading import Saved
    from keras_swapout.study.task import Task

GROW = ("models",)  # no finished part becomes wrong by that
_FOLDERS = (FOLDER,)
_FOUND = holds(scale=text, models=each(number))
TIMED_IMAGES = 256
ROUNDS = 5
LEAST_ROUNDS = 2
SECONDS = 60  # no further round of timing once this is spent


def evaluate(
    models: str | os.PathLike | Sequence[str | os.PathLike],
    data: str,
    samples: int = 30,
    *,
    split: str = "test",
    limit: int | None = None,
    image_size: int | None = None,
    scale: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    corruption_images: int = 500,
    severities: Sequence[int] = SEVERITIES,
    batch_size: int | None = None,
    skip_unreadable: bool = False,
    imports: Iterable[str] = (),
    out: str | os.PathLike | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """Accuracy, likelihood, calibration and robustness of saved models, in each way of inference.

    The ways are those of `keras_swapout.study.measuring.ways.Ways`. Files that differ only by a
    trailing -seed<k> are runs of one model. Each way is compared with the deterministic one of the
    same model, and each model with the first.

    Args:
        models: one or more .keras files.
        data, samples, split, limit, image_size, scale, mean, std, corruption_images, severities,
            batch_size, skip_unreadable: see `keras_swapout.study.evaluate.options.Options`.
            `limit`, `image_size` and `scale` must be what the models were trained with. `scale`
            None is found: the one with the lowest loss on training samples, and an error where none
            beats guessing; with a scale (or a mean) that is given, whatever comes out is reported.
        imports: modules to import first, which register layers.
        out: folder for settings.json, parts/, results.json, results.csv and report.html; None
            writes nothing. Every finished part is on disk at once, and the same call goes on where
            it was; models may be added, anything else that changed is refused.
        verbose: whether to print all tables and sentences, not only the answer.

    Returns:
        The contents of results.json: "settings", "environment", "data", "corruptions", "models",
        "rows", "runs" (one for each model file and way), and "comparison", from
        `keras_swapout.study.evaluate.compare.compare`.

    Raises:
        ValueError: an argument is out of range, a model can't be loaded, does not fit the data or
            seems to expect another scale, or `out` holds something else or is in use by another
            process. FileNotFoundError: a model or the data is missing. ImportError: a package is
            missing. OSError: `out` can't be written to.

    Example::

        results = evaluate(["plain.keras", "swapout.keras"], "photographs", out="evaluation")
        print(results["comparison"]["answer"])
    """
    start = time.perf_counter()
    check_packages(EVALUATE, data)
    options = Options(
        data,
        samples,
        split,
        limit,
        image_size,
        scale,
        mean,
        std,
        corruption_images,
        severities,
        batch_size,
        skip_unreadable,
    )
    models = [models] if isinstance(models, (str, os.PathLike)) else list(models)
    out = None if out is None else Path(out)
    files = loading.find_models(models)
    # Not before the cheap checks: these import what takes seconds.
    import keras

    from keras_swapout.study.evaluate.data import Images

    record = {
        **dataclasses.asdict(options),
        "backend": keras.backend.backend(),
        "version": __version__,
        "models": {file.name: loading.checksum(file.path) for file in files},
    }
    if not skip_unreadable:  # earlier versions knew nothing of it
        del record["skip_unreadable"]
    record = json.loads(json.dumps(record))  # as it comes back from a file
    old = None if out is None else store.read(out / store.SETTINGS, _FOUND)
    if options.scale is None and old is not None:
        record["scale"] = old["scale"]
        if record["models"].keys() <= old["models"].keys():  # it was found for these
            options = dataclasses.replace(options, scale=old["scale"])
    store.check(out, record, _FOLDERS, GROW)
    imports = list(imports)
    loading.import_modules(imports)
    networks = {file.name: loading.load(file.path) for file in files}
    images = Images(options, _size(networks))
    record["data_checksum"] = images.checksum()
    tasks = {name: _task(network, name, images) for name, network in networks.items()}
    if options.scale is None:
        print(images.find_scale({name: (networks[name], tasks[name]) for name in networks}))
        record["scale"] = images.options.scale
    subjects = [_Subject(file, networks[file.name], tasks[file.name], images) for file in files]
    with store.claimed(out, record, _FOLDERS, GROW):
        return _run(subjects, images, record, imports, out, verbose, start)


def _run(subjects, images, record, imports, out, verbose, start):
    from keras_swapout.study.evaluate import compare, measures, report
    from keras_swapout.study.evaluate.brief import brief
    from keras_swapout.study.progress import Display
    from keras_swapout.study.report import brief as short
    from keras_swapout.study.report import page
    from keras_swapout.study.report.words import counted, listed

    kept = Parts(out)
    first = subjects[0]
    numbers = not first.task.classifies
    if any(subject.task.classifies == numbers for subject in subjects):
        raise ValueError(
            "Argument `models` must be models of one kind: some give classes, others numbers"
        )
    severities = images.options.severities
    kept.expect(
        measures.clean_part(len(first.labels(images.labels)), numbers),
        measures.corrupted_part(len(first.labels(images.chosen_labels)), severities, numbers),
    )
    names = [CLEAN, *images.corruptions]
    parts = [(s.file, way, name) for s in subjects for way in s.ways for name in names]
    done = sum(kept.read(*part) is not None for part in parts)
    display = Display(len(parts), done)
    ways = listed(list(dict.fromkeys(way for subject in subjects for way in subject.ways)))
    display.say(
        f"{images.options.data}: {_sizes(images)}, {counted(len(subjects), 'model file')}, {ways}"
        + (f", {done} of {len(parts)} parts done" if done else "")
    )
    if images.seen:
        display.say(f"{images.seen}.")
    with display.live():
        _measure_clean(subjects, images, kept, display)
        _measure_corruptions(subjects, images, kept, display)
        timed = {subject.file.model: subject for subject in reversed(subjects)}  # one for a model
        times = {s.file.name: _time(s, images, kept, display) for s in timed.values()}
    # A model's runs one after the other, its ways in order.
    order = list(dict.fromkeys(subject.file.model for subject in subjects))
    subjects.sort(key=lambda subject: order.index(subject.file.model))
    runs = [
        _one(subject, way, images, kept, times.get(subject.file.name, {}))
        for subject in subjects
        for way in subject.ways
    ]
    for run in runs:
        if not display.console.is_terminal:  # which shows the table now
            said = f"{run['row']}, seed {run['seed']}: "
            if numbers:
                said += f"mean absolute error {run['test']['mae']:.4g}"
            else:
                said += f"accuracy {run['test']['accuracy']:.2%}"
            if run["corrupted"] and not numbers:
                said += f", under corruption {run['corrupted']['accuracy']:.2%}"
            display.say(said)
    rows = {run["row"]: {"model": run["model"], "way": run["way"]} for run in runs}
    results = {
        "settings": record,
        "imports": imports,
        "environment": environment(time.perf_counter() - start),
        "data": images.describe(),
        "corruptions": {"sources": images.sources, "left_out": images.left_out},
        "models": _models(subjects),
        "rows": rows,
        "runs": runs,
        "comparison": compare.compare(rows, runs, _by_image(subjects, images, kept)),
    }
    # The examples are corrupted anew, for the page alone.
    shown = None if out is None or not images.corruptions else report.examples(images)
    made = report.make_page(results, shown)
    if out is not None:
        store.write_json(out / "results.json", results)
        store.write_csv(out / "results.csv", [_csv_row(run) for run in runs])
        page.write(made, out)
    if verbose:
        page.show(made)
    found = brief(results["comparison"], images.seen)
    short.show(found._replace(where="" if out is None else f"All of it: {out / 'report.html'}"))
    return results


def _task(network, name, images):
    from keras_swapout.datasets import Split
    from keras_swapout.study.task import find_task

    task = find_task(network, name, images.info, Split(images.images, images.labels), "models")
    if len(task.outputs) > 1 or (task.single is None and task.classifies):
        raise ValueError(
            "Argument `models` must be models with one output, of classes along its last axis or "
            f"of numbers; keras-swapout pilot takes others too. Received: {name!r}, which gives "
            f"{task.describe()}"
        )
    return task


def _sizes(images):
    if not images.corruptions:
        return f"{images.number:,} samples, which are no images: without corruptions"
    return (
        f"{images.number:,} images, {len(images.chosen):,} of them under {len(images.corruptions)} "
        f"corruptions x {len(images.options.severities)} severities"
    )


class _Subject:
    """A loaded model file and its ways of inference."""

    def __init__(self, file: Saved, network: keras.Model, task: Task, images: Images) -> None:
        from keras_swapout.study.measuring.ways import RECALIBRATED, Ways

        self.file, self.network, self.task, self.images = file, network, task, images
        options = images.options
        self._ways = Ways(network, (options.samples,), options.batch_size, task.heads[0])
        self._recalibrated = False
        self.ways = [
            way
            for way in self._ways.names
            if way != RECALIBRATED or images.training_inputs() is not None
        ]

    def predict(self, way: str, inputs: Any) -> Any:
        """The prediction of one way; the first one that needs it recalibrates."""
        from keras_swapout.study.measuring.ways import RECALIBRATED

        if way == RECALIBRATED and not self._recalibrated:
            self._ways.recalibrate(self.images.training_inputs())
            self._recalibrated = True
        prediction = self._ways.predict(way, inputs)
        return self.task.flat(prediction) if self.task.classifies else prediction

    def labels(self, y: Any) -> np.ndarray:
        """One class for each row of a prediction; or numbers, of its shape."""
        labels = self.task.labels(y)[0]
        return labels.reshape(-1) if self.task.classifies else labels

    def row(self, way: str) -> str:
        return f"{self.file.model}, {way}"


def _measure_clean(subjects, images, kept, display):
    """The parts that are missing of the clean images."""
    from keras_swapout.study.evaluate.measures import numbers_of_clean, of_clean

    for subject, way in _missing(CLEAN, subjects, kept):
        prediction = _predict(subject, way, images.images, CLEAN, display)
        measure = of_clean if subject.task.classifies else numbers_of_clean
        part = measure(prediction, subject.labels(images.labels))
        kept.keep(subject.file, way, CLEAN, part)
        display.finished(f"{subject.row(way)}: {CLEAN}", lasting=False)


def _measure_corruptions(subjects, images, kept, display):
    """Corruption by corruption; after the first one it is said how long the others take."""
    from keras_swapout.study.report.words import to_go

    start, done = time.perf_counter(), display.done
    for name in images.corruptions:
        first = display.done == done
        _measure_corrupted(name, subjects, images, kept, display)
        if first and display.done > done:
            left = display.total - display.done
            seconds = (time.perf_counter() - start) / (display.done - done) * left
            if said := to_go(seconds, f"{left} of {display.total} parts"):
                display.say(said)


def _measure_corrupted(name, subjects, images, kept, display):
    """The parts that are missing of one corruption; its images are made once for all."""
    from keras_swapout.study.evaluate.measures import numbers_of_corrupted, of_corrupted

    missing = _missing(name, subjects, kept)
    found: dict[Any, dict[str, Any]] = {one: {} for one in missing}
    for severity in images.options.severities if missing else ():
        label = f"{name} {severity}"
        display.doing(f"making {label}")
        raw = images.corrupted(name, severity)
        for subject, way in missing:
            prediction = _predict(subject, way, raw, label, display)
            measure = of_corrupted if subject.task.classifies else numbers_of_corrupted
            part = measure(prediction, subject.labels(images.chosen_labels))
            found[subject, way][str(severity)] = part
    for (subject, way), part in found.items():
        kept.keep(subject.file, way, name, _pooled(part))
    if missing:
        display.finished(name, len(missing), lasting=False)


def _missing(name, subjects, kept):
    return [
        (subject, way)
        for subject in subjects
        for way in subject.ways
        if kept.read(subject.file, way, name) is None
    ]


def _predict(subject, way, raw, label, display):
    display.doing(f"{subject.row(way)}: {label}")
    prediction = subject.predict(way, subject.images.inputs(raw))
    if not np.isfinite(prediction.mean).all():
        raise ValueError(
            f"Argument `models` must give finite numbers. Received: {subject.file.name!r}, {way}, "
            f"with NaN or infinity on images under {label}"
        )
    return prediction


def _pooled(parts):
    """Each severity's quality, and of every image the sums over the severities."""
    kept = next(iter(parts.values())).keys() - {"quality"}
    sums = {
        key: np.sum([part[key] for part in parts.values()], axis=0).tolist() for key in sorted(kept)
    }
    return {"quality": {severity: part["quality"] for severity, part in parts.items()}, **sums}


def _time(subject, images, kept, display):
    """Time per image of each way, as a multiple of the deterministic one's."""
    from keras_swapout.study.measuring.ways import DETERMINISTIC

    times = kept.read_timing(subject.file, subject.ways)
    if times is not None:
        return times
    display.doing(f"{subject.file.model}: measuring times")
    # Whole batches, however few images there are: others are filled up before they are computed.
    size = max(TIMED_IMAGES, images.options.batch_size or 0)
    index = np.arange(size) % min(size, images.number)
    inputs = images.scaled(some(images.images, index))
    rounds: list[dict[str, float]] = []
    start = time.perf_counter()
    # In turns, since a machine's speed drifts. The first round warms up.
    while len(rounds) < ROUNDS + 1:
        if len(rounds) > LEAST_ROUNDS and time.perf_counter() - start > SECONDS:
            break
        rounds.append({way: _seconds(subject, way, inputs) for way in subject.ways})
    times = {
        way: {
            "ratio": float(np.median([one[way] / one[DETERMINISTIC] for one in rounds[1:]])),
            "ms": 1000 * float(np.median([one[way] for one in rounds[1:]])) / len(inputs),
        }
        for way in subject.ways
    }
    kept.keep_timing(subject.file, times)
    return times


def _seconds(subject, way, inputs):
    start = time.perf_counter()
    subject.predict(way, inputs)
    return time.perf_counter() - start


def _one(subject, way, images, kept, times):
    """One entry of "runs": a model file in one way of inference."""
    clean = kept.read(subject.file, way, CLEAN)
    parts = {name: kept.read(subject.file, way, name) for name in images.corruptions}
    qualities = [quality for part in parts.values() for quality in part["quality"].values()]
    return {
        "row": subject.row(way),
        "model": subject.file.model,
        "way": way,
        "seed": subject.file.seed,
        "file": str(subject.file.path),
        **{k: clean[k] for k in ("test", "calibration", "risk_coverage", "standard_error")},
        "corrupted": {
            key: float(np.mean([quality[key] for quality in qualities]))
            for key in (qualities[0] if qualities else ())
        },
        **{
            f"corruption{suffix}": {
                name: {severity: quality[key] for severity, quality in part["quality"].items()}
                for name, part in parts.items()
                if key in next(iter(part["quality"].values()))
            }
            for key, suffix in (("accuracy", ""), ("nll", "_nll"), ("ece", "_ece"), ("mae", "_mae"))
        },
        "time": times.get(way, {}).get("ratio"),
        "milliseconds": times.get(way, {}).get("ms"),
    }


def _by_image(subjects, images, kept):
    """Of every row and compared measure the values by image, means over the row's files."""
    from keras_swapout.study.evaluate.measures import BY_IMAGE

    cells = len(images.corruptions) * len(images.options.severities)
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for subject in subjects:
        for way in subject.ways:
            row = found.setdefault(subject.row(way), {})
            clean = kept.read(subject.file, way, CLEAN)
            parts = [kept.read(subject.file, way, name) for name in images.corruptions]
            for key, name in BY_IMAGE.items():
                if key not in clean:
                    continue
                if parts:
                    total = np.sum([part[key] for part in parts], axis=0) / cells
                    row.setdefault(f"corrupted_{name}", []).append(total)
                row.setdefault(name, []).append(np.array(clean[key], float))
    return {
        row: {name: np.mean(values, axis=0) for name, values in measures.items()}
        for row, measures in found.items()
    }


def _size(networks):
    """(height, width) that all models take, each None where they don't say."""
    sizes = {name: loading.input_size(network) for name, network in networks.items()}
    known = {name: size[:2] for name, size in sizes.items() if size and None not in size[:2]}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{name!r} {h}×{w}" for name, (h, w) in known.items())
        raise ValueError(
            f"Argument `models` must take images of one size. Received: {listed} pixels"
        )
    return next(iter(known.values()), (None, None))


def _models(subjects):
    models: dict[str, dict[str, Any]] = {}
    for subject in subjects:
        model = models.setdefault(
            subject.file.model,
            {"files": [], "seeds": [], "parameters": subject.network.count_params()},
        )
        model["files"].append(str(subject.file.path))
        model["seeds"].append(subject.file.seed)
    return models


def _csv_row(run):
    row = {name: run[name] for name in ("model", "way", "seed", "file")}
    row |= {f"test_{name}": value for name, value in run["test"].items()}
    row |= {f"corrupted_{name}": value for name, value in run["corrupted"].items()}
    row |= {name: run[name] for name in ("standard_error", "time", "milliseconds")}
    for name, severities in run["corruption"].items():
        row |= {f"{name}_{severity}": value for severity, value in severities.items()}
    return row
