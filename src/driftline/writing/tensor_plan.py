"""What is done for one tensor of every forecast, decided once and for all of its chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from driftline.checkpoints.trajectory import TensorSeries
from driftline.forecast.forecast import Forecast, Rule
from driftline.writing.layout import OutputTensor
from driftline.writing.storage import DTYPES, Storage

Array = np.ndarray


@dataclass(frozen=True)
class Mixture:
    """One forecast of the tensor.

    Attributes:
        rows: the checkpoints in it, as places in the plan's `rows`, in order of step; the first is the reference.
        coefficients: theirs, float32 [len(rows)].
        rule: makes the tensor instead, whole.
    """

    rows: tuple[int, ...]
    coefficients: Array
    rule: Rule | None


@dataclass(frozen=True)
class TensorPlan:
    """How one tensor of every forecast is made.

    Attributes:
        rows: the checkpoints that any forecast takes with a coefficient that is not zero, in order of step.
        series: the tensor through those; None where the last checkpoint's bytes are copied as they are.
        mixtures: one for each forecast; none for a copy.
        whole: a rule makes some of it, and so all of it at once.
        stochastic: it is rounded up or down by chance.
        fused: bfloat16 in and out, rounded to nearest, which one kernel does.
    """

    output: OutputTensor
    rows: tuple[int, ...] = ()
    series: TensorSeries | None = None
    mixtures: tuple[Mixture, ...] = ()
    whole: bool = False
    stochastic: bool = False
    fused: bool = False

    @property
    def remote(self) -> bool:
        return self.output.info.remote or (self.output.series is not None and self.output.series.remote)


def plan_tensor(output: OutputTensor, forecasts: Sequence[Forecast], storage: Storage) -> TensorPlan:
    """The plan for one tensor of all forecasts."""
    if output.series is None or output.dtype not in DTYPES.values():
        return TensorPlan(output)
    stored = output.series.stored
    last = np.eye(len(stored))[-1]
    name = output.series.name
    vectors = [last if output.kept else forecast.coefficients[name] for forecast in forecasts]
    used = [np.flatnonzero(vector) for vector in vectors]
    rows = sorted(set().union(*(mine.tolist() for mine in used)))
    mixtures = tuple(
        Mixture(
            rows=tuple(rows.index(row) for row in mine),
            coefficients=vector[mine].astype(np.float32),
            rule=None if output.kept else _rule(forecast, output.series),
        )
        for forecast, vector, mine in zip(forecasts, vectors, used, strict=True)
    )
    whole = any(mixture.rule for mixture in mixtures)
    stochastic = storage.rounding == "stochastic" and not output.kept
    bfloat16 = output.dtype == "BF16" and all(stored[row].dtype == "BF16" for row in rows)
    return TensorPlan(
        output,
        rows=tuple(rows),
        series=TensorSeries(name, output.series.shape, tuple(stored[row] for row in rows)),
        mixtures=mixtures,
        whole=whole,
        stochastic=stochastic,
        fused=bfloat16 and storage.rounding == "nearest" and not whole,
    )


def _rule(forecast: Forecast, tensor: TensorSeries) -> Rule | None:
    return forecast.rule if forecast.rule is not None and forecast.rule.applies(tensor) else None
