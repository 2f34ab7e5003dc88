"""`jumps.json`: where a run was projected ahead instead of trained, and what that makes of its steps.

A list of {"cycle", "trained_from", "trained_to", "projected_to", "alpha", "accepted", ...}, the three steps
being virtual ones (trained + projected). `RegroundingCallback` adds "step", the trainer's own step at the
jump, after which its checkpoints hold projected weights, and "rolled_back_at" where the jump was taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftline.errors import InputError
from driftline.files.atomic import replace_text
from driftline.files.json import json_text, read_json

NAME = "jumps.json"
Jumps = list[dict[str, Any]]

_STEPS = ("trained_from", "trained_to", "projected_to", "step", "rolled_back_at")
_KEYS = ("cycle", "trained_from", "trained_to", "projected_to", "alpha", "accepted")


def read_jumps(folder: Path) -> Jumps:
    """The jumps of the run in `folder`; empty where there is no `jumps.json`.

    Raises:
        InputError: the file is damaged, or not of that form.
    """
    path = folder / NAME
    try:
        jumps = read_json(path)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): mend or remove it") from error
    if not isinstance(jumps, list) or not all(map(_is_jump, jumps)):
        raise InputError(f"{path} is not a list of jumps with {', '.join(_KEYS)}: mend or remove it")
    return jumps


def _is_jump(jump: Any) -> bool:
    if not isinstance(jump, dict) or any(key not in jump for key in _KEYS):
        return False
    steps = [jump[key] for key in _STEPS if key in _KEYS or key in jump]
    if "rolled_back_at" in jump and jump["rolled_back_at"] is None:
        steps.pop()
    return all(type(step) in (int, float) and abs(step) < 1e15 for step in steps)


def write_jumps(folder: Path, jumps: Jumps) -> None:
    """Replace `jumps.json` in one piece."""
    replace_text(folder / NAME, json_text(jumps))


def virtual_step(jumps: Jumps, step: float) -> float | None:
    """Trained and projected steps behind the trainer's checkpoint of `step`; None where a roll-back discarded it.

    The checkpoint saved at the step of a jump holds the projected weights; that of a roll-back, the restored ones.
    """
    ahead = 0
    for jump in jumps:
        if step < jump["step"]:
            break
        back = jump.get("rolled_back_at")
        if back is None:
            ahead = jump["projected_to"] - jump["step"]
        elif step >= back:
            ahead = jump["trained_to"] - back
        else:
            return None
    return step + ahead


@dataclass(frozen=True)
class Regrounded:
    """What jumps make of a run's checkpoints.

    Attributes:
        jumps: those that touch the checkpoints.
        virtual: step -> virtual step, of the checkpoints that belong to the run.
        discarded: step -> reason, of those that a roll-back left behind.
        stretches: the steps of `virtual`, cut at every jump and roll-back: within one, all that moved was trained.
    """

    jumps: Jumps
    virtual: dict[int, int]
    discarded: dict[int, str]
    stretches: list[list[int]]

    @property
    def longest(self) -> list[int]:
        """The stretch of most checkpoints: what a verdict on training can rest on."""
        return max(self.stretches, key=len)

    @property
    def last(self) -> list[int]:
        """The stretch since the last jump: what a forecast of the run's future can rest on."""
        return self.stretches[-1]

    def clock(self, step: float) -> float:
        """The virtual step of any step that was not rolled back, observed or not."""
        return float(step if (at := virtual_step(self.jumps, step)) is None else at)

    @property
    def rolled_back(self) -> int:
        """How many jumps were taken back."""
        return sum(jump.get("rolled_back_at") is not None for jump in self.jumps)

    @property
    def sentence(self) -> str:
        """For summaries and reports."""
        longest = self.longest
        text = (
            f"This run was re-grounded: its clock is the virtual step, trained and projected, and since a jump is no training "
            f"it is judged by its longest stretch without one, step {longest[0]} to {longest[-1]} ({len(longest)} checkpoints)."
        )
        return text + (f" Checkpoints rolled back and left out: {len(self.discarded)}." if self.discarded else "")


def regrounded(jumps: Jumps, steps: Sequence[int]) -> Regrounded | None:
    """The jumps of a trainer's run as they touch its checkpoints; None where no jump does."""
    jumps = [jump for jump in jumps if "step" in jump and jump["step"] <= max(steps)]
    if not jumps:
        return None
    cuts = [jump[key] for jump in jumps for key in ("step", "rolled_back_at") if jump.get(key) is not None]
    virtual: dict[int, int] = {}
    discarded: dict[int, str] = {}
    stretches: dict[int, list[int]] = {}
    for step in sorted(steps):
        at = virtual_step(jumps, step)
        if at is None:
            discarded[step] = f"rolled back: it followed a jump that was not accepted, see {NAME}"
        else:
            virtual[step] = int(at)
            stretches.setdefault(sum(step >= cut for cut in cuts), []).append(step)
    return Regrounded(jumps, virtual, discarded, list(stretches.values()))
