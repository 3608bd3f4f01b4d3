"""Which runs a pilot makes, in what order, and how many of them fit a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_swapout.study.pilot.runs import read_run
from keras_swapout.study.pilot.settings import Settings

REPORT = 10  # seconds at the end
LATE = 0.15  # of the time, by which the last seed may be late
FEWEST = 3  # seeds, and epochs
DEARER = 1.3  # a run of some method over one of plain, before that is known
SLOWER = 1.5  # a step in a long run over one of the first, with the looks at validation
EVALUATED = 3  # seconds of a run that are no training, likewise

Key = tuple[str, float, int]  # method, share of wrong labels, seed


class Plan:
    """The runs of a pilot, seeds in the outer loop; those of a folder are done already.

    Args:
        settings: the pilot's; with `minutes` its seeds are the most there may be.
        out: folder of the results.
        minutes: the time to keep to, from `start` on; None for all runs of the settings.
        start: as of `time.perf_counter`.
        width: how many runs are made at a time.

    Attributes:
        found: the finished runs by (method, share of wrong labels, seed).
        methods, seeds: what is run; with `minutes`, what fits.
    """

    def __init__(
        self, settings: Settings, out: Path, minutes: float | None, start: float, width: int
    ) -> None:
        self.settings, self.width = settings, width
        self.methods, self.seeds = settings.methods, settings.seeds
        self.start, self.minutes = start, minutes
        self.found: dict[Key, dict[str, Any]] = {}
        for key in self.wanted:
            if run := read_run(out, *key):
                self.found[key] = run

    @property
    def wanted(self) -> list[Key]:
        return [key for seed in range(self.seeds) for key in self._round(seed)]

    @property
    def missing(self) -> list[Key]:
        return [key for key in self.wanted if key not in self.found]

    def _round(self, seed):
        noises = self.settings.label_noise
        return [(name, noise, seed) for name in self.methods for noise in noises]

    def asked(self) -> Iterator[Key]:
        """What to make next, asked for one by one as there is room."""
        for seed in range(self.seeds):
            if seed and not self._fits(self._round(seed)):
                self.seeds = seed
                return
            for key in self._round(seed):
                if key in self.found or key[0] not in self.methods:
                    continue
                if not seed and key[0] != self.methods[0] and not self._fits([key]):
                    place = self.methods.index(key[0])
                    self.methods = self.methods[: max(place, 2)]
                    if key[0] not in self.methods:
                        continue
                yield key

    def _fits(self, keys):
        if self.minutes is None:
            return True
        left = self.start + 60 * self.minutes * (1 + LATE) - REPORT - time.perf_counter()
        return self.seconds(keys) <= left

    def seconds(self, keys: list[Key]) -> float:
        """How long these runs take, by those that are finished."""
        took: dict[str, list[float]] = {}
        for (name, _, _), run in self.found.items():
            took.setdefault(name, []).append(run.get("took", run["seconds"]))
        means = {name: sum(values) / len(values) for name, values in took.items()}
        known = list(means.values())
        other = DEARER * sum(known) / len(known) if known else 0.0
        missing = [means.get(name, other) for name, _, _ in keys]
        return sum(missing) / min(self.width, len(keys) or 1)


def epochs_that_fit(settings: Settings, minutes: float, step: float, steps: int, width: int) -> int:
    """Epochs of which `FEWEST` seeds of all methods fit a time, at least `FEWEST`, at most all.

    Args:
        settings: the pilot's.
        minutes: the time.
        step: seconds of a training step of plain.
        steps: of an epoch.
        width: how many runs are made at a time.
    """
    runs = FEWEST * len(settings.methods) * len(settings.label_noise)
    each = (60 * minutes - 3 * REPORT) * width / runs / DEARER - EVALUATED
    return max(FEWEST, min(settings.epochs, int(each / (step * SLOWER * steps))))


def estimate(settings: Settings, step: float, steps: int, width: int) -> float:
    """Seconds of a whole pilot, roughly, from the time of a step."""
    runs = settings.seeds * len(settings.methods) * len(settings.label_noise)
    each = DEARER * (settings.epochs * steps * step * SLOWER + EVALUATED)
    return runs * each / min(width, runs) + 3 * REPORT
