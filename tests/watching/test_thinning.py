"""A long run is judged by some of its checkpoints; one more costs the same however many there were."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from following import Told, follow, put, same

from conftest import plain
from driftline.checkpoints.trajectory import open_trajectory
from driftline.linearity import looks
from driftline.linearity.analysis import analyze
from driftline.watching import state, telling, thinning, watch
from driftline.watching.request import Following
from driftline.watching.state import only_watch
from driftline.watching.thinning import KEPT, spread


@pytest.mark.parametrize("jitter", [0, 4])
def test_what_is_judged_is_spread_evenly_however_long_the_run(jitter: int) -> None:
    rng = np.random.default_rng(0)
    kept: list[int] = []
    first: list[int] = []
    apart = 0.0
    for number in range(3000):
        step = 10 * number + int(rng.integers(0, jitter + 1))
        first = [*first, step] if len(first) < thinning.FIRST else first
        kept, apart = spread(sorted({*first, *kept, step}), apart)
        assert kept[-1] == step
        assert len(kept) <= KEPT
        if number < KEPT:
            assert len(kept) == number + 1
    gaps = np.diff(kept)[:-1]
    assert len(kept) > KEPT / 3
    assert gaps.min() >= apart
    assert gaps.max() <= 1.5 * apart


def walk(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    drift, weights = rng.standard_normal((2, 30, 20)).astype(np.float32)
    found = []
    for _ in range(count):
        weights = weights + 0.3 * drift + rng.standard_normal((30, 20)).astype(np.float32)
        found.append({"layers.0.up.weight": weights})
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are long from twelve checkpoints on, of which the first eight give looks."""
    monkeypatch.setattr(looks, "LOOKS", (5, 8))
    for module in (thinning, watch):
        monkeypatch.setattr(module, "KEPT", 12)
    for module in (thinning, telling, state):
        monkeypatch.setattr(module, "FIRST", 8)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_its_figures_are_those_of_the_checkpoints_that_are_judged(tmp_path: Path) -> None:
    run, out, whole = tmp_path / "run", tmp_path / "out", tmp_path / "whole"
    for number, weights in enumerate(walk(40)):
        put(run, 10 * number, weights)
        put(whole, 10 * number, weights)
        if number >= 3:
            shutil.rmtree(run / f"checkpoint-{10 * (number - 3)}")
        found = follow(run, out)  # each in a call of its own: all that is known is on the disk
    assert found is not None
    judged = found["steps"]
    assert len(judged) <= 12
    assert judged[-1] == 390
    assert found["sampled"]["of_checkpoints"] == 40
    assert f"the figures are of {len(judged)} of 40 checkpoints" in found["sampled"]["sentence"]
    assert len(list((out / "state" / "rows").iterdir())) <= 8 + 12
    trajectory = open_trajectory(whole, steps=",".join(map(str, judged)))
    (tmp_path / "analysis").mkdir()
    expected = plain(analyze(trajectory, tmp_path / "analysis"))
    for key in ("steps", "gram", "r2"):
        same(found[key], expected[key])
    # Grams of sums in float32 agree to 1e-7 of the whole way, so those of the short increments to 1e-5
    for key in ("drift", "rank1", "persistence", "skill", "regime"):
        same(found[key], expected[key], 1e-4)


@pytest.mark.usefixtures("small")
def test_its_verdict_is_that_of_the_looks_at_its_first_checkpoints(tmp_path: Path) -> None:
    run = tmp_path / "run"
    steps = walk(30, seed=1)
    for number, weights in enumerate(steps[:12]):
        put(run, 10 * number, weights)
    short = follow(run, tmp_path / "out")
    for number, weights in enumerate(steps[12:], 12):
        put(run, 10 * number, weights)
    long = follow(run, tmp_path / "out")
    assert short is not None
    assert long is not None
    assert len(long["steps"]) < 30
    assert (long["verdict"]["p"], long["verdict"]["level"]) == (short["verdict"]["p"], short["verdict"]["level"])


