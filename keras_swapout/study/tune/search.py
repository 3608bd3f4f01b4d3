"""The trials: KerasTuner chooses the numbers, the pilot's trainer trains and measures.

All trials with the same block size share one compiled training step.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial, TrialStatus

from keras_swapout.study import store
from keras_swapout.study.pilot.data import PilotData
from keras_swapout.study.pilot.methods import METHODS, Method
from keras_swapout.study.pilot.training import OnEpoch, Trainer
from keras_swapout.study.shapes import each, holds, many, maybe, number, text
from keras_swapout.study.tune import space
from keras_swapout.study.tune.objectives import CONSISTENT, OBJECTIVES
from keras_swapout.study.tune.settings import TuneSettings

#: The first seed of a trial's runs, which are the same for every trial. The final runs begin at 0:
#: what was picked for its luck with one set of seeds is measured with another.
FIRST_SEED = 1000
_TUNERS = {
    # The objective of one run is noisy, and the surrogate has to know it: KerasTuner's 1e-4 would
    # have it pass through every trial.
    "bayesian": (keras_tuner.BayesianOptimization, {"alpha": 0.1}),
    "random": (keras_tuner.RandomSearch, {}),
    "grid": (keras_tuner.GridSearch, {}),
}
_SECONDS = "seconds"  # what a trial reports beside its measures
_ENDED = (TrialStatus.COMPLETED, TrialStatus.FAILED)
#: KerasTuner's file of a search, and what is needed of it.
_STATE = "oracle.json"
_SEARCH = holds(
    start_order=many(text),
    end_order=many(text),
    tried_so_far=many(text),
    id_to_hash=each(maybe(text)),
    seed=number,
    seed_state=number,
)


def role() -> str:
    """ "chief", "worker" or "alone", from the environment variables of KerasTuner.

    Raises:
        ValueError: `KERASTUNER_ORACLE_IP` is set, and one of the others is not.
    """
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return "alone"
    others = ("KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID")
    missing = [name for name in others if name not in os.environ]
    if missing:
        raise ValueError(
            f"KERASTUNER_ORACLE_IP is set, so {' and '.join(missing)} must be too: the port of the "
            "chief, and a name for each process, with 'chief' in the chief's"
        )
    return "chief" if "chief" in os.environ["KERASTUNER_TUNER_ID"] else "worker"


class Trials:
    """Trains and measures settings of one method.

    Args:
        settings: the search's.
        data: the images.

    Attributes:
        watch: called after each epoch, as for `Trainer.train`.
    """

    def __init__(self, settings: TuneSettings, data: PilotData) -> None:
        self.settings, self.data = settings, data
        self.watch: OnEpoch | None = None
        self._trainers: dict[Any, Trainer] = {}

    def __call__(self, method: Method) -> dict[str, float]:
        """What the method reaches on the validation images: means over the executions.

        Raises:
            ValueError: the loss is not finite any more.
        """
        size = method.values.get("block_size")
        if size not in self._trainers:
            new = Trainer(method, self.settings.pilot, self.data, adjustable=True)
            self._trainers[size] = new
        trainer = self._trainers[size]
        trainer.method = method
        count = self.settings.executions_per_trial
        runs = [self._run(trainer, FIRST_SEED + i) for i in range(count)]
        return {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}

    def _run(self, trainer, seed):
        trainer.train(seed, self.watch)
        inputs, labels = self.data.validation
        found = trainer.task.quality(trainer.values(inputs), labels)
        if self.settings.objective in CONSISTENT:
            scaled = self.data.info.scaled(inputs)
            found |= trainer.consistency(scaled, trainer.task.labels(labels)[0])
        return {name: found[name] for name in OBJECTIVES if name in found}


def make_tuner(settings: TuneSettings, trials: Trials, folder: Path) -> keras_tuner.Tuner:
    """The KerasTuner tuner of a search; what `folder` holds of it is taken up again.

    Args:
        settings: the search's.
        trials: what runs a trial.
        folder: for KerasTuner's own files.

    Raises:
        ValueError: `folder` holds trials, and nothing that can be read says of what search.
    """
    make, options = _TUNERS[settings.tuner]

    class Tuner(make):
        def run_trial(self, trial, *args, **kwargs):
            start = time.perf_counter()
            found = trials(_chosen(trial.hyperparameters, settings))
            return {**found, _SECONDS: time.perf_counter() - start}

        # KerasTuner takes up a search only under the name that it was made with, and fails where a
        # single trial can't be read. `_take_up` does it instead; a tuner itself has no state.
        def reload(self):
            pass

        def save(self):
            pass

    with contextlib.redirect_stdout(io.StringIO()):  # "Reloading Tuner from ..."
        tuner = Tuner(
            objective=keras_tuner.Objective(settings.objective, settings.direction),
            max_trials=settings.trials,
            hyperparameters=_declared(settings),
            seed=1,
            directory=str(folder.parent),
            project_name=folder.name,
            **options,
        )
    if role() != "worker":  # which has only a proxy of the chief's oracle
        tuner.oracle.verbose = 0
        if settings.tuner == "grid":
            tuner.oracle.populate_space = lambda name: _next_of_grid(tuner.oracle)
        _take_up(tuner.oracle, folder, settings)
    return tuner


def keep_safe(tuner: keras_tuner.Tuner, finished: Callable[[str], None]) -> None:
    """Has a tuner write its files whole or not at all, and tell of each trial that has ended.

    Args:
        tuner: of a process that is no worker.
        finished: called with the trial's identifier, whoever ran it.
    """
    oracle, folder = tuner.oracle, Path(tuner.project_dir)
    end_trial = oracle.end_trial

    def end(trial):
        end_trial(trial)
        finished(trial.trial_id)

    def save_trial(trial):
        # What is measured is kept once the trial has ended: not twice, if it is killed in between.
        if trial.status in _ENDED or not trial.metrics.metrics:
            store.write_text(_path(folder, trial.trial_id), json.dumps(trial.get_state()))

    oracle.save = lambda: store.write_json(folder / _STATE, oracle.get_state())
    oracle._save_trial = save_trial
    oracle.end_trial = end
    oracle.save()


def _take_up(oracle, folder, settings):
    """Has an oracle go on with the search in a folder. A trial that can't be read is run again."""
    found = store.read(folder / _STATE, _SEARCH)
    if found is None:
        if any(folder.glob("trial_*/trial.json")):
            raise ValueError(
                f"Argument `out` holds a search whose {_STATE} is missing or broken. What has been "
                f"finished is in trials.csv. Delete {folder} to search anew, or choose another "
                "`out`."
            )
        return
    order = found["start_order"]
    trials = {name: _read(_path(folder, name), name, settings) for name in order}
    ended = [name for name in order if trials[name] and trials[name].status in _ENDED]
    again = [name for name in order if name not in ended]
    new = oracle.get_state()
    state = {
        **new,
        **found,
        **{name: new[name] for name in ("hyperparameters", "display", "ongoing_trials")},
        "end_order": sorted(ended, key=[*found["end_order"], *ended].index),
        "run_times": dict.fromkeys(ended, 1),
        "retry_queue": again[::-1],  # from which the last is taken first
    }
    oracle.trials = {name: trials[name] for name in ended}
    oracle.set_state(state)
    for name in again:
        if trials[name] is None:
            warnings.warn(
                f"{_path(folder, name)} is missing or broken: the trial is run again", stacklevel=2
            )
            values = oracle.populate_space(name).get("values")
            trials[name] = _trial(name, values or _declared(settings).values, settings)
    oracle.trials = trials


