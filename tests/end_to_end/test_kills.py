"""SIGKILL at random moments: what is there afterwards is complete or absent, and a second call succeeds.

`watch`, which is meant to be killed and continued, has its own in `linearity/test_watch.py`.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from conftest import walk_weights
from driftline.checkpoints.trajectory import open_trajectory
from driftline.cli import main
from driftline.decoding.generate import settings_file
from driftline.lab.model import shipped_base

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


# -- commands that go on with what they left

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["driftline.cli", "driftline.decoding.generate", "driftline.training.driver", "transformers"]
)


def _run(words: list[str]) -> None:
    sys.argv = ["driftline", *words]
    os.setpgid(0, 0)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        main()


def killed(words: list[str], after: float, *, once: Callable[[], bool] = lambda: True) -> bool:
    """Run a command in a process group of its own and kill all of it; False if it ended before.

    The moment is so many seconds after something is `once` true.
    """
    process = _forks.Process(target=_run, args=(words,))
    process.start()
    while not once() and process.is_alive():
        time.sleep(0.002)
    process.join(after)
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):  # before it has its group, or when it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0


def finished(words: list[str]) -> float:
    """Run a command to its end; its seconds."""
    began = time.monotonic()
    process = _forks.Process(target=_run, args=(words,))
    process.start()
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_generate_killed_at_fifty_moments_goes_on(rng: np.random.Generator, tmp_path: Path) -> None:
    """Whole rows are right whenever it is killed; the same call ends with the file of a call that was never stopped."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"prompt": f"{a}+{b}="}) + "\n" for a in range(10, 14) for b in range(20, 23))
    )
    model = str(shipped_base())

    def words(out: Path) -> list[str]:
        shape = ["--samples", "2", "--batch-size", "4", "--max-new-tokens", "12", "--temperature", "1.0", "--quiet"]
        return ["generate", "--late", model, "--prompts", str(prompts), "--out", str(out), *shape]

    def rows_of(out: Path) -> list[str]:
        text = out.read_text() if out.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    def has(rows: int) -> bool:
        return len(rows_of(out)) >= rows

    finished(words(tmp_path / "reference.jsonl"))
    reference = (tmp_path / "reference.jsonl").read_text().splitlines()
    assert len(reference) == 24
    out, kills, cut_short, done = tmp_path / "out.jsonl", 0, 0, 0
    while kills < 50:
        goal = int(rng.integers(0, len(reference) + 1))
        kills += killed(words(out), rng.uniform(0, 0.2), once=partial(has, goal))
        rows = rows_of(out)
        assert rows == reference[: len(rows)]
        cut_short += 0 < len(rows) < len(reference)
        if len(rows) == len(reference):
            done += 1
            finished(words(out))
            assert out.read_text().splitlines() == reference
            out.unlink()
            settings_file(out).unlink()
    finished(words(out))
    assert out.read_text().splitlines() == reference
    assert cut_short >= 5
    assert done >= 1


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
