"""The scan against an independent computation: numpy float64 over fully loaded checkpoints, and scipy."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from conftest import NUMPY, walk_weights
from driftline.checkpoints.trajectory import TensorSeries, open_trajectory
from driftline.engines import LocalEngine
from driftline.errors import InputError
from driftline.linearity import kernels
from driftline.linearity import scan as scan_module
from driftline.linearity.scan import histogram_quantile, scan
from driftline.linearity.statistics import cosines, increments_gram, increments_lengths

MakeRun = Callable[..., Path]
SHAPES = {"embed.weight": (200, 16), "layers.0.up.weight": (64, 32), "layers.0.norm.weight": (32,), "scale": ()}


def reference(run: dict[int, dict[str, np.ndarray]], name: str, dtype: str, clock: np.ndarray) -> dict[str, np.ndarray]:
    """R² of every parameter by float64 least squares over whole arrays, and what else the scan reports."""
    W = np.stack([run[step][name].astype(NUMPY[dtype]).astype(np.float64).ravel() for step in run])
    tau = clock - clock.mean()
    centred = W - W.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = (tau @ centred) ** 2 / ((tau @ tau) * (centred**2).sum(0))
    D = W - W[0]
    distinct = 1 + (np.diff(np.sort(W, axis=0), axis=0) > 0).sum(0)
    return {
        "r2": r2,
        "range": np.ptp(W, axis=0),
        "gram": D @ D.T,
        "along_start": D @ W[0],
        "lengths": np.sqrt((D**2).sum(1)),
        "distinct": distinct,
        "kept": (np.diff(W, axis=0) == 0).sum(1),
        "W": W,
    }


@pytest.mark.parametrize(("dtype", "noise"), [("F32", 1e-4), ("BF16", 2e-4), ("F16", 1e-4), ("F8_E4M3", 3e-3)])
@pytest.mark.parametrize(
    "steps",
    [
        [0, 1, 2],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [0, 10, 20, 30, 40, 50],
        [1, 2, 3, 4, 6, 8, 9],
        [0, 3, 4, 50, 51, 90, 100, 300],
        list(range(0, 26, 2)),
    ],
)
def test_agrees_with_float64_over_whole_checkpoints(
    make_run: MakeRun, rng: np.random.Generator, dtype: str, noise: float, steps: list[int]
) -> None:
    run = walk_weights(rng, steps, SHAPES, drift=0.05, noise=noise)
    clock = np.array(steps, float)
    for tensor in scan(open_trajectory(make_run(run, dtype)), engine=LocalEngine(2)):
        expected = reference(run, tensor.name, dtype, clock)
        changed = expected["range"] > 0
        paper = (expected["range"] > 1e-4) & (expected["distinct"] >= 4)
        for population, members in zip(tensor.populations, (changed, paper), strict=True):
            r2 = expected["r2"][members]
            assert population.count == members.sum() == population.histogram.sum()
            if members.any():
                assert population.mean_r2 == pytest.approx(r2.mean(), abs=1e-6)
                clear = np.abs(r2 - 0.7) > 1e-6  # on the threshold itself rounding decides
                assert abs(population.strong - (r2[clear] > 0.7).sum()) <= (~clear).sum()
                # the quantile of a histogram: within a bin of some value of rank q
                for q in (0.25, 0.5, 0.75):
                    low, high = np.quantile(r2, q, method="lower"), np.quantile(r2, q, method="higher")
                    assert low - 1e-3 <= population.quantile(q) <= high + 1e-3
        assert tensor.unchanged == (~changed).sum()
        np.testing.assert_array_equal(
            tensor.distinct, [(np.minimum(expected["distinct"], 4) == k).sum() for k in (1, 2, 3, 4)]
        )
        np.testing.assert_array_equal(tensor.kept, expected["kept"])
        np.testing.assert_allclose(tensor.gram, expected["gram"], rtol=1e-5, atol=1e-6 * np.abs(expected["gram"]).max())
        start = expected["W"][0]
        assert tensor.start_square == pytest.approx(start @ start, rel=1e-5)
        error = 1e-6 * np.sqrt(start @ start) * expected["lengths"].max()
        np.testing.assert_allclose(tensor.along_start, expected["along_start"], rtol=1e-5, atol=error)
        assert tensor.largest_range == pytest.approx(expected["range"].max(), rel=1e-6)
        for position, values in zip(tensor.positions, tensor.sample, strict=True):
            np.testing.assert_array_equal(values, expected["W"][:, position].astype(np.float32))


def of_every_parameter(tensor: TensorSeries, clock: np.ndarray) -> dict[str, np.ndarray]:
    """R², slope (per unit of clock), range and distinct values (up to 4) of every parameter of one tensor.

    Arrays [N], by the scan's own kernel.
    """
    time = np.asarray(clock, np.float64)
    unit = np.sqrt(np.mean((time - time.mean()) ** 2))
    raw = np.empty((len(tensor.stored), tensor.size), np.float32)
    tensor.read(0, tensor.size, raw, np.empty(8 * tensor.size, np.uint8))
    r2, slope, spread = (np.empty(tensor.size, np.float32) for _ in range(3))
    distinct = np.empty(tensor.size, np.int32)
    tau = ((time - time.mean()) / unit).astype(np.float32)
    kernels.describe(raw, tau, r2, slope, spread, distinct)
    return {"r2": r2, "slope": slope / unit, "range": spread, "distinct": distinct}


def test_the_figures_of_every_parameter_agree_with_scipy(make_run: MakeRun, rng: np.random.Generator) -> None:
    steps = [0, 7, 11, 30, 31]
    run = walk_weights(rng, steps, {"w": (40,)}, drift=0.1)
    clock = np.array(steps) * 0.5
    found = of_every_parameter(open_trajectory(make_run(run))["w"], clock)
    for i in range(40):
        fit = stats.linregress(clock, [run[step]["w"][i].astype(np.float32) for step in steps])
        assert found["r2"][i] == pytest.approx(fit.rvalue**2, abs=2e-6)
        assert found["slope"][i] == pytest.approx(fit.slope, rel=1e-5, abs=1e-9)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scale=st.floats(-35, 35), offset=st.floats(-5, 5), seed=st.integers(0, 10**6), T=st.integers(3, 20))
def test_r2_survives_any_scale(
    tmp_path_factory: pytest.TempPathFactory, scale: float, offset: float, seed: int, T: int
) -> None:
    """Tiny and huge updates leave float32's squares, not the figures."""
    rng = np.random.default_rng(seed)
    raw = (np.cumsum(rng.standard_normal((T, 64)), 0) * 10.0**scale).astype(np.float32)
    tau = np.arange(T, dtype=np.float32) - np.float32((T - 1) / 2)
    r2, slope, spread = (np.empty(64, np.float32) for _ in range(3))
    distinct = np.empty(64, np.int32)
    assert kernels.describe(raw, tau, r2, slope, spread, distinct)
    centred = raw.astype(np.float64) - raw.astype(np.float64).mean(0)
    expected = (tau @ centred) ** 2 / ((tau @ tau) * (centred**2).sum(0))
    np.testing.assert_allclose(r2, expected, atol=1e-5)


