"""Periodic re-grounding inside a trainer: m optimizer steps, a jump n steps ahead, and again (paper, RL-Extra).

    trainer = GRPOTrainer(..., callbacks=[RegroundingCallback(m=20, n=100)])

A jump, see `training.cycles`, happens when a step ends, before that step is evaluated or saved, and only where the
trainer is about to sample afresh: no rollout from before a jump trains the weights after it. The learning-rate
schedule and the step counter go on as if nothing had happened; the virtual step (trained + projected) is logged and
in `jumps.json`.

Costs a copy of the trainable weights for each anchor but the last, and with `accept="reward"`, while a jump
is on probation, one more and a copy of the optimizer's state.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from msgspec import UNSET
from transformers import TrainerCallback

from driftline.checkpoints.jumps import NAME, Jumps, Tried, write_jumps
from driftline.errors import InputError
from driftline.forecast.extrapolators import method_named
from driftline.training import hooks, optimizers, refusals
from driftline.training.cycles import Before, Cycles
from driftline.writing.storage import NORM_LAYERS

METHODS = ("two-point", "least-squares", "anchored", "damped")
_STATE = "regrounding"


class RegroundingCallback(TrainerCallback):
    """After every `m` optimizer steps, `n` projected ones.

    Args:
        method: `two-point`, as in the paper; `least-squares`, `anchored` or `damped` use more anchors.
        anchors: points that the line goes through, the present weights among them; 2, or 5 for the others.
        keep: shell patterns of the parameters that a jump leaves alone; the norm layers, as in the paper.
        optimizer: state of the parameters that jumped: `keep`; `reset` (moments and their step count start
            again); `rescale` (first moments divided by alpha).
        accept: `always`, as in the paper; or `reward`: when the mean reward of the `window` logs after a jump is
            below that of the `window` before by two standard errors, weights and optimizer go back to where
            they were and n is halved; it doubles again, up to `n`, with every jump that stands. No jump is made
            that the run would end too early to judge. Or `validation`, after EffOPD (arXiv 2605.11739): no jump and
            jumps of n, 2 n, 4 n, ... steps are scored by `validate`, up to the first that is not better than the one
            before, and the best is made.
        validate: (model) -> its mean reward on a small validation set, not that of the final test; the same problems
            and random state at every call, so that lengths are compared and not draws.
        candidates: lengths to try at most.
        spacing: `even`, or `doubling`: cycles of m, 2 m, 4 m, ... steps, as EffOPD has them.
        adapters: `refuse` a model that trains LoRA factors, as A and B are not linear in the weights; or `product`:
            project B A and factor it again at its rank, see `training.lora`.
        offload: keep anchors in the memory of the host.

    Raises (`InputError`, before the first step):
        m that is no multiple of the steps between two generations, a model without trainable parameters or with
        quantised ones, LoRA factors, a trainer whose weights are not where they seem to be.
    """

    def __init__(
        self,
        m: int,
        n: int,
        *,
        method: str = "two-point",
        anchors: int | None = None,
        keep: tuple[str, ...] = NORM_LAYERS,
        optimizer: Literal["keep", "reset", "rescale"] = "keep",
        accept: Literal["always", "reward", "validation"] = "always",
        window: int = 4,
        validate: Callable[[torch.nn.Module], float] | None = None,
        candidates: int = 5,
        spacing: Literal["even", "doubling"] = "even",
        adapters: Literal["refuse", "product"] = "refuse",
        offload: bool = False,
    ) -> None:
        for name, value in (("m", m), ("n", n), ("candidates", candidates)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"re-grounding with {name}={value}: give a whole number, 1 or more")
        for name, given, known in (
            ("method", method, METHODS),
            ("optimizer", optimizer, optimizers.TREATMENTS),
            ("accept", accept, ("always", "reward", "validation")),
            ("spacing", spacing, ("even", "doubling")),
            ("adapters", adapters, ("refuse", "product")),
        ):
            if given not in known:
                raise InputError(f"re-grounding with {name}={given!r}: choose {', '.join(known)}")
        count = anchors if anchors is not None else (2 if method == "two-point" else min(5, m + 1))
        if not 2 <= count <= m + 1:
            raise InputError(
                f"re-grounding with anchors={anchors}: {m} steps have 2 to {m + 1} points to keep, choose among these"
            )
        if window < 2:
            raise InputError(
                f"re-grounding with window={window}: a mean with an error needs 2 logs or more, give 2 or above"
            )
        if (accept == "validation") != (validate is not None):
            raise InputError(
                "re-grounding with accept='validation' needs validate, and only then: give both or neither"
            )
        self.validate, self.candidates, self.doubling = validate, candidates, spacing == "doubling"
        self.m, self.n, self.keep, self.accept, self.window, self.offload = m, n, tuple(keep), accept, window, offload
        self.method, self.optimizer_state, self.adapters = method_named(method), optimizer, adapters
        self.anchors = count
        if adapters == "product" and self.method.uses_gram:
            raise InputError(
                f"re-grounding of LoRA products with method={method!r}: it is fitted to factors; use two-point, "
                "least-squares or anchored"
            )
        self._begin()

    def _begin(self) -> None:
        self._cycles = Cycles(
            self.m,
            self.n,
            self.method,
            anchors=self.anchors,
            window=self.window,
            offload=self.offload,
            doubling=self.doubling,
        )
        self._batches = 0  # seen since training started or went on, as the trainer counts them
        self._buffer = 1  # batches from one generation to the next
        self._probation = 0  # steps that the guard needs after a jump

    @property
    def jumps(self) -> Jumps:
        return self._cycles.jumps

    @property
    def virtual_steps_ahead(self) -> int:
        """Projected steps so far: the virtual step is the trainer's step plus this."""
        return self._cycles.ahead

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        hooks.report_before_others(self)
        self._begin()
        self._check(args, state, model, optimizer)
        if state.global_step > 0 and (Path(args.output_dir) / NAME).is_file():
            self._take_up(args, state, model)
        else:
            self._cycles.start(state.global_step, self._moved(model))
        self._record(args, state)

    def on_substep_end(self, args, state, control, **kwargs):
        self._batches += 1

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        self._batches += 1
        step = state.global_step
        if self._cycles.keeps(step):
            self._cycles.keep(step, self._moved(model))
        self._judge_if_due(args, state, model, optimizer)
        if self._cycles.is_due(step) and self._samples_next() and self._could_be_judged(state):
            self._jump(model, optimizer, step)
            self._record(args, state)

    def on_log(self, args, state, control, logs=None, model=None, optimizer=None, **kwargs):
        if logs is None:
            return
        cycles = self._cycles
        if "reward" in logs:
            cycles.heed(state.global_step, logs["reward"])
        self._judge_if_due(args, state, model, optimizer)
        figures = {"virtual_step": state.global_step + cycles.ahead, "jumps": len(cycles.jumps), "n": cycles.reach}
        hooks.add_to_logs(state, logs, {f"regrounding/{name}": float(value) for name, value in figures.items()})

    def on_save(self, args, state, control, model=None, **kwargs):
        if args.save_only_model:
            return  # from such a checkpoint the trainer cannot go on either
        sharded = hooks.holds_shards(model)
        path = hooks.state_file(args, state, _STATE, sharded=sharded)
        if path is not None and (sharded or state.is_world_process_zero):
            hooks.save_state(path, self._cycles.state())

    def _take_up(self, args, state, model) -> None:
        """Go on from the checkpoint that the trainer has just loaded, mid-cycle or not."""
        path = hooks.state_file(args, state, _STATE, sharded=hooks.holds_shards(model))
        if path is None or not path.is_file():
            where = path or f"the checkpoint of step {state.global_step}"
            raise InputError(
                f"{where} is missing, so the cycle cannot be taken up there: the run was stopped while it saved, "
                "or saved models only; resume from another checkpoint, or start again in a new folder"
            )
        self._cycles.restore(hooks.load_state(path), self._moved(model))

    def _jump(self, model: torch.nn.Module, optimizer: Any, step: int) -> None:
        started = time.perf_counter()
        cycles, values = self._cycles, self._moved(model)
        before = None
        if self.accept == "reward":
            before = Before(cycles.copy(hooks.trainable(model)), optimizers.copied(model, optimizer))
        tried = self._search(model, values, step) if self.validate is not None else []
        if cycles.reach:
            jump = cycles.jump(step, values, before, sharded=hooks.holds_shards(model))
            hooks.write_back(model, values)
            optimizers.treat(model, optimizer, values, treatment=self.optimizer_state, alpha=jump.alpha)
            jump.tried = tried or UNSET
            jump.seconds = time.perf_counter() - started
        cycles.end()
        cycles.start(step, self._moved(model))

    def _search(self, model: torch.nn.Module, values: hooks.Values, step: int) -> list[Tried]:
        """What each length scores; the model is as it was."""

        def score() -> float:
            hooks.write_back(model, values)
            assert self.validate is not None
            return hooks.mean_over_processes(self.validate(model))

        tried = self._cycles.search(step, values, score, self.candidates, sharded=hooks.holds_shards(model))
        hooks.write_back(model, values)
        return tried

    def _judge_if_due(self, args, state, model, optimizer) -> None:
        """Accept the jump on probation, or roll it back, where the next batch is generated afresh."""
        accepted = self._cycles.judge() if self._samples_next() else None
        if accepted is None:
            return
        if not accepted:
            values = hooks.trainable(model)
            before = self._cycles.roll_back(state.global_step, values)
            hooks.write_back(model, values)
            optimizers.restore(model, optimizer, before.optimizer)
            self._cycles.start(state.global_step, self._moved(model))
        self._record(args, state)

    def _moved(self, model: torch.nn.Module) -> hooks.Values:
        """Local values of the parameters that jump."""
        return {
            name: value
            for name, value in hooks.trainable(model).items()
            if not any(fnmatch.fnmatch(name.lower(), pattern.lower()) for pattern in self.keep)
        }

    def _samples_next(self) -> bool:
        """Whether the next batch is generated afresh, by the weights as they are now."""
        return self._batches % self._buffer == 0

    def _could_be_judged(self, state) -> bool:
        return self.accept != "reward" or state.max_steps - state.global_step > self._probation

    def _record(self, args, state) -> None:
        if state.is_world_process_zero:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            write_jumps(Path(args.output_dir), self.jumps)

    def _check(self, args, state, model, optimizer) -> None:
        refusals.refuse_model(model, optimizer, adapters=self.adapters, treatment=self.optimizer_state)
        if not self._moved(model):
            raise InputError(
                f"every trainable parameter is kept by {', '.join(self.keep)}: nothing would jump, so name fewer patterns"
            )
        self._buffer = refusals.batches_of_a_generation(args)
        unit = refusals.steps_of_a_generation(args, self.m)
        if self.accept == "reward":
            self._probation = refusals.steps_of_a_probation(args, state.logging_steps, self.m, unit, self.window)
