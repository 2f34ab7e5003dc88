"""`driftline analyze`: the scan and all statistics of one run, as `tensors.parquet` and a summary.

The summary's keys are a contract; see `docs/outputs.md`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from driftline.checkpoints.trajectory import Trajectory
from driftline.engines import Engine
from driftline.errors import InputError
from driftline.files.record import UNSET
from driftline.linearity import figures, null
from driftline.linearity.figures import Facts
from driftline.linearity.scan import FILTERS, Population, TensorScan, scan
from driftline.linearity.shrinkage import Shrunk
from driftline.linearity.statistics import increments_lengths
from driftline.linearity.step_sizes import Moves
from driftline.linearity.summary import Cost, Counts, Rounding, WeightsSummary
from driftline.linearity.table import TensorTable

_UNROUNDED = {"F32", "F64"}


@dataclass
class RunTotals:
    """What the tensors of a run add up to."""

    populations: list[Population] = field(default_factory=list)  # [no filter, the paper's filter]
    gram: np.ndarray | float = 0.0
    kept: np.ndarray | float = 0
    distinct: np.ndarray | float = 0
    parameters: int = 0
    moves: list[Moves] = field(default_factory=list)
    shrunk: Shrunk = field(default_factory=Shrunk)

    def add(self, tensor: TensorScan) -> None:
        self.populations = [
            null.sum_populations(pair) for pair in zip(self.populations, tensor.populations, strict=False)
        ] or list(tensor.populations)
        self.gram = self.gram + tensor.gram
        self.kept = self.kept + tensor.kept
        self.distinct = self.distinct + tensor.distinct
        self.parameters += tensor.size
        self.moves.append(tensor.moves)
        self.shrunk.add(tensor)


def analyze(
    trajectory: Trajectory,
    folder: Path | str,
    *,
    filter: str = "none",
    clock: str = "step",
    beta1: float | None = None,
    ema: float | None = None,
    engine: Engine | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> WeightsSummary:
    """Measure a run: writes `tensors.parquet` into `folder`, which must exist, and returns the summary.

    Args:
        filter: `none`, or `paper`: R² of the weights whose range exceeds 1e-4 and that take 4 values or more.
        clock: what lines are drawn against: `step`, or `lr`, the summed learning rate.
        beta1, ema: the optimizer's momentum, and the decay per step of an average of the weights that was saved in their
            place; default what the run's files say, and no average.
        engine: where the work runs; default threads of this process.
        progress: called with the bytes read, as they are read.

    Returns:
        What stands in `summary.json`; docs/outputs.md defines every key and its unit.

    Raises:
        InputError: see `scan`; also when no weight changes, or none passes the filter.
    """
    if filter not in FILTERS:
        raise InputError(f"--filter {filter!r} is unknown: choose none or paper")
    started = time.monotonic()
    facts = figures.facts_of(trajectory, clock, beta1=beta1, ema=ema)
    totals = RunTotals()
    with TensorTable(Path(folder) / "tensors.parquet", trajectory.steps, filter) as table:
        for tensor in scan(trajectory, clock=facts.clock_values, engine=engine, progress=progress):
            totals.add(tensor)
            table.add(tensor)
    scanned = time.monotonic()
    if totals.populations[0].count == 0:
        raise InputError(
            f"{trajectory.name}: no weight changes between step {trajectory.steps[0]} and {trajectory.steps[-1]}: "
            "they look like copies of one checkpoint, so choose others with --steps"
        )
    if totals.populations[FILTERS[filter]].count == 0:
        raise InputError(f"{trajectory.name}: no weight passes --filter {filter}: use --filter none")
    summary = summarize(totals, facts, stored_dtypes(trajectory), filter=filter)
    cost = Cost(
        scan_seconds=scanned - started,
        statistics_seconds=time.monotonic() - scanned,
        bytes_read=trajectory.nbytes,
    )
    return msgspec.structs.replace(summary, cost=cost)


def stored_dtypes(trajectory: Trajectory) -> set[str]:
    """Of all tensors at all checkpoints."""
    return {info.dtype for tensor in trajectory for info in tensor.stored}


def summarize(
    totals: RunTotals, facts: Facts, dtypes: Iterable[str], *, filter: str = "none", parameters: int | None = None
) -> WeightsSummary:
    """All statistics of a run from what its tensors add up to; no weight is read.

    Args:
        dtypes: in which its weights are stored, at any step.
        parameters: how many there are, where the totals are of some of them.
    """
    stored = set(dtypes)
    unfiltered, population = totals.populations[0].count, totals.populations[FILTERS[filter]]
    chance, changed, kept = _null_population(totals, facts, stored, filter)
    counts = Counts(
        total=(totals.parameters if parameters is None else parameters) + facts.unmeasured,
        measured=population.count,
        unchanged=totals.parameters - unfiltered,
        filtered=unfiltered - population.count,
        changed_share=unfiltered / totals.parameters,
        kept_share=population.count / totals.parameters,
        left_out=facts.unmeasured or UNSET,
    )
    rounding = Rounding(
        dtypes=sorted(stored),
        unchanged_share=float(np.sum(totals.kept) / (totals.parameters * (len(facts.steps) - 1))),
        unchanged_share_per_interval=(np.asarray(totals.kept) / totals.parameters).tolist(),
        distinct_values=dict(zip(("1", "2", "3", "4+"), np.asarray(totals.distinct).tolist(), strict=True)),
    )
    return figures.summary(
        WeightsSummary,
        facts,
        np.asarray(totals.gram),
        population,
        figures.null_shares_of(chance, changed_share=changed, kept_share=kept),
        figures.coarse(chance),
        counts,
        filter=filter,
        judged=np.asarray(totals.gram) - totals.shrunk.gram,
        shrunk=totals.shrunk,
        rounding=rounding,
    )


def _null_population(totals: RunTotals, facts: Facts, stored: set[str], filter: str) -> tuple[Population, float, float]:
    """R² of the matched driftless walk, and the shares of walks that change and are kept.

    Rounding enters where weights are narrower than float32, or a filter is on.
    """
    steps, lengths = np.asarray(facts.steps), increments_lengths(np.asarray(totals.gram))
    if filter == "none" and stored <= _UNROUNDED:
        return null.null_r2(steps, facts.clock_values, facts.beta1, lengths=lengths), 1.0, 1.0
    return null.matched_null_r2(steps, facts.clock_values, facts.beta1, totals.moves, filter=filter, lengths=lengths)
