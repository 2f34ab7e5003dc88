"""Back-tests against errors computed from weights; the recommended horizon on walks and on lines."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from conftest import plain, walk_weights
from driftline import open_trajectory
from driftline.checkpoints.trajectory import Trajectory
from driftline.errors import InputError
from driftline.forecast.backtest import backtest, measure, score, write_groups
from driftline.forecast.extrapolators import methods
from driftline.forecast.observations import Observations, observe
from driftline.linearity.analysis import analyze
from driftline.linearity.summary import PersistenceFigures


def observed_of(weights: dict[str, np.ndarray], steps: np.ndarray, beta1: float = 0.0) -> Observations:
    deltas = {name: values - values[0] for name, values in weights.items()}
    return Observations(steps, steps.astype(float), beta1, {name: d @ d.T for name, d in deltas.items()})


def walk(rng: np.random.Generator, T: int, n: int, drift: float = 0.0) -> np.ndarray:
    return np.cumsum(rng.standard_normal((T, n)) + drift * rng.standard_normal(n), 0)


STEPS = np.array([0, 10, 20, 40, 50, 70, 80])


@pytest.mark.parametrize("method", methods().values(), ids=lambda method: method.name)
def test_every_score_is_that_of_the_weights(rng: np.random.Generator, method) -> None:
    names = ["model.layers.0.up.weight", "model.layers.0.up.bias", "model.layers.1.up.weight", "model.norm.weight"]
    weights = {name: walk(rng, 7, n, 0.5) for name, n in zip(names, (200, 20, 150, 30), strict=True)}
    observed = observed_of(weights, STEPS)
    groups = score(observed, method)
    assert set(groups) == {(0, "up"), (0, "up.bias"), (1, "up"), (None, "norm")}
    whole = np.concatenate(list(weights.values()), axis=1)
    fitted = {} if method.per == "run" else weights
    pairs = [(c, t) for c in range(2, 6) for t in range(c + 1, 7)]
    for index, (cutoff, target) in enumerate(pairs):
        clock = STEPS[: cutoff + 1].astype(float)

        def forecast(
            values: np.ndarray, cutoff: int = cutoff, clock: np.ndarray = clock, target: int = target
        ) -> np.ndarray:
            seen = values[: cutoff + 1]
            source = seen if fitted else whole[: cutoff + 1]
            deltas = source - source[0]
            return method.extrapolate(clock, deltas @ deltas.T, float(STEPS[target])) @ seen

        guesses = {name: forecast(values) for name, values in weights.items()}
        guess = np.concatenate(list(guesses.values()))
        move, true = guess - whole[cutoff], whole[target] - whole[cutoff]
        found = list(groups.values())
        error = sum(scores.error[index] for scores in found)
        hold = sum(scores.hold_error[index] for scores in found)
        np.testing.assert_allclose(error, ((guess - whole[target]) ** 2).sum(), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(hold, (true**2).sum(), rtol=1e-9)
        run = found[0] + found[1] + found[2] + found[3]
        np.testing.assert_allclose(run.skill[index], 1 - ((move - true) ** 2).sum() / (true**2).sum(), atol=1e-6)
        if (move**2).sum() > 0:
            cosine = move @ true / np.sqrt((move @ move) * (true @ true))
            np.testing.assert_allclose(run.cosine[index], cosine, atol=1e-6)
        one = groups[1, "up"]
        layer = weights["model.layers.1.up.weight"]
        relative = np.linalg.norm(guesses["model.layers.1.up.weight"] - layer[target]) / np.linalg.norm(
            layer[target] - layer[cutoff]
        )
        np.testing.assert_allclose(one.relative_error[index], relative, atol=1e-6)


@pytest.mark.slow
def test_on_driftless_walks_no_horizon_is_recommended() -> None:
    """The issue of trust: at least 95 of 100 seeded walks, all methods together, with and without momentum."""
    wrong = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        T, beta1 = (8, 12, 20)[seed % 3], (0.0, 0.9)[seed % 2]
        moves, momentum = [], np.zeros(500)
        for _ in range(20 * T):
            momentum = beta1 * momentum + rng.standard_normal(500)
            moves.append(momentum)
        weights = np.cumsum(moves, 0)[19::20]
        observed = observed_of({"w": weights}, np.arange(T) * 20, beta1)
        tests = backtest(observed)
        wrong += tests.best != "hold"
    assert wrong <= 5


def test_on_lines_the_recommended_horizon_grows_with_drift_over_noise() -> None:
    """Mean over ten runs. Two-point needs drift of about half the noise of an interval; the best method, which
    weighs them, far less. Without drift there is no horizon at all."""

    def reach(method: str, drift: float) -> float:
        found = []
        for seed in range(10):
            rng = np.random.default_rng([seed, int(10 * drift)])
            observed = observed_of({"w": walk(rng, 16, 500, drift)}, np.arange(16) * 10)
            found.append(backtest(observed, only=[method]).horizons[method])
        return float(np.mean(found))

    two_point = [reach("two-point", drift) for drift in (0.0, 0.5, 0.7, 1.5)]
    assert two_point[0] == 0
    assert two_point[0] < two_point[1] < two_point[2] <= two_point[3]
    assert reach("damped", 0.0) == 0
    assert reach("damped", 0.1) < reach("damped", 0.3)


def test_the_record_and_the_groups_on_disk(rng: np.random.Generator, tmp_path: Path) -> None:
    weights = {"model.layers.0.up.weight": walk(rng, 12, 300, 1.0), "model.norm.weight": walk(rng, 12, 30, 1.0)}
    observed = observed_of(weights, np.arange(12) * 10)
    record, tests = measure(observed, run="run", clock="step")
    write_groups(tmp_path / "groups.parquet", tests, observed.steps)
    saved = plain(record)
    assert saved["recommended_horizon"] == record.recommended_horizon > 0
    assert saved["best_method"] in saved["horizons"]
    assert {"method", "cutoff", "horizon", "skill", "relative_error", "cosine"} == set(saved["skill"][0])
    assert {(row["cutoff"], row["horizon"]) for row in saved["skill"]} == {
        (c, t - c) for c in range(20, 110, 10) for t in range(c + 10, 120, 10)
    }
    groups = pq.read_table(tmp_path / "groups.parquet")
    assert groups.num_rows == 2 * len(saved["skill"])
    assert "damped" in saved["sentence"] or saved["best_method"] != "damped"


def test_the_persistence_length_is_that_of_analyze_whatever_the_clock(
    make_run: Callable[..., Path], rng: np.random.Generator, tmp_path: Path
) -> None:
    """The same key in both records, always in steps: with a rate that falls to a tenth, clock and steps differ."""
    steps = list(range(0, 200, 10))
    run = make_run(walk_weights(rng, steps, {"w": (30, 20)}, drift=0.3))
    history = [{"step": step, "learning_rate": 1.0 if step <= 60 else 0.1} for step in range(1, 191)]
    (run / "checkpoint-190" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    trajectory = open_trajectory(run)
    by_steps = persistence_of(tmp_path / "step", trajectory, "step")
    assert persistence_of(tmp_path / "lr", trajectory, "lr") == by_steps
    assert by_steps.length


def persistence_of(folder: Path, trajectory: Trajectory, clock: str) -> PersistenceFigures:
    """What the back-tests say of it, after a check that the analysis says the same."""
    folder.mkdir()
    summary = analyze(trajectory, folder, clock=clock)
    record, _ = measure(observe(trajectory, clock=clock), run="run", clock=clock)
    assert record.persistence == summary.persistence
    return record.persistence


def test_a_run_at_rest_has_no_skill_and_no_horizon() -> None:
    tests = backtest(observed_of({"w": np.ones((8, 10))}, np.arange(8) * 10))
    assert tests.best == "hold"
    assert np.isnan(tests.run("two-point").skill).all()


def test_three_checkpoints_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="3 checkpoints: a back-test needs 3 to forecast from and a later one"):
        measure(observed_of({"w": walk(rng, 3, 9)}, np.arange(3)), run="run", clock="step")
