"""What a search shows while it runs: the bar, and a line for each trial with the best so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_swapout.study import progress
from keras_swapout.study.report.words import lower, value_text
from keras_swapout.study.tune.settings import TuneSettings


class Display(progress.Display):
    """Progress of a search.

    Args:
        settings: the search's.
        ended: the trials that have ended already, as rows of the results.
    """

    def __init__(self, settings: TuneSettings, ended: Sequence[Mapping[str, Any]]) -> None:
        self.measure = settings.measure
        self.best: float | None = None
        for trial in ended:
            self._is_best(trial)
        super().__init__(settings.trials, len(ended), settings.pilot.epochs, what="trials")

    def watch(self, epoch: int, loss: float, reached: str) -> None:
        """An epoch of a trial is done here."""
        best = "" if self.best is None else f"best {value_text(self.measure, self.best)}; "
        self.epoch(f"{best}trial", epoch, loss, reached)

    def trial_finished(self, trial: Mapping[str, Any]) -> None:
        """A trial has ended, on whatever machine, and is saved."""
        mark = " (best)" if self._is_best(trial) else ""
        value = self.measure.read(trial["measures"])
        result = trial["status"].lower() if value is None else value_text(self.measure, value)
        values = ", ".join(f"{name} {number:.3g}" for name, number in trial["values"].items())
        self.finished(f"{values}: {lower(self.measure.title)} {result}{mark}")

    def _is_best(self, trial):
        value = self.measure.read(trial["measures"])
        sign = 1 if self.measure.higher_is_better else -1
        if value is None or (self.best is not None and sign * (value - self.best) <= 0):
            return False
        self.best = value
        return True
