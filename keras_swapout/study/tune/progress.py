"""What a search shows while it runs: the bar, and a line for each trial with the best so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_swapout.study import progress
from keras_swapout.study.pilot.plan import EVALUATED
from keras_swapout.study.report.words import counted, lower, to_go, value_text
from keras_swapout.study.tune.settings import TuneSettings


class Display(progress.Display):
    """Progress of a search.

    Args:
        settings: the search's.
        ended: the trials that have ended already, as rows of the results.

    Attributes:
        final: how many runs follow the search: plain, untuned and tuned.
    """

    def __init__(self, settings: TuneSettings, ended: Sequence[Mapping[str, Any]]) -> None:
        self.measure, pilot = settings.measure, settings.pilot
        self.final = 0 if settings.search_only else 3 * pilot.seeds * len(pilot.label_noise)
        self._executions = settings.executions_per_trial
        self._took: list[float] = []
        self.best: float | None = None
        for trial in ended:
            self._is_best(trial)
        super().__init__(settings.trials, len(ended), pilot.epochs, what="trials")

    def watch(self, epoch: int, loss: float, reached: str) -> None:
        """An epoch of a trial is done here."""
        best = "" if self.best is None else f"best {value_text(self.measure, self.best)}; "
        self.epoch(f"{best}trial", epoch, loss, reached)

    def trial_finished(self, trial: Mapping[str, Any], processes: int = 1) -> None:
        """A trial has ended, on whatever machine, and is saved.

        Args:
            trial: as a row of the results.
            processes: how many train trials. Once as many trials as these are measured, it is said
                how long the rest takes.
        """
        mark = " (best)" if self._is_best(trial) else ""
        value = self.measure.read(trial["measures"])
        result = trial["status"].lower() if value is None else value_text(self.measure, value)
        values = ", ".join(f"{name} {number:.3g}" for name, number in trial["values"].items())
        self.finished(f"{values}: {lower(self.measure.title)} {result}{mark}")
        if trial["seconds"] is not None:
            self._took.append(trial["seconds"])
            if len(self._took) == max(processes, 1):
                self._announce(len(self._took))

    def _announce(self, processes):
        each, left = sum(self._took) / len(self._took), self.total - self.done
        seconds = left * each / processes + self.final * (each / self._executions + EVALUATED)
        then = f", then {counted(self.final, 'final run')}" if self.final else ""
        if said := to_go(seconds, f"{counted(left, 'trial')}{then}"):
            self.say(said)

    def _is_best(self, trial):
        value = self.measure.read(trial["measures"])
        sign = 1 if self.measure.higher_is_better else -1
        if value is None or (self.best is not None and sign * (value - self.best) <= 0):
            return False
        self.best = value
        return True
