"""How often the best of many is recommended by chance."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from driftline.evaluation.choice import choose
from driftline.evaluation.metrics import paired_difference
from driftline.evaluation.records import Control, Difference, Scored, SweepRecord
from driftline.evaluation.sharpening import judge
from driftline.files.record import read_record

SWEEPS = 4000


def difference(mean: float, p_value: float) -> Difference:
    return Difference(mean=mean, interval=[mean - 0.1, mean + 0.1], p_value=p_value)


def normal(z: float) -> Difference:
    """A difference whose z-value is known, with its exact two-sided p-value."""
    return difference(float(z), math.erfc(abs(z) / math.sqrt(2)))


def claimed(rng: np.random.Generator, tried: int, counted: int) -> float:
    """Share of sweeps that say their best forecast goes beyond sharpening, where every forecast does nothing else.

    Each forecast's score and that of the last checkpoint as sure of its tokens, sampled afresh for the best, are drawn
    from one distribution; over that checkpoint as it is sampled, all gain beyond any doubt.
    """
    scores, matched = rng.standard_normal((SWEEPS, tried)).max(1), rng.standard_normal(SWEEPS)
    beyond = (scores - matched) / math.sqrt(2)
    return float(np.mean([judge(normal(9.0), normal(z), counted) == "gain" for z in beyond]))


@pytest.mark.parametrize("tried", [1, 4, 16])
def test_forecasts_that_only_sharpen_are_seldom_said_to_do_more(tried: int) -> None:
    share = claimed(np.random.default_rng(0), tried, tried)
    assert share + 2 * math.sqrt(share * (1 - share) / SWEEPS) < 0.05


def test_without_counting_what_was_tried_they_would_often_be() -> None:
    assert claimed(np.random.default_rng(0), 16, 1) > 0.08


@pytest.mark.parametrize("tried", [1, 8])
def test_checkpoints_that_are_no_better_are_seldom_taken(tried: int) -> None:
    """By successive halving on the problems that the test is made on: half of them choose, all of them decide."""
    rng, problems, sweeps, taken = np.random.default_rng(1), 32, 300, 0
    for _ in range(sweeps):
        base, *others = rng.binomial(4, 0.5, (tried + 1, problems)) / 4
        alive = sorted(others, key=lambda shares: -shares[: problems // 2].mean())[: (tried + 1) // 2]
        best = max(alive, key=lambda shares: shares.mean())
        change = best - base
        signs = rng.choice([-1, 1], (4000, problems))
        by_chance = np.abs((signs * change).mean(1)) >= abs(change.mean()) - 1e-12
        gain = difference(float(change.mean()), (by_chance.sum() + 1) / 4001)
        taken += judge(gain, gain, tried) == "gain"
    assert taken / sweeps < 0.05


def sweep_of(kind: str, verdict: str, gain: Difference, beyond: Difference) -> tuple[Scored, Control]:
    former = Path(__file__).parents[1] / "records" / "former" / "sweep.json"
    record = read_record(former, SweepRecord, what="driftline sweep")
    control = replace(record.control, verdict=verdict, gain=gain, beyond_sharpening=beyond)
    return replace(record.candidates[1], kind=kind), control


@pytest.mark.parametrize(
    ("kind", "gain", "beyond", "better", "surer", "said"),
    [
        ("forecast", (0.2, 0.001), (0.1, 0.001), True, False, "Use the forecast of step 24"),
        ("forecast", (0.2, 0.001), (0.1, 0.02), False, True, "Keep step 16, at temperature"),
        ("forecast", (0.2, 0.02), (0.1, 0.001), False, False, "Keep step 16: the best forecast, of step 24"),
        ("checkpoint", (0.2, 0.001), (0.1, 0.001), True, False, "Take the checkpoint of step 24"),
        ("checkpoint", (0.2, 0.001), (0.1, 0.02), True, True, "Take the checkpoint of step 24"),
        ("checkpoint", (0.2, 0.02), (0.1, 0.02), False, False, "Keep step 16: the best other checkpoint, of step 24"),
        ("checkpoint", (-0.2, 0.001), (-0.1, 0.02), False, False, "Keep step 16: the best other checkpoint"),
    ],
)
def test_what_is_made_of_the_best_of_five(kind, gain, beyond, better, surer, said) -> None:
    gained, more = difference(*gain), difference(*beyond)
    winner, control = sweep_of(kind, judge(gained, more, 5), gained, more)
    best, sentence = choose(winner, 16, [kind] * 4 + ["forecast"], control)
    assert (best.kind, best.better, best.surer) == (kind, better, surer)
    assert best.p_value_corrected == pytest.approx(min(5 * gain[1], 1))
    assert best.beyond_p_value_corrected == pytest.approx(min(5 * beyond[1], 1))
    assert sentence.startswith(said)
    assert f"after counting 5 {'targets' if kind == 'forecast' else 'candidates'} tried" in sentence


def test_the_best_of_hundreds_can_still_be_told_from_chance() -> None:
    """No p-value is below 1 / (ways looked at), so with many candidates more ways are looked at."""
    rng = np.random.default_rng(0)
    better, base = 0.6 + 0.4 * rng.random(64), 0.4 * rng.random(64)
    found = paired_difference(better, base, tried=600)
    assert found.p_value * 600 < 0.05
    assert paired_difference(better, base).p_value * 600 > 0.05  # else this test shows nothing
