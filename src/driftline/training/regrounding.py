"""Periodic re-grounding inside a trainer: m optimizer steps, a jump n steps ahead, and again (paper, RL-Extra).

    trainer = GRPOTrainer(..., callbacks=[RegroundingCallback(m=20, n=100)])

A jump is W <- sum_t a_t W_t over anchors kept since the last jump and the present weights, the same
combination as a forecast on disk; being linear it is done on whatever shard is local. It happens when a
step ends, before that step is evaluated or saved, and only where the trainer is about to sample afresh: no
rollout from before a jump trains the weights after it. The learning-rate schedule and the step counter go
on as if nothing had happened; the virtual step (trained + projected) is logged and in `jumps.json`.

Costs a copy of the trainable weights for each anchor but the last, and with `accept="reward"`, while a jump
is on probation, one more and a copy of the optimizer's state.
"""

from __future__ import annotations

import fnmatch
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import TrainerCallback

from driftline.checkpoints.jumps import NAME, Jumps, write_jumps
from driftline.errors import InputError
from driftline.forecast.extrapolators import method_named
from driftline.training import hooks, lora, zero3
from driftline.writing.storage import NORM_LAYERS

Values = dict[str, torch.Tensor]

METHODS = ("two-point", "least-squares", "anchored", "damped")
_STATE = "regrounding"
_PIECE = 1 << 20  # weights combined at once: few enough for the caches, and bounds the fp32 copies
_STANDARD_ERRORS = 2.0  # a fall of the reward by so many is significant


