"""`driftline extrapolate`: the model that the run is heading for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from driftline.commands.options import Clock, Memory, Output, Printing, Source, StoredDtype, Where

if TYPE_CHECKING:
    from driftline.forecast.choose import ChooseBy
    from driftline.forecast.request import ForecastRequest
    from driftline.writing.extrapolate import WrittenForecasts
    from driftline.writing.storage import Storage

Patterns = Annotated[tuple[str, ...], arg(metavar="PATTERN...")]
KEPT = ("*norm*", "*ln_*")


@dataclass(frozen=True, kw_only=True)
class ModelOutput(Output):
    """Where the model goes."""

    out: Annotated[Path, arg(metavar="MODEL")]
    """folder to write; several targets go to MODEL/checkpoint-STEP"""


@dataclass(frozen=True, kw_only=True)
class Extrapolate:
    """Write the model that the run is heading for: one streaming pass, loadable by from_pretrained."""

    source: Source
    output: ModelOutput
    to: Annotated[str | None, arg(metavar="STEP")] = None
    """step to forecast, a list 1200,1400, or FIRST:LAST:STRIDE"""
    method: str = "auto"
    """auto, two-point, least-squares, anchored, damped, blup, relex, mean, ema, hold, next, alpharl"""
    from_: Annotated[tuple[int, ...], arg(name="from", metavar="STEP...")] = ()
    """observed steps to use; two-point: early and late"""
    alpha: float | None = None
    """two-point: early + alpha (late - early), in place of --to; ExPO's is one less"""
    keep: Patterns = KEPT
    """tensors copied from the last checkpoint; none for none"""
    dtype: StoredDtype = "same"
    """of the model written"""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """stochastic: bfloat16 up or down by chance"""
    seed: int = 0
    """of stochastic rounding, and of next's networks"""
    shard_size: Annotated[str, arg(metavar="SIZE")] = "5GB"
    """largest file, such as 5GB"""
    per: Literal["tensor", "group", "run"] | None = None
    """fit to each tensor, each layer and module, or the run"""
    rank: int = 1
    """directions of relex"""
    clock: Clock = "step"
    """what lines are drawn against: step, or summed learning rate"""
    memory: Memory = Memory()
    analysis: Annotated[Path | None, arg(metavar="DIR")] = None
    """a result of driftline analyze of these steps: nothing is read twice, and its momentum counts"""
    rollouts: Annotated[Path | None, arg(metavar="FILE")] = None
    """auto: score forecasts by their log-probs of these responses"""
    interpolate: bool = False
    """allow targets among the observed steps"""
    reconstruct: bool = False
    """relex: the rank-r part of an observed step"""
    scores: Annotated[Path | None, arg(metavar="FILE")] = None
    """alpharl: JSON object of step to score"""
    target_score: float | None = None
    """alpharl: the score to reach"""
    where: Where = Where()
    printing: Printing = Printing()

    def forecast(self) -> ForecastRequest:
        """What to forecast."""
        from driftline.forecast.request import ForecastRequest, parse_targets

        return ForecastRequest(
            targets=parse_targets(self.to) if self.to is not None else (),
            method=self.method,
            seen=self.from_,
            alpha=self.alpha,
            per=self.per,
            rank=self.rank,
            clock=self.clock,
            analysis=self.analysis,
            beta1=self.memory.beta1,
            ema=self.memory.ema,
            reconstruct=self.reconstruct,
            interpolate=self.interpolate,
            scores=self.scores,
            target_score=self.target_score,
            rollouts=self.rollouts,
            seed=self.seed,
        )

    def storage(self) -> Storage:
        """How to store it."""
        from driftline.writing.storage import Storage, parse_size

        return Storage(
            keep=kept(self.keep),
            dtype=self.dtype,
            rounding=self.rounding,
            seed=self.seed,
            shard_bytes=parse_size(self.shard_size),
        )


def kept(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns that were given; `none` is none."""
    return () if patterns == ("none",) else patterns


def run(request: Extrapolate) -> WrittenForecasts:
    """Write the forecast models, each with its recipe, `driftline.json`, and a model card."""
    from driftline.progress import progress_bar
    from driftline.writing.extrapolate import extrapolate

    forecast, storage = request.forecast(), request.storage()
    trajectory = request.source.open(needed=2)
    with request.where.open() as engine:
        return extrapolate(
            trajectory,
            request.output.out,
            forecast,
            storage,
            choose_by=_by_rollouts(request, storage),
            overwrite=request.output.overwrite,
            engine=engine,
            progress=partial(progress_bar, quiet=request.printing.quiet),
        )


def show(written: WrittenForecasts, request: Extrapolate) -> None:
    from driftline import terminal

    terminal.forecast(written, request.output.out)


def _by_rollouts(request: Extrapolate, storage: Storage) -> ChooseBy | None:
    """How `auto` chooses by the log-probs of rollouts; forecasts that are tried lie beside the output for a while."""
    if request.rollouts is None:
        return None
    from driftline.outputs.function_space import choose  # what reads rollouts is slow to import

    return partial(choose, rollouts_file=request.rollouts, storage=storage, out=request.output.out)
