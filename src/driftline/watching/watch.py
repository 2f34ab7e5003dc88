"""`driftline watch`: the linearity of a run while it is being written, one checkpoint at a time.

A checkpoint is read when it opens, so index, headers and sizes agree, and when none of its files has changed for
`settle` seconds. It is read once and alone: not the others, nor the first, which may long be rotated away. That
works because what is kept of a checkpoint (`sketch`, `watch_state`) is linear in its weights. Memory does not grow
with the model, nor with the run: beyond 128 checkpoints it is judged by some of them, see `thinning`. Of each that is
kept 8 MiB are on the disk.

What is exact and what is not, as `summary.json` says under "sampled":

- every weight of every checkpoint enters the Gram matrix, by a sketch of 1,048,573 numbers: inner products of any
  two increments are within 0.14 % (standard error) of the product of their lengths, whatever the weights. From it
  come norms, cosines, growth, drift test, rank, skill, straight pieces and warnings;
- R², its quartiles, the shares of weights unchanged and the matched null are of a seeded sample of 1,048,576
  weights, spread evenly: means are then known to .0005. Of a smaller model all weights are taken.

A checkpoint that is incomplete is tried again at every look; one that cannot be used is skipped, with a word, and
counted. A step that is written anew, after the run was started again, replaces the old one, and what the earlier
attempt had written beyond it is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from driftline.checkpoints.families import is_usable
from driftline.checkpoints.reasons import grouped
from driftline.checkpoints.trajectory import Trajectory, open_trajectory
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.files import remote
from driftline.files.record import UNSET, write_record
from driftline.files.regular import read_regular
from driftline.linearity.summary import Line, Watched, WeightsSummary
from driftline.watching.checkpoint_files import files_of
from driftline.watching.looking import Lookout
from driftline.watching.request import Following
from driftline.watching.state import State, only_watch
from driftline.watching.telling import FEWEST, completed, gram_of, judged, line_of, summary_of
from driftline.watching.thinning import KEPT

_PROMPT = 64  # up to so many checkpoints, each has its figures even when more are waiting to be read


def watch(
    request: Following, out: Path, *, show: Callable[[Line], None], say: Callable[[str], None]
) -> WeightsSummary | None:
    """Follow a run until interrupted, or once; returns the last summary, None below three checkpoints.

    Args:
        show: called with the figures of every checkpoint that was read.
        say: called with sentences about what was skipped, and with warnings.

    Raises:
        InputError: the request is wrong, `out` is not ours or cannot be written, or no weight changes.
    """
    request.refuse_remote()
    remote.refuse_output(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: give a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "state").is_dir():
        raise InputError(f"--out {out} holds files that are no watch of a run: choose another folder")
    try:
        with only_watch(out / "state"):
            return _Follower(request, out, show, say).follow()
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(out)):
            raise
        raise InputError(
            f"--out {out} cannot be written ({error.strerror or error}): mend that and call again, it continues"
        ) from error


class _Follower:
    def __init__(self, request: Following, out: Path, show: Callable[[Line], None], say: Callable[[str], None]) -> None:
        self.request, self.out, self.show = request, out, show
        self.state = State(out / "state", request.name)
        self.lookout = Lookout(request, self.state, self.say)
        self._say = say
        self._said: set[str] = set()
        self._problems: dict[int, str] = {}  # of checkpoints that could not be read, in this call
        self.summary = self._read_summary()

    def follow(self) -> WeightsSummary | None:
        self._report_if_behind()
        patience = time.monotonic() + self.request.settle
        while True:
            waiting = self._look()
            if self.request.once:
                if not waiting or time.monotonic() > patience:
                    return self.summary
                time.sleep(min(1.0, self.request.settle))
            else:
                time.sleep(self.request.interval)

    def say(self, sentence: str) -> None:
        """Once each."""
        if sentence not in self._said:
            self._said.add(sentence)
            self._say(sentence)

    def _look(self) -> int:
        """Read every checkpoint that is ready; returns how many are still being written."""
        folders = self.lookout.folders()
        ready, waiting = self.lookout.look(folders)
        last = max(folders, default=0)
        gone = {step: why for step, why in self.lookout.skipped.items() if self.request.once or step < last}
        for sentence in grouped(gone):  # one that is later than the rest may still be being written
            self.say(f"skipped {sentence}")
        for index, step in enumerate(ready):
            try:
                if not self._read(step, folders):
                    continue
            except InputError as error:
                self._skip(step, folders[step], str(error))
                continue
            more = index + 1 < len(ready)
            self._report(step, brief=more and len(self.state.rows) > _PROMPT)
        return waiting

    def _read(self, step: int, folders: dict[int, Path]) -> bool:
        """Whether a row was added.

        Raises:
            InputError: the checkpoint cannot be used, now or ever; the latter is remembered.
        """

        def reopen(other: int) -> Trajectory:
            folder = folders.get(other, Path(self.state.rows[other].path) if other in self.state.rows else Path())
            return _open(other, folder)

        folder = folders[step]
        opened = _open(step, folder)
        files, newest = files_of(folder)
        try:
            added = self.state.add(
                step, opened, reopen, files, newest, self.request.name, unchanged=lambda: files_of(folder)[0] == files
            )
        except UnreadableCheckpoint as error:
            lasting = not isinstance(error.__cause__, OSError)  # a disk that failed may come back
            if lasting and folder.is_dir() and files_of(folder)[0] == files:
                self.state.refuse(step, files, str(error))
            raise
        self._problems.pop(step, None)
        if added and len(self.state.rows) > KEPT:
            self.state.thin(self._used())
        return added

    def _skip(self, step: int, folder: Path, reason: str) -> None:
        if self.state.has(step) and not is_usable(folder):
            return  # it was read before its weights were deleted
        self._problems[step] = reason
        self.say(f"skipped step {step}: {reason}")

    @property
    def skipped(self) -> dict[int, str]:
        """Step -> reason, of every checkpoint that was found and is not used."""
        refused = {step: why for step, (_, why) in self.state.refused.items() if step not in self.state.rows}
        problems = {step: why for step, why in self._problems.items() if step not in self.state.rows}
        return dict(sorted((self.lookout.skipped | refused | problems).items()))

    def _read_summary(self) -> WeightsSummary | None:
        """What a call before this one wrote; None where it is none of ours, which is then written anew."""
        path = self.out / "summary.json"
        try:
            found = msgspec.json.decode(read_regular(path), type=WeightsSummary)
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}): remove it, to have it written again"
            ) from error
        return None if found.watch is UNSET else found

    @property
    def _told(self) -> Watched | None:
        return self.summary.watch or None if self.summary else None

    def _report_if_behind(self) -> None:
        """A process that was killed may have read a checkpoint and not yet told of it."""
        told = {line.step for line in self._told.checkpoints} if self._told else set()
        used = self._used()
        behind = [step for step in judged(self.request, self.state, used).steps if step not in told] if used else []
        if behind and len(used) >= FEWEST:
            self._report(behind[-1], brief=False)

    def _used(self) -> list[int]:
        """The steps that statistics are of."""
        return sorted(self.lookout.wanted(()) & self.state.rows.keys())

    def _report(self, step: int, *, brief: bool) -> None:
        run = judged(self.request, self.state, self._used())
        gram = gram_of(self.state, run)
        line = line_of(step, run, gram, self.state.read_ever if run.first else 0)
        summary = None
        if not brief and len(run.steps) >= FEWEST and gram[-1, -1] > 0:
            summary = summary_of(self.state, run, gram, line, self.skipped, self._told)
        if summary is None:
            self.show(line)
            return
        write_record(self.out / "summary.json", summary)
        self.summary = summary
        self.show(completed(line, summary))
        if summary.watch:
            for warning in summary.watch.warnings:
                if warning.at == run.steps[-1]:
                    self.say(f"warning: {warning.sentence}")


def _open(step: int, folder: Path) -> Trajectory:
    """One checkpoint alone."""
    try:
        return open_trajectory([f"{step}={folder}"], strict=True)
    except InputError as error:
        if isinstance(error.__cause__, UnreadableCheckpoint):
            raise error.__cause__ from None
        raise
