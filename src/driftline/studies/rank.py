"""Is a run of rank one, and do its coefficients move on a line, more than chance would have it? (RELEX's claim)

The largest eigenvalue of a driftless walk's Gram matrix holds 8/π² = .81 of its trace, and its coefficients have
R² .96 on the step, in any number of dimensions: a walk "is" nearly rank one and linear. So energy, linearity and the
skill of rank-r forecasts stand beside those of a driftless walk with the run's steps, momentum and increment lengths.
And sparsity: how many weights an update leaves as they were, when saved in bf16.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from driftline.checkpoints.configuration import adam_beta1
from driftline.checkpoints.dtypes import round_to
from driftline.checkpoints.trajectory import Trajectory, open_trajectory
from driftline.files.record import Figure, Record
from driftline.forecast.extrapolators import relex
from driftline.lab.settings import LabRun
from driftline.linearity import null
from driftline.linearity.scan import scan
from driftline.linearity.statistics import increments_gram, line_r2
from driftline.studies.record import SUMS, Findings, StudyRecord

RANKS = (1, 2, 3, 5)
_BLOCK = 1 << 20


class OfRank(Record):
    """Energy, linearity and skill of a run at a rank, each beside chance."""

    run: str
    rank: int
    energy: Figure
    null_energy: Figure
    coefficient_r2: Figure
    null_coefficient_r2: Figure
    skill: Figure
    null_skill: Figure
    unchanged_in_bf16: float


class RankRecord(StudyRecord, kw_only=True):
    rows: list[OfRank]


RECORD = RankRecord


def plan(quick: bool, task: str = SUMS) -> dict[str, LabRun]:
    if quick:
        return {
            "seed 0": LabRun(task=task, steps=8, save_every=1, score_every=8, prompts_per_step=2, held_out_problems=16)
        }
    return {f"seed {seed}": LabRun(task=task, steps=100, score_every=50, seed=seed) for seed in range(3)}


def measure(runs: Mapping[str, Path], quick: bool) -> Findings:
    """Energy, linearity and skill by rank of each run, beside chance, and the sparsity of its update."""
    rows = [row for name, folder in runs.items() for row in of_run(name, open_trajectory(folder))]
    return Findings(rows, _findings(rows))


def of_run(name: str, trajectory: Trajectory) -> list[OfRank]:
    """A row for each rank that the run has checkpoints for."""
    clock = np.asarray(trajectory.steps, float)
    beta1, _ = adam_beta1(trajectory)
    gram = np.sum([tensor.gram for tensor in scan(trajectory, clock=clock, sample=0)], axis=0)
    lengths = np.sqrt(np.clip(np.diag(increments_gram(gram)), 0, None))
    chance = null.matched_gram(np.asarray(trajectory.steps), beta1, lengths)
    sparsity = unchanged_in_bf16(trajectory)
    rows = []
    for rank in (rank for rank in RANKS if rank < clock.size - 2):
        (energy, linear), (null_energy, null_linear) = (of_rank(g, clock, rank) for g in (gram, chance))
        rows.append(
            OfRank(
                run=name,
                rank=rank,
                energy=energy,
                null_energy=null_energy,
                coefficient_r2=linear,
                null_coefficient_r2=null_linear,
                skill=skill(gram, clock, rank),
                null_skill=skill(chance, clock, rank),
                unchanged_in_bf16=sparsity,
            )
        )
    return rows


def of_rank(gram: np.ndarray, clock: np.ndarray, rank: int) -> tuple[float, float]:
    """Share of the r largest eigenvalues, and R² on the clock of the r-th direction's coefficients."""
    values, vectors = np.linalg.eigh(gram)
    return float(values[-rank:].sum() / np.trace(gram)), float(line_r2(clock, vectors[:, -rank]))


def skill(gram: np.ndarray, clock: np.ndarray, rank: int) -> float:
    """Of rank-r RELEX on the last quarter of the checkpoints, forecast from those before; squared errors summed."""
    T = clock.size
    cutoff = max(T - max(T // 4, 1), 2)
    seen = gram[:cutoff, :cutoff]
    method = partial(relex, rank=min(rank, cutoff - 1))
    error = base = 0.0
    for target in range(cutoff, T):
        b, hold = np.zeros(T), np.zeros(T)
        b[:cutoff] = method(clock[:cutoff], seen, clock[target])
        hold[cutoff - 1] = 1
        b[target], hold[target] = b[target] - 1, -1
        error, base = error + b @ gram @ b, base + hold @ gram @ hold
    return float(1 - error / base)


def unchanged_in_bf16(trajectory: Trajectory) -> float:
    """Share of the weights that are the same at the first and the last checkpoint once both are rounded to bf16."""
    ends = trajectory.only([trajectory.steps[0], trajectory.steps[-1]])
    same = total = 0
    for tensor in ends:
        for start in range(0, tensor.size, _BLOCK):
            stop = min(start + _BLOCK, tensor.size)
            values = np.empty((2, stop - start), np.float32)
            tensor.read(start, stop, values, np.empty(8 * (stop - start), np.uint8))
            first, last = round_to(values, "BF16")
            same, total = same + int((first == last).sum()), total + stop - start
    return same / total


def _findings(rows: list[OfRank]) -> list[str]:
    ones = {row.run: row for row in rows if row.rank == 1}

    def between(key: str) -> str:
        values = [row[key] for row in ones.values()]
        known = [value for value in values if value is not None]
        if not known:
            return "unknown"
        low, high = min(known), max(known)
        return f"{low:.3f}" if high - low < 5e-4 else f"{low:.3f} to {high:.3f}"

    runs = f"{len(ones)} run{'s' * (len(ones) > 1)}"
    found = [
        f"The first direction of {runs} holds {between('energy')} of the update's energy, where a driftless walk with the "
        f"same increments gives {between('null_energy')}; its coefficient has R² {between('coefficient_r2')} on the step, by "
        f"chance {between('null_coefficient_r2')}.",
        f"Rank-1 forecasts of the last quarter have skill {between('skill')}, by chance {between('null_skill')}.",
        f"Saved in bf16, {between('unchanged_in_bf16')} of the weights are where they began.",
    ]
    skills = {(row.run, row.rank): row.skill for row in rows if row.skill is not None}
    better = [(value, rank, run) for (run, rank), value in skills.items() if value > skills.get((run, 1), np.inf)]
    if better:
        value, rank, run = max(better, key=lambda found: found[0])
        found.append(f"A higher rank forecasts better: rank {rank} of {run} has skill {value:.3f}.")
    return found