@dataclass(frozen=True)
class Anchor:
    """Trainable weights as they were at a step."""

    step: int
    values: Values


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
            that the run would end too early to judge.
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
        accept: Literal["always", "reward"] = "always",
        window: int = 4,
        adapters: Literal["refuse", "product"] = "refuse",
        offload: bool = False,
    ) -> None:
        for name, value in (("m", m), ("n", n)):
            if not isinstance(value, int) or value < 1:
                raise InputError(f"re-grounding with {name}={value}: give a whole number of steps, 1 or more")
        for name, given, known in (
            ("method", method, METHODS),
            ("optimizer", optimizer, ("keep", "reset", "rescale")),
            ("accept", accept, ("always", "reward")),
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
        self.m, self.n, self.keep, self.accept, self.window, self.offload = m, n, tuple(keep), accept, window, offload
        self.method, self.optimizer_state, self.adapters = method_named(method), optimizer, adapters
        if adapters == "product" and self.method.uses_gram:
            raise InputError(f"re-grounding of LoRA products with method={method!r}: it is fitted to factors; use two-point, least-squares or anchored")  # fmt: skip
        self._marks = {round(i * m / (count - 1)) for i in range(1, count - 1)}  # steps of a cycle that are kept
        self._begin()

    def _begin(self) -> None:
        self.jumps: Jumps = []
        self._reach = self.n  # of the next jump; the guard changes it
        self._ahead = 0  # projected steps so far
        self._anchors: list[Anchor] = []
        self._rewards: list[tuple[int, float]] = []
        self._before: dict[str, Any] | None = None  # weights and optimizer before a jump on probation
        self._batches = 0  # seen since training started or went on, as the trainer counts them
        self._buffer = 1  # batches from one generation to the next
        self._probation = 0  # steps that the guard needs after a jump

    @property
    def virtual_steps_ahead(self) -> int:
        """Projected steps so far: the virtual step is the trainer's step plus this."""
        return self._ahead

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        hooks.report_before_others(self)
        self._begin()
        self._check(args, state, model, optimizer)
        if state.global_step > 0 and (Path(args.output_dir) / NAME).is_file():
            self._take_up(args, state, model)
        else:
            self._start_cycle(model, state.global_step)
        self._record(args, state)

    def on_substep_end(self, args, state, control, **kwargs):
        self._batches += 1

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        self._batches += 1
        step, since = state.global_step, state.global_step - self._anchors[0].step
        if since in self._marks:
            self._anchors.append(Anchor(step, self._copy(self._moved(model))))
        self._judge_if_due(args, state, model, optimizer)
        if since >= self.m and self._before is None and self._samples_next() and self._could_be_judged(state):
            self._jump(model, optimizer, step)
            self._record(args, state)

    def on_log(self, args, state, control, logs=None, model=None, optimizer=None, **kwargs):
        if logs is None:
            return
        if "reward" in logs:
            self._heed(state.global_step, logs["reward"])
        self._judge_if_due(args, state, model, optimizer)
        figures = {"virtual_step": state.global_step + self._ahead, "jumps": len(self.jumps), "n": self._reach}
        hooks.add_to_logs(state, logs, {f"regrounding/{name}": float(value) for name, value in figures.items()})

    def on_save(self, args, state, control, model=None, **kwargs):
        if args.save_only_model:
            return  # from such a checkpoint the trainer cannot go on either
        sharded = _sharded(model)
        path = hooks.state_file(args, state, _STATE, sharded=sharded)
        if path is not None and (sharded or state.is_world_process_zero):
            anchors = [(anchor.step, anchor.values) for anchor in self._anchors]
            content = {"jumps": self.jumps, "reach": self._reach, "ahead": self._ahead, "rewards": self._rewards}
            hooks.save_state(path, content | {"anchors": anchors, "before": self._before})

    def _take_up(self, args, state, model) -> None:
        """Go on from the checkpoint that the trainer has just loaded, mid-cycle or not."""
        path = hooks.state_file(args, state, _STATE, sharded=_sharded(model))
        if path is None or not path.is_file():
            where = path or f"the checkpoint of step {state.global_step}"
            raise InputError(
                f"{where} is missing, so the cycle cannot be taken up there: the run was stopped while it saved, "
                "or saved models only; resume from another checkpoint, or start again in a new folder"
            )
        saved = hooks.load_state(path)
        self.jumps, self._reach, self._ahead = saved["jumps"], saved["reach"], saved["ahead"]
        self._rewards, self._before = [tuple(pair) for pair in saved["rewards"]], saved["before"]
        devices = {name: "cpu" if self.offload else value.device for name, value in self._moved(model).items()}
        self._anchors = [
            Anchor(step, {name: value.to(devices[name]) for name, value in values.items()})
            for step, values in saved["anchors"]
        ]

    def _jump(self, model, optimizer, step: int) -> None:
        started = time.perf_counter()
        values, n = self._moved(model), self._reach
        points = [*(anchor.values for anchor in self._anchors), values]
        clock = np.array([*(anchor.step for anchor in self._anchors), step], np.float64)
        gram = deltas_gram(points, sharded=_sharded(model))
        if not np.isfinite(gram).all():
            raise InputError(f"step {step}: weights are not finite, so there is nothing to project; resume from an earlier checkpoint")  # fmt: skip
        a = self.method.extrapolate(clock, gram, float(step + n))
        b = a - np.eye(a.size)[-1]
        if self.accept == "reward":
            everything = hooks.trainable(model)
            self._before = {"values": self._copy(everything), "optimizer": _optimizer_state(model, optimizer)}
        combine([{name: value for name, value in point.items() if not lora.is_factor(name)} for point in points], a)
        discarded = lora.combine_products(points, a)
        hooks.write_back(model, values)
        alpha = float((step + n - clock[0]) / (step - clock[0]))
        self._treat_optimizer(model, optimizer, alpha)
        virtual = step + self._ahead
        self.jumps.append({
            "cycle": len(self.jumps) + 1, "trained_from": int(clock[0]) + self._ahead, "trained_to": virtual,
            "projected_to": virtual + n, "alpha": alpha, "accepted": True if self.accept == "always" else None,
            "step": step, "rolled_back_at": None, "method": self.method.name, "coefficients": a.tolist(),
            "trained_length": math.sqrt(gram[-1, -1]), "jump_length": math.sqrt(max(b @ gram @ b, 0.0)),
            "parameters": sum(value.numel() for value in values.values()), "lora_discarded": discarded,
        })  # fmt: skip
        self._ahead += n
        self._start_cycle(model, step)
        self.jumps[-1]["seconds"] = time.perf_counter() - started

    def _heed(self, step: int, reward: float | None) -> None:
        if reward is None or not math.isfinite(reward):
            raise InputError(f"step {step}: the mean reward is {reward}: mend the reward function, then resume from the last checkpoint")  # fmt: skip
        self._rewards = [*self._rewards, (step, float(reward))][-4 * self.window :]

    def _judge_if_due(self, args, state, model, optimizer) -> None:
        """Accept the jump on probation, or roll it back for a significant fall of the reward, once enough is logged."""
        if self._before is None or not self._samples_next():
            return
        jump, w = self.jumps[-1], self.window
        before = np.array([reward for at, reward in self._rewards if at <= jump["step"]][-w:])
        after = np.array([reward for at, reward in self._rewards if at > jump["step"]][:w])
        if after.size < w:
            return
        fall = float(before.mean() - after.mean())
        error = math.sqrt(before.var(ddof=1) / before.size + after.var(ddof=1) / w)
        jump["reward"] = {"before": float(before.mean()), "after": float(after.mean()), "standard_error": error}
        jump["accepted"] = not fall > _STANDARD_ERRORS * error
        if jump["accepted"]:
            self._reach = min(2 * self._reach, self.n)
        else:
            self._roll_back(model, optimizer, state.global_step)
            self._reach = max(self._reach // 2, 1)
        self._before = None
        self._record(args, state)

    def _roll_back(self, model, optimizer, step: int) -> None:
        assert self._before is not None
        values = hooks.trainable(model)
        for name, value in values.items():
            value.copy_(self._before["values"][name])
        hooks.write_back(model, values)
        _restore_optimizer(model, optimizer, self._before["optimizer"])
        self.jumps[-1]["rolled_back_at"] = step
        self._ahead = self.jumps[-1]["trained_to"] - step
        self._start_cycle(model, step)

    def _start_cycle(self, model, step: int) -> None:
        self._anchors = [Anchor(step, self._copy(self._moved(model)))]

    def _moved(self, model) -> Values:
        """Local values of the parameters that jump."""
        return {
            name: value
            for name, value in hooks.trainable(model).items()
            if not any(fnmatch.fnmatch(name.lower(), pattern.lower()) for pattern in self.keep)
        }

    def _copy(self, values: Values) -> Values:
        return {name: value.cpu().clone() if self.offload else value.clone() for name, value in values.items()}

    def _samples_next(self) -> bool:
        """Whether the next batch is generated afresh, by the weights as they are now."""
        return self._batches % self._buffer == 0

    def _could_be_judged(self, state) -> bool:
        return self.accept == "always" or state.max_steps - state.global_step > self._probation

    def _treat_optimizer(self, model, optimizer, alpha: float) -> None:
        moved = set(self._moved(model))
        for name, parameter in model.named_parameters():
            if name not in moved or self.optimizer_state == "keep":
                continue
            kept = optimizer.state[parameter]
            if self.optimizer_state == "reset":
                kept.clear()
            else:
                for moment in kept.keys() & {"exp_avg", "momentum_buffer"}:
                    if kept[moment] is not None:
                        hooks.local(kept[moment]).div_(alpha)

    def _record(self, args, state) -> None:
        if state.is_world_process_zero:
            Path(args.output_dir).mkdir(parents=True, exist_ok=True)
            write_jumps(Path(args.output_dir), self.jumps)

    def _check(self, args, state, model, optimizer) -> None:
        names = list(hooks.trainable(model))
        if not names:
            raise InputError("the model has no trainable parameters, so there is nothing to re-ground: unfreeze some")
        adapted = [name for name in names if "lora_" in name]
        if adapted and self.adapters == "refuse":
            raise InputError(
                "the model trains LoRA factors, and a line through A and through B is no line through their product: "
                "give adapters='product', train full weights, or merge after each cycle and use driftline reground"
            )
        if adapted and (_sharded(model) or not all(lora.is_factor(name) for name in adapted)):
            raise InputError(f"adapters='product' knows whole factors lora_A and lora_B only, not {adapted[0]!r} as it is here: use driftline reground")  # fmt: skip
        if getattr(model, "is_quantized", False) and not adapted:
            raise InputError("the model's weights are quantised, and a line between codes means nothing: load it in bfloat16 or float32")  # fmt: skip
        by_deepspeed = type(optimizer).__name__.startswith("DeepSpeed")
        if by_deepspeed and not any(zero3.is_partitioned(p) for p in model.parameters()):
            raise InputError(
                "DeepSpeed below ZeRO stage 3 trains fp32 copies of its own, which would undo a jump at the next step: use "
                "stage 3, FSDP2 or DDP, or driftline reground around the whole command"
            )
        if by_deepspeed and self.optimizer_state != "keep":
            raise InputError(f"optimizer={self.optimizer_state!r}: DeepSpeed counts steps for all parameters at once, use optimizer='keep'")  # fmt: skip
        if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
            raise InputError("FSDP1 hides which parameters are norm layers: use FSDP2 (fsdp_version 2)")
        if not self._moved(model):
            raise InputError(
                f"every trainable parameter is kept by {', '.join(self.keep)}: nothing would jump, so name fewer patterns"
            )
        accumulation = args.gradient_accumulation_steps
        self._buffer = (getattr(args, "steps_per_generation", None) or 1) * getattr(args, "num_iterations", 1)
        unit = math.lcm(self._buffer, accumulation) // accumulation
        if self.m % unit:
            raise InputError(
                f"m={self.m} would jump between a generation and the last step that trains on it: the trainer generates "
                f"every {unit} optimizer steps, so use a multiple of {unit}, such as {-(-self.m // unit) * unit}"
            )
        if self.accept == "reward":
            if args.logging_strategy != "steps" or self.m % state.logging_steps:
                raise InputError(
                    f"accept='reward' needs rewards logged apart for before and after a jump: set logging_steps to a "
                    f"divisor of m={self.m}"
                )
            both = math.lcm(unit, state.logging_steps)
            self._probation = both * math.ceil(self.window * max(unit, state.logging_steps) / both)
            if self._probation >= self.m:
                raise InputError(
                    f"accept='reward' needs {self._probation} steps to log {self.window} rewards, which is not less than "
                    f"m={self.m}: log more often, or lower window"
                )


def deltas_gram(points: list[Values], *, sharded: bool = False) -> np.ndarray:
    """G [T, T] of the deltas of T points from the first, over all parameters and all shards; fp32, summed in fp64.

    Where some parameters are replicated and others sharded the sum over processes counts the former more often.
    """
    T = len(points)
    gram = np.zeros((T, T))
    for name, last in points[-1].items():
        for pieces in zip(*(_pieces(point[name]) for point in points), strict=True):
            first, *rest = (piece.to(last.device, torch.float32).flatten() for piece in pieces)
            deltas = torch.stack([piece - first for piece in rest])
            gram[1:, 1:] += (deltas @ deltas.T).cpu().double().numpy()
    if sharded:
        total = torch.from_numpy(gram).to(next(iter(points[-1].values())).device)
        torch.distributed.all_reduce(total)
        gram = total.cpu().numpy()
    return gram


def combine(points: list[Values], a: np.ndarray) -> None:
    """W <- sum_t a_t W_t in place in the last point, in fp32, for coefficients whose sum is 1."""
    for name, last in points[-1].items():
        for *earlier, late in zip(*(_pieces(point[name]) for point in points), strict=True):
            now = late.float()
            change = torch.zeros_like(now)
            for coefficient, piece in zip(a[:-1], earlier, strict=True):
                change.add_(piece.to(last.device, torch.float32) - now, alpha=float(coefficient))
            late.copy_(now + change)


def _pieces(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tensor.view(-1).split(_PIECE) if tensor.is_contiguous() else (tensor,)


def _sharded(model: torch.nn.Module) -> bool:
    return any(hooks.is_sharded(parameter) for parameter in model.parameters())


def _optimizer_state(model: torch.nn.Module, optimizer: Any) -> dict[str, dict[str, Any]]:
    """A copy of the local state of every trainable parameter."""
    return {
        name: zero3.optimizer_state(parameter)
        if zero3.is_partitioned(parameter)
        else {
            key: hooks.local(value).clone() if isinstance(value, torch.Tensor) else value
            for key, value in optimizer.state[parameter].items()
        }
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state or (zero3.is_partitioned(parameter) and parameter.requires_grad)
    }


def _restore_optimizer(model: torch.nn.Module, optimizer: Any, saved: dict[str, dict[str, Any]]) -> None:
    for name, parameter in model.named_parameters():
        if zero3.is_partitioned(parameter):
            zero3.set_optimizer_state(parameter, saved.get(name, {}))
            continue
        for key, value in saved.get(name, {}).items():
            current = optimizer.state[parameter].get(key)
            if isinstance(current, torch.Tensor):
                hooks.local(current).copy_(value)
            else:
                optimizer.state[parameter][key] = value
