"""The models that a sweep scores: forecasts in weights or in logits, and checkpoints of the run.

Forecast weights are written to a scratch folder when they are wanted, and deleted after.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.trajectory import Trajectory
from driftline.decoding.backends.decoder import Decoder
from driftline.decoding.backends.embedded import BATCH_SIZE, Embedded
from driftline.decoding.sampler import Sampler
from driftline.decoding.settings import GenerationSettings
from driftline.engines import Engine
from driftline.errors import InputError
from driftline.forecast.forecast import Forecast
from driftline.forecast.plan import make_plan
from driftline.forecast.request import ForecastRequest
from driftline.outputs.checkpoint_model import load_checkpoint
from driftline.outputs.logprobs import tokenizer_of
from driftline.writing.storage import Storage
from driftline.writing.write import write

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SCRATCH = ".forecast-"  # folders of forecasts that are being scored


class ModelSource(Protocol):
    """How to have a model ready, here or on another machine."""

    def open(self) -> AbstractContextManager[Decoder]: ...


@dataclass(frozen=True)
class Running:
    """How models are run: dtype and backend of `settings`, and how many completions at once."""

    settings: GenerationSettings
    batch_size: int | None

    @property
    def dtype(self) -> str:
        return self.settings.dtype

    def decoder(self, model: Checkpoint | Path, tokenizer: PreTrainedTokenizerBase) -> Decoder:
        """One model, which the backend that is asked for runs."""
        if self.on_vllm:
            return self.vllm(model, tokenizer)
        return self.embedded(Sampler(load_checkpoint(model, dtype=self.dtype), tokenizer))

    @property
    def on_vllm(self) -> bool:
        return self.settings.backend.name == "vllm"

    def embedded(self, sampler: Sampler) -> Decoder:
        return Embedded(sampler, self.batch_size or BATCH_SIZE)

    def vllm(self, late: Checkpoint | Path, tokenizer: PreTrainedTokenizerBase, **pair: Any) -> Decoder:
        """The same by vLLM's engine; `pair` are early and alpha of two."""
        from driftline.decoding.backends.vllm_opening import decoder_of

        return decoder_of(late, tokenizer, dtype=self.dtype, batch_size=self.batch_size, **pair)


@dataclass(frozen=True)
class Candidate:
    """A model to score: its name, the step it stands for, and how to have it ready."""

    name: str
    step: int
    source: ModelSource


def in_weights(
    trajectory: Trajectory, request: ForecastRequest, how: Running, scratch: Path, engine: Engine | None
) -> tuple[list[Candidate], str]:
    """Forecast weights, and how they are made, in words.

    Args:
        scratch: where weights go that are being scored.
    """
    for left in scratch.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)  # of a sweep that was killed
    plan = make_plan(trajectory, request, engine=engine)
    tokenizer_of(trajectory)  # refuses a run without one before anything is scored
    candidates = [
        Candidate(f"forecast of step {target}", target, _Written(trajectory, plan.trajectory, forecast, scratch, how))
        for target, forecast in zip(request.targets, plan.forecasts, strict=True)
    ]
    return candidates, plan.sentence


def in_logits(
    trajectory: Trajectory, request: ForecastRequest, seen: Sequence[int], how: Running
) -> tuple[list[Candidate], str]:
    """Extrapolated logits of the first and the last of the steps `seen`, and which these are, in words."""
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
    pair = _Pair(trajectory, early, late, how)
    candidates = [Candidate(f"logits at step {target}", target, _Logits(pair, target)) for target in request.targets]
    return candidates, f"logits of steps {early} and {late}"


def checkpoints(trajectory: Trajectory, count: int, always: int, how: Running) -> list[Candidate]:
    """About `count` checkpoints spread over the run, that of step `always` among them."""
    return [
        Candidate(f"checkpoint of step {step}", step, _Saved(trajectory, step, how))
        for step in spread(trajectory.steps, count, always)
    ]


def spread(steps: Sequence[int], count: int, always: int) -> list[int]:
    """About `count` steps spread evenly over the run, `always` among them."""
    places = np.linspace(0, len(steps) - 1, max(count, 2)).round().astype(int)[-count:]
    chosen = {steps[place] for place in places}
    if always not in chosen:
        nearest = min(chosen, key=lambda step: abs(step - always))
        chosen = (chosen - {nearest}) | {always}
    return sorted(chosen)


@dataclass(frozen=True)
class _Saved:
    """A checkpoint of the run."""

    trajectory: Trajectory
    step: int
    how: Running

    def open(self) -> AbstractContextManager[Decoder]:
        checkpoint = self.trajectory.checkpoints[self.trajectory.steps.index(self.step)]
        return nullcontext(self.how.decoder(checkpoint, tokenizer_of(self.trajectory)))


@dataclass(frozen=True)
class _Written:
    """Forecast weights, written into `scratch` when they are wanted and deleted after."""

    trajectory: Trajectory
    plan: Trajectory
    forecast: Forecast
    scratch: Path
    how: Running

    @contextmanager
    def open(self) -> Iterator[Decoder]:
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self.scratch))
        try:
            write(self.plan, {folder: self.forecast}, Storage())
            yield self.how.decoder(folder, tokenizer_of(self.trajectory))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Pair:
    """Two checkpoints, both of which stay loaded where they are once opened."""

    def __init__(self, trajectory: Trajectory, early: int, late: int, how: Running) -> None:
        self.trajectory, self.early, self.late, self.how = trajectory, early, late, how

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Late and early."""
        return [self.trajectory.checkpoints[self.trajectory.steps.index(step)] for step in (self.late, self.early)]

    @cached_property
    def loaded(self) -> tuple[Any, Any, Any]:
        return (
            *(load_checkpoint(checkpoint, dtype=self.how.dtype) for checkpoint in self.checkpoints),
            tokenizer_of(self.trajectory),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "loaded"}  # models stay where they are


@dataclass(frozen=True)
class _Logits:
    """Extrapolated logits of a pair."""

    pair: _Pair
    target: int

    def open(self) -> AbstractContextManager[Decoder]:
        pair, how = self.pair, self.pair.how
        alpha = (self.target - pair.early) / (pair.late - pair.early)
        if how.on_vllm:
            late, early = pair.checkpoints
            return nullcontext(how.vllm(late, tokenizer_of(pair.trajectory), early=early, alpha=alpha))
        last, first, tokenizer = pair.loaded
        return nullcontext(how.embedded(Sampler(last, tokenizer, early=first, alpha=alpha)))
