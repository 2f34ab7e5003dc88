"""The disk that forecasts in weights take while they are scored, or for good."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from driftline.checkpoints.trajectory import Trajectory
from driftline.engines import Engine, LocalEngine
from driftline.errors import InputError
from driftline.progress import in_bytes
from driftline.writing.layout import lay_out
from driftline.writing.storage import Storage


def make_sure(
    plan: Trajectory,
    storage: Storage,
    folder: Path,
    kept: int | None,
    engine: Engine | None,
    say: Callable[[str], None],
) -> None:
    """Say what disk the forecasts need, and refuse to begin where there is less.

    Args:
        plan: the checkpoints that forecasts are made of; storage: how they are written.
        folder: where they are written.
        kept: how many are still to be written, to stay; None where each is deleted once it is scored.

    Raises:
        InputError: the disk has less free.
    """
    one = sum(output.placed.entry.nbytes for output in lay_out(plan, storage))
    free = shutil.disk_usage(folder).free
    if kept is None:
        where = "" if engine is None or isinstance(engine, LocalEngine) else " on each machine"
        say(f"forecasts are written one at a time{where} and deleted when scored: {in_bytes(one)} of disk each")
        if free < one:
            raise InputError(
                f"{folder.parent} has {in_bytes(free)} free, and a forecast takes {in_bytes(one)} while it is scored: make room, "
                "or give an --out on another disk"
            )
        return
    total = kept * one
    if kept:
        say(f"forecasts are kept: {in_bytes(total)} of disk for {kept} still to write, {in_bytes(one)} each")
    if free < total:
        raise InputError(
            f"{folder.parent} has {in_bytes(free)} free, and --keep-models needs {in_bytes(total)} there for {kept} forecasts of "
            f"{in_bytes(one)}: make room, give an --out on another disk, or leave --keep-models out"
        )
