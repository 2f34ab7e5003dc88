"""Back-tests: how well each method would have forecast the checkpoints that the run went on to save.

For every cutoff (at least three checkpoints seen) and every later checkpoint, from the Grams alone: with
b = a - e_target the squared error is bᵀ G b. Skill is 1 - squared error / squared error of holding the
last checkpoint seen. The recommended horizon is the furthest up to which the lower end of the skill,
pooled over cutoffs, stays above 0; it is 0 where drift is not told from chance, so that noise is never
forecast. Nor does it reach beyond the end of a learning-rate schedule.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np

from driftline._version import __version__
from driftline.checkpoints.configuration import step_text
from driftline.checkpoints.reasons import remedy
from driftline.errors import InputError
from driftline.files.record import UNSET, UnsetType
from driftline.forecast import gaussian
from driftline.forecast.ahead import Ahead
from driftline.forecast.calibration import FEWEST_SEEN, calibration, spread
from driftline.forecast.extrapolators import Method, methods
from driftline.forecast.observations import Observations
from driftline.forecast.pooling import Pooled, horizons, over_cutoffs, over_directions
from driftline.forecast.record import BacktestCost, BacktestRecord, ForecastSkill, PooledSkill
from driftline.linearity.drift import DriftTest, drift_test
from driftline.linearity.figures import persistence_figures
from driftline.linearity.persistence import persistence
from driftline.linearity.statistics import increments_gram
from driftline.linearity.summary import LearningRate

Array = np.ndarray

_LEAST = 0.005  # skill that rounds to nothing
_EQUAL = 1e-12  # squared errors below this share of the squares that they are made of are none


@dataclass(frozen=True)
class Scores:
    """Forecasts of observed checkpoints: rows of cutoffs and targets, and sums over parameters, each [F]."""

    cutoff: Array
    target: Array
    error: Array  # ||forecast - truth||²
    hold_error: Array  # ||last seen - truth||²
    size: Array  # ||forecast - last seen||²

    def __add__(self, other: Scores) -> Scores:
        return Scores(
            self.cutoff,
            self.target,
            self.error + other.error,
            self.hold_error + other.hold_error,
            self.size + other.size,
        )

    @property
    def skill(self) -> Array:
        return 1 - _ratio(self.error, self.hold_error)

    @property
    def relative_error(self) -> Array:
        return np.sqrt(np.clip(_ratio(self.error, self.hold_error), 0, None))

    @property
    def cosine(self) -> Array:
        """Between the forecast move and the true one; 0 where nothing is forecast."""
        product = (self.size + self.hold_error - self.error) / 2
        return np.nan_to_num(_ratio(product, np.sqrt(self.size * self.hold_error)))


# of a method that needs weights: the scores of each group (layer, module), and its skill by horizon
Tested = tuple[dict[tuple[int | None, str], Scores], list[Pooled]]
NONE: Mapping[str, Tested] = MappingProxyType({})


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)


def score(observed: Observations, method: Method) -> dict[tuple[int | None, str], Scores]:
    """Every forecast that the run allows, for each group (layer, module); their sum is the run's."""
    clock, T = observed.clock, observed.clock.size
    pairs = [(c, t) for c in spread(FEWEST_SEEN - 1, T - 1) for t in spread(c + 1, T)]
    cutoff, target = np.array(pairs, dtype=int).reshape(-1, 2).T
    true, last = np.eye(T)[target], np.eye(T)[cutoff]

    by_tensor = method.uses_gram and method.per == "tensor"
    shared = None if by_tensor else forecasts(method, clock, observed.total, cutoff, target)
    groups: dict[tuple[int | None, str], Scores] = {}
    for key, _, gram in observed.units("tensor" if by_tensor else "group"):
        a = forecasts(method, clock, gram, cutoff, target) if shared is None else shared
        found = Scores(cutoff, target, *(quadratic(b, gram) for b in (a - true, last - true, a - last)))
        groups[key] = groups[key] + found if key in groups else found
    return groups


