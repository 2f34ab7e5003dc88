"""The wheel as a user gets it: built from the source distribution, in an environment with the core alone."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import walk_weights

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "driftline"

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_install_command_in_an_error_names_an_extra_that_exists() -> None:
    named = set()
    for path in SOURCE.rglob("*.py"):
        for found in re.findall(r"driftline\[([a-z,-]+)\]", path.read_text(encoding="utf-8")):
            named |= set(found.split(","))
    assert {"models", "train", "eval", "serve", "lora"} <= named <= set(PROJECT["optional-dependencies"])


def test_all_holds_every_extra_that_a_command_asks_for() -> None:
    extras = dict(PROJECT["optional-dependencies"])
    (listed,) = extras.pop("all")
    included = set(re.findall(r"[a-z-]+", listed.partition("[")[2])) | {"models"}
    assert set(extras) - included <= {"lm-eval", "ray", "vllm"}  # large, and asked for by name


def _run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_wheel_installs_with_the_core_alone_and_measures(
    make_run: Callable[..., Path], rng: np.random.Generator, tmp_path: Path
) -> None:
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    for path in SOURCE.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(SOURCE.parent)) in packed
    _run(sys.executable, "-m", "venv", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    installed = {line.partition("==")[0].lower() for line in _run(python, "-m", "pip", "freeze").splitlines()}
    assert not installed & {"torch", "transformers", "trl", "datasets", "huggingface-hub", "huggingface_hub", "ray"}
    run = make_run(walk_weights(rng, list(range(0, 100, 10)), {"model.layers.0.up.weight": (40, 30)}, drift=0.3))
    command = tmp_path / "env" / "bin" / "driftline"
    assert "extrapolate" in _run(command, "--help", cwd=tmp_path)
    assert "10 checkpoints" in _run(command, "inspect", run, cwd=tmp_path)
    assert "Linear" in _run(command, "analyze", run, "--out", "analysis", cwd=tmp_path)
    _run(command, "backtest", run, "--analysis", "analysis", "--out", "backtest", cwd=tmp_path)
    _run(command, "extrapolate", run, "--analysis", "analysis", "--to", 120, "--out", "model", cwd=tmp_path)
    (tmp_path / "p").write_text('{"prompt": "1+1="}\n')
    asked = subprocess.run(
        [command, "generate", "--late", run / "checkpoint-0", "--prompts", "p", "--out", "o"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert asked.returncode == 2
    assert "pip install 'driftline[models]'" in asked.stderr
