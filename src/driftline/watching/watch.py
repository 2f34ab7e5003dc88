"""`driftline watch`: the linearity of a run while it is being written, one checkpoint at a time.

A checkpoint is read when it opens, so index, headers and sizes agree, and when none of its files has changed for
`settle` seconds. It is read once and alone: not the others, nor the first, which may long be rotated away. That
works because what is kept of a checkpoint (`sketch`, `watch_state`) is linear in its weights. Memory does not grow
with the model, nor with the run but for its [T, T] matrices; disk by 8 MiB a checkpoint.

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

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from driftline.checkpoints import configuration
from driftline.checkpoints.discovery import STEP_PAIR, choose_steps, find_steps
from driftline.checkpoints.jumps import read_jumps, regrounded
from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.tensors import TensorInfo
from driftline.checkpoints.trajectory import TensorSeries, Trajectory, open_trajectory
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.files import remote
from driftline.files.atomic import replace_text
from driftline.files.json import json_text
from driftline.linearity import kernels, statistics
from driftline.linearity.analysis import RunTotals, summarize
from driftline.linearity.scan import Population
from driftline.linearity.step_sizes import Moves, moves_of
from driftline.watching.collapse import collapse, skills_ahead
from driftline.watching.sketch import BUCKETS
from driftline.watching.state import State, files_of, only_watch

_FEWEST = 3  # checkpoints of a line
_ENOUGH = 8  # of a warning
_PROMPT = 64  # up to so many checkpoints, each has its figures even when more are waiting to be read
_LONGEST = 10_000_000  # steps whose learning rates are added up
_BLOCK_VALUES = 1 << 21  # of the sample, in memory at once
_MOVES_VALUES, _MOVES_EACH = 1 << 24, 4096  # trajectories for the matched null: in all, and of a tensor


@dataclass(frozen=True)
class Watch:
    """What to follow, and how.

    Attributes:
        run: a folder of checkpoints, or `STEP=PATH` pairs.
        interval: seconds between looks at the run.
        settle: seconds for which a checkpoint's files must not have changed.
        once: take what is there, then return.
    """

    run: tuple[str, ...]
    steps: str | None = None
    base: str | None = None
    interval: float = 30.0
    settle: float = 10.0
    once: bool = False

    def __post_init__(self) -> None:
        if self.steps is not None and not re.fullmatch(r"\d*:\d*(:[1-9]\d*)?|\d+(,\d+)*", self.steps):
            raise InputError(
                f"--steps {self.steps!r} is neither FIRST:LAST:STRIDE nor a list such as 0,100,200: give one of these"
            )
        for name, value, least in (("interval", self.interval, 0.01), ("settle", self.settle, 0.0)):
            if not least <= value < math.inf:
                raise InputError(f"--{name} {value} is no time to wait: give seconds, {least:g} or more")

    @property
    def name(self) -> str:
        """Of the run, wherever it is called from."""
        return ", ".join(
            argument if "=" in argument or "://" in argument else os.path.abspath(argument) for argument in self.run
        )


def watch(
    request: Watch, out: Path, *, show: Callable[[dict[str, Any]], None], say: Callable[[str], None]
) -> dict[str, Any] | None:
    """Follow a run until interrupted, or once; returns the last summary, None below three checkpoints.

    Args:
        show: called with the figures of every checkpoint that was read, see `_line`.
        say: called with sentences about what was skipped, and with warnings.

    Raises:
        InputError: the request is wrong, `out` is not ours or cannot be written, or no weight changes.
    """
    for argument in (*request.run, request.base or ""):
        pair = STEP_PAIR.match(argument)
        if remote.is_address(pair[2] if pair else argument):
            raise InputError(
                f"{remote.redacted(argument)} is a remote address, which watch does not follow: watch where the run is "
                "written, or analyze the address again from time to time"
            )
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
    def __init__(
        self, request: Watch, out: Path, show: Callable[[dict[str, Any]], None], say: Callable[[str], None]
    ) -> None:
        self.request, self.out, self.show = request, out, show
        self.state = State(out / "state", request.name)
        self._say = say
        self._said: set[str] = set()
        self._seen: dict[int, tuple[str, float]] = {}  # step -> digest of its files, and when they were first so
        self._problems: dict[int, str] = {}  # of checkpoints that could not be read, in this call
        self.summary = self._read_summary()

    def follow(self) -> dict[str, Any] | None:
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

    # -- looking

    def _look(self) -> int:
        """Read every checkpoint that is ready; returns how many are still being written."""
        folders = self._folders()
        ready, waiting = [], 0
        for step, folder in folders.items():
            files, newest, _ = files_of(folder)
            if self._known(step, files):
                continue
            if self._settled(step, files, newest):
                ready.append(step)
            else:
                waiting += 1
        for index, step in enumerate(ready):
            try:
                if not self._read(step, folders):
                    continue
            except InputError as error:
                self._skip(step, str(error))
                continue
            more = index + 1 < len(ready)
            self._report(step, brief=more and len(self.state.rows) > _PROMPT)
        return waiting

    def _folders(self) -> dict[int, Path]:
        """Step -> folder, of the checkpoints that are there and wanted."""
        request = self.request
        try:
            found = find_steps(request.run)
        except InputError as error:
            if request.once or not self._may_yet_come():
                raise
            self.say(f"waiting: {error}")
            return {}
        if request.base is not None:
            if 0 in found:
                raise InputError(
                    f"--base {request.base} would be step 0, but the run already has {found[0]} as step 0: drop one"
                )
            if not Path(request.base).is_dir():
                raise InputError(f"--base {request.base} is not a local folder: give the folder of the base model")
            found = {0: Path(request.base), **found}
        wanted = self._wanted(found)
        return {step: folder for step, folder in found.items() if step in wanted}

    def _wanted(self, found: Iterable[int]) -> set[int]:
        """The steps, there now or read before, that are to be used; listed ones may be yet to come."""
        chosen, base = self.request.steps, {0} if self.request.base is not None else set()
        steps = sorted({*found, *self.state.rows} - base)
        if chosen is None or not steps:
            return {*steps, *base}
        if ":" not in chosen:
            return {int(step) for step in chosen.split(",")} | base
        first = steps[0] if chosen.startswith(":") else 0
        try:
            return {*choose_steps(range(first, max(*steps, first + 1) + 1), chosen)} | base
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

    # -- reading

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
        files, newest, _ = files_of(folder)
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
        return added

    def _skip(self, step: int, reason: str) -> None:
        self._problems[step] = reason
        self.say(f"skipped step {step}: {reason}")

    # -- reporting

    @property
    def skipped(self) -> dict[int, str]:
        """Step -> reason, of every checkpoint that was found and is not used."""
        refused = {step: why for step, (_, why) in self.state.refused.items() if step not in self.state.rows}
        return dict(sorted((refused | self._problems).items()))

    def _read_summary(self) -> dict[str, Any] | None:
        try:
            found = json.loads((self.out / "summary.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) and "watch" in found else None

    def _report_if_behind(self) -> None:
        """A process that was killed may have read a checkpoint and not yet told of it."""
        told = {line["step"] for line in self.summary["watch"]["checkpoints"]} if self.summary else set()
        behind = [step for step in self._used() if step not in told]
        if behind and len(self._used()) >= _FEWEST:
            self._report(behind[-1], brief=False)

    def _used(self) -> list[int]:
        """The steps that statistics are of."""
        return sorted(self._wanted(()) & self.state.rows.keys())

    def _report(self, step: int, *, brief: bool) -> None:
        steps = self._used()
        jumps = regrounded(read_jumps(Path(self.request.run[0])), steps) if len(self.request.run) == 1 else None
        if jumps is not None:
            steps = [one for one in steps if one not in jumps.discarded]
            jumps = regrounded(jumps.jumps, steps)
        gram = statistics.rebased(self.state.gram(steps), np.arange(len(steps)))
        line = _line(step, steps, gram)
        if brief or len(steps) < _FEWEST or not gram[-1, -1] > 0:
            self.show(line)
            return
        rows = [self.state.rows[one] for one in steps]
        trajectory = Trajectory(
            self.request.name,
            tuple(steps),
            tuple(Checkpoint(Path(row.path), row.layout, {}) for row in rows),
            _tensors(self.state, steps),
            self.state.left_out,
            {**self.skipped, **(jumps.discarded if jumps else {})},
            jumps,
        )
        clock = configuration.clock_values(trajectory, "step")
        totals = _totals(self.state, steps, clock, gram)
        if totals.populations[0].count == 0:
            self.show(line)
            return
        summary = summarize(totals, trajectory, clock, filter="none", clock="step")
        summary["parameters"]["total"] = self.state.parameters
        summary["sampled"] = _sampled(self.state)
        line |= _figures(summary)
        told = self.summary["watch"] if self.summary else {"checkpoints": [], "warnings": []}
        lines = {one["step"]: one for one in told["checkpoints"]}
        earlier = [lines.get(one, {"step": one}) for one in steps if one != step]
        warned = [one for one in told["warnings"] if one["since"] <= steps[-1]]
        new = []
        if step == steps[-1] and len(steps) >= _ENOUGH:
            new = _new_warnings(summary, gram, clock, _spans(trajectory), earlier, warned)
        summary["watch"] = {
            "checkpoints": sorted([*earlier, line], key=lambda one: int(one["step"])),
            "warnings": [*warned, *new],
            "skipped": len(summary["skipped"]),
        }
        replace_text(self.out / "summary.json", json_text(summary))
        self.summary = summary
        self.show(line)
        for warning in new:
            self.say(f"warning: {warning['sentence']}")


def _open(step: int, folder: Path) -> Trajectory:
    """One checkpoint alone."""
    try:
        return open_trajectory([f"{step}={folder}"], strict=True)
    except InputError as error:
        if isinstance(error.__cause__, UnreadableCheckpoint):
            raise error.__cause__ from None
        raise


# -- figures


def _tensors(state: State, steps: list[int]) -> tuple[TensorSeries, ...]:
    """One tensor of each succession of dtypes: all that the summary asks of them."""
    rows = [state.rows[step] for step in steps]
    kinds = {tuple(row.dtypes[k] for row in rows): part for k, part in enumerate(state.parts)}
    return tuple(
        TensorSeries(
            part.name,
            part.shape,
            tuple(TensorInfo(part.name, part.shape, dtype, Path(row.path)) for dtype, row in zip(kind, rows, strict=True)),
        )
        for kind, part in kinds.items()
    )  # fmt: skip


def _totals(state: State, steps: list[int], clock: np.ndarray, gram: np.ndarray) -> RunTotals:
    """R² and the like of the sample, in blocks: see `kernels.accumulate`."""
    T = len(steps)
    centred = clock - clock.mean()
    tau = (centred / np.sqrt(np.mean(centred**2))).astype(np.float32)
    sums, histograms = np.zeros((2, 3)), np.zeros((2, kernels.R2_BINS), np.int64)
    distinct, slopes, kept = np.zeros(4, np.int64), np.zeros(3), np.zeros(T - 1, np.int64)
    chosen = _chosen(state, T)
    taken = []
    for start, raw in state.samples(steps, max(_BLOCK_VALUES // T, 1)):
        kernels.accumulate(raw, tau, kernels.block_size(T), sums, histograms, distinct, slopes, kept, np.zeros((T, T)))
        first, last = np.searchsorted(chosen, [start, start + raw.shape[1]])
        taken.append(raw[:, chosen[first:last] - start].T)
    populations = [
        Population(int(row[kernels.COUNT]), float(row[kernels.SUM_R2]), int(row[kernels.STRONG]), histogram)
        for row, histogram in zip(sums, histograms, strict=True)
    ]
    moves = _moves(state, np.concatenate(taken), chosen, state.rows[steps[-1]].dtypes)
    return RunTotals(populations, gram, kept, distinct, state.positions.size, moves)


def _chosen(state: State, T: int) -> np.ndarray:
    """Columns of the sample, ascending, whose trajectories say how far the weights of each tensor move."""
    each = max(min(_MOVES_VALUES // (T * len(state.parts)), _MOVES_EACH), 1)
    columns = []
    for part in state.parts:
        first, last = np.searchsorted(state.positions, [part.start, part.stop])
        columns.append(np.unique(np.linspace(first, last - 1, min(each, last - first)).astype(np.int64)))
    return np.concatenate(columns)


def _moves(state: State, taken: np.ndarray, chosen: np.ndarray, dtypes: list[str]) -> list[Moves]:
    rng = np.random.default_rng(0)
    found = []
    for part, dtype in zip(state.parts, dtypes, strict=True):
        first, last = np.searchsorted(state.positions[chosen], [part.start, part.stop])
        if first < last:
            found.append(moves_of(taken[first + rng.permutation(last - first)], part.stop - part.start, dtype))
    return found


def _sampled(state: State) -> dict[str, Any]:
    N, n, m = state.parameters, state.positions.size, min(BUCKETS, state.parameters)
    gram = "every weight enters the Gram matrix" + ("" if N <= BUCKETS else f", by a sketch of {m:,} numbers")
    r2 = (
        "R² and shares are of every weight" if n == N else f"R² and shares are of {n:,} of {N:,} weights, spread evenly"
    )
    return {
        "weights": n,
        "of": N,
        "sketch": m,
        "gram_standard_error": 0.0 if N <= BUCKETS else math.sqrt(2 / m),
        "sentence": f"{gram}; {r2}.",
    }


def _spans(trajectory: Trajectory) -> np.ndarray:
    """Learning rate x steps of each interval, as far as the trainer logged it; zeros where it did not."""
    if trajectory.steps[-1] > _LONGEST:
        return np.zeros(len(trajectory.steps) - 1)
    try:
        return np.diff(configuration.clock_values(trajectory, "lr"))
    except InputError:
        return np.zeros(len(trajectory.steps) - 1)


# -- what is said


def _line(step: int, steps: list[int], gram: np.ndarray) -> dict[str, Any]:
    """The figures of one checkpoint; below three of them only the first three keys are there.

    step, checkpoints (so far), update_norm ||W_step - W_first||; increment_cosine of separated increments,
    r2_median, null_r2_median, skill_ahead (of a two-point line through all before, at the last checkpoint),
    verdict ("linear", "chance" or "cannot tell").
    """
    at = steps.index(step) if step in steps else -1
    line: dict[str, Any] = {"step": step, "checkpoints": len(steps), "update_norm": math.sqrt(max(gram[at, at], 0.0))}
    if len(steps) >= _FEWEST:
        line["skill_ahead"] = float(skills_ahead(gram, np.asarray(steps, float))[-1])
    return line


def _figures(summary: dict[str, Any]) -> dict[str, Any]:
    verdict = summary["verdict"]
    return {
        "increment_cosine": summary["drift"]["increment_cosine"],
        "null_increment_cosine": summary["drift"]["null"]["increment_cosine"],
        "r2_median": summary["r2"]["median"],
        "null_r2_median": summary["null_r2"]["median"],
        "verdict": "linear" if verdict["linear"] else "chance" if "p" in verdict else "cannot tell",
    }


def _new_warnings(
    summary: dict[str, Any],
    gram: np.ndarray,
    clock: np.ndarray,
    spans: np.ndarray,
    earlier: list[dict[str, Any]],
    warned: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Collapse, a bend in a run that was straight, and a drift that is no longer told from chance; each once."""
    steps = summary["steps"]
    found = []
    since = None if "jumps" in summary else collapse(statistics.increments_gram(gram), clock, spans)
    if since is not None:
        at = steps[int(np.searchsorted(clock, since))]
        found.append(("collapse", at, f"this run may be collapsing since step {at}: look at its reward and entropy"))
    pieces = summary["regime"]["segments"]
    if summary["verdict"]["linear"] and len(pieces) > 1:
        at = pieces[-1]["from"]
        sentence = f"the run left its straight line at step {at}: a forecast from before does not hold beyond it"
        found.append(("bend", at, sentence))
    lately = [line.get("verdict") for line in earlier[-4:]]
    if not summary["verdict"]["linear"] and lately[:3] == ["linear"] * 3 and lately[3:] not in ([], ["linear"]):
        sentence = f"since step {earlier[-1]['step']} the run's drift is no longer told from chance"
        found.append(("chance", earlier[-1]["step"], sentence))
    near = 2 * max(np.diff(steps))
    return [
        {"kind": kind, "since": at, "at": steps[-1], "sentence": sentence}
        for kind, at, sentence in found
        if not any(one["kind"] == kind and abs(one["since"] - at) <= near for one in warned)
    ]
