"""`driftline extrapolate`: from a request to forecast models on disk.

First a plan (which checkpoints, which coefficients, why), from the Grams where the method needs them;
then one streaming pass that writes every target.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from driftline.checkpoints.trajectory import Trajectory
from driftline.engines import Engine
from driftline.errors import InputError
from driftline.files.json import json_text
from driftline.files.output import output_folder, refuse_occupied
from driftline.forecast import gaussian
from driftline.forecast.alpharl import AlphaRL
from driftline.forecast.choose import FEWEST, Choice, choose, untested
from driftline.forecast.extrapolators import method_named, reconstruction
from driftline.forecast.observations import PER, Observations, clock_in_steps, observe
from driftline.writing.write import Forecast, Settings, bytes_read, write

Array = np.ndarray
Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

MARK = "driftline.json"


@dataclass(frozen=True)
class Request:
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
        reconstruct: rebuild observed steps from their rank-r part (`relex`).
        interpolate: allow targets among the observed steps.
        scores, target_score: of `alpharl`: score of each step, and the score to reach.
        rollouts: of `auto`: fixed responses by whose log-probs forecasts are scored.
    """

    targets: tuple[int, ...] = ()
    method: str = "auto"
    seen: tuple[int, ...] = ()
    alpha: float | None = None
    per: str | None = None
    rank: int = 1
    clock: str = "step"
    analysis: Path | None = None
    reconstruct: bool = False
    interpolate: bool = False
    scores: Path | None = None
    target_score: float | None = None
    rollouts: Path | None = None


@dataclass(frozen=True)
class Plan:
    """The checkpoints that take part and, for each target, a forecast without its folder yet."""

    trajectory: Trajectory
    forecasts: tuple[Forecast, ...]
    sentence: str
    warning: bool


@dataclass(frozen=True)
class Outcome:
    """The contents of each written model's `driftline.json`, and the sentence that says how they came about."""

    records: list[dict[str, Any]]
    sentence: str
    warning: bool


def parse_targets(text: str) -> tuple[int, ...]:
    """`1200`, `1200,1400`, or `1200:1600:200` (ends included).

    Raises:
        InputError: not of that form, or the same step twice.
    """
    if match := re.fullmatch(r"(\d+):(\d+):([1-9]\d*)", text):
        targets = tuple(range(int(match[1]), int(match[2]) + 1, int(match[3])))
    elif re.fullmatch(r"\d+(,\d+)*", text):
        targets = tuple(map(int, text.split(",")))
    else:
        targets = ()
    if not targets:
        raise InputError(
            f"--to {text!r} is neither a step, a list 1200,1400 nor a range FIRST:LAST:STRIDE: give one of these"
        )
    if len(set(targets)) < len(targets):
        raise InputError(f"--to {text} names a step twice: name each once")
    return targets