@pytest.mark.usefixtures("small")
def test_what_is_not_kept_is_not_read_again_unless_it_is_written_anew(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    weights = walk(30, seed=2)
    for number, one in enumerate(weights):
        put(run, 10 * number, one)
    follow(run, out)
    again = Told()
    follow(run, out, again)
    assert again.steps == []
    passed = next(int(step) for step in sorted(state.State(out / "state", Following((str(run),)).name).passed))
    for file in (run / f"checkpoint-{passed}").iterdir():  # copied: the same weights at another time
        os.utime(file)
    follow(run, out, again)
    assert again.steps == []
    put(run, passed, {name: value + 1 for name, value in weights[5].items()})  # the run was started again there
    found = follow(run, out, again)
    assert again.steps == [passed]
    assert found is not None
    assert found["steps"][-1] == passed
    assert found["sampled"].get("of_checkpoints", len(found["steps"])) == passed // 10 + 1


@pytest.mark.slow
def test_the_six_hundredth_checkpoint_costs_what_the_two_hundredth_does(tmp_path: Path) -> None:
    """In a process of its own: what another test has left in this one's memory moves in it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(soak, tmp_path / "run", tmp_path / "out", 600).result()
    assert found.read == 600
    assert found.rows <= thinning.FIRST + KEPT + 1
    assert found.passed <= 2 * (thinning.KEPT + 64)
    told, untold = np.array(found.seconds[::50]), np.array([s for place, s in enumerate(found.seconds) if place % 50])
    assert np.median(untold[-100:]) < 3 * np.median(untold[200:300])
    assert np.median(told[-5:]) < 3 * np.median(told[4:9])
    kept = [min(found.memory[place : place + 100]) for place in (200, 500)]  # a report takes some and gives it back
    assert kept[1] - kept[0] < 32  # MiB


class Soaked(NamedTuple):
    """Of each checkpoint: seconds of its look, and MiB of the process after it; the most that were kept at once."""

    read: int
    rows: int
    passed: int
    seconds: list[float]
    memory: list[float]


def soak(run: Path, out: Path, count: int) -> Soaked:
    """Tiny checkpoints, three kept at a time, each read and every fiftieth told of."""
    rng = np.random.default_rng(0)
    weights, seconds, memory = rng.standard_normal((20, 25)).astype(np.float32), [], []
    rows = passed = 0
    with only_watch(out / "state"):
        follower = None
        for number in range(count):
            weights = weights + 0.01 * rng.standard_normal((20, 25)).astype(np.float32)
            put(run, 10 * number, {"a.weight": weights})
            if number >= 3:
                shutil.rmtree(run / f"checkpoint-{10 * (number - 3)}")
            follower = follower or watch._Follower(
                Following((str(run),), settle=0.0), out, lambda line: None, lambda sentence: None
            )
            if number % 50:
                follower._report = lambda *args, **options: None  # type: ignore[method-assign]
            else:
                follower.__dict__.pop("_report", None)
            before = time.process_time()
            follower._look()
            seconds.append(time.process_time() - before)
            memory.append(int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024)
            rows, passed = max(rows, len(follower.state.rows)), max(passed, len(follower.state.passed))
    assert follower is not None
    return Soaked(follower.state.read_ever, rows, passed, seconds, memory)


@pytest.mark.usefixtures("small")
def test_a_run_that_begins_again_at_a_step_long_gone_is_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder was rotated away and nothing is left of it but its number."""
    monkeypatch.setattr(state, "_FEW", 4)
    run, out = tmp_path / "run", tmp_path / "out"
    weights = walk(44, seed=3)
    for number, one in enumerate(weights[:40]):
        put(run, 10 * number, one)
        if number >= 3:
            shutil.rmtree(run / f"checkpoint-{10 * (number - 3)}")
        follow(run, out)
    kept = state.State(out / "state", Following((str(run),)).name)
    gone = max(step for step in range(90, 360, 10) if not kept.has(step))
    time.sleep(0.02)
    put(run, gone, walk(1, seed=4)[0])
    found = follow(run, out)
    assert found is not None
    assert max(found["steps"]) == gone
    assert found["sampled"]["of_checkpoints"] == gone // 10 + 1


@pytest.mark.usefixtures("small")
def test_decay_is_left_out_of_the_looks_at_a_long_run(rng: np.random.Generator, tmp_path: Path) -> None:
    now = 0.03 * rng.standard_normal((60, 40))
    run = tmp_path / "run"
    for number in range(16):
        put(run, 10 * number, {"layers.0.up.weight": now})
        now = 0.999 * now + 1e-5 * rng.standard_normal(now.shape)
        if number == 9:
            short = follow(run, tmp_path / "out", beta1=0.0)
    long = follow(run, tmp_path / "out", beta1=0.0)
    assert short is not None
    assert long is not None
    assert long["sampled"]["of_checkpoints"] == 16
    assert [short["verdict"]["linear"], long["verdict"]["linear"]] == [False, False]
    assert long["verdict"]["p"] == short["verdict"]["p"]
