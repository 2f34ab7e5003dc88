"""SIGKILL at random moments: what is there afterwards is complete or absent, and a second call succeeds.

`watch`, which is meant to be killed and continued, has its own in `watching/test_watch.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from killing import finished, killed
from safetensors.numpy import load_file, save_file

from conftest import walk_weights
from driftline.checkpoints.trajectory import open_trajectory
from driftline.files.lock import Held, hold
from driftline.files.output import refuse_occupied
from driftline.files.record import read_record
from driftline.forecast.record import BacktestRecord
from driftline.linearity.comparison import Comparison
from driftline.linearity.summary import read_summary
from driftline.writing.record import read_recipe

MakeRun = Callable[..., Path]
STEPS = list(range(0, 80, 10))
KILLS = 20  # of each command
FILES = {
    "analyze": {"summary.json", "tensors.parquet", "report.html"},
    "backtest": {"backtest.json", "groups.parquet", "report.html"},
    "compare": {"comparison.json", "report.html"},
    "extrapolate": {"driftline.json", "README.md", "config.json", "model.safetensors"},
}


def complete(command: str, out: Path) -> None:
    """Every file of the result is there and can be read."""
    assert {path.name for path in out.iterdir()} == FILES[command]
    if "report.html" in FILES[command]:
        assert (out / "report.html").read_text().rstrip().endswith("</html>")
    if command == "analyze":
        assert read_summary(out).steps == STEPS
        assert pq.read_table(out / "tensors.parquet").num_rows == 2
    elif command == "backtest":
        record = read_record(out / "backtest.json", BacktestRecord, what="driftline backtest")
        assert pq.read_table(out / "groups.parquet").num_rows == 2 * len(record.skill)
    elif command == "compare":
        assert len(read_record(out / "comparison.json", Comparison, what="driftline compare").rows) == 2
    else:
        assert read_recipe(out).target == 100
        (tensor,) = [t for t in open_trajectory([f"100={out}"]) if t.name == "up.weight"]
        values = np.empty((1, tensor.size), np.float32)
        tensor.read(0, tensor.size, values, np.empty(8 * tensor.size, np.uint8))
        assert np.isfinite(values).all()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and two analyses of it to compare."""
    folder = tmp_path_factory.mktemp("given")
    shapes = {"up.weight": (2000, 500), "norm.weight": (500,)}
    for step, weights in walk_weights(np.random.default_rng(0), STEPS, shapes, drift=0.2).items():
        (folder / "run" / f"checkpoint-{step}").mkdir(parents=True)
        save_file(
            {k: v.astype(np.float32) for k, v in weights.items()},
            folder / "run" / f"checkpoint-{step}" / "model.safetensors",
        )
        (folder / "run" / f"checkpoint-{step}" / "config.json").write_text("{}")
    for name in ("one", "two"):
        finished(["analyze", str(folder / "run"), "--out", str(folder / name), "--quiet"])
    return folder


