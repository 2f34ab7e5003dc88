"""The files in which trainers write the last step that they saved completely: what is later than it is not of the run.

    latest_checkpointed_iteration.txt    verl, Megatron, slime: 40
    latest_ckpt_global_step.txt          SkyRL: 40
    latest                               DeepSpeed, OpenRLHF: global_step40

Each is looked for beside the checkpoints that are read.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from driftline.checkpoints.folder_names import TAGGED, is_epoch, step_name
from driftline.files.regular import open_regular

_NUMBER = ("latest_checkpointed_iteration.txt", "latest_ckpt_global_step.txt")
_TAG = "latest"
_LONGEST = 4096  # bytes


def after_marker(place: Path, family: str, steps: Collection[int]) -> tuple[dict[int, str], list[str]]:
    """Step -> reason for the steps that a marker in `place` rules out, and notes on markers that cannot be followed.

    Args:
        family: of the folders' names; markers count no epochs, and DeepSpeed's tag is the name of a folder.
    """
    skipped: dict[int, str] = {}
    notes: list[str] = []
    tags = (_TAG,) if family == TAGGED else ()
    for name in () if is_epoch(family) else (*_NUMBER, *tags):
        path = place / name
        try:
            if not path.is_file():
                continue
            with open_regular(path) as file:
                text = file.read(_LONGEST).decode("utf-8", "replace").strip()
        except OSError:
            continue
        last = _step(name, text)
        if last is None:
            notes.append(f"{path} names no step ({text[:40]!r}), so it is ignored")
        elif last not in steps:
            notes.append(f"{path} names step {last}, which is not there, so it is ignored")
        else:
            reason = (
                f"later than step {last}, the last that {path} names: of an attempt that crashed or of an older, longer "
                "run, or still being written; give it as STEP=PATH, beside the run, to use it all the same"
            )
            skipped |= {step: reason for step in steps if step > last}
    return skipped, notes


def _step(name: str, text: str) -> int | None:
    if name != _TAG:
        return int(text) if re.fullmatch(r"\d{1,12}", text, re.ASCII) else None
    found = step_name(text)
    return found.step if found is not None and found.family == TAGGED else None
