"""`driftline activations`: hidden states, attention and MLP outputs at chosen layers, at every checkpoint.

Fixed responses are run through each checkpoint; forward hooks catch what each chosen block puts out at
sampled response positions, and of that sampled units (seeded by the block's name). Also, between the first
and the last checkpoint, where the change of a linear layer's output comes from (paper, Fig. 4).
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa

from driftline._version import __version__
from driftline.checkpoints.identity import identity
from driftline.checkpoints.reasons import remedy
from driftline.checkpoints.trajectory import Trajectory
from driftline.errors import InputError
from driftline.files.parquet import write_table
from driftline.files.work import Work
from driftline.linearity import figures, null
from driftline.linearity.names import layer_and_module
from driftline.linearity.summary import ActivationsSummary, Cost, SampledUnits
from driftline.outputs import series
from driftline.outputs.checkpoint_model import load_checkpoint
from driftline.outputs.hooks import decoder_layers, run_with_hooks
from driftline.outputs.logprobs import limits_of, tokenizer_of
from driftline.outputs.rollouts import Rollout, read_rollouts
from driftline.outputs.source_of_change import Change, change_of_outputs
from driftline.progress import Advance, StartStage, no_progress, unseen

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Array = np.ndarray

_ATTENTION, _MLP = ("self_attn", "attn", "attention"), ("mlp", "feed_forward", "block_sparse_moe")


@dataclass(frozen=True)
class Sampling:
    """What is kept: layers (spread evenly when empty), positions over all responses, units of each block."""

    layers: tuple[int, ...] = ()
    positions: int = 256
    units: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("positions", "units"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}: it must be at least 1")


_SPREAD = 4  # layers, where none are named


def activations(
    trajectory: Trajectory,
    rollouts_file: Path,
    folder: Path,
    out: Path,
    *,
    sampling: Sampling | None = None,
    clock: str = "step",
    beta1: float | None = None,
    ema: float | None = None,
    dtype: str = "auto",
    progress: StartStage = no_progress,
) -> ActivationsSummary:
    """Measure the run's activations; writes `activations.parquet` and returns the summary.

    Args:
        beta1, ema: as of `analyze`.

    Raises:
        InputError: see `logprobs`; also a layer that the model does not have.
    """
    sampling = sampling or Sampling()
    if len(trajectory.steps) < 3:
        raise InputError(
            f"{trajectory.name}: {len(trajectory.steps)} usable checkpoints: a line needs at least 3; "
            f"{remedy(trajectory.steps, 3, trajectory.skipped)}"
        )
    started = time.monotonic()
    facts = figures.facts_of(trajectory, clock, weights=False, beta1=beta1, ema=ema)
    rollouts = read_rollouts(rollouts_file, tokenizer_of(trajectory), limits=limits_of(trajectory))
    settings = SampledUnits(
        layers=list(sampling.layers), positions=sampling.positions, units=sampling.units, seed=sampling.seed
    )
    sequences = [r.prompt_ids + r.response_ids for r in rollouts]
    work = Work(
        out, identity(trajectory, sequences, kind="activations", dtype=dtype, **msgspec.structs.asdict(settings))
    )
    positions = sampled_positions(rollouts, sampling)
    names: list[str] = []
    rows = []
    for step, checkpoint in zip(trajectory.steps, trajectory.checkpoints, strict=True):
        found = work.load(step)
        if found is None or not names:
            model = load_checkpoint(checkpoint, dtype=dtype)
            blocks = chosen_blocks(model, sampling.layers)
            names = list(blocks)
        if found is None:
            advance = progress(f"step {step}", sum(map(len, sequences)))
            found = caught(model, blocks, rollouts, positions, sampling, progress=advance)
            if not np.isfinite(found).all():
                raise InputError(f"{checkpoint.path}: activations are not finite: leave step {step} out with --steps")
            work.save(step, found)
        rows.append(found)
    values = np.stack(rows)  # [T, blocks, positions x units]
    del model
    first, last = (trajectory.checkpoints[i] for i in (0, -1))
    changes = change_of_outputs(first, last, rollouts, positions, layers=_layers_of(names), dtype=dtype)
    summary = _summarize(values, names, facts, len(rollouts), settings, changes)
    _write(folder / "activations.parquet", values, names, facts.clock_values, trajectory.steps)
    work.remove()
    return msgspec.structs.replace(summary, cost=Cost(seconds=time.monotonic() - started))


def sampled_positions(rollouts: Sequence[Rollout], sampling: Sampling) -> list[Array]:
    """For each rollout the sampled positions in prompt + response whose output predicts a response token, ascending."""
    every = [(i, p) for i, r in enumerate(rollouts) for p in range(len(r.prompt_ids) - 1, r.length - 1)]
    rng = np.random.default_rng(sampling.seed)
    chosen = rng.choice(len(every), min(sampling.positions, len(every)), replace=False)
    picked: list[list[int]] = [[] for _ in rollouts]
    for index in np.sort(chosen):
        i, p = every[index]
        picked[i].append(p)
    return [np.array(row, dtype=int) for row in picked]


def chosen_blocks(model: PreTrainedModel, layers: Sequence[int]) -> dict[str, torch.nn.Module]:
    """Name -> module: each chosen layer as a whole (its hidden states), its attention and its MLP.

    Raises:
        InputError: a layer that the model does not have.
    """
    stack = decoder_layers(model)
    for layer in layers:
        if not 0 <= layer < len(stack):
            raise InputError(f"--layers {layer}: the model has layers 0 to {len(stack) - 1}, choose among these")
    spread = np.unique(np.linspace(0, len(stack) - 1, _SPREAD).round().astype(int)).tolist()
    blocks: dict[str, torch.nn.Module] = {}
    for layer in layers or spread:
        blocks[f"layers.{layer}.hidden"] = stack[layer]
        for kind, names in (("attention", _ATTENTION), ("mlp", _MLP)):
            part = next((getattr(stack[layer], name) for name in names if hasattr(stack[layer], name)), None)
            if part is not None:
                blocks[f"layers.{layer}.{kind}"] = part
    return blocks


def caught(
    model: PreTrainedModel,
    blocks: dict[str, torch.nn.Module],
    rollouts: Sequence[Rollout],
    positions: Sequence[Array],
    sampling: Sampling,
    *,
    progress: Advance = unseen,
) -> Array:
    """What the blocks put out, float32 [blocks, positions x units]; positions in order of rollout."""
    out: dict[str, dict[int, Array]] = {name: {} for name in blocks}

    def take(name: str, rows: list[int], values: Array) -> None:
        units = sampled_units(name, values.shape[-1], sampling)
        for row, kept in zip(rows, np.split(values, np.cumsum([len(positions[r]) for r in rows])[:-1]), strict=True):
            out[name][row] = kept[:, units]

    run_with_hooks(model, blocks, rollouts, positions, take, outputs=True, progress=progress)
    return np.stack([np.concatenate([out[name][row] for row in sorted(out[name])]).ravel() for name in blocks])


def sampled_units(name: str, width: int, sampling: Sampling) -> Array:
    rng = np.random.default_rng([sampling.seed, zlib.crc32(name.encode())])
    return np.sort(rng.choice(width, min(sampling.units, width), replace=False))


def _layers_of(names: Sequence[str]) -> list[int]:
    return sorted({layer for name in names if (layer := layer_and_module(name)[0]) is not None})


def _summarize(
    values: Array,
    names: Sequence[str],
    facts: figures.Facts,
    rollouts: int,
    settings: SampledUnits,
    changes: Sequence[Change],
) -> ActivationsSummary:
    return series.summarize(
        ActivationsSummary,
        values.reshape(len(values), -1),
        facts,
        what="activations",
        rollouts=rollouts,
        sampling=settings,
        blocks={
            name: figures.shares_of(null.population_of(series.lines(values[:, i], facts.clock_values).r2))
            for i, name in enumerate(names)
        },
        source_of_change=[change.record() for change in changes],
    )


def _write(path: Path, values: Array, names: Sequence[str], clock: Array, steps: Sequence[int]) -> None:
    """A row for each sampled unit at each position."""
    _, blocks, n = values.shape
    flat = values.reshape(len(values), -1)
    found = series.lines(flat, clock)
    columns = {
        "block": pa.array(np.repeat(names, n)),
        "slope": pa.array(found.slope),
        "r2": pa.array(found.r2, mask=np.isnan(found.r2)),
        "values": pa.FixedSizeListArray.from_arrays(pa.array(flat.T.ravel()), len(steps)),
    }
    metadata = {"driftline": __version__, "steps": ",".join(map(str, steps)), "blocks": str(blocks)}
    write_table(pa.table(columns, metadata=metadata), path)