def forecasts(method: Method, clock: Array, gram: Array, cutoff: Array, target: Array) -> Array:
    """Coefficients [F, T] of the forecast of each row's target from the checkpoints up to its cutoff."""
    a = np.zeros((cutoff.size, clock.size))
    for c in np.unique(cutoff):
        mine = cutoff == c
        a[mine, : c + 1] = method.extrapolate(clock[: c + 1], gram[: c + 1, : c + 1], clock[target[mine]])
    return a


def pool(scores: Scores, observed: Observations, method: Method) -> list[Pooled]:
    """Skill by horizon over all cutoffs, with its lower end (`pooling`), of the scores that a method has in a run."""
    a = forecasts(method, observed.clock, observed.total, scores.cutoff, scores.target)
    return pooled(scores, observed, a, observed.total)


def pooled(scores: Scores, observed: Observations, a: Array, gram: Array) -> list[Pooled]:
    """The same of any forecasts, by coefficients [F, n] of the checkpoints and what may follow them in the Gram [n, n]."""
    clock, unit = observed.clock, np.eye(gram.shape[0])
    missed, held = a - unit[scores.target], unit[scores.cutoff] - unit[scores.target]
    directions = gaussian.directions(clock, observed.total, observed.beta1)
    found = []
    for horizon, rows, fewest in horizons(scores.cutoff, scores.target, scores.hold_error > 0, clock):
        error, hold = scores.error[rows], scores.hold_error[rows]
        skill = float(1 - error.sum() / hold.sum())
        low = -math.inf
        if error.size >= fewest and directions is not None:
            width = max(
                over_cutoffs(error, hold, scores.cutoff[rows], scores.target[rows]),
                over_directions(missed[rows] @ gram, missed[rows], held[rows] @ gram, held[rows], skill, directions),
            )
            low = skill - width
        found.append(Pooled(horizon, skill, low, error.size))
    return found


def quadratic(b: Array, gram: Array) -> Array:
    """bᵀ G b of each row, 0 where it is no more than what rounding leaves of terms that cancel."""
    found = np.einsum("ft,tu,fu->f", b, gram, b, optimize=True)
    terms = np.abs(b) @ np.sqrt(np.clip(np.diag(gram), 0, None))
    return np.where(found > _EQUAL * terms**2, found, 0.0)


def recommended_horizon(pooled: Sequence[Pooled], test: DriftTest | None) -> float:
    """The furthest horizon with the lower end of the skill above 0.00 there and at every nearer one that has one."""
    if test is None or not test.found:
        return 0.0
    furthest = 0.0
    for one in pooled:
        if one.low == -math.inf and one.skill > 0:
            continue
        if not one.low > _LEAST:
            break
        furthest = one.horizon
    return furthest


@dataclass(frozen=True)
class BackTests:
    """Back-tests of every method: the scores of each group, and what they come to for the whole run."""

    scores: dict[str, dict[tuple[int | None, str], Scores]]
    pooled: dict[str, list[Pooled]]
    test: DriftTest | None
    horizons: dict[str, float]  # recommended, by method

    def run(self, method: str) -> Scores:
        return reduce(Scores.__add__, self.scores[method].values())

    @property
    def best(self) -> str:
        """The method that goes furthest, the most skilful of those up to there; hold where none goes anywhere."""
        furthest = max(self.horizons.values(), default=0.0)
        if furthest == 0:
            return "hold"
        able = [name for name, horizon in self.horizons.items() if horizon == furthest]
        skills = {name: [p.skill for p in self.pooled[name] if p.horizon <= furthest] for name in able}
        return max(
            able, key=lambda name: round(float(np.mean(skills[name])), 3)
        )  # of equals the plainest, listed first


