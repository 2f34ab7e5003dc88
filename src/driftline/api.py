"""The commands as functions: the same request, run by the same code, with the flags as keyword arguments.

`driftline analyze RUN --out DIR --clock lr` is `driftline.analyze("RUN", "DIR", clock="lr")`. A run is a folder, an
address, several `STEP=PATH`, or a `Trajectory` that is open already. Each writes what its command writes and returns
the record; each raises `InputError` where the command would exit with 2. Nothing is printed but what went wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.commands import command_named, request_type
from driftline.commands.requests import answer, make

if TYPE_CHECKING:
    from driftline.checkpoints.trajectory import Trajectory

    RunLike = str | Path | Sequence[str | Path] | Trajectory


def inspect(run: RunLike, **options: Any) -> Any:
    """What a run holds: layout, steps, tensors, dtypes, sizes, problems."""
    return _run("inspect", run=run, **options)


def analyze(run: RunLike, out: str | Path, **options: Any) -> Any:
    """Measure a run: writes `summary.json`, `tensors.parquet` and `report.html` into `out`, returns the summary."""
    return _run("analyze", run=run, out=out, **options)


def backtest(run: RunLike, out: str | Path, **options: Any) -> Any:
    """How far ahead a run can be forecast: writes `backtest.json` and its page into `out`, returns the record."""
    return _run("backtest", run=run, out=out, **options)


def advise(run: RunLike, **options: Any) -> Any:
    """What a run says to do next, with the evidence behind each line; nothing is written, the record is returned."""
    return _run("advise", run=run, **options)


def extrapolate(run: RunLike, out: str | Path, **options: Any) -> Any:
    """Write forecast models into `out`: one of them there itself, several into `out/checkpoint-STEP`.

    `to` says which steps, as a number or as the command takes them; `from_` which observed steps to use. Returns the
    recipes (`records`), a `sentence` that says what was done and why, and whether that is a `warning`.
    """
    return _run("extrapolate", run=run, out=out, **options)


def logprobs(run: RunLike, rollouts: str | Path, out: str | Path, **options: Any) -> Any:
    """Teacher-forced log-probs of fixed responses at every checkpoint: writes into `out`, returns the summary."""
    return _run("logprobs", run=run, rollouts=rollouts, out=out, **options)


def activations(run: RunLike, rollouts: str | Path, out: str | Path, **options: Any) -> Any:
    """The same of hidden states, attention and MLP outputs."""
    return _run("activations", run=run, rollouts=rollouts, out=out, **options)


def evaluate(model: str | Path | None, task: str, out: str | Path, **options: Any) -> Any:
    """Accuracy of a model on a task; with None for the model, of extrapolated decoding (`early`, `late`, `alpha`)."""
    return _run("evaluate", model=None if model is None else str(model), task=task, out=out, **options)


def sweep(run: RunLike, to: str | int | None, task: str, out: str | Path, **options: Any) -> Any:
    """Which target scores best on a task: writes `sweep.json` and its page into `out`, returns the record.

    With `checkpoints="all"`, or some of their steps, also which checkpoint does; with None for `to`, that alone.
    """
    return _run("sweep", run=run, to=to, task=task, out=out, **options)


def compare(results: Sequence[str | Path], out: str | Path, **options: Any) -> Any:
    """Several results of `analyze`, `logprobs` or `activations` side by side."""
    return _run("compare", results=results, out=out, **options)


def _run(name: str, **options: Any) -> Any:
    kind = request_type(name)
    if name in ("inspect", "compare"):  # they show no progress
        return answer(command_named(name), make(kind, **options))
    return answer(command_named(name), make(kind, **{"quiet": True, **options}))
