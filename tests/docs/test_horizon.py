"""What benchmarks/horizon.py compares: the rule, against simulated drifts, and which runs count as one."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from driftline.forecast.useful_rate import Estimate, UsefulRate
from horizon import ends, gains, kind, target


def useful(length: float, kappa: float, drift: float) -> UsefulRate:
    def told(value: float) -> Estimate:
        return Estimate(value, value, value)

    return UsefulRate(told(kappa), told(1.0), told(length), drift, 50, 100.0)


def test_the_rule_is_half_of_where_the_best_forecast_along_the_line_ends() -> None:
    """Drifts simulated step by step; the way still to go, regressed on the way behind, by least squares."""
    length, seen, weights = 25.0, 60, 200_000
    rng, keep = np.random.default_rng(0), math.exp(-1 / length)
    velocity, behind, ahead = rng.standard_normal(weights), np.zeros(weights), np.zeros(weights)
    for step in range(seen + 200):
        way = behind if step < seen else ahead
        way += velocity
        velocity = keep * velocity + math.sqrt(1 - keep**2) * rng.standard_normal(weights)
    moved = float(behind @ behind)
    slope = float(behind @ ahead) / moved
    assert target(useful(length, 1e9, math.sqrt(weights)), seen, moved) == pytest.approx(seen * slope / 2, rel=0.05)


def test_the_rule_stops_where_the_rate_is_the_largest_useful_one() -> None:
    whole = target(useful(40.0, 1e9, 2.0), 50, 900.0)
    assert target(useful(40.0, 4.0, 2.0), 50, 900.0) == pytest.approx(0.75 * whole)
    assert target(useful(40.0, 0.8, 2.0), 50, 900.0) == 0
    straight = target(useful(1e6, 1e9, 2.0), 50, (2.0 * 50) ** 2)
    assert straight == pytest.approx(5e5, rel=1e-3)  # half of the persistence


def test_prefixes_and_means_are_by_run() -> None:
    assert ends(range(0, 61, 4)) == [9, 12, 15]
    assert ends(range(0, 61, 10)) == []
    assert kind("strategy, grpo, qwen2, 3e-05, batch 8, seed 1") == "rates above 1e-5"
    assert kind("sums, grpo, qwen2, 3e-05, batch 8, seed 1") == "sums lab"
    points = [
        {"run": "a", "last": 10, "rule": 8.0, "today": 4.0},
        {"run": "a", "last": 20, "rule": 5.0, "today": 5.0},  # equal: not scored
        {"run": "a", "last": 30, "rule": None, "today": 5.0},  # the rule says nothing
        {"run": "b", "last": 10, "rule": 0.0, "today": 0.0},
    ]
    scores = {("a", 10, 8.0): {"sampled": 0.7}, ("a", 10, 4.0): {"sampled": 0.5}}
    found = gains(points, scores, "rule", "sampled")
    assert {run: one - other for run, (one, other) in found.items()} == {"a": pytest.approx(0.1), "b": 0}


def test_the_table_is_what_the_scores_say() -> None:
    """Gains by run over again from the rows themselves, of a rule and of today's horizon."""
    evidence = Path(__file__).parents[2] / "docs" / "evidence"
    points, rows = (
        [json.loads(line) for line in (evidence / "horizon" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("points", "scores")
    )
    scores = {(row["run"], row["last"], row["horizon"]): row["sampled"] for row in rows}
    by_run: dict[str, list[float]] = {}
    for point in points:
        one, other = (scores.get((point["run"], point["last"], point[name])) for name in ("again", "today"))
        told = one - other if one is not None and other is not None else 0.0 if not point["drift"] else math.nan
        by_run.setdefault(point["run"], []).append(told)
    means = [np.mean(gains) for gains in by_run.values()]
    found = json.loads((evidence / "horizon.json").read_text())["rows"][0]
    assert found["runs"] == np.isfinite(means).sum() == 22
    assert found["again, sampled"].startswith(f"{np.nanmean(means):+.3f}".replace("0.", "."))
