"""Is RL straighter than supervised learning? One base, one task, both ways.

Each seed trains the lab's base by GRPO and by SFT on right solutions, at the same learning rate, batch of sequences and
spacing of checkpoints. They are compared over equal numbers of updates, and up to the same accuracy: the highest that
both reach, each run cut at the checkpoint where it first does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from driftline.checkpoints.trajectory import Trajectory, open_trajectory
from driftline.files.record import Figure, Record
from driftline.lab.settings import LabRun
from driftline.studies.measures import lab_run, lab_scores, spread, summaries
from driftline.studies.record import SUMS, Findings, StudyRecord

SEEDS = (0, 1, 2)
KINDS = ("rl", "sft")
_FEWEST = 5  # checkpoints of a stretch that can be judged


class CutRun(Record):
    """A run up to step `last`, cut there for equal updates or for equal accuracy; each figure beside chance."""

    kind: str
    seed: int
    cut: str
    last: int
    checkpoints: int
    accuracy: Figure
    r2: Figure
    null_r2: Figure
    cosine: Figure
    null_cosine: Figure
    growth: Figure
    null_growth: Figure
    skill: Figure
    null_skill: Figure
    linear: bool


class RlVsSftRecord(StudyRecord, kw_only=True):
    rows: list[CutRun]


RECORD = RlVsSftRecord


def plan(quick: bool, task: str = SUMS) -> dict[str, LabRun]:
    shape: dict[str, Any] = {"steps": 100, "save_every": 5}
    if quick:
        shape = {"steps": 6, "save_every": 1, "prompts_per_step": 2, "held_out_problems": 16}
    return {
        f"{kind}, seed {seed}": LabRun(task=task, algorithm="grpo" if kind == "rl" else "sft", seed=seed, **shape)
        for seed in SEEDS[: 1 if quick else None]
        for kind in KINDS
    }


def measure(runs: Mapping[str, Path], quick: bool) -> Findings:
    """A row for each run and each way of cutting it."""
    opened = [(*read(folder), open_trajectory(folder)) for folder in runs.values()]
    rows = []
    for kind, seed, accuracy, trajectory in opened:
        rows.append(_row(kind, seed, "equal updates", accuracy, trajectory))
        others = [a for k, s, a, _ in opened if s == seed and k != kind]
        if others:
            goal = min(max(found.values()) for found in (accuracy, *others))
            end = next(step for step, value in accuracy.items() if value >= goal)
            part = [step for step in trajectory.steps if step <= end]
            if len(part) >= _FEWEST:
                rows.append(_row(kind, seed, "equal accuracy", accuracy, trajectory.only(part)))
    return Findings(rows, _findings(rows))


def read(folder: Path) -> tuple[str, int, dict[int, float]]:
    """Kind, seed, and sampled accuracy by step, of a finished lab run.

    Raises:
        InputError: it is none.
    """
    settings = lab_run(folder).settings
    kind = "sft" if settings.algorithm == "sft" else "rl"
    return kind, settings.seed, {row.step: row.sampled for row in lab_scores(folder)}


def _row(kind: str, seed: int, cut: str, accuracy: dict[int, float], trajectory: Trajectory) -> CutRun:
    (summary,) = summaries(trajectory, "none")
    drift, skill, last = summary.drift, summary.skill, trajectory.steps[-1]
    return CutRun(
        kind=kind,
        seed=seed,
        cut=cut,
        last=last,
        checkpoints=len(trajectory.steps),
        accuracy=accuracy.get(last),
        r2=summary.r2.median,
        null_r2=summary.null_r2.median,
        cosine=drift.increment_cosine,
        null_cosine=drift.null.increment_cosine,
        growth=drift.growth_exponent,
        null_growth=drift.null.growth_exponent,
        skill=skill.methods["damped"],
        null_skill=skill.null["damped"],
        linear=summary.verdict.linear,
    )


def _findings(rows: list[CutRun]) -> list[str]:
    found = []
    for cut in ("equal updates", "equal accuracy"):
        told = []
        for kind in KINDS:
            mine = [row for row in rows if (row.kind, row.cut) == (kind, cut)]
            if mine:
                told.append(
                    f"{kind.upper()} (accuracy {spread(row.accuracy for row in mine)}, {len(mine)} seed{'s' * (len(mine) > 1)}) "
                    f"has median R² {spread(row.r2 for row in mine)} (chance {spread(row.null_r2 for row in mine)}), cosine of "
                    f"separated increments {spread(row.cosine for row in mine)} (chance {spread(row.null_cosine for row in mine)}), "
                    f"growth exponent {spread(row.growth for row in mine)}, damped skill {spread(row.skill for row in mine)}"
                )
        if told:
            found.append(f"Over {cut}: {'; '.join(told)}.")
    return found
