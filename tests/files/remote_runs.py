"""A small run that tests put at remote addresses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from conftest import walk_weights

STEPS = [0, 10, 20, 30]


def small_run(make_run: Callable[..., Path], rng: np.random.Generator) -> Path:
    """Two matrices and a vector, bfloat16, that drift; with what a trainer writes beside them."""
    shapes = {"model.a.weight": (300, 70), "model.b.weight": (64, 64), "model.norm.weight": (300,)}
    made = make_run(walk_weights(rng, STEPS, shapes, drift=0.5), "BF16")
    rates = [{"step": step, "learning_rate": 1e-6} for step in STEPS]
    (made / "checkpoint-30" / "trainer_state.json").write_text(json.dumps({"log_history": rates}))
    (made / "run.json").write_text(json.dumps({"optimizer": {"adam_beta1": 0.5}}))
    return made
