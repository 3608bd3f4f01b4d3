"""What the terminal shows of an evaluation: a live bar, else a line for what is finished."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Display:
    """Progress of an evaluation.

    Args:
        total: parts of the whole evaluation.
        done: how many of them are finished already.
        console: where to write; None for standard output.
    """

    def __init__(self, total: int, done: int, console: Console | None = None) -> None:
        self.console = console or Console()
        self.total, self.done = total, done
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Shows the bar while the block runs."""
        with self._bar:
            yield

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def doing(self, text: str) -> None:
        """What is going on, beside the bar."""
        self._bar.update(self._task, description=text, refresh=True)

    def finished(self, name: str, parts: int) -> None:
        """Some parts are done and saved, of the clean images or of one corruption."""
        self.done += parts
        self._bar.advance(self._task, parts)
        if not self.console.is_terminal:
            self.say(f"[{self.done}/{self.total}] {name}")

    def run_finished(self, run: Mapping[str, Any]) -> None:
        """All parts of a model file in one way of inference are done."""
        if not self.console.is_terminal:  # which shows the table now
            self.say(
                f"{run['row']}, seed {run['seed']}: accuracy {run['test']['accuracy']:.2%}, "
                f"under corruption {run['corrupted']['accuracy']:.2%}"
            )
