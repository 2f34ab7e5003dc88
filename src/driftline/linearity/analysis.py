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
from driftline.errors import InputError
from driftline.linearity import drift, null, persistence, regime, skill, statistics
from driftline.linearity.names import layer_and_module
from driftline.linearity.scan import FILTERS, Population, TensorScan, scan
from driftline.linearity.step_sizes import Moves
from driftline.linearity.verdict import verdict

_HISTOGRAM_BINS = 100  # of histograms in the results; the scan's own are finer
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
    threads: int | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> dict[str, Any]:
    """Measure a run: writes `tensors.parquet` into `folder` and returns the summary.

    Raises:
        InputError: see `scan`; also when no weight changes, or none passes the filter.
    """
    if filter not in FILTERS:
        raise InputError(f"--filter {filter!r} is unknown: choose none or paper")
    started, folder = time.monotonic(), Path(folder)
    time_values = configuration.clock_values(trajectory, clock)
    totals = RunTotals()
    with _TensorTable(folder / "tensors.parquet", trajectory, filter) as table:
        for tensor in scan(trajectory, clock=time_values, threads=threads, progress=progress):
            totals.add(tensor)
            table.add(tensor)
    scanned = time.monotonic()
    if totals.populations[0].count == 0:
        raise InputError(
            f"{trajectory.name}: no weight changes between step {trajectory.steps[0]} and {trajectory.steps[-1]}: "
            "are these copies of one checkpoint?"
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
    steps = np.asarray(trajectory.steps)
    gram, population = np.asarray(totals.gram), totals.populations[FILTERS[filter]]
    beta1, beta1_from = configuration.adam_beta1(trajectory)
    dtypes = sorted({info.dtype for tensor in trajectory for info in tensor.stored})
    memory = statistics.optimizer_memory(beta1)
    pairs = statistics.separated_pairs(steps, memory)
    increments = statistics.increments_gram(gram)
    lengths = np.sqrt(np.clip(np.diag(increments), 0, None))
    null_gram = null.matched_gram(steps, beta1, lengths)
    null_population, null_shares = _null_population(totals, trajectory, clock_values, beta1, filter)

    cosine, cosine_sd = statistics.mean_cosine(increments, pairs)
    exponent, exponent_error = statistics.growth_exponent(gram, clock_values)
    drift_per_clock, noise_to_drift = statistics.drift_and_noise(gram, clock_values, pairs)
    energy, coefficient_r2 = statistics.rank_one(gram, clock_values)
    null_energy, null_coefficient_r2 = statistics.rank_one(null_gram, clock_values)
    test = drift.drift_test(gram, steps, clock_values, beta1)
    kept_length = persistence.persistence(gram, steps, beta1, test.least_dimension) if test else None
    skills = skill.held_out_skill(gram, clock_values)
    held_out = max(len(steps) // 4, 1)
    measured, unfiltered = population.count, totals.populations[0].count

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
        "r2": r2_figures(population),
        "null_r2": r2_figures(null_population) | null_shares,
        "r2_histogram": {"run": _coarse(population), "null": _coarse(null_population)},
        "drift": {
            "increment_cosine": cosine,
            "increment_cosine_sd": cosine_sd,
            "increment_pairs": int(pairs[0].size),
            "adjacent_cosine": float(np.diag(statistics.cosines(increments), 1).mean()),
            "growth_exponent": exponent,
            "growth_exponent_se": exponent_error,
            "noise_to_drift": noise_to_drift,
            "drift_per_clock": drift_per_clock,
            "effective_dimension": test.effective_dimension if test else math.nan,
            "null": {
                "increment_cosine": statistics.mean_cosine(null.increment_correlation(steps, beta1), pairs)[0],
                "adjacent_cosine": float(np.diag(null.increment_correlation(steps, beta1), 1).mean()),
                "growth_exponent": statistics.growth_exponent(null_gram, clock_values)[0],
            },
        },
        "optimizer": {"adam_beta1": beta1, "adam_beta1_from": beta1_from, "memory_steps": memory},
        "persistence": {
            "length": kept_length.length if kept_length else math.nan,
            "interval": [kept_length.low, kept_length.high] if kept_length else [math.nan, math.nan],
            "at_least": kept_length.at_least if kept_length else False,
        },
        "rank1": {
            "energy": energy,
            "null_energy": null_energy,
            "coefficient_r2": coefficient_r2,
            "null_coefficient_r2": null_coefficient_r2,
        },
        "skill": {
            "cutoff": int(steps[-1 - held_out]),
            "targets": steps[-held_out:].tolist(),
            "methods": {name: float(value) for name, value in skills.items()},
            "null": {name: float(value) for name, value in skill.held_out_skill(null_gram, clock_values).items()},
        },
        "regime": {
            "segments": [
                {"from": int(steps[piece.first]), "to": int(steps[piece.last]), "r2": piece.r2}
                for piece in regime.segments(gram, clock_values, null_gram)
            ]
        },
        "rounding": {
            "dtypes": dtypes,
            "unchanged_share": float(np.sum(totals.kept) / (totals.parameters * (len(steps) - 1))),
            "unchanged_share_per_interval": (np.asarray(totals.kept) / totals.parameters).tolist(),
            "distinct_values": dict(zip(("1", "2", "3", "4+"), np.asarray(totals.distinct).tolist(), strict=True)),
        },
        "gram": gram.tolist(),
        "left_out": trajectory.left_out,
        "skipped": {str(step): reason for step, reason in trajectory.skipped.items()},
    }
    return summary | {"verdict": verdict(test, summary)}


def r2_figures(population: Population) -> dict[str, float]:
    return {
        "mean": population.mean_r2,
        "median": population.quantile(0.5),
        "q25": population.quantile(0.25),
        "q75": population.quantile(0.75),
        "share_above_0.7": population.share_strong,
    }


def _coarse(population: Population) -> list[int]:
    return population.histogram.reshape(_HISTOGRAM_BINS, -1).sum(1).tolist()


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
        figures = r2_figures(population)
        self._rows.append(
            {
                "name": tensor.name, "layer": layer, "module": module, "shape": list(tensor.shape), "dtype": tensor.dtype,
                "parameters": tensor.size, "measured": population.count, "unchanged": tensor.unchanged,
                "filtered": tensor.populations[0].count - population.count,
                **{f"r2_{key}": None if math.isnan(value) else value for key, value in figures.items()},
                "r2_histogram": _coarse(population),
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
