"""What is decided once for a tensor: whose rows are read, what each forecast takes of them, and how."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import walk_weights
from driftline import open_trajectory
from driftline.checkpoints.trajectory import TensorSeries, Trajectory
from driftline.forecast.forecast import Forecast, Origin
from driftline.writing.layout import lay_out
from driftline.writing.storage import Storage
from driftline.writing.tensor_plan import TensorPlan, plan_tensor

SHAPES = {"model.layers.0.up.weight": (6, 5), "model.norm.weight": (6,)}
UP, NORM = SHAPES


class Doubled:
    """A rule of its own for the matrices."""

    def applies(self, tensor: TensorSeries) -> bool:
        return len(tensor.shape) == 2

    def forecast(self, tensor: TensorSeries) -> np.ndarray:
        return 2 * tensor.stored[-1].values(0, tensor.size)


@pytest.fixture
def trajectory(make_run: Callable[..., Path], rng: np.random.Generator) -> Trajectory:
    weights = walk_weights(rng, [0, 10, 20, 30], SHAPES)
    for tensors in weights.values():
        tensors["positions"] = np.arange(4)
    return open_trajectory(make_run(weights, dtype="BF16"))


def of(*vectors: list[float], rule: Doubled | None = None) -> list[Forecast]:
    """One forecast for each of the coefficients, which all tensors share."""
    return [
        Forecast(
            dict.fromkeys(SHAPES, np.array(vector)), Origin(driftline="0", target=1, method="hold", observed=[0]), rule
        )
        for vector in vectors
    ]


def plans(trajectory: Trajectory, forecasts: list[Forecast], storage: Storage) -> dict[str, TensorPlan]:
    return {output.name: plan_tensor(output, forecasts, storage) for output in lay_out(trajectory, storage)}


def test_only_rows_with_a_coefficient_are_read_and_each_forecast_knows_its_own(trajectory: Trajectory) -> None:
    plan = plans(trajectory, of([-1, 0, 0, 2], [0, 0, -0.5, 1.5]), Storage(keep=()))[UP]
    assert plan.rows == (0, 2, 3)
    assert plan.series is not None
    assert [info.file.parent.name for info in plan.series.stored] == ["checkpoint-0", "checkpoint-20", "checkpoint-30"]
    assert [mixture.rows for mixture in plan.mixtures] == [(0, 2), (1, 2)]
    assert [mixture.coefficients.tolist() for mixture in plan.mixtures] == [[-1, 2], [-0.5, 1.5]]
    assert all(mixture.coefficients.dtype == np.float32 for mixture in plan.mixtures)


def test_a_kept_tensor_is_the_last_checkpoints_and_a_buffer_a_copy(trajectory: Trajectory) -> None:
    found = plans(trajectory, of([-1, 0, 0, 2]), Storage(rounding="stochastic"))
    assert found[NORM].rows == (3,)
    assert found[NORM].mixtures[0].coefficients.tolist() == [1]
    assert not found[NORM].stochastic
    assert found[UP].stochastic
    assert found["positions"].series is None
    assert found["positions"].mixtures == ()


def test_the_fused_kernel_is_for_bfloat16_to_the_nearest(trajectory: Trajectory) -> None:
    forecasts = of([-1, 0, 0, 2])
    fused = {
        storage: plans(trajectory, forecasts, storage)[UP].fused
        for storage in (Storage(), Storage(dtype="float32"), Storage(rounding="stochastic"))
    }
    assert list(fused.values()) == [True, False, False]
    assert not plans(trajectory, of([-1, 0, 0, 2], rule=Doubled()), Storage())[UP].fused


def test_a_rule_makes_whole_what_it_applies_to_unless_that_is_kept(trajectory: Trajectory) -> None:
    forecasts = [*of([-1, 0, 0, 2]), *of([0, 0, 0, 1], rule=Doubled())]
    found = plans(trajectory, forecasts, Storage(keep=()))
    assert [mixture.rule is not None for mixture in found[UP].mixtures] == [False, True]
    assert (found[UP].whole, found[NORM].whole) == (True, False)
    assert not plans(trajectory, forecasts, Storage(keep=("*up*",)))[UP].whole
