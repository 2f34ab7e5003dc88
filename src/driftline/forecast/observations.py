"""What forecasts are fitted on: the Gram of every tensor, from an analysis on disk or from a scan.

`driftline analyze` keeps the Grams in `tensors.parquet`; where its result is at hand no weight is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from driftline.checkpoints import configuration
from driftline.checkpoints.trajectory import Trajectory
from driftline.errors import InputError
from driftline.linearity.names import layer_and_module
from driftline.linearity.scan import scan

Array = np.ndarray
PER = ("tensor", "group", "run")


@dataclass(frozen=True)
class Observations:
    """Steps, clock [T], momentum, and each tensor's Gram [T, T], of one run."""

    steps: Array
    clock: Array
    beta1: float
    grams: dict[str, Array]

    @cached_property
    def total(self) -> Array:
        """The whole run's Gram."""
        return np.sum(list(self.grams.values()), axis=0)

    def units(self, per: str) -> Iterator[tuple[list[str], Array]]:
        """(names of tensors, their summed Gram) for each tensor, each layer x module, or the whole run."""
        groups: dict[object, list[str]] = {}
        for name in self.grams:
            key = {"tensor": name, "group": layer_and_module(name), "run": None}[per]
            groups.setdefault(key, []).append(name)
        for names in groups.values():
            yield names, np.sum([self.grams[name] for name in names], axis=0)


def observe(
    trajectory: Trajectory,
    *,
    clock: str = "step",
    analysis: Path | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Observations:
    """The run's Grams, from the result of `driftline analyze` in `analysis`, or by a scan.

    Raises:
        InputError: the analysis is not one, or is of other steps, another clock or other tensors.
    """
    values = configuration.clock_values(trajectory, clock)
    beta1, _ = configuration.adam_beta1(trajectory)
    steps = np.asarray(trajectory.steps)
    if analysis is None:
        grams = {tensor.name: tensor.gram for tensor in scan(trajectory, clock=values, sample=0, progress=progress)}
    else:
        grams = _read(analysis, trajectory, clock)
    return Observations(steps, values, beta1, grams)


def _read(analysis: Path, trajectory: Trajectory, clock: str) -> dict[str, Array]:
    try:
        summary = json.loads((analysis / "summary.json").read_bytes())
        rows = pq.read_table(analysis / "tensors.parquet", columns=["name", "gram"]).to_pydict()
    except (OSError, ValueError) as error:
        raise InputError(f"--analysis {analysis} is not a result of driftline analyze ({error})") from error
    T = len(trajectory.steps)
    same = summary.get("steps") == list(trajectory.steps) and summary.get("clock") == clock
    if not same or rows["name"] != [tensor.name for tensor in trajectory]:
        raise InputError(
            f"--analysis {analysis} is of other steps, another clock or other tensors than {trajectory.name}: "
            "analyze it again, or leave --analysis out"
        )
    return {name: np.reshape(gram, (T, T)) for name, gram in zip(rows["name"], rows["gram"], strict=True)}