def backtest(
    observed: Observations, *, rank: int = 1, only: Sequence[str] | None = None, beside: Mapping[str, Tested] = NONE
) -> BackTests:
    """Back-tests of all methods, or of those named in `only`, and those `beside`; no weight is read."""
    test = drift_test(observed.total, observed.steps, observed.clock, observed.beta1)
    known = methods(beta1=observed.beta1, rank=rank)
    scores = {name: score(observed, known[name]) for name in only or known}
    skills = {
        name: pool(reduce(Scores.__add__, groups.values()), observed, known[name]) for name, groups in scores.items()
    }
    for name, (groups, found) in beside.items():
        scores[name], skills[name] = groups, found
    recommended = {name: recommended_horizon(found, test) for name, found in skills.items() if name != "hold"}
    return BackTests(scores, skills, test, recommended)


def measure(
    observed: Observations,
    *,
    run: str,
    clock: str,
    rank: int = 1,
    note: str = "",
    ahead: Ahead | None = None,
    learning_rate: LearningRate | UnsetType = UNSET,
    beside: Mapping[str, Tested] = NONE,
) -> tuple[BacktestRecord, BackTests]:
    """Back-test every method: the contents of `backtest.json`, and the scores that it sums up.

    Args:
        note: of the run, to be said with the result.
        ahead: what lies ahead of the run; by default no schedule ends, and the clock is the step.
        learning_rate: how it changed, where that makes the step the wrong clock.
        beside: the scores and pooled skills of methods that need weights.

    Raises:
        InputError: too few checkpoints to forecast one from three others, or none of them differs from another.
    """
    steps = observed.steps
    ahead = ahead or Ahead(int(steps[0]), int(steps[-1]))
    if steps.size <= FEWEST_SEEN:
        raise InputError(
            f"{run}: {steps.size} checkpoints: a back-test needs {FEWEST_SEEN} to forecast from and a later one, "
            f"{FEWEST_SEEN + 1} or more; {remedy(steps, FEWEST_SEEN + 1)}"
        )
    if not np.trace(observed.total) > 0:
        raise InputError(
            f"{run}: no weight changes between step {steps[0]} and {steps[-1]}, so there is nothing to forecast: "
            "choose other checkpoints with --steps"
        )
    started = time.monotonic()
    tests = backtest(observed, rank=rank, beside=beside)
    test, best = tests.test, tests.best
    kept = persistence(observed.total, steps, observed.beta1) if test else None
    record = BacktestRecord(
        driftline=__version__,
        run=run,
        clock=clock,
        recommended_horizon=min(ahead.steps(tests.horizons[best]), ahead.left) if best != "hold" else 0,
        best_method=best,
        sentence=_sentence(tests, observed, clock, ahead) + (f" {note}" if note else ""),
        steps=steps.tolist(),
        drift_found=bool(test and test.found),
        horizons=tests.horizons,
        pooled={name: [_pooled(one) for one in found] for name, found in tests.pooled.items()},
        persistence=persistence_figures(kept),
        optimizer=observed.optimizer,
        learning_rate=learning_rate,
        schedule_end=UNSET if ahead.end is None else ahead.end,
        calibration=calibration(observed, test.effective_dimension if test else 1.0),
        skill=[row for name in tests.scores for row in _rows(name, tests.run(name), steps)],
        cost=BacktestCost(seconds_after_the_scan=time.monotonic() - started),
    )
    return record, tests


def write_groups(path: Path, tests: BackTests, steps: Array) -> None:
    """The forecasts of every layer and module, as a Parquet table."""
    import pyarrow as pa  # slow to import, and not needed to choose a forecast

    from driftline.files.parquet import table_of, write_table

    groups = (
        {"layer": layer, "module": module, **msgspec.structs.asdict(row)}
        for method, scored in tests.scores.items()
        for (layer, module), scores in scored.items()
        for row in _rows(method, scores, steps)
    )
    kinds = {"method": pa.string(), "layer": pa.int64(), "module": pa.string(), "cutoff": pa.int64()}
    kinds |= {"horizon": pa.int64(), "skill": pa.float64(), "relative_error": pa.float64(), "cosine": pa.float64()}
    write_table(table_of(groups, pa.schema(kinds)), path)


