"""A run followed while it is written: its figures beside those of `analyze`, and everything that can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from following import SHAPES, STEPS, Told, follow, put, same

from conftest import plain, walk_weights
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.linearity.analysis import analyze
from driftline.watching import sampled as sampled_module
from driftline.watching import sketch as sketch_module
from driftline.watching import state as watch_state
from driftline.watching import watch as watch_module


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


def test_decay_is_left_out_as_by_analyze(rng: np.random.Generator, tmp_path: Path) -> None:
    """By the sample, which is of all weights here; adapters without their base have no first weights to shrink along."""
    start = {"up.weight": 0.03 * rng.standard_normal((60, 40)), "norm.weight": np.ones(40)}
    run, now = tmp_path / "run", dict(start)
    for step in range(0, 120, 10):
        put(run, step, now)
        now = {name: value + 1e-5 * rng.standard_normal(value.shape) for name, value in now.items()}
        now["up.weight"] = now["up.weight"] * 0.999
    summary = follow(run, tmp_path / "out", beta1=0.0)
    (tmp_path / "analysis").mkdir()
    exact = plain(analyze(open_trajectory(run), tmp_path / "analysis", beta1=0.0))
    assert summary is not None
    same(exact["verdict"]["shrinkage"], summary["verdict"]["shrinkage"], 1e-3)
    assert exact["verdict"]["shrinkage"]["rate"] == pytest.approx(1e-4, rel=0.02)
    assert exact["verdict"]["shrinkage"]["alone"]
    assert not summary["verdict"]["linear"]
    for path in (tmp_path / "out" / "state" / "rows").glob("*/row.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"whole": False}))
    put(run, 120, now)
    changes = follow(run, tmp_path / "out", beta1=0.0)
    assert changes is not None
    assert "shrinkage" not in changes["verdict"]


def test_checkpoints_may_come_in_any_order(rng: np.random.Generator, tmp_path: Path) -> None:
    weights = walk_weights(rng, STEPS, SHAPES, drift=0.1)
    run = tmp_path / "run"
    for step in (30, 10, 100, 0, 60, 20, 75, 45):
        put(run, step, weights[step])
        late = follow(run, tmp_path / "late")
    ordered = follow(run, tmp_path / "ordered")
    assert late is not None
    assert ordered is not None
    assert late["steps"] == ordered["steps"] == STEPS
    same(late, ordered, 1e-5)


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
    looked = threading.Event()

    def keep_writing() -> None:
        while not looked.wait(0.05):
            (folder / "optimizer.pt").write_bytes(os.urandom(8))

    writer = threading.Thread(target=keep_writing)
    writer.start()
    follow(run, tmp_path / "out", told, settle=0.7)
    looked.set()
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
