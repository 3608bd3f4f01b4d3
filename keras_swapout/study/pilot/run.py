"""The pilot's loop: train what is missing, save each run, measure times, report."""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_swapout._version import __version__
from keras_swapout.study import store
from keras_swapout.study.hardware import environment
from keras_swapout.study.loading import checksum
from keras_swapout.study.packages import PILOT, check_packages
from keras_swapout.study.pilot import settings as options
from keras_swapout.study.pilot.methods import REFERENCE, find
from keras_swapout.study.pilot.runs import model_path, read_run, run_path
from keras_swapout.study.pilot.settings import Settings
from keras_swapout.study.shapes import each, holds, number

if TYPE_CHECKING:
    from keras_swapout.study.networks import Network
    from keras_swapout.study.pilot.data import PilotData
    from keras_swapout.study.pilot.training import Trainer
    from keras_swapout.study.progress import Display

GROW = ("seeds", "methods")  # no finished run becomes wrong by that
_FOLDERS = ("runs", "models")
_TIMES = [
    f"{what}_{end}"
    for what in ("train_step", "inference")
    for end in ("ms", "ratio", "ratio_low", "ratio_high")
]
_TIMING = holds(
    batch_size=number, rounds=number, methods=each(holds(**dict.fromkeys(_TIMES, number)))
)


def run_pilot(
    settings: Settings, out: str | os.PathLike, save_models: bool = False
) -> dict[str, Any]:
    """Runs a pilot, or what an interrupted one has left to do, and reports.

    The seeds are the outer loop, so that an interrupted pilot holds complete comparisons. Every
    finished run is on disk at once, and is never made again. Under the same `out` the seeds and
    methods may grow; with any other changed setting, or other images, it is refused.

    Args:
        settings: from `make_settings`.
        out: folder for settings.json, runs/, timing.json, results.json, results.csv and
            report.html; made where it is missing.
        save_models: whether to keep each trained network as models/<method>-seed<k>.keras, from
            which a run that was interrupted while it was evaluated goes on.

    Returns:
        The contents of results.json.

    Raises:
        ValueError: `out` is a file, holds runs made otherwise or is in use by another process; the
            data is unknown or does not fit; a run diverges.
        FileNotFoundError: the data has not been downloaded. ImportError: a package is missing.
        OSError: `out` can't be written to.

    Example::

        results = run_pilot(make_settings("digits", methods=["swapout"], seeds=2), "pilot-digits")
    """
    start = time.perf_counter()
    out = Path(out)
    check_packages(PILOT, settings.data)
    store.check(out, record(settings), _FOLDERS, GROW)

    # Not before the cheap checks: it imports what takes seconds.
    from keras_swapout.study.pilot.data import PilotData

    data = PilotData(settings)
    settings = fitting(settings, data.network)
    recorded = record(settings)
    recorded["data_checksum"] = data.checksum()
    with store.claimed(out, recorded, _FOLDERS, GROW):
        return _run(settings, recorded, data, out, save_models, start)


def _run(settings, recorded, data, out, save_models, start):
    from keras_swapout.study.pilot import compare, report
    from keras_swapout.study.progress import Display
    from keras_swapout.study.report import page

    wanted = [(seed, name) for seed in range(settings.seeds) for name in settings.methods]
    runs = {key: read_run(out, key[1], key[0]) for key in wanted}
    before = sum(run["seconds"] for run in runs.values() if run)
    done = sum(run is not None for run in runs.values())
    display = Display(len(wanted), done, settings.epochs, "runs")
    what = "images" if data.info.kind == "images" else "samples"
    display.say(
        f"{settings.data}: {data.info.sizes['train']} training {what}, {settings.model}, "
        f"{settings.epochs} epochs, {len(settings.methods)} methods x {settings.seeds} seeds"
        + (f", {done} of {len(wanted)} runs already done" if done else "")
    )
    trainers = _Trainers(settings, data, display)
    with display.live():
        for seed, name in wanted:
            if runs[seed, name] is None:
                path = model_path(out, name, seed) if save_models else None
                runs[seed, name] = _one_run(trainers[name], seed, display, path)
                store.write_json(run_path(out, name, seed), runs[seed, name])
                display.finished(_said(runs[seed, name]))
        timing = _timing(out, settings, trainers, display)

    results = {
        "settings": recorded,
        "environment": environment(before + time.perf_counter() - start),
        "data": data.describe(),
        "methods": {
            name: {key: getattr(find(name), key) for key in ("title", "formula", "alone", "alpha")}
            for name in settings.methods
        },
        "runs": [runs[seed, name] for name in settings.methods for seed in range(settings.seeds)],
        "timing": timing,
    }
    store.write_json(out / "results.json", results)
    store.write_csv(out / "results.csv", [_row(run) for run in results["runs"]])
    comparison = compare.compare(results)
    made = report.make_page(results, comparison)
    page.write(made, out)
    page.show(made)
    display.say(f"{results['environment']['seconds']:.0f} s in all; see {out / 'report.html'}")
    return results


