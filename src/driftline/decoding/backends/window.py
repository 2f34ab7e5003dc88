"""Requests handed to an engine some at a time, and their results in the order in which they were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Window(Generic[Result]):
    """Which of `total` requests are with the engine, and which results wait for an earlier one.

    As many are in flight as keep the engine full. A request that takes long holds back the results behind it: at most
    `ahead` places are worked on beyond the first that is not done, so that a killed call loses no more than these.
    """

    def __init__(self, total: int, in_flight: int, ahead: int) -> None:
        self._total, self._in_flight, self._ahead = total, in_flight, ahead
        self._next = self._first = self._open = 0
        self._held: dict[int, Result] = {}

    @property
    def finished(self) -> bool:
        """Whether every result has been taken."""
        return self._first == self._total

    def due(self) -> Iterator[int]:
        """The places of the requests that the engine is to be given now."""
        while self._next < min(self._total, self._first + self._ahead) and self._open < self._in_flight:
            self._next += 1
            self._open += 1
            yield self._next - 1

    def put(self, place: int, result: Result) -> None:
        """A request is done."""
        self._held[place] = result
        self._open -= 1

    def ready(self) -> list[Result]:
        """Results that no earlier one is missing for, each once."""
        found = []
        while self._first in self._held:
            found.append(self._held.pop(self._first))
            self._first += 1
        return found
