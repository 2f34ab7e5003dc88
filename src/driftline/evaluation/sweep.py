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
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from driftline import models
from driftline._version import __version__
from driftline.checkpoints.identity import identity
from driftline.checkpoints.trajectory import Trajectory
from driftline.decoding.generate import Settings
from driftline.decoding.sampler import Sampler
from driftline.engines import Engine, LocalEngine
from driftline.errors import InputError
from driftline.evaluation.evaluate import Progress, compare_with_late, versions
from driftline.evaluation.samples import Samples, figures, kept, right
from driftline.evaluation.tasks import Task
from driftline.files.json import json_text
from driftline.files.lines import Row
from driftline.forecast.forecast import Forecast
from driftline.forecast.plan import make_plan
from driftline.forecast.request import ForecastRequest
from driftline.outputs.checkpoint_model import load_checkpoint
from driftline.outputs.logprobs import tokenizer_of
from driftline.writing.storage import Storage
from driftline.writing.write import write

Array = np.ndarray

MARK = "sweep.json"
OBSERVED = 4
_FEWEST_PROBLEMS = 16  # of the first round
_LEVEL = 0.05
_SCRATCH = ".forecast-"  # folders of forecasts that are being scored


class Source(Protocol):
    """How to have a model ready, here or on another machine."""

    def open(self) -> AbstractContextManager[Sampler]: ...


@dataclass(frozen=True)
class Candidate:
    """A model to score: its name, the step it stands for, and how to have it ready."""

    name: str
    step: int
    source: Source


