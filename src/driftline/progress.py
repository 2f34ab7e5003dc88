"""Progress on standard error: a bar in a terminal for what takes over two seconds, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from driftline.plain import one_line

if TYPE_CHECKING:
    from rich.progress import Progress, Task

Advance: TypeAlias = Callable[[int], None]
"""Told of so many more units that are done."""

StartStage: TypeAlias = Callable[[str, int], Advance]
"""Starts the progress of a stage, from what it is and how many units it has, and gives what advances it."""

_PATIENCE = 2.0  # seconds before a bar is shown
_FIRST, _BETWEEN = 10.0, 30.0  # seconds before the first line and between two, where there is no terminal


def unseen(amount: int) -> None:
    """An `Advance` that shows nothing."""


def no_progress(what: str, total: int) -> Advance:
    """A `StartStage` that shows nothing."""
    return unseen


class OpenBar(Protocol):
    """Opens a bar for what is done in so many units: a context that gives what advances it."""

    def __call__(self, what: str, total: int, /, *, unit: str = "bytes") -> AbstractContextManager[Advance]: ...


def no_bar(what: str, total: int, /, *, unit: str = "bytes") -> AbstractContextManager[Advance]:
    """An `OpenBar` that shows nothing."""
    return nullcontext(unseen)


@contextmanager
def progress_bar(what: str, total: int, *, quiet: bool, unit: str = "bytes") -> Iterator[Advance]:
    """A function that advances by so many units; shows throughput and time left."""
    with _shown(unit, quiet=quiet) as start:
        yield start(what, total)


@contextmanager
def counter(*, quiet: bool) -> Iterator[StartStage]:
    """A function that starts the progress of each stage of a longer task and returns what advances it."""
    with _shown("", quiet=quiet) as start:
        yield start


@contextmanager
def _shown(unit: str, *, quiet: bool) -> Iterator[StartStage]:
    if quiet:
        yield no_progress
    elif not sys.stderr.isatty():
        yield lambda what, total: _Lines(what, total, unit).advance
    else:
        bar = _bar(unit)
        begun = time.monotonic()

        def start(what: str, total: int) -> Advance:
            task = bar.add_task(one_line(what), total=total)

            def advance(amount: int) -> None:
                bar.advance(task, amount)
                if not bar.live.is_started and time.monotonic() - begun > _PATIENCE:
                    bar.start()

            return advance

        try:
            yield start
        finally:
            bar.stop()


def _bar(unit: str) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Done(ProgressColumn):
        def render(self, task: Task) -> Any:
            return Text(_done(task.completed, task.total or 0, task.speed, unit))

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), Done(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


class _Lines:
    """A line after ten seconds, then one every half minute."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._begun = time.monotonic()
        self._next = self._begun + _FIRST
        self._done = 0

    def advance(self, amount: int) -> None:
        self._done += amount
        now = time.monotonic()
        if now < self._next or not 0 < self._done < self._total:
            return
        self._next = now + _BETWEEN
        speed = self._done / (now - self._begun)
        left = (self._total - self._done) / speed
        done = _done(self._done, self._total, speed, self._unit)
        line = f"driftline: {self._what}: {done}, about {left:.0f} s left"
        print(one_line(line), file=sys.stderr, flush=True)


def _done(done: float, total: float, speed: float | None, unit: str) -> str:
    """`1.2 of 4.7 GB, 420 MB/s`, or `12 of 64 rows, 3.1 rows/s`."""
    if unit == "bytes":
        rate = f", {in_bytes(speed)}/s" if speed else ""
        return f"{in_bytes(done)} of {in_bytes(total)}{rate}"
    rate = f", {speed:.3g} {unit or 'a second'}{'/s' if unit else ''}" if speed else ""
    return f"{done:,.0f} of {total:,.0f}{f' {unit}' if unit else ''}{rate}"


def in_bytes(count: float) -> str:
    """`1.2 GB`, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
