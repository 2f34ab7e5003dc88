"""`analyze` as a whole: the contract's keys, and figures that agree with an independent computation."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_scan import SHAPES, reference

from conftest import plain, walk_weights
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.forecast.observations import observe
from driftline.linearity.analysis import analyze

MakeRun = Callable[..., Path]
STEPS = list(range(0, 200, 20))


def test_summary_agrees_with_an_independent_computation(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
) -> None:
    run = walk_weights(rng, STEPS, SHAPES, drift=0.2)
    summary = plain(analyze(open_trajectory(make_run(run)), tmp_path))
    references = [reference(run, name, "F32", np.array(STEPS, float)) for name in SHAPES]
    r2 = np.concatenate([r["r2"] for r in references])
    gram = sum(r["gram"] for r in references)
    assert summary["r2"]["mean"] == pytest.approx(r2.mean(), abs=1e-6)
    assert summary["r2"]["share_above_0.7"] == pytest.approx((r2 > 0.7).mean(), abs=1e-6)
    for key, q in (("median", 0.5), ("q25", 0.25), ("q75", 0.75)):
        assert summary["r2"][key] == pytest.approx(np.quantile(r2, q), abs=1e-3)
    np.testing.assert_allclose(summary["gram"], gram, rtol=1e-5, atol=1e-9)
    counts = {"total": r2.size, "measured": r2.size, "unchanged": 0, "filtered": 0}
    assert counts.items() <= summary["parameters"].items()
    assert summary["rank1"]["energy"] == pytest.approx(np.linalg.eigvalsh(gram)[-1] / np.trace(gram))
    assert summary["verdict"]["linear"] is True
    assert "Linear from step 0 to 180" in summary["verdict"]["sentence"]


def test_the_contract_of_summary_json(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    run = make_run(walk_weights(rng, STEPS, SHAPES))
    summary = plain(analyze(open_trajectory(run), tmp_path))
    assert summary["kind"] == "weights"
    assert summary["steps"] == STEPS
    assert (summary["clock"], summary["filter"]) == ("step", "none")
    r2_keys = {"mean", "median", "q25", "q75", "share_above_0.7"}
    assert r2_keys <= summary["r2"].keys()
    assert r2_keys <= summary["null_r2"].keys()
    assert {"increment_cosine", "growth_exponent", "noise_to_drift"} <= summary["drift"].keys()
    assert {"length", "interval"} <= summary["persistence"].keys()
    assert {"energy", "null_energy", "coefficient_r2"} <= summary["rank1"].keys()
    assert {"from", "to", "r2"} == summary["regime"]["segments"][0].keys()
    assert "unchanged_share" in summary["rounding"]
    assert summary["verdict"]["linear"] is False
    assert "Not told from chance" in summary["verdict"]["sentence"]


def test_tensors_parquet(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    run = walk_weights(rng, STEPS, SHAPES, drift=0.2)
    analyze(open_trajectory(make_run(run)), tmp_path)
    rows = {row["name"]: row for row in pq.read_table(tmp_path / "tensors.parquet").to_pylist()}
    assert rows.keys() == SHAPES.keys()
    row, expected = rows["layers.0.up.weight"], reference(run, "layers.0.up.weight", "F32", np.array(STEPS, float))
    assert (row["layer"], row["module"], row["shape"]) == (0, "up", [64, 32])
    assert row["r2_mean"] == pytest.approx(expected["r2"].mean(), abs=1e-6)
    np.testing.assert_allclose(np.reshape(row["gram"], (10, 10)), expected["gram"], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(row["update_norm"], np.sqrt(np.diag(expected["gram"])), rtol=1e-5)
    assert sum(row["r2_histogram"]) == row["measured"] == 64 * 32
    assert len(row["sample_values"]) == 10 * len(row["sample_positions"]) > 0


@pytest.mark.parametrize("first", [0, 100])
def test_the_filter_counts_what_it_removes_and_has_its_own_null(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path, first: int
) -> None:
    """A run from a rounded model (step 0), and one that begins later, where rounding hides part of the first values."""
    run = make_run(
        walk_weights(
            rng, [step + first for step in STEPS], {"w": (200, 200)}, noise=4e-6, start="BF16" if first == 0 else "F32"
        ),
        "BF16",
    )
    (run / "run.json").write_text(json.dumps({"optimizer": {"name": "sgd", "adam_beta1": 0.0}}))
    trajectory = open_trajectory(run)
    plain, paper = analyze(trajectory, tmp_path), analyze(trajectory, tmp_path, filter="paper")
    p = paper["parameters"]
    assert p["total"] == p["measured"] + p["unchanged"] + p["filtered"] == 40_000
    assert p["filtered"] > 0
    assert plain["parameters"]["filtered"] == 0
    assert paper["r2"]["median"] > plain["r2"]["median"]
    assert paper["null_r2"]["median"] > plain["null_r2"]["median"]
    # a driftless run beside the null matched to it: no straightness beyond chance, filter or not
    for summary in (plain, paper):
        assert summary["r2"]["median"] == pytest.approx(summary["null_r2"]["median"], abs=0.05)
        assert summary["parameters"]["kept_share"] == pytest.approx(summary["null_r2"]["kept_share"], rel=0.25)
    assert paper["verdict"]["linear"] is False


def test_the_clock_may_be_the_summed_learning_rate(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    """A run whose updates shrink with the learning rate bends against the step, not against its sum."""
    rates = {step: 1e-3 * (1 - step / 210) ** 2 for step in range(1, 201)}
    direction, start = rng.standard_normal((2, 400))
    steps = list(range(0, 201, 20))
    run = {
        s: {"w": start + direction * sum(rates[k] for k in range(1, s + 1)) + 1e-5 * rng.standard_normal(400)}
        for s in steps
    }
    folder = make_run(run)
    with pytest.raises(InputError, match=r"neither a trainer_state\.json.* has it: use --clock step"):
        analyze(open_trajectory(folder), tmp_path, clock="lr")
    history = [{"step": step, "learning_rate": rate} for step, rate in rates.items()]
    (folder / "checkpoint-200" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    by_step = analyze(open_trajectory(folder), tmp_path)
    by_rate = analyze(open_trajectory(folder), tmp_path, clock="lr")
    assert by_rate["clock_values"][-1] == pytest.approx(sum(rates.values()))
    assert by_rate["r2"]["median"] > 0.999 > by_step["r2"]["median"]
    assert by_rate["drift"]["growth_exponent"] == pytest.approx(1, abs=0.02)


def test_momentum_comes_from_the_run(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    run = make_run(walk_weights(rng, STEPS, {"w": (500,)}))
    assert plain(analyze(open_trajectory(run), tmp_path))["optimizer"] == {
        "adam_beta1": 0.9,
        "adam_beta1_from": "assumed",
        "memory_steps": pytest.approx(28.4, abs=0.1),
    }
    (run / "run.json").write_text(json.dumps({"optimizer": {"name": "sgd", "adam_beta1": 0.0}}))
    assert analyze(open_trajectory(run), tmp_path)["optimizer"]["memory_steps"] == 0
    told = plain(analyze(open_trajectory(run), tmp_path, beta1=0.5, ema=0.9))
    assert {"adam_beta1": 0.5, "adam_beta1_from": "--beta1", "ema": 0.9}.items() <= told["optimizer"].items()
    assert told["optimizer"]["memory_steps"] > 28.4  # longer than the average's alone
    observed = observe(open_trajectory(run), beta1=0.5, ema=0.9)
    assert math.log(0.05) / math.log(observed.beta1) == pytest.approx(told["optimizer"]["memory_steps"])
    with pytest.raises(InputError, match="--ema 1 is no decay"):
        analyze(open_trajectory(run), tmp_path, ema=1.0)


def test_a_verdict_says_how_large_the_drift_is_and_what_it_withstands(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
) -> None:
    """Hidden momentum of .97 at checkpoints 20 steps apart, assumed to be .9: called linear, but not beyond."""
    momentum, position, run = np.zeros(40_000), np.zeros(40_000), {}
    for step in range(-200, 241):
        momentum = 0.97 * momentum + rng.standard_normal(40_000)
        position = position + momentum * (step > 0)
        if step >= 0 and step % 20 == 0:
            run[step] = {"w": (1e-3 * position).astype(np.float32)}
    fooled = plain(analyze(open_trajectory(make_run(run)), tmp_path))["verdict"]
    assert fooled["linear"]
    assert 0.9 <= fooled["holds_up_to_beta1"] <= 0.97
    assert (
        f"This holds up to a momentum of beta1 = {fooled['holds_up_to_beta1']:g}".replace("0.", ".")
        in fooled["sentence"]
    )
    assert fooled["effect"]["cosine"] > 0.05
    assert not fooled["effect"]["negligible"]


@pytest.mark.parametrize("T", [3, 4, 5])
def test_short_runs_are_measured_but_not_judged(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path, T: int
) -> None:
    run = make_run(walk_weights(rng, STEPS[:T], {"w": (500,)}, drift=1.0), run=f"run{T}")
    summary = plain(analyze(open_trajectory(run), tmp_path))
    assert summary["r2"]["median"] > 0.9
    if T < 5:
        assert summary["verdict"] == {"linear": False, "sentence": summary["verdict"]["sentence"]}
        assert "too few to tell drift from chance" in summary["verdict"]["sentence"]
    assert math.isfinite(summary["rank1"]["energy"])


def test_a_run_that_does_not_change_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run({step: {"w": np.ones(10)} for step in (0, 1, 2)})
    with pytest.raises(InputError, match="no weight changes between step 0 and 2"):
        analyze(open_trajectory(run), tmp_path)


def test_a_run_that_stands_still_for_a_while_is_measured(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
) -> None:
    run = walk_weights(rng, STEPS, {"w": (500,)}, drift=1.0)
    run[60] = run[40]
    summary = analyze(open_trajectory(make_run(run)), tmp_path)
    assert summary["rounding"]["unchanged_share_per_interval"][2] == 1
    assert summary["verdict"]["linear"] is False
    assert "stands still" in summary["verdict"]["sentence"]


def test_a_filter_that_removes_everything_is_refused(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
) -> None:
    run = make_run(walk_weights(rng, [0, 1, 2, 3], {"w": (50,)}, noise=1e-7))
    with pytest.raises(InputError, match="no weight passes --filter paper: use --filter none"):
        analyze(open_trajectory(run), tmp_path, filter="paper")
