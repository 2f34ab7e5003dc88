"""Which forecast, or which checkpoint, scores best on a task? By successive halving.

Candidates are checkpoints of the run, and targets beyond the last one, as weights or as extrapolated logits
(`candidates`). All are scored on a few problems, the better half on twice as many, and so on to the last two, which see
every problem. The last checkpoint that is used is what they are compared with; it sees every problem too, as do
observed checkpoints that are scored for context. A candidate's samples of a problem are drawn once, whatever the round, and kept
beside the output until all is done, so that a stopped sweep goes on. What is made of the best says `choice`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from driftline._version import __version__
from driftline.checkpoints.identity import identity
from driftline.checkpoints.trajectory import Trajectory
from driftline.decoding.backends.endpoint import served
from driftline.decoding.backends.opening import must_be_positive
from driftline.decoding.settings import GenerationSettings, must_be_few
from driftline.engines import Engine, LocalEngine
from driftline.errors import InputError
from driftline.evaluation.candidates import (
    MODELS,
    Candidate,
    Running,
    Written,
    checkpoints,
    in_logits,
    in_weights,
    spread,
)
from driftline.evaluation.choice import choose
from driftline.evaluation.records import UNSET, ModelAtStep, Round, SweepRecord
from driftline.evaluation.samples import resumable
from driftline.evaluation.scores import ScoredCandidates, Scorer
from driftline.evaluation.tasks import Task
from driftline.evaluation.versions import versions
from driftline.files.record import write_record
from driftline.files.work import Work
from driftline.forecast.request import ForecastRequest
from driftline.progress import StartStage, no_progress

MARK = "sweep.json"
_FEWEST_PROBLEMS = 16  # of the first round


@dataclass(frozen=True)
class SweepResult:
    """What was found, and the work that holds the samples until it is written."""

    record: SweepRecord
    work: Work

    def write(self, folder: Path) -> None:
        """Write the record, and move the models that stay beside it; what made it is not needed any more."""
        write_record(folder / MARK, self.record)
        if (self.work.folder / MODELS).is_dir():
            os.rename(self.work.folder / MODELS, folder / MODELS)
        self.work.remove()


def sweep(
    trajectory: Trajectory,
    task: Task,
    out: Path,
    request: ForecastRequest,
    settings: GenerationSettings,
    *,
    tried: Sequence[int] = (),
    output_space: bool = False,
    keep_models: bool = False,
    observed: int = 4,
    batch_size: int | None = None,
    engine: Engine | None = None,
    progress: StartStage = no_progress,
    say: Callable[[str], None] = lambda sentence: None,
) -> SweepResult:
    """Score the targets of `request`, the checkpoints `tried`, and the last checkpoint that is used, their baseline.

    Args:
        out: where the result will be: beside it unfinished work is kept.
        request: targets, if any, method and the observed steps to use; with `output_space` the first and the last of
            these are early and late.
        tried: steps of the run whose checkpoints are candidates; the baseline among them is only compared with.
        keep_models: forecasts in weights stay, each in a folder of `models` in the result.
        settings: how models are sampled, and what runs them; the models that it names play no part.
        batch_size: completions decoded at once; None leaves it to the backend.
        observed: checkpoints of the run to score beside; the last one used is always among them, and candidates never.
        engine: where the models run; default one after another in this process.
        progress: called for each model with its name and its samples; returns what counts them.
        say: is told what disk is needed.

    Raises:
        InputError: the request or a model cannot be used, or the disk is too full.
    """
    must_be_positive(batch_size)
    must_be_few(len(task.problems), settings.samples)
    if observed < 1:
        raise InputError(f"--observed is {observed}: the last checkpoint is always scored, give 1 or more")
    started = time.monotonic()
    seen = _seen(trajectory, request)
    compared = _compared(trajectory, tried, seen[-1], request)
    alphas = {seen[0]: 0.0, seen[-1]: 1.0} if _served(settings, request, compared, output_space) else {}
    asked = {**identity(trajectory, (), kind="sweep", task=task.digest), "output_space": output_space}
    if compared:
        asked["checkpoints"] = compared
    asked |= served(settings.backend, (None,) if alphas else (*compared, seen[-1]))
    with resumable(out, {**asked, "settings": settings.record(), "request": repr(request)}) as work:
        how = Running(settings, batch_size)
        candidates, forecast = checkpoints(trajectory, compared, how), None
        if request.targets and output_space:
            forecasts, forecast = in_logits(trajectory, request, seen, how)
            candidates += forecasts
        elif request.targets:
            kept = out / MODELS if keep_models else None
            forecasts, forecast = in_weights(trajectory, request, how, work.folder, engine, kept, say)
            candidates += forecasts
        around = [step for step in spread(trajectory.steps, observed, seen[-1]) if step not in compared]
        if alphas:
            around = [step for step in around if step in alphas]
        beside = checkpoints(trajectory, around, how, alphas)
        problems = len(task.problems)
        scores = ScoredCandidates(Scorer(work.folder, task, settings), engine or LocalEngine(), progress)
        scores.score(beside, problems)
        rounds = schedule(len(candidates), problems)
        best, last = best_of(candidates, rounds, scores), next(c for c in beside if c.step == seen[-1])
        control = scores.control(best, last, len(candidates))
        choice, sentence = choose(scores.record(best), last.step, [c.kind for c in candidates], control)
        for candidate in candidates:
            if isinstance(candidate.source, Written):
                candidate.source.keep()  # of a sweep that went on, whose samples were there already
        told = settings.backend.record()
        record = SweepRecord(
            driftline=__version__,
            run=trajectory.name,
            steps=list(trajectory.steps),
            space="logits" if output_space else "weights",
            forecast=UNSET if forecast is None else forecast,
            early=_model(trajectory, seen[0]),
            late=_model(trajectory, seen[-1]),
            task=task.name,
            problems=problems,
            samples=settings.samples,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_new_tokens=settings.max_new_tokens,
            seed=settings.seed,
            backend=told.get("backend", UNSET),
            endpoint=told.get("endpoint", UNSET),
            rounds=rounds,
            candidates=[scores.record(c) for c in candidates],
            observed=[scores.record(c) for c in beside],
            best=choice,
            sentence=sentence,
            control=control,
            versions=versions(settings.backend.name),
            seconds=time.monotonic() - started,
        )
    return SweepResult(record, work)


def schedule(candidates: int, problems: int) -> list[Round]:
    """Rounds of successive halving, the last of which sees every problem."""
    counts = [candidates]
    while counts[-1] > 2:
        counts.append(math.ceil(counts[-1] / 2))
    fewest = min(_FEWEST_PROBLEMS, problems)
    return [
        Round(candidates=count, problems=max(problems >> later, fewest))
        for count, later in zip(counts, reversed(range(len(counts))), strict=True)
    ]


def best_of(candidates: Sequence[Candidate], rounds: Sequence[Round], scores: ScoredCandidates) -> Candidate:
    """The candidate that is left after all rounds; the first of several that score the same."""
    alive = list(candidates)
    for one in rounds:
        alive = alive[: one.candidates]
        scores.score(alive, one.problems)
        alive.sort(key=scores.mean, reverse=True)
    return alive[0]


def _seen(trajectory: Trajectory, request: ForecastRequest) -> list[int]:
    """The observed steps to use, ascending."""
    for step in request.seen:
        if step not in trajectory.steps:
            raise InputError(
                f"--from {step}: not in the run: choose among the steps {', '.join(map(str, trajectory.steps))}"
            )
    return sorted(request.seen) or list(trajectory.steps)


def _compared(trajectory: Trajectory, tried: Sequence[int], baseline: int, request: ForecastRequest) -> list[int]:
    """The steps whose checkpoints are candidates: those `tried` without the baseline."""
    compared = sorted(set(tried) - {baseline})
    if tried and not compared and not request.targets:
        raise InputError(
            f"--checkpoints names only step {baseline}, the last one used, with which the others are compared: name others "
            f"too, of {', '.join(map(str, trajectory.steps))}"
        )
    if not compared and not request.targets:
        raise InputError("nothing to score: give --to for forecasts, --checkpoints for checkpoints of the run, or both")
    return compared


def _served(
    settings: GenerationSettings, request: ForecastRequest, compared: Sequence[int], output_space: bool
) -> bool:
    """Whether a server of two checkpoints has what is scored, each at an alpha of its own.

    Raises:
        InputError: what a server cannot have, or not one server.
    """
    if settings.backend.name != "http" or not request.targets:
        return False
    if not output_space:
        raise InputError(
            "--backend http scores what a server has, and forecasts in weights are only here: use --backend vllm, or write "
            "them with driftline extrapolate and serve them"
        )
    if compared:
        raise InputError(
            "--output-space over --backend http is one server of two checkpoints, which has no others: leave --checkpoints to "
            "a sweep of its own, with {step} in --model"
        )
    return True


def _model(trajectory: Trajectory, step: int) -> ModelAtStep:
    return ModelAtStep(step=step, folder=str(trajectory.checkpoints[trajectory.steps.index(step)].model))
