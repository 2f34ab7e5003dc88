"""Does noise make training straight? SFT with random signs on the loss of every token (paper, Fig. 3).

The paper holds that RL is linear because its reward is noisy, and finds R² of SFT to peak where noise of that kind is
added. Weighted as `lab.trainer.noisy_loss` says, from +10 dB to -20 dB, and with no signal at all (-200 dB); beside
each R² stands that of a driftless walk, and the cosine of separated increments, which noise should lower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from driftline.checkpoints.trajectory import open_trajectory
from driftline.files.record import Figure, Record
from driftline.lab.settings import LabRun
from driftline.studies.measures import lab_run, spread, summaries
from driftline.studies.record import SUMS, Findings, StudyRecord

SEEDS = (0, 1, 2)
LEVELS = (None, 10.0, 5.0, 0.0, -3.0, -5.0, -10.0, -15.0, -20.0, -200.0)
NO_SIGNAL = -200.0


class NoisyRun(Record):
    """A run at a level of noise, in words and in dB; SFT as it is has none."""

    level: str
    db: float | None
    seed: int
    r2_mean: Figure
    r2_median: Figure
    null_mean: Figure
    null_median: Figure
    cosine: Figure
    growth: Figure
    linear: bool


class NoiseRecord(StudyRecord, kw_only=True):
    rows: list[NoisyRun]


RECORD = NoiseRecord


def plan(quick: bool, task: str = SUMS) -> dict[str, LabRun]:
    shape: dict[str, Any] = {"steps": 60, "save_every": 4, "score_every": 60, "prompts_per_step": 8}
    levels: Sequence[float | None] = LEVELS
    seeds: Sequence[int] = SEEDS
    if quick:
        shape = {"steps": 6, "save_every": 1, "score_every": 6, "prompts_per_step": 2, "held_out_problems": 16}
        levels, seeds = (None, NO_SIGNAL), SEEDS[:1]
    return {
        f"{label(level)}, seed {seed}": LabRun(task=task, algorithm="sft", noise_db=level, seed=seed, **shape)
        for seed in seeds
        for level in levels
    }


def label(level: float | None) -> str:
    return "SFT" if level is None else "no signal" if level <= NO_SIGNAL else f"{level:+g} dB"


def measure(runs: Mapping[str, Path], quick: bool) -> Findings:
    """A row for each run."""
    rows = [of_run(folder) for folder in runs.values()]
    return Findings(rows, _findings(rows))


def of_run(folder: Path) -> NoisyRun:
    settings = lab_run(folder).settings
    (summary,) = summaries(open_trajectory(folder), "none")
    return NoisyRun(
        level=label(settings.noise_db),
        db=settings.noise_db,
        seed=settings.seed,
        r2_mean=summary.r2.mean,
        r2_median=summary.r2.median,
        null_mean=summary.null_r2.mean,
        null_median=summary.null_r2.median,
        cosine=summary.drift.increment_cosine,
        growth=summary.drift.growth_exponent,
        linear=summary.verdict.linear,
    )


def _findings(rows: list[NoisyRun]) -> list[str]:
    told = []
    for level in dict.fromkeys(row.level for row in rows):
        mine = [row for row in rows if row.level == level]
        told.append(f"{level}: R² {spread(row.r2_median for row in mine)}, cosine {spread(row.cosine for row in mine)}")
    chance = spread(row.null_median for row in rows)
    return [
        f"Median R² by level of noise, median over seeds and range, where a driftless walk has {chance}: {'; '.join(told)}."
    ]