def sweep(
    trajectory: Trajectory,
    task: Task,
    folder: Path,
    out: Path,
    request: ForecastRequest,
    settings: Settings,
    *,
    output_space: bool = False,
    observed: int = OBSERVED,
    batch_size: int = 16,
    engine: Engine | None = None,
    progress: Progress = lambda what, total: lambda rows: None,
) -> dict[str, Any]:
    """Score the targets of `request` and the observed checkpoints, and write `sweep.json`.

    Args:
        folder: where the result goes; out: beside what unfinished work is kept.
        request: targets, method and the observed steps to use; with `output_space` the first and the last of these
            are early and late.
        settings: how models are sampled; the models that it names play no part.
        observed: checkpoints of the run to score beside; the last one used is always among them.
        engine: where the models run; default one after another in this process.
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
            candidates, forecast = _in_weights(trajectory, request, settings.dtype, work, engine)
        beside = [
            Candidate(f"checkpoint of step {step}", step, _Saved(trajectory, step, settings.dtype))
            for step in _spread(trajectory.steps, observed, seen[-1])
        ]
        room = _Room(_Desk(work, task, settings, batch_size), engine or LocalEngine(), progress)
        room.score(beside, len(task.problems))
        rounds = schedule(len(candidates), len(task.problems))
        alive = candidates
        for count, problems in rounds:
            alive = alive[:count]
            room.score(alive, problems)
            alive = sorted(alive, key=lambda c: -room.shares(c).mean())
        best, last = alive[0], next(c for c in beside if c.step == seen[-1])
        control = room.control(best, last)
        record = {
            "driftline": __version__,
            "run": trajectory.name,
            "steps": list(trajectory.steps),
            "space": "logits" if output_space else "weights",
            "forecast": forecast,
            "early": _model(trajectory, seen[0]),
            "late": _model(trajectory, seen[-1]),
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


@dataclass(frozen=True)
class _Desk:
    """How samples are drawn, whichever machine draws them: those of each model into its own file of `work`."""

    work: Path
    task: Task
    settings: Settings
    batch_size: int

    def samples(self, name: str, settings: Settings | None = None) -> Samples:
        return Samples(self.work / f"{name}.jsonl", self.task, settings or self.settings)

    def score(self, asked: tuple[Candidate, int], advance: Callable[[int], None]) -> list[Row]:
        """Samples of the first so many problems by a candidate."""
        candidate, problems = asked
        with candidate.source.open() as sampler:
            return self.samples(candidate.name).draw(sampler, problems, batch_size=self.batch_size, advance=advance)

    def control(self, asked: tuple[Candidate, Candidate, list[Row]], advance: Callable[[int], None]) -> dict[str, Any]:
        """The best forecast beside the late model, whose samples are drawn already."""
        best, late, rows = asked

        def draw(arm: str, sampler: Sampler, settings: Settings) -> list[Row]:
            samples = self.samples(late.name if arm == "late" else arm, settings)
            return samples.draw(sampler, len(self.task.problems), batch_size=self.batch_size, advance=advance)

        with best.source.open() as forecast, late.source.open() as last:
            return compare_with_late(draw, f"the {best.name}", forecast, last, rows, self.task, self.settings)[1]

    def missing_controls(self) -> int:
        """Samples that `control` has still to draw."""
        if self.settings.temperature == 0:
            return 0
        greedy = replace(self.settings, temperature=0.0, samples=1)
        arms = {"late-matched": self.settings, "forecast-greedy": greedy, "late-greedy": greedy}
        return sum(self.samples(arm, settings).missing(len(self.task.problems)) for arm, settings in arms.items())


class _Room:
    """The samples of every model of one sweep."""

    def __init__(self, desk: _Desk, engine: Engine, progress: Progress) -> None:
        self.desk, self.engine, self.progress = desk, engine, progress
        self.rows: dict[str, list[Row]] = {}

    def score(self, candidates: Sequence[Candidate], problems: int) -> None:
        """Have their samples of the first `problems`; a model is opened only if some of its are missing."""
        missing = {c.name: self.desk.samples(c.name).missing(problems) for c in candidates}
        asked = [(c, problems) for c in candidates if missing[c.name]]
        for c in candidates:
            if not missing[c.name]:
                self.rows[c.name] = self.desk.samples(c.name).rows(problems)
        drawn = self.engine.map_models(
            self.desk.score, asked, lambda item: self.progress(item[0].name, missing[item[0].name])
        )
        for (candidate, _), rows in drawn:
            self.rows[candidate.name] = rows

    def control(self, best: Candidate, late: Candidate) -> dict[str, Any]:
        """The best forecast beside the late model, whose samples are drawn already."""
        total = self.desk.missing_controls()
        asked = [(best, late, self.rows[best.name])]
        ((_, record),) = self.engine.map_models(self.desk.control, asked, lambda _: self.progress("controls", total))
        return record

    def shares(self, candidate: Candidate) -> Array:
        """Share of right samples of each problem [P]."""
        return right(self.rows[candidate.name], self.desk.settings.samples).mean(1)

    def record(self, candidate: Candidate) -> dict[str, Any]:
        rows, samples = self.rows[candidate.name], self.desk.settings.samples
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


@dataclass(frozen=True)
class _Saved:
    """A checkpoint of the run."""

    trajectory: Trajectory
    step: int
    dtype: str

    def open(self) -> AbstractContextManager[Sampler]:
        model = load_checkpoint(self.trajectory.checkpoints[self.trajectory.steps.index(self.step)], dtype=self.dtype)
        return nullcontext(Sampler(model, tokenizer_of(self.trajectory)))


@dataclass(frozen=True)
class _Written:
    """Forecast weights, written into `scratch` when they are wanted and deleted after."""

    trajectory: Trajectory
    plan: Trajectory
    forecast: Forecast
    scratch: Path
    dtype: str

    @contextmanager
    def open(self) -> Iterator[Sampler]:
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self.scratch))
        try:
            write(self.plan, {folder: self.forecast}, Storage())
            yield Sampler(models.load_model(folder, dtype=self.dtype), tokenizer_of(self.trajectory))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Pair:
    """Two checkpoints, both of which stay loaded where they are once opened."""

    def __init__(self, trajectory: Trajectory, early: int, late: int, dtype: str) -> None:
        self.trajectory, self.early, self.late, self.dtype = trajectory, early, late, dtype

    @cached_property
    def loaded(self) -> tuple[Any, Any, Any]:
        found = [self.trajectory.checkpoints[self.trajectory.steps.index(step)] for step in (self.late, self.early)]
        return (*(load_checkpoint(checkpoint, dtype=self.dtype) for checkpoint in found), tokenizer_of(self.trajectory))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "loaded"}  # models stay where they are


@dataclass(frozen=True)
class _Logits:
    """Extrapolated logits of a pair."""

    pair: _Pair
    target: int

    def open(self) -> AbstractContextManager[Sampler]:
        last, first, tokenizer = self.pair.loaded
        alpha = (self.target - self.pair.early) / (self.pair.late - self.pair.early)
        return nullcontext(Sampler(last, tokenizer, early=first, alpha=alpha))


def _in_weights(
    trajectory: Trajectory, request: ForecastRequest, dtype: str, scratch: Path, engine: Engine | None
) -> tuple[list[Candidate], str]:
    """Forecast weights, and how they are made, in words."""
    for left in scratch.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)  # of a sweep that was killed
    plan = make_plan(trajectory, request, engine=engine)
    tokenizer_of(trajectory)  # refuses a run without one before anything is scored
    candidates = [
        Candidate(f"forecast of step {target}", target, _Written(trajectory, plan.trajectory, forecast, scratch, dtype))
        for target, forecast in zip(request.targets, plan.forecasts, strict=True)
    ]
    return candidates, plan.sentence


def _in_logits(trajectory: Trajectory, request: ForecastRequest, seen: Sequence[int], dtype: str) -> list[Candidate]:
    """Extrapolated logits of the first and the last of the steps `seen`."""
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
    pair = _Pair(trajectory, early, late, dtype)
    return [Candidate(f"logits at step {target}", target, _Logits(pair, target)) for target in request.targets]


def _model(trajectory: Trajectory, step: int) -> dict[str, Any]:
    """A step and the folder of its model, for commands that take one."""
    return {"step": step, "folder": str(trajectory.checkpoints[trajectory.steps.index(step)].model)}


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
    surer = not better and gain["mean"] > 0 and corrected < _LEVEL
    if better:
        sentence = f"Use the forecast of step {best}: it scores {scores} ({told}), and the gain goes beyond sharpening."
    elif surer:
        sentence = (
            f"Keep step {last}, at temperature {matched['temperature']:.3g}, where it scores {matched['avg@k']:.3f}: the best "
            f"forecast, of step {best}, scores {scores} ({told}), but what it gains beyond being that sure is not told from chance."
        )
    else:
        sentence = f"Keep step {last}: the best forecast, of step {best}, scores {scores}, which is not told from chance or worse ({told})."
    chosen = {"step": best, "baseline": last, "better": better, "surer": surer, "difference": gain}
    return {"best": chosen | {"p_value_corrected": corrected}, "sentence": sentence}
