"""How the demonstration tells what it does: bars on a terminal, one line per step in a pipe."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from holdfast.cli.shell import Output

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

Advance: TypeAlias = Callable[[float, float], None]
"""Called with (done, total)."""

LABEL_COLUMNS: Final = 52


class Board:
    def __init__(self) -> None:
        self._output = Output()
        self._began = time.monotonic()
        self._live = sys.stdout.isatty()

    def say(self, text: str) -> None:
        print(f"{self._elapsed()}  {text}", flush=True)

    def note(self, text: str) -> None:
        """Progress for who reads a pipe; a terminal has its bar."""
        if not self._live:
            self.say(text)

    @contextlib.contextmanager
    def step(self, label: str) -> Generator[Advance, None, None]:
        """A step, named before it begins and timed when it has ended."""
        began = time.monotonic()
        if not self._live:
            self.say(label)
            yield _nothing
            return
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.fields[elapsed]}  {task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self._output.console(), transient=True) as bars:
            task = bars.add_task(label, total=None, elapsed=self._elapsed())
            yield self._advancing(bars, task)
        self.say(f"{label:<{LABEL_COLUMNS}} {time.monotonic() - began:5.1f} s")

    def table(self, title: str, rows: Sequence[tuple[str, str]]) -> None:
        from rich import box
        from rich.table import Table

        table = Table(
            title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False, pad_edge=False
        )
        table.add_column()
        table.add_column(justify="right")
        for row in rows:
            table.add_row(*row)
        self._output.console().print(table)

    def _advancing(self, bars: Bars, task: TaskID) -> Advance:
        def advance(done: float, total: float) -> None:
            bars.update(task, completed=done, total=total or None, elapsed=self._elapsed())

        return advance

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._began:5.1f} s"


def _nothing(_done: float, _total: float) -> None:
    pass
