"""The layout of the output: which tensors it has, whether each is forecast, kept or copied, its dtype and its shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from driftline.checkpoints.composed import chain, window
from driftline.checkpoints.dtypes import ITEM_BYTES
from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.model_config import configuration, says_tied
from driftline.checkpoints.safetensors_writer import Entry, Placed, place
from driftline.checkpoints.tensors import TensorInfo
from driftline.checkpoints.trajectory import TensorSeries, Trajectory
from driftline.errors import InputError
from driftline.writing.storage import DTYPES, NORM_LAYERS, Storage, matches


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of the output.

    Attributes:
        info: the tensor in the last checkpoint.
        series: it through the run; None for one that takes no part, an integer buffer, whose bytes are copied.
        kept: its values are the last checkpoint's, whatever is forecast.
        placed: its dtype, shard and position.
    """

    info: TensorInfo
    series: TensorSeries | None
    kept: bool
    placed: Placed

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def dtype(self) -> str:
        return self.placed.entry.dtype


def lay_out(trajectory: Trajectory, storage: Storage) -> list[OutputTensor]:
    """Every tensor to write, in the file order of the last checkpoint, and those that the base alone has.

    A tensor that the configuration ties is left out: `from_pretrained` makes it from the forecast embedding. One that is
    tied in the weights alone is written again under its second name, with the same values.

    Raises:
        InputError: a pattern that keeps nothing, or a dtype that cannot be written.
    """
    last = trajectory.checkpoints[-1]
    for pattern in storage.keep:
        if pattern not in NORM_LAYERS and not any(matches(name, [pattern]) for name in last.tensors):
            raise InputError(
                f"--keep {pattern!r} matches no tensor of {last.path}: write it as in a shell, such as '*{pattern}*'"
            )
    found = [one for one in _outputs(trajectory, last) if one[0].dtype in ITEM_BYTES]
    kept = [tensor is not None and matches(tensor.name, storage.keep) for _, tensor in found]
    entries = list(_entries(found, kept, storage))
    placed = place(entries, storage.shard_bytes)
    return [OutputTensor(*one, keeps, at) for one, keeps, at in zip(found, kept, placed, strict=True)]


def _outputs(trajectory: Trajectory, last: Checkpoint) -> Iterator[tuple[TensorInfo, TensorSeries | None]]:
    series = {tensor.name: tensor for tensor in trajectory}
    left_out = set(last.tied) if says_tied(configuration(last.model)) else set()
    for name, info in last.tensors.items():
        if name not in left_out:
            tensor = series.get(last.tied.get(name, name))
            yield info, tensor and _as_long(tensor, info)
    for name, info in trajectory.carried.items():
        yield replace(info, name=name), None


def _as_long(tensor: TensorSeries, last: TensorInfo) -> TensorSeries:
    """Through the run, rows that only the last checkpoint's vocabulary has stay as they are there."""
    if tensor.size == last.size:
        return tensor
    rest = window(last.name, (last.size - tensor.size,), last, tensor.size)
    stored = tuple(chain(tensor.name, last.shape, (info, rest)) for info in tensor.stored)
    return TensorSeries(tensor.name, last.shape, (*stored[:-1], last))


def _entries(
    found: list[tuple[TensorInfo, TensorSeries | None]], kept: list[bool], storage: Storage
) -> Iterator[Entry]:
    for (info, tensor), keeps in zip(found, kept, strict=True):
        dtype = info.dtype if tensor is None else info.written if storage.dtype == "same" else DTYPES[storage.dtype]
        if tensor is not None:
            if dtype not in DTYPES.values() and not (dtype == info.dtype and keeps):
                raise InputError(
                    f"{info.file}: tensor {info.name!r} is {dtype}, which cannot be written: choose a --dtype"
                )
            if storage.rounding == "stochastic" and dtype == "F16":
                raise InputError("--rounding stochastic writes bfloat16 only: choose --dtype bfloat16, or nearest")
        yield Entry(info.name, info.shape, dtype)
