"""`jumps.json`: where a run was projected ahead instead of trained, and what that makes of its steps.

A list of `Jump`s. `RegroundingCallback` says of each the trainer's own step too, after which its checkpoints hold
projected weights, and where the jump was taken back; `driftline reground` says between which models it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from driftline.errors import InputError
from driftline.files.atomic import replace_text
from driftline.files.json import json_text, read_json

NAME = "jumps.json"

_FAR = 10**15  # beyond it a step is a slip of the pen
Step = Annotated[int, Meta(gt=-_FAR, lt=_FAR)] | Annotated[float, Meta(gt=-_FAR, lt=_FAR)]


class RewardChange(msgspec.Struct, kw_only=True):
    """Mean reward before and after a jump, and the standard error of their difference."""

    before: float
    after: float
    standard_error: float


class Tried(msgspec.Struct, kw_only=True):
    """A length that a jump might have had, in steps (0 is none), and the mean reward that it scored."""

    n: int
    score: float


class Jump(msgspec.Struct, kw_only=True):
    """One jump. A key that does not apply is absent from the file, and `UNSET` here.

    Attributes:
        cycle: from 1.
        trained_from, trained_to, projected_to: virtual steps, trained and projected ones together.
        alpha: (projected_to - trained_from) / (trained_to - trained_from).
        accepted: False where it was taken back, None while it is on probation.
        step, rolled_back_at: the trainer's own steps, where it jumped and where that was taken back, or None.
        method, coefficients: the forecast, and its weight for every anchor.
        trained_length, jump_length: of the moves of all parameters together, Euclidean.
        parameters: how many jumped, on this process.
        lora_discarded: share of the projected products of adapters that the cut to their rank discarded.
        seconds: that the jump took.
        reward: what the guard saw.
        tried: the lengths that were scored before this one was taken.
        model, checkpoint, projected: folders: trained from, trained to, and projected to.
        seconds_trained, seconds_projected: that the cycle took.
    """

    cycle: int
    trained_from: Step
    trained_to: Step
    projected_to: Step
    alpha: float
    accepted: bool | None
    step: Step | UnsetType = UNSET
    rolled_back_at: Step | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    coefficients: list[float] | UnsetType = UNSET
    trained_length: float | UnsetType = UNSET
    jump_length: float | UnsetType = UNSET
    parameters: int | UnsetType = UNSET
    lora_discarded: float | UnsetType = UNSET
    seconds: float | UnsetType = UNSET
    reward: RewardChange | UnsetType = UNSET
    tried: list[Tried] | UnsetType = UNSET
    model: str | UnsetType = UNSET
    checkpoint: str | UnsetType = UNSET
    projected: str | UnsetType = UNSET
    seconds_trained: float | UnsetType = UNSET
    seconds_projected: float | UnsetType = UNSET

    @classmethod
    def after(
        cls, earlier: Sequence[Jump], trained_from: int, trained_to: int, n: int, *, accepted: bool | None
    ) -> Jump:
        """The next jump of a run, by `n` steps."""
        trained = trained_to - trained_from
        return cls(
            cycle=len(earlier) + 1,
            trained_from=trained_from,
            trained_to=trained_to,
            projected_to=trained_to + n,
            alpha=(trained + n) / trained,
            accepted=accepted,
        )

    @property
    def taken_back_at(self) -> Step | None:
        return None if self.rolled_back_at is UNSET else self.rolled_back_at


Jumps = list[Jump]
_KEYS = ("cycle", "trained_from", "trained_to", "projected_to", "alpha", "accepted")


def read_jumps(folder: Path) -> Jumps:
    """The jumps of the run in `folder`; empty where there is no `jumps.json`.

    Raises:
        InputError: the file is damaged, or not of that form.
    """
    path = folder / NAME
    try:
        return msgspec.convert(read_json(path), Jumps)
    except FileNotFoundError:
        return []
    except msgspec.ValidationError as error:
        raise InputError(f"{path} is not a list of jumps with {', '.join(_KEYS)}: mend or remove it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): mend or remove it") from error


def write_jumps(folder: Path, jumps: Jumps) -> None:
    """Replace `jumps.json` in one piece."""
    replace_text(folder / NAME, json_text(msgspec.to_builtins(jumps)))


def virtual_step(jumps: Jumps, step: float) -> float | None:
    """Trained and projected steps behind the trainer's checkpoint of `step`; None where a roll-back discarded it.

    The checkpoint saved at the step of a jump holds the projected weights; that of a roll-back, the restored ones.
    """
    ahead: Step = 0
    for jump in jumps:
        if jump.step is UNSET or step < jump.step:
            break
        back = jump.taken_back_at
        if back is None:
            ahead = jump.projected_to - jump.step
        elif step >= back:
            ahead = jump.trained_to - back
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
        return sum(jump.taken_back_at is not None for jump in self.jumps)

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
    jumps = [jump for jump in jumps if jump.step is not UNSET and jump.step <= max(steps)]
    if not jumps:
        return None
    cuts = [cut for jump in jumps for cut in (jump.step, jump.taken_back_at) if cut is not None and cut is not UNSET]
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
