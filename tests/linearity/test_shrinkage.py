"""Shrinkage: against explicit projections in float64, on runs whose truth is known, and what the verdict says of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from driftline.checkpoints.trajectory import open_trajectory
from driftline.files.record import write_record
from driftline.forecast.advice import advise
from driftline.forecast.observations import observe
from driftline.linearity.analysis import RunTotals, analyze
from driftline.linearity.drift import DriftTest, Later, drift_test, without_start
from driftline.linearity.scan import scan
from driftline.linearity.shrinkage import Shrunk, share_of_drift
from driftline.linearity.statistics import increments_gram, rebased, separated_pairs
from driftline.linearity.summary import Shrinkage, WeightsSummary, WithoutStart

MakeRun = Callable[..., Path]
STEPS = np.arange(0, 220, 20)
Weights = dict[str, np.ndarray]


def walked(
    rng: np.random.Generator, start: Weights, rates: dict[str, float], *, noise: float, drift: float = 0.0
) -> dict[int, Weights]:
    """Runs with W <- (1 - rate) W + noise at every step: decay as AdamW has it, in exact arithmetic."""
    now = {name: value.copy() for name, value in start.items()}
    towards = {name: rng.standard_normal(value.shape) for name, value in start.items()}
    run = {0: {name: value.copy() for name, value in now.items()}}
    for step in range(1, int(STEPS[-1]) + 1):
        for name in now:
            change = noise * rng.standard_normal(now[name].shape) + drift * noise * towards[name]
            now[name] = (1 - rates.get(name, 0.0)) * now[name] + change
        if step % 20 == 0:
            run[step] = {name: value.copy() for name, value in now.items()}
    return run


def some(rng: np.random.Generator, n: int = 3000) -> Weights:
    """Matrices, and gains of 1 that trainers do not decay."""
    return {
        "up.weight": 0.03 * rng.standard_normal((n // 50, 50)),
        "down.weight": 0.05 * rng.standard_normal((50, n // 50)),
        "norm.weight": np.ones(50),
    }


def test_what_is_left_out_is_the_projection_on_each_tensors_first_weights(
    make_run: MakeRun, rng: np.random.Generator
) -> None:
    run = walked(rng, some(rng), {"up.weight": 1e-4, "down.weight": -1e-4}, noise=1e-6)
    totals, rate = RunTotals(), {}
    for tensor in scan(open_trajectory(make_run(run))):
        totals.add(tensor)
    left = np.zeros((11, 11))
    for name in run[0]:
        W = np.stack([run[step][name].astype(np.float32).astype(np.float64).ravel() for step in run])
        D, unit = W - W[0], W[0] / np.linalg.norm(W[0])
        rate[name] = -(D @ W[0])[-1] / (W[0] @ W[0]) / 200
        if rate[name] > 0:  # what grows stays
            D = D - np.outer(D @ unit, unit)
        left += D @ D.T
    assert rate["up.weight"] == pytest.approx(1e-4, rel=0.02)
    assert rate["down.weight"] == pytest.approx(-1e-4, rel=0.02)
    found = totals.gram - totals.shrunk.gram
    np.testing.assert_allclose(found, left, atol=1e-4 * np.abs(left).max())
    each = np.concatenate([np.full(run[0][name].size, rate[name]) for name in run[0] if rate[name] > 0])
    assert totals.shrunk.rate(200) == pytest.approx(np.median(each), rel=1e-3)


def test_decay_of_noise_is_no_drift(rng: np.random.Generator) -> None:
    """Decay that is found in most runs; without the part along the first weights it is found in a twentieth.

    Of 100 runs at .05, more than 11 in one seed of 100.
    """
    hits = {"whole": 0, "left": 0}
    for seed in range(100):
        rng = np.random.default_rng([7, seed])
        run = walked(rng, some(rng), {"up.weight": 1e-5, "down.weight": 1e-5}, noise=3e-6)
        gram, part = of(run)
        for name, one in (("whole", gram), ("left", gram - part)):
            test = drift_test(one, STEPS, STEPS.astype(float), 0.0, draws=199, seed=seed)
            hits[name] += test is not None and test.found
    assert hits["whole"] > 50
    assert hits["left"] <= 11


def test_drift_is_seen_as_before(rng: np.random.Generator) -> None:
    """Drift in random directions: the projection costs one direction a tensor."""
    hits = np.zeros(2)
    for seed in range(60):
        rng = np.random.default_rng([8, seed])
        run = walked(rng, some(rng), {}, noise=3e-6, drift=0.015)
        gram, part = of(run)
        tests = [drift_test(one, STEPS, STEPS.astype(float), 0.0, draws=199, seed=seed) for one in (gram, gram - part)]
        hits += [test is not None and test.found for test in tests]
    assert 0.5 < hits[0] / 60 < 0.98
    assert hits[1] >= hits[0] - 6


def of(run: dict[int, Weights]) -> tuple[np.ndarray, np.ndarray]:
    """Gram of the deltas and of their parts along the first weights of what shrinks, in float64."""
    gram, part = np.zeros((2, len(run), len(run)))
    for name in run[0]:
        W = np.stack([run[step][name].ravel() for step in run])
        D = W - W[0]
        along = D @ W[0] / np.linalg.norm(W[0])
        gram += D @ D.T
        part += np.outer(along, along) * (along[-1] < 0)
    return gram, part


def shrinkage_of(summary: WeightsSummary) -> Shrinkage:
    assert isinstance(summary.verdict.shrinkage, Shrinkage)
    return summary.verdict.shrinkage


def drift_of(gram: np.ndarray, steps: np.ndarray) -> DriftTest:
    test = drift_test(gram, steps, steps.astype(float), 0.0, draws=199)
    assert test is not None
    return test


def later_of(gram: np.ndarray, steps: np.ndarray) -> Later:
    later = without_start(gram, steps, steps.astype(float), 0.0)
    assert later is not None
    return later


def test_the_verdict_says_that_it_is_shrinkage(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    run = walked(rng, some(rng), {"up.weight": 1e-4, "down.weight": 1e-4}, noise=3e-6)
    summary = analyze(open_trajectory(make_run(run)), tmp_path, beta1=0.0)
    said, shrinkage = summary.verdict, shrinkage_of(summary)
    assert not said.linear
    assert shrinkage.alone
    assert shrinkage.rate == pytest.approx(1e-4, rel=0.05)
    assert shrinkage.share is not None
    assert shrinkage.share > 0.95
    assert "Not told from chance but for shrinkage" in said.sentence
    assert "9.9e-05 are lost per step, as by weight decay" in said.sentence


def test_drift_and_shrinkage_are_told_apart(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    """Both, with a share known from how the run was made."""
    start = some(rng)
    run = walked(rng, start, {"up.weight": 1e-4, "down.weight": 1e-4}, noise=3e-6, drift=1.0)
    summary = analyze(open_trajectory(make_run(run)), tmp_path, beta1=0.0)
    decay = sum(float(np.sum((1e-4 * start[name]) ** 2)) for name in ("up.weight", "down.weight"))
    true = decay / (decay + sum(3e-6**2 * value.size for value in start.values()))
    assert summary.verdict.linear
    assert shrinkage_of(summary).share == pytest.approx(true, abs=0.05)
    assert not shrinkage_of(summary).alone
    assert "lies along the first weights" in summary.verdict.sentence


def test_growth_is_drift(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    """No decay makes weights grow."""
    run = walked(rng, some(rng), dict.fromkeys(some(rng), -0.0001), noise=3e-6)
    summary = analyze(open_trajectory(make_run(run)), tmp_path, beta1=0.0)
    assert summary.verdict.linear
    assert (shrinkage_of(summary).rate, shrinkage_of(summary).share) == (0.0, 0.0)


def test_observations_have_it_from_a_scan_and_from_an_analysis(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
) -> None:
    """And from one of a former release not at all."""
    run = walked(rng, some(rng), {"up.weight": 1e-4, "down.weight": 1e-4}, noise=3e-6)
    trajectory = open_trajectory(make_run(run))
    write_record(tmp_path / "summary.json", analyze(trajectory, tmp_path, beta1=0.0))
    scanned, read = observe(trajectory), observe(trajectory, analysis=tmp_path)
    np.testing.assert_allclose(read.judged, scanned.judged, rtol=1e-12)
    rounded = {step: {n: v.astype(np.float32).astype(float) for n, v in one.items()} for step, one in run.items()}
    gram, part = of(rounded)
    np.testing.assert_allclose(scanned.judged, gram - part, atol=1e-4 * gram.max())
    rows = [2, 5, 9]
    expected = rebased(gram - part, np.array(rows))
    np.testing.assert_allclose(scanned.only(rows).judged, expected, atol=1e-4 * gram.max())
    path = tmp_path / "tensors.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["along_start", "start_square"]), path)
    former = observe(trajectory, analysis=tmp_path)
    np.testing.assert_array_equal(former.judged, former.total)


def test_advice_sees_no_direction_in_decay(make_run: MakeRun, rng: np.random.Generator) -> None:
    run = walked(rng, some(rng), {"up.weight": 1e-4, "down.weight": 1e-4}, noise=3e-6)
    trajectory = open_trajectory(make_run(run))
    assert not advise(trajectory, observe(trajectory, beta1=0.0)).drift_found


def test_the_share_is_by_separated_increments(rng: np.random.Generator) -> None:
    D = np.cumsum(rng.standard_normal((6, 50)) + 1, axis=0)
    D = D - D[0]
    unit = np.ones(50) / 50**0.5
    steps = np.arange(6) * 10.0
    pairs = separated_pairs(steps, 0.0)
    part = np.outer(D @ unit, D @ unit)
    C, P = increments_gram(D @ D.T), increments_gram(part)
    expected = np.mean([P[k, l] for k, l in zip(*pairs, strict=True)]) / np.mean(
        [C[k, l] for k, l in zip(*pairs, strict=True)]
    )
    assert share_of_drift(part, D @ D.T, steps, pairs) == pytest.approx(expected)


def test_nothing_is_known_of_no_tensors() -> None:
    assert not Shrunk().known
    assert Shrunk().rate(10) == 0.0


def early(rng: np.random.Generator, *, until: int, T: int = 21, n: int = 2000, drift: float = 0.4) -> np.ndarray:
    """Gram of a walk that drifts in its first intervals."""
    towards = rng.standard_normal(n)
    increments = rng.standard_normal((T - 1, n)) + drift * (np.arange(T - 1) < until)[:, None] * towards
    D = np.vstack([np.zeros(n), increments.cumsum(0)])
    return D @ D.T


def test_drift_of_the_start_is_not_found_after_it() -> None:
    """Of 40 runs at .05, more than 6 in one seed of 100."""
    steps, after, whole = np.arange(21) * 20, 0, 0
    for seed in range(40):
        gram = early(np.random.default_rng(seed), until=10)
        whole += drift_of(gram, steps).found
        later = later_of(gram, steps)
        assert later.first == 200
        after += later.test.found
    assert whole == 40
    assert after <= 6


def test_a_weak_steady_drift_is_seldom_said_to_be_of_the_start() -> None:
    """That half a run misses it is no evidence; drift of the first intervals alone is said to be so in most runs."""
    steps = np.arange(21) * 20
    said = {}
    for name, until, drift in (("steady", 21, 0.075), ("start", 8, 0.3)):
        found = missed = of_the_start = 0
        for seed in range(40):
            gram = early(np.random.default_rng([seed, 9]), until=until, drift=drift)
            later = later_of(gram, steps)
            test = replace(drift_of(gram, steps), later=later)
            found += test.found
            missed += test.found and not later.test.found
            of_the_start += test.found and test.of_the_start
        said[name] = of_the_start / found
        assert found > 25
        assert missed > 10, "or there is nothing to be told apart"
    assert said["steady"] < 0.33
    assert said["start"] > 0.8


@pytest.mark.parametrize(
    ("first", "gap", "T", "expected"),
    [
        (0, 100, 21, 1000),
        (0, 50, 21, 500),
        (0, 200, 21, 1000),
        (1000, 100, 21, None),
        (900, 100, 21, 1000),
        (0, 10, 8, None),
    ],
)
def test_what_is_left_out_is_the_warm_up_and_at_most_half(first: int, gap: int, T: int, expected: int | None) -> None:
    steps = first + gap * np.arange(T)
    later = without_start(early(np.random.default_rng(0), until=T, T=T), steps, steps.astype(float), 0.0)
    assert (None if later is None else later.first) == expected


def test_the_verdict_says_that_it_rests_on_the_start(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
) -> None:
    towards = rng.standard_normal(4000)
    now, run = rng.standard_normal(4000), {}
    for k in range(20):
        run[20 * k] = {"w": now.copy()}
        now = now + 1e-4 * (rng.standard_normal(4000) + (2.0 if k < 8 else 0.0) * towards)
    summary = analyze(open_trajectory(make_run(run)), tmp_path, beta1=0.0)
    assert summary.verdict.linear
    assert isinstance(summary.verdict.without_start, WithoutStart)
    assert (summary.verdict.without_start.from_, summary.verdict.without_start.found) == (200, False)
    assert "By the checkpoints from step 200 on alone, drift is not told from chance" in summary.verdict.sentence
