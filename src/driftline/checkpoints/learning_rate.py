"""The learning rate of a run, from what its trainer left: read as data, nothing is executed.

First that is found:

- `log_history` of transformers' `trainer_state.json`, of the last checkpoint that has one;
- logs of JSON lines beside the checkpoints, a row for each step (verl, torchtune, LLaMA-Factory, ms-swift, ...);
- the state of the scheduler, or else of the optimizer, in each checkpoint: transformers and accelerate (`scheduler.pt`,
  `optimizer.pt`), verl and SkyRL (`extra_state_world_size_W_rank_0.pt`), DeepSpeed (`mp_rank_00_model_states.pt`).

A file that is not understood is as if it were not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from driftline.checkpoints.torch_file import read_torch_file
from driftline.errors import UnreadableCheckpoint
from driftline.files import remote
from driftline.files.json import LIMIT, read_json
from driftline.files.regular import open_regular

_CONSTANT = 0.999  # a rate that stays above this share of its highest does not fall

_STEP_KEYS = (
    "step",
    "global_step",
    "train/global_step",
    "training/global_step",
    "current_steps",
    "global_step/max_steps",
)
_RATE_KEYS = (
    "learning_rate",
    "lr",
    "actor/lr",
    "train/learning_rate",
    "train/lr",
    "optim/lr",
    "policy/lr",
    "policy/policy_lr",
)
_TOTAL_KEYS = ("max_steps", "total_steps")
_TRIED_ROWS = 100  # of a file of JSON lines: a log that has no learning rate in so many has none
_ROW_BYTES = 1 << 20
_LOGS = 16  # files of JSON lines that are looked into

_BESIDE = ("", "actor", "policy")  # where in a checkpoint its state is
_STATES = (
    "scheduler.pt",
    "scheduler.bin",
    "extra_state_world_size_*_rank_0.pt",
    "mp_rank_00_model_states.pt",
    "global_step*/mp_rank_00_model_states.pt",
    "optimizer.pt",
    "optimizer.bin",
    "optim_world_size_*_rank_0.pt",
)
_WITHIN = ("_actor", "checkpoints", "checkpoint", "weights")  # folders of checkpoints inside a run


@dataclass(frozen=True)
class Rates:
    """Learning rates where they are known.

    Attributes:
        known: step -> rate, taken to change linearly between. A logged one is that of the step, unless:
        of_next: whether each is that of the step after it, as it is saved in checkpoints.
        max_steps: how many steps the trainer was told to do.
    """

    known: dict[int, float]
    of_next: bool = False
    max_steps: int | None = None

    @property
    def end(self) -> int | None:
        """The step at which a schedule that lets the rate fall has ended or will end; None where there is none."""
        if not self.known:
            return None
        steps = sorted(self.known)
        if self.known[steps[-1]] == 0:
            zeros = [step for step in steps if self.known[step] == 0]
            after = max((step for step in steps if self.known[step] > 0), default=None)
            return next((step for step in zeros if after is None or step > after), None)
        falls = self.known[steps[-1]] < _CONSTANT * max(self.known.values())
        return self.max_steps if falls else None

    def summed(self, steps: np.ndarray) -> np.ndarray:
        """The sum of the rates of all steps up to each of `steps`, float64 like them; between two steps linear."""
        whole = np.floor(steps)
        before = self._summed(whole)
        return before + (steps - whole) * (self._summed(whole + 1) - before)

    def _summed(self, steps: np.ndarray) -> np.ndarray:
        """The same of whole steps, by the pieces between those before which a rate is known."""
        known = sorted(self.known)
        if not self.of_next:
            known = [step for step in known if step > 0] or known
        ends = np.array(known, np.float64) if self.of_next else np.clip(np.array(known, np.float64) - 1, 0, None)
        first = np.array([self.known[step] for step in known])
        if ends[0] > 0:
            ends, first = np.append(0.0, ends), np.append(first[0], first)
        slope = np.append(np.diff(first) / np.diff(ends), 0.0)  # of the rate, in each piece
        lengths = np.diff(ends)
        whole = lengths * first[:-1] + slope[:-1] * lengths * (lengths - 1) / 2
        piece = np.clip(np.searchsorted(ends, steps, side="right") - 1, 0, None)
        inside = steps - ends[piece]
        return (
            np.concatenate([[0.0], np.cumsum(whole)])[piece]
            + inside * first[piece]
            + slope[piece] * inside * (inside - 1) / 2
        )


NONE = Rates({})


def _logged(known: dict[int, float], max_steps: int | None) -> Rates:
    """What a trainer wrote with its steps: the rate of each.

    transformers before 4.51 wrote the rate of the step to come (huggingface/transformers#35942), and so does who asks
    the scheduler late. Of a schedule that falls to 0 that shows: the last step would have been done at a rate of 0.
    """
    late = max_steps is not None and known.get(max_steps) == 0 and max(known.values()) > 0
    return Rates(known, of_next=late, max_steps=max_steps)


def rates_of(folders: Sequence[Path], steps: Sequence[int]) -> Rates:
    """The rates of a run whose checkpoints of `steps` are in `folders`."""
    if remote.is_remote(folders[-1]):  # where each look is a request
        return _of_trainer_state(folders[-2:]) or NONE
    return _of_trainer_state(folders) or _of_logs(folders[-1].parent) or _of_states(folders, steps) or NONE


def is_number(value: Any) -> bool:
    """A number that is neither NaN nor infinite, nor true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15


def _is_rate(value: Any) -> bool:
    return is_number(value) and value >= 0


def _of_trainer_state(folders: Sequence[Path]) -> Rates | None:
    for folder in reversed(folders):
        try:
            state = read_json(folder / "trainer_state.json")
        except (OSError, ValueError):
            continue
        history = state.get("log_history") if isinstance(state, dict) else None
        rows = [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []
        known = {
            int(row["step"]): float(row["learning_rate"])
            for row in rows
            if is_number(row.get("step")) and _is_rate(row.get("learning_rate"))
        }
        if known:
            total = state.get("max_steps")
            return _logged(known, total if isinstance(total, int) and total > 0 else None)
    return None


def _of_logs(run: Path) -> Rates | None:
    """The log that knows the rates of most steps, of those in the run's folder."""
    places = [run, run.parent] if run.name in _WITHIN else [run]
    try:
        files = [file for place in places for file in sorted(place.glob("*.jsonl")) if file.is_file()]
    except OSError:
        return None
    found = [rates for rates in map(_of_log, files[:_LOGS]) if rates.known]
    return max(found, key=lambda rates: len(rates.known), default=None)


def _of_log(file: Path) -> Rates:
    known: dict[int, float] = {}
    total = None
    try:
        for place, row in enumerate(_rows(file)):
            if not known and place == _TRIED_ROWS:
                break
            step, most = _step_of(row)
            rate = next((row[key] for key in _RATE_KEYS if _is_rate(row.get(key))), None)
            if step is not None and rate is not None:
                known[step] = float(rate)
                total = most or total
    except (OSError, ValueError, RecursionError):
        return NONE
    return _logged(known, total)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines, those inside `data` (verl) among their keys; a torn last line is passed over.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is no object, or is too long for one of a log.
    """
    with open_regular(file) as lines:
        taken = 0
        while (line := lines.readline(_ROW_BYTES)) and taken < LIMIT:
            taken += len(line)
            if not line.endswith(b"\n") and len(line) < _ROW_BYTES:
                return
            if not line.strip():
                continue
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
            inner = row.get("data")
            yield {**row, **inner} if isinstance(inner, dict) else row


def _step_of(row: dict[str, Any]) -> tuple[int | None, int | None]:
    """The step of a row, and the number of steps that are planned; `12/80` (ms-swift) says both."""
    value = next((row[key] for key in _STEP_KEYS if key in row), None)
    totals: list[Any] = [row[key] for key in _TOTAL_KEYS if isinstance(row.get(key), int)]
    total = next((total for total in totals if total > 0), None)
    if isinstance(value, str):
        done, _, planned = value.partition("/")
        if not (done.isdecimal() and planned.isdecimal() and len(done) < 13 and len(planned) < 13):
            return None, None
        return int(done), int(planned)
    return (int(value) if value is not None and is_number(value) and value >= 0 else None), total


def _of_states(folders: Sequence[Path], steps: Sequence[int]) -> Rates | None:
    """From the checkpoints' own state; a base model given as step 0 has another training's."""
    home = folders[-1].parent
    known = {}
    for step, folder in zip(steps, folders, strict=True):
        if step == 0 and folder.parent != home:
            continue
        rate = next((rate for rate in map(_rate_in, _states_in(folder)) if rate is not None), None)
        if rate is not None:
            known[step] = rate
    return Rates(known, of_next=True) if known else None


def _states_in(folder: Path) -> Iterator[Path]:
    for name in _STATES:
        for place in _BESIDE:
            try:
                yield from sorted((folder / place).glob(name))
            except OSError:
                continue


def _rate_in(file: Path) -> float | None:
    try:
        about = file.stat()
    except OSError:
        return None
    return _read_rate(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4096)  # a run that is watched is asked at every checkpoint
def _read_rate(file: Path, changed: int, size: int) -> float | None:
    """The rate that a file of torch.save holds, the highest of several groups of parameters."""
    try:
        state = read_torch_file(file)
    except UnreadableCheckpoint:
        return None
    return _rate_of_state(state)


def _rate_of_state(state: Any, depth: int = 3) -> float | None:
    if not isinstance(state, dict) or not depth:  # a pickle may hold itself
        return None
    last, groups = state.get("_last_lr"), state.get("param_groups")
    rates = last if isinstance(last, list) else []
    if not rates and isinstance(groups, list):
        rates = [group.get("lr") for group in groups if isinstance(group, dict)]
    listed = [float(rate) for rate in rates if _is_rate(rate)]
    if listed:
        return max(listed)
    inner = (state.get(key) for key in ("lr_scheduler", "lr_scheduler_state", "scheduler", "optimizer"))
    found = (_rate_of_state(part, depth - 1) for part in inner)
    return next((rate for rate in found if rate is not None), None)
