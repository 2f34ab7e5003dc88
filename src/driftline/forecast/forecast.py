"""A forecast before it is written: the weight of each checkpoint in it, and how that came about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from driftline.checkpoints.trajectory import TensorSeries, Trajectory
from driftline.files.record import UNSET, Figure, Record, UnsetType

Array = np.ndarray


class Rule(Protocol):
    """A forecast that is not linear in the checkpoints: makes a whole tensor at once."""

    def applies(self, tensor: TensorSeries) -> bool: ...

    def forecast(self, tensor: TensorSeries) -> Array:
        """Float32, flat, [size]."""


class TrainedNetworks(Record):
    """What the networks of `next` were trained on and how.

    Attributes:
        origins: steps that they look ahead from, all as far: `ahead`, on the clock.
        times: what the change that they predict is multiplied by to get to the target.
        training_error: mean absolute error of the elements of u and v in the last epoch, scaled to be of size 1.
    """

    origins: list[int]
    ahead: float
    times: float
    width: int
    epochs: int
    learning_rate: float
    seed: int
    training_error: Figure


class Origin(Record, kw_only=True):
    """How a forecast came about, as its recipe tells; a key that does not apply is absent.

    Attributes:
        driftline: the version that made it.
        target: the step asked for, or the score of `alpharl`.
        chosen: why `auto` chose the method; reached: the step that the forecast stops at.
        skill_in_logprobs: of each contender, where rollouts chose.
        observed: the steps that take part; fitted_per: `tensor`, `group` or `run`.
        rank, reconstruct: of `relex`; alpha: of `two-point`; standard_error: of `blup`, in the units of the weights.
        scores: of `alpharl`, of each step; by_rule: the tensors that the rule of `alpharl` or `next` makes.
        networks: of `next`.
    """

    driftline: str
    target: float
    method: str
    chosen: str | UnsetType = UNSET
    reached: float | UnsetType = UNSET
    skill_in_logprobs: dict[str, Figure] | UnsetType = UNSET
    clock: str | UnsetType = UNSET
    observed: list[int]
    fitted_per: str | UnsetType = UNSET
    rank: int | UnsetType = UNSET
    reconstruct: bool | UnsetType = UNSET
    alpha: float | UnsetType = UNSET
    standard_error: Figure | UnsetType = UNSET
    scores: dict[str, float] | UnsetType = UNSET
    by_rule: list[str] | UnsetType = UNSET
    networks: TrainedNetworks | UnsetType = UNSET


@dataclass(frozen=True)
class Forecast:
    """One model to make.

    Attributes:
        coefficients: of each tensor over the trajectory's checkpoints, float64 [T].
        origin: how this forecast came about, for `driftline.json`.
        rule: makes the tensors that it applies to instead.
    """

    coefficients: dict[str, Array]
    origin: Origin
    rule: Rule | None = None


@dataclass(frozen=True)
class Plan:
    """The checkpoints that take part, a forecast for each target, and the sentence that says why these."""

    trajectory: Trajectory
    forecasts: tuple[Forecast, ...]
    sentence: str
    warning: bool
