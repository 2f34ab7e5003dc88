"""Signs that a folder holds checkpoints of two runs: a second one wrote into the folder of an older, longer one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from driftline.checkpoints.layouts import Checkpoint
from driftline.files import remote
from driftline.files.json import read_json

_LOG = "trainer_state.json"
_MOST = 64 << 20  # bytes of logs that are read; longer ones are not compared
_FEWEST = 2  # checkpoints of a run


def two_runs(checkpoints: Mapping[int, Checkpoint]) -> tuple[str, ...]:
    """The sentence about checkpoints, in order of step, that seem to be of two runs; none where nothing says so.

    The trainer's logs say so, where one checkpoint's log has other rows than the next one's has for the same steps.
    Where the logs say nothing, the files' times do, if step for step they go back exactly once.
    """
    last = list(checkpoints.values())[-1].path
    checkpoints = {step: one for step, one in checkpoints.items() if one.path.parent == last.parent}  # not a base
    if remote.is_remote(last) or len(checkpoints) < 2:
        return ()
    logs = _logs({step: checkpoint.path for step, checkpoint in checkpoints.items()})
    agree = {(early, late): _agree(before, after) for (early, before), (late, after) in pairwise(logs)}
    breaks = [pair for pair, same in agree.items() if same is False]
    because = f"the logs in their {_LOG} have other values for the same steps"
    if not breaks:
        breaks = [pair for pair in _back_in_time(checkpoints) if not agree.get(pair)]
        because = "the files' times go back there"
    if not breaks:
        return ()
    steps = list(checkpoints)
    starts = [steps[0], *(late for _, late in breaks)]
    ends = [*(max(step for step in steps if step < start) for start in starts[1:]), steps[-1]]
    blocks = [f"{start} to {end}" if start < end else str(start) for start, end in zip(starts, ends, strict=True)]
    ranges = [f"--steps {start}:{end}" for start, end in zip(starts, ends, strict=True)]
    return (
        f"the checkpoints of steps {' and those of '.join(blocks)} seem to be of {'two' if len(blocks) == 2 else 'several'} "
        f"runs, as {because}: choose those of one with {' or '.join(ranges)}",
    )


Rows = list[Any]


def _logs(folders: Mapping[int, Path]) -> Iterator[tuple[int, Rows]]:
    """Step, and what its checkpoint says was logged up to it; one by one, of all checkpoints with a log, or of none."""
    files = {step: folder / _LOG for step, folder in folders.items() if (folder / _LOG).is_file()}
    try:
        if sum(file.stat().st_size for file in files.values()) > _MOST:
            return
    except OSError:
        return
    for step, file in files.items():
        try:
            state = read_json(file)
        except (OSError, ValueError):
            continue
        rows = state.get("log_history") if isinstance(state, dict) else None
        if isinstance(rows, list) and rows:
            yield step, rows


def _agree(early: Rows, late: Rows) -> bool | None:
    """Whether rows of the same step and the same keys have the same values; None where there are none."""
    if late[: len(early)] == early:
        return True
    known = _by_step(late)
    found = {known[key] == values for key, values in _by_step(early).items() if key in known}
    return all(found) if found else None


def _by_step(rows: Rows) -> dict[tuple[str, ...], str]:
    """(step, names of what was logged) -> the first values that were logged, as text: NaN equals NaN."""
    found: dict[tuple[str, ...], str] = {}
    for row in rows:
        if isinstance(row, dict) and "step" in row:
            found.setdefault(
                (str(row["step"]), *sorted(map(str, row))), str(sorted(row.items(), key=lambda p: str(p[0])))
            )
    return found


def _back_in_time(checkpoints: Mapping[int, Checkpoint]) -> list[tuple[int, int]]:
    """The one pair of neighbouring steps between which the files' times go back; empty where there are more or none.

    Each side must be of two checkpoints or more, and lie apart from the other in time by more than its own steps do.
    Copies have the times of their copying, by name: such an order says nothing.
    """
    times: dict[int, int] = {}
    for step, checkpoint in checkpoints.items():
        written = _written({file for info in checkpoint.tensors.values() for file in info.files}, checkpoint.path)
        if written is not None:
            times[step] = written
    back = [(early, late) for early, late in pairwise(times) if times[late] < times[early]]
    if len(back) != 1:
        return []
    first = [time for step, time in times.items() if step <= back[0][0]]
    second = [time for step, time in times.items() if step >= back[0][1]]
    if min(len(first), len(second)) < _FEWEST:
        return []
    apart = first[0] - second[-1]
    widest = max(late - early for side in (first, second) for early, late in pairwise(side))
    by_name = [times[step] for step in sorted(times, key=lambda step: checkpoints[step].path.name)]
    return [] if apart <= widest or by_name == sorted(by_name) else back


def _written(files: Iterable[Path], folder: Path) -> int | None:
    """When the newest of the files in the folder was written, ns."""
    try:
        return max((file.stat().st_mtime_ns for file in files if file.is_relative_to(folder)), default=None)
    except OSError:
        return None
