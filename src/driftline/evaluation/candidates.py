"""The models that a sweep scores: forecasts in weights or in logits, and checkpoints of the run.

Forecast weights are written when they are wanted: to a scratch folder and deleted after, or to stay.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from driftline.evaluation.disk import make_sure
from driftline.evaluation.records import Kind
from driftline.files.output import clear_leftovers, output_folder
from driftline.forecast.forecast import Forecast
from driftline.forecast.plan import make_plan
from driftline.forecast.request import ForecastRequest
from driftline.outputs.checkpoint_model import load_checkpoint
from driftline.outputs.logprobs import tokenizer_of
from driftline.writing.record import MARK
from driftline.writing.storage import Storage
from driftline.writing.write import write

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SCRATCH = ".forecast-"  # folders of forecasts that are being scored
_STORAGE = Storage()
MODELS = "models"  # the folder of forecasts that stay


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
    def served(self) -> bool:
        return self.settings.backend.name == "http"

    def endpoint(
        self, sources: Callable[[], Sampler], *, step: int | None = None, alpha: float | None = None
    ) -> AbstractContextManager[Decoder]:
        """What a server runs: its model of that step, or at alpha its two; `sources` loads the same here."""
        from driftline.decoding.backends.endpoint import Endpoint

        return Endpoint(
            self.settings.backend,
            step=step,
            alpha=alpha,
            sources=lambda: nullcontext(sources()),
            batch_size=self.batch_size,
        )

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
    """A model to score: its name, the step it stands for, how to have it ready, and the folder that it is in at the end."""

    name: str
    step: int
    source: ModelSource
    kind: Kind
    folder: Path | None = None


def in_weights(
    trajectory: Trajectory,
    request: ForecastRequest,
    how: Running,
    scratch: Path,
    engine: Engine | None,
    kept: Path | None,
    say: Callable[[str], None],
) -> tuple[list[Candidate], str]:
    """Forecast weights, and how they are made, in words.

    Args:
        scratch: where weights go that are being scored, those that stay into `MODELS` there.
        kept: the folder that these are moved to when all is done; None if none stays.
        say: is told what disk they need.

    Raises:
        InputError: the request or the run cannot be used, or the disk has less free than they need.
    """
    for left in scratch.glob(f"{_SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)  # of a sweep that was killed
    if kept is None:
        shutil.rmtree(scratch / MODELS, ignore_errors=True)  # of one whose models were to stay
    plan = make_plan(trajectory, request, engine=engine)
    tokenizer_of(trajectory)  # refuses a run without one before anything is scored
    candidates, missing = [], 0
    for target, forecast in zip(request.targets, plan.forecasts, strict=True):
        written = scratch / MODELS / f"step-{target}"
        clear_leftovers(written)
        missing += not written.is_dir()
        source = Written(trajectory, plan.trajectory, forecast, scratch, how, None if kept is None else written)
        folder = None if kept is None else kept / written.name
        candidates.append(Candidate(f"forecast of step {target}", target, source, "forecast", folder))
    make_sure(plan.trajectory, _STORAGE, scratch, None if kept is None else missing, engine, say)
    return candidates, plan.sentence


def in_logits(
    trajectory: Trajectory, request: ForecastRequest, seen: Sequence[int], how: Running
) -> tuple[list[Candidate], str]:
    """Extrapolated logits of the first and the last of the steps `seen`, and which these are, in words."""
    early, late = seen[0], seen[-1]
    if early == late:
        raise InputError(f"{trajectory.name}: one checkpoint (step {late}) makes no line: give two with --from")
    for target in request.targets:
        if target <= late:
            raise InputError(f"--to {target} is not beyond the late checkpoint, step {late}: give a later one")
    pair = _Pair(trajectory, early, late, how)
    candidates = [
        Candidate(f"logits at step {target}", target, _Logits(pair, target), "forecast") for target in request.targets
    ]
    return candidates, f"logits of steps {early} and {late}"


def checkpoints(
    trajectory: Trajectory, steps: Sequence[int], how: Running, alphas: Mapping[int, float] | None = None
) -> list[Candidate]:
    """Checkpoints of the run; `alphas` at which a server of two checkpoints is each of them, where it is."""
    alphas = alphas or {}
    folders = {step: one.model for step, one in zip(trajectory.steps, trajectory.checkpoints, strict=True)}
    return [
        Candidate(
            f"checkpoint of step {step}",
            step,
            _Saved(trajectory, step, how, alphas.get(step)),
            "checkpoint",
            folders[step],
        )
        for step in steps
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
    """A checkpoint of the run; on a server of two checkpoints, the one that it is at `alpha`."""

    trajectory: Trajectory
    step: int
    how: Running
    alpha: float | None = None

    def open(self) -> AbstractContextManager[Decoder]:
        if self.how.served:
            step = self.step if self.alpha is None else None
            return self.how.endpoint(self._loaded, step=step, alpha=self.alpha)
        return nullcontext(self.how.decoder(self._checkpoint, tokenizer_of(self.trajectory)))

    @property
    def _checkpoint(self) -> Checkpoint:
        return self.trajectory.checkpoints[self.trajectory.steps.index(self.step)]

    def _loaded(self) -> Sampler:
        return Sampler(load_checkpoint(self._checkpoint, dtype=self.how.dtype), tokenizer_of(self.trajectory))


@dataclass(frozen=True)
class Written:
    """Forecast weights, written when they are wanted: into `scratch` and deleted after, or into `kept`, to stay."""

    trajectory: Trajectory
    plan: Trajectory
    forecast: Forecast
    scratch: Path
    how: Running
    kept: Path | None

    @contextmanager
    def open(self) -> Iterator[Decoder]:
        with self._written() as folder:
            yield self.how.decoder(folder, tokenizer_of(self.trajectory))

    @contextmanager
    def _written(self) -> Iterator[Path]:
        if self.kept is not None:
            self.keep()
            yield self.kept
            return
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self.scratch))
        try:
            write(self.plan, {folder: self.forecast}, _STORAGE)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self) -> None:
        """Have the model where it stays, if it does: written whole or not at all, so what is there is complete."""
        if self.kept is not None and not self.kept.is_dir():
            with output_folder(self.kept, mark=MARK) as partial:
                write(self.plan, {partial: self.forecast}, _STORAGE)


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
        if how.served:
            return how.endpoint(lambda: self._loaded(alpha), alpha=alpha)
        return nullcontext(how.embedded(self._loaded(alpha)))

    def _loaded(self, alpha: float) -> Sampler:
        last, first, tokenizer = self.pair.loaded
        return Sampler(last, tokenizer, early=first, alpha=alpha)
