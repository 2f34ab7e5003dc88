"""The Gram of a run's increments, had while the run streams by, in bounded memory.

Increments I_k = W_k - W_{k-1} between kept steps lie as rows of one array, numpy's or a torch tensor on any
device; from their Gram C everything but R² follows as for checkpoints on disk. When the rows are full,
neighbouring increments are added up and every second step is kept from then on; the latest step is always the
last row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray


def _float64(products: Any) -> Array:
    return np.asarray(products, np.float64)


class Increments:
    """Steps kept so far, the increments between them, and their Gram.

    Attributes:
        steps: [K + 1].
        spans: learning rate x steps, of each of the K intervals.
        gram: C [K, K], fp64.
        rows: [most, N]; the first K hold the increments.

    Args:
        rows: where the increments are kept, an even number of rows.
        first: the parameters at `step`, flat [N].
        to_host: makes products of rows fp64 of numpy; where the N parameters are spread over processes it sums
            over these.
    """

    def __init__(self, rows: Any, first: Any, step: int, to_host: Callable[[Any], Array] = _float64) -> None:
        self.rows, self._to_host = rows, to_host
        self.steps: list[int] = [step]
        self.spans: list[float] = []
        self.gram = np.zeros((0, 0))
        self._last = first  # as of the last step that stays
        self._seen, self._stride = 0, 1

    @property
    def settled(self) -> int:
        """How many of the intervals stay: all, unless the last makes way for the next step."""
        return len(self.spans) - self._provisional

    @property
    def _provisional(self) -> bool:
        return self._seen % self._stride != 0

    def add(self, values: Any, step: int, rate: float) -> None:
        """The parameters [N] at a later step, reached with this learning rate."""
        span = rate * (step - self.steps[-1])
        if self._provisional:
            self.steps.pop()
            span += self.spans.pop()
            self.gram = self.gram[:-1, :-1]
        elif len(self.spans) == len(self.rows):
            self._thin()
        row = len(self.spans)
        self.rows[row] = values - self._last
        column = self._to_host(self.rows[: row + 1] @ self.rows[row])
        self.gram = np.block([[self.gram, column[:-1, None]], [column[None, :-1], column[-1:, None]]])
        self.steps.append(step)
        self.spans.append(span)
        self._seen += 1
        if not self._provisional:
            self._last = values

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in plain values and arrays of the kinds that were given."""
        return {
            "increments": self.rows[: len(self.spans)],
            "gram": self.gram,
            "last": self._last,
            "steps": self.steps,
            "spans": self.spans,
            "logs": self._seen,
            "stride": self._stride,
        }

    def restore(self, saved: dict[str, Any]) -> bool:
        """Go on from what `state` gave; False, and nothing done, where it is of another N or of more rows than fit."""
        kept, N = saved["increments"].shape
        if kept > len(self.rows) or self.rows.shape[1] != N:
            return False
        self.rows[:kept] = saved["increments"]
        self.gram, self._last = saved["gram"], saved["last"]
        self.steps, self.spans = saved["steps"], saved["spans"]
        self._seen, self._stride = saved["logs"], saved["stride"]
        return True

    def _thin(self) -> None:
        """Keep every second step: neighbouring increments are added up."""
        half = len(self.rows) // 2
        for row in range(half):
            self.rows[row] = self.rows[2 * row] + self.rows[2 * row + 1]
        self.gram = self.gram.reshape(half, 2, half, 2).sum((1, 3))
        self.steps = self.steps[::2]
        self.spans = [sum(self.spans[2 * row : 2 * row + 2]) for row in range(half)]
        self._stride *= 2
