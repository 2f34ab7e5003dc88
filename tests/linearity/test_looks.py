"""Looks at a run while it is written: few, each at a small level, and the same whenever they are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from driftline.linearity import null, statistics
from driftline.linearity.drift import LEVEL, drift_test
from driftline.linearity.looks import AT_END, EACH, LOOKS, Look, last_look, looked


def gram_of(rng: np.random.Generator, T: int, drift: float) -> np.ndarray:
    rows = rng.standard_normal((T - 1, 500)) + drift * rng.standard_normal(500)
    return statistics.gram_of_increments(rows @ rows.T)


def test_all_looks_together_spend_no_more_than_the_level() -> None:
    assert len(LOOKS) * EACH + AT_END == pytest.approx(LEVEL)
    assert [last_look(count) for count in (4, 5, 7, 8, 500)] == [0, 5, 5, 8, LOOKS[-1]]


def test_between_two_looks_the_verdict_is_that_of_the_former(rng: np.random.Generator) -> None:
    steps = np.arange(16) * 50
    clock = steps.astype(float)
    gram = gram_of(rng, 16, 0.6)
    whole = drift_test(gram, steps, clock, 0.0)
    first = statistics.rebased(gram, np.arange(12))
    expected = drift_test(first, steps[:12], clock[:12], 0.0)
    assert whole is not None
    assert expected is not None
    now = looked(Look(ended=False), whole, gram, steps, clock, 0.0)
    assert now is not None
    assert (now.cosine_p, now.growth_p, now.level) == (expected.cosine_p, expected.growth_p, EACH)
    assert now.linear
    more = np.zeros((31, 31))  # and then nothing but noise: what was found stays found until the end
    more[:15, :15] = statistics.increments_gram(gram)
    noise = rng.standard_normal((16, 500)) * 3
    more[15:, 15:] = noise @ noise.T
    part = more[:29, :29]
    longer, at = statistics.gram_of_increments(part), np.arange(30) * 50
    later = looked(Look(ended=False), drift_test(longer, at, at * 1.0, 0.0), longer, at, at * 1.0, 0.0)
    assert later is not None
    assert (later.cosine_p, later.linear) == (now.cosine_p, True)
    end = looked(Look(ended=True), whole, gram, steps, clock, 0.0)
    assert end is not None
    assert (end.cosine_p, end.level) == (whole.cosine_p, AT_END)
    early = np.arange(4)
    assert looked(Look(ended=False), whole, statistics.rebased(gram, early), steps[:4], clock[:4], 0.0) is None


def test_driftless_walks_are_called_linear_at_some_look_in_at_most_five_of_a_hundred() -> None:
    rng, steps, called = np.random.default_rng(1), np.arange(20) * 20, 0
    for seed in range(60):
        increments = null.simulated_increments(null.increment_correlation(steps, 0.9), 300, 1, rng)[0]
        gram = statistics.gram_of_increments(increments)
        for count in (*LOOKS[:4], 20):
            rows = np.arange(count)
            part, at = statistics.rebased(gram, rows), steps[rows]
            whole = drift_test(part, at, at.astype(float), 0.9, seed=seed)
            test = looked(Look(ended=count == 20), whole, part, at, at.astype(float), 0.9)
            if test is not None and test.linear:
                called += 1
                break
    assert called <= 6  # 5 % is 3; more than 6 has a chance of 3 % at exactly 5 %
