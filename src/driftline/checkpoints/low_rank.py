"""An adapter's parts put together under the names of the weights that they change, whatever layout held them.

What trains is the product ΔW = scale · B · A of each target matrix, so that is what a trajectory of adapters is made
of: A and B apart mean nothing (B·A is the same for B·R, R⁻¹·A), and are not linear in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from driftline.checkpoints.adapter_settings import CONV1D, CONV1D_MODELS, AdapterSettings
from driftline.checkpoints.composed import Normed, RowsReplaced
from driftline.checkpoints.tensors import LowRank, TensorInfo
from driftline.checkpoints.ties import output_embedding
from driftline.errors import UnreadableCheckpoint

_NAMED = (
    r"(?:\.(?!(?:weight|bias)$)([^.]+))?(?:\.weight)?$"  # an adapter's name, which peft leaves out of what it saves
)
_FACTOR = re.compile(rf"^(.*)\.lora_(embedding_)?([ABab]){_NAMED}")
_LENGTHS = re.compile(rf"^(.*)\.lora_magnitude_vector{_NAMED}")
_ROWS = re.compile(rf"^(.*)\.token_adapter\.trainable_tokens_delta{_NAMED}")
_WHOLE = re.compile(r"\.modules_to_save\.([^.]+)(?=\.)")
_PLAIN = re.compile(r"\.(?:modules_to_save|base_layer|token_adapter\.base_layer)(?=\.)")
_UNUSED = re.compile(r"\.(?:original_module|trainable_tokens_original|token_adapter\.(?!base_layer))(?:\.|$)")


_WIDEST = 1 << 17  # what is written in a line and read as a square: the shorter side of any layer's matrix is less
_MARKS = (".lora_", ".modules_to_save.", ".token_adapter.", ".base_layer.", "prompt_encoder.")


@dataclass(frozen=True)
class TokenRows(TensorInfo):
    """Rows of an embedding that peft trains by themselves, [n, dimension]; they need the embedding of the base."""

    rows: TensorInfo
    indices: tuple[int, ...]

    @property
    def below(self) -> tuple[TensorInfo, ...]:
        return (self.rows,)

    def read_into(self, start: int, buffer: object) -> None:
        self.rows.read_into(start, buffer)  # type: ignore[arg-type]


def holds_adapter(names: Iterable[str]) -> bool:
    """Whether any of the tensors is peft's, and not the model's own."""
    return any(mark in name for name in names for mark in _MARKS)


def assemble(tensors: Mapping[str, TensorInfo], where: Path, settings: AdapterSettings) -> dict[str, TensorInfo]:
    """Factors as products, on their frozen weight where that is among the tensors; all else under its plain name.

    Args:
        where: the file or folder that sentences name.

    Raises:
        UnreadableCheckpoint: a factor without the other, several adapters of which none is the default, or anything of
            LoRA that is not B · A of one matrix.
    """
    pairs: dict[tuple[str, bool], dict[str, TensorInfo]] = {}
    lengths: dict[str, TensorInfo] = {}
    rows: dict[str, TensorInfo] = {}
    found: dict[str, TensorInfo] = {}
    wrapped: set[str] = set()
    wanted = _adapter(tensors, where)
    for key, info in tensors.items():
        if match := _FACTOR.match(key):
            if match[4] in (None, wanted):
                pairs.setdefault((match[1], match[2] is not None), {})[match[3].upper()] = info
        elif match := _LENGTHS.match(key) or _ROWS.match(key):
            if match[2] in (None, wanted):
                (lengths if ".lora_magnitude_vector" in key else rows)[match[1]] = info
        elif ".lora_" in key:
            raise UnreadableCheckpoint(
                f"{where}: {key!r} is neither A nor B of a matrix: merge each checkpoint with peft's "
                "merge_and_unload(), and name the merged folders"
            )
        elif not _UNUSED.search(key) and ((kept := _WHOLE.search(key)) is None or kept[1] == wanted):
            name = _PLAIN.sub("", _WHOLE.sub("", key))
            found[name] = replace(info, name=name)
            if ".base_layer." in key and ".token_adapter." not in key:
                wrapped.add(name.rpartition(".")[0])
    foreign = wrapped - {module for module, _ in pairs}
    if foreign or any("prompt_encoder." in key for key in tensors):
        raise UnreadableCheckpoint(
            f"{where} holds an adapter of peft that is not LoRA{f', around {min(foreign)!r}' if foreign else ''}: merge each "
            "checkpoint with peft's merge_and_unload(), and name the merged folders"
        )
    settings = settings.for_modules(module for module, _ in pairs)
    for (module, embedding), pair in pairs.items():
        name = f"{module}.weight"
        product = _product(name, pair, where, settings, embedding)
        change = _normed(product, lengths[module], where) if module in lengths else product
        whole = name in found and settings.alpha is not None  # else their sum would be no weight
        found[name] = on_weight(change, found[name], where) if whole else change
    if settings.dora and pairs and not any(isinstance(info, Normed) for info in found.values()):
        raise UnreadableCheckpoint(f"{where} lacks the magnitudes of DoRA that {settings.path} promises: damaged")
    for module, info in rows.items():
        name, ids = f"{module}.weight", settings.token_ids(module)
        if ids is None and name == output_embedding([name]):  # tied: the embedding's rows are the head's
            ids = next((settings.token_ids(other) for other in rows if other != module), None)
        if ids is None or len(info.shape) != 2 or len(ids) != info.shape[0]:
            raise UnreadableCheckpoint(
                f"{where} trains rows of {name!r}, but {settings.path} does not say which (trainable_token_indices)"
            )
        trained = TokenRows(name, info.shape, info.dtype, info.file, info, ids)
        found[name] = on_weight(trained, found[name], where) if name in found else trained
    return found


def on_weight(change: TensorInfo, base: TensorInfo, where: Path) -> TensorInfo:
    """The weight that an adapter makes of its base's; a whole tensor is itself.

    Raises:
        UnreadableCheckpoint: the base's weight has another shape, or not the rows that are trained.
    """
    if isinstance(change, TokenRows):
        if len(base.shape) != 2 or base.shape[1] != change.shape[1] or max(change.indices) >= base.shape[0]:
            raise UnreadableCheckpoint(
                f"{where} trains rows up to {max(change.indices)} of {change.name!r}, but the base has it as "
                f"{list(base.shape)}: give the base it was trained on, with its vocabulary resized as it was"
            )
        return RowsReplaced(change.name, base.shape, "F32", change.file, base, change.rows, change.indices)
    if isinstance(change, Normed):
        below = on_weight(change.of, base, where)
        assert isinstance(below, LowRank)
        return replace(change, of=below)
    if not isinstance(change, LowRank) or change.base is not None:
        return change
    if base.shape != change.shape and base.shape == change.shape[::-1]:  # peft has one flag for layers of both kinds
        change = turned(change)
    if base.shape != change.shape:
        raise UnreadableCheckpoint(
            f"{where} changes {change.name!r} {list(change.shape)}, but the base has it as {list(base.shape)}: give the "
            "base it was trained on"
        )
    return replace(change, base=base)


def turned(change: LowRank) -> LowRank:
    """The product as a layer stores it that has its weight the other way round."""
    return replace(change, transposed=not change.transposed, shape=change.shape[::-1])


def oriented(change: LowRank, model_type: str) -> LowRank:
    """The product the way round that GPT-2 stores it, whose blocks have [in, out] and whose head has [out, in]."""
    last = change.name.removesuffix(".weight").rpartition(".")[2]
    wrong = (last in CONV1D and not change.transposed) or (last == "lm_head" and change.transposed)
    return turned(change) if model_type in CONV1D_MODELS and wrong else change


def needs_base(info: TensorInfo) -> bool:
    """Whether a tensor is only the change of a weight that is elsewhere."""
    if isinstance(info, LowRank):
        return info.base is None or needs_base(info.base)
    return isinstance(info, TokenRows) or any(map(needs_base, info.below))


def without(product: TensorInfo, initial: TensorInfo | None) -> TensorInfo:
    """A product less the one that training began with, where that was taken out of the base."""
    if isinstance(product, Normed) and isinstance(initial, Normed):
        below = without(product.of, initial.of)
        assert isinstance(below, LowRank)
        return replace(product, of=below)
    if not isinstance(product, LowRank) or not isinstance(initial, LowRank) or product.base is None:
        return product
    return replace(product, base=replace(initial, scale=-initial.scale, base=product.base))


def _adapter(names: Iterable[str], where: Path) -> str:
    """Which of several named adapters is meant: peft's `default`, or the only one."""
    matches = [pattern.search(name) for name in names for pattern in (_FACTOR, _LENGTHS, _ROWS, _WHOLE)]
    there = {match[match.re.groups] for match in matches if match} - {None}
    if len(there) > 1 and "default" not in there:
        raise UnreadableCheckpoint(
            f"{where} holds the adapters {', '.join(sorted(map(str, there)))}, none of which is called default: save the "
            "one that trains by itself"
        )
    return "default" if "default" in there or not there else str(there.pop())


