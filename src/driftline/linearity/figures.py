"""The figures that summaries hold, whatever was measured: weights, log-probs or activations.

All but R² follow from the Gram matrix G [T, T] of the deltas. Keys are a contract; see `docs/outputs.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec
import numpy as np

from driftline._version import __version__
from driftline.checkpoints import configuration
from driftline.checkpoints.jumps import Regrounded
from driftline.checkpoints.momentum import Momentum
from driftline.checkpoints.trajectory import Trajectory
from driftline.linearity import drift, learning_rate, looks, null, persistence, regime, skill, statistics
from driftline.linearity.looks import Look
from driftline.linearity.scan import Population
from driftline.linearity.shrinkage import Shrunk, share_of_drift
from driftline.linearity.summary import (
    R2,
    UNSET,
    ChanceOfDrift,
    Counts,
    Drift,
    HeldOutSkill,
    Histograms,
    Jumped,
    LearningRate,
    NullR2,
    Optimizer,
    PersistenceFigures,
    RankOne,
    Regime,
    Shrinkage,
    Statistics,
    StraightPiece,
    Stretch,
    Summary,
    UnsetType,
)
from driftline.linearity.verdict import verdict, with_left_out

_FEWEST = 3  # checkpoints of a line
_MOST = 0.5  # of the drift
_HISTOGRAM_BINS = 100  # of histograms in the results; the scan's own are finer

SomeSummary = TypeVar("SomeSummary", bound=Summary)


@dataclass(frozen=True)
class Facts:
    """What is known of a run before anything is measured.

    Attributes:
        run: its name; steps: of its checkpoints [T]; clock: what lines are drawn against; clock_values: [T].
        momentum: what makes its updates resemble each other.
        left_out, skipped: tensors and checkpoints that take no part, with the reason.
        unmeasured: weights of the last checkpoint that are left out.
        notes: sentences whoever reads the figures should know.
        jumps: of a run that was re-grounded.
        learning_rate: how it changed, where that matters to the clock.
        look: of a run that is followed while it is written, and so tested again and again.
    """

    run: str
    steps: tuple[int, ...]
    clock: str
    clock_values: np.ndarray
    momentum: Momentum
    left_out: dict[str, str] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)
    jumps: Regrounded | None = None
    unmeasured: int = 0
    notes: tuple[str, ...] = ()
    learning_rate: LearningRate | UnsetType = UNSET
    look: Look | None = None

    @property
    def beta1(self) -> float:
        """The momentum of the null's walks."""
        return self.momentum.effective


def facts_of(
    trajectory: Trajectory, clock: str, *, weights: bool = True, beta1: float | None = None, ema: float | None = None
) -> Facts:
    """The facts of a trajectory; tensors that are left out count only where weights are measured.

    Args:
        beta1, ema: of the optimizer and of averaged weights, as the user says; None for what the run's files say.

    Raises:
        InputError: see `configuration.clock_values` and `configuration.momentum`.
    """
    momentum = configuration.momentum(trajectory, beta1, ema)
    values = configuration.clock_values(trajectory, clock)
    left_out = trajectory.left_out if weights else {}
    return Facts(
        trajectory.name,
        trajectory.steps,
        clock,
        values,
        momentum,
        left_out,
        trajectory.skipped,
        trajectory.regrounded,
        unmeasured=trajectory.unmeasured if weights else 0,
        notes=trajectory.remarks,
        learning_rate=learning_rate.changed(trajectory) if weights and clock == "step" else UNSET,
    )


def summary(
    kind: type[SomeSummary],
    facts: Facts,
    gram: np.ndarray,
    population: Population,
    chance: NullR2,
    chance_histogram: list[int],
    counts: Counts,
    *,
    filter: str = "none",
    judged: np.ndarray | None = None,
    shrunk: Shrunk | None = None,
    **more: Any,
) -> SomeSummary:
    """The summary of one kind, from a Gram [T, T], R² of what was measured and of driftless walks, and the counts.

    Args:
        judged: the Gram of what is left for the test of drift, where that is not all.
        shrunk: of weights, what lies along the first ones and is not in `judged`.
    """
    steps = np.asarray(facts.steps)
    r2 = shares_of(population)
    look = replace(facts.look, shrunk=shrunk) if facts.look else None
    found, test = of_trajectory(gram, steps, facts.clock_values, facts.beta1, facts.jumps, judged, look)
    jumps = jumped(facts.jumps) if facts.jumps else UNSET
    shrinks = UNSET if shrunk is None or test is None else _shrinkage(shrunk, gram, facts, test)
    return kind(
        driftline=__version__,
        kind=kind.what(),
        run=facts.run,
        steps=list(facts.steps),
        clock=facts.clock,
        clock_values=facts.clock_values.tolist(),
        filter=filter,
        parameters=counts,
        r2=r2,
        null_r2=chance,
        r2_histogram=Histograms(run=coarse(population), null=chance_histogram),
        drift=found.drift,
        optimizer=optimizer_of(facts.momentum),
        persistence=found.persistence,
        rank1=found.rank1,
        skill=found.skill,
        regime=found.regime,
        gram=found.gram,
        left_out=facts.left_out,
        skipped={str(step): reason for step, reason in facts.skipped.items()},
        notes=list(facts.notes) or UNSET,
        verdict=with_left_out(
            verdict(test, list(facts.steps), r2, chance, found, jumps, facts.look, shrinkage=shrinks), counts
        ),
        jumps=jumps,
        learning_rate=facts.learning_rate,
        **more,
    )


