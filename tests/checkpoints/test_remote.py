"""Runs at remote addresses: fsspec's memory filesystem stands for object stores, a fake Hub for the Hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from driftline import remote
from driftline.checkpoints.inspection import inspect
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.linearity import scan as scanning
from driftline.linearity.analysis import analyze
from conftest import walk_weights

MakeRun = Callable[..., Path]
Upload = Callable[[Path], str]
STEPS = [0, 10, 20, 30]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def upload() -> Iterator[Upload]:
    """upload(folder) -> the address of a copy of it."""
    memory = fsspec.filesystem("memory")

    def put(folder: Path) -> str:
        memory.put(str(folder), "/bucket/run", recursive=True)
        return "memory://bucket/run"

    yield put
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture
def run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    """Two matrices and a vector, bfloat16, that drift; with what a trainer writes beside them."""
    shapes = {"model.a.weight": (300, 70), "model.b.weight": (64, 64), "model.norm.weight": (300,)}
    made = make_run(walk_weights(rng, STEPS, shapes, drift=0.5), "BF16")
    rates = [{"step": step, "learning_rate": 1e-6} for step in STEPS]
    (made / "checkpoint-30" / "trainer_state.json").write_text(json.dumps({"log_history": rates}))
    (made / "run.json").write_text(json.dumps({"optimizer": {"adam_beta1": 0.5}}))
    return made


def without(record: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in keys}


def test_inspection_is_that_of_a_local_copy(run: Path, upload: Upload) -> None:
    address = upload(run)
    here, there = inspect(open_trajectory(run)), inspect(open_trajectory(address))
    assert without(here, "run", "checkpoints") == without(there, "run", "checkpoints")
    assert there["run"] == address
    assert [row["path"] for row in there["checkpoints"]] == [f"{address}/checkpoint-{step}" for step in STEPS]


@pytest.mark.parametrize("chunk", [8 << 20, 4 * 1024 * 2 * 3])
def test_analysis_is_that_of_a_local_copy_to_the_last_bit(
    run: Path, upload: Upload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(scanning, "_CHUNK_BYTES", chunk)
    records = []
    for source in (str(run), upload(run)):
        records.append(analyze(open_trajectory(source), tmp_path, clock="lr"))
    assert records[1]["optimizer"]["adam_beta1_from"] == "run.json"
    assert without(records[0], "run", "cost") == without(records[1], "run", "cost")


def test_pairs_and_base_may_be_remote(run: Path, upload: Upload) -> None:
    address = upload(run)
    pairs = [f"{step}={address}/checkpoint-{step}" for step in STEPS[2:]]
    mixed = open_trajectory([f"10={run / 'checkpoint-10'}", *pairs], base=f"{address}/checkpoint-0")
    assert mixed.steps == tuple(STEPS)
    tensors = [tensor.gram for tensor in scanning.scan(mixed)]
    for found, expected in zip(tensors, scanning.scan(open_trajectory(run)), strict=True):
        np.testing.assert_array_equal(found, expected.gram)


def test_jumps_are_found(run: Path, upload: Upload) -> None:
    jump = {
        "cycle": 1,
        "trained_from": 0,
        "trained_to": 20,
        "projected_to": 50,
        "alpha": 2.5,
        "accepted": True,
        "step": 20,
    }
    (run / "jumps.json").write_text(json.dumps([jump]))
    jumps = open_trajectory(upload(run)).regrounded
    assert jumps is not None
    assert jumps.virtual == {0: 0, 10: 10, 20: 50, 30: 60}


def test_what_is_not_there_is_said(run: Path, upload: Upload) -> None:
    address = upload(run)
    with pytest.raises(InputError, match="memory://bucket/none does not exist"):
        open_trajectory("memory://bucket/none")
    with pytest.raises(InputError, match="is one checkpoint, not a run: give its parent folder memory://bucket/run"):
        open_trajectory(f"{address}/checkpoint-10")
    with pytest.raises(InputError, match="known|protocol"):
        open_trajectory("nosuch://bucket/run")
