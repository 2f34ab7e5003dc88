"""Progress on standard error: a bar in a terminal, nothing elsewhere or when asked to be quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(what: str, total: int, *, quiet: bool, unit: str = "bytes") -> Iterator[Callable[[int], None]]:
    """A function that advances the bar by so many units; shows throughput (bytes) and time left."""
    if quiet or not sys.stderr.isatty():
        yield lambda amount: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda amount: bar.advance(task, amount)


@contextmanager
def counter(*, quiet: bool) -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """A function that starts a bar for each stage of a longer task and returns what advances it."""
    if quiet or not sys.stderr.isatty():
        yield lambda what, total: lambda amount: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def start(what: str, total: int) -> Callable[[int], None]:
            task = bar.add_task(what, total=total)
            return lambda amount: bar.advance(task, amount)

        yield start
