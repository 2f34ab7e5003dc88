"""`driftline logprobs`: teacher-forced log-probs of fixed responses at every checkpoint, and how straight they run.

One model in memory at a time, or one to each node of a cluster; each checkpoint's result is kept as it finishes,
so that a second call goes on. Writes `tokens.parquet` (a row for each token) and `sequences.parquet` (a row for each rollout).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa

from driftline import models
from driftline._version import __version__
from driftline.checkpoints.identity import identity
from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.reasons import remedy
from driftline.checkpoints.trajectory import Trajectory
from driftline.engines import Engine, LocalEngine
from driftline.errors import InputError
from driftline.files.parquet import write_table
from driftline.files.work import Work
from driftline.linearity import figures
from driftline.linearity.summary import Cost, LogprobsSummary
from driftline.outputs import series
from driftline.outputs.checkpoint_model import load_checkpoint
from driftline.outputs.rollouts import Rollout, read_rollouts
from driftline.progress import Advance, StartStage, no_progress
from driftline.prompts import text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS = 200_000  # of a row group

Score: TypeAlias = Callable[[int, Checkpoint, Sequence[Rollout], Advance], np.ndarray]
"""Log-probs [tokens] of rollouts, in nats, by the checkpoint of a step; advanced by the tokens that were read."""


def logprobs(
    trajectory: Trajectory,
    rollouts_file: Path,
    folder: Path,
    out: Path,
    *,
    clock: str = "step",
    beta1: float | None = None,
    ema: float | None = None,
    dtype: str = "auto",
    score: tuple[str, Score] | None = None,
    engine: Engine | None = None,
    progress: StartStage = no_progress,
) -> LogprobsSummary:
    """Score the rollouts under every checkpoint and measure the result.

    Args:
        folder: where the tables go; out: beside what unfinished work is kept.
        beta1, ema: as of `analyze`.
        score: what scores them in place of transformers in this process, and what tells it from others in words.
        engine: where the models run; default one after another in this process.
        progress: called for each checkpoint with what it is and its tokens; returns what counts them.

    Returns:
        The contents of `summary.json`.

    Raises:
        InputError: the rollouts or a model cannot be used, or fewer than 3 checkpoints.
    """
    if len(trajectory.steps) < 3:
        raise InputError(
            f"{trajectory.name}: {len(trajectory.steps)} usable checkpoints: a line needs at least 3; "
            f"{remedy(trajectory.steps, 3, trajectory.skipped)}"
        )
    started = time.monotonic()
    facts = figures.facts_of(trajectory, clock, weights=False, beta1=beta1, ema=ema)
    tokenizer = tokenizer_of(trajectory)
    rollouts = read_rollouts(rollouts_file, tokenizer, limits=limits_of(trajectory))
    by = {} if score is None else {"backend": score[0]}
    asked = [r.prompt_ids + r.response_ids for r in rollouts]
    request = identity(trajectory, asked, kind="logprobs", dtype=dtype, **by)
    work = Work(out, request)
    found = {step: work.load(step) for step in trajectory.steps}
    tokens = sum(rollout.length for rollout in rollouts)
    scoring = score[1] if score is not None else partial(_embedded, dtype=dtype)
    missing = [
        (step, checkpoint)
        for step, checkpoint in zip(trajectory.steps, trajectory.checkpoints, strict=True)
        if found[step] is None
    ]
    scored = (engine or LocalEngine()).map_models(
        partial(_of_checkpoint, rollouts=rollouts, score=scoring),
        missing,
        lambda item: progress(f"step {item[0]}", tokens),
    )
    try:
        for (step, _), new in scored:
            work.save(step, new)
            found[step] = new
    except BaseException:
        if all(values is None for values in found.values()):
            work.remove()
        raise
    values = np.stack([value for value in found.values() if value is not None])
    summary = summarize(values, len(rollouts), facts)
    _write_tokens(folder / "tokens.parquet", values, rollouts, tokenizer, facts.clock_values, trajectory.steps)
    _write_sequences(folder / "sequences.parquet", values, rollouts, trajectory.steps)
    work.remove()
    return msgspec.structs.replace(summary, cost=Cost(seconds=time.monotonic() - started))


def tokenizer_of(trajectory: Trajectory) -> PreTrainedTokenizerBase:
    """The tokenizer of the last checkpoint that has one."""
    for checkpoint in reversed(trajectory.checkpoints):
        if checkpoint.tokenizer is not None:
            return models.load_tokenizer(checkpoint.tokenizer)
    raise InputError(f"{trajectory.name}: no checkpoint has a tokenizer: save it beside the weights of the last one")


def limits_of(trajectory: Trajectory) -> models.Limits:
    """What the last checkpoint's model takes."""
    return models.limits_of(trajectory.checkpoints[-1].model)