@pytest.mark.parametrize("T", [3, 4, 5, 8, 21])
def test_a_parameters_figures_do_not_depend_on_its_place(rng: np.random.Generator, T: int) -> None:
    raw = (rng.normal(0, 0.02, 1500) + np.cumsum(rng.normal(0, 1e-4, (T, 1500)), 0)).astype(np.float32)
    raw[:, ::3] = raw[0, ::3]
    tau = np.arange(T, dtype=np.float32) - np.float32((T - 1) / 2)

    def measured(*bounds: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Of the parts between the bounds: each parameter's figures; what is counted."""
        parts = [np.ascontiguousarray(raw[:, a:b]) for a, b in pairwise(bounds)]
        figures = [np.empty(1500, np.float32) for _ in range(3)] + [np.empty(1500, np.int32)]
        counts = [np.zeros((2, kernels.R2_BINS), np.int64), np.zeros(4, np.int64), np.zeros(T - 1, np.int64)]
        histograms, distinct, kept = counts
        for part, start in zip(parts, bounds, strict=False):
            kernels.describe(part, tau, *(figure[start : start + part.shape[1]] for figure in figures))
            sums, slopes, gram = np.zeros((2, 3)), np.zeros(3), np.zeros((T, T))
            assert kernels.accumulate(part, tau, sums, histograms, distinct, slopes, kept, gram)
        return figures, counts

    whole, cut = measured(0, 1500), measured(0, 1, 300, 811, 1324, 1500)
    for one, other in zip(whole[0] + whole[1], cut[0] + cut[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert whole[1][1][0] == 500
    assert (whole[1][2] >= 500).all()


def test_five_hundred_checkpoints(rng: np.random.Generator, make_run: MakeRun) -> None:
    run = walk_weights(rng, list(range(500)), {"w": (300,)}, drift=0.01)
    (tensor,) = scan(open_trajectory(make_run(run)))
    expected = reference(run, "w", "F32", np.arange(500.0))
    assert tensor.population().mean_r2 == pytest.approx(expected["r2"].mean(), abs=1e-6)
    np.testing.assert_allclose(tensor.gram, expected["gram"], rtol=1e-4, atol=1e-6 * expected["gram"].max())


def test_results_do_not_depend_on_threads_or_on_where_chunks_fall(
    make_run: MakeRun, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    trajectory = open_trajectory(make_run(walk_weights(rng, [0, 1, 2, 3], {"w": (300, 100)})))
    for name, size in {"_CHUNK_BYTES": 1 << 16, "_ROW_BYTES": 1, "_STRETCH_BYTES": 1 << 16}.items():
        monkeypatch.setattr(scan_module, name, size)
    assert len(list(scan_module._stretches(trajectory, 0))) == 8
    (one,), (four,) = scan(trajectory, engine=LocalEngine(1)), scan(trajectory, engine=LocalEngine(4))
    assert one.populations[0].sum_r2 == four.populations[0].sum_r2
    np.testing.assert_array_equal(one.gram, four.gram)
    np.testing.assert_array_equal(one.along_start, four.along_start)
    assert one.start_square == four.start_square
    np.testing.assert_array_equal(one.positions, four.positions)
    monkeypatch.undo()
    (whole,) = scan(trajectory)
    np.testing.assert_array_equal(whole.populations[0].histogram, one.populations[0].histogram)
    np.testing.assert_allclose(whole.gram, one.gram, rtol=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_products_with_weights_whose_squares_leave_float32(
    make_run: MakeRun, rng: np.random.Generator, size: float
) -> None:
    """A mask's constant, say: weights that huge are measured as they were, and what does not move stays exact."""
    start = size * rng.standard_normal(3000)
    run = {step: {"w": start * (1 - 1e-3 * step), "still": np.full(50, 3e38)} for step in (0, 1, 2, 3)}
    found = {tensor.name: tensor for tensor in scan(open_trajectory(make_run(run)))}
    if size > 1:
        W = np.stack([run[step]["w"].astype(np.float32).astype(np.float64) for step in run])
        np.testing.assert_allclose(found["w"].along_start, (W - W[0]) @ W[0], rtol=1e-6)
    assert found["still"].start_square == pytest.approx(50 * 3e38**2, rel=1e-6)
    np.testing.assert_array_equal(found["still"].along_start, np.zeros(4))


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_increments_that_become_small_keep_their_lengths_and_cosines(
    make_run: MakeRun, rng: np.random.Generator, dtype: str
) -> None:
    """A cosine rate that ends at 0: the last increments are less than a ten-thousandth of the way, and not noise."""
    T, n = 60, 60_000
    rate = 1e-3 * (1 + np.cos(np.pi * (np.arange(T - 1) + 0.5) / (T - 1)))
    shared = rng.standard_normal(n)
    step = rate[:, None] * (shared + rng.standard_normal((T - 1, n)))
    start = 1e-5 * rng.standard_normal(n)
    saved = np.concatenate([[start], start + step.cumsum(0)])
    run = {step: {"w": row.astype(np.float32)} for step, row in enumerate(saved)}
    (tensor,) = scan(open_trajectory(make_run(run, dtype)))
    W = reference(run, "w", dtype, np.arange(float(T)))["W"]
    increments = np.diff(W, axis=0) @ np.diff(W, axis=0).T
    lengths = np.sqrt(np.diag(increments))
    assert (lengths[-1] < 1e-4 * np.linalg.norm(W[-1] - W[0])) == (dtype == "F32")
    np.testing.assert_allclose(increments_lengths(tensor.gram), lengths, rtol=1e-4)
    expected = increments / np.outer(lengths, lengths)
    np.testing.assert_allclose(cosines(increments_gram(tensor.gram)), expected, atol=1e-4)


def test_a_tensor_that_pauses_has_equal_products(make_run: MakeRun, rng: np.random.Generator) -> None:
    first, later = rng.standard_normal((2, 40_000)).astype(np.float32)
    rows = [first, first, later, later, first]
    (tensor,) = scan(open_trajectory(make_run({step: {"w": row} for step, row in enumerate(rows)})))
    assert tensor.along_start[0] == tensor.along_start[1] == tensor.along_start[4] == 0
    assert tensor.along_start[2] == tensor.along_start[3] != 0
    np.testing.assert_array_equal(tensor.gram[2], tensor.gram[3])
    assert not increments_gram(tensor.gram)[2].any()


def test_mixed_dtypes_are_read_each_in_its_own(make_run: MakeRun, rng: np.random.Generator) -> None:
    run = walk_weights(rng, [0, 1, 2, 3], {"w": (500,)}, drift=0.5)
    base = make_run({0: run[0]}, "BF16", name="base{}", run="base") / "base0"
    rest = make_run({step: run[step] for step in (1, 2, 3)})
    (tensor,) = scan(open_trajectory(rest, base=base))
    run[0] = {"w": run[0]["w"].astype(NUMPY["BF16"]).astype(np.float64)}
    assert tensor.population().mean_r2 == pytest.approx(
        reference(run, "w", "F32", np.arange(4.0))["r2"].mean(), abs=1e-6
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("step", [0, 10, 30])
def test_weights_that_are_not_finite_are_named(
    make_run: MakeRun, rng: np.random.Generator, bad: float, dtype: str, step: int
) -> None:
    run = walk_weights(rng, [0, 10, 20, 30], {"fine": (10,), "broken": (3000,)})
    run[step]["broken"][2345] = bad
    with pytest.raises(
        InputError, match=rf"checkpoint-{step}/model.safetensors: tensor 'broken' at step {step} .*flat position 2345"
    ):
        list(scan(open_trajectory(make_run(run, dtype))))


def test_too_few_checkpoints_are_refused(make_run: MakeRun, rng: np.random.Generator) -> None:
    run = make_run(walk_weights(rng, [0, 10], {"w": (10,)}))
    with pytest.raises(InputError, match="has 2 usable checkpoints: a line needs at least 3"):
        list(scan(open_trajectory(run)))


def test_a_clock_that_stands_still_is_refused(make_run: MakeRun, rng: np.random.Generator) -> None:
    run = make_run(walk_weights(rng, [0, 10, 20], {"w": (10,)}))
    with pytest.raises(
        InputError, match=r"clock does not advance from step 10 to step 20: leave one of the two .* with --steps"
    ):
        list(scan(open_trajectory(run), clock=[0.0, 1.0, 1.0]))


def test_a_checkpoint_that_vanishes_during_the_scan_is_named(make_run: MakeRun, rng: np.random.Generator) -> None:
    run = make_run(walk_weights(rng, [0, 10, 20], {"w": (10,)}))
    trajectory = open_trajectory(run)
    (run / "checkpoint-10" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"checkpoint-10/model\.safetensors cannot be read"):
        list(scan(trajectory))


def test_quantiles_of_a_histogram() -> None:
    histogram = np.zeros(2000, np.int64)
    assert np.isnan(histogram_quantile(histogram, 0.5))
    histogram[[100, 1900]] = 1
    assert histogram_quantile(histogram, 0.25) == pytest.approx(0.05025)
    assert histogram_quantile(histogram, 0.0) == pytest.approx(0.05)
    assert histogram_quantile(histogram, 1.0) == pytest.approx(0.9505)
