"""Studies that need no training: what the filter does to walks, and what rank says of them."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import walk_weights
from driftline.checkpoints.trajectory import open_trajectory
from driftline.report import study as page
from driftline.studies import filter_bias, rank
from driftline.studies.study import run_study

MakeRun = Callable[..., Path]


def test_the_filter_makes_driftless_walks_look_straight() -> None:
    """In float32 a plain walk has Nelson and Kang's .44; what the filter keeps of it in bf16 far more."""
    rng = np.random.default_rng(1)
    row = filter_bias.simulated(0.0, 1e-4, 50_000, rng)
    assert row.exact.mean == pytest.approx(0.44, abs=0.02)
    assert row.kept_share < 0.4
    assert row.kept is not None
    assert row.kept.median > row.exact.median + 0.15
    large = filter_bias.simulated(0.0, 1e-2, 50_000, rng)
    assert large.kept_share > 0.99
    assert large.kept is not None
    assert large.kept.median == pytest.approx(large.exact.median, abs=0.02)
    tiny = filter_bias.simulated(0.0, 1e-9, 5_000, rng)
    assert tiny.kept is None


def test_the_filter_is_the_one_of_the_scan() -> None:
    rows = np.array([[0, 5e-5, 9e-5, 2e-5], [0, 2e-4, 1e-4, 3e-4], [0, 2e-4, 0, 2e-4]], np.float32)
    assert filter_bias.passing(rows).tolist() == [False, True, False]


def test_a_walk_is_nearly_of_rank_one_and_forecasts_nothing(make_run: MakeRun, rng: np.random.Generator) -> None:
    steps = list(range(0, 400, 10))
    walk = open_trajectory(make_run(walk_weights(rng, steps, {"a": (60, 500)})))
    rows = rank.of_run("walk", walk)
    assert [row.rank for row in rows] == [1, 2, 3, 5]
    assert rows[0].energy == pytest.approx(8 / math.pi**2, abs=0.03)
    assert rows[0].null_energy == pytest.approx(8 / math.pi**2, abs=0.12)  # its null has momentum
    assert rows[0]["skill"] < 0.1
    assert rows[3]["energy"] > rows[0]["energy"]


def test_a_drifting_run_is_told_from_its_null(make_run: MakeRun, rng: np.random.Generator) -> None:
    steps = list(range(0, 200, 10))
    row = rank.of_run("run", open_trajectory(make_run(walk_weights(rng, steps, {"a": (60, 50)}, drift=1.0))))[0]
    assert row["energy"] > row["null_energy"] + 0.05
    assert row["skill"] > max(row["null_skill"], 0.5)


def test_sparsity_counts_what_bf16_hides(make_run: MakeRun) -> None:
    first = np.array([1.0, 1.0, 0.5, 0.0], np.float32)
    run = make_run({0: {"a": first}, 10: {"a": first}, 20: {"a": first + np.array([1e-4, 0.1, 0, 1e-30], np.float32)}})
    assert rank.unchanged_in_bf16(open_trajectory(run)) == 0.5


@pytest.mark.parametrize("name", ["filter-bias", "rank"])
def test_both_run_on_a_run_that_is_there(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path, name: str
) -> None:
    run = make_run(walk_weights(rng, list(range(0, 100, 10)), {"model.layers.0.a": (40, 30)}, drift=0.3))
    out = tmp_path / "out"
    record = run_study(name, out, quick=True, runs=[str(run)])
    assert record is not None
    page.write(out, record, command=f"driftline study {name}")
    assert record.study == name
    assert all("nan" not in finding for finding in record.findings)
    html = (out / "report.html").read_text()
    assert "<table>" in html
    assert 'class="chart"' in html
