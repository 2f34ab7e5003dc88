"""A run's linearity while it trains, in the trainer's own logs.

    trainer = GRPOTrainer(..., callbacks=[LinearityCallback()])

A seeded sample of the parameters is read at every log and kept on the device as increments I_k between kept
steps; with the Gram C of these everything but R² follows as for checkpoints on disk. Memory is bounded: when
the rows are full, neighbouring increments are added up and every second step is kept from then on; the
step of the latest log is always the last row.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from driftline.errors import InputError
from driftline.forecast.backtest import FEWEST_SEEN, Scores, pool, recommended_horizon, score
from driftline.forecast.extrapolators import method_named
from driftline.forecast.observations import Observations
from driftline.linearity import null, statistics
from driftline.linearity.drift import drift_test
from driftline.training import hooks
from driftline.training.regrounding import RegroundingCallback
from driftline.watching.collapse import collapse, skills_ahead

Array = np.ndarray

_STATE = "linearity"
_R2_SAMPLE = 10_000  # of the sample: the mean R² is then known to .003
_NULL_DRAWS = 4_000
_R2_EVERY, _HORIZON_EVERY = 1.25, 1.5  # costly figures are had anew when the run has grown by this factor
_WALKS = 199  # of the drift test: a verdict at the 5 % level needs no more
_ENOUGH_ROWS = 8  # for a horizon, and for a warning
_RECENT = 3  # forecasts whose mean skill is shown
_METHODS = ("two-point", "damped")

logger = logging.getLogger(__name__)


class LinearityCallback(TrainerCallback):
    """Adds `linearity/...` to every training log.

    r2_mean, r2_median beside null_r2_mean, null_r2_median (a driftless walk with the optimizer's momentum at the
    same steps); increment_cosine of separated increments; growth_exponent; drift_to_noise per kept interval;
    skill_ahead, of two-point forecasts one interval ahead; recommended_horizon in steps, by back-tests;
    collapse_warning, 0 or 1, with collapse_since, the step at which it began (see `linearity.collapse`). R² is had anew
    when the run has grown by a quarter, the horizon by half, so that a log costs milliseconds.

    Args:
        sample: parameters to follow, spread over the trainable tensors by their size.
        rows: most steps kept; memory is 4 bytes x rows x sample.
        seed: of the sample.
        regrounding: the run's `RegroundingCallback`, so that lines are drawn against the virtual step.
    """

    def __init__(
        self, *, sample: int = 1_000_000, rows: int = 24, seed: int = 0, regrounding: RegroundingCallback | None = None
    ) -> None:
        for name, value, least in (("sample", sample, 1), ("rows", rows, 2 * _ENOUGH_ROWS)):
            if value < least:
                raise InputError(f"the monitor with {name}={value}: give {least} or more")
        self.sample, self.seed, self.regrounding = sample, seed, regrounding
        self.rows = rows - rows % 2  # they are thinned in pairs

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        hooks.report_before_others(self)
        self._positions = positions(hooks.trainable(model), self.sample, self.seed)
        self._beta1 = args.adam_beta1 if "adam" in str(args.optim).lower() else 0.0
        self._sharded = any(hooks.is_sharded(parameter) for parameter in model.parameters())
        self._start(model, self._clock(state))
        if state.global_step > 0:
            self._take_up(args, state)

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        clock = self._clock(state)
        if logs is None or "loss" not in logs or clock == self._steps[-1]:
            return
        if clock < self._steps[-1]:  # a jump was rolled back: what lies ahead is no part of the run
            self._start(model, clock)
            return
        self._add(self._values(model), clock, logs.get("learning_rate") or 0.0)
        hooks.add_to_logs(state, logs, {f"linearity/{name}": value for name, value in self.figures().items()})

    def on_save(self, args, state, control, **kwargs):
        path = hooks.state_file(args, state, _STATE, sharded=self._sharded)
        if args.save_only_model or path is None or not (self._sharded or state.is_world_process_zero):
            return
        names = ("_last", "_steps", "_spans", "_logs", "_stride", "_had", "_warned")
        content: dict[str, Any] = {name: getattr(self, name) for name in names}
        rows = self._increments[: len(self._spans)].clone()
        hooks.save_state(path, content | {"increments": rows, "gram": torch.from_numpy(self._gram)})

    def figures(self) -> dict[str, float]:
        """The figures of the steps kept so far; those that cannot be had are left out."""
        steps = np.array(self._steps, np.float64)
        found: dict[str, float] = {}
        if steps.size >= 3:
            found |= self._now_and_then("r2", _R2_EVERY, lambda: self._r2_beside_null(steps))
        if steps.size > FEWEST_SEEN:
            gram = statistics.gram_of_increments(self._gram)
            pairs = statistics.separated_pairs(steps, statistics.optimizer_memory(self._beta1))
            noise_to_drift = statistics.drift_and_noise(gram, steps, pairs)[1]
            found |= {
                "increment_cosine": statistics.mean_cosine(self._gram, pairs)[0],
                "growth_exponent": statistics.growth_exponent(gram, steps)[0],
                "drift_to_noise": 1 / noise_to_drift if noise_to_drift else math.inf,
                "skill_ahead": float(skills_ahead(gram, steps)[-_RECENT:].mean()),
            }
        if steps.size >= _ENOUGH_ROWS:
            found |= self._now_and_then("horizon", _HORIZON_EVERY, lambda: self._horizon(gram, steps))
            whole = len(self._spans) - self._provisional
            since = collapse(self._gram[:whole, :whole], steps[: whole + 1], np.array(self._spans[:whole]))
            found["collapse_warning"] = float(since is not None)
            if since is not None:
                found["collapse_since"] = since
                self._warn(since)
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _start(self, model, clock: int) -> None:
        self._last = self._values(model)  # as of the last step that stays
        self._steps: list[int] = [clock]
        self._spans: list[float] = []  # of the intervals, in learning rate x steps
        self._increments = torch.empty((self.rows, self._last.numel()), device=self._last.device)
        self._gram = np.zeros((0, 0))
        self._logs, self._stride = 0, 1
        self._had: dict[str, tuple[int, dict[str, float]]] = {}  # costly figures, and the step they were had at
        self._warned = False

    def _take_up(self, args, state) -> None:
        """Go on from what the loaded checkpoint holds; without it, or with another sample, start from here."""
        path = hooks.state_file(args, state, _STATE, sharded=self._sharded)
        if path is None or not path.is_file():
            return
        try:
            saved = hooks.load_state(path)
        except InputError as error:
            logger.warning("%s; the monitor starts again at step %d", error, state.global_step)
            return
        increments = saved.pop("increments")
        if increments.shape[1] != self._last.numel() or increments.shape[0] > self.rows:
            return
        self._gram = saved.pop("gram").numpy()
        self._increments[: increments.shape[0]] = increments.to(self._last.device)
        saved["_last"] = saved["_last"].to(self._last.device)
        for name, value in saved.items():
            setattr(self, name, value)

    @property
    def _provisional(self) -> bool:
        """Whether the last row makes way for the next log."""
        return self._logs % self._stride != 0

    def _add(self, values: torch.Tensor, clock: int, rate: float) -> None:
        span = rate * (clock - self._steps[-1])
        if self._provisional:
            self._steps.pop()
            span += self._spans.pop()
            self._gram = self._gram[:-1, :-1]
        elif len(self._spans) == self.rows:
            self._thin()
        row = len(self._spans)
        torch.sub(values, self._last, out=self._increments[row])
        products = self._increments[: row + 1] @ self._increments[row]
        if self._sharded:
            torch.distributed.all_reduce(products)
        column = products.double().cpu().numpy()
        self._gram = np.block([[self._gram, column[:-1, None]], [column[None, :-1], column[-1:, None]]])
        self._steps.append(clock)
        self._spans.append(span)
        self._logs += 1
        if not self._provisional:
            self._last = values

    def _thin(self) -> None:
        """Keep every second step: neighbouring increments are added up."""
        half = self.rows // 2
        for row in range(half):
            torch.add(self._increments[2 * row], self._increments[2 * row + 1], out=self._increments[row])
        self._gram = self._gram[: 2 * half, : 2 * half].reshape(half, 2, half, 2).sum((1, 3))
        self._steps = self._steps[: 2 * half + 1 : 2]
        self._spans = [sum(self._spans[2 * row : 2 * row + 2]) for row in range(half)]
        self._stride *= 2

    def _clock(self, state) -> int:
        return state.global_step + (self.regrounding.virtual_steps_ahead if self.regrounding else 0)

    def _values(self, model) -> torch.Tensor:
        found = hooks.trainable(model)
        return torch.cat([found[name].reshape(-1)[where].float() for name, where in self._positions.items()])

    def _r2(self, steps: Array) -> Array:
        """R² on the steps of a part of the sample; parameters that never changed are left out."""
        stride = -(-self._last.numel() // _R2_SAMPLE)
        deltas = self._increments[: len(self._spans), ::stride].cumsum(0)
        x = torch.from_numpy(steps - steps.mean()).to(deltas)
        # the delta of the first step is 0: it counts in the mean and in the squares
        square = (deltas * deltas).sum(0) - deltas.sum(0) ** 2 / steps.size
        changed = square > 0
        r2 = ((x[1:] @ deltas) ** 2 / (x @ x) / square)[changed]
        return r2.clamp(0, 1).cpu().numpy()

    def _r2_beside_null(self, steps: Array) -> dict[str, float]:
        r2, chance = self._r2(steps), null.null_r2(steps, steps, self._beta1, draws=_NULL_DRAWS)
        if not r2.size:
            return {}
        return {
            "r2_mean": float(r2.mean()),
            "r2_median": float(np.median(r2)),
            "null_r2_mean": chance.mean_r2,
            "null_r2_median": chance.quantile(0.5),
        }

    def _horizon(self, gram: Array, steps: Array) -> dict[str, float]:
        """The furthest of the methods' recommended horizons, as `driftline backtest` has them."""
        observed = Observations(steps, steps, self._beta1, {"sample": gram})
        test = drift_test(gram, steps, steps, self._beta1, draws=_WALKS)
        scores = [reduce(Scores.__add__, score(observed, method_named(name)).values()) for name in _METHODS]
        return {"recommended_horizon": max(recommended_horizon(pool(one, steps), test) for one in scores)}

    def _now_and_then(self, what: str, growth: float, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
        elapsed = self._steps[-1] - self._steps[0]
        if what not in self._had or elapsed >= growth * self._had[what][0]:
            self._had[what] = (elapsed, compute())
        return self._had[what][1]

    def _warn(self, since: float) -> None:
        if not self._warned:
            logger.warning("linearity: this run may be collapsing since step %d: look at its reward and entropy", since)
            self._warned = True


def positions(values: dict[str, torch.Tensor], sample: int, seed: int) -> dict[str, torch.Tensor]:
    """Which flat elements of each tensor are followed: one drawn from each of equal stretches, in order.

    Raises:
        InputError: there is nothing to follow.
    """
    total = sum(value.numel() for value in values.values())
    if total == 0:
        raise InputError(
            "the model has no trainable parameters on this process, so there is nothing to monitor: unfreeze some"
        )
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, value in values.items():
        size = value.numel()
        count = min(size, max(1, round(sample * size / total)))
        if size:
            drawn = (torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) * (size / count)
            found[name] = drawn.long().clamp_(max=size - 1).to(value.device)
    return found
