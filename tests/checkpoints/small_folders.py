"""Folders of checkpoints for the tests of discovery: a few bytes of real weights each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from conftest import save_tensors


def checkpoint(folder: Path, value: float = 0.0) -> Path:
    """One tensor of two numbers, and a configuration."""
    folder.mkdir(parents=True)
    save_tensors(folder / "model.safetensors", {"w": np.array([1.0, value])})
    (folder / "config.json").write_text("{}")
    return folder


def run_of(run: Path, names: Iterable[str]) -> Path:
    """A run with a checkpoint under each name, no two alike."""
    for number, name in enumerate(names):
        checkpoint(run / name, number)
    return run


def log(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """What transformers' trainer logged up to a checkpoint."""
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": list(rows)}))
