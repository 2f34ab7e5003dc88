"""The streaming Gram against the exact one of the steps that it keeps: on NumPy arrays, without torch or a trainer."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from driftline.training.increments import Increments


@pytest.fixture
def path():
    """A walk of 300 parameters over 700 steps, [700, 300]."""
    rng = np.random.default_rng(0)
    return np.cumsum(rng.standard_normal((700, 300)), axis=0).astype(np.float32)


def stream(path, logs_at, rows=16):
    run = Increments(np.empty((rows, path.shape[1]), np.float32), path[0], 0)
    for step in logs_at:
        run.add(path[step], step, 1e-3)
    return run


@pytest.mark.parametrize("last", [1, 2, 16, 17, 18, 40, 69])
def test_long_runs_stay_within_their_rows(path, last):
    """Up to 69 logs in 16 rows: thinned twice and more, the Gram is exactly that of the steps that are kept."""
    run = stream(path, range(10, 10 * last + 1, 10))
    steps = run.steps
    assert len(steps) == len(run.spans) + 1 <= 17
    assert steps[0] == 0
    assert steps[-1] == 10 * last
    inner = np.diff(steps[: run.settled + 1])
    assert (inner == inner[0]).all()
    assert len(run.spans) - run.settled in (0, 1)
    increments = np.diff(path[steps].astype(np.float64), axis=0)
    np.testing.assert_allclose(run.gram, increments @ increments.T, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(run.rows[: len(run.spans)], increments, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(run.spans, np.diff(steps) * 1e-3)


def test_a_restored_stream_goes_on_to_the_same(path):
    """Left where the last row makes way for the next step, and where it stays."""
    for left in (20, 21, 22):
        logs = range(10, 10 * left + 1, 10)
        whole = stream(path, [*logs, 300, 310, 320])
        half, again = stream(path, logs), Increments(np.empty((16, 300), np.float32), path[5], 5)
        assert again.restore(half.state())
        for step in (300, 310, 320):
            again.add(path[step], step, 1e-3)
        assert again.steps == whole.steps
        assert again.spans == whole.spans
        np.testing.assert_array_equal(again.gram, whole.gram)


def test_states_of_another_size_are_left_alone(path):
    state = stream(path, range(10, 130, 10)).state()
    for other in (np.empty((8, 300), np.float32), np.empty((16, 299), np.float32)):
        run = Increments(other, path[0, : other.shape[1]], 7)
        assert not run.restore(state)
        assert run.steps == [7]
        assert run.gram.shape == (0, 0)


def test_products_are_summed_over_processes(path):
    """Two halves of the parameters, each with the products of both."""
    whole = stream(path, (10, 20, 30))
    halves = [stream(path[:, part], (10, 20, 30)) for part in (slice(0, 150), slice(150, 300))]

    seen: list[np.ndarray] = []

    def of_both(products):
        """What the other half would add, for the column that is being made."""
        column = len(seen)
        seen.append(products)
        return products.astype(np.float64) + halves[1].gram[: column + 1, column]

    run = Increments(np.empty((16, 150), np.float32), path[0, :150], 0, of_both)
    for step in (10, 20, 30):
        run.add(path[step, :150], step, 1e-3)
    np.testing.assert_allclose(run.gram, whole.gram, rtol=1e-4)


def test_it_needs_no_torch():
    code = "import sys, driftline.training.increments; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
