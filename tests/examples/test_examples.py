"""The examples run as they are."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest

import driftline
from conftest import walk_weights

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_the_trl_script_is_watched_and_regrounded(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "trl_regrounding.py"), str(tmp_path / "run"), "24"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    jumps = json.loads((tmp_path / "run" / "jumps.json").read_text())
    assert jumps[0]["step"] == 10
    assert jumps[0]["projected_to"] == 20
    logs = json.loads((tmp_path / "run" / "checkpoint-24" / "trainer_state.json").read_text())["log_history"]
    assert logs[-2]["linearity/r2_mean"] > 0
    assert logs[-2]["regrounding/virtual_step"] > 24


_VERL = """
import shutil, sys
from pathlib import Path

given = dict(word.split("=", 1) for word in sys.argv[1:])
assert given["algorithm.adv_estimator"] == "grpo" and given["trainer.logger"] == '["console"]'
assert given["data.train_files"] == "data/train.parquet"
out = Path(given["trainer.default_local_dir"], "global_step_" + given["trainer.total_training_steps"])
shutil.copytree(given["actor_rollout_ref.model.path"], out / "actor" / "huggingface")
"""


def test_the_verl_launch_runs_with_a_stand_in(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """A dry run: the trainer copies its model, as verl's documentation says where."""
    base = make_run({0: {"layers.0.w": np.ones((4, 4))}}) / "checkpoint-0"
    (tmp_path / "verl.py").write_text(_VERL)
    (tmp_path / "driftline").write_text(f'#!/bin/sh\nexec {sys.executable} -m driftline "$@"\n')
    (tmp_path / "driftline").chmod(0o755)
    given = {"MODEL": str(base), "DATA": "data", "OUT": "out", "M": "2", "N": "3", "CYCLES": "2"}
    given |= {"TRAINER": f"{sys.executable} verl.py", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(EXAMPLES / "verl_regrounding.sh")],
        env=os.environ | given,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    jumps = json.loads((tmp_path / "out" / "jumps.json").read_text())
    assert [jump["projected_to"] for jump in jumps] == [5, 10]
    assert (tmp_path / "out" / "final" / "model.safetensors").is_file()


def test_the_notebook_reads_the_tensors(
    make_run: Callable[..., Path], rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code cells in one process, in their order, as a kernel runs them."""
    cells = _analysed(make_run, rng, tmp_path, monkeypatch)
    printed: dict[str, str] = {}
    import plotly.graph_objects as go

    monkeypatch.setattr(go.Figure, "show", lambda figure: printed.update(title=figure.layout.title.text))
    scope: dict[str, object] = {}
    for cell in cells:
        exec(compile(cell.source, "tensors.ipynb", "exec"), scope)
    assert scope["T"] == 6
    assert np.allclose(np.diag(scope["cosines"]), 1)  # type: ignore[call-overload]
    assert printed["title"].startswith("Cosine between")


@pytest.mark.slow
def test_the_notebook_runs_in_jupyter(
    make_run: Callable[..., Path], rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    _analysed(make_run, rng, tmp_path, monkeypatch)
    notebook = nbformat.read(EXAMPLES / "tensors.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert "2 tensors at 6 checkpoints, steps 0 to 50" in said
    assert "mlp.down_proj" in said
    assert any("application/vnd.plotly.v1+json" in o.get("data", {}) for o in notebook.cells[-1].outputs)


def _analysed(
    make_run: Callable[..., Path], rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[nbformat.NotebookNode]:
    """The notebook's code cells, and an analysis for them to read."""
    shapes = {f"model.layers.{k}.mlp.down_proj.weight": (16, 8) for k in range(2)}
    run = make_run(walk_weights(rng, list(range(0, 60, 10)), shapes, drift=0.5))
    driftline.analyze(run, tmp_path / "analysis")
    monkeypatch.setenv("ANALYSIS", str(tmp_path / "analysis"))
    notebook = nbformat.read(EXAMPLES / "tensors.ipynb", as_version=4)
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
