"""What the paper's filter does to R²: on walks that have no drift at all, and on runs that are there.

The filter keeps the parameters that moved by more than 1e-4 and take four or more distinct values. It is meant to
leave out rounding noise, and it does; but it also keeps those that moved furthest, and a walk that ends far away
looks straight. Simulated: driftless walks that start at weights of the usual size (normal, deviation .02), saved in
bf16 at 20 checkpoints, with plain increments or with Adam's momentum, at update sizes from far below the last
place of bf16 to far above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from driftline.checkpoints.dtypes import round_to
from driftline.checkpoints.trajectory import open_trajectory
from driftline.files.record import Record, UnsetType
from driftline.lab.settings import LabRun
from driftline.linearity import null
from driftline.linearity.kernels import PAPER_MIN_DISTINCT, PAPER_MIN_RANGE
from driftline.linearity.statistics import line_r2
from driftline.linearity.summary import R2, NullR2
from driftline.studies.measures import spread, summaries
from driftline.studies.record import SUMS, Findings, StudyRecord

CHECKPOINTS, SPACING = 20, 5
WEIGHT = 0.02  # deviation of the weights that walks start from
MOMENTA = (0.0, 0.9)
SIZES = (3e-6, 1e-5, 3e-5, 5e-5, 1e-4, 3e-4, 1e-3)  # root mean square change from first to last checkpoint
_WALKS, _QUICK_WALKS = 200_000, 5_000


class WalkR2(Record, rename={"share_above_07": "share_above_0.7"}):
    mean: float
    median: float
    share_above_07: float


class Walk(Record, tag_field="kind", tag="walk"):
    """Driftless walks of a size: R² of all as they are, and saved in bf16 of those that change and that are kept."""

    momentum: float
    size: float
    changed_share: float
    kept_share: float
    exact: WalkR2
    changed: WalkR2 | None
    kept: WalkR2 | None


class Filtered(Record, tag_field="kind", tag="run"):
    """A run with and without the filter, each beside walks matched to it."""

    run: str
    changed_share: float | UnsetType
    kept_share: float | UnsetType
    changed: R2
    null_changed: NullR2
    kept: R2
    null_kept: NullR2


class FilterBiasRecord(StudyRecord, kw_only=True):
    rows: list[Walk | Filtered]


RECORD = FilterBiasRecord


def plan(quick: bool, task: str = SUMS) -> dict[str, LabRun]:
    return {}


def measure(runs: Mapping[str, Path], quick: bool) -> Findings:
    """R² of walks, and of the runs, with and without the filter."""
    rng = np.random.default_rng(0)
    rows = [simulated(momentum, size, _QUICK_WALKS if quick else _WALKS, rng) for momentum in MOMENTA for size in SIZES]
    measured = [of_run(folder) for folder in runs.values()]
    return Findings([*rows, *measured], _findings(rows, measured))


def simulated(momentum: float, size: float, walks: int, rng: np.random.Generator) -> Walk:
    """Driftless walks of a size, in float32 and saved in bf16, with and without the filter."""
    steps = np.arange(CHECKPOINTS) * SPACING
    root = null.walk_root(steps, momentum)
    root = root * size / np.linalg.norm(root[-1])
    start = round_to((WEIGHT * rng.standard_normal((walks, 1))).astype(np.float32), "BF16")
    exact = rng.standard_normal((walks, root.shape[1])) @ root.T
    saved = round_to((start + exact).astype(np.float32), "BF16")
    spans = np.ptp(saved, axis=1)
    moved, kept = spans > 0, passing(saved)
    r2 = line_r2(steps.astype(float), (saved - saved[:, :1]).astype(float))
    return Walk(
        momentum=momentum,
        size=size,
        changed_share=float(moved.mean()),
        kept_share=float(kept.mean()),
        exact=_figures(line_r2(steps.astype(float), exact)),
        changed=_figures(r2[moved]) if moved.any() else None,
        kept=_figures(r2[kept]) if kept.any() else None,
    )


def passing(saved: np.ndarray) -> np.ndarray:
    """Which series [walks, T] the paper's filter keeps."""
    distinct = 1 + (np.diff(np.sort(saved, axis=1), axis=1) > 0).sum(1)
    return (np.ptp(saved, axis=1) > PAPER_MIN_RANGE) & (distinct >= PAPER_MIN_DISTINCT)


def of_run(folder: Path) -> Filtered:
    """A run with and without the filter, each beside walks matched to it."""
    everything, kept = summaries(open_trajectory(folder), "none", "paper")
    return Filtered(
        run=str(folder),
        changed_share=everything.parameters.changed_share,
        kept_share=kept.parameters.kept_share,
        changed=everything.r2,
        null_changed=everything.null_r2,
        kept=kept.r2,
        null_kept=kept.null_r2,
    )


def _figures(r2: np.ndarray) -> WalkR2:
    return WalkR2(mean=float(r2.mean()), median=float(np.median(r2)), share_above_07=float((r2 > 0.7).mean()))


def _findings(walks: list[Walk], runs: list[Filtered]) -> list[str]:
    found = []
    for momentum in MOMENTA:
        mine = [(row, row.kept) for row in walks if row.momentum == momentum and row.kept and row.kept_share > 1e-3]
        top, kept = max(mine, key=lambda pair: pair[1].median)
        what = f"momentum {momentum:g}" if momentum else "no momentum"
        found.append(
            f"Walks without drift, {what}: median R² {top.exact.median:.2f} in float32. Saved in bf16 at an update size of {top.size:g}, "
            f"the filter keeps {top.kept_share:.1%} of them, and their median R² is {kept.median:.2f}, "
            f"{kept.share_above_07:.0%} above 0.7."
        )
    found += [
        f"{row.run}: median R² {spread([row.changed.median])} without the filter (chance {spread([row.null_changed.median])}), "
        f"{spread([row.kept.median])} of the {row.kept_share:.1%} that it keeps (chance {spread([row.null_kept.median])})."
        for row in runs
    ]
    return found
