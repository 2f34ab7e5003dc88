"""Runs that are followed in tests: checkpoints put one by one, and what a call told of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import plain, save_tensors
from driftline.watching.request import Following
from driftline.watching.watch import watch

SHAPES = {"layers.0.up.weight": (64, 50), "layers.0.norm.weight": (50,), "scale": ()}
STEPS = [0, 10, 20, 30, 45, 60, 75, 100]  # uneven


class Told:
    """What a call printed."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.said: list[str] = []

    @property
    def steps(self) -> list[int]:
        return [line["step"] for line in self.lines]


def follow(run: Path | tuple[str, ...], out: Path, told: Told | None = None, **options: Any) -> dict[str, Any] | None:
    """One look at a run whose checkpoints need not rest."""
    arguments = (str(run),) if isinstance(run, Path) else run
    told = told or Told()
    request = Following(arguments, once=True, **{"settle": 0.0, **options})
    found = watch(request, out, show=lambda line: told.lines.append(plain(line)), say=told.said.append)
    return None if found is None else plain(found)


def put(run: Path, step: int, weights: dict[str, np.ndarray], dtype: str = "F32") -> Path:
    """A checkpoint, in place of one that is there."""
    folder = run / f"checkpoint-{step}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_tensors(folder / "model.safetensors", weights, dtype)
    (folder / "config.json").write_text("{}")
    return folder


def same(one: Any, other: Any, tolerance: float = 1e-6) -> None:
    """Two summaries' figures, apart from what only `watch` has, and the verdict, which is provisional there."""
    if isinstance(one, dict):
        for key in one.keys() & other.keys() - {"cost", "watch", "run", "verdict"}:
            same(one[key], other[key], tolerance)
    elif isinstance(one, list) and one and isinstance(one[0], dict):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b, tolerance)
    elif isinstance(one, list) and one and isinstance(one[0], int):  # counts: rounding moves a few to the bin beside
        assert np.abs(np.subtract(one, other)).sum() <= tolerance * np.sum(one)
    elif isinstance(one, list) and one and not isinstance(one[0], str):
        np.testing.assert_allclose(np.array(one, float), np.array(other, float), rtol=tolerance, atol=1e-9)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=tolerance, abs=1e-9, nan_ok=True)
    else:
        assert one == other
