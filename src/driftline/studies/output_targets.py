"""Does decoding beyond the last checkpoint beat training on? (paper, Table 1)

For each run, logits extrapolated from step 0 and a late checkpoint are scored beside that checkpoint, beside the best
checkpoint of the whole run, and beside the control for sharpening: the late checkpoint at the temperature at which it is
as sure of its tokens. One of the runs has a learning rate at which it is trained past its peak. Differences are paired
over problems; the best checkpoint is chosen by the run's own scores, on other problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from driftline.checkpoints.trajectory import open_trajectory
from driftline.decoding.settings import GenerationSettings
from driftline.errors import InputError
from driftline.evaluation.evaluate import MARK, evaluate
from driftline.evaluation.records import Control, Difference, EvaluationRecord
from driftline.evaluation.tasks import Task, open_task
from driftline.files.output import output_folder
from driftline.files.record import Record, read_record
from driftline.lab.settings import LabRun
from driftline.studies.measures import lab_scores, spread, sums_run
from driftline.studies.record import STRATEGY, SUMS, Findings, StudyRecord

SEEDS = (0, 1, 2)
PAST = "past its peak"
RATES: Mapping[str, Mapping[str, float]] = {SUMS: {"usual": 1e-5, PAST: 2e-4}, STRATEGY: {"usual": 5e-6, PAST: 2e-4}}
STEPS = {SUMS: 120, STRATEGY: 80}
ALPHAS = {SUMS: (1.25, 1.5, 2.0), STRATEGY: (1.5, 2.0, 4.0)}
LATE = {SUMS: 2 / 3, STRATEGY: 1 / 4}  # of the usual run
_LATE_PAST = 2 / 3  # of the other, which is then past its peak
_TASK_SEED = 1234  # other problems than those that the runs were scored on


class OutputTarget(Record):
    """Decoding beyond the checkpoint `late` of a run, beside what it has to beat."""

    run: str
    alpha: float
    late: int
    best: int
    forecast_score: float
    late_score: float
    matched_score: float
    matched_temperature: float
    best_score: float
    greedy: dict[str, float] | None
    over_late: Difference
    over_matched: Difference
    over_best: Difference
    verdict: str


class OutputTargetsRecord(StudyRecord, kw_only=True):
    rows: list[OutputTarget]


RECORD = OutputTargetsRecord


def plan(quick: bool, task: str = SUMS) -> dict[str, LabRun]:
    if quick:
        return {"usual, seed 0": LabRun(task=task, steps=6, save_every=1, prompts_per_step=2, held_out_problems=16)}
    return {
        f"{name}, seed {seed}": LabRun(task=task, steps=STEPS[task], learning_rate=rate, seed=seed)
        for seed in SEEDS
        for name, rate in RATES[task].items()
    }


def measure(runs: Mapping[str, Path], quick: bool) -> Findings:
    """A row for each run and alpha."""
    rows = []
    for name, folder in runs.items():
        settings = sums_run(folder)
        task = open_task(settings.task, problems=8 if quick else 128, seed=_TASK_SEED)
        shape = settings.task if settings.task in ALPHAS else SUMS
        alphas, samples = (ALPHAS[shape][1:2], 1) if quick else (ALPHAS[shape], 8)
        late = _LATE_PAST if settings.learning_rate >= RATES[shape][PAST] else LATE[shape]
        rows += of_run(name, folder, task, late, alphas, samples)
    return Findings(rows, _findings(rows))


def of_run(
    name: str, folder: Path, task: Task, share: float, alphas: Sequence[float], samples: int
) -> list[OutputTarget]:
    """A row for each alpha, the late checkpoint lying at a share of the run; evaluations are kept beside the run."""
    trajectory = open_trajectory(folder)
    steps = np.array(trajectory.steps)
    late = int(steps[np.abs(steps - share * steps[-1]).argmin()])
    best = best_step(folder, set(trajectory.steps))
    kept, size = folder.parent / f".{folder.name}.evaluations", f"{samples}-{len(task.problems)}"

    def scored(label: str, step: int, alpha: float | None = None, against: Path | None = None) -> EvaluationRecord:
        out = kept / f"{label}-{size}"
        if not (out / MARK).is_file():
            settings = GenerationSettings(
                late=str(folder / f"checkpoint-{step}"),
                early=None if alpha is None else str(folder / f"checkpoint-{int(steps[0])}"),
                alpha=alpha,
                temperature=1.0,
                top_p=1.0,
                samples=samples,
                max_new_tokens=task.max_new_tokens,
            )
            with output_folder(out, mark=MARK) as result:
                evaluate(task, out, settings, against=against, batch_size=64).write(result)
        return read_record(out / MARK, EvaluationRecord, what="driftline evaluate")

    top = scored("best", best)
    rows = []
    for alpha in alphas:
        found = scored(f"alpha-{alpha:g}", late, alpha, kept / f"best-{size}")
        control: Control = found["control"]
        rows.append(
            OutputTarget(
                run=name,
                alpha=alpha,
                late=late,
                best=best,
                forecast_score=found.avg_at_k,
                late_score=control.late.avg_at_k,
                matched_score=control.late_matched.avg_at_k,
                matched_temperature=control.late_matched.temperature,
                best_score=top.avg_at_k,
                greedy=control.greedy or None,
                over_late=control.gain,
                over_matched=control.beyond_sharpening,
                over_best=found["against"].difference,
                verdict=control.verdict,
            )
        )
    return rows


def best_step(folder: Path, steps: set[int]) -> int:
    """The checkpoint with the run's own highest score. Raises `InputError` where there is none."""
    scored = [row for row in lab_scores(folder) if row.step in steps]
    if not scored:
        raise InputError(f"{folder} has no score of any of its checkpoints: leave it out of --runs")
    return max(scored, key=lambda row: row.sampled).step


def _findings(rows: list[OutputTarget]) -> list[str]:
    found = []
    for kind in dict.fromkeys(_kind(row) for row in rows):
        for alpha in dict.fromkeys(row.alpha for row in rows):
            mine = [row for row in rows if row.alpha == alpha and _kind(row) == kind]
            if not mine:
                continue
            counts = Counter(row.verdict for row in mine)
            verdicts = ", ".join(f"{verdict} {count}" for verdict, count in counts.items())
            found.append(
                f"{kind}, alpha {alpha:g}: {spread([row.forecast_score for row in mine], 3)} where the late checkpoint has "
                f"{spread([row.late_score for row in mine], 3)}, the same as sure of its tokens "
                f"{spread([row.matched_score for row in mine], 3)}, and the best checkpoint of the run "
                f"{spread([row.best_score for row in mine], 3)} (against the late one: {verdicts})."
            )
    return found


def _kind(row: OutputTarget) -> str:
    """What runs of several seeds share in their names."""
    return row.run.rpartition(", seed")[0] or row.run
