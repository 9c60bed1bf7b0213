"""Progress on a terminal, silence in a pipe. Only what shows a bar imports the library that draws it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import TypeAlias

from holdfast.cli.shell import Output

Progress: TypeAlias = Callable[[int, int | None], None]


def _silent(_done: int, _total: int | None) -> None:
    pass


@contextlib.contextmanager
def bar(output: Output, label: str) -> Generator[Progress, None, None]:
    """A bar of bytes with a measured rate and time left; called with (done, total)."""
    if not output.bars:
        yield _silent
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=output.console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=None)

        def show(done: int, total: int | None) -> None:
            bars.update(task, completed=done, total=total)

        yield show
