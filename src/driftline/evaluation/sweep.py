"""`driftline sweep`: which forecast scores best on a task, by successive halving.

Candidates are targets beyond the last checkpoint, as weights (each written to a scratch folder and deleted) or
as extrapolated logits. All are scored on a few problems, the better half on twice as many, and so on to the
last two, which see every problem; observed checkpoints see every problem too. A candidate's samples of a problem
are drawn once, whatever the round, and kept beside the output until all is done, so that a stopped sweep goes on.

The best of many is flattered by the choice. So it is recommended over the last checkpoint only if the paired
difference holds at the 5 % level after multiplying its p-value by the number of candidates (Bonferroni), and if
it goes beyond what sampling that checkpoint at a lower temperature gives (`sharpening`).
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from driftline import models
from driftline._version import __version__
from driftline.checkpoints.trajectory import Trajectory
from driftline.checkpoints.writer import json_text
from driftline.decoding.generate import Settings
from driftline.decoding.sampler import Sampler
from driftline.errors import InputError
from driftline.evaluation.evaluate import Progress, compare_with_late, versions
from driftline.evaluation.samples import Row, Samples, figures, kept, right
from driftline.evaluation.tasks import Task
from driftline.forecast.extrapolate import Request, make_plan
from driftline.forecast.write import Settings as Storage
from driftline.forecast.write import write
from driftline.linearity.outputs.checkpoint_model import load_checkpoint
from driftline.linearity.outputs.logprobs import tokenizer_of
from driftline.linearity.outputs.work import identity

Array = np.ndarray

MARK = "sweep.json"
OBSERVED = 4
_FEWEST_PROBLEMS = 16  # of the first round
_LEVEL = 0.05


@dataclass(frozen=True)
class Candidate:
    """A model to score: its name, the step it stands for, and how to have it ready."""

    name: str
    step: int
    open: Callable[[], AbstractContextManager[Sampler]]


def sweep(
    trajectory: Trajectory,
    task: Task,
    folder: Path,
    out: Path,
    request: Request,
    settings: Settings,
    *,
    output_space: bool = False,
    observed: int = OBSERVED,
    batch_size: int = 16,
    progress: Progress = lambda what, total: lambda rows: None,
) -> dict[str, Any]:
    """Score the targets of `request` and the observed checkpoints, and write `sweep.json`.

    Args:
        folder: where the result goes; out: beside what unfinished work is kept.
        request: targets, method and the observed steps to use; with `output_space` the first and the last of these
            are early and late.
        settings: how models are sampled; the models that it names play no part.
        observed: checkpoints of the run to score beside; the last one used is always among them.
        progress: called for each model with its name and its samples; returns what counts them.

    Returns:
        The contents of `sweep.json`.

    Raises:
        InputError: the request or a model cannot be used.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}: it must be at least 1")
    if observed < 1:
        raise InputError(f"--observed is {observed}: the last checkpoint is always scored, give 1 or more")
    started = time.monotonic()
    asked = {**identity(trajectory, (), kind="sweep", task=task.digest), "output_space": output_space}
    with kept(out, {**asked, "settings": asdict(settings), "request": repr(request)}) as work:
        seen = sorted(request.seen) or list(trajectory.steps)
        if output_space:
            candidates = _in_logits(trajectory, request, seen, settings.dtype)
            forecast = f"logits of steps {seen[0]} and {seen[-1]}"
        else:
            candidates, forecast = _in_weights(trajectory, request, settings.dtype, work)
        beside = [
            _checkpoint(trajectory, step, settings.dtype) for step in _spread(trajectory.steps, observed, seen[-1])
        ]
        room = _Room(work, task, settings, batch_size, progress)
        for checkpoint in beside:
            room.score(checkpoint, len(task.problems))
        rounds = schedule(len(candidates), len(task.problems))
        alive = candidates
        for count, problems in rounds:
            alive = alive[:count]
            for candidate in alive:
                room.score(candidate, problems)
            alive = sorted(alive, key=lambda c: -room.shares(c).mean())
        best, last = alive[0], next(c for c in beside if c.step == seen[-1])
        control = room.control(best, last)
        record = {
            "driftline": __version__,
            "run": trajectory.name,
            "steps": list(trajectory.steps),
            "space": "logits" if output_space else "weights",
            "forecast": forecast,
            "task": task.name,
            "problems": len(task.problems),
            "samples": settings.samples,
            **{name: getattr(settings, name) for name in ("temperature", "top_p", "top_k", "max_new_tokens", "seed")},
            "rounds": [{"candidates": count, "problems": problems} for count, problems in rounds],
            "candidates": [room.record(c) for c in candidates],
            "observed": [room.record(c) for c in beside],
            **_choice(best.step, last.step, len(candidates), control, float(room.shares(best).mean())),
            "control": control,
            "versions": versions(),
            "seconds": time.monotonic() - started,
        }
        (folder / MARK).write_text(json_text(record))
    return record


