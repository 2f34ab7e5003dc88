"""The plane of a run from its Gram alone, and what the section of a tensor holds."""

import json
from pathlib import Path

import numpy as np
import pytest

from driftline.report import tensors
from driftline.report.movement import principal_plane
from driftline.report.page import embedded


def test_the_plane_is_that_of_the_singular_vectors(rng: np.random.Generator) -> None:
    weights = np.cumsum(rng.standard_normal((9, 400)) + 0.3 * rng.standard_normal(400), 0)
    deltas = weights - weights[0]
    at, shares = principal_plane(deltas @ deltas.T)
    left, values, _ = np.linalg.svd(weights - weights.mean(0), full_matrices=False)
    expected = left[:, :2] * values[:2]
    np.testing.assert_allclose(np.abs(at), np.abs(expected), atol=1e-8)
    np.testing.assert_allclose(shares, values[:2] ** 2 / (values**2).sum())
    assert (at[-1] >= at[0]).all()


def test_embedded_text_cannot_end_its_script() -> None:
    value = {"name": "</script><!--"}
    html = embedded("x", value)
    assert html.count("<") == 2
    assert json.loads(html.split(">", 1)[1].rsplit("<", 1)[0]) == value


def test_a_tensor_that_stands_still_has_a_section() -> None:
    clock = np.arange(5) * 10.0
    row = {"name": "a", "parameters": 3, "measured": 0, "r2_median": None, "skill": np.nan, "norm": 0.0}
    section = tensors._section(row, np.zeros((5, 5)), clock, [0] * 100, [])
    assert section["samples"] == []
    assert sum(section["r2"]) == 0
    json.loads(embedded("x", section).split(">", 1)[1].rsplit("<", 1)[0])


def test_tensors_are_read_with_their_skill(tmp_path: Path) -> None:
    from conftest import save_tensors
    from driftline.checkpoints.trajectory import open_trajectory
    from driftline.linearity.analysis import analyze

    for step in range(0, 60, 10):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
        line = {"model.layers.0.up.weight": np.full((4, 4), step, float), "norm.weight": np.ones(3)}
        save_tensors(tmp_path / "run" / f"checkpoint-{step}" / "model.safetensors", line)
    analyze(open_trajectory(tmp_path / "run"), tmp_path)
    up, norm = tensors.read(tmp_path, np.arange(0, 60, 10.0), "two-point")
    assert up["skill"] == pytest.approx(1)
    assert up["norm"] == pytest.approx(200)
    assert np.isnan(norm["skill"])
    assert up["section"]["lines"][0] == pytest.approx([0, 50], abs=1e-6)
