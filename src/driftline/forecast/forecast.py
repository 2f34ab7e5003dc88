"""A forecast before it is written: the weight of each checkpoint in it, and how that came about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from driftline.checkpoints.trajectory import TensorSeries, Trajectory

Array = np.ndarray


class Rule(Protocol):
    """A forecast that is not linear in the checkpoints: makes a whole tensor at once."""

    def applies(self, tensor: TensorSeries) -> bool: ...

    def forecast(self, tensor: TensorSeries) -> Array:
        """Float32, flat, [size]."""


@dataclass(frozen=True)
class Forecast:
    """One model to make.

    Attributes:
        coefficients: of each tensor over the trajectory's checkpoints, float64 [T].
        recipe: how this forecast came about, for `driftline.json`; `target` and `method` at least.
        rule: makes the tensors that it applies to instead.
    """

    coefficients: dict[str, Array]
    recipe: dict[str, Any]
    rule: Rule | None = None


@dataclass(frozen=True)
class Plan:
    """The checkpoints that take part, a forecast for each target, and the sentence that says why these."""

    trajectory: Trajectory
    forecasts: tuple[Forecast, ...]
    sentence: str
    warning: bool
