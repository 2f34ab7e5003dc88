"""Cycles of m trained steps and a jump of n projected ones, on parameters by name; no trainer is needed.

A jump is W <- sum_t a_t W_t over anchors kept since the last jump and the present weights, the same combination as
a forecast on disk; being linear it is done on whatever shard is local. A guarded jump is on probation until enough
rewards are logged, and rolled back when they have fallen significantly. A searched jump is as long as the best of a few
lengths, each scored before any is taken; it may be none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from driftline.checkpoints.jumps import Jump, Jumps, RewardChange, Tried
from driftline.errors import InputError
from driftline.forecast.extrapolators import Method
from driftline.training.hooks import Values
from driftline.training.projection import deltas_gram, project

_STANDARD_ERRORS = 2.0  # a fall of the reward by so many is significant


@dataclass(frozen=True)
class Anchor:
    """Weights that may jump, as they were at a step."""

    step: int
    values: Values


@dataclass(frozen=True)
class Before:
    """What a jump on probation goes back to: all trainable weights, and the optimizer's state by parameter and name."""

    values: Values
    optimizer: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Projection:
    """The weights of the points that a projection was made of, their Gram, and what a cut of LoRA products discarded."""

    coefficients: np.ndarray
    gram: np.ndarray
    discarded: float


class Cycles:
    """The anchors of the present cycle, the jumps so far, and the guard.

    Attributes:
        jumps: as they stand in `jumps.json`.
        ahead: projected steps so far; the virtual step is the trainer's step plus this.
        reach: projected steps of the next jump; the guard and the search change it.
        length: trained steps of the present cycle.
        before: of a jump on probation.

    Args:
        doubling: every cycle is twice as long as the one before.
        anchors: points that the line goes through, the present weights among them.
        window: rewards before and after a jump that it is judged by.
        offload: keep anchors in the memory of the host.
    """

    def __init__(
        self,
        m: int,
        n: int,
        method: Method,
        *,
        anchors: int = 2,
        window: int = 4,
        offload: bool = False,
        doubling: bool = False,
    ) -> None:
        self.length, self.doubling, self.kept = m, doubling, anchors
        self.n, self.method, self.window, self.offload = n, method, window, offload
        self.jumps: Jumps = []
        self.ahead = 0
        self.reach = n
        self.before: Before | None = None
        self._anchors: list[Anchor] = []
        self._rewards: list[tuple[int, float]] = []

    def start(self, step: int, values: Values) -> None:
        """A cycle begins here."""
        self._anchors = [Anchor(step, self.copy(values))]

    def keeps(self, step: int) -> bool:
        """Whether the weights of this step are an anchor."""
        parts = self.kept - 1
        return step - self._anchors[0].step in {round(i * self.length / parts) for i in range(1, parts)}

    def keep(self, step: int, values: Values) -> None:
        self._anchors.append(Anchor(step, self.copy(values)))

    def is_due(self, step: int) -> bool:
        """Whether a jump may be made: a cycle is trained, and no jump is on probation."""
        return step - self._anchors[0].step >= self.length and self.before is None

    def project(self, step: int, values: Values, reach: int, *, sharded: bool = False) -> Projection:
        """Project the weights of this step in place, `reach` steps ahead.

        Raises:
            InputError: they are not finite.
        """
        points = [*(anchor.values for anchor in self._anchors), values]
        clock = np.array([*(anchor.step for anchor in self._anchors), step], np.float64)
        gram = deltas_gram(points, sharded=sharded)
        if not np.isfinite(gram).all():
            raise InputError(
                f"step {step}: weights are not finite, so there is nothing to project; resume from an earlier checkpoint"
            )
        a = self.method.extrapolate(clock, gram, float(step + reach))
        return Projection(a, gram, discarded=project(points, a))

    def search(
        self,
        step: int,
        values: Values,
        score: Callable[[], float],
        candidates: int,
        *,
        sharded: bool = False,
    ) -> list[Tried]:
        """Score no jump and those of n, 2 n, 4 n, ... steps, up to the first that is not better than the one before.

        `reach` is then the best of them, 0 for none; the weights are as they were, but still to be written back.

        Args:
            score: mean reward of the model with the weights in `values` as they are.
            candidates: how many lengths to try at most.
        """
        now = self.copy(values)
        tried = [Tried(n=0, score=score())]
        for n in (self.n << doublings for doublings in range(candidates)):
            self.project(step, values, n, sharded=sharded)
            tried.append(Tried(n=n, score=score()))
            for name, value in values.items():
                value.copy_(now[name])
            if tried[-1].score <= tried[-2].score:
                break
        self.reach = max(tried, key=lambda one: one.score).n
        return tried

    def jump(self, step: int, values: Values, before: Before | None = None, *, sharded: bool = False) -> Jump:
        """Project the weights of this step in place, `reach` steps ahead. The next cycle is then to be started.

        Args:
            before: given, the jump is on probation.

        Raises:
            InputError: they are not finite.
        """
        made = self.project(step, values, self.reach, sharded=sharded)
        b = made.coefficients - np.eye(made.coefficients.size)[-1]
        start, end = self._anchors[0].step + self.ahead, step + self.ahead
        jump = Jump.after(self.jumps, start, end, self.reach, accepted=None if before else True)
        jump.step, jump.rolled_back_at = step, None
        jump.method, jump.coefficients = self.method.name, made.coefficients.tolist()
        jump.trained_length, jump.jump_length = math.sqrt(made.gram[-1, -1]), math.sqrt(max(b @ made.gram @ b, 0.0))
        jump.parameters = sum(value.numel() for value in values.values())
        jump.lora_discarded = made.discarded
        self.jumps.append(jump)
        self.ahead += self.reach
        self.before = before
        return jump

    def end(self) -> None:
        """The present cycle is over, with a jump or without; the next one is to be started."""
        self.length *= 1 + self.doubling

    def heed(self, step: int, reward: float | None) -> None:
        """Remember the mean reward that was logged at a step.

        Raises:
            InputError: it is not a finite number.
        """
        if reward is None or not math.isfinite(reward):
            raise InputError(
                f"step {step}: the mean reward is {reward}: mend the reward function, then resume from the last checkpoint"
            )
        self._rewards = [*self._rewards, (step, float(reward))][-4 * self.window :]

    def judge(self) -> bool | None:
        """Whether the jump on probation stands; None without one, and until enough rewards are logged.

        One that stands lets the next go twice as far, up to n. One that does not lets it go half as far, and is
        to be rolled back.
        """
        if self.before is None:
            return None
        jumped, w = self._anchors[0].step, self.window
        before = np.array([reward for at, reward in self._rewards if at <= jumped][-w:])
        after = np.array([reward for at, reward in self._rewards if at > jumped][:w])
        if after.size < w:
            return None
        fall = float(before.mean() - after.mean())
        error = math.sqrt(before.var(ddof=1) / before.size + after.var(ddof=1) / w)
        jump = self.jumps[-1]
        jump.reward = RewardChange(before=float(before.mean()), after=float(after.mean()), standard_error=error)
        jump.accepted = not fall > _STANDARD_ERRORS * error
        if jump.accepted:
            self.reach, self.before = min(2 * self.reach, self.n), None
        else:
            self.reach = max(self.reach // 2, 1)
        return jump.accepted

    def roll_back(self, step: int, values: Values) -> Before:
        """Take the jump on probation back, in place in all trainable weights. The next cycle is then to be started.

        Returns:
            What was restored, for the optimizer's part of it.
        """
        assert self.before is not None
        before, self.before = self.before, None
        for name, value in values.items():
            value.copy_(before.values[name])
        self.jumps[-1].rolled_back_at = step
        self.ahead = int(self.jumps[-1].trained_to) - step
        return before

    def copy(self, values: Values) -> Values:
        return {name: value.cpu().clone() if self.offload else value.clone() for name, value in values.items()}

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in plain values and tensors."""
        before = self.before
        return {
            "jumps": msgspec.to_builtins(self.jumps),
            "reach": self.reach,
            "ahead": self.ahead,
            "length": self.length,
            "rewards": self._rewards,
            "anchors": [(anchor.step, anchor.values) for anchor in self._anchors],
            "before": None if before is None else {"values": before.values, "optimizer": before.optimizer},
        }

    def restore(self, saved: dict[str, Any], like: Values) -> None:
        """Go on from what `state` gave, mid-cycle or not; the anchors lie where the weights of `like` do."""
        self.jumps = msgspec.convert(saved["jumps"], Jumps)
        self.reach, self.ahead, self.length = saved["reach"], saved["ahead"], saved.get("length", self.length)
        self._rewards = [(step, reward) for step, reward in saved["rewards"]]
        self.before = None if saved["before"] is None else Before(**saved["before"])
        devices = {name: "cpu" if self.offload else value.device for name, value in like.items()}
        self._anchors = [
            Anchor(step, {name: value.to(devices[name]) for name, value in values.items()})
            for step, values in saved["anchors"]
        ]
