"""What is told of a run that is watched: a line for each checkpoint, and the summary so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from driftline.checkpoints import configuration
from driftline.checkpoints.discovery import run_folder
from driftline.checkpoints.jumps import Regrounded, read_jumps, regrounded
from driftline.errors import InputError
from driftline.linearity import statistics
from driftline.linearity.analysis import summarize
from driftline.linearity.figures import Facts
from driftline.linearity.looks import First, Look
from driftline.linearity.summary import UNSET, Line, Watched, WeightsSummary
from driftline.watching.collapse import skills_ahead
from driftline.watching.request import Following
from driftline.watching.sampled import sampled, shrunk_of, totals_of
from driftline.watching.state import State
from driftline.watching.thinning import FIRST, spread
from driftline.watching.warnings import new_warnings

FEWEST = 3  # checkpoints of a line
_ENOUGH = 8  # of a warning
_LONGEST = 10_000_000  # steps whose learning rates are added up


@dataclass(frozen=True)
class WatchedRun:
    """The checkpoints that are judged; their folders may be gone. The memory of updates is None where the user says nothing;
    `first` are the steps of the first checkpoints, where those that are judged are some of all."""

    name: str
    steps: tuple[int, ...]
    folders: tuple[Path, ...]
    regrounded: Regrounded | None
    beta1: float | None = None
    ema: float | None = None
    first: tuple[int, ...] = ()


def judged(request: Following, state: State, steps: list[int]) -> WatchedRun:
    """The run at some steps that were read, less what a roll-back discarded."""
    folder = run_folder(request.run)
    jumps = regrounded(read_jumps(Path(folder)), steps) if folder is not None else None
    if jumps is not None:
        steps = [step for step in steps if step not in jumps.discarded]
        jumps = regrounded(jumps.jumps, steps)
    first: tuple[int, ...] = ()
    if state.thinned and jumps is None:
        first, (steps, _) = tuple(steps[:FIRST]), spread(steps, state.apart)
    folders = tuple(Path(state.rows[step].path) for step in steps)
    return WatchedRun(request.name, tuple(steps), folders, jumps, request.beta1, request.ema, first)


def gram_of(state: State, run: WatchedRun) -> np.ndarray:
    """[T, T], of the deltas from the first checkpoint that is judged."""
    return statistics.rebased(state.gram(list(run.steps)), np.arange(len(run.steps)))


def line_of(step: int, run: WatchedRun, gram: np.ndarray, count: int = 0) -> Line:
    """The line of one checkpoint before the summary is known; `count` are read, where not all are judged."""
    at = run.steps.index(step) if step in run.steps else -1
    ahead = float(skills_ahead(gram, np.asarray(run.steps, float))[-1]) if len(run.steps) >= FEWEST else UNSET
    moved = math.sqrt(max(gram[at, at], 0.0))
    return Line(step=step, checkpoints=count or len(run.steps), update_norm=moved, skill_ahead=ahead)


def summary_of(
    state: State, run: WatchedRun, gram: np.ndarray, line: Line, skipped: dict[int, str], told: Watched | None
) -> WeightsSummary | None:
    """The summary up to now, with the line completed; None where no sampled weight changed.

    Args:
        skipped: step -> reason, of checkpoints that are not used; told: what there has been to tell.
    """
    facts = _facts(state, run, skipped)
    totals = totals_of(state, list(run.steps), facts.clock_values, gram)
    if totals.populations[0].count == 0:
        return None
    dtypes = {dtype for step in run.steps for dtype in state.rows[step].dtypes}
    summary = summarize(totals, facts, dtypes, parameters=state.parameters)
    line = completed(line, summary)
    lines = {one.step: one for one in told.checkpoints} if told else {}
    earlier = [lines.get(step, Line(step=step)) for step in run.steps if step != line.step]
    warned = [one for one in told.warnings if one.since <= run.steps[-1]] if told else []
    if line.step == run.steps[-1] and len(run.steps) >= _ENOUGH:
        read, first = (state.read_ever, facts.look.first) if run.first and facts.look else (len(run.steps), None)
        warned += new_warnings(summary, _rates(run), warned, read, first)
    watch = Watched(
        checkpoints=sorted([*earlier, line], key=lambda one: one.step),
        warnings=warned,
        skipped=len(summary.skipped),
    )
    return msgspec.structs.replace(summary, sampled=sampled(state, len(run.steps)), watch=watch)


def completed(line: Line, summary: WeightsSummary) -> Line:
    """With the figures of the summary that it belongs to; its verdict is linear, chance or cannot tell."""
    verdict = summary.verdict
    return msgspec.structs.replace(
        line,
        increment_cosine=summary.drift.increment_cosine,
        null_increment_cosine=summary.drift.null.increment_cosine,
        r2_median=summary.r2.median,
        null_r2_median=summary.null_r2.median,
        verdict="linear" if verdict.linear else "cannot tell" if verdict.p is UNSET else "chance",
    )


def _facts(state: State, run: WatchedRun, skipped: dict[int, str]) -> Facts:
    discarded = run.regrounded.discarded if run.regrounded else {}
    planned = configuration.rates_of(run).max_steps
    return Facts(
        run=run.name,
        steps=run.steps,
        clock="step",
        clock_values=configuration.clock_values(run, "step"),
        momentum=configuration.momentum(run, run.beta1, run.ema),
        left_out=state.left_out,
        skipped={**skipped, **discarded},
        jumps=run.regrounded,
        look=Look(ended=planned is not None and run.steps[-1] >= planned, first=_first(state, run)),
    )


def _first(state: State, run: WatchedRun) -> First | None:
    if not run.first:
        return None
    steps = np.array(run.first)
    gram = statistics.rebased(state.gram(list(run.first)), np.arange(steps.size))
    return First(gram, steps, steps.astype(np.float64), shrunk_of(state, list(run.first)))


def _rates(run: WatchedRun) -> np.ndarray:
    """Mean learning rate of each interval, as far as the trainer logged it; zeros where it did not."""
    if run.steps[-1] > _LONGEST:
        return np.zeros(len(run.steps) - 1)
    try:
        return np.diff(configuration.clock_at(run, "lr", run.steps)) / np.diff(run.steps)
    except InputError:
        return np.zeros(len(run.steps) - 1)
