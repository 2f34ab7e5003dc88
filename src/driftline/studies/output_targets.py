"""Does decoding beyond the last checkpoint beat training on? (paper, Table 1)

For each run, logits extrapolated from step 0 and a late checkpoint are scored beside that checkpoint, beside the best
checkpoint of the whole run, and beside the control for sharpening: the late checkpoint at the temperature at which it is
as sure of its tokens. One of the runs has a learning rate at which it is trained past its peak. Differences are paired
over problems; the best checkpoint is chosen by the run's own scores, on other problems.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import to_builtins

from driftline.checkpoints.trajectory import open_trajectory
from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError
from driftline.evaluation.evaluate import MARK, evaluate
from driftline.evaluation.records import Control, EvaluationRecord
from driftline.evaluation.tasks import open_task
from driftline.files.output import output_folder
from driftline.files.record import read_record
from driftline.lab.settings import LabRun
from driftline.studies.measures import spread
from driftline.studies.study import Outcome

SEEDS = (0, 1, 2)
RATES: Mapping[str, float] = {"usual": 1e-5, "past its peak": 2e-4}
ALPHAS = (1.25, 1.5, 2.0)
LATE = 2 / 3  # of the run
_TASK_SEED = 1234  # other problems than those that the runs were scored on


def plan(quick: bool) -> dict[str, LabRun]:
    if quick:
        return {"usual, seed 0": LabRun(steps=6, save_every=1, prompts_per_step=2, held_out_problems=16)}
    return {
        f"{name}, seed {seed}": LabRun(steps=120, learning_rate=rate, seed=seed)
        for seed in SEEDS
        for name, rate in RATES.items()
    }


def measure(runs: Mapping[str, Path], quick: bool) -> Outcome:
    """A row for each run and alpha."""
    task = open_task("sums", problems=8 if quick else 128, seed=_TASK_SEED)
    alphas, samples = (ALPHAS[1:2], 1) if quick else (ALPHAS, 8)
    rows = []
    for name, folder in runs.items():
        trajectory = open_trajectory(folder)
        steps = np.array(trajectory.steps)
        late = int(steps[np.abs(steps - LATE * steps[-1]).argmin()])
        best = best_step(folder, set(trajectory.steps))
        kept = folder.parent / f".{folder.name}.evaluations"

        def scored(
            label: str, settings: GenerationSettings, against: Path | None = None, kept: Path = kept
        ) -> EvaluationRecord:
            out = kept / label
            if not (out / MARK).is_file():
                with output_folder(out, mark=MARK) as result:
                    evaluate(task, out, settings, against=against, batch_size=64).write(result)
            return read_record(out / MARK, EvaluationRecord, what="driftline evaluate")

        def at(
            step: int, early: int | None = None, alpha: float | None = None, folder: Path = folder
        ) -> GenerationSettings:
            return GenerationSettings(
                late=str(folder / f"checkpoint-{step}"),
                early=None if early is None else str(folder / f"checkpoint-{early}"),
                alpha=alpha,
                temperature=1.0,
                top_p=1.0,
                samples=samples,
                max_new_tokens=task.max_new_tokens,
            )

        top = scored(f"best-{samples}-{len(task.problems)}", at(best))
        for alpha in alphas:
            found = scored(
                f"alpha-{alpha:g}-{samples}-{len(task.problems)}",
                at(late, early=int(steps[0]), alpha=alpha),
                kept / f"best-{samples}-{len(task.problems)}",
            )
            control: Control = found["control"]
            rows.append(
                {
                    "run": name,
                    "alpha": alpha,
                    "late": late,
                    "best": best,
                    "forecast_score": found.avg_at_k,
                    "late_score": control.late.avg_at_k,
                    "matched_score": control.late_matched.avg_at_k,
                    "matched_temperature": control.late_matched.temperature,
                    "best_score": top.avg_at_k,
                    "greedy": control.greedy or None,
                    "over_late": to_builtins(control.gain),
                    "over_matched": to_builtins(control.beyond_sharpening),
                    "over_best": to_builtins(found["against"].difference),
                    "verdict": control.verdict,
                }
            )
    return Outcome(rows, _findings(rows), {})


def best_step(folder: Path, steps: set[int]) -> int:
    """The checkpoint with the run's own highest score. Raises `InputError` where there is none."""
    try:
        scored = [json.loads(line) for line in (folder / "accuracy.jsonl").read_text().splitlines()]
        return int(max((row for row in scored if row["step"] in steps), key=lambda row: row["sampled"])["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is no run of driftline train ({error}): leave it out of --runs") from error


def _findings(rows: list[dict[str, Any]]) -> list[str]:
    found = []
    for kind in dict.fromkeys(row["run"].rpartition(", seed")[0] or row["run"] for row in rows):
        for alpha in dict.fromkeys(row["alpha"] for row in rows):
            mine = [
                row
                for row in rows
                if row["alpha"] == alpha and (row["run"].rpartition(", seed")[0] or row["run"]) == kind
            ]
            if not mine:
                continue
            verdicts = ", ".join(
                f"{verdict} {count}" for verdict, count in Counter(row["verdict"] for row in mine).items()
            )
            found.append(
                f"{kind}, alpha {alpha:g}: {spread([row['forecast_score'] for row in mine], 3)} where the late checkpoint has "
                f"{spread([row['late_score'] for row in mine], 3)}, the same as sure of its tokens "
                f"{spread([row['matched_score'] for row in mine], 3)}, and the best checkpoint of the run "
                f"{spread([row['best_score'] for row in mine], 3)} (against the late one: {verdicts})."
            )
    return found