def _read(path, name, settings):
    """The trial in a file, or None if it is not there, not all there, or another one."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        values, status = state["hyperparameters"]["values"], state["status"]
        trial = _trial(name, values, settings)
        usable = state["trial_id"] == name and values.keys() == _declared(settings).values.keys()
        if status in _ENDED:
            trial.set_state({**state, "hyperparameters": trial.hyperparameters.get_config()})
        else:
            usable = usable and status == TrialStatus.RUNNING
        measured = row(trial, settings)["measures"]
        if status == TrialStatus.COMPLETED:
            usable = usable and settings.objective in measured and number(trial.score)
        return trial if usable and each(number)({**values, **measured}) else None
    except Exception:  # what is wrong with it, KerasTuner says in many ways
        return None


def _trial(name, values, settings):
    hp = _declared(settings)
    hp.values = dict(values)
    return Trial(hp, name)


def _next_of_grid(oracle):
    """The first combination without a trial: KerasTuner's own grid can't be taken up again."""
    tried = [trial.hyperparameters.values for trial in oracle.trials.values()]
    grid = {p.name: dict.fromkeys([p.default, *p.values]) for p in oracle.hyperparameters.space}
    for combination in itertools.product(*grid.values()):
        values = dict(zip(grid, combination, strict=True))
        if values not in tried:
            return {"status": TrialStatus.RUNNING, "values": values}
    return {"status": TrialStatus.STOPPED}


def _path(folder, name):
    return folder / f"trial_{name}" / "trial.json"


def row(trial: Any, settings: TuneSettings) -> dict[str, Any]:
    """A KerasTuner trial as the results have it."""
    measures = {}
    if trial.status == "COMPLETED":
        names = [name for name in (*OBJECTIVES, _SECONDS) if trial.metrics.exists(name)]
        measures = {name: float(trial.metrics.get_best_value(name)) for name in names}
    return {
        "id": trial.trial_id,
        "status": str(trial.status),
        "values": {k: space.rounded(v) for k, v in trial.hyperparameters.values.items()},
        "epochs": settings.pilot.epochs,
        "seconds": measures.pop(_SECONDS, None),
        "measures": measures,
        "message": trial.message,
    }


def method_of(values: Mapping[str, float], settings: TuneSettings) -> Method:
    """The method with the numbers of a trial."""
    hp = _declared(settings)
    hp.values = {**hp.values, **values}
    return _chosen(hp, settings)


def parameters(settings: TuneSettings) -> list[dict[str, Any]]:
    """See `space.parameters`."""
    return space.parameters(_declared(settings), METHODS[settings.method])


def _declared(settings):
    hp = keras_tuner.HyperParameters()
    _chosen(hp, settings)
    return hp


def _chosen(hp, settings):
    method = METHODS[settings.method]
    return space.chosen(hp, method, settings.ranges, settings.schedule, settings.step)