class _Room:
    """The samples of every model of one sweep, each in its own file of `work`."""

    def __init__(self, work: Path, task: Task, settings: Settings, batch_size: int, progress: Progress) -> None:
        self.work, self.task, self.settings = work, task, settings
        self.batch_size, self.progress = batch_size, progress
        self.rows: dict[str, list[Row]] = {}

    def score(self, candidate: Candidate, problems: int) -> None:
        """Have the candidate's samples of the first `problems`; its model is opened only if some are missing."""
        samples = Samples(self.work / f"{candidate.name}.jsonl", self.task, self.settings)
        if samples.missing(problems):
            with candidate.open() as sampler:
                self.rows[candidate.name] = self._draw(candidate.name, samples, sampler, problems)
        else:
            self.rows[candidate.name] = samples.rows(problems)

    def control(self, best: Candidate, late: Candidate) -> dict[str, Any]:
        """The best forecast beside the late model, whose samples are drawn already."""

        def draw(arm: str, sampler: Sampler, settings: Settings) -> list[Row]:
            name = late.name if arm == "late" else arm
            samples = Samples(self.work / f"{name}.jsonl", self.task, settings)
            return self._draw(name, samples, sampler, len(self.task.problems))

        rows = self.rows[best.name]
        with best.open() as forecast, late.open() as last:
            return compare_with_late(draw, f"the {best.name}", forecast, last, rows, self.task, self.settings)[1]

    def _draw(self, name: str, samples: Samples, sampler: Sampler, problems: int) -> list[Row]:
        advance = self.progress(name, samples.missing(problems))
        return samples.draw(sampler, problems, batch_size=self.batch_size, advance=advance)

    def shares(self, candidate: Candidate) -> Array:
        """Share of right samples of each problem [P]."""
        return right(self.rows[candidate.name], self.settings.samples).mean(1)

    def record(self, candidate: Candidate) -> dict[str, Any]:
        rows, samples = self.rows[candidate.name], self.settings.samples
        return {"step": candidate.step, "problems": len(rows) // samples, **figures(rows, samples)}


def schedule(candidates: int, problems: int) -> list[tuple[int, int]]:
    """Rounds of successive halving: how many candidates are in it, and how many problems each has seen by its end."""
    counts = [candidates]
    while counts[-1] > 2:
        counts.append(math.ceil(counts[-1] / 2))
    fewest = min(_FEWEST_PROBLEMS, problems)
    return [
        (count, max(problems >> later, fewest))
        for count, later in zip(counts, reversed(range(len(counts))), strict=True)
    ]


def _in_weights(trajectory: Trajectory, request: Request, dtype: str, scratch: Path) -> tuple[list[Candidate], str]:
    """Forecast weights, each written when it is wanted and deleted after; and how they are made, in words."""
    storage = Storage()
    plan = make_plan(trajectory, request, storage, scratch)
    tokenizer = tokenizer_of(trajectory)
    folder = scratch / "forecast"

    @contextmanager
    def written(place: int) -> Iterator[Sampler]:
        shutil.rmtree(folder, ignore_errors=True)  # of a sweep that was killed
        folder.mkdir()
        try:
            write(plan.trajectory, [replace(plan.forecasts[place], folder=folder)], storage)
            yield Sampler(models.load_model(folder, dtype=dtype), tokenizer)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    candidates = [
        Candidate(f"forecast of step {target}", target, partial(written, place))
        for place, target in enumerate(request.targets)
    ]
    return candidates, plan.sentence


def _in_logits(trajectory: Trajectory, request: Request, seen: Sequence[int], dtype: str) -> list[Candidate]:
    """Extrapolated logits of the first and the last of the steps `seen`; both models stay loaded."""
    early, late = seen[0], seen[-1]
    if early == late:
        raise InputError(f"{trajectory.name}: one checkpoint (step {late}) makes no line: give two with --from")
    for step in seen:
        if step not in trajectory.steps:
            raise InputError(
                f"--from {step}: not in the run: choose among the steps {', '.join(map(str, trajectory.steps))}"
            )
    for target in request.targets:
        if target <= late:
            raise InputError(f"--to {target} is not beyond the late checkpoint, step {late}: give a later one")

    @cache
    def loaded() -> tuple[Any, Any, Any]:
        found = [trajectory.checkpoints[trajectory.steps.index(step)] for step in (late, early)]
        return (*(load_checkpoint(checkpoint, dtype=dtype) for checkpoint in found), tokenizer_of(trajectory))

    def sampler(target: int) -> AbstractContextManager[Sampler]:
        last, first, tokenizer = loaded()
        return nullcontext(Sampler(last, tokenizer, early=first, alpha=(target - early) / (late - early)))

    return [Candidate(f"logits at step {target}", target, partial(sampler, target)) for target in request.targets]


def _checkpoint(trajectory: Trajectory, step: int, dtype: str) -> Candidate:
    def opened() -> AbstractContextManager[Sampler]:
        model = load_checkpoint(trajectory.checkpoints[trajectory.steps.index(step)], dtype=dtype)
        return nullcontext(Sampler(model, tokenizer_of(trajectory)))

    return Candidate(f"checkpoint of step {step}", step, opened)


def _spread(steps: Sequence[int], count: int, always: int) -> list[int]:
    """About `count` steps spread evenly over the run, `always` among them."""
    places = np.linspace(0, len(steps) - 1, max(count, 2)).round().astype(int)[-count:]
    chosen = {steps[place] for place in places}
    if always not in chosen:
        nearest = min(chosen, key=lambda step: abs(step - always))
        chosen = (chosen - {nearest}) | {always}
    return sorted(chosen)


def _choice(best: int, last: int, tried: int, control: dict[str, Any], score: float) -> dict[str, Any]:
    """Whether the forecast of step `best`, of that score, is worth taking over the checkpoint of step `last`."""
    gain, late, matched = control["gain"], control["late"], control["late_matched"]
    corrected = min(gain["p_value"] * tried, 1.0)
    scores = f"{score:.3f} against {late['avg@k']:.3f} of the checkpoint of step {last}"
    told = f"p = {corrected:.2g} after counting {tried} target{'s' * (tried > 1)} tried"
    better = control["verdict"] == "gain" and corrected < _LEVEL
    if better:
        sentence = f"Use the forecast of step {best}: it scores {scores} ({told}), and the gain goes beyond sharpening."
    elif gain["mean"] > 0 and corrected < _LEVEL:
        sentence = (
            f"Keep step {last}, at temperature {matched['temperature']:.3g}, where it scores {matched['avg@k']:.3f}: the best "
            f"forecast, of step {best}, scores {scores} ({told}), but what it gains beyond being that sure is not told from chance."
        )
    else:
        sentence = f"Keep step {last}: the best forecast, of step {best}, scores {scores}, which is not told from chance or worse ({told})."
    chosen = {"step": best, "baseline": last, "better": better, "difference": gain, "p_value_corrected": corrected}
    return {"best": chosen, "sentence": sentence}
