"""What a pilot shows while it runs: a live bar on a terminal, else a line for each run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Display:
    """Progress of a pilot.

    Args:
        total: runs of the whole pilot.
        done: how many of them are finished already.
        epochs: epochs of a run.
        console: where to write; None for standard output.
        what: what the runs are called.
    """

    def __init__(
        self,
        total: int,
        done: int,
        epochs: int,
        console: Console | None = None,
        what: str = "runs",
    ) -> None:
        self.console = console or Console()
        self.total, self.done, self.epochs = total, done, epochs
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn(f"{{task.fields[runs]}} {what}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        # In epochs, not runs: the time left is known early.
        self._task = self._bar.add_task(
            "", total=total * epochs, completed=done * epochs, runs=self._runs()
        )

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Shows the bar while the block runs."""
        with self._bar:
            yield

    def doing(self, text: str) -> None:
        """What is going on, beside the bar."""
        self._bar.update(self._task, description=text, refresh=True)

    def epoch(self, name: str, epoch: int, loss: float, accuracy: float) -> None:
        """An epoch of a run is done."""
        self._bar.update(
            self._task,
            completed=self.done * self.epochs + epoch,
            description=f"{name}, epoch {epoch}/{self.epochs}: "
            f"loss {loss:.3f}, validation {accuracy:.1%}",
        )

    def run_finished(self, run: dict[str, Any]) -> None:
        """A run is done and saved."""
        self.finished(
            f"{run['method']} seed {run['seed']}: "
            f"test accuracy {run['test']['accuracy']:.2%}, nll {run['test']['nll']:.3f}, "
            f"corrupted {run['corruption_accuracy']:.2%}, {run['seconds']:.1f} s"
        )

    def finished(self, text: str) -> None:
        """A line for what is done and saved."""
        self.done += 1
        self._bar.update(self._task, completed=self.done * self.epochs, runs=self._runs())
        self.say(f"[{self._runs()}] {text}")

    def _runs(self):
        return f"{self.done}/{self.total}"
