"""What the terminal shows of work that goes on: a live bar, else a line for what is finished."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Display:
    """A bar over tasks of several steps each, which tell the time that is left early.

    Args:
        total: tasks of the whole work.
        done: how many of them are finished already.
        steps: of a task.
        what: what the tasks are called.
        console: where to write; None for standard output.
    """

    def __init__(
        self, total: int, done: int, steps: int = 1, what: str = "", console: Console | None = None
    ) -> None:
        self.console = console or Console()
        self.total, self.done, self.steps = total, done, steps
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn(f"{{task.fields[done]}} {what}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task(
            "", total=total * steps, completed=done * steps, done=self._done()
        )

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Shows the bar while the block runs."""
        with self._bar:
            yield

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def doing(self, text: str) -> None:
        """What is going on, beside the bar."""
        self._bar.update(self._task, description=text, refresh=True)

    def step(self, steps: int, text: str) -> None:
        """So many steps of the task at hand are done."""
        self._bar.update(self._task, completed=self.done * self.steps + steps, description=text)

    def epoch(self, name: str, epoch: int, loss: float, reached: str) -> None:
        """A step that is an epoch of training; `reached` is how good it is by now."""
        self.step(epoch, f"{name}, epoch {epoch}/{self.steps}: loss {loss:.3f}, {reached}")

    def finished(self, text: str, tasks: int = 1, lasting: bool = True) -> None:
        """Tasks are done and saved.

        Args:
            text: what they were.
            tasks: how many.
            lasting: whether the line stays where there is a bar, too.
        """
        self.done += tasks
        self._bar.update(self._task, completed=self.done * self.steps, done=self._done())
        if lasting or not self.console.is_terminal:
            self.say(f"[{self._done()}] {text}")

    def _done(self):
        return f"{self.done}/{self.total}"