def _product(
    name: str, pair: dict[str, TensorInfo], where: Path, settings: AdapterSettings, embedding: bool
) -> LowRank:
    left, right = pair.get("B"), pair.get("A")
    if left is None or right is None:
        raise UnreadableCheckpoint(f"{where} lacks lora_{'B' if left is None else 'A'} of {name!r}: damaged")
    if len(left.shape) != 2 or len(right.shape) != 2 or left.shape[1] != right.shape[0] or right.shape[0] == 0:
        hint = ""
        if left.shape == (0,) or right.shape == (0,):
            hint = "; these are placeholders that DeepSpeed ZeRO-3 leaves where weights were not gathered"
        raise UnreadableCheckpoint(
            f"{where}: lora_B {list(left.shape)} and lora_A {list(right.shape)} of {name!r} do not make a matrix; only "
            f"linear and embedding layers are read{hint}"
        )
    rank, fan_in = right.shape
    if min(left.shape[0], fan_in) > _WIDEST:
        raise UnreadableCheckpoint(
            f"{where}: {name!r} would be a matrix of {left.shape[0]:,} × {fan_in:,}, which no layer has: damaged"
        )
    transposed = embedding or settings.transposed
    shape = (fan_in, left.shape[0]) if transposed else (left.shape[0], fan_in)
    factor = settings.scale(name.removesuffix(".weight"), rank)
    product = LowRank(name, shape, "F32", right.file, left, right, factor, transposed)
    return oriented(product, settings.model_type)


def _normed(product: LowRank, lengths: TensorInfo, where: Path) -> Normed:
    if product.transposed or lengths.size != product.shape[0]:
        raise UnreadableCheckpoint(
            f"{where}: DoRA's magnitudes of {product.name!r} are {list(lengths.shape)}, which is not one for each row: merge "
            "each checkpoint with peft's merge_and_unload(), and name the merged folders"
        )
    return Normed(product.name, product.shape, "F32", product.file, product, lengths)
