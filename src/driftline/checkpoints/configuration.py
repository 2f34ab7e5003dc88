"""What a run's own files say of how it was trained, read as data: the optimizer's momentum, the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from driftline.checkpoints.jumps import Regrounded
from driftline.errors import InputError
from driftline.files.json import read_json

DEFAULT_BETA1 = 0.9  # AdamW's default in every trainer we read


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


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e15  # neither NaN nor infinity


def adam_beta1(run: LoggedRun) -> tuple[float, str]:
    """The optimizer's beta1 (0 for plain SGD) and where it was found."""
    record = _json(run.folders[-1].parent / "run.json")
    optimizer = record.get("optimizer") if isinstance(record, dict) else None
    value = optimizer.get("adam_beta1") if isinstance(optimizer, dict) else None
    if isinstance(value, (int, float)) and 0 <= value < 1:
        return float(value), "run.json"
    return DEFAULT_BETA1, "assumed"


def learning_rates(run: LoggedRun) -> dict[int, float]:
    """Step -> learning rate as the trainer logged it, from the last checkpoint that has a log; may be empty."""
    for folder in reversed(run.folders):
        state = _json(folder / "trainer_state.json")
        history = state.get("log_history") if isinstance(state, dict) else None
        if isinstance(history, list):
            rows = [row for row in history if isinstance(row, dict)]
            found = {
                row["step"]: float(row["learning_rate"])
                for row in rows
                if _is_number(row.get("step")) and _is_number(row.get("learning_rate"))
            }
            if found:
                return found
    return {}


def clock_values(run: LoggedRun, clock: str) -> np.ndarray:
    """Clock at every checkpoint, [T]; see `clock_at`."""
    return clock_at(run, clock, run.steps)


def clock_at(run: LoggedRun, clock: str, steps: Sequence[float]) -> np.ndarray:
    """Clock at any steps, observed or not: the step (of a re-grounded run the virtual one), or the learning rate summed up to it.

    Between logged steps the learning rate is that of the next logged one; after the last it stays as it was.

    Raises:
        InputError: an unknown clock, no learning rate was logged, or the last one is 0 and a later step is asked for.
    """
    wanted = np.asarray(steps, np.float64)
    if clock == "step":
        jumps = run.regrounded
        return wanted if jumps is None else np.array([jumps.clock(step) for step in wanted])
    if clock != "lr":
        raise InputError(f"--clock {clock!r} is unknown: choose step or lr")
    if run.regrounded:
        raise InputError(f"{run.name} was re-grounded, so its clock is the virtual step: use --clock step")
    rates = learning_rates(run)
    if not rates:
        raise InputError(
            f"{run.name}: --clock lr needs the learning rate that the trainer logged, and no trainer_state.json "
            "of the run has one: use --clock step"
        )
    logged = np.array(sorted(rates))
    if rates[logged[-1]] == 0 and wanted.max() > logged[-1]:
        raise InputError(
            f"{run.name}: the learning rate is 0 at step {logged[-1]}, the end of its schedule, so --clock lr "
            f"never reaches step {wanted.max():g}: use --clock step"
        )
    every = np.arange(1, int(np.ceil(wanted.max())) + 1)
    rate = np.array([rates[step] for step in logged])[np.minimum(np.searchsorted(logged, every), logged.size - 1)]
    return np.interp(wanted, np.arange(every.size + 1), np.concatenate([[0.0], np.cumsum(rate)]))
