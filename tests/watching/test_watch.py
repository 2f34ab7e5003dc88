"""A run followed while it is written: its figures beside those of `analyze`, and everything that can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import plain, save_tensors, walk_weights
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.linearity.analysis import analyze
from driftline.watching import sampled as sampled_module
from driftline.watching import sketch as sketch_module
from driftline.watching import state as watch_state
from driftline.watching import watch as watch_module
from driftline.watching.request import Following
from driftline.watching.watch import watch

SHAPES = {"layers.0.up.weight": (64, 50), "layers.0.norm.weight": (50,), "scale": ()}
STEPS = [0, 10, 20, 30, 45, 60, 75, 100]  # uneven


class Told:
    """What a call printed."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.said: list[str] = []

    @property
    def steps(self) -> list[int]:
        return [line["step"] for line in self.lines]


def follow(run: Path | tuple[str, ...], out: Path, told: Told | None = None, **options: Any) -> dict[str, Any] | None:
    """One look at a run whose checkpoints need not rest."""
    arguments = (str(run),) if isinstance(run, Path) else run
    told = told or Told()
    request = Following(arguments, once=True, **{"settle": 0.0, **options})
    found = watch(request, out, show=lambda line: told.lines.append(plain(line)), say=told.said.append)
    return None if found is None else plain(found)


def put(run: Path, step: int, weights: dict[str, np.ndarray], dtype: str = "F32") -> Path:
    """A checkpoint, in place of one that is there."""
    folder = run / f"checkpoint-{step}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_tensors(folder / "model.safetensors", weights, dtype)
    (folder / "config.json").write_text("{}")
    return folder


