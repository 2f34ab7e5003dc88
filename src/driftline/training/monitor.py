"""A run's linearity while it trains, in the trainer's own logs.

    trainer = GRPOTrainer(..., callbacks=[LinearityCallback()])

A seeded sample of the parameters is read at every log and kept on the device as increments between kept steps,
see `training.increments`; the figures of them are in `training.logged`.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from driftline.checkpoints.momentum import DEFAULT_BETA1, beta1_in_training
from driftline.errors import InputError
from driftline.training import hooks
from driftline.training.increments import Increments
from driftline.training.logged import ENOUGH_ROWS, LoggedFigures
from driftline.training.regrounding import RegroundingCallback

Array = np.ndarray

_STATE = "linearity"
_R2_SAMPLE = 10_000  # of the sample: the mean R² is then known to .003

logger = logging.getLogger(__name__)


class LinearityCallback(TrainerCallback):
    """Adds `linearity/...` to every training log.

    r2_mean, r2_median beside null_r2_mean, null_r2_median (a driftless walk with the optimizer's momentum at the
    same steps); growth_exponent and skill_ahead, of two-point forecasts one interval ahead, each beside that of the walk
    (null_...); once three pairs of kept intervals lie further apart than the optimizer's memory, increment_cosine of such
    pairs beside null_increment_cosine, and drift_to_noise per kept interval; recommended_horizon in steps, by back-tests;
    direction_lost and moving_further, 0 or 1, with the step since which it is so (..._since; see `watching.collapse`). R² is had anew
    when the run has grown by a quarter, the horizon by half, so that a log costs milliseconds.

    Args:
        sample: parameters to follow, spread over the trainable tensors by their size.
        rows: most steps kept; memory is 4 bytes x rows x sample.
        seed: of the sample.
        beta1: of the optimizer's momentum; default what the optimizer, or the trainer's arguments, say, else 0.9.
        regrounding: the run's `RegroundingCallback`, so that lines are drawn against the virtual step.
    """

    def __init__(
        self,
        *,
        sample: int = 1_000_000,
        rows: int = 24,
        seed: int = 0,
        beta1: float | None = None,
        regrounding: RegroundingCallback | None = None,
    ) -> None:
        for name, value, least in (("sample", sample, 1), ("rows", rows, 2 * ENOUGH_ROWS)):
            if value < least:
                raise InputError(f"the monitor with {name}={value}: give {least} or more")
        if beta1 is not None and not 0 <= beta1 < 1:
            raise InputError(f"the monitor with beta1={beta1}: give 0 (none) or more, and less than 1")
        self.sample, self.seed, self.beta1, self.regrounding = sample, seed, beta1, regrounding
        self.rows = rows - rows % 2  # they are thinned in pairs

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        hooks.report_before_others(self)
        self._positions = positions(hooks.trainable(model), self.sample, self.seed)
        self._beta1 = self._momentum(optimizer, args)
        self._sharded = hooks.holds_shards(model)
        self._start(model, self._clock(state))
        if state.global_step > 0:
            self._take_up(args, state)

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        clock, last = self._clock(state), self._run.steps[-1]
        if logs is None or "loss" not in logs or clock == last:
            return
        if clock < last:  # a jump was rolled back: what lies ahead is no part of the run
            self._start(model, clock)
            return
        self._run.add(self._values(model), clock, logs.get("learning_rate") or 0.0)
        figures = self._figures.of(self._run, lambda steps: r_squared(self._run.rows[: steps.size - 1], steps))
        self._warn(figures.get("direction_lost_since"))
        hooks.add_to_logs(state, logs, {f"linearity/{name}": value for name, value in figures.items()})

    def on_save(self, args, state, control, **kwargs):
        path = hooks.state_file(args, state, _STATE, sharded=self._sharded)
        if args.save_only_model or path is None or not (self._sharded or state.is_world_process_zero):
            return
        content: dict[str, Any] = self._run.state() | {"had": self._figures.had, "warned": self._warned}
        content |= {"increments": content["increments"].clone(), "gram": torch.from_numpy(content["gram"])}
        hooks.save_state(path, content)

    def _start(self, model: torch.nn.Module, clock: int) -> None:
        first = self._values(model)
        rows = torch.empty((self.rows, first.numel()), device=first.device)
        self._run = Increments(rows, first, clock, _summed if self._sharded else _on_host)
        self._figures = LoggedFigures(self._beta1)
        self._warned = False

    def _momentum(self, optimizer, args) -> float:
        """Of the optimizer; where neither it nor the arguments tell, most trainers' default, and a warning."""
        found = beta1_in_training(optimizer, args) if self.beta1 is None else self.beta1
        if found is None:
            logger.warning(
                "linearity: what %s remembers is not known, beta1 is taken to be %g: give LinearityCallback(beta1=...)",
                type(optimizer).__name__ if optimizer is not None else args.optim,
                DEFAULT_BETA1,
            )
            return DEFAULT_BETA1
        return found

    def _take_up(self, args, state) -> None:
        """Go on from what the loaded checkpoint holds; without it, or with another sample, start from here."""
        path = hooks.state_file(args, state, _STATE, sharded=self._sharded)
        if path is None or not path.is_file():
            return
        try:
            saved = {name.removeprefix("_"): value for name, value in hooks.load_state(path).items()}
        except InputError as error:
            logger.warning("%s; the monitor starts again at step %d", error, state.global_step)
            return
        saved |= {"gram": saved["gram"].numpy(), "last": saved["last"].to(self._run.rows.device)}
        if self._run.restore(saved):
            self._figures.had, self._warned = saved["had"], saved["warned"]

    def _clock(self, state) -> int:
        return state.global_step + (self.regrounding.virtual_steps_ahead if self.regrounding else 0)

    def _values(self, model: torch.nn.Module) -> torch.Tensor:
        found = hooks.trainable(model)
        return torch.cat([found[name].reshape(-1)[where].float() for name, where in self._positions.items()])

    def _warn(self, since: float | None) -> None:
        if since is not None and not self._warned:
            logger.warning("linearity: direction lost since step %d: look at reward and entropy", since)
            self._warned = True


def positions(values: hooks.Values, sample: int, seed: int) -> hooks.Values:
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


def r_squared(increments: torch.Tensor, steps: Array) -> Array:
    """R² on the steps [K + 1] of a part of the parameters, from their increments [K, N]; those that never changed are left out."""
    deltas = increments[:, :: -(-increments.shape[1] // _R2_SAMPLE)].cumsum(0)
    x = torch.from_numpy(steps - steps.mean()).to(deltas)
    # the delta of the first step is 0: it counts in the mean and in the squares
    square = (deltas * deltas).sum(0) - deltas.sum(0) ** 2 / steps.size
    changed = square > 0
    r2 = ((x[1:] @ deltas) ** 2 / (x @ x) / square)[changed]
    return r2.clamp(0, 1).cpu().numpy()


def _on_host(products: torch.Tensor) -> Array:
    return products.double().cpu().numpy()


def _summed(products: torch.Tensor) -> Array:
    """Over all processes."""
    torch.distributed.all_reduce(products)
    return _on_host(products)
