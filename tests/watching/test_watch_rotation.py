"""Checkpoints that the trainer deletes while its run is watched, and those that are not of the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from following import SHAPES, STEPS, Told, follow, put

from conftest import walk_weights
from driftline.checkpoints.reasons import grouped


def test_measured_steps_are_not_skipped_when_their_weights_are_deleted_later(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    """As verl deletes: the weights go, `data.pt` stays, and so does the folder."""
    run, out, told = tmp_path / "run", tmp_path / "out", Told()
    for step, weights in walk_weights(rng, STEPS, SHAPES, drift=0.1).items():
        folder = put(run, step, weights)
        (folder / "data.pt").touch()
        if step >= 20:
            gone = run / f"checkpoint-{STEPS[STEPS.index(step) - 2]}"
            for name in ("model.safetensors", "config.json"):
                (gone / name).unlink()
        summary = follow(run, out, told)
    assert summary is not None
    assert (summary["steps"], summary["skipped"], summary["watch"]["skipped"]) == (STEPS, {}, 0)
    assert told.steps == STEPS
    assert told.said == []
    (run / "checkpoint-75" / "model.safetensors").unlink()  # half of it, for a moment
    (run / "checkpoint-75" / "data.pt").unlink()
    put(run, 120, {name: np.ones(shape) for name, shape in SHAPES.items()})
    summary = follow(run, out, told)
    assert summary is not None
    assert (summary["steps"], summary["skipped"]) == ([*STEPS, 120], {})
    assert told.said == []


def test_steps_deleted_before_they_were_read_are_said_once(rng: np.random.Generator, tmp_path: Path) -> None:
    run, told = tmp_path / "run", Told()
    for step, weights in walk_weights(rng, STEPS, SHAPES, drift=0.1).items():
        folder = put(run, step, weights)
        (folder / "data.pt").touch()
        if step in (10, 20, 30):
            (folder / "model.safetensors").unlink()
    for _ in range(2):
        summary = follow(run, tmp_path / "out", told)
    assert summary is not None
    assert summary["steps"] == [0, 45, 60, 75, 100]
    assert summary["skipped"].keys() == {"10", "20", "30"}
    assert len(set(told.said)) == 1
    assert told.said[0].startswith(
        "skipped 3 checkpoints (10 to 30): the weights have been deleted, most likely by the trainer"
    )
    assert follow(run, tmp_path / "some", steps="45:") is not None
    assert json.loads((tmp_path / "some" / "summary.json").read_text())["skipped"] == {}


def test_steps_after_the_trainers_marker_wait_for_it(rng: np.random.Generator, tmp_path: Path) -> None:
    weights, run, told = walk_weights(rng, STEPS, SHAPES, drift=0.1), tmp_path / "run", Told()
    for step in STEPS:
        put(run, step, weights[step])
    marker = run / "latest_checkpointed_iteration.txt"
    marker.write_text("60")
    summary = follow(run, tmp_path / "out", told)
    assert summary is not None
    assert summary["steps"] == [0, 10, 20, 30, 45, 60]
    assert summary["skipped"].keys() == {"75", "100"}
    assert len(grouped({int(step): why for step, why in summary["skipped"].items()})) == 1
    marker.write_text("100")
    summary = follow(run, tmp_path / "out", told)
    assert summary is not None
    assert (summary["steps"], summary["skipped"]) == (STEPS, {})
    shutil.rmtree(run / "checkpoint-100")  # the marker names a step that is gone: said, and all that is there is read
    follow(run, tmp_path / "out", told)
    assert any("names step 100, which is not there" in sentence for sentence in told.said)


def test_copies_that_become_more_than_what_was_read_are_not_mixed_with_it(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    """OpenRLHF keeps three checkpoints of `_actor/`, and rounded copies of all: those of `_actor/` are read as they come."""
    run, told = tmp_path / "run", Told()
    for step, weights in walk_weights(rng, STEPS, SHAPES, drift=0.1).items():
        put(run / "_actor", step, weights)
        put(run, step, weights, "BF16")
        if step >= 30:
            shutil.rmtree(run / "_actor" / f"checkpoint-{STEPS[STEPS.index(step) - 3]}")
        summary = follow(run, tmp_path / "out", told)
    assert summary is not None
    assert summary["steps"] == STEPS
    rows = (tmp_path / "out" / "state" / "rows").glob("*/row.json")
    assert {dtype for row in rows for dtype in json.loads(row.read_text())["dtypes"]} == {"F32"}
    late = follow(run, tmp_path / "late")  # who comes late finds more of the copies
    assert late is not None
    assert late["steps"] == STEPS
