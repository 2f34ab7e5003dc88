"""Analysing a run that was re-grounded: a jump is never taken for training."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import plain
from driftline.checkpoints.jumps import Jump, Jumps, write_jumps
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.forecast.observations import observe
from driftline.forecast.plan import make_plan
from driftline.forecast.request import ForecastRequest
from driftline.linearity.analysis import analyze

MakeRun = Callable[..., Path]
M, N, CYCLES, EVERY, SIZE = 60, 120, 3, 5, 4000


def regrounded_run(rng: np.random.Generator, drift: float) -> tuple[dict[int, dict[str, np.ndarray]], Jumps]:
    """A walk with drift per step, projected N steps along its last M steps after each of them; saved every EVERY."""
    w, step, ahead, steps = rng.standard_normal(SIZE), 0, 0, {}
    jumps: Jumps = []
    direction = rng.standard_normal(SIZE)
    for _ in range(CYCLES):
        start = w.copy()
        for _ in range(M):
            if step % EVERY == 0:
                steps[step] = {"a": w.astype(np.float32)}
            w = w + 0.1 * rng.standard_normal(SIZE) + drift * direction
            step += 1
        w = w + (w - start) * N / M
        jump = Jump.after(jumps, step - M + ahead, step + ahead, N, accepted=True)
        jump.step, jump.rolled_back_at = step, None
        jumps.append(jump)
        ahead += N
    for _ in range(20):
        if step % EVERY == 0:
            steps[step] = {"a": w.astype(np.float32)}
        w = w + 0.1 * rng.standard_normal(SIZE) + drift * direction
        step += 1
    return steps, jumps


def made(make_run: MakeRun, rng: np.random.Generator, drift: float, *, jumps: bool = True) -> Path:
    steps, found = regrounded_run(rng, drift)
    run = make_run(steps)
    (run / "run.json").write_text('{"optimizer": {"adam_beta1": 0.0}}')
    if jumps:
        write_jumps(run, found)
    return run


def test_the_clock_is_the_virtual_step_and_the_verdict_rests_on_one_stretch(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path
) -> None:
    run = made(make_run, rng, drift=0.05)
    summary = plain(analyze(open_trajectory(run), tmp_path))
    assert summary["steps"] == list(range(0, 200, 5))
    assert summary["clock_values"][:13] == [*range(0, 60, 5), 60 + N]  # what is saved at a jump is projected
    assert summary["clock_values"][-1] == 195 + CYCLES * N
    assert summary["jumps"]["judged"] == {"from": 0, "to": 55, "checkpoints": 12}
    assert [s["checkpoints"] for s in summary["jumps"]["stretches"]] == [12, 12, 12, 4]
    assert summary["regime"]["segments"][0]["from"] == 0
    assert summary["regime"]["segments"][-1]["to"] == 55
    assert summary["verdict"]["linear"] is True
    assert "re-grounded" in summary["verdict"]["sentence"]


def test_jumps_do_not_make_a_walk_look_straight(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    """Projected along its own chance direction a walk seems to drift: the verdict is fooled if jumps pass for training."""
    run = made(make_run, rng, drift=0.0)
    assert analyze(open_trajectory(run), tmp_path)["verdict"]["linear"] is False
    (run / "jumps.json").unlink()
    fooled = plain(analyze(open_trajectory(run), tmp_path))["verdict"]
    assert max(fooled["p"]["increment_cosine"], fooled["p"]["growth_exponent"]) <= 0.05, fooled


def test_rolled_back_checkpoints_are_skipped(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    steps, jumps = regrounded_run(rng, 0.05)
    run = make_run(steps)
    jumps[0].accepted, jumps[0].rolled_back_at = False, 70
    write_jumps(run, jumps[:1])
    trajectory = open_trajectory(run)
    assert list(trajectory.skipped) == [60, 65]
    summary = analyze(trajectory, tmp_path)
    assert summary["clock_values"][12] == 60  # restored at step 70 to what it was at 60
    assert "rolled back" in summary["skipped"]["60"]


def test_too_short_between_jumps_cannot_tell(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    run = made(make_run, rng, drift=0.05)
    verdict = analyze(open_trajectory(run, steps="0:195:35"), tmp_path)["verdict"]
    assert verdict["linear"] is False
    assert verdict["sentence"].startswith("Cannot tell: 2 checkpoints between two jumps are too few")


def test_forecasts_rest_on_what_was_trained(make_run: MakeRun, rng: np.random.Generator, tmp_path: Path) -> None:
    trajectory = open_trajectory(made(make_run, rng, drift=0.05))
    assert observe(trajectory).steps.tolist() == list(range(0, 60, 5))
    plan = make_plan(trajectory, ForecastRequest((225,), method="two-point"))
    origin = plan.forecasts[0].origin
    assert origin.observed == [180, 185, 190, 195]
    assert origin.alpha == pytest.approx((225 - 180) / (195 - 180))
    plan = make_plan(trajectory, ForecastRequest((225,), method="two-point", seen=(0, 195)))
    assert plan.forecasts[0].origin.alpha == pytest.approx((225 + CYCLES * N) / (195 + CYCLES * N))
    with pytest.raises(InputError, match="one checkpoint, step 180, since its last jump"):
        make_plan(trajectory.only([0, 5, 10, 180]), ForecastRequest((225,), method="two-point"))
    with pytest.raises(InputError, match="use --clock step"):
        analyze(trajectory, tmp_path, clock="lr")
