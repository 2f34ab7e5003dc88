"""A small run, forecasts of it, and what is done to it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from conftest import save_tensors, walk_weights
from driftline import open_trajectory
from driftline.forecast.request import ForecastRequest
from driftline.writing.extrapolate import WrittenForecasts, extrapolate
from driftline.writing.storage import Storage

MakeRun = Callable[..., Path]
ALL = Storage(keep=())
SHAPES = {
    "model.embed_tokens.weight": (50, 8),
    "model.layers.0.up.weight": (40, 30),
    "model.layers.0.up.bias": (40,),
    "model.layers.0.input_layernorm.weight": (30,),
    "model.norm.weight": (30,),
}
STEPS = list(range(0, 100, 10))


def forecast(run: Path, out: Path, storage: Storage = ALL, **request: object) -> WrittenForecasts:
    request = {"method": "two-point"} | request
    return extrapolate(open_trajectory(run), out, ForecastRequest(**request), storage)  # type: ignore[arg-type]


def stored(run: Path, step: int) -> dict[str, np.ndarray]:
    """What was saved, as float32, read by the safetensors library."""
    path = run / f"checkpoint-{step}" / "model.safetensors"
    return {name: np.asarray(value).astype(np.float32) for name, value in load_file(path).items()}


def bfloat16_run(make_run: MakeRun, rng: np.random.Generator) -> Path:
    return make_run(walk_weights(rng, STEPS, SHAPES, drift=0.3), dtype="BF16", run="bfloat16")


def slowing(rng: np.random.Generator, steps: list[int], power: float) -> dict[int, dict[str, np.ndarray]]:
    """A walk that drifts as a power of the step."""
    run = walk_weights(rng, steps, SHAPES)
    direction = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    return {
        step: {name: value + 1e-2 * step**power * direction[name] for name, value in tensors.items()}
        for step, tensors in run.items()
    }


def rewrite(run: Path, step: int, change: Callable[[dict[str, np.ndarray]], object], dtype: str = "F32") -> None:
    tensors = stored(run, step)
    change(tensors)
    save_tensors(run / f"checkpoint-{step}" / "model.safetensors", tensors, dtype)


def spoil(name: str, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name].flat[7] = value

    return change