def words(command: str, given: Path, out: Path) -> list[str]:
    asked = {
        "analyze": [str(given / "run"), "--quiet"],
        "backtest": [str(given / "run"), "--quiet"],
        "compare": [str(given / "one"), str(given / "two")],
        "extrapolate": [str(given / "run"), "--to", "100", "--method", "two-point", "--quiet"],
    }
    return [command, *asked[command], "--out", str(out)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", list(FILES))
def test_killed_at_any_moment_the_result_is_complete_or_absent_and_the_same_call_finishes(
    given: Path, rng: np.random.Generator, tmp_path: Path, command: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    out = place / "out"
    finished(words(command, given, tmp_path / "warm"))
    whole = finished(words(command, given, tmp_path / "timed"))
    kills = absent = left = 0

    def begun() -> bool:
        return any(place.iterdir())

    while kills < KILLS:  # every second one at any moment, the others while the result is being written
        if kills % 2:
            kills += killed(words(command, given, out), rng.uniform(0.05, 1.1) * whole)
        else:
            kills += killed(words(command, given, out), 0.0, once=begun)
        if out.exists():
            complete(command, out)
            shutil.rmtree(out)
        else:
            absent += 1
            left += any(place.iterdir())
            assert all(path.name.startswith(".out.partial-") for path in place.iterdir())
    finished(words(command, given, out))
    complete(command, out)
    assert list(place.iterdir()) == [out]  # what the killed ones had begun is gone
    assert absent >= KILLS // 4
    assert left >= 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_result_that_is_being_replaced_is_never_lost(given: Path, rng: np.random.Generator, tmp_path: Path) -> None:
    """Killed at any moment of --overwrite, the former result or the new one is there for the next call."""
    place = tmp_path / "place"
    place.mkdir()
    out = place / "out"
    again = [*words("analyze", given, out), "--overwrite"]
    finished(again)
    whole = finished(again)
    kills = 0
    while kills < KILLS:
        kills += killed(again, rng.uniform(0.3, 1.1) * whole)
        refuse_occupied(out, overwrite=True, mark="summary.json")  # what every call does first
        complete("analyze", out)
    assert list(place.iterdir()) == [out]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_inspection_that_is_killed_has_written_nothing(
    given: Path, rng: np.random.Generator, tmp_path: Path
) -> None:
    """Neither in the run nor beside it."""
    shutil.copytree(given / "run", tmp_path / "run")
    words = ["inspect", str(tmp_path / "run"), "--json"]

    def there() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    finished(words)
    before, whole = there(), finished(words)
    kills = tries = 0
    while kills < KILLS:
        kills += killed(words, rng.uniform(0.0, 0.8) * whole)
        tries += 1
        assert tries < 20 * KILLS
        assert there() == before
    finished(words)
    assert there() == before


_TRAINER = """
import shutil, sys
from pathlib import Path
from safetensors.numpy import load_file, save_file
model, steps, output = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
weights = load_file(model / "model.safetensors")
for step in range(1, steps + 1):
    weights = {name: value + value.dtype.type(0.25) for name, value in weights.items()}
    folder = output / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    shutil.copy(model / "config.json", folder)
"""


def let_go(out: Path) -> None:
    """Wait for a trainer that outlived its driver: until it ends it holds the folder, and a call is refused."""
    while out.exists():
        try:
            os.close(hold(out))
        except Held:
            time.sleep(0.01)
        else:
            return


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_reground_killed_at_fifty_moments_goes_on(rng: np.random.Generator, tmp_path: Path) -> None:
    """The final model is there whole or not at all; the same call ends with that of a call that was never stopped."""
    base = tmp_path / "base"
    base.mkdir()
    save_file({"w": np.ones((400, 300), np.float32)}, base / "model.safetensors")
    (base / "config.json").write_text(json.dumps({"model_type": "test"}))
    (tmp_path / "trainer.py").write_text(_TRAINER)

    def words(out: Path) -> list[str]:
        cycle = ["--m", "2", "--n", "6", "--cycles", "3", "--out", str(out), "--quiet"]
        trainer = [sys.executable, str(tmp_path / "trainer.py"), "{model}", "{steps}", "{output}"]
        return ["reground", "--model", str(base), *cycle, "--", *trainer]

    def check(out: Path) -> None:
        weights = load_file(out / "final" / "model.safetensors")
        np.testing.assert_array_equal(weights["w"], np.full((400, 300), 1 + 3 * 8 * 0.25, np.float32))
        jumps = json.loads((out / "jumps.json").read_text())
        assert [jump["cycle"] for jump in jumps] == [1, 2, 3]

    finished(words(tmp_path / "warm"))
    whole = finished(words(tmp_path / "timed"))
    check(tmp_path / "timed")
    out, kills, done, resumed = tmp_path / "out", 0, 0, 0
    while kills < 50:
        let_go(out)
        resumed += (out / "jumps.json").exists()
        kills += killed(words(out), rng.uniform(0.05, 1.0) * whole)
        if (out / "final").exists():
            check(out)
            done += 1
            shutil.rmtree(out)
    let_go(out)
    finished(words(out))
    check(out)
    assert not [path for path in tmp_path.rglob(".*") if ".partial" in path.name or ".old-" in path.name]
    assert done >= 1
    assert resumed >= 5
