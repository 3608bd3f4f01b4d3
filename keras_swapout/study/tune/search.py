"""The trials: KerasTuner chooses the numbers, the pilot's trainer trains and measures.

All trials with the same block size share one compiled training step.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner

from keras_swapout.study import store
from keras_swapout.study.measuring import scores
from keras_swapout.study.pilot.data import PilotData
from keras_swapout.study.pilot.methods import METHODS, Method
from keras_swapout.study.pilot.training import OnEpoch, Trainer
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
        images, labels = self.data.validation
        found = scores.quality(trainer.logits(images), labels)
        if self.settings.objective in CONSISTENT:
            found |= trainer.consistency(self.data.info.standardise(images), labels)
        return {name: found[name] for name in OBJECTIVES if name in found}


def make_tuner(settings: TuneSettings, trials: Trials, folder: Path) -> keras_tuner.Tuner:
    """The KerasTuner tuner of a search; what `folder` holds of it is taken up again.

    Args:
        settings: the search's.
        trials: what runs a trial.
        folder: for KerasTuner's own files.

    Raises:
        ValueError: the files in `folder` can't be read.
    """
    make, options = _TUNERS[settings.tuner]
    hp = _declared(settings)
    if (folder / "oracle.json").exists():
        # A tuner looks for a file of its own name before it takes up a search; its contents are
        # nothing. The search may be that of a chief, or have been stopped in its first trial.
        name = os.environ.get("KERASTUNER_TUNER_ID", "tuner0")
        store.write_text(folder / f"{name}.json", "{}")

    class Tuner(make):
        def run_trial(self, trial, *args, **kwargs):
            start = time.perf_counter()
            found = trials(_chosen(trial.hyperparameters, settings))
            return {**found, _SECONDS: time.perf_counter() - start}

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # "Reloading Tuner from ..."
            tuner = Tuner(
                objective=keras_tuner.Objective(settings.objective, settings.direction),
                max_trials=settings.trials,
                hyperparameters=hp,
                seed=1,
                directory=str(folder.parent),
                project_name=folder.name,
                **options,
            )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"Argument `out` holds a search that KerasTuner can't read: {error}. What has been "
            f"finished is in trials.csv. Delete {folder} to search anew, or choose another --out."
        ) from error
    with contextlib.suppress(AttributeError):  # a worker's has none
        tuner.oracle.verbose = 0
    return tuner


def keep_safe(tuner: keras_tuner.Tuner, finished: Callable[[str], None]) -> None:
    """Has a tuner write its state whole or not at all, and tell of each trial that has ended.

    Args:
        tuner: of a process that is no worker.
        finished: called with the trial's identifier, whoever ran it.
    """
    oracle, path = tuner.oracle, Path(tuner.project_dir) / "oracle.json"
    end_trial = oracle.end_trial

    def end(trial):
        end_trial(trial)
        finished(trial.trial_id)

    oracle.save = lambda: store.write_json(path, oracle.get_state())
    oracle.end_trial = end


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
