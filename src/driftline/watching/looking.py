"""Which checkpoints of a run that is being written are ready to be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from driftline.checkpoints.discovery import Found, choose_steps, find_steps
from driftline.errors import InputError
from driftline.watching.checkpoint_files import files_of
from driftline.watching.request import Following
from driftline.watching.state import State


class Lookout:
    """Looks at a run again and again; remembers how long each checkpoint's files have been as they are."""

    def __init__(self, request: Following, state: State, say: Callable[[str], None]) -> None:
        self.request, self.state, self.say = request, state, say
        self.found = Found()
        self._seen: dict[int, tuple[str, float]] = {}  # step -> digest of its files, and when they were first so

    def look(self, folders: dict[int, Path]) -> tuple[list[int], int]:
        """The steps that are new and ready to be read, and how many are still being written."""
        ready, waiting = [], 0
        for step, folder in folders.items():
            files, newest = files_of(folder)
            if self._known(step, files):
                continue
            if self._settled(step, files, newest):
                ready.append(step)
            else:
                waiting += 1
        return ready, waiting

    def folders(self) -> dict[int, Path]:
        """Step -> folder, of the checkpoints that are there and wanted."""
        request = self.request
        try:
            self.found = find_steps(request.run, like=self._before)
        except InputError as error:
            if request.once or not self._may_yet_come():
                raise
            self.say(f"waiting: {error}")
            return {}
        found = self.found.steps
        for note in self.found.notes:
            self.say(f"note: {note}")
        if request.base is not None:
            if 0 in found:
                raise InputError(
                    f"--base {request.base} would be step 0, but the run already has {found[0]} as step 0: drop one"
                )
            if not Path(request.base).is_dir():
                raise InputError(f"--base {request.base} is not a local folder: give the folder of the base model")
            found = {0: Path(request.base), **found}
        wanted = self.wanted(found)
        return {step: folder for step, folder in found.items() if step in wanted}

    @property
    def _before(self) -> Path | None:
        """The last checkpoint that was read: a run's copies in other places or precisions are not mixed with it."""
        rows = self.state.rows
        return Path(rows[max(rows)].path) if rows else None

    @property
    def skipped(self) -> dict[int, str]:
        """Step -> reason, of the wanted checkpoints that were there at the last look and are not to be read.

        One that was read before its weights were deleted is not among them.
        """
        reasons = self.found.skipped
        wanted = self.wanted(reasons)
        return {step: reason for step, reason in reasons.items() if step in wanted and step not in self.state.rows}

    def wanted(self, found: Iterable[int]) -> set[int]:
        """The steps, there now or read before, that are to be used; listed ones may be yet to come."""
        chosen, base = self.request.steps, {0} if self.request.base is not None else set()
        steps = sorted({*found, *self.state.rows} - base)
        if chosen is None or not steps:
            return {*steps, *base}
        if ":" not in chosen:
            return {int(step) for step in chosen.split(",")} | base
        try:
            return {*choose_steps(steps, chosen)} | base
        except InputError:  # none yet
            return base

    def _may_yet_come(self) -> bool:
        """Whether a trainer may still put checkpoints where there are none; what is read already stays."""
        if self.state.rows:
            return True
        (first, *more) = self.request.run
        return not more and "://" not in first and (not Path(first).exists() or Path(first).is_dir())

    def _known(self, step: int, files: str) -> bool:
        row, refused = self.state.rows.get(step), self.state.refused.get(step)
        return (row is not None and row.files == files) or (refused is not None and refused[0] == files)

    def _settled(self, step: int, files: str, newest: int) -> bool:
        """By the files' own times, or, where clocks differ, by what was seen of them."""
        if step not in self._seen or self._seen[step][0] != files:
            self._seen[step] = (files, time.monotonic())
        settle = self.request.settle
        return time.time() - newest / 1e9 >= settle or time.monotonic() - self._seen[step][1] >= settle
