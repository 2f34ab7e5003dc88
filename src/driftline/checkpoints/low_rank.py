"""LoRA factors put together: scale · B · A under the name of the weight that it changes, whatever layout held them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from driftline.checkpoints.tensors import LowRank, TensorInfo
from driftline.errors import UnreadableCheckpoint

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"^(.*)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.weight)?$")
_WRAPPERS = re.compile(r"\.(?:modules_to_save\.default|modules_to_save|base_layer)(?=\.)")

Scale = Callable[[str, int], float]


def assemble(
    tensors: Mapping[str, TensorInfo], where: Path, scale: Scale, *, transposed: bool = False
) -> dict[str, TensorInfo]:
    """Factors as products, on their frozen weight where that is among the tensors; all else under its plain name.

    Args:
        where: the file or folder that sentences name.
        scale: of a module, given its name and rank.
        transposed: whether layers store their weight as [in, out] (peft's fan_in_fan_out).

    Raises:
        UnreadableCheckpoint: a factor without the other, or anything of LoRA that is not B · A of one matrix.
    """
    pairs: dict[tuple[str, bool], dict[str, TensorInfo]] = {}
    found: dict[str, TensorInfo] = {}
    for key, info in tensors.items():
        name = plain_name(key)
        if match := _FACTOR.match(name):
            pairs.setdefault((match[1], match[2] is not None), {})[match[3]] = info
        elif ".lora_" in name:
            raise UnreadableCheckpoint(
                f"{where}: {name!r} is neither A nor B of a matrix: merge each checkpoint with peft's "
                "merge_and_unload(), and name the merged folders"
            )
        else:
            found[name] = replace(info, name=name)
    for (module, embedding), pair in pairs.items():
        name = f"{module}.weight"
        product = _product(name, pair, where, scale, embedding or transposed)
        found[name] = on_weight(product, found[name], where) if name in found else product
    return found


def plain_name(name: str) -> str:
    """A weight's name without what peft puts around it."""
    return _WRAPPERS.sub("", name.removeprefix(_PREFIX))


def holds_factors(names: Iterable[str]) -> bool:
    return any(".lora_" in name for name in names)


def on_weight(product: LowRank, base: TensorInfo, where: Path) -> LowRank:
    """The weight that an adapter makes.

    Raises:
        UnreadableCheckpoint: the base's weight has another shape.
    """
    if base.shape != product.shape:
        raise UnreadableCheckpoint(
            f"{where} changes {product.name!r} {list(product.shape)}, but the base has it as {list(base.shape)}: give the "
            "base it was trained on"
        )
    return replace(product, base=base)


def needs_base(info: TensorInfo) -> bool:
    """Whether a tensor is only the change of a weight that is elsewhere."""
    return isinstance(info, LowRank) and info.base is None


def lora_scale(alpha: object, rank: int, where: Path, *, stabilised: bool = False) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA.

    Raises:
        UnreadableCheckpoint: `alpha` is no number.
    """
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not abs(alpha) < 1e15:
        raise UnreadableCheckpoint(f"{where} has no number as lora_alpha: the adapter's scale is not known")
    return alpha / (math.sqrt(rank) if stabilised else rank)


def _product(name: str, pair: dict[str, TensorInfo], where: Path, scale: Scale, transposed: bool) -> LowRank:
    left, right = pair.get("B"), pair.get("A")
    if left is None or right is None:
        raise UnreadableCheckpoint(f"{where} lacks lora_{'B' if left is None else 'A'} of {name!r}: damaged")
    if len(left.shape) != 2 or len(right.shape) != 2 or left.shape[1] != right.shape[0] or right.shape[0] == 0:
        raise UnreadableCheckpoint(
            f"{where}: lora_B {list(left.shape)} and lora_A {list(right.shape)} of {name!r} do not make a matrix; only "
            "linear and embedding layers are read"
        )
    rank, fan_in = right.shape
    shape = (fan_in, left.shape[0]) if transposed else (left.shape[0], fan_in)
    factor = scale(name.removesuffix(".weight"), rank)
    return LowRank(name, shape, "F32", right.file, left, right, factor, transposed)
