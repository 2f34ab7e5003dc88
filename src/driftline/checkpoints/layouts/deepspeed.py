"""DeepSpeed ZeRO, stages 1 to 3: `global_stepN/*_optim_states.pt`, the fp32 masters of each rank, as OpenRLHF's
`_actor/` and transformers with DeepSpeed (`checkpoint-N/global_stepN/`) hold them.

The masters lie in flat groups. Up to stage 2 a group is all its parameters one after another, cut into equal parts for
the ranks; in stage 3 each parameter is cut for the ranks by itself. Names and shapes are in `*_model_states.pt`, with
the buffers and the frozen parameters. The arithmetic is that of DeepSpeed's own `zero_to_fp32.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.parameter_names import of_a_state
from driftline.checkpoints.tensors import Piece, TensorInfo, sharded
from driftline.checkpoints.torch_file import Part, part_of, read_torch_file
from driftline.checkpoints.unpickling import Node, counts
from driftline.errors import UnreadableCheckpoint

NAME = "deepspeed"
_OPTIMIZER = re.compile(r"^(?:bf16_|fp16_)?zero_pp_rank_(\d{1,9})_mp_rank_00_optim_states\.pt$")
_MODEL = re.compile(r"^(?:zero_pp_rank_(\d+)_)?mp_rank_00_model_states\.pt$")
_FP32 = "F32"
_MOST = 200_000  # parameters


def holds(place: Path) -> bool:
    return place.is_dir() and any(_OPTIMIZER.match(path.name) for path in place.iterdir())


def open(place: Path) -> Checkpoint:
    """The fp32 masters of all parameters; buffers and frozen parameters as they were saved.

    Raises:
        UnreadableCheckpoint: a rank's file is missing or damaged, model parallelism beyond ZeRO, or no fp32 masters.
    """
    ranks = _by_rank(place, _OPTIMIZER)
    world = max(ranks, default=-1) + 1
    missing = next((rank for rank in range(world) if rank not in ranks), None if world else 0)
    if missing is not None:
        raise UnreadableCheckpoint(
            f"{place} lacks the optimizer states of rank {missing}: still being written, or lost"
        )
    states = [_optimizer(ranks[rank]) for rank in range(world)]
    stage, partitions = states[0].get("zero_stage"), states[0].get("partition_count", world)
    stage = stage.args[0] if isinstance(stage, Node) and stage.args else stage  # an enumeration
    listed = partitions if isinstance(partitions, list) and partitions else [partitions]
    if any(type(count) is not int or abs(count) > 1 << 62 for count in listed):
        raise UnreadableCheckpoint(f"{place} does not say how many ranks it was saved by: damaged")
    partitions = max(listed)
    if partitions != world:
        raise UnreadableCheckpoint(
            f"{place} has optimizer states of {world} ranks where {partitions} were saved: still being written, or lost"
        )
    models = _by_rank(place, _MODEL)
    if 0 not in models:
        raise UnreadableCheckpoint(f"{place} lacks mp_rank_00_model_states.pt: still being written, or lost")
    model = read_torch_file(models[0])
    try:
        if sum(map(len, model["param_shapes"])) > _MOST:
            raise ValueError("more parameters than any model has")
        shapes = [{str(name): counts(shape) for name, shape in group.items()} for group in model["param_shapes"]]
        flat = [_groups(state, stage, ranks[rank]) for rank, state in enumerate(states)]
        if stage == 3:
            tensors = dict(_cut_by_parameter(shapes, flat, [ranks[rank] for rank in range(world)]))
        else:
            paddings = states[0].get("param_alignment_paddings") or [[0] * len(group) for group in shapes]
            tensors = dict(_cut_by_group(shapes, flat, [ranks[rank] for rank in range(world)], paddings))
        tensors |= _buffers(model, models[0]) | _frozen(model, models, world if stage == 3 else 1)
        said = model.get("shared_params") or {}
        pairs = said.items() if isinstance(said, dict) else said
        shared = {str(copy): source for copy, source in pairs if isinstance(source, str)}
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UnreadableCheckpoint(
            f"{place} holds states that are not understood: saved by another DeepSpeed?"
        ) from error
    wanted = of_a_state(tensors)
    tied = {copy: source for copy, source in shared.items() if source in tensors}
    return Checkpoint(place, NAME, {name: tensors[name] for name in wanted}, tied)


def _by_rank(place: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    matches = [(pattern.match(path.name), path) for path in sorted(place.iterdir())]
    return {int(match[1] or 0): path for match, path in matches if match}


def _optimizer(file: Path) -> Mapping[str, Any]:
    state = read_torch_file(file)
    found = state.get("optimizer_state_dict") if isinstance(state, dict) else None
    if not isinstance(found, dict) or "zero_stage" not in found:
        raise UnreadableCheckpoint(f"{file} holds no state of a ZeRO optimizer")
    return found


def _groups(state: Mapping[str, Any], stage: Any, file: Path) -> list[Part]:
    """The flat fp32 groups of a rank."""
    parts = []
    for group in state["fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"]:
        part = part_of(group, str(file))
        if part is None or part.dtype != _FP32 or len(part.shape) != 1:
            raise UnreadableCheckpoint(f"{file} holds no flat fp32 group where one is expected")
        parts.append(part)
    return parts


def _cut_by_group(
    shapes: list[dict[str, tuple[int, ...]]], flat: list[list[Part]], files: list[Path], paddings: list[list[int]]
) -> Iterator[tuple[str, TensorInfo]]:
    """Stages 1 and 2: the ranks' parts of a group, one after another, hold its parameters, each with its padding."""
    if len(shapes) != len(flat[0]):
        raise ValueError("groups of parameters and of masters differ in number")
    for index, group in enumerate(shapes):
        parts = [rank[index] for rank in flat]
        begins = [sum(part.shape[0] for part in parts[:rank]) for rank in range(len(parts))]
        offset = 0
        for (name, shape), padding in zip(group.items(), paddings[index], strict=True):
            size = math.prod(shape)
            pieces = []
            for file, part, begin in zip(files, parts, begins, strict=True):
                first, last = max(offset, begin), min(offset + size, begin + part.shape[0])
                if first < last:
                    pieces.append(Piece(file, part.offset + 4 * (first - begin), (first - offset,), (last - first,)))
            yield name, sharded(name, shape, _FP32, pieces)
            offset += size + padding
        align, held = 2 * len(parts), sum(part.shape[0] for part in parts)
        if -(-offset // align) != -(-held // align):
            raise ValueError("its parameters do not fill a group")


def _cut_by_parameter(
    shapes: list[dict[str, tuple[int, ...]]], flat: list[list[Part]], files: list[Path]
) -> Iterator[tuple[str, TensorInfo]]:
    """Stage 3: every rank holds an equal part of each parameter, padded at the end."""
    offset = 0
    for name, shape in ((name, shape) for group in shapes for name, shape in group.items()):
        size = math.prod(shape)
        share = -(-size // len(flat))
        pieces: list[Piece] = []
        for rank, (file, parts) in enumerate(zip(files, flat, strict=True)):
            count = min(share, size - rank * share)
            if count > 0:
                pieces += _runs(parts, offset, offset + count, file, rank * share)
        yield name, sharded(name, shape, _FP32, pieces)
        offset += share


def _runs(parts: list[Part], start: int, stop: int, file: Path, begin: int) -> Iterator[Piece]:
    """Elements [start, stop) of a rank's groups, taken one after another, which are a tensor's from flat place `begin` on."""
    at = 0
    for part in parts:
        first, last = max(start, at), min(stop, at + part.shape[0])
        if first < last:
            yield Piece(file, part.offset + 4 * (first - at), (begin + first - start,), (last - first,))
        at += part.shape[0]


def _buffers(model: Mapping[str, Any], file: Path) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for name in filter(lambda name: isinstance(name, str), model.get("buffer_names") or []):
        part = part_of(model["module"].get(name), str(file))
        if part is not None:
            begin = (0,) * len(part.shape)
            found[str(name)] = sharded(str(name), part.shape, part.dtype, [Piece(file, part.offset, begin, part.shape)])
    return found


def _frozen(model: Mapping[str, Any], files: Mapping[int, Path], ranks: int) -> dict[str, TensorInfo]:
    """Parameters that do not train: whole in the first file, or in stage 3 cut flat for the ranks."""
    shapes = model.get("frozen_param_shapes") or {}
    if not shapes:
        return {}
    missing = [rank for rank in range(ranks) if rank not in files]
    if missing:
        raise UnreadableCheckpoint(
            f"{files[0].parent} lacks the model states of rank {missing[0]}: still being written, or lost"
        )
    parts = [(files[rank], read_torch_file(files[rank])["frozen_param_fragments"]) for rank in range(ranks)]
    found: dict[str, TensorInfo] = {}
    for name, shape in shapes.items():
        shape = counts(shape)
        begin, size, pieces, dtype = 0, math.prod(shape), [], _FP32
        for file, fragments in parts:
            part = part_of(fragments[name], f"{file}, tensor {str(name)!r},")
            if part is None:
                raise ValueError(f"{name} is no tensor")
            count = min(math.prod(part.shape), size - begin)
            if count > 0:
                pieces.append(Piece(file, part.offset, (begin,), (count,)))
            begin, dtype = begin + count, part.dtype
        found[str(name)] = sharded(str(name), tuple(shape), dtype, pieces)
    return found
