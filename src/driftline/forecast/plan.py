"""From a request to coefficients: which method, through which checkpoints, how far, and why.

What can be refused is refused here, before anything is written. Weights are read only where the method, or the
choice of one, looks at their Grams, and no analysis holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from driftline._version import __version__
from driftline.checkpoints.configuration import advancing, step_text
from driftline.checkpoints.trajectory import Trajectory
from driftline.engines import Engine
from driftline.errors import InputError
from driftline.files.record import UNSET
from driftline.forecast import alpharl, nonlinear
from driftline.forecast.ahead import Ahead, ahead_of
from driftline.forecast.calibration import standard_error
from driftline.forecast.choose import FEWEST, Choice, ChooseBy, choose, untested
from driftline.forecast.extrapolators import method_named, reconstruction
from driftline.forecast.forecast import Forecast, Origin, Plan
from driftline.forecast.observations import Observations, clock_in_steps, observe
from driftline.forecast.request import ForecastRequest, refuse_contradictions, seen_steps, target_steps
from driftline.progress import OpenBar, no_bar

Array = np.ndarray

_BETWEEN = "between"  # the line between neighbouring checkpoints, for targets among the observed steps


def make_plan(
    trajectory: Trajectory,
    request: ForecastRequest,
    *,
    choose_by: ChooseBy | None = None,
    progress: OpenBar = no_bar,
    engine: Engine | None = None,
) -> Plan:
    """Everything that can be decided, and refused, before a model is written.

    Args:
        choose_by: how `auto` chooses where the request names rollouts, which this room cannot score.

    Raises:
        InputError: the request or the run cannot be used.
    """
    if request.method not in ("auto", "alpharl", "next"):
        method_named(request.method)
    refuse_contradictions(request)
    seen = seen_steps(trajectory, request)
    if request.method == "alpharl":
        return alpharl.plan(trajectory.only(seen), request.scores, request.target_score)
    targets = target_steps(seen, request)
    ahead = ahead_of(trajectory, request.clock)
    if request.method == "next":
        return _told_of_the_end(nonlinear.plan(trajectory.only(seen), request, targets, progress), ahead, targets)

    def scan(steps: Sequence[int]) -> Observations:
        with progress("reading weights", trajectory.only(steps).nbytes) as advance:
            return observe(
                trajectory,
                steps=steps,
                clock=request.clock,
                analysis=request.analysis,
                beta1=request.beta1,
                ema=request.ema,
                engine=engine,
                progress=advance,
            )

    if request.method != "auto":
        looks = method_named(request.method).uses_gram or request.reconstruct
        way = _Way(request.method, seen, scan(seen) if looks else None)
    elif request.alpha is not None:
        way = _Way("two-point", seen)
    elif request.interpolate and all(seen[0] <= target <= seen[-1] for target in targets):
        way = _Way(_BETWEEN, seen)
    else:
        way = _chosen(trajectory, request, seen, targets, scan, choose_by)
    return _told_of_the_end(_plan(trajectory, request, targets, way, ahead), ahead, targets)


@dataclass(frozen=True)
class _Way:
    """How forecasts are made: the method, the steps it goes through, their Grams if it looks at them, and why."""

    method: str
    seen: list[int]
    observed: Observations | None = None
    choice: Choice | None = None


def _chosen(
    trajectory: Trajectory,
    request: ForecastRequest,
    seen: list[int],
    targets: list[float],
    scan: Callable[[Sequence[int]], Observations],
    choose_by: ChooseBy | None,
) -> _Way:
    """What `auto` comes to."""
    within = [step for step in trajectory.steps if seen[0] <= step <= seen[-1]]
    if request.rollouts is None:
        choice = choose(scan(within)) if len(within) >= FEWEST else untested(seen[0], seen[-1], len(within))
        return _Way(choice.method, seen, choice=choice)
    if choose_by is None:
        raise ValueError("a request that names rollouts needs choose_by")
    observed = scan(within)
    ahead = float(np.max(clock_in_steps(trajectory, request.clock, targets)) - observed.clock[-1])
    choice = choose_by(trajectory, observed, ahead)
    if choice.method not in ("two-point", "hold"):
        return _Way(choice.method, within, observed, choice)
    return _Way(choice.method, seen if choice.first is None else [choice.first, seen[-1]], choice=choice)


def _told_of_the_end(plan: Plan, ahead: Ahead, targets: list[float]) -> Plan:
    """With a warning, where a target lies beyond the end of the run's learning-rate schedule."""
    furthest, last = max(targets), plan.forecasts[0].origin.observed[-1]
    if ahead.end is None or not furthest > max(ahead.end, last):
        return plan
    model = f"more training on it would not give a model of step {step_text(furthest)}"
    return replace(plan, sentence=f"{plan.sentence}; {ahead.sentence}, so {model}", warning=True)


