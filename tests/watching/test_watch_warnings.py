"""What is warned of while a run is followed: each once, and nothing where nothing is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from following import Told, follow, put


def moving(
    rng: np.random.Generator,
    K: int,
    *,
    turn: int | None = None,
    faster: int | None = None,
    drift: float = 0.5,
    turned: float = 0.0,
) -> dict[int, dict[str, np.ndarray]]:
    """K intervals of ten steps; from `turn` on the drift is `turned` of what it was; from `faster` on all is 3 times as long."""
    direction, other = rng.standard_normal((2, 3000))
    weights = [0.02 * rng.standard_normal(3000)]
    for k in range(K):
        way = direction if turn is None or k < turn else turned * other
        step = 1e-3 * (drift * way + rng.standard_normal(3000))
        weights.append(weights[-1] + step * (3 if faster is not None and k >= faster else 1))
    return {10 * k: {"w": value} for k, value in enumerate(weights)}


def warnings_of(weights: dict[int, dict[str, np.ndarray]], folder: Path) -> list[dict[str, Any]]:
    run = folder / "run"
    for step, tensors in weights.items():
        put(run, step, tensors)
    (run / "run.json").write_text(json.dumps({"optimizer": {"adam_beta1": 0.0}}))
    told = Told()
    summary = follow(run, folder / "out", told)
    assert summary is not None
    warnings = summary["watch"]["warnings"]
    assert told.said == [f"warning: {warning['sentence']}" for warning in warnings]
    return warnings


def test_longer_increments_are_warned_of_once(rng: np.random.Generator, tmp_path: Path) -> None:
    warnings = warnings_of(moving(rng, 18, faster=13), tmp_path)
    assert [w["since"] for w in warnings if w["kind"] == "length"] == [130]
    assert next(w for w in warnings if w["kind"] == "length")["at"] == 160
    assert not [w for w in warnings if w["kind"] in ("collapse", "direction lost")]


def test_a_direction_that_is_lost_is_warned_of_once(rng: np.random.Generator, tmp_path: Path) -> None:
    warnings = warnings_of(moving(rng, 22, turn=14, drift=1.0), tmp_path)
    assert [w["since"] for w in warnings if w["kind"] == "direction lost"] == [pytest.approx(140, abs=10)]


def test_no_drift_in_twelve_checkpoints_is_warned_of_once(rng: np.random.Generator, tmp_path: Path) -> None:
    warnings = warnings_of(moving(rng, 14, drift=0.0), tmp_path)
    assert [(w["kind"], w["at"]) for w in warnings] == [("no drift", 110)]


def test_leaving_the_straight_line_is_warned_of(rng: np.random.Generator, tmp_path: Path) -> None:
    warnings = warnings_of(moving(rng, 22, turn=14, drift=1.0, turned=1.0), tmp_path)
    bends = [w for w in warnings if w["kind"] == "bend"]
    assert [w["since"] for w in bends] == [pytest.approx(140, abs=10)]
    assert bends[0]["at"] <= 200


def test_straight_and_driftless_runs_are_left_alone(rng: np.random.Generator, tmp_path: Path) -> None:
    for drift in (0.0, 0.5):
        assert warnings_of(moving(rng, 10, drift=drift), tmp_path / str(drift)) == []