def _pooled(one: Pooled) -> PooledSkill:
    return PooledSkill(horizon=one.horizon, skill=one.skill, low=one.low, cutoffs=one.cutoffs)


def _sentence(tests: BackTests, observed: Observations, clock: str, ahead: Ahead) -> str:
    """What the back-tests come to."""
    best, last = tests.best, int(observed.steps[-1])
    if best != "hold":
        return _recommended(tests, clock, ahead)
    if tests.test is None:
        why, do = untestable(observed)
        return f"{why[0].upper()}{why[1:]}, so no horizon can be recommended: {do}."
    if not tests.test.found:
        return (
            "Drift is not told from chance, so nothing can be trusted to beat holding the last checkpoint: horizon 0."
        )
    if not any(p.low > -math.inf for found in tests.pooled.values() for p in found):
        return (
            f"There is drift, but {observed.steps.size} checkpoints to step {last} are too few, or lie too unevenly, to "
            "test a forecast on: horizon 0; save more of them."
        )
    return "There is drift, but no method beat holding the last checkpoint reliably: horizon 0."


def _recommended(tests: BackTests, clock: str, ahead: Ahead) -> str:
    """How far the best method goes, and whether the learning-rate schedule lets it."""
    best = tests.best
    reach = [p for p in tests.pooled[best] if p.horizon <= tests.horizons[best]]
    tested = [p for p in reach if p.low > -math.inf]
    near, far = tested[0], tested[-1]
    limit = max(p.horizon for p in tests.pooled[best] if p.low > -math.inf)
    most = ", the furthest that could be tested" if far.horizon == limit else ""
    unit = "steps" if clock == "step" else "steps of mean learning rate"
    steps = ahead.steps(far.horizon)
    further = f" and {far.skill:.2f} at {step_text(far.horizon)}" if far is not near else ""
    skill = f"with skill {near.skill:.2f} at {step_text(near.horizon)} {unit}{further}"
    beat = f"{best} beat holding the last checkpoint at every horizon to there, {skill}"
    if steps <= ahead.left:
        return f"Forecasts are worth making up to {step_text(far.horizon)} {unit} ahead{most}, to step {step_text(ahead.last + steps)}: {beat}."
    told = f"In back-tests {best} beat holding the last checkpoint up to {step_text(far.horizon)} {unit} ahead{most}, {skill}"
    return f"{told}; but {ahead.sentence} and training on it goes no further, so neither should a forecast: horizon {step_text(ahead.left)}."


def untestable(observed: Observations) -> tuple[str, str]:
    """Why drift cannot be tested, and what to do: some checkpoints are equal, or they are too few."""
    steps, last = observed.steps, observed.steps.size - 1
    still = np.flatnonzero(~(np.diag(increments_gram(observed.total)) > 0))
    if still.size == 0:
        return f"{steps.size} checkpoints are too few to tell drift from chance", "save more of them"
    first = int(still[0])
    stop = first + int(np.argmax(np.append(np.diff(still) > 1, True))) + 1
    joined = "and" if stop == first + 1 else "to"
    equal = f"the checkpoints of steps {steps[first]} {joined} {steps[stop]} are equal"
    if stop == last:
        return f"the run stands still at its end ({equal})", "keep one of them with --steps to look at what was before"
    return (
        f"the run stands still ({equal}), which leaves too little to tell drift from chance",
        "keep one of them with --steps",
    )


def _rows(method: str, scores: Scores, steps: Array) -> list[ForecastSkill]:
    columns = (
        steps[scores.cutoff],
        steps[scores.target] - steps[scores.cutoff],
        scores.skill,
        scores.relative_error,
        scores.cosine,
    )
    names = ("cutoff", "horizon", "skill", "relative_error", "cosine")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [ForecastSkill(method=method, **dict(zip(names, row, strict=True))) for row in rows]
