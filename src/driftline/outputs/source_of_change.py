"""Where the change of a linear layer's output comes from (paper, Fig. 4).

With weights W and inputs x at an early (0) and a late (1) checkpoint, y = W x + b changes by

    y_1 - y_0 = W_0 dx + dW x_0 + dW dx + db:

what came from below, what this layer's own weights did, and the product of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from driftline.checkpoints.layouts import Checkpoint
from driftline.linearity.summary import SourceOfChange
from driftline.outputs.checkpoint_model import load_checkpoint
from driftline.outputs.hooks import decoder_layers, run_with_hooks
from driftline.outputs.rollouts import Rollout

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Array = np.ndarray

_BINS = 81


@dataclass(frozen=True)
class Change:
    """The parts of one layer's change of output, each [positions, width], and the change itself."""

    name: str
    parts: dict[str, Array]
    total: Array

    def record(self) -> SourceOfChange:
        """Standard deviations and histograms of the parts, and how far they are from adding up."""
        reach = float(np.quantile(np.abs(self.total), 0.999)) or 1.0
        edges = np.linspace(-reach, reach, _BINS + 1)
        residual = sum(self.parts.values()) - self.total
        size = float(np.sqrt(np.mean(self.total.astype(float) ** 2)))
        counts = {
            term: np.histogram(np.clip(part, -reach, reach), edges)[0].tolist() for term, part in self.parts.items()
        }
        return SourceOfChange(
            layer=self.name,
            sd={term: float(np.std(part)) for term, part in self.parts.items()},
            sd_total=float(np.std(self.total)),
            unexplained=float(np.sqrt(np.mean(residual.astype(float) ** 2))) / size if size > 0 else 0.0,
            histogram={"reach": reach, **counts},
        )


def split(weight: tuple[Array, Array], bias: tuple[Array, Array], inputs: tuple[Array, Array]) -> dict[str, Array]:
    """The four parts; weights [out, in], biases [out], inputs [positions, in], each (early, late)."""
    dw, db, dx = weight[1] - weight[0], bias[1] - bias[0], inputs[1] - inputs[0]
    return {
        "input": dx @ weight[0].T,
        "weight": inputs[0] @ dw.T,
        "second_order": dx @ dw.T,
        "bias": np.broadcast_to(db, (len(dx), len(db))),
    }


@dataclass(frozen=True)
class _Seen:
    """One model's linear layers: weights and biases in their own dtype, inputs and outputs at the sampled positions."""

    weight: dict[str, torch.Tensor]
    bias: dict[str, torch.Tensor]
    inputs: dict[str, Array]
    outputs: dict[str, Array]


def change_of_outputs(
    early: Checkpoint | Path,
    late: Checkpoint | Path,
    rollouts: Sequence[Rollout],
    positions: Sequence[Array],
    *,
    layers: Sequence[int],
    dtype: str = "auto",
) -> list[Change]:
    """The split for every linear module of the chosen layers; one model in memory at a time."""
    before, after = (
        _seen(load_checkpoint(source, dtype=dtype), rollouts, positions, layers) for source in (early, late)
    )
    return [
        Change(
            name,
            split(
                (_array(before.weight[name]), _array(after.weight[name])),
                (_array(before.bias[name]), _array(after.bias[name])),
                (before.inputs[name], after.inputs[name]),
            ),
            after.outputs[name] - before.outputs[name],
        )
        for name in before.weight
    ]


def _seen(
    model: PreTrainedModel, rollouts: Sequence[Rollout], positions: Sequence[Array], layers: Sequence[int]
) -> _Seen:
    linear = linear_modules(model, layers)
    inputs: dict[str, dict[int, Array]] = {name: {} for name in linear}
    outputs: dict[str, dict[int, Array]] = {name: {} for name in linear}
    for kept, of_outputs in ((inputs, False), (outputs, True)):

        def take(name: str, rows: list[int], values: Array, kept=kept) -> None:
            parts = np.split(values, np.cumsum([len(positions[row]) for row in rows])[:-1])
            kept[name] |= dict(zip(rows, parts, strict=True))

        run_with_hooks(model, linear, rollouts, positions, take, outputs=of_outputs)
    joined = [
        {name: np.concatenate([rows[r] for r in sorted(rows)]) for name, rows in kept.items()}
        for kept in (inputs, outputs)
    ]
    weight = {name: module.weight.detach().cpu() for name, module in linear.items()}
    bias = {
        name: module.bias.detach().cpu() if module.bias is not None else weight[name].new_zeros(len(weight[name]))
        for name, module in linear.items()
    }
    return _Seen(weight, bias, *joined)


def linear_modules(model: PreTrainedModel, layers: Sequence[int]) -> dict[str, torch.nn.Linear]:
    """Name -> module, of the chosen layers."""
    import torch

    stack = decoder_layers(model)
    return {
        f"layers.{layer}.{name}": module
        for layer in layers
        for name, module in stack[layer].named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def _array(parameter: torch.Tensor) -> Array:
    return parameter.float().numpy()