def _plan(trajectory: Trajectory, request: ForecastRequest, targets: list[float], way: _Way, ahead: Ahead) -> Plan:
    seen, choice = way.seen, way.choice
    if request.alpha is not None:
        clock, goals = np.asarray(seen, np.float64), np.array(targets)
    else:
        clock, goals = (clock_in_steps(trajectory, request.clock, steps) for steps in (seen, targets))
        advancing(trajectory.name, seen, clock, request.clock)
    reached = np.minimum(goals, clock[-1] + choice.horizon) if choice else goals
    stops = [
        _step_reached(ahead, seen[-1], target, choice, short=reached[k] < goals[k]) for k, target in enumerate(targets)
    ]
    fitted = _fit(trajectory, request, way, clock, reached, targets)
    needed = [i for i in range(len(seen)) if any(vector[:, i].any() for vector in fitted.vectors.values())]
    taking_part = trajectory.only([seen[i] for i in needed])
    vectors = {tensor.name: _of(fitted, tensor.name, way)[:, needed] for tensor in taking_part}
    forecasts = [
        Forecast(
            {name: vector[k] for name, vector in vectors.items()},
            _origin(request, way, fitted, k, target, float(reached[k]), stops[k]),
        )
        for k, target in enumerate(targets)
    ]
    sentence, warning = _why(request, way, max(targets), short=bool((reached < goals).any()))
    return Plan(taking_part, tuple(forecasts), sentence, warning)


def _step_reached(ahead: Ahead, last: int, target: float, choice: Choice | None, *, short: bool) -> float:
    """The step at which a forecast stops: its target, or as far beyond the last checkpoint as was chosen."""
    return target if choice is None or not short else min(last + ahead.steps(choice.horizon), target)


@dataclass(frozen=True)
class _Fitted:
    """Each tensor's coefficients, [targets, T], and over what they were fitted: `tensor`, `group` or `run`."""

    vectors: dict[str, Array]
    per: str


def _fit(
    trajectory: Trajectory, request: ForecastRequest, way: _Way, clock: Array, goals: Array, targets: list[float]
) -> _Fitted:
    names = [tensor.name for tensor in trajectory.only(way.seen)]
    if way.method == _BETWEEN:
        a = np.stack([np.array([np.interp(goal, clock, unit) for unit in np.eye(clock.size)]) for goal in goals])
        return _Fitted(dict.fromkeys(names, a), "run")
    if way.observed is None:
        a = method_named(way.method).extrapolate(clock, np.empty((0, 0)), goals)
        return _Fitted(dict.fromkeys(names, a), "run")
    method = method_named(way.method, beta1=way.observed.beta1, rank=request.rank)
    per = request.per or method.per
    vectors: dict[str, Array] = {}
    for _, members, gram in way.observed.units(per):
        if request.reconstruct:
            a = np.stack([reconstruction(gram, way.seen.index(int(target)), request.rank) for target in targets])
        else:
            a = method.extrapolate(clock, gram, goals)
        vectors |= dict.fromkeys(members, a)
    return _Fitted(vectors, per)


def _of(fitted: _Fitted, name: str, way: _Way) -> Array:
    """One tensor's coefficients; those of the run where it was not observed itself."""
    if name in fitted.vectors:
        return fitted.vectors[name]
    if fitted.per == "run":
        return next(iter(fitted.vectors.values()))
    raise InputError(
        f"tensor {name!r} is not in every checkpoint from step {way.seen[0]} to {way.seen[-1]}, so {way.method} cannot "
        "be fitted to it: name steps that have it with --from"
    )


def _origin(
    request: ForecastRequest, way: _Way, fitted: _Fitted, k: int, target: float, reached: float, stop: float
) -> Origin:
    """How the forecast of the k-th target came about; it goes to `reached` on the clock, which is step `stop`."""
    choice, relex = way.choice, way.method == "relex"
    by_blup = way.method == "blup" and way.observed is not None and fitted.per == "run"
    return Origin(
        driftline=__version__,
        target=target,
        method=way.method if way.method != _BETWEEN else "two-point",
        chosen=choice.sentence if choice else UNSET,
        reached=stop if choice else UNSET,
        skill_in_logprobs=dict(choice.scores) if choice and choice.scores else UNSET,
        clock=request.clock,
        observed=way.seen,
        fitted_per=fitted.per,
        rank=request.rank if relex else UNSET,
        reconstruct=request.reconstruct if relex else UNSET,
        alpha=float(next(iter(fitted.vectors.values()))[k, -1]) if way.method == "two-point" else UNSET,
        standard_error=standard_error(way.observed, reached) if by_blup and way.observed else UNSET,
    )


def _why(request: ForecastRequest, way: _Way, furthest: float, *, short: bool) -> tuple[str, bool]:
    """The sentence that says what was done, and whether it is a warning; `short`: a target was not reached."""
    choice = way.choice
    if choice is None:
        return _as_asked(request, way), False
    if not short or not choice.horizon > 0:
        return choice.sentence, choice.warning
    unit = "steps" if request.clock == "step" else "steps of mean learning rate"
    return (
        f"{choice.sentence}; step {step_text(furthest)} lies further, so the forecast stops {step_text(choice.horizon)} {unit} ahead "
        f"({choice.beside}--method {choice.method} goes all the way, untested)"
    ), True


def _as_asked(request: ForecastRequest, way: _Way) -> str:
    seen = way.seen
    if way.method == _BETWEEN:
        return "the straight line between the neighbouring checkpoints"
    if request.reconstruct:
        return f"relex: rank-{request.rank} part of observed steps"
    two = way.method == "two-point"
    through = f"steps {seen[0]} and {seen[-1]}" if two else f"{len(seen)} checkpoints to step {seen[-1]}"
    return f"{way.method} through {through}, as asked"
