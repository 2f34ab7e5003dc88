"""A drift that was found stays found, whatever is seen afterwards, by a call that remembers nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from following import Told, follow, put


def start(run: Path, max_steps: int | None = None) -> None:
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"optimizer": {"adam_beta1": 0.0}}))
    if max_steps:
        row = {"step": 1, "lr": 1e-5, "max_steps": max_steps}
        (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")


def drifting(rng: np.random.Generator, count: int, drift: float = 1.0) -> list[np.ndarray]:
    direction = rng.standard_normal(3000)
    rows = 1e-3 * (rng.standard_normal((count - 1, 3000)) + drift * direction)
    return list(0.02 * rng.standard_normal(3000) + np.concatenate([np.zeros((1, 3000)), rows.cumsum(0)]))


def verdicts(run: Path, out: Path, points: list[np.ndarray], anew: Path) -> list[dict[str, Any]]:
    """The verdict of each call, one checkpoint more in each, and of a last one that sees them all for the first time."""
    found = []
    for number, point in enumerate(points):
        put(run, 10 * number, {"w": point})
        summary = follow(run, out, Told())
        if summary is not None:
            found.append(summary["verdict"])
    summary = follow(run, anew, Told())
    assert summary is not None
    return [*found, summary["verdict"]]


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends"])
@pytest.mark.parametrize("repeated", [3, 8, 9], ids=["among the first", "at a look", "at the last"])
def test_equal_checkpoints_do_not_undo_what_was_found(
    rng: np.random.Generator, tmp_path: Path, repeated: int, ends: bool
) -> None:
    """With a copy no test over all checkpoints can be made."""
    points = drifting(rng, 9)
    points.insert(repeated, points[repeated - 1])
    start(tmp_path / "run", 90 if ends else None)
    found = verdicts(tmp_path / "run", tmp_path / "out", points, tmp_path / "anew")
    assert len(found) == 9  # from two on, and the last anew
    linear = [one["linear"] for one in found]
    first = linear.index(True)
    assert all(linear[first:])
    assert found[-1]["level"] == found[first]["level"]
    assert found[-1]["p"] == found[first]["p"]
    assert "Cannot tell" not in found[-1]["sentence"]
    assert found[-1].get("provisional", False) is not ends


def test_nor_does_the_end(rng: np.random.Generator, tmp_path: Path) -> None:
    """Where nothing but noise came after it, the test over all checkpoints finds nothing."""
    points = drifting(rng, 8)
    noise = 8e-3 * rng.standard_normal((10, 3000))
    points += list(points[-1] + noise.cumsum(0))
    start(tmp_path / "run", 170)
    found = verdicts(tmp_path / "run", tmp_path / "out", points, tmp_path / "anew")
    linear = [one["linear"] for one in found]
    assert all(linear[linear.index(True) :])
    assert "provisional" not in found[-1]
    assert found[-1]["level"] == pytest.approx(0.05 / 16)  # of a look
    said = "It was found by a look at the first checkpoints; the test over all of them does not find it."
    assert said in found[-1]["sentence"]
    assert not any(said in one["sentence"] for one in found[:-2])  # of before the end


def test_of_a_run_that_was_linear_at_no_look_nothing_stays(rng: np.random.Generator, tmp_path: Path) -> None:
    """A copy at the end leaves the verdict of the last look, which is chance."""
    points = drifting(rng, 8, 0.0)
    start(tmp_path / "run", 80)
    found = verdicts(tmp_path / "run", tmp_path / "out", [*points, points[-1]], tmp_path / "anew")
    assert not any(one["linear"] for one in found)
    assert found[-1]["p"] == found[-3]["p"]
    assert found[-1]["sentence"].startswith("Not told from chance")


def test_nor_do_weights_that_shrink_only_later(rng: np.random.Generator, tmp_path: Path) -> None:
    """What shrinks by the end is left out of its test, but not of a look at which it grew."""
    first = 0.02 * rng.standard_normal(3000)
    along = 1e-3 * first / 0.02
    steps = [1.0] * 5 + [-3.0] * 4
    moves = [1e-3 * rng.standard_normal(3000) + way * along for way in steps]
    points = list(first + np.concatenate([np.zeros((1, 3000)), np.cumsum(moves, axis=0)]))
    start(tmp_path / "run")
    found = verdicts(tmp_path / "run", tmp_path / "out", points, tmp_path / "anew")
    linear = [one["linear"] for one in found]
    assert True in linear
    assert all(linear[linear.index(True) :])
    assert found[-1]["p"] == found[linear.index(True)]["p"]
