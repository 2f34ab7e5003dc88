"""`driftline analyze`: the scan and all statistics of one run, as `tensors.parquet` and a summary.

The summary's keys are a contract; see `docs/outputs.md`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from driftline._version import __version__
from driftline.checkpoints import configuration
from driftline.checkpoints.trajectory import Trajectory
from driftline.engines import Engine
from driftline.errors import InputError
from driftline.linearity import figures, null
from driftline.linearity.names import layer_and_module
from driftline.linearity.scan import FILTERS, Population, TensorScan, scan
from driftline.linearity.step_sizes import Moves
from driftline.linearity.verdict import verdict

_ROW_GROUP_BYTES = 16 << 20


@dataclass
class RunTotals:
    """What the tensors of a run add up to."""

    populations: list[Population] = field(default_factory=list)  # [no filter, the paper's filter]
    gram: np.ndarray | float = 0.0
    kept: np.ndarray | float = 0
    distinct: np.ndarray | float = 0
    parameters: int = 0
    moves: list[Moves] = field(default_factory=list)

    def add(self, tensor: TensorScan) -> None:
        self.populations = [
            null.sum_populations(pair) for pair in zip(self.populations, tensor.populations, strict=False)
        ] or list(tensor.populations)
        self.gram = self.gram + tensor.gram
        self.kept = self.kept + tensor.kept
        self.distinct = self.distinct + tensor.distinct
        self.parameters += tensor.size
        self.moves.append(tensor.moves)


def analyze(
    trajectory: Trajectory,
    folder: Path | str,
    *,
    filter: str = "none",
    clock: str = "step",
    engine: Engine | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> dict[str, Any]:
    """Measure a run: writes `tensors.parquet` into `folder`, which must exist, and returns the summary.

    Args:
        filter: `none`, or `paper`: R² of the weights whose range exceeds 1e-4 and that take 4 values or more.
        clock: what lines are drawn against: `step`, or `lr`, the summed learning rate.
        engine: where the work runs; default threads of this process.
        progress: called with the bytes read, as they are read.

    Returns:
        What stands in `summary.json`; docs/outputs.md defines every key and its unit.

    Raises:
        InputError: see `scan`; also when no weight changes, or none passes the filter.
    """
    if filter not in FILTERS:
        raise InputError(f"--filter {filter!r} is unknown: choose none or paper")
    started, folder = time.monotonic(), Path(folder)
    time_values = configuration.clock_values(trajectory, clock)
    totals = RunTotals()
    with _TensorTable(folder / "tensors.parquet", trajectory, filter) as table:
        for tensor in scan(trajectory, clock=time_values, engine=engine, progress=progress):
            totals.add(tensor)
            table.add(tensor)
    scanned = time.monotonic()
    if totals.populations[0].count == 0:
        raise InputError(
            f"{trajectory.name}: no weight changes between step {trajectory.steps[0]} and {trajectory.steps[-1]}: "
            "they look like copies of one checkpoint, so choose others with --steps"
        )
    if totals.populations[FILTERS[filter]].count == 0:
        raise InputError(f"{trajectory.name}: no weight passes --filter {filter}: use --filter none")
    summary = summarize(totals, trajectory, time_values, filter=filter, clock=clock)
    summary["cost"] = {
        "scan_seconds": scanned - started,
        "statistics_seconds": time.monotonic() - scanned,
        "bytes_read": trajectory.nbytes,
    }
    return summary


def summarize(
    totals: RunTotals, trajectory: Trajectory, clock_values: np.ndarray, *, filter: str, clock: str
) -> dict[str, Any]:
    """All statistics of a run from what its tensors add up to; no weight is read."""
    gram, population = np.asarray(totals.gram), totals.populations[FILTERS[filter]]
    beta1, beta1_from = configuration.adam_beta1(trajectory)
    dtypes = sorted({info.dtype for tensor in trajectory for info in tensor.stored})
    null_population, null_shares = _null_population(totals, trajectory, clock_values, beta1, filter)
    measured, unfiltered = population.count, totals.populations[0].count
    statistics, test = figures.of_trajectory(
        gram, np.asarray(trajectory.steps), clock_values, beta1, trajectory.regrounded
    )
    summary: dict[str, Any] = {
        "driftline": __version__,
        "kind": "weights",
        "run": trajectory.name,
        "steps": list(trajectory.steps),
        "clock": clock,
        "clock_values": clock_values.tolist(),
        "filter": filter,
        "parameters": {
            "total": totals.parameters,
            "measured": measured,
            "unchanged": totals.parameters - unfiltered,
            "filtered": unfiltered - measured,
            "changed_share": unfiltered / totals.parameters,
            "kept_share": measured / totals.parameters,
        },
        **figures.of_r2(population, null_population, null_shares),
        **statistics,
        "optimizer": statistics["optimizer"] | {"adam_beta1_from": beta1_from},
        "rounding": {
            "dtypes": dtypes,
            "unchanged_share": float(np.sum(totals.kept) / (totals.parameters * (len(trajectory.steps) - 1))),
            "unchanged_share_per_interval": (np.asarray(totals.kept) / totals.parameters).tolist(),
            "distinct_values": dict(zip(("1", "2", "3", "4+"), np.asarray(totals.distinct).tolist(), strict=True)),
        },
        "left_out": trajectory.left_out,
        "skipped": {str(step): reason for step, reason in trajectory.skipped.items()},
    }
    if trajectory.regrounded:
        summary["jumps"] = trajectory.regrounded.summary()
    return summary | {"verdict": verdict(test, summary)}


def _null_population(
    totals: RunTotals, trajectory: Trajectory, clock_values: np.ndarray, beta1: float, filter: str
) -> tuple[Population, dict[str, float]]:
    """R² of the matched driftless walk; rounding enters where weights are narrower than float32, or a filter is on."""
    steps = np.asarray(trajectory.steps)
    stored = {info.dtype for tensor in trajectory for info in tensor.stored}
    if filter == "none" and stored <= {"F32", "F64"}:
        return null.null_r2(steps, clock_values, beta1), {"changed_share": 1.0, "kept_share": 1.0}
    population, changed, kept = null.matched_null_r2(steps, clock_values, beta1, totals.moves, filter=filter)
    return population, {"changed_share": changed, "kept_share": kept}


class _TensorTable:
    """`tensors.parquet`, written row by row as tensors are measured, in bounded memory."""

    def __init__(self, path: Path, trajectory: Trajectory, filter: str) -> None:
        floats, counts = pa.list_(pa.float64()), pa.list_(pa.int64())
        fields: dict[str, pa.DataType] = {
            "name": pa.string(), "layer": pa.int32(), "module": pa.string(), "shape": counts, "dtype": pa.string(),
            "parameters": pa.int64(), "measured": pa.int64(), "unchanged": pa.int64(), "filtered": pa.int64(),
            "r2_mean": pa.float64(), "r2_median": pa.float64(), "r2_q25": pa.float64(), "r2_q75": pa.float64(),
            "r2_share_above_0.7": pa.float64(), "r2_histogram": counts,
            "distinct_values": counts, "mean_abs_slope": pa.float64(), "rms_slope": pa.float64(), "largest_range": pa.float64(),
            "update_norm": floats, "unchanged_per_interval": counts, "gram": floats,
            "sample_positions": counts, "sample_values": pa.list_(pa.float32()),
        }  # fmt: skip
        metadata = {"driftline": __version__, "filter": filter, "steps": ",".join(map(str, trajectory.steps))}
        self._schema = pa.schema(list(fields.items()), metadata=metadata)
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._filter = filter
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, tensor: TensorScan) -> None:
        population = tensor.population(self._filter)
        layer, module = layer_and_module(tensor.name)
        r2 = figures.shares_of(population)
        self._rows.append(
            {
                "name": tensor.name, "layer": layer, "module": module, "shape": list(tensor.shape), "dtype": tensor.dtype,
                "parameters": tensor.size, "measured": population.count, "unchanged": tensor.unchanged,
                "filtered": tensor.populations[0].count - population.count,
                **{f"r2_{key}": None if math.isnan(value) else value for key, value in r2.items()},
                "r2_histogram": figures.coarse(population),
                "distinct_values": tensor.distinct, "mean_abs_slope": tensor.mean_abs_slope, "rms_slope": tensor.rms_slope,
                "largest_range": tensor.largest_range,
                "update_norm": np.sqrt(np.clip(np.diag(tensor.gram), 0, None)),
                "unchanged_per_interval": tensor.kept, "gram": tensor.gram.ravel(),
                "sample_positions": tensor.positions, "sample_values": tensor.sample.ravel(),
            }
        )  # fmt: skip
        self._bytes += tensor.gram.nbytes + tensor.sample.nbytes
        if self._bytes > _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._bytes = [], 0

    def __enter__(self) -> _TensorTable:
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
