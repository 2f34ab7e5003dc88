"""What to follow, and how."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

from driftline.checkpoints.discovery import CHOICE, STEP_PAIR, spelled
from driftline.checkpoints.momentum import refuse_impossible
from driftline.errors import InputError
from driftline.files import remote


@dataclass(frozen=True)
class Following:
    """What to follow, and how.

    Attributes:
        run: a folder of checkpoints, `STEP=PATH` pairs, or both.
        interval: seconds between looks at the run.
        settle: seconds for which a checkpoint's files must not have changed.
        once: take what is there, then return.
        beta1, ema: the optimizer's momentum and the decay of averaged weights; None for what the run's files say.
    """

    run: tuple[str, ...]
    steps: str | None = None
    base: str | None = None
    interval: float = 30.0
    settle: float = 10.0
    once: bool = False
    beta1: float | None = None
    ema: float | None = None

    def __post_init__(self) -> None:
        refuse_impossible(self.beta1, self.ema)
        if self.steps is not None and not re.fullmatch(CHOICE, self.steps, re.ASCII):
            raise InputError(
                f"--steps {self.steps!r} is neither FIRST:LAST:STRIDE nor a list such as 0,100,200: give one of these"
            )
        for name, value, least in (("interval", self.interval, 0.01), ("settle", self.settle, 0.0)):
            if not least <= value < math.inf:
                raise InputError(f"--{name} {value} is no time to wait: give seconds, {least:g} or more")

    @property
    def name(self) -> str:
        """Of the run, wherever it is called from."""
        return spelled(
            [argument if "=" in argument or "://" in argument else os.path.abspath(argument) for argument in self.run]
        )

    def refuse_remote(self) -> None:
        """Raise `InputError` where a part of the run is at a remote address."""
        for argument in (*self.run, self.base or ""):
            pair = STEP_PAIR.match(argument)
            if remote.is_address(pair[2] if pair else argument):
                raise InputError(
                    f"{remote.redacted(argument)} is a remote address, which watch does not follow: watch where the run is "
                    "written, or analyze the address again from time to time"
                )