def shares_of(population: Population) -> R2:
    return R2(**_shares(population))


def null_shares_of(population: Population, **shares: float) -> NullR2:
    """Of driftless walks; `changed_share` and `kept_share` where these were rounded or filtered."""
    return NullR2(**_shares(population), **shares)


def _shares(population: Population) -> dict[str, float]:
    return {
        "mean": population.mean_r2,
        "median": population.quantile(0.5),
        "q25": population.quantile(0.25),
        "q75": population.quantile(0.75),
        "share_above_07": population.share_strong,
    }


def optimizer_of(momentum: Momentum) -> Optimizer:
    """As records have it."""
    return Optimizer(
        adam_beta1=momentum.beta1,
        memory_steps=statistics.optimizer_memory(momentum.effective),
        adam_beta1_from=momentum.source,
        ema=momentum.ema or UNSET,
    )


def coarse(population: Population) -> list[int]:
    return population.histogram.reshape(_HISTOGRAM_BINS, -1).sum(1).tolist()


def of_trajectory(
    gram: np.ndarray,
    steps: np.ndarray,
    clock: np.ndarray,
    beta1: float,
    jumps: Regrounded | None,
    judged: np.ndarray | None = None,
    look: Look | None = None,
) -> tuple[Statistics, drift.DriftTest | None]:
    """`of_run`; of a run with jumps by its longest stretch without one, where all that moved was trained.

    Rank and Gram are of the whole run. A stretch of one or two checkpoints tells nothing, so there is no test.
    """
    if jumps is None:
        return of_run(gram, steps, clock, beta1, judged, look)
    rows = np.flatnonzero(np.isin(steps, jumps.longest))
    if rows.size < _FEWEST:
        return of_run(gram, steps, clock, beta1, judged)[0], None
    left = None if judged is None else statistics.rebased(judged, rows)
    look = replace(look, shrunk=look.shrunk.only(rows)) if look and look.shrunk else look
    part, test = of_run(statistics.rebased(gram, rows), steps[rows], clock[rows], beta1, left, look)
    whole = {"rank1": _rank(gram, steps, clock, beta1), "gram": gram.tolist()}
    return msgspec.structs.replace(part, **whole), test


def _shrinkage(shrunk: Shrunk, gram: np.ndarray, facts: Facts, test: drift.DriftTest) -> Shrinkage | UnsetType:
    """The entry of the verdict that rests on this test, which is without the part along the first weights."""
    if not shrunk.known:
        return UNSET
    steps, part = np.asarray(facts.steps), np.zeros_like(gram) + shrunk.gram
    rate = shrunk.rate(int(steps[-1] - steps[0]))
    rows = np.flatnonzero(np.isin(steps, facts.jumps.longest)) if facts.jumps else np.arange(steps.size)
    part, gram, steps, clock = (
        *(statistics.rebased(one, rows) for one in (part, gram)),
        steps[rows],
        facts.clock_values[rows],
    )
    pairs = statistics.separated_pairs(steps, statistics.optimizer_memory(facts.beta1), at_least=3)
    share, alone = share_of_drift(part, gram, clock, pairs), False
    if not test.found:
        whole = drift.drift_test(gram, steps, clock, facts.beta1) if share is not None and share >= _MOST else None
        alone = whole is not None and whole.found
        share = share if alone else None
    return Shrinkage(share=share, rate=rate, alone=alone)


