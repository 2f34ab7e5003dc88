"""What is said of log-probs, and chance's R²: driftless walks of weights, seen through a softmax or through bf16."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from calibrating.row import Row
from calibrating.side import each
from driftline.checkpoints.dtypes import round_to
from driftline.linearity import null
from driftline.linearity.drift import LEVEL, drift_test
from driftline.linearity.statistics import line_r2
from driftline.linearity.step_sizes import moves_of
from driftline.outputs import series

_STEPS = np.arange(16) * 100
_TOKENS, _WORDS, _DIRECTIONS = 500, 20, 200


def logprobs(seed: int, size: float, drift: float, effect: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, float]:
    """Log-probs [T, tokens] of tokens sampled at the first checkpoint, and the KL from it to the last."""
    rng = np.random.default_rng([seed, 1])
    moves = rng.standard_normal((len(_STEPS) - 1, _DIRECTIONS)) + drift * rng.standard_normal(_DIRECTIONS)
    weights = np.vstack([np.zeros(_DIRECTIONS), moves.cumsum(0)])
    moved = logits + size * (effect @ weights.T).reshape(_TOKENS, _WORDS, -1).transpose(2, 0, 1)
    top = moved.max(-1, keepdims=True)
    logp = moved - top - np.log(np.exp(moved - top).sum(-1, keepdims=True))
    chosen = (np.exp(logp[0]).cumsum(1) > rng.random((_TOKENS, 1))).argmax(1)
    return logp[:, np.arange(_TOKENS), chosen], float((np.exp(logp[0]) * (logp[0] - logp[-1])).sum(1).mean())


def _found(seed: int, size: float, drift: float, effect: np.ndarray, logits: np.ndarray) -> tuple[bool, float]:
    """Whether drift is found in one run's log-probs, and the KL."""
    values, moved = logprobs(seed, size, drift, effect, logits)
    test = drift_test(series.judged(values), _STEPS, _STEPS.astype(float), 0.9, draws=199, seed=seed)
    return test is not None and test.found, moved


def rounded(seed: int, rate: np.ndarray, frozen: float, filter: str) -> tuple[float, float]:
    """Median R² of a driftless run in bf16, and what is printed as chance's."""
    rng, n = np.random.default_rng(seed), 100_000
    start = round_to((0.03 * rng.standard_normal(n)).astype(np.float32), "BF16")
    own = 3e-5 * np.exp(0.5 * rng.standard_normal((n, 1))) * (rng.random((n, 1)) >= frozen)
    path = np.hstack([np.zeros((n, 1)), (own * rate * rng.standard_normal((n, rate.size))).cumsum(1)])
    saved = round_to((start[:, None] + path).astype(np.float32), "BF16").astype(np.float64)
    distinct = 1 + (np.diff(np.sort(saved, axis=1), axis=1) > 0).sum(1)
    kept = saved[(np.ptp(saved, axis=1) > 1e-4) & (distinct >= 4)] if filter == "paper" else saved
    clock = _STEPS.astype(float)
    true = null.population_of(line_r2(clock, kept - kept[:, :1])).quantile(0.5)
    lengths = np.sqrt(np.square(np.diff(saved, axis=1)).sum(0))
    moves = [moves_of(saved[:8000], n, "BF16")]
    return true, null.matched_null_r2(_STEPS, clock, 0.0, moves, filter=filter, lengths=lengths)[0].quantile(0.5)


def rows(runs: int) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    effect = rng.standard_normal((_TOKENS * _WORDS, _DIRECTIONS)) / np.sqrt(_DIRECTIONS)
    logits = rng.standard_normal((_TOKENS, _WORDS)) * np.exp(rng.uniform(-0.5, 1.7, (_TOKENS, 1)))
    for size, drift in ((0.1, 0.0), (0.2, 0.0), (0.4, 0.0), (0.05, 0.3), (0.1, 0.3)):
        seen = each(partial(_found, size=size, drift=drift, effect=effect, logits=logits), runs)
        hits, kl = sum(found for found, _ in seen), sum(moved / runs for _, moved in seen)
        of = f"weights with drift of {drift} of the noise" if drift else "driftless weights"
        what = f"log-probs of {of}, {kl:.2f} nats of KL: drift found"
        yield Row(what, "" if drift else "17 % at .11 nats", hits, runs, at_most=None if drift else LEVEL)
    dropping, few = np.where(np.arange(15) < 5, 1.0, 0.1), max(runs // 10, 3)
    for name, rate, frozen, before in (
        ("a rate that drops to a tenth", dropping, 0.0, ".72 for .55"),
        ("nine weights of ten frozen", np.ones(15), 0.9, ".65 for .60"),
    ):
        found = each(partial(rounded, rate=rate, frozen=frozen, filter="paper"), few)
        hits = sum(abs(true - printed) <= 0.03 for true, printed in found)
        note = f"medians: {np.mean([true for true, _ in found]):.2f}, printed {np.mean([p for _, p in found]):.2f}"
        yield Row(
            f"bf16 and filter, {name}: chance's median R² within .03", before, hits, few, at_least=0.95, note=note
        )
