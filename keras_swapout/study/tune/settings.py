"""What a search runs: the pilot's settings, what is searched, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_swapout.arguments import checked_count, checked_number, one_of
from keras_swapout.study.measuring.measure import Measure
from keras_swapout.study.pilot.methods import METHODS
from keras_swapout.study.pilot.settings import Settings
from keras_swapout.study.pilot.settings import make_settings as pilot_settings
from keras_swapout.study.tune.objectives import CONSISTENT, OBJECTIVES
from keras_swapout.study.tune.space import APART, STEPS, ranges_of
from keras_swapout.tuning.spaces import KINDS

if TYPE_CHECKING:
    from keras_swapout.study.task import Task

TUNERS = ("bayesian", "random", "grid")
#: What can be tuned: the methods whose numbers are variables of the training step.
TUNABLE = tuple(
    name for name, method in METHODS.items() if method.values and "spatial_dropout" not in name
)


@dataclasses.dataclass(frozen=True)
class TuneSettings:
    """A checked search. `make_settings` fills in what is not given.

    Attributes:
        method: the method whose numbers are searched.
        tuner: "bayesian", "random" or "grid".
        trials: how many settings to try.
        executions_per_trial: runs of each trial, with different seeds; the objective is their mean.
        objective: name of the measure on the validation images; None for "nll" or, where the
            network predicts numbers, "rmse".
        schedule: "linear", "constant" or "stage": theta over depth.
        ranges: for each number of the method (low, high).
        step: distance of the probabilities to try, or None for any; a grid needs it.
        search_only: whether the final runs are left out.
        pilot: network, data and budget, and the seeds of the final runs.
    """

    method: str
    tuner: str
    trials: int
    executions_per_trial: int
    objective: str | None
    schedule: str
    ranges: Mapping[str, tuple[float, float]]
    step: float | None
    search_only: bool
    pilot: Settings

    @property
    def measure(self) -> Measure:
        """The objective."""
        return OBJECTIVES[self.objective or "nll"]

    @property
    def direction(self) -> str:
        """ "max" or "min"."""
        return "max" if self.measure.higher_is_better else "min"


def fitting(settings: TuneSettings, task: Task, has_consistency: bool) -> TuneSettings:
    """The settings with an objective that is there.

    Args:
        settings: the search's.
        task: what the network predicts.
        has_consistency: whether its sub-models can be compared.

    Raises:
        ValueError: the objective is none of such a network.
    """
    there = ("nll", "accuracy", "ece") if task.classifies else ("rmse", "mae")
    there += tuple(CONSISTENT) if has_consistency else ()
    objective = settings.objective or there[0]
    if objective not in there:
        raise ValueError(
            f"Argument `objective` must be among {', '.join(there)}, as the network gives "
            f"{task.describe()}. Received: objective={objective!r}"
        )
    return dataclasses.replace(settings, objective=objective)


def make_settings(
    method: str = "swapout",
    tuner: str = "bayesian",
    trials: int = 30,
    executions_per_trial: int = 1,
    objective: str | None = None,
    schedule: str = "linear",
    ranges: Mapping[str, Sequence[float]] | None = None,
    step: float | None = None,
    search_only: bool = False,
    **pilot: Any,
) -> TuneSettings:
    """Settings with their defaults, checked.

    Args:
        Those of `TuneSettings`; `ranges` for some or all numbers of the method.
        **pilot: those of `keras_swapout.study.pilot.make_settings`, without the methods.

    Raises:
        TypeError, ValueError: a value out of range or an unknown name.

    Example:

    >>> settings = make_settings("swapout", trials=12, ranges={"theta_1": (0.5, 1)})
    >>> settings.ranges
    {'theta_1': (0.5, 1.0), 'theta_2': (0.3, 1.0)}
    """
    one_of(method, TUNABLE, "method")
    one_of(tuner, TUNERS, "tuner")
    one_of(schedule, KINDS, "schedule")
    if objective is not None:
        one_of(objective, tuple(OBJECTIVES), "objective")
    checked_count(trials, "trials")
    checked_count(executions_per_trial, "executions_per_trial")
    if step is None and tuner == "grid":
        step = STEPS
    searched = ranges_of(METHODS[method], ranges or {})
    if step is not None:
        ends = [searched[name] for name in searched if name not in APART]
        least = min((high - low for low, high in ends), default=1)
        expected = f"a number in (0, {least:g}], the width of the narrowest range"
        checked_number(step, lambda n: 0 < n <= least, "step", expected)
    return TuneSettings(
        method,
        tuner,
        trials,
        executions_per_trial,
        objective,
        schedule,
        searched,
        step,
        bool(search_only),
        pilot_settings(methods=[method], **{"label_noise": (0.0,), **pilot}),
    )
