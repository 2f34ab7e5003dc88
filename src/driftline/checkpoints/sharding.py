"""Where a rank's part of a DTensor lies in the whole, from what its pickle says of mesh and placements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from driftline.checkpoints.torch_file import Part, part_of
from driftline.checkpoints.unpickling import Node, called, counts
from driftline.errors import UnreadableCheckpoint

_MOST = 64  # dimensions of a mesh


def is_dtensor(value: Any) -> bool:
    return called(value) == "_rebuild_from_type_v2" and len(value.args) == 4 and called(value.args[1]) == "DTensor"


def box_of(value: Node, rank: int, where: str) -> tuple[tuple[int, ...], tuple[int, ...], Part]:
    """Whole shape, first element's place in it, and the local part of a DTensor.

    Each `Shard(d)` cuts axis d as torch.chunk does, from the outermost dimension of the mesh to the innermost.

    Raises:
        UnreadableCheckpoint: a placement that is not `Shard` or `Replicate`, or a part that is not as large as that.
    """
    try:
        _, _, made_with, states = value.args
        state = {
            k: v for part in (states if isinstance(states, tuple) else (states,)) for k, v in _few(part or {}).items()
        }
        shape = counts(made_with[2])
        spec = state["_spec"].fields
        local = part_of(state["_local_tensor"], where)
        mesh = spec["mesh"].fields
        placements = list(_few(spec["placements"]))
        extents = _mesh_shape(mesh)
        coordinate = counts(mesh.get("_coordinate_on_dim") or _unravel(rank, extents))
        if local is None or len(placements) != len(extents) or len(coordinate) != len(extents):
            raise ValueError
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise UnreadableCheckpoint(
            f"{where} holds a DTensor that is not understood: saved by another torch?"
        ) from error
    try:
        begin, extent = _cut(shape, placements, extents, coordinate, where)
    except (KeyError, ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        raise UnreadableCheckpoint(f"{where} holds a DTensor whose placement is damaged") from error
    if tuple(extent) != local.shape:
        raise UnreadableCheckpoint(
            f"{where} holds {list(local.shape)} of a tensor {list(shape)} where its placement gives {list(extent)}: damaged"
        )
    return shape, tuple(begin), local


def _few(values: Any) -> Any:
    """Raises `ValueError` where there are more than any mesh has dimensions, or any tensor attributes."""
    if len(values) > _MOST:
        raise ValueError
    return values


def _cut(
    shape: tuple[int, ...], placements: list[Any], extents: tuple[int, ...], coordinate: Sequence[int], where: str
) -> tuple[list[int], list[int]]:
    """First element's place and extent of the part at a coordinate of the mesh."""
    begin, extent = [0] * len(shape), list(shape)
    for placement, count, place in zip(placements, extents, coordinate, strict=True):
        kind = called(placement)
        if kind == "Replicate":
            continue
        if kind != "Shard":
            raise UnreadableCheckpoint(
                f"{where} holds a tensor placed by {kind or 'something else'}, which is not read: merge the ranks with "
                "the trainer's own script"
            )
        (axis,) = counts((placement.fields["dim"],))
        chunk = -(-extent[axis] // count)
        first = min(place * chunk, extent[axis])
        begin[axis] += first
        extent[axis] = min(chunk, extent[axis] - first)
    return begin, extent


def _mesh_shape(mesh: dict[str, Any]) -> tuple[int, ...]:
    """From the layout of newer versions of torch, or the tensor of ranks of older ones."""
    if "_layout" in mesh:
        layout = mesh["_layout"].fields
        if "axes" in layout:
            return tuple(math.prod(counts(axis.fields["shape"])) for axis in _few(layout["axes"]))
        shape = layout.get("shape", mesh["_layout"].args[:1])
        return counts(shape if not isinstance(shape, int) else (shape,))
    tensor = part_of(mesh["mesh"], "mesh")
    if tensor is None:
        raise ValueError("no mesh")
    return tensor.shape


def _unravel(rank: int, extents: tuple[int, ...]) -> tuple[int, ...]:
    place: list[int] = []
    for extent in reversed(extents):
        rank, index = divmod(rank, extent)
        place.append(index)
    return tuple(reversed(place))
