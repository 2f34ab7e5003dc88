"""What a run's own files say of how it was trained, read as data: the optimizer's momentum, the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from driftline.checkpoints import learning_rate
from driftline.checkpoints.jumps import Regrounded
from driftline.checkpoints.learning_rate import Rates
from driftline.checkpoints.momentum import Momentum, beta1_of, momentum_of
from driftline.errors import InputError

_ROUNDING = 1e-12  # of the whole clock
_LARGEST = 1e100  # of a clock whose squares are to be finite, and the inverse of the shortest interval


class LoggedRun(Protocol):
    """What is read here of a run, a `Trajectory` or another: the folders of its checkpoints, in order of step."""

    @property
    def name(self) -> str: ...
    @property
    def steps(self) -> tuple[int, ...]: ...
    @property
    def folders(self) -> tuple[Path, ...]: ...
    @property
    def regrounded(self) -> Regrounded | None: ...


def step_text(step: float) -> str:
    """A step, or a number of steps, as it is written: whole digits however large, a fraction only where there is one."""
    return f"{step:.0f}" if step == round(step) or abs(step) >= 1e5 else f"{step:g}"


def momentum(run: LoggedRun, beta1: float | None = None, ema: float | None = None) -> Momentum:
    """What makes the run's updates resemble each other; see `momentum_of`."""
    return momentum_of(run.folders, beta1, ema)


def adam_beta1(run: LoggedRun) -> tuple[float, str]:
    """The optimizer's beta1 (0 for plain SGD) and where it was found."""
    return beta1_of(run.folders)


def rates_of(run: LoggedRun) -> Rates:
    """The learning rates of the run where its trainer left them, and what is known of their schedule."""
    return learning_rate.rates_of(run.folders, run.steps)


def learning_rates(run: LoggedRun) -> dict[int, float]:
    """Step -> learning rate, where the trainer left it: of each step that was logged, or as it stood at checkpoints; may be empty."""
    return rates_of(run).known


def schedule_end(run: LoggedRun) -> int | None:
    """The step at which the learning rate reached 0, or at which a schedule that lets it fall ends; None where none is known.

    A run of constant rate has no such end: training on would go on as before.
    """
    return rates_of(run).end


def clock_values(run: LoggedRun, clock: str) -> np.ndarray:
    """Clock at every checkpoint, [T], ascending; see `clock_at`.

    Raises:
        InputError: see `clock_at` and `advancing`.
    """
    return advancing(run.name, run.steps, clock_at(run, clock, run.steps), clock)


def advancing(name: str, steps: Sequence[int], values: np.ndarray, clock: str = "") -> np.ndarray:
    """The clock's `values` at `steps` [T] of a run, where a line can be drawn against them.

    A difference that is rounding alone is none: a rate of 0 adds nothing, but the last digits of a sum may change.

    Raises:
        InputError: the clock stands still or goes back between checkpoints, is not finite, or is of no size to calculate with.
    """
    of = f"--clock {clock}" if clock else "the clock"
    span = float(values[-1] - values[0])
    if not np.isfinite(values).all() or (values.size > 1 and not abs(span) < _LARGEST):
        raise InputError(f"{name}: {of} is not finite or too large at some checkpoint: give another clock")
    still = ~(np.diff(values) > max(_ROUNDING * span, 1 / _LARGEST))
    if not still.any():
        return values
    first = int(still.argmax())
    last = first + int(np.append(~still[first:], True).argmax())
    some = "one of the two checkpoints" if last - first == 1 else f"all but one of the {last - first + 1} checkpoints"
    why, instead = (", where the learning rate is 0", ", or use --clock step") if clock == "lr" else ("", "")
    raise InputError(
        f"{name}: {of} does not advance from step {steps[first]} to step {steps[last]}{why}: leave {some} there out with "
        f"--steps{instead}"
    )


def rate_remedy(run: LoggedRun, do: str = "consider") -> str:
    """What ends a sentence on a learning rate that changes: the clock to take, or why it is refused and what to do about that."""
    try:
        clock_values(run, "lr")
    except InputError as refused:
        return f", but {str(refused).removeprefix(f'{run.name}: ')}"
    return f": {do} --clock lr"


def clock_at(run: LoggedRun, clock: str, steps: Sequence[float]) -> np.ndarray:
    """Clock at any steps, observed or not: the step (of a re-grounded run the virtual one), or the learning rate summed up to it.

    Between two steps or checkpoints of which it is known the learning rate changes linearly; before the first and after
    the last it stays as it is there.

    Raises:
        InputError: an unknown clock, no learning rate is known, or the last one is 0 and a later step is asked for.
    """
    wanted = np.asarray(steps, np.float64)
    if clock == "step":
        jumps = run.regrounded
        return wanted if jumps is None else np.array([jumps.clock(step) for step in wanted])
    if clock != "lr":
        raise InputError(f"--clock {clock!r} is unknown: choose step or lr")
    if run.regrounded:
        raise InputError(f"{run.name} was re-grounded, so its clock is the virtual step: use --clock step")
    rates = rates_of(run)
    if not rates.known:
        raise InputError(
            f"{run.name}: --clock lr needs the learning rate, and neither a trainer_state.json, a log of JSON lines nor "
            "the state of a scheduler or optimizer in the run has it: use --clock step"
        )
    last = max(rates.known)
    if rates.known[last] == 0 and wanted.max() > last:
        raise InputError(
            f"{run.name}: the learning rate is 0 at step {last}, the end of its schedule, so --clock lr "
            f"never reaches step {step_text(wanted.max())}: use --clock step"
        )
    return rates.summed(wanted)