def extrapolate(
    trajectory: Trajectory,
    out: Path | str,
    request: Request,
    settings: Settings | None = None,
    *,
    overwrite: bool = False,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Write the forecast models: one target into `out` itself, several into `out/checkpoint-STEP`.

    Args:
        out: a folder that is empty or absent; it appears when it is complete.
        request: what to forecast.
        settings: how to store it.
        overwrite: replace forecasts that lie in `out`.
        engine: where the work runs; default threads of this process.
        progress: a context manager of (what, total) that gives what advances it.

    Returns:
        The recipes (`records`), a `sentence` that says what was done and why, and whether it is a `warning`.

    Raises:
        InputError: the request or the run cannot be used; nothing is written.
    """
    out, settings, progress = Path(out), settings or Settings(), progress or _silent
    refuse_occupied(out, overwrite=overwrite, mark=MARK)
    plan = make_plan(trajectory, request, settings, out.absolute().parent, progress, engine)
    with output_folder(out, overwrite=overwrite, mark=MARK) as folder:
        forecasts = [replace(f, folder=folder) for f in plan.forecasts]
        if len(forecasts) > 1:
            forecasts = [replace(f, folder=folder / f"checkpoint-{f.recipe['target']:g}") for f in forecasts]
            for forecast in forecasts:
                forecast.folder.mkdir()
        with progress("writing the forecast", bytes_read(plan.trajectory)) as advance:
            records = write(plan.trajectory, forecasts, settings, engine=engine, progress=advance)
        if len(records) > 1:
            shared = {key: records[0][key] for key in ("driftline", "method", "steps")}
            targets = [record["target"] for record in records]
            (folder / MARK).write_text(json_text({**shared, "targets": targets}))
    return Outcome(records, plan.sentence, plan.warning)


def _silent(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    from contextlib import nullcontext

    return nullcontext(lambda amount: None)


def make_plan(
    trajectory: Trajectory,
    request: Request,
    settings: Settings,
    scratch: Path,
    progress: Progress = _silent,
    engine: Engine | None = None,
) -> Plan:
    """Everything that can be decided, and refused, before a model is written; `scratch` is used for scoring only."""
    if request.method not in ("auto", "alpharl"):
        method_named(request.method)
    _refuse_contradictions(request)
    seen = _seen(trajectory, request)
    if request.method == "alpharl":
        return _plan_alpharl(trajectory.only(seen), request)
    targets = _targets(seen, request)

    def scan(steps: Sequence[int]) -> Observations:
        with progress("reading weights", trajectory.only(steps).nbytes) as advance:
            return observe(
                trajectory, steps=steps, clock=request.clock, analysis=request.analysis, engine=engine, progress=advance
            )

    if request.method != "auto":
        method = method_named(request.method, rank=request.rank)
        observed = scan(seen) if method.uses_gram or request.reconstruct else None
        return _plan(trajectory, seen, targets, request, request.method, observed)
    if request.alpha is not None:
        return _plan(trajectory, seen, targets, request, "two-point", None)
    if request.interpolate and all(seen[0] <= target <= seen[-1] for target in targets):
        return _plan(trajectory, seen, targets, request, "between", None)
    within = [step for step in trajectory.steps if seen[0] <= step <= seen[-1]]
    if request.rollouts is not None:
        from driftline.outputs import function_space

        observed = scan(within)
        goals = clock_in_steps(trajectory, request.clock, targets)
        ahead = float(np.max(goals) - observed.clock[-1])
        choice = function_space.choose(trajectory, observed, request.rollouts, ahead, settings, scratch)
        if choice.method not in ("two-point", "hold"):
            seen = within
            return _plan(trajectory, seen, targets, request, choice.method, observed, choice)
        if choice.first is not None:
            seen = [choice.first, seen[-1]]
        return _plan(trajectory, seen, targets, request, choice.method, None, choice)
    choice = choose(scan(within)) if len(within) >= FEWEST else untested(seen[0], seen[-1], len(within))
    return _plan(trajectory, seen, targets, request, choice.method, None, choice)


def _plan(
    trajectory: Trajectory,
    seen: list[int],
    targets: list[float],
    request: Request,
    name: str,
    observed: Observations | None,
    choice: Choice | None = None,
) -> Plan:
    clock = clock_in_steps(trajectory, request.clock, seen)
    goals = clock_in_steps(trajectory, request.clock, targets) if request.alpha is None else np.array(targets)
    if request.alpha is not None:
        clock = np.asarray(seen, np.float64)
    reached = np.minimum(goals, clock[-1] + choice.horizon) if choice else goals
    names = [tensor.name for tensor in trajectory.only(seen)]
    vectors, per = _coefficients(name, clock, reached, seen, targets, request, observed, names)
    shared = next(iter(vectors.values())) if per == "run" else None
    needed = [i for i in range(len(seen)) if any(vector[:, i].any() for vector in vectors.values())]
    taking_part = trajectory.only([seen[i] for i in needed])
    forecasts = []
    for k, target in enumerate(targets):
        recipe: dict[str, Any] = {"target": target, "method": name if name != "between" else "two-point"}
        if choice:
            recipe |= {"chosen": choice.sentence, "reached": float(reached[k])}
            if choice.scores:
                recipe["skill_in_logprobs"] = choice.scores
        recipe |= {"clock": request.clock, "observed": seen, "fitted_per": per}
        if name == "relex":
            recipe |= {"rank": request.rank, "reconstruct": request.reconstruct}
        if name == "two-point":
            recipe["alpha"] = float(vectors[names[0]][k, -1])
        if name == "blup" and observed is not None and per == "run":
            recipe["standard_error"] = _standard_error(observed, float(reached[k]))
        chosen = {}
        for tensor in taking_part:
            vector = vectors.get(tensor.name, shared)
            if vector is None:
                raise InputError(
                    f"tensor {tensor.name!r} is not in every checkpoint from step {seen[0]} to {seen[-1]}, so {name} cannot "
                    "be fitted to it: name steps that have it with --from"
                )
            chosen[tensor.name] = vector[k, needed]
        forecasts.append(Forecast(Path(), chosen, recipe))
    sentence, warning = (choice.sentence, choice.warning) if choice else (_sentence(name, seen, request), False)
    if choice and choice.horizon > 0 and (reached < goals).any():
        far = max(targets)
        sentence += (
            f"; step {far:g} lies further, so the forecast stops {choice.horizon:g} steps ahead "
            f"({choice.beside}--method {choice.method} goes all the way, untested)"
        )
        warning = True
    return Plan(taking_part, tuple(forecasts), sentence, warning)


def _coefficients(
    name: str,
    clock: Array,
    goals: Array,
    seen: list[int],
    targets: list[float],
    request: Request,
    observed: Observations | None,
    names: list[str],
) -> tuple[dict[str, Array], str]:
    """Each tensor's coefficients, [targets, T], and over what they were fitted."""
    if name == "between":
        a = np.stack([np.array([np.interp(goal, clock, unit) for unit in np.eye(clock.size)]) for goal in goals])
        return dict.fromkeys(names, a), "run"
    if observed is None:
        method = method_named(name)
        return dict.fromkeys(names, method.extrapolate(clock, np.empty((0, 0)), goals)), "run"
    method = method_named(name, beta1=observed.beta1, rank=request.rank)
    per = request.per or method.per
    vectors: dict[str, Array] = {}
    for _, members, gram in observed.units(per):
        if request.reconstruct:
            a = np.stack([reconstruction(gram, seen.index(int(target)), request.rank) for target in targets])
        else:
            a = method.extrapolate(clock, gram, goals)
        vectors |= dict.fromkeys(members, a)
    return vectors, per


def _standard_error(observed: Observations, target: float) -> float | None:
    """Root of the expected squared error of blup's forecast, summed over all weights."""
    fit = gaussian.fit(observed.clock, observed.total, observed.beta1)
    if fit is None:
        return None
    return math.sqrt(gaussian.predict(observed.clock, fit, target, observed.beta1).expected_error)


def _sentence(name: str, seen: list[int], request: Request) -> str:
    if name == "between":
        return "the straight line between the neighbouring checkpoints"
    if request.reconstruct:
        return f"relex: rank-{request.rank} part of observed steps"
    through = (
        f"steps {seen[0]} and {seen[-1]}" if name == "two-point" else f"{len(seen)} checkpoints to step {seen[-1]}"
    )
    return f"{name} through {through}, as asked"


def _plan_alpharl(trajectory: Trajectory, request: Request) -> Plan:
    rule = AlphaRL.fitted_to(trajectory, request.scores, request.target_score)
    T = len(trajectory.steps)
    hold, first = np.eye(T)[-1], np.eye(T)[0]
    coefficients = {tensor.name: first if rule.applies(tensor) else hold for tensor in trajectory}
    recipe = {
        "target": request.target_score, "method": "alpharl", "observed": list(trajectory.steps),
        "scores": {str(step): score for step, score in zip(trajectory.steps, rule.scores, strict=True)},
        "by_rule": [tensor.name for tensor in trajectory if rule.applies(tensor)],
    }  # fmt: skip
    sentence = f"alpharl at score {request.target_score:g}, from {T} scored checkpoints"
    return Plan(trajectory, (Forecast(Path(), coefficients, recipe, rule),), sentence, False)


def _refuse_contradictions(request: Request) -> None:
    if request.per is not None and request.per not in PER:
        raise InputError(f"--per {request.per!r} is unknown: choose tensor, group or run")
    if request.rank < 1:
        raise InputError(f"--rank {request.rank} is no rank: give 1 or more")
    if request.alpha is not None:
        if not math.isfinite(request.alpha):
            raise InputError(
                f"--alpha {request.alpha} is not a finite number: give one, for early + alpha (late - early)"
            )
        if request.method not in ("auto", "two-point") or request.reconstruct:
            raise InputError(f"--alpha belongs to --method two-point, not to {request.method}: leave one of them out")
        if request.targets:
            raise InputError("--alpha and --to both say how far to go: give one of them")
        if request.alpha <= 1 and not request.interpolate:
            raise InputError(
                f"--alpha {request.alpha:g} does not go beyond the late checkpoint (alpha 1): add --interpolate if that is meant"
            )
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


def _seen(trajectory: Trajectory, request: Request) -> list[int]:
    """The observed steps that take part."""
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
            f"{trajectory.name}: one checkpoint (step {steps[0]}) makes no line: a forecast needs two or more, so name another with --steps or --base"
        )
    return steps


def _targets(seen: list[int], request: Request) -> list[float]:
    if request.alpha is not None:
        return [seen[0] + request.alpha * (seen[-1] - seen[0])]
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