def _embedded(
    step: int, checkpoint: Checkpoint, rollouts: Sequence[Rollout], advance: Advance, *, dtype: str
) -> np.ndarray:
    from driftline.outputs.teacher_forcing import token_logprobs

    return token_logprobs(load_checkpoint(checkpoint, dtype=dtype), rollouts, progress=advance)


def _of_checkpoint(
    checkpoint: tuple[int, Checkpoint], advance: Advance, *, rollouts: Sequence[Rollout], score: Score
) -> np.ndarray:
    step, saved = checkpoint
    found = score(step, saved, rollouts, advance)
    if not np.isfinite(found).all():
        raise InputError(f"{saved.path}: log-probs are not finite: leave step {step} out with --steps")
    return found


def summarize(values: np.ndarray, rollouts: int, facts: figures.Facts) -> LogprobsSummary:
    """The contents of `summary.json`; `values` are log-probs [T, tokens]."""
    return series.summarize(
        LogprobsSummary,
        values,
        facts,
        what="tokens",
        rollouts=rollouts,
        paper_filter=series.paper_filter(values, facts),
        mean_logprob=values.mean(1).tolist(),
    )


def _write_tokens(
    path: Path,
    values: np.ndarray,
    rollouts: Sequence[Rollout],
    tokenizer: PreTrainedTokenizerBase,
    clock: np.ndarray,
    steps: Sequence[int],
) -> None:
    found = series.lines(values, clock)
    ids = np.concatenate([rollout.response_ids for rollout in rollouts])
    texts = {int(token): text_of(tokenizer, [int(token)]) for token in np.unique(ids)}
    lengths = [len(rollout.response_ids) for rollout in rollouts]
    columns = {
        "sequence": pa.array(np.repeat(np.arange(len(rollouts)), lengths)),
        "position": pa.array(np.concatenate([np.arange(n) for n in lengths])),
        "token_id": pa.array(ids),
        "token": pa.array([texts[int(token)] for token in ids]),
        "slope": pa.array(found.slope),
        "r2": pa.array(found.r2, mask=np.isnan(found.r2)),
        "change": pa.array(values[-1] - values[0]),
        "logprob": pa.FixedSizeListArray.from_arrays(pa.array(values.T.ravel()), len(steps)),
    }
    metadata = {"driftline": __version__, "steps": ",".join(map(str, steps))}
    write_table(pa.table(columns, metadata=metadata), path, row_group_size=_ROWS)


def _write_sequences(path: Path, values: np.ndarray, rollouts: Sequence[Rollout], steps: Sequence[int]) -> None:
    """Log-prob of each response, and two estimates of the divergence from the first checkpoint."""
    lengths = np.array([len(rollout.response_ids) for rollout in rollouts])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    moved = (values - values[0]).astype(np.float64)
    sums = np.add.reduceat(values, starts, axis=1, dtype=np.float64)
    with np.errstate(over="ignore"):  # beyond 700 nats the divergence is beyond what a number holds, and infinite
        k3 = np.add.reduceat(np.expm1(moved) - moved, starts, axis=1)
    columns = {
        "sequence": pa.array(np.arange(len(rollouts))),
        "tokens": pa.array(lengths),
        "logprob": pa.FixedSizeListArray.from_arrays(pa.array(sums.T.ravel()), len(steps)),
        "kl_from_first": pa.FixedSizeListArray.from_arrays(pa.array(k3.T.ravel()), len(steps)),
    }
    write_table(pa.table(columns, metadata={"steps": ",".join(map(str, steps))}), path)
