"""No page grows over 2 MB, however large the model, long the run, or many the tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import save_tensors, walk_weights
from driftline.checkpoints.trajectory import open_trajectory
from driftline.forecast.backtest import measure, write_groups
from driftline.forecast.observations import Observations
from driftline.linearity.analysis import analyze
from driftline.linearity.summary import WeightsSummary
from driftline.report import analysis, backtest, tensors

LARGEST = 2_000_000
MODULES = [
    f"{part}_proj"
    for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.up", "mlp.gate", "mlp.down")
]
NAMES = [f"model.layers.{layer}.{module}.weight" for layer in range(80) for module in MODULES]


@pytest.fixture(params=[20, pytest.param(150, marks=pytest.mark.slow)])
def analysed(request: pytest.FixtureRequest, rng: np.random.Generator, tmp_path: Path) -> tuple[Path, WeightsSummary]:
    """A result of that many checkpoints of 560 tensors, all alike."""
    steps = list(range(0, 10 * request.param, 10))
    for step, weights in walk_weights(rng, steps, {"model.layers.0.a": (9, 9)}, drift=0.3).items():
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
        save_tensors(tmp_path / "run" / f"checkpoint-{step}" / "model.safetensors", weights)
    summary = analyze(open_trajectory(tmp_path / "run"), tmp_path)
    measured = pq.read_table(tmp_path / "tensors.parquet")
    (row,) = measured.to_pylist()
    rows = [row | {"name": name, "layer": int(name.split(".")[2]), "module": name[15:-7]} for name in NAMES]
    pq.write_table(pa.Table.from_pylist(rows, schema=measured.schema), tmp_path / "tensors.parquet")
    return tmp_path, summary


def size(folder: Path) -> int:
    return (folder / "report.html").stat().st_size


def test_of_an_analysis(analysed: tuple[Path, WeightsSummary]) -> None:
    folder, summary = analysed
    analysis.write(folder, summary, command="driftline analyze run --out out")
    assert size(folder) < LARGEST
    shown = tensors.read(folder, np.array(summary["clock_values"]), "two-point")
    assert sum(each["section"] is not None for each in shown) >= 28 * len(MODULES)  # a model of 28 layers, whole


@pytest.mark.parametrize("T", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_of_a_backtest(rng: np.random.Generator, tmp_path: Path, T: int) -> None:
    walk = np.cumsum(rng.standard_normal((T, 300)) + rng.standard_normal(300), 0)
    gram = (walk - walk[0]) @ (walk - walk[0]).T
    observed = Observations(np.arange(T) * 10, np.arange(T) * 10.0, 0.0, {NAMES[0]: gram})
    record, tests = measure(observed, run="run", clock="step")
    write_groups(tmp_path / "groups.parquet", tests, observed.steps)
    one = pq.read_table(tmp_path / "groups.parquet")
    rows = [
        row | {"layer": layer, "module": module} for layer in range(80) for module in MODULES for row in one.to_pylist()
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=one.schema), tmp_path / "groups.parquet")
    backtest.write(tmp_path, record, command="driftline backtest run --out out")
    assert size(tmp_path) < LARGEST
