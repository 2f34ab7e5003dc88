"""SIGKILL at random moments: what is there afterwards is complete or absent, and a second call succeeds.

`watch`, which is meant to be killed and continued, has its own in `linearity/test_watch.py`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

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
