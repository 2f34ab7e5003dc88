"""The folder that a watch writes, and real processes that are stopped and go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from following import SHAPES, STEPS, Told, follow, put, same

from conftest import walk_weights
from driftline.errors import InputError
from driftline.watching import state as watch_state


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
