"""SIGKILL at random moments: what is there afterwards is complete or absent, and a second call succeeds.

`watch`, which is meant to be killed and continued, has its own in `linearity/test_watch.py`.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
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

MakeRun = Callable[..., Path]
STEPS = list(range(0, 80, 10))
COMMANDS = {"analyze": [], "extrapolate": ["--to", "100", "--method", "two-point"]}


def complete(command: str, out: Path) -> None:
    """Every file of the result is there and can be read."""
    if command == "analyze":
        assert {path.name for path in out.iterdir()} == {"summary.json", "tensors.parquet", "report.html"}
        assert json.loads((out / "summary.json").read_text())["steps"] == STEPS
        assert pq.read_table(out / "tensors.parquet").num_rows == 2
        assert (out / "report.html").read_text().rstrip().endswith("</html>")
    else:
        assert json.loads((out / "driftline.json").read_text())["target"] is not None
        (tensor,) = [t for t in open_trajectory([f"100={out}"]) if t.name == "up.weight"]
        values = np.empty((1, tensor.size), np.float32)
        tensor.read(0, tensor.size, values, np.empty(8 * tensor.size, np.uint8))
        assert np.isfinite(values).all()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", list(COMMANDS))
def test_killed_at_fifty_moments_the_result_is_complete_or_absent(
    make_run: MakeRun, rng: np.random.Generator, tmp_path: Path, command: str
) -> None:
    run = make_run(walk_weights(rng, STEPS, {"up.weight": (2000, 500), "norm.weight": (500,)}, drift=0.2))

    def start(out: Path) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "driftline", command, str(run), "--out", str(out), *COMMANDS[command]]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finish(out: Path) -> None:
        process = start(out)
        assert (process.communicate()[1], process.returncode) == (b"", 0)
        complete(command, out)

    finish(tmp_path / "warm")  # compiles kernels
    began = time.monotonic()
    finish(tmp_path / "timed")
    whole = time.monotonic() - began
    work = tmp_path / "work"
    work.mkdir()
    kills = absent = tries = 0
    while kills < 50:
        tries += 1
        out = work / str(tries)
        process = start(out)
        time.sleep(rng.uniform(0.2, 1.0) * whole)
        process.kill()
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            whole *= 0.9  # the machine is quicker now
        kills += process.returncode == -signal.SIGKILL
        if out.exists():
            complete(command, out)
        else:
            absent += 1
            assert all(path.name.startswith(f".{tries}.partial-") for path in work.glob(f"*{tries}.partial*"))
            if absent % 5 == 1:
                finish(out)
    assert absent >= 10


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
        resumed += (out / "jumps.json").exists()
        kills += killed(words(out), rng.uniform(0.05, 1.0) * whole)
        if (out / "final").exists():
            check(out)
            done += 1
            shutil.rmtree(out)
    finished(words(out))
    check(out)
    assert done >= 1
    assert resumed >= 5
