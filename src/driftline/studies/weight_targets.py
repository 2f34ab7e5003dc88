"""How far should one extrapolate, and could one have known without evaluating? (paper, Fig. 5)

From several late checkpoints of each run, two-point forecasts (from step 0, as the paper has it) at growing horizons
are scored on held-out problems, the best of them beside the late checkpoint at the temperature at which it is as sure
of its tokens. The best target is set beside what the run itself says before any evaluation: the
horizon that back-tests over the checkpoints up to that late one recommend, the persistence length of its drift, and
the skill of the same kind of forecast tested from half way to the late checkpoint, in weights and in log-probs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from driftline.checkpoints.trajectory import Trajectory, open_trajectory
from driftline.evaluation.records import Control
from driftline.evaluation.tasks import Task, open_task
from driftline.files.record import UNSET, Figure, Record, UnsetType
from driftline.forecast.backtest import backtest
from driftline.forecast.observations import observe
from driftline.forecast.request import ForecastRequest
from driftline.lab.settings import LabRun
from driftline.linearity.persistence import persistence
from driftline.outputs.checkpoint_model import load_checkpoint
from driftline.outputs.logprobs import limits_of, tokenizer_of
from driftline.outputs.rollouts import Rollout, read_rollouts
from driftline.outputs.teacher_forcing import token_logprobs
from driftline.studies.measures import rollouts_of, spread, sums_run
from driftline.studies.record import STRATEGY, SUMS, Findings, StudyRecord
from driftline.writing.extrapolate import extrapolate

SEEDS = (0, 1, 2)
SHAPES = {SUMS: ((1e-5, 2e-5), 150, 10), STRATEGY: ((5e-6, 1e-5), 60, 4)}  # learning rates, steps, between checkpoints
LATE = (1 / 3, 1 / 2, 2 / 3)  # of the run
HORIZONS = (0.1, 0.25, 0.5, 1.0, 2.0)  # of the late step
_PROBLEMS, _SAMPLES = 256, 4
_CONTROL_SEED = 1234  # of other problems, since the best was chosen by its score
_TESTED = 4  # horizons of the test in log-probs
SAID = {
    "recommended_horizon": "the back-tests' horizon for two-point",
    "recommended_by_best_method": "that of their best method",
    "weight_skill": "two-point's skill in weights, tested from half way",
    "logprob_skill": "its skill in log-probs",
    "logprob_horizon": "the furthest horizon with skill in log-probs",
    "persistence": "the persistence length",
    "late": "the late step itself",
}


class HalfWay(Record):
    """What `tested_from_half_way` finds; None where no checkpoint lies between first and last."""

    weight_skill: Figure
    logprob_skill: Figure
    logprob_horizon: float | None


class WeightTarget(Record, kw_only=True):
    """Scores of forecasts from a late checkpoint, and what the run recommended before any evaluation."""

    run: str
    late: int
    held: float
    horizons: list[int]
    scores: list[float]
    held_greedy: float | UnsetType = UNSET
    greedy: list[float] | UnsetType = UNSET
    control: Control | UnsetType = UNSET  # of the best forecast beside the late checkpoint
    best_horizon: float
    best_score: float
    recommended_horizon: float
    recommended_by_best_method: float
    best_method: str
    persistence: Figure
    weight_skill: Figure
    logprob_skill: Figure
    logprob_horizon: float | None


class WeightTargetsRecord(StudyRecord, kw_only=True):
    rows: list[WeightTarget]
    findings: list[str]
    correlations: dict[str, Figure]
    seconds: float


RECORD = WeightTargetsRecord


def plan(quick: bool, task: str = SUMS) -> dict[str, LabRun]:
    rates, steps, save_every = SHAPES[task]
    if quick:
        shape = LabRun(task=task, steps=12, save_every=1, score_every=12, prompts_per_step=2, held_out_problems=16)
        return {"1e-05, seed 0": shape}
    return {
        f"{rate:g}, seed {seed}": LabRun(
            task=task, learning_rate=rate, seed=seed, steps=steps, save_every=save_every, score_every=steps
        )
        for seed in SEEDS
        for rate in rates
    }


def measure(runs: Mapping[str, Path], quick: bool) -> Findings:
    """A row for each run and late checkpoint: the scores by target, the best one, and what was recommended."""
    rows = []
    for name, folder in runs.items():
        trajectory = open_trajectory(folder)
        steps = np.array(trajectory.steps)
        lates = sorted({int(steps[np.abs(steps - share * steps[-1]).argmin()]) for share in LATE})
        file = rollouts_of(folder, folder.parent / f".{folder.name}.rollouts.jsonl", samples=1)
        rollouts = read_rollouts(file, tokenizer_of(trajectory), limits=limits_of(trajectory))
        with scratch_of(folder) as scratch:
            rows += [of_late(name, folder, trajectory, late, scratch, rollouts, quick) for late in lates]
    return Findings(rows, _findings(rows), {"correlations": correlations(rows)})


@contextmanager
def scratch_of(run: Path) -> Iterator[Path]:
    """A place beside a run for its forecasts, which are removed again, and what a stopped call left there first."""
    scratch = run.parent / f".{run.name}.forecasts"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def of_late(
    name: str,
    folder: Path,
    trajectory: Trajectory,
    late: int,
    scratch: Path,
    rollouts: Sequence[Rollout],
    quick: bool,
) -> WeightTarget:
    """Scores of the forecasts from step 0 and `late`, beside what the checkpoints up to `late` recommend."""
    from driftline.lab.scoring import Scores, accuracy_of_folder

    settings = sums_run(folder)
    seen = trajectory.only([step for step in trajectory.steps if step <= late])
    observed = observe(seen)
    tests = backtest(observed)
    kept = persistence(observed.total, observed.clock, observed.beta1) if tests.test else None
    count, samples = (16, 1) if quick else (_PROBLEMS, _SAMPLES)

    def score(model: Path) -> Scores:
        return accuracy_of_folder(model, count, settings.seed, samples=samples)

    horizons = sorted({max(round(late * horizon), 1) for horizon in HORIZONS})
    request = ForecastRequest(
        tuple(late + horizon for horizon in horizons), method="two-point", seen=(seen.steps[0], late)
    )
    extrapolate(seen, scratch, request, overwrite=True)
    models = [scratch if len(horizons) == 1 else scratch / f"checkpoint-{late + h}" for h in horizons]
    checkpoint = trajectory.checkpoints[trajectory.steps.index(late)].path
    held, found = score(checkpoint), [score(model) for model in models]
    scores = [one.sampled for one in found]
    best = int(np.argmax(scores))
    control = beside(models[best], checkpoint, open_task(settings.task, problems=count, seed=_CONTROL_SEED), samples)
    tested = tested_from_half_way(seen, observed.total, rollouts, scratch)
    return WeightTarget(
        run=name,
        late=late,
        held=held.sampled,
        horizons=horizons,
        scores=scores,
        held_greedy=held.greedy,
        greedy=[one.greedy for one in found],
        control=control,
        best_horizon=horizons[best] if scores[best] > held.sampled else 0,
        best_score=max(scores[best], held.sampled),
        recommended_horizon=tests.horizons["two-point"],
        recommended_by_best_method=tests.horizons[tests.best] if tests.best != "hold" else 0,
        best_method=tests.best,
        persistence=kept.length if kept else None,
        weight_skill=tested.weight_skill,
        logprob_skill=tested.logprob_skill,
        logprob_horizon=tested.logprob_horizon,
    )


def beside(forecast: Path, checkpoint: Path, task: Task, samples: int) -> Control:
    """A forecast beside the checkpoint that it started from: sampled alike, greedy, and as sure of its tokens."""
    from driftline.decoding.settings import GenerationSettings
    from driftline.evaluation.evaluate import evaluate

    settings = GenerationSettings(
        late=str(forecast), temperature=1.0, top_p=1.0, samples=samples, max_new_tokens=task.max_new_tokens
    )
    found = evaluate(
        task, forecast.with_name(f"{forecast.name}-score"), settings, beside=str(checkpoint), batch_size=256
    )
    found.work.remove()
    assert found.record.control
    return found.record.control


def tested_from_half_way(seen: Trajectory, gram: np.ndarray, rollouts: Sequence[Rollout], scratch: Path) -> HalfWay:
    """Skill of two-point from the checkpoint half way to the last, in weights and in log-probs.

    Args:
        gram: of the deltas from the first checkpoint, [T, T].

    Returns:
        `weight_skill` and `logprob_skill` for the last checkpoint, and `logprob_horizon`, the largest horizon up to it
        with a positive one in log-probs (0 if there is none); None where no checkpoint lies between first and last.
    """
    steps = np.array(seen.steps)
    middle = int(np.abs(steps - (steps[0] + steps[-1]) / 2).argmin())
    if middle in (0, steps.size - 1):
        return HalfWay(weight_skill=None, logprob_skill=None, logprob_horizon=None)
    rows = np.unique(np.linspace(middle + 1, steps.size - 1, _TESTED).round().astype(int))
    alpha = (steps[-1] - steps[0]) / (steps[middle] - steps[0])
    held = gram[middle, middle] - 2 * gram[middle, -1] + gram[-1, -1]
    missed = alpha**2 * gram[middle, middle] - 2 * alpha * gram[middle, -1] + gram[-1, -1]
    request = ForecastRequest(tuple(int(steps[row]) for row in rows), "two-point", (int(steps[0]), int(steps[middle])))
    extrapolate(seen.only([int(step) for step in steps[: middle + 1]]), scratch, request, overwrite=True)
    models = [scratch if len(rows) == 1 else scratch / f"checkpoint-{steps[row]}" for row in rows]
    before = token_logprobs(load_checkpoint(seen.checkpoints[middle]), rollouts)
    skills = []
    for row, model in zip(rows, models, strict=True):
        truth = token_logprobs(load_checkpoint(seen.checkpoints[row]), rollouts)
        error = token_logprobs(load_checkpoint(model), rollouts) - truth
        skills.append(float(1 - (error**2).sum() / ((before - truth) ** 2).sum()))
    able = [int(steps[row] - steps[middle]) for row, skill in zip(rows, skills, strict=True) if skill > 0]
    return HalfWay(
        weight_skill=float(1 - missed / held),
        logprob_skill=skills[-1],
        logprob_horizon=max(able, default=0),
    )


def correlations(rows: Sequence[WeightTarget]) -> dict[str, Figure]:
    """Spearman's rank correlation of the best horizon with each recommendation; None where one of them does not vary."""

    def ranks(values: Sequence[float]) -> np.ndarray:
        found = np.asarray(values, float)
        return np.array([(found < value).sum() + (found == value).sum() / 2 for value in found])

    result: dict[str, Figure] = {}
    for key in SAID:
        pairs = [(row.best_horizon, said) for row in rows if (said := row[key]) is not None]
        one, other = (ranks([pair[place] for pair in pairs]) for place in (0, 1))
        varies = len(pairs) > 2 and np.ptp(one) > 0 and np.ptp(other) > 0
        result[key] = float(np.corrcoef(one, other)[0, 1]) if varies else None
    return result