def same(one: Any, other: Any, tolerance: float = 1e-6) -> None:
    """Two summaries' figures, apart from what only `watch` has."""
    if isinstance(one, dict):
        for key in one.keys() & other.keys() - {"cost", "watch", "run"}:
            same(one[key], other[key], tolerance)
    elif isinstance(one, list) and one and isinstance(one[0], dict):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b, tolerance)
    elif isinstance(one, list) and one and not isinstance(one[0], str):
        np.testing.assert_allclose(np.array(one, float), np.array(other, float), rtol=tolerance, atol=1e-9)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=tolerance, abs=1e-9, nan_ok=True)
    else:
        assert one == other


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_one_by_one_it_arrives_at_the_figures_of_analyze(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Every weight of a small model is sampled, and it is its own sketch: but for rounding, all is exact."""
    monkeypatch.setattr(watch_module, "_PROMPT", 0)  # of checkpoints that are there together, figures with the last
    weights = walk_weights(rng, STEPS, SHAPES, drift=0.1, noise=1e-3)
    run, told = tmp_path / "run", Told()
    for step in STEPS:
        put(run, step, weights[step], dtype)
        if step > 40:
            summary = follow(run, tmp_path / "out", told)
    assert told.steps == STEPS
    assert summary is not None
    (tmp_path / "analysis").mkdir()
    exact = plain(analyze(open_trajectory(run), tmp_path / "analysis"))
    if dtype == "BF16":  # this null is simulated, tensor by tensor in file order
        assert summary["null_r2"]["median"] == pytest.approx(exact["null_r2"]["median"], abs=0.01)
        for key in ("null_r2", "r2_histogram", "verdict"):
            del exact[key]
    same(exact, summary, 2e-4)
    assert summary["parameters"]["measured"] == summary["parameters"]["total"] == 3251
    assert summary["sampled"]["gram_standard_error"] == 0.0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["verdict"] == summary["verdict"]
    last = told.lines[-1]
    assert last["update_norm"] == pytest.approx(np.sqrt(summary["gram"][-1][-1]))
    assert last["verdict"] == ("linear" if summary["verdict"]["linear"] else "chance")
    at_once = follow(run, tmp_path / "at-once")
    same(summary, at_once, 1e-12)
    assert follow(run, tmp_path / "out", again := Told()) == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert again.lines == []


def test_checkpoints_may_come_in_any_order(rng: np.random.Generator, tmp_path: Path) -> None:
    weights = walk_weights(rng, STEPS, SHAPES, drift=0.1)
    run = tmp_path / "run"
    for step in (30, 10, 100, 0, 60, 20, 75, 45):
        put(run, step, weights[step])
        late = follow(run, tmp_path / "late")
    same(late, follow(run, tmp_path / "ordered"), 1e-5)


def test_a_large_model_is_sketched_and_sampled_close_to_its_exact_figures(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketch_module, "BUCKETS", 10_007)
    monkeypatch.setattr(sampled_module, "BUCKETS", 10_007)
    monkeypatch.setattr(watch_state, "SAMPLE", 10_000)
    monkeypatch.setattr(watch_module, "_PROMPT", 0)  # figures with the last checkpoint only
    run, steps = tmp_path / "run", list(range(0, 120, 10))
    for step, weights in walk_weights(rng, steps, {"w": (500, 200), "b": (500,)}, drift=0.05).items():
        put(run, step, weights, "BF16")
    summary = follow(run, tmp_path / "out")
    assert summary is not None
    (tmp_path / "analysis").mkdir()
    exact = plain(analyze(open_trajectory(run), tmp_path / "analysis"))
    assert summary["sampled"] | {"sentence": ""} == {
        "weights": 10_000,
        "of": 100_500,
        "sketch": 10_007,
        "gram_standard_error": (2 / 10_007) ** 0.5,
        "sentence": "",
    }
    assert summary["parameters"]["total"] == 100_500
    for one, other in ((summary["r2"], exact["r2"]), (summary["null_r2"], exact["null_r2"])):
        for key in ("mean", "median", "share_above_0.7"):
            assert one[key] == pytest.approx(other[key], abs=0.02)
    increments = [np.diff(np.diff(np.array(s["gram"]), axis=0), axis=1) for s in (summary, exact)]
    lengths = np.sqrt(np.diag(increments[1]))
    assert np.abs((increments[0] - increments[1]) / np.outer(lengths, lengths)).max() < 5 * (2 / 10_007) ** 0.5
    assert summary["verdict"]["linear"] == exact["verdict"]["linear"]
    assert summary["drift"]["growth_exponent"] == pytest.approx(exact["drift"]["growth_exponent"], abs=0.02)


def test_what_was_read_may_be_rotated_away(rng: np.random.Generator, tmp_path: Path) -> None:
    weights = walk_weights(rng, STEPS, SHAPES, drift=0.1)
    kept, rotated, told = tmp_path / "kept", tmp_path / "rotated", Told()
    for step in STEPS:
        put(kept, step, weights[step])
        put(rotated, step, weights[step])
        summary = follow(rotated, tmp_path / "out", told)
        shutil.rmtree(rotated / f"checkpoint-{step}")
        (rotated / "log").mkdir(exist_ok=True)
        if step < STEPS[-1]:
            put(rotated, STEPS[STEPS.index(step) + 1], weights[STEPS[STEPS.index(step) + 1]])
    assert told.steps == STEPS
    same(follow(kept, tmp_path / "other"), summary, 1e-9)


def test_the_base_is_step_zero_and_may_hold_more_than_the_run(rng: np.random.Generator, tmp_path: Path) -> None:
    weights = walk_weights(rng, STEPS, SHAPES, drift=0.1)
    run, base, told = tmp_path / "run", tmp_path / "base", Told()
    put(base, 0, weights[0] | {"vision.weight": np.ones(7)})
    for step in STEPS[1:]:
        put(run, step, weights[step])
        summary = follow(run, tmp_path / "out", told, base=str(base / "checkpoint-0"))
    assert summary is not None
    assert summary["steps"] == STEPS
    assert summary["left_out"] == {"vision.weight": "absent or of another shape after step 0"}
    (tmp_path / "analysis").mkdir()
    exact = plain(analyze(open_trajectory(run, base=base / "checkpoint-0"), tmp_path / "analysis"))
    np.testing.assert_allclose(summary["gram"], exact["gram"], rtol=1e-4)
    put(run, 0, weights[0])
    (base / "checkpoint-0").rename(base / "checkpoint-5")
    with pytest.raises(InputError, match="already has"):
        follow(run, tmp_path / "out", base=str(base / "checkpoint-5"))
    with pytest.raises(InputError, match="not a local folder"):
        follow(base, tmp_path / "out2", base=str(tmp_path / "absent"))


def test_chosen_steps_may_be_yet_to_come(rng: np.random.Generator, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step, weights in walk_weights(rng, STEPS, SHAPES, drift=0.1).items():
        put(run, step, weights)
    for chosen, steps in (("0:60:20", [0, 20, 60]), ("10,20,45,900", [10, 20, 45]), (":60", [0, 10, 20, 30, 45, 60])):
        found = follow(run, tmp_path / f"out{len(steps)}{steps[0]}", steps=chosen)
        assert found is not None
        assert found["steps"] == steps
    assert follow(run, tmp_path / "none", steps="500:") is None
    with pytest.raises(InputError, match="neither FIRST:LAST:STRIDE"):
        follow(run, tmp_path / "none", steps="1-5")


def test_unfinished_checkpoints_are_tried_again(rng: np.random.Generator, tmp_path: Path) -> None:
    weights = walk_weights(rng, STEPS, SHAPES, drift=0.1)
    run, told = tmp_path / "run", Told()
    for step in STEPS[:-1]:
        put(run, step, weights[step])
    file = put(run, 100, weights[100]) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    summary = follow(run, tmp_path / "out", told)
    assert summary is not None
    assert summary["steps"] == STEPS[:-1]
    assert summary["watch"]["skipped"] == 0  # not known yet when the last one that is whole was read
    assert len(told.said) == 1
    assert "skipped step 100" in told.said[0]
    assert "still being written, or truncated" in told.said[0]
    file.write_bytes(whole)
    summary = follow(run, tmp_path / "out", told)
    assert summary is not None
    assert (summary["steps"], summary["watch"]["skipped"]) == (STEPS, 0)


def test_a_checkpoint_rests_before_it_is_read(rng: np.random.Generator, tmp_path: Path) -> None:
    run, told = tmp_path / "run", Told()
    weights = walk_weights(rng, STEPS, SHAPES)
    folder = put(run, 0, weights[0])
    stop = time.monotonic() + 1.5

    def keep_writing() -> None:
        while time.monotonic() < stop:
            (folder / "optimizer.pt").write_bytes(os.urandom(8))
            time.sleep(0.05)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    follow(run, tmp_path / "out", told, settle=0.7)
    writer.join()
    assert told.lines == []
    follow(run, tmp_path / "out", told, settle=0.7)
    assert told.steps == [0]


def test_a_file_time_in_the_future_does_not_keep_a_checkpoint_waiting(rng: np.random.Generator, tmp_path: Path) -> None:
    folder, told = put(tmp_path / "run", 0, walk_weights(rng, [0], SHAPES)[0]), Told()
    os.utime(folder / "model.safetensors", (time.time() + 1e6,) * 2)
    follow(tmp_path / "run", tmp_path / "out", told, settle=0.3)
    follow(tmp_path / "run", tmp_path / "out", told, settle=0.3)
    assert told.steps == [0]


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_refused_once_and_counted(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    weights = walk_weights(rng, STEPS, SHAPES, drift=0.1)
    weights[45]["layers.0.up.weight"] = weights[45]["layers.0.up.weight"].copy()
    weights[45]["layers.0.up.weight"][3, 4] = bad
    run, told = tmp_path / "run", Told()
    for step in STEPS:
        put(run, step, weights[step])
    summary = follow(run, tmp_path / "out", told)
    assert summary is not None
    assert 45 not in summary["steps"]
    assert summary["watch"]["skipped"] == 1
    assert "'layers.0.up.weight' holds a weight that is not finite (flat position 154)" in summary["skipped"]["45"]
    assert "checkpoint-45/model.safetensors" in summary["skipped"]["45"]
    monkeypatch.setattr(watch_state, "read_checkpoint", None)  # nothing is read again
    assert follow(run, tmp_path / "out", told) is not None
    monkeypatch.undo()
    weights[45]["layers.0.up.weight"][3, 4] = 0
    put(run, 45, weights[45])
    summary = follow(run, tmp_path / "out", told)
    assert summary is not None
    assert (summary["steps"], summary["watch"]["skipped"]) == (STEPS, 0)


def test_a_changed_vocabulary_is_named_and_skipped(rng: np.random.Generator, tmp_path: Path) -> None:
    weights = walk_weights(rng, STEPS, SHAPES, drift=0.1)
    weights[60] = weights[60] | {"layers.0.up.weight": np.ones((65, 50))}
    del weights[75]["scale"]
    run, told = tmp_path / "run", Told()
    for step in STEPS:
        put(run, step, weights[step])
    summary = follow(run, tmp_path / "out", told)
    assert summary is not None
    assert summary["steps"] == [0, 10, 20, 30, 45, 100]
    assert summary["watch"]["skipped"] == 2
    assert (
        "'layers.0.up.weight' has shape [65, 50] where the run's first checkpoint has [64, 50]"
        in summary["skipped"]["60"]
    )
    assert "lacks tensor 'scale'" in summary["skipped"]["75"]


def test_a_run_started_again_replaces_what_it_writes_anew(rng: np.random.Generator, tmp_path: Path) -> None:
    """Stopped at 100, started again from 45: 60 is written anew, 75 and 100 of the first attempt still lie there."""
    old = walk_weights(rng, STEPS, SHAPES, drift=0.1)
    run, told = tmp_path / "run", Told()
    for step in STEPS:
        put(run, step, old[step])
    follow(run, tmp_path / "out", told)
    new = {step: {name: value + 0.001 * step for name, value in old[step].items()} for step in (60, 75, 100)}
    put(run, 60, new[60])
    summary = follow(run, tmp_path / "out", told)
    assert summary is not None
    assert summary["steps"] == [0, 10, 20, 30, 45, 60]
    assert summary["watch"]["skipped"] == 2
    assert summary["skipped"]["75"] == "rolled back: the run was started again and wrote step 60 anew"
    for step in (75, 100):
        put(run, step, new[step])
    summary = follow(run, tmp_path / "out", told)
    assert summary is not None
    assert (summary["steps"], summary["watch"]["skipped"]) == (STEPS, 0)
    same(follow(run, tmp_path / "fresh"), summary, 1e-9)
    for step in (10, 20):  # the same weights, copied anew: nothing to tell
        put(run, step, old[step])
    before = len(told.lines)
    assert follow(run, tmp_path / "out", told) == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len(told.lines) == before


@pytest.mark.parametrize("how", ["gone", "changed", "failed"])
def test_a_checkpoint_that_goes_changes_or_fails_while_it_is_read_is_skipped_with_a_word(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    weights = walk_weights(rng, STEPS, SHAPES, drift=0.1)
    run, told, reading, spoilt = tmp_path / "run", Told(), sketch_module._read, threading.Lock()
    for step in STEPS:
        put(run, step, weights[step])

    def read(chunk: Any) -> Any:
        folder = chunk[1].stored[0].file.parent
        if folder.name == "checkpoint-30" and spoilt.acquire(blocking=False):  # once
            if how == "gone":
                shutil.rmtree(folder, ignore_errors=True)
            elif how == "changed":
                (folder / "optimizer.pt").touch()
            else:
                raise UnreadableCheckpoint(f"{folder} cannot be read") from OSError(5, "Input/output error")
        return reading(chunk)

    monkeypatch.setattr(sketch_module, "_read", read)
    summary = follow(run, tmp_path / "out", told)
    assert summary is not None
    assert 30 not in summary["steps"]
    assert summary["watch"]["skipped"] == 1
    assert ("changed while it was read" if how == "changed" else "cannot be read") in told.said[0]
    monkeypatch.undo()
    if how == "gone":
        put(run, 30, weights[30])
    summary = follow(run, tmp_path / "out", told)
    assert summary is not None
    assert (summary["steps"], summary["watch"]["skipped"]) == (STEPS, 0)


def test_weights_that_never_change_give_lines_and_no_summary(rng: np.random.Generator, tmp_path: Path) -> None:
    weights, told = walk_weights(rng, [0], SHAPES)[0], Told()
    for step in STEPS:
        put(tmp_path / "run", step, weights)
    assert follow(tmp_path / "run", tmp_path / "out", told) is None
    assert [line["update_norm"] for line in told.lines] == [0.0] * len(STEPS)


def test_jumps_are_allowed_for(rng: np.random.Generator, tmp_path: Path) -> None:
    steps = list(range(0, 100, 10))
    run = tmp_path / "run"
    for step, weights in walk_weights(rng, steps, SHAPES, drift=0.1).items():
        put(run, step, weights)
    jump = {
        "cycle": 1,
        "trained_from": 0,
        "trained_to": 70,
        "projected_to": 100,
        "alpha": 1.4,
        "accepted": True,
        "step": 70,
    }
    (run / "jumps.json").write_text(json.dumps([jump]))
    summary = follow(run, tmp_path / "out")
    assert summary is not None
    (tmp_path / "analysis").mkdir()
    same(plain(analyze(open_trajectory(run), tmp_path / "analysis")), summary, 1e-3)
    assert summary["clock_values"][-1] == 120


# -- warnings


def moving(
    rng: np.random.Generator,
    K: int,
    *,
    turn: int | None = None,
    faster: int | None = None,
    drift: float = 0.5,
    turned: float = 0.0,
) -> dict[int, dict[str, np.ndarray]]:
    """K intervals of ten steps; from `turn` on the drift is `turned` of what it was; from `faster` on all is 3 times as long."""
    direction, other = rng.standard_normal((2, 3000))
    weights = [0.02 * rng.standard_normal(3000)]
    for k in range(K):
        way = direction if turn is None or k < turn else turned * other
        step = 1e-3 * (drift * way + rng.standard_normal(3000))
        weights.append(weights[-1] + step * (3 if faster is not None and k >= faster else 1))
    return {10 * k: {"w": value} for k, value in enumerate(weights)}


def warnings_of(weights: dict[int, dict[str, np.ndarray]], folder: Path) -> list[dict[str, Any]]:
    run = folder / "run"
    for step, tensors in weights.items():
        put(run, step, tensors)
    (run / "run.json").write_text(json.dumps({"optimizer": {"adam_beta1": 0.0}}))
    told = Told()
    summary = follow(run, folder / "out", told)
    assert summary is not None
    warnings = summary["watch"]["warnings"]
    assert told.said == [f"warning: {warning['sentence']}" for warning in warnings]
    return warnings


def test_collapse_is_warned_of_once(rng: np.random.Generator, tmp_path: Path) -> None:
    warnings = warnings_of(moving(rng, 18, faster=13), tmp_path)
    assert [w["since"] for w in warnings if w["kind"] == "collapse"] == [130]
    assert next(w for w in warnings if w["kind"] == "collapse")["at"] == 160


def test_leaving_the_straight_line_is_warned_of(rng: np.random.Generator, tmp_path: Path) -> None:
    warnings = warnings_of(moving(rng, 22, turn=14, drift=1.0, turned=1.0), tmp_path)
    bends = [w for w in warnings if w["kind"] == "bend"]
    assert [w["since"] for w in bends] == [pytest.approx(140, abs=10)]
    assert bends[0]["at"] <= 200


def test_straight_and_driftless_runs_are_left_alone(rng: np.random.Generator, tmp_path: Path) -> None:
    for drift in (0.0, 0.5):
        assert warnings_of(moving(rng, 12, drift=drift), tmp_path / str(drift)) == []


# -- the folder it writes


def test_a_record_that_was_cut_is_made_again(rng: np.random.Generator, tmp_path: Path) -> None:
    for step, weights in walk_weights(rng, STEPS, SHAPES, drift=0.1).items():
        put(tmp_path / "run", step, weights)
    before = follow(tmp_path / "run", tmp_path / "out")
    (tmp_path / "out" / "state" / "rows" / "45" / "sketch.f32").write_bytes(b"half")
    follow(tmp_path / "run", tmp_path / "out", told := Told())
    assert told.steps == [45]
    same(follow(tmp_path / "run", tmp_path / "fresh"), before, 1e-12)
    same(json.loads((tmp_path / "out" / "summary.json").read_text()), before, 1e-9)


def test_folders_that_are_not_its_own_are_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    run = tmp_path / "run"
    put(run, 0, walk_weights(rng, [0], SHAPES)[0])
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    with pytest.raises(InputError, match="are no watch of a run"):
        follow(run, mine)
    with pytest.raises(InputError, match="is a file"):
        follow(run, mine / "thesis.tex")
    follow(run, tmp_path / "out")
    with pytest.raises(InputError, match=r"holds the watch of .*run: choose another"):
        follow(shutil.copytree(run, tmp_path / "other"), tmp_path / "out")
    with watch_state.held(tmp_path / "out" / "state"), pytest.raises(InputError, match="in use by another"):
        follow(run, tmp_path / "out")
    (tmp_path / "out" / "state" / "plan" / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json is damaged .*: remove .* to begin again"):
        follow(run, tmp_path / "out")


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        follow(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(InputError, match="--interval 0 is no time to wait"):
        follow(tmp_path, tmp_path / "out", interval=0)
    with pytest.raises(InputError, match="--settle nan is no time"):
        follow(tmp_path, tmp_path / "out", settle=float("nan"))


# -- real processes


def command(run: Path, out: Path, *options: object) -> list[str]:
    return [
        sys.executable,
        "-m",
        "driftline",
        "watch",
        str(run),
        "--out",
        str(out),
        "--settle",
        "0",
        *map(str, options),
    ]


def test_it_waits_for_a_run_follows_it_and_stops_at_ctrl_c(rng: np.random.Generator, tmp_path: Path) -> None:
    run, out, weights = tmp_path / "run", tmp_path / "out", walk_weights(rng, STEPS, SHAPES, drift=0.1)
    process = subprocess.Popen(
        command(run, out, "--interval", 0.1), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stdout is not None
    assert "waiting" in process.stderr.readline()
    for step in STEPS[:5]:
        folder = put(tmp_path / "beside", step, weights[step])
        run.mkdir(exist_ok=True)
        folder.rename(run / folder.name)
        assert process.stdout.readline().startswith(f"step {step}: update")
    deadline = time.monotonic() + 60
    while not (out / "summary.json").exists() or json.loads((out / "summary.json").read_text())["steps"] != STEPS[:5]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == "driftline: stopped"
    for step in STEPS[5:]:
        put(run, step, weights[step])
    again = subprocess.run(command(run, out, "--once"), capture_output=True, text=True, check=True)
    assert [line.split(":")[0] for line in again.stdout.splitlines()[:3]] == ["step 60", "step 75", "step 100"]
    assert json.loads((out / "summary.json").read_text())["steps"] == STEPS


def test_a_full_disk_is_one_sentence_and_the_next_call_continues(rng: np.random.Generator, tmp_path: Path) -> None:
    """A limit on file size stands in for the disk: the plan fits under it, then a row does not."""
    run, out, weights = tmp_path / "run", tmp_path / "out", walk_weights(rng, STEPS, {"w": (300, 100)}, drift=0.1)
    for step in STEPS:
        put(run, step, weights[step])
    for limit in (1000, 200_000, 250_000):
        code = f"""
import resource, signal, sys
import driftline.watching.watch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from driftline.cli import main
sys.argv = {command(run, out, "--once")[2:]!r}
main()
"""
        result = subprocess.run(
            [sys.executable, "-B", "-c", code], capture_output=True, text=True, env=os.environ | {"NUMBA_CACHE_DIR": ""}
        )
        assert (result.returncode, "Traceback" in result.stderr) == (2, False) if limit < 240_000 else (0, False), (
            result.stderr
        )
        if result.returncode:
            assert "--out" in result.stderr
            assert len(result.stderr.strip().splitlines()) == 1
    assert json.loads((out / "summary.json").read_text())["steps"] == STEPS


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("times", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment_the_next_call_continues(rng: np.random.Generator, tmp_path: Path, times: int) -> None:
    run, steps = tmp_path / "run", list(range(0, 60, 10))
    for step, weights in walk_weights(rng, steps, {"w": (1000, 100)}, drift=0.1).items():
        put(run, step, weights)
    reference = follow(run, tmp_path / "reference")
    assert reference is not None
    subprocess.run(command(run, tmp_path / "once", "--once"), check=True, capture_output=True)
    started = time.monotonic()
    subprocess.run(command(run, tmp_path / "twice", "--once"), check=True, capture_output=True)
    whole = time.monotonic() - started

    def killed(out: Path) -> bool:
        process = subprocess.Popen(command(run, out, "--once"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 1.0) * whole)
        process.kill()
        return process.wait() == -signal.SIGKILL

    kills = 0
    while kills < times:
        out = tmp_path / "out"
        if not killed(out):
            whole *= 0.9  # the machine is quicker now
            shutil.rmtree(out)
            continue
        kills += 1
        if (out / "summary.json").exists():
            left = json.loads((out / "summary.json").read_text())  # whole, and of the checkpoints so far
            assert left["steps"] == steps[: len(left["steps"])]
        if kills % 2:
            killed(out)  # and again, while it continues
        follow(run, out)
        summary = json.loads((out / "summary.json").read_text())
        same(reference, summary, 1e-12)
        assert summary["watch"]["skipped"] == 0
        assert [line["step"] for line in summary["watch"]["checkpoints"]] == steps
        assert sorted(path.name for path in (out / "state" / "rows").iterdir()) == sorted(map(str, steps))
        shutil.rmtree(out)