def of_run(
    gram: np.ndarray,
    steps: np.ndarray,
    clock: np.ndarray,
    beta1: float,
    judged: np.ndarray | None = None,
    look: Look | None = None,
) -> tuple[Statistics, drift.DriftTest | None]:
    """Drift, persistence, rank, skill and regime, each beside chance; and the test that the verdict rests on.

    The test and the persistence length are of `judged`, the Gram of what is left for them, where that is not all. The
    test of a run that is followed may be of its first checkpoints, see `looks`; the figures are of all.
    """
    judged = gram if judged is None else judged
    lengths = np.sqrt(np.clip(np.diag(statistics.increments_gram(gram)), 0, None))
    null_gram = null.matched_gram(steps, beta1, lengths)
    test = drift.drift_test(judged, steps, clock, beta1)
    pieces = [
        StraightPiece(from_=int(steps[piece.first]), to=int(steps[piece.last]), r2=piece.r2)
        for piece in regime.segments(gram, clock, null_gram)
    ]
    found = Statistics(
        drift=_drift(gram, null_gram, steps, clock, beta1, test),
        persistence=_persistence(judged, steps, beta1, test),
        rank1=_rank(gram, steps, clock, beta1),
        skill=_skill(gram, null_gram, steps, clock),
        regime=Regime(segments=pieces),
        gram=gram.tolist(),
    )
    if look is not None:
        return found, looks.looked(look, test, gram, steps, clock, beta1)
    if test is not None and test.found:
        test = replace(test, later=drift.without_start(judged, steps, clock, beta1))
    if test is not None and test.linear:
        test = replace(test, holds_up_to=drift.breakdown(judged, steps, clock, beta1))
    return found, test


def _drift(
    gram: np.ndarray,
    null_gram: np.ndarray,
    steps: np.ndarray,
    clock: np.ndarray,
    beta1: float,
    test: drift.DriftTest | None,
) -> Drift:
    pairs = statistics.separated_pairs(steps, statistics.optimizer_memory(beta1))
    increments, walk = statistics.increments_gram(gram), null.increment_correlation(steps, beta1)
    cosine, cosine_sd = statistics.mean_cosine(increments, pairs)
    exponent, exponent_error = statistics.growth_exponent(gram, clock)
    drift_per_clock, noise_to_drift = statistics.drift_and_noise(gram, clock, pairs)
    return Drift(
        increment_cosine=cosine,
        increment_cosine_sd=cosine_sd,
        increment_pairs=int(pairs[0].size),
        adjacent_cosine=float(np.diag(statistics.cosines(increments), 1).mean()),
        growth_exponent=exponent,
        growth_exponent_se=exponent_error,
        noise_to_drift=noise_to_drift,
        drift_per_clock=drift_per_clock,
        effective_dimension=test.effective_dimension if test else math.nan,
        null=ChanceOfDrift(
            increment_cosine=statistics.mean_cosine(walk, pairs)[0],
            adjacent_cosine=float(np.diag(walk, 1).mean()),
            growth_exponent=statistics.growth_exponent(null_gram, clock)[0],
        ),
    )


def _persistence(gram: np.ndarray, steps: np.ndarray, beta1: float, test: drift.DriftTest | None) -> PersistenceFigures:
    return persistence_figures(persistence.persistence(gram, steps, beta1) if test else None)


def persistence_figures(kept: persistence.Persistence | None) -> PersistenceFigures:
    if kept is None:
        return PersistenceFigures(length=None, interval=[None, None], at_least=False)
    return PersistenceFigures(length=kept.length, interval=[kept.low, kept.high], at_least=kept.at_least)


def _rank(gram: np.ndarray, steps: np.ndarray, clock: np.ndarray, beta1: float) -> RankOne:
    lengths = np.sqrt(np.clip(np.diag(statistics.increments_gram(gram)), 0, None))
    energy, coefficient_r2 = statistics.rank_one(gram, clock)
    null_energy, null_coefficient_r2 = statistics.rank_one(null.matched_gram(steps, beta1, lengths), clock)
    return RankOne(
        energy=energy,
        null_energy=null_energy,
        coefficient_r2=coefficient_r2,
        null_coefficient_r2=null_coefficient_r2,
    )


def _skill(gram: np.ndarray, null_gram: np.ndarray, steps: np.ndarray, clock: np.ndarray) -> HeldOutSkill:
    held_out = max(len(steps) // 4, 1)
    return HeldOutSkill(
        cutoff=int(steps[-1 - held_out]),
        targets=steps[-held_out:].tolist(),
        methods={name: float(value) for name, value in skill.held_out_skill(gram, clock).items()},
        null={name: float(value) for name, value in skill.held_out_skill(null_gram, clock).items()},
    )


def jumped(jumps: Regrounded) -> Jumped:
    """What re-grounding makes of the checkpoints, for the summary."""
    return Jumped(
        count=len(jumps.jumps),
        rolled_back=jumps.rolled_back,
        virtual_steps=list(jumps.virtual.values()),
        stretches=[_stretch(stretch) for stretch in jumps.stretches],
        judged=_stretch(jumps.longest),
        sentence=jumps.sentence,
    )


def _stretch(steps: list[int]) -> Stretch:
    return Stretch(from_=steps[0], to=steps[-1], checkpoints=len(steps))
