"""What forecasts are fitted on: the Gram of every tensor, from an analysis on disk or from a scan.

`driftline analyze` keeps the Grams in `tensors.parquet`; where its result is at hand no weight is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from driftline.checkpoints import configuration
from driftline.checkpoints.momentum import Momentum, refuse_impossible
from driftline.checkpoints.trajectory import Trajectory
from driftline.engines import Engine
from driftline.errors import InputError, first_line
from driftline.files.parquet import columns_of, read_table
from driftline.linearity.figures import optimizer_of
from driftline.linearity.names import layer_and_module
from driftline.linearity.scan import scan
from driftline.linearity.shrinkage import Shrunk, part_of
from driftline.linearity.statistics import rebased
from driftline.linearity.summary import UNSET, Optimizer, UnsetType, read_summary

Array = np.ndarray
_ALONG = ("along_start", "start_square")
PER = ("tensor", "group", "run")


@dataclass(frozen=True)
class Observations:
    """Steps, clock [T], momentum, and each tensor's Gram [T, T], of one run; and `shrunk`, the Gram of what lies along the
    first weights of those that shrink, see `linearity.shrinkage`; and `optimizer`, what the momentum is made of and from.

    The clock is in steps; with `--clock lr` in steps of the run's mean learning rate, so that horizons
    and the optimizer's memory mean the same on both.
    """

    steps: Array
    clock: Array
    beta1: float
    grams: dict[str, Array]
    shrunk: Array | float = 0.0
    optimizer: Optimizer | UnsetType = UNSET

    @cached_property
    def total(self) -> Array:
        """The whole run's Gram."""
        return np.sum(list(self.grams.values()), axis=0)

    @property
    def judged(self) -> Array:
        """The same without what weights shrink by: the rest may have a signal in it."""
        return self.total - self.shrunk

    def only(self, rows: Sequence[int]) -> Observations:
        """The same run seen through some of its checkpoints, deltas counted from the first of them."""
        picked = np.asarray(rows)

        grams = {name: rebased(gram, picked) for name, gram in self.grams.items()}
        shrunk = rebased(self.shrunk, picked) if isinstance(self.shrunk, np.ndarray) else self.shrunk
        return Observations(self.steps[picked], self.clock[picked], self.beta1, grams, shrunk, self.optimizer)

    def units(self, per: str) -> Iterator[tuple[tuple[int | None, str], list[str], Array]]:
        """((layer, module), names of tensors, their summed Gram) of each tensor, each group, or the whole run.

        The whole run's layer and module are (None, "").
        """
        found: dict[object, list[str]] = {}
        for name in self.grams:
            found.setdefault({"tensor": name, "group": layer_and_module(name), "run": None}[per], []).append(name)
        for names in found.values():
            key = (None, "") if per == "run" else layer_and_module(names[0])
            yield key, names, np.sum([self.grams[name] for name in names], axis=0)


def observe(
    trajectory: Trajectory,
    *,
    steps: Sequence[int] | None = None,
    clock: str = "step",
    analysis: Path | None = None,
    beta1: float | None = None,
    ema: float | None = None,
    engine: Engine | None = None,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Observations:
    """The Grams of the run, or of some of its steps, from the result of `driftline analyze` in `analysis`, or by a scan.

    Of a re-grounded run, unless steps are named, those of its longest stretch between two jumps: a jump is a forecast
    itself, and would flatter one that is tested across it.

    Args:
        beta1, ema: as of `analyze`; where there is an analysis, default what it was made with.

    Raises:
        InputError: the analysis is not one, or is of other steps, another clock or other tensors.
    """
    all_of_it = trajectory.regrounded.longest if trajectory.regrounded else trajectory.steps
    chosen = list(steps or all_of_it)
    rows = [trajectory.steps.index(step) for step in chosen]
    values = clock_in_steps(trajectory, clock, trajectory.steps)
    configuration.advancing(trajectory.name, chosen, values[rows], clock)
    if analysis is not None:
        grams, shrunk, made = _read(analysis, trajectory, clock)
        optimizer = _carried(made, beta1, ema)
        whole = Observations(np.asarray(trajectory.steps), values, optimizer.momentum, grams, shrunk, optimizer)
        return whole.only(rows)
    optimizer = optimizer_of(configuration.momentum(trajectory, beta1, ema))
    part = trajectory.only(chosen)
    grams, shrinking = {}, Shrunk()
    for tensor in scan(part, clock=values[rows], sample=0, engine=engine, progress=progress):
        grams[tensor.name] = tensor.gram
        shrinking.add(tensor.along_start, tensor.start_square, tensor.size)
    return Observations(np.asarray(chosen), values[rows], optimizer.momentum, grams, shrinking.gram, optimizer)


def _carried(made: Optimizer, beta1: float | None, ema: float | None) -> Optimizer:
    """The momentum that the analysis was made with, but for what the user says of it now."""
    refuse_impossible(beta1, ema)
    average = (made.ema or 0.0) if ema is None else ema
    if beta1 is not None:
        return optimizer_of(Momentum(beta1, "--beta1", average))
    source = "--beta1 of --analysis" if made.adam_beta1_from == "--beta1" else made.adam_beta1_from
    return optimizer_of(Momentum(made.adam_beta1, source, average))


def clock_in_steps(trajectory: Trajectory, clock: str, steps: Sequence[float]) -> Array:
    """The clock at any steps, in steps of the run's mean learning rate, starting from the first step of the run.

    Raises:
        InputError: see `configuration.clock_at`.
    """
    if clock == "step":
        return configuration.clock_at(trajectory, clock, steps)
    first, last = trajectory.steps[0], trajectory.steps[-1]
    values = configuration.clock_at(trajectory, clock, [first, last, *steps])
    if not values[1] > values[0]:
        raise InputError(f"{trajectory.name}: the learning rate was 0 from step {first} to {last}: use --clock step")
    return first + (values[2:] - values[0]) * (last - first) / (values[1] - values[0])


def _read(analysis: Path, trajectory: Trajectory, clock: str) -> tuple[dict[str, Array], Array | float, Optimizer]:
    try:
        summary = read_summary(analysis)
        path = analysis / "tensors.parquet"
        known = set(columns_of(path))
        rows = read_table(path, columns=["name", "gram", *(name for name in _ALONG if name in known)]).to_pydict()
    except (InputError, OSError, ValueError) as error:
        reason = first_line(error.__cause__ or error)
        raise InputError(
            f"--analysis {analysis} is not a result of driftline analyze ({reason}): give its --out folder, or leave --analysis out"
        ) from error
    T = len(trajectory.steps)
    same = summary.steps == list(trajectory.steps) and summary.clock == clock
    if not same or rows["name"] != [tensor.name for tensor in trajectory]:
        raise InputError(
            f"--analysis {analysis} is of other steps, another clock or other tensors than {trajectory.name}: "
            "analyze it again, or leave --analysis out"
        )
    grams = {name: np.reshape(gram, (T, T)) for name, gram in zip(rows["name"], rows["gram"], strict=True)}
    along = zip(*(rows.get(name, []) for name in _ALONG), strict=True)  # which former analyses lack
    shrunk = sum((part_of(np.asarray(products), square) for products, square in along), 0.0)
    return grams, shrunk, summary.optimizer
