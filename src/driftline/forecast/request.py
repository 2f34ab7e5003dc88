"""What is asked of a forecast: its targets and its method, and which of them contradict each other."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from driftline.checkpoints.discovery import STEP, STRIDE
from driftline.checkpoints.momentum import refuse_impossible
from driftline.checkpoints.reasons import remedy
from driftline.checkpoints.trajectory import Trajectory
from driftline.errors import InputError
from driftline.forecast.observations import PER

_MOST_TARGETS = 1000  # each is a model


@dataclass(frozen=True)
class ForecastRequest:
    """What to forecast.

    Attributes:
        targets: steps to forecast.
        method: `auto`, or the name of one.
        seen: the observed steps to use; all when empty.
        alpha: two-point's early + alpha (late - early), in place of targets.
        per: fit for each `tensor`, `group` (layer and module) or for the `run`; the method's own when None.
        rank: of `relex`.
        clock: `step` or `lr`.
        analysis: a result of `driftline analyze`, so that no weight is read to fit.
        beta1, ema: the optimizer's momentum and the decay of averaged weights; None for what the analysis, or the run's
            files, say.
        reconstruct: rebuild observed steps from their rank-r part (`relex`).
        interpolate: allow targets among the observed steps.
        scores, target_score: of `alpharl`: score of each step, and the score to reach.
        rollouts: of `auto`: fixed responses by whose log-probs forecasts are scored.
        seed: of the networks of `next`.
    """

    targets: tuple[int, ...] = ()
    method: str = "auto"
    seen: tuple[int, ...] = ()
    alpha: float | None = None
    per: str | None = None
    rank: int = 1
    clock: str = "step"
    analysis: Path | None = None
    beta1: float | None = None
    ema: float | None = None
    reconstruct: bool = False
    interpolate: bool = False
    scores: Path | None = None
    target_score: float | None = None
    rollouts: Path | None = None
    seed: int = 0


def parse_targets(text: str) -> tuple[int, ...]:
    """`1200`, `1200,1400`, or `1200:1600:200` (ends included).

    Raises:
        InputError: not of that form, or the same step twice.
    """
    if match := re.fullmatch(rf"({STEP}):({STEP}):({STRIDE})", text, re.ASCII):
        first, last, stride = map(int, match.groups())
        targets = tuple(range(first, last + 1, stride)[: _MOST_TARGETS + 1])
        if len(targets) > _MOST_TARGETS:
            raise InputError(f"--to {text} names more than {_MOST_TARGETS:,} steps: give a longer stride, or a list")
    elif re.fullmatch(rf"{STEP}(,{STEP})*", text, re.ASCII):
        targets = tuple(map(int, text.split(",")))
    else:
        targets = ()
    if not targets:
        raise InputError(
            f"--to {text!r} is neither a step, a list 1200,1400 nor a range FIRST:LAST:STRIDE: give one of these"
        )
    _refuse_repeated(targets, text)
    return targets


def _refuse_repeated(targets: tuple[int, ...], text: str) -> None:
    if len(set(targets)) < len(targets):
        raise InputError(f"--to {text} names a step twice: name each once")


def refuse_contradictions(request: ForecastRequest) -> None:
    """Refuse what is wrong with the request whatever the run.

    Raises:
        InputError: options that exclude each other, a figure out of range, or no target.
    """
    if request.per is not None and request.per not in PER:
        raise InputError(f"--per {request.per!r} is unknown: choose tensor, group or run")
    refuse_impossible(request.beta1, request.ema)
    if request.rank < 1:
        raise InputError(f"--rank {request.rank} is no rank: give 1 or more")
    if request.alpha is not None:
        _refuse_alpha(request, request.alpha)
    if request.rollouts is not None and (request.method != "auto" or request.alpha is not None):
        raise InputError("--rollouts is what --method auto scores forecasts by: leave one of them out")
    if request.reconstruct and request.method != "relex":
        raise InputError("--reconstruct rebuilds observed steps from RELEX's subspace: add --method relex")
    if request.method == "alpharl":
        if request.targets or request.alpha is not None:
            raise InputError("--method alpharl aims at a score: give --scores FILE and --target-score in place of --to")
    elif request.scores is not None or request.target_score is not None:
        raise InputError("--scores and --target-score belong to --method alpharl: add it, or leave them out")
    elif request.alpha is None and not request.targets:
        raise InputError("no target: say with --to which step to forecast")


def _refuse_alpha(request: ForecastRequest, alpha: float) -> None:
    if not math.isfinite(alpha):
        raise InputError(f"--alpha {alpha} is not a finite number: give one, for early + alpha (late - early)")
    if request.method not in ("auto", "two-point") or request.reconstruct:
        raise InputError(f"--alpha belongs to --method two-point, not to {request.method}: leave one of them out")
    if request.targets:
        raise InputError("--alpha and --to both say how far to go: give one of them")
    if alpha <= 1 and not request.interpolate:
        raise InputError(
            f"--alpha {alpha:g} does not go beyond the late checkpoint (alpha 1): add --interpolate if that is meant"
        )


def seen_steps(trajectory: Trajectory, request: ForecastRequest) -> list[int]:
    """The observed steps that take part, two or more, ascending; of a re-grounded run those since its last jump.

    Raises:
        InputError: a step that the run lacks or that is named twice, or too few of them.
    """
    steps = list(trajectory.regrounded.last if trajectory.regrounded else trajectory.steps)
    if request.seen:
        steps = list(trajectory.steps)
        if len(set(request.seen)) < len(request.seen):
            raise InputError(f"--from {' '.join(map(str, request.seen))} names a step twice: give different steps")
        for step in request.seen:
            if step not in steps:
                raise InputError(f"--from {step}: not in the run: choose among the steps {', '.join(map(str, steps))}")
        steps = sorted(request.seen)
    if len(steps) < 2 and trajectory.regrounded:
        raise InputError(
            f"{trajectory.name} was re-grounded and holds one checkpoint, step {steps[0]}, since its last jump, which makes no "
            "line: name the steps to use with --from (over a jump they count virtual steps)"
        )
    if len(steps) < 2:
        raise InputError(
            f"{trajectory.name}: one checkpoint (step {steps[0]}) makes no line: a forecast needs two or more, so name "
            f"another with --steps; {remedy(trajectory.steps, 2, trajectory.skipped)}"
        )
    return steps


def target_steps(seen: list[int], request: ForecastRequest) -> list[float]:
    """The steps to forecast, or the one that `alpha` comes to.

    Raises:
        InputError: a target named twice, or not beyond the observed steps where it must be.
    """
    if request.alpha is not None:
        return [seen[0] + request.alpha * (seen[-1] - seen[0])]
    _refuse_repeated(request.targets, ",".join(map(str, request.targets)))
    for target in request.targets:
        if request.reconstruct and target not in seen:
            raise InputError(
                f"--to {target}: --reconstruct rebuilds observed steps: choose among {', '.join(map(str, seen))}"
            )
        if target <= seen[-1] and not (request.reconstruct or request.interpolate):
            where = "before the observed steps" if target < seen[0] else "not beyond the observed steps"
            raise InputError(
                f"--to {target} is {where}, {seen[0]} to {seen[-1]}: give a later one, or add --interpolate "
                "(or, for the rank-r part of an observed step, --method relex --reconstruct)"
            )
    return [float(target) for target in request.targets]
