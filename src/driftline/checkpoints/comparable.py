"""What every layout's tensors go through, so that checkpoints can be compared: the model's own names, adapters as the
change that they make, quantised weights at their value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from driftline.checkpoints import dtypes
from driftline.checkpoints.adapter_settings import find_settings
from driftline.checkpoints.layouts import Checkpoint, adapter, huggingface, megatron
from driftline.checkpoints.low_rank import TokenRows, assemble, holds_adapter, needs_base, on_weight, oriented, without
from driftline.checkpoints.model_config import configuration, says_tied
from driftline.checkpoints.parameter_names import VALUE_HEAD, of_the_model
from driftline.checkpoints.quantised import dequantised
from driftline.checkpoints.tensors import LowRank, TensorInfo
from driftline.checkpoints.ties import input_embedding, output_embedding
from driftline.errors import UnreadableCheckpoint


def comparable(opened: Checkpoint) -> Checkpoint:
    """A checkpoint as its layout found it, under the model's own names, with what belongs together put together.

    Raises:
        UnreadableCheckpoint: two tensors of one name, placeholders instead of weights, an adapter that is not B · A,
            quantised weights whose values are not known, or parts in a dtype that is not read.
    """
    where = opened.place or opened.path
    names = of_the_model(opened.tensors, state=opened.layout not in (huggingface.NAME, adapter.NAME))
    tensors: dict[str, TensorInfo] = {}
    left_out = dict(opened.left_out)
    for name, short in names.items():
        if VALUE_HEAD.match(short):
            left_out[short] = "a value head of the trainer, no part of the model"
        elif short in tensors:
            raise UnreadableCheckpoint(
                f"{where} holds {short!r} twice, once as {name!r}: which of the two is the model's is not known"
            )
        else:
            tensors[short] = replace(opened.tensors[name], name=short)
    _refuse_placeholders(tensors, where)
    tied = {names.get(copy, copy): names[source] for copy, source in opened.tied.items() if source in names}
    notes, settings = list(opened.notes), None
    config = configuration(opened.model)
    tensors, scales = dequantised(tensors, config, where)
    if holds_adapter(tensors) or opened.layout == adapter.NAME:
        settings = find_settings(opened.path, where, opened.model)
        settings = replace(settings, model_type=str(config.get("model_type", "")))
        tensors = assemble(tensors, where, settings)
        tied = {plain: source for plain, source in tied.items() if plain in tensors and source in tensors}
        if settings.alpha is None:
            notes.append(
                f"no file beside {where} says the scale of its adapter (lora_alpha): it is measured as B·A, so norms are in "
                f"other units, and no model can be made of it; put peft's adapter_config.json there"
            )
    _refuse_other_parts(tensors, where)
    as_saved = opened.layout == huggingface.NAME and all(
        name in opened.tensors and not info.below for name, info in tensors.items()
    )
    return replace(
        opened,
        tensors=tensors,
        tied=tied,
        left_out=left_out | scales,
        notes=tuple(notes),
        settings=settings,
        as_saved=as_saved,
    )


def on_base(change: Checkpoint, base: Checkpoint, initial: Checkpoint | None = None) -> Checkpoint:
    """The model that an adapter makes of its base: the base's tensors, those it changes summed as they are read.

    Of embeddings that are tied in the base peft changes the one that it was put on, so the other is then stored too.

    Args:
        initial: the adapter as training began, where its product was taken out of the base.

    Raises:
        UnreadableCheckpoint: the base lacks a matrix that the adapter changes, or has it in another shape.
    """
    tensors, changes, tied = dict(base.tensors), dict(change.tensors), dict(base.tied)
    config = configuration(base.model)
    embedding = input_embedding(tensors)
    head = output_embedding(tensors) or output_embedding(changes) or "lm_head.weight"
    one = embedding is not None and (head in tied or (head not in tensors and says_tied(config) is not False))
    if one and embedding is not None:
        if change.settings is not None and change.settings.keeps_tie:
            both = changes.pop(head, None)
            if both is not None:
                changes.setdefault(embedding, replace(both, name=embedding))
        elif head in changes or (embedding in changes and not isinstance(changes[embedding], TokenRows)):
            tensors[head] = replace(tensors[embedding], name=head)
            tied.pop(head, None)
    for name, info in changes.items():
        below = tensors.get(name)
        if isinstance(info, LowRank):
            info = oriented(info, str(config.get("model_type", "")))
        if below is None and needs_base(info):
            raise UnreadableCheckpoint(
                f"{change.path} changes {name!r}, but the base {base.path} lacks it: give the base it was trained on, "
                "with its projections joined or apart as they were"
            )
        made = info if below is None else on_weight(info, below, change.path)
        tensors[name] = without(made, initial.tensors.get(name) if initial else None)
    _refuse_half_resized(tensors, base.tensors, embedding, head, change.path)
    _refuse_other_parts(tensors, change.path)
    return replace(
        change, tensors=tensors, tied=tied, model_folder=base.model, left_out=base.left_out | change.left_out
    )


def _refuse_half_resized(
    made: dict[str, TensorInfo], base: dict[str, TensorInfo], embedding: str | None, head: str, where: Path
) -> None:
    """Of a vocabulary that was resized in training, and of which an adapter holds the embedding or the head alone."""
    if embedding is None or head not in made or made[embedding].shape[0] == made[head].shape[0]:
        return
    if head not in base or base[embedding].shape[0] == base[head].shape[0]:
        raise UnreadableCheckpoint(
            f"{where} has {made[embedding].shape[0]} rows of {embedding!r} and {made[head].shape[0]} of {head!r}: the vocabulary "
            "was resized, and only one of them is in the adapter; give the base with its vocabulary resized as it was"
        )


def writable(checkpoint: Checkpoint) -> str | None:
    """Why no model can be made of a checkpoint by itself, or None."""
    if checkpoint.settings and checkpoint.settings.alpha is None:
        return (
            f"{checkpoint.path} holds an adapter whose scale (lora_alpha) no file says: put peft's adapter_config.json "
            f"there, as {checkpoint.settings.path}"
        )
    if any(map(needs_base, checkpoint.tensors.values())):
        return f"{checkpoint.path} and its like are LoRA adapters: say with --base which model they were trained on"
    if checkpoint.layout == megatron.NAME:
        return f"{checkpoint.path} has Megatron's names and stacked layers: {megatron.CONVERTERS}"
    return None


def _refuse_other_parts(tensors: dict[str, TensorInfo], where: Path) -> None:
    """Of tensors that are made of others, such as an adapter's product, each part must hold numbers that are read."""
    for info in tensors.values():
        parts = list(info.below)
        while parts:
            part = parts.pop()
            if part.dtype not in dtypes.FLOATS:
                raise UnreadableCheckpoint(
                    f"{where} has {part.name!r} in {part.dtype[:40]!r}, of which {info.name!r} cannot be made: save it in float32, "
                    "bfloat16 or float16"
                )
            parts += part.below


def _refuse_placeholders(tensors: dict[str, TensorInfo], where: Path) -> None:
    empty = [name for name, info in tensors.items() if info.size == 0 and info.dtype in dtypes.FLOATS]
    if len(empty) > len(tensors) / 2:
        raise UnreadableCheckpoint(
            f"{where} holds placeholders of shape {list(tensors[empty[0]].shape)} for {len(empty)} of {len(tensors)} tensors: "
            "DeepSpeed ZeRO-3 saved without gathering; save with stage3_gather_16bit_weights_on_model_save, or name the "
            "folder of its global_stepN states"
        )