def fitting(settings: Settings, network: Network) -> Settings:
    """The settings with the methods that can be put into the network; says which can't, and why.

    Raises:
        ValueError: there is none but the reference.
    """
    reasons = {name: find(name).unfit(network.example) for name in settings.methods}
    methods = tuple(name for name, reason in reasons.items() if not reason)
    unfit = {}
    for name, reason in reasons.items():
        if reason:
            unfit.setdefault(reason, []).append(name)
    said = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in unfit.items())
    if methods == (REFERENCE,) != settings.methods:
        raise ValueError(
            f"Argument `methods`: none can be put into {settings.model}. They don't fit: {said}"
        )
    if said:
        warnings.warn(f"Left out, as they don't fit {settings.model}: {said}", stacklevel=2)
    return dataclasses.replace(settings, methods=methods)


class _Trainers(dict):
    """A compiled trainer for each method, made when it is first asked for."""

    def __init__(self, settings: Settings, data: PilotData, display: Display) -> None:
        super().__init__()
        self.settings, self.data, self.display = settings, data, display

    def __missing__(self, name: str) -> Trainer:
        from keras_swapout.study.pilot.training import Trainer

        self.display.doing(f"compiling {name}")
        trainer = Trainer(find(name), self.settings, self.data)
        trainer.warm_up()
        self[name] = trainer
        return trainer


def _one_run(trainer, seed, display, path):
    name = trainer.method.name
    return trainer.run(seed, lambda *done: display.epoch(f"{name} seed {seed}", *done), path)


def _said(run):
    said = []
    if "accuracy" in run["test"]:
        said += [f"test accuracy {run['test']['accuracy']:.2%}", f"nll {run['test']['nll']:.3f}"]
    if "rmse" in run["test"]:
        said += [f"test error {run['test']['rmse']:.4g}"]
    if run.get("corruption_accuracy") is not None:
        said += [f"corrupted {run['corruption_accuracy']:.2%}"]
    return f"{run['method']} seed {run['seed']}: {', '.join(said)}, {run['seconds']:.1f} s"


def _timing(out, settings, trainers, display):
    path = out / "timing.json"
    timing = store.read_json(path, _TIMING)
    if timing is None or set(timing["methods"]) != set(settings.methods):
        from keras_swapout.study.pilot.timing import measure_times

        # All methods in the settings' order, compiled before the clock starts.
        warm = {name: trainers[name] for name in settings.methods}
        display.doing("measuring times")
        timing = measure_times(warm)
        store.write_json(path, timing)
    return timing


def record(settings: Settings) -> dict[str, Any]:
    """What settings.json holds: all that a run's result depends on."""
    import keras

    # What is not asked for is left out: earlier versions knew nothing of it.
    brought = {
        name: getattr(settings, name)
        for name in ("weights", "from_scratch", "new_head", "scale", "optimizer", "skip_unreadable")
    }
    files = [x for x in (settings.model, settings.weights) if x and Path(x).is_file()]
    checksums = {f"checksum of {file}": checksum(Path(file)) for file in files}
    return {
        **{k: v for k, v in dataclasses.asdict(settings).items() if k not in brought},
        **{name: value for name, value in brought.items() if value},
        **checksums,
        "methods": list(settings.methods),
        "samples": list(settings.samples),
        "momentum": options.MOMENTUM,
        "weight_decay": options.WEIGHT_DECAY,
        "backend": keras.backend.backend(),
        "version": __version__,
    }


def _row(run):
    row = {name: run[name] for name in ("method", "seed", "seconds", "epochs", "parameters")}
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
