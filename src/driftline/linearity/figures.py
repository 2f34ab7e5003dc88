"""The figures that summaries hold, whatever was measured: weights, log-probs or activations.

All but R² follow from the Gram matrix G [T, T] of the deltas. Keys are a contract; see `docs/outputs.md`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from driftline.checkpoints.jumps import Regrounded
from driftline.linearity import drift, null, persistence, regime, skill, statistics
from driftline.linearity.scan import Population

_FEWEST = 3  # checkpoints of a line
_HISTOGRAM_BINS = 100  # of histograms in the results; the scan's own are finer


def of_r2(population: Population, null_population: Population, null_shares: dict[str, float]) -> dict[str, Any]:
    """R² of what was measured, and of driftless walks; `null_shares`: how many of these changed and were kept."""
    return {
        "r2": shares_of(population),
        "null_r2": shares_of(null_population) | null_shares,
        "r2_histogram": {"run": coarse(population), "null": coarse(null_population)},
    }


def shares_of(population: Population) -> dict[str, float]:
    return {
        "mean": population.mean_r2,
        "median": population.quantile(0.5),
        "q25": population.quantile(0.25),
        "q75": population.quantile(0.75),
        "share_above_0.7": population.share_strong,
    }


def coarse(population: Population) -> list[int]:
    return population.histogram.reshape(_HISTOGRAM_BINS, -1).sum(1).tolist()


def of_trajectory(
    gram: np.ndarray, steps: np.ndarray, clock: np.ndarray, beta1: float, jumps: Regrounded | None
) -> tuple[dict[str, Any], drift.DriftTest | None]:
    """`of_run`; of a run with jumps by its longest stretch without one, where all that moved was trained.

    Rank and Gram are of the whole run. A stretch of one or two checkpoints tells nothing, so there is no test.
    """
    if jumps is None:
        return of_run(gram, steps, clock, beta1)
    judged = np.flatnonzero(np.isin(steps, jumps.longest))
    if judged.size < _FEWEST:
        return of_run(gram, steps, clock, beta1)[0], None
    part, test = of_run(statistics.rebased(gram, judged), steps[judged], clock[judged], beta1)
    return part | {"rank1": _rank(gram, steps, clock, beta1), "gram": gram.tolist()}, test


def of_run(
    gram: np.ndarray, steps: np.ndarray, clock: np.ndarray, beta1: float
) -> tuple[dict[str, Any], drift.DriftTest | None]:
    """Drift, persistence, rank, skill and regime, each beside chance; and the test that the verdict rests on."""
    memory = statistics.optimizer_memory(beta1)
    pairs = statistics.separated_pairs(steps, memory)
    increments = statistics.increments_gram(gram)
    lengths = np.sqrt(np.clip(np.diag(increments), 0, None))
    null_gram = null.matched_gram(steps, beta1, lengths)
    cosine, cosine_sd = statistics.mean_cosine(increments, pairs)
    exponent, exponent_error = statistics.growth_exponent(gram, clock)
    drift_per_clock, noise_to_drift = statistics.drift_and_noise(gram, clock, pairs)
    test = drift.drift_test(gram, steps, clock, beta1)
    kept = persistence.persistence(gram, steps, beta1, test.least_dimension) if test else None
    held_out = max(len(steps) // 4, 1)
    figures = {
        "drift": {
            "increment_cosine": cosine,
            "increment_cosine_sd": cosine_sd,
            "increment_pairs": int(pairs[0].size),
            "adjacent_cosine": float(np.diag(statistics.cosines(increments), 1).mean()),
            "growth_exponent": exponent,
            "growth_exponent_se": exponent_error,
            "noise_to_drift": noise_to_drift,
            "drift_per_clock": drift_per_clock,
            "effective_dimension": test.effective_dimension if test else math.nan,
            "null": {
                "increment_cosine": statistics.mean_cosine(null.increment_correlation(steps, beta1), pairs)[0],
                "adjacent_cosine": float(np.diag(null.increment_correlation(steps, beta1), 1).mean()),
                "growth_exponent": statistics.growth_exponent(null_gram, clock)[0],
            },
        },
        "optimizer": {"adam_beta1": beta1, "memory_steps": memory},
        "persistence": {
            "length": kept.length if kept else math.nan,
            "interval": [kept.low, kept.high] if kept else [math.nan, math.nan],
            "at_least": kept.at_least if kept else False,
        },
        "rank1": _rank(gram, steps, clock, beta1),
        "skill": {
            "cutoff": int(steps[-1 - held_out]),
            "targets": steps[-held_out:].tolist(),
            "methods": {name: float(value) for name, value in skill.held_out_skill(gram, clock).items()},
            "null": {name: float(value) for name, value in skill.held_out_skill(null_gram, clock).items()},
        },
        "regime": {
            "segments": [
                {"from": int(steps[piece.first]), "to": int(steps[piece.last]), "r2": piece.r2}
                for piece in regime.segments(gram, clock, null_gram)
            ]
        },
        "gram": gram.tolist(),
    }
    return figures, test


def _rank(gram: np.ndarray, steps: np.ndarray, clock: np.ndarray, beta1: float) -> dict[str, float]:
    lengths = np.sqrt(np.clip(np.diag(statistics.increments_gram(gram)), 0, None))
    energy, coefficient_r2 = statistics.rank_one(gram, clock)
    null_energy, null_coefficient_r2 = statistics.rank_one(null.matched_gram(steps, beta1, lengths), clock)
    return {
        "energy": energy,
        "null_energy": null_energy,
        "coefficient_r2": coefficient_r2,
        "null_coefficient_r2": null_coefficient_r2,
    }