def _findings(rows: list[WeightTarget]) -> list[str]:
    gains = [row.best_score - row.held for row in rows]
    helped = sum(gain > 0 for gain in gains)
    found = [
        f"Over {len(rows)} late checkpoints, the best two-point target scores {spread(gains)} above the checkpoint itself; some "
        f"target is better in {helped}. It lies {spread([row.best_horizon / row.late for row in rows])} of the late step ahead."
    ]
    found += _beyond_sharpening([row.control for row in rows if row.control])
    said = ", ".join(
        f"{SAID[key]} {value:.2f}" if value is not None else f"{SAID[key]} unknown"
        for key, value in correlations(rows).items()
    )
    found.append(f"Rank correlation of the best horizon with what the run says before any evaluation: {said}.")
    short = sum(row.recommended_horizon < row.best_horizon for row in rows)
    found.append(
        f"The back-tests stop short of the best target in {short} of {len(rows)}, and go past it in "
        f"{sum(row.recommended_horizon > row.best_horizon for row in rows)}: skill in weights and accuracy are different targets."
    )
    return found


def _beyond_sharpening(controls: Sequence[Control]) -> list[str]:
    if not controls:
        return []
    greedy = [control.greedy for control in controls if control.greedy]
    return [
        f"On other problems the best forecast goes beyond sharpening in {sum(one.verdict == 'gain' for one in controls)} of "
        f"{len(controls)}: it scores {spread([one.gain.mean for one in controls])} above the late checkpoint, "
        f"{spread([one.beyond_sharpening.mean for one in controls])} above that at the temperature at which it is as sure, and "
        f"greedy {spread([one['forecast'] - one['late'] for one in greedy])} above it."
    ]
