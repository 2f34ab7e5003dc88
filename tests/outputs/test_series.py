"""Statistics of small matrices: lines, their agreement with the scan's, and the filter's own null."""

import numpy as np
import pytest

from driftline.checkpoints.momentum import Momentum
from driftline.linearity.drift import drift_test
from driftline.linearity.figures import Facts
from driftline.linearity.statistics import line_r2
from driftline.outputs import series
from driftline.outputs.logprobs import summarize

STEPS = list(range(0, 140, 10))
FACTS = Facts("run", tuple(STEPS), "step", np.array(STEPS, float), Momentum(0.0, "run.json"))


def walks(rng: np.random.Generator, n: int, size: float, drift: float = 0.0) -> np.ndarray:
    moves = size * rng.standard_normal((len(STEPS) - 1, n)) + drift * rng.standard_normal(n)
    return np.concatenate([np.zeros((1, n)), np.cumsum(moves, 0)]) - 3.0


def test_lines_are_least_squares(rng: np.random.Generator) -> None:
    values, clock = walks(rng, 50, 0.1), np.array(STEPS, float)
    values[:, 7] = -1.0
    found = series.lines(values, clock)
    np.testing.assert_allclose(found.slope, np.polyfit(clock, values, 1)[0], atol=1e-12)
    assert np.isnan(found.r2[7])
    np.testing.assert_allclose(np.delete(found.r2, 7), line_r2(clock, np.delete(values, 7, 1).T))


def test_driftless_tokens_are_not_called_linear_and_drifting_ones_are(rng: np.random.Generator) -> None:
    for drift, linear in ((0.0, False), (1.0, True)):
        summary = summarize(walks(rng, 3000, 0.1, 0.1 * drift), 1, FACTS)
        assert summary.verdict.linear is linear
        assert summary.parameters.measured == 3000
        assert summary.null_r2.median == pytest.approx(0.447, abs=0.01)


def test_the_filter_raises_r2_of_walks_and_its_null_rises_with_it(rng: np.random.Generator) -> None:
    """Driftless tokens of mixed sizes: what passes the filter looks straighter, and so do the null's walks."""
    sizes = rng.choice([0.01, 0.05, 0.2], 20_000)
    values = walks(rng, 20_000, 1.0) * sizes
    found = series.paper_filter(values, FACTS)
    everything = summarize(values, 1, FACTS)
    assert found.r2.median is not None
    assert everything.r2.median is not None
    assert found.r2.median > everything.r2.median + 0.1
    assert found.r2.median == pytest.approx(found.null_r2.median, abs=0.03)
    assert abs(found.kept_share - found.null_kept_share) < 0.02


def test_a_filter_that_keeps_nothing_has_no_figures(rng: np.random.Generator) -> None:
    found = series.paper_filter(walks(rng, 100, 1e-6), FACTS)
    assert found.kept == 0
    assert found.r2.median is None


def softmax_logprobs(seed: int, size: float, drift: float = 0.0, *, of_last: bool = False) -> tuple[np.ndarray, float]:
    """Log-probs [T, tokens] of sampled tokens under logits that follow weights walking in 100 directions, and the KL.

    Args:
        size: of the logits' moves; of_last: tokens are sampled at the last checkpoint, not at the first.
    """
    rng = np.random.default_rng(seed)
    T, tokens, words, directions = len(STEPS), 500, 12, 100
    logits = rng.standard_normal((tokens, words)) * np.exp(rng.uniform(-0.5, 1.5, (tokens, 1)))
    effect = size * rng.standard_normal((tokens * words, directions)) / np.sqrt(directions)
    moves = rng.standard_normal((T - 1, directions)) + drift * rng.standard_normal(directions)
    weights = np.concatenate([np.zeros((1, directions)), np.cumsum(moves, 0)])
    moved = logits + (effect @ weights.T).reshape(tokens, words, T).transpose(2, 0, 1)
    logp = moved - np.log(np.exp(moved).sum(-1, keepdims=True))
    p = np.exp(logp[-1 if of_last else 0])
    chosen = (p.cumsum(1) > rng.random((tokens, 1))).argmax(1)
    return logp[:, np.arange(tokens), chosen], float((np.exp(logp[0]) * (logp[0] - logp[-1])).sum(1).mean())


@pytest.mark.parametrize("of_last", [False, True])
def test_weights_without_drift_have_no_drift_in_their_log_probs(of_last: bool) -> None:
    """Outputs bend, so the log-probs of such a walk decline; with drift in the weights the test still sees it, while the
    outputs have not moved far."""
    clock = np.array(STEPS, float)

    def found(gram: np.ndarray) -> bool:
        test = drift_test(gram, np.array(STEPS), clock, 0.0, draws=199)
        return test is not None and test.found

    runs, plain, left, seen, kl = 20, 0, 0, 0, 0.0
    for seed in range(runs):
        values, moved = softmax_logprobs(seed, 0.5, of_last=of_last)
        deltas = values - values[0]
        plain += found(deltas @ deltas.T)
        left += found(series.judged(values))
        seen += found(series.judged(softmax_logprobs(seed, 0.1, 0.5, of_last=of_last)[0]))
        kl += moved / runs
    assert 0.1 < kl < 2
    assert left <= 2
    assert seen >= 0.6 * runs
    if not of_last:
        assert plain > 4  # without what is taken out it would be called drift


def test_what_is_taken_out_is_said(rng: np.random.Generator) -> None:
    sentence = summarize(walks(rng, 3000, 0.1), 1, FACTS).verdict.sentence
    assert "leaves out what all tokens do alike" in sentence
