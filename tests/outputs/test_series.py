"""Statistics of small matrices: lines, their agreement with the scan's, and the filter's own null."""

import numpy as np
import pytest

from driftline.checkpoints.momentum import Momentum
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
