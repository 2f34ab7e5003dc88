"""Quantised weights: read at their value where a scale says how (fp8), refused with the reason where not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from driftline.checkpoints import dtypes
from driftline.checkpoints.composed import Scaled
from driftline.checkpoints.tensors import TensorInfo
from driftline.errors import UnreadableCheckpoint

_SCALE = re.compile(r"^(.*(?:weight|_proj))_scale(?:_inv)?$")
_OF_ACTIVATIONS = re.compile(r"\.(?:input|activation|output|k|v|q)(?:_proj)?_scale$|\.(?:input|activation)_scale_inv$")
_USUAL_BLOCK = 128
_HOLD_WEIGHTS = (".weight", "_proj", ".qweight", ".weight_packed", "_blocks")
_MARKS = {  # what tells how weights were quantised
    ".quant_state.": "bitsandbytes",
    ".absmax": "bitsandbytes",
    ".SCB": "bitsandbytes (8 bits)",
    ".qweight": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors",
    "_blocks": "MXFP4",
    ".weight_scale_2": "NVFP4",
}


def dequantised(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], where: Path
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Every fp8 tensor that has a scale as the values that both make; and why other tensors are left out.

    Raises:
        UnreadableCheckpoint: packed weights, whose values are not known, or fp8 without the scales that belong to it.
    """
    _refuse_packed(tensors, where)
    if not any(info.dtype.startswith("F8") for info in tensors.values()):
        return dict(tensors), {}
    found, left_out = dict(tensors), {}
    block = _block(config)
    for name, scale in tensors.items():
        match = _SCALE.match(name)
        if match and match[1] in tensors and tensors[match[1]].dtype.startswith("F8"):
            found[match[1]] = _scaled(tensors[match[1]], scale, block, where)
            del found[name]
        elif _OF_ACTIVATIONS.search(name):
            left_out[name] = "a scale of activations, not a weight"
            del found[name]
    quantisation = config.get("quantization_config")
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    bare = [name for name, info in found.items() if info.dtype.startswith("F8")]
    if bare and (method or any(isinstance(info, Scaled) for info in found.values())):
        raise UnreadableCheckpoint(
            f"{where} holds {bare[0]!r} in {found[bare[0]].dtype} without a scale, though its weights are quantised"
            f"{f' ({method})' if method else ''}: its values are not known; save it in bfloat16"
        )
    return found, left_out


def _block(config: Mapping[str, Any]) -> tuple[int, int] | None:
    given = config.get("quantization_config")
    size = given.get("weight_block_size") if isinstance(given, dict) else None
    if isinstance(size, list) and len(size) == 2 and all(type(extent) is int and extent > 0 for extent in size):
        return size[0], size[1]
    return None


def _scaled(info: TensorInfo, scale: TensorInfo, block: tuple[int, int] | None, where: Path) -> Scaled:
    """Raises `UnreadableCheckpoint` where the scale does not say which block has which."""
    rows, columns = (1, 1, *info.shape)[-2:] if len(info.shape) != 1 else (info.shape[0], 1)
    blocks = _extents(rows, columns, info.shape[:-2], scale, block)
    if blocks is None or scale.dtype not in ("F32", "BF16", "F16", "F64"):
        raise UnreadableCheckpoint(
            f"{where} holds {scale.name!r} {list(scale.shape)} in {scale.dtype}, which is no scale of {list(info.shape)} "
            "that is known here: save the weights in bfloat16"
        )
    return Scaled(info.name, info.shape, "F32", info.file, info, scale, blocks)


def _extents(
    rows: int, columns: int, outer: tuple[int, ...], scale: TensorInfo, block: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Rows and columns of the block that one scale is of."""
    if scale.size == 1:
        return rows, columns
    if scale.shape == (*outer, rows) or scale.shape == (*outer, rows, 1):
        return 1, columns
    if scale.shape == outer or scale.shape == (*outer, 1, 1):
        return rows, columns
    if len(scale.shape) != len(outer) + 2 or scale.shape[:-2] != outer:
        return None
    counts = scale.shape[-2:]
    for candidate in (block,) if block else ((_USUAL_BLOCK, _USUAL_BLOCK), _even(rows, columns, counts)):
        if candidate and (-(-rows // candidate[0]), -(-columns // candidate[1])) == counts:
            return candidate
    return None


def _even(rows: int, columns: int, counts: tuple[int, ...]) -> tuple[int, int] | None:
    if not all(counts) or rows % counts[0] or columns % counts[1]:
        return None
    return rows // counts[0], columns // counts[1]


def _refuse_packed(tensors: Mapping[str, TensorInfo], where: Path) -> None:
    packed = [
        name
        for name, info in tensors.items()
        if info.dtype not in dtypes.FLOATS and len(info.shape) > 1 and name.endswith(_HOLD_WEIGHTS)
    ]
    if packed:
        kind = next(
            (kind for mark, kind in _MARKS.items() if any(mark in name for name in tensors)), "a method not known here"
        )
        info = tensors[packed[0]]
        raise UnreadableCheckpoint(
            f"{where} holds weights quantised by {kind} ({info.name!r} is {info.dtype} {list(info.shape)}), whose values are "
            "not read: name the model before quantising, or dequantise it with transformers and save_pretrained()"
        )
