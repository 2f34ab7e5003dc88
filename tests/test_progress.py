"""Progress: nothing for short work, lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import io
from typing import Any

import pytest

from driftline import progress


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def test_short_work_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar("reading weights", 4, quiet=False) as advance:
        for _ in range(4):
            clock.now += 0.4
            advance(1)
    assert capsys.readouterr().err == ""


def test_long_work_says_how_far_how_fast_and_how_long_yet(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar("reading weights", 8_000_000, quiet=False) as advance:
        for _ in range(8):
            clock.now += 10
            advance(1_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "driftline: reading weights: 1 MB of 8 MB, 100 kB/s, about 70 s left",
        "driftline: reading weights: 4 MB of 8 MB, 100 kB/s, about 40 s left",
        "driftline: reading weights: 7 MB of 8 MB, 100 kB/s, about 10 s left",
    ]


def test_stages_count_what_they_count(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.counter(quiet=False) as start:
        advance = start("scoring", 40)
        clock.now += 16
        advance(10)
    assert capsys.readouterr().err == "driftline: scoring: 10 of 40, 0.625 a second, about 48 s left\n"


def test_quiet_is_quiet(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress_bar("sampling", 40, quiet=True, unit="rows") as advance:
        clock.now += 60
        advance(10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "shown"), [(1.0, False), (4.0, True)])
def test_in_a_terminal_it_is_a_bar(clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: float, shown: bool) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal: Any = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.progress_bar("sampling", 40, quiet=False, unit="rows") as advance:
        clock.now += seconds
        advance(10)
    assert ("10 of 40 rows" in terminal.getvalue()) == shown
