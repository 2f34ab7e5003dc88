"""The checkpoints of a run under one set of names: those of the last.

One model is saved under several names: experts fused or one by one, projections joined or apart, a language model inside
a model of vision or not, by transformers before and after a conversion, by torchtitan. Where the same numbers lie in
both in an order that is known, each is read as the other; the rules are those of transformers' own conversion mapping
(which is code that needs torch). What has no counterpart is left out, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from driftline.checkpoints.composed import chain, window
from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.model_config import configuration
from driftline.checkpoints.tensors import TensorInfo
from driftline.checkpoints.ties import with_ties
from driftline.checkpoints.torchtitan_names import are_torchtitan, as_hugging_face

_ENOUGH = 0.5  # of the weights: a checkpoint that shares fewer is of another model, or under names that are not known
_EXPERT = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_ONE_EXPERT = re.compile(r"^(.*experts)\.(\d{1,9})\.(gate|up|down)_proj(\.weight)?$")
_FUSED_EXPERTS = re.compile(r"^(.*experts)\.(gate_up|gate|up|down)_proj$")
_BACKBONES = ("transformer", "gpt_neox", "backbone")  # what the rest of a model is put around, at the front of a name
_JOINED = {"gate_up_proj": ("gate_proj", "up_proj"), "qkv_proj": ("q_proj", "k_proj", "v_proj")}
_OF_JOINED = {part: (joined, parts) for joined, parts in _JOINED.items() for part in parts}

Shapes = Mapping[str, TensorInfo]


@dataclass(frozen=True)
class Matched:
    """The checkpoints under one set of names, and why some steps are not among them."""

    checkpoints: dict[int, Checkpoint]
    skipped: dict[int, str]


def matched(opened: Mapping[int, Checkpoint]) -> Matched:
    """The checkpoints of a run, each under the names of the last one; of a last one that the others cannot be read as,
    those of the others. Where it has no configuration but that of the base, step 0, the names are the base's: they are
    those that the configuration is of."""
    if len({frozenset(checkpoint.tensors) for checkpoint in opened.values()}) == 1:
        return Matched(with_ties(opened), {})
    best: Matched | None = None
    first, *_, last = [*opened, *opened]
    of_the_base = [first] if first != last and opened[first].model == opened[last].model else []
    for reference in [*of_the_base, *_references(opened)]:
        found = _under(opened, reference)
        if best is None or len(found.checkpoints) > len(best.checkpoints):
            best = found
    assert best is not None
    return Matched(with_ties(best.checkpoints), best.skipped)


def _references(opened: Mapping[int, Checkpoint]) -> list[int]:
    """The last step, and the last of each other set of names."""
    steps: dict[frozenset[str], int] = {}
    for step, checkpoint in opened.items():
        steps[frozenset(checkpoint.tensors)] = step
    return sorted(steps.values(), reverse=True)


def _under(opened: Mapping[int, Checkpoint], step: int) -> Matched:
    reference = opened[step].tensors
    size = sum(info.size for info in reference.values())
    found, skipped = {}, {}
    for other, checkpoint in opened.items():
        tensors = as_named(checkpoint.tensors, reference)
        shared = sum(
            info.size for name, info in reference.items() if name in tensors and _alike(tensors[name].shape, info.shape)
        )
        if shared >= _ENOUGH * size:
            found[other] = replace(checkpoint, tensors=tensors)
        else:
            mine = next(iter(name for name in checkpoint.tensors if name not in reference), "")
            theirs = next(iter(name for name in reference if name not in checkpoint.tensors), "")
            names = f" (such as {mine!r}, where they have {theirs!r})" if mine and theirs else ""
            skipped[other] = (
                f"{checkpoint.path} shares {shared / max(size, 1):.0%} of the weights with the other checkpoints: other names or "
                f"another model{names}"
            )
    return Matched(found, skipped)


def _alike(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """The same shape, but for the rows of a vocabulary."""
    return one[1:] == other[1:] and (len(one) > 1 or one == other)


def hugging_face_names(opened: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
    """The checkpoints of torchtitan under Hugging Face's names, where a configuration of the run or its base says how."""
    if not any(are_torchtitan(checkpoint.tensors) for checkpoint in opened.values()):
        return dict(opened)
    configs = [config for checkpoint in opened.values() if (config := configuration(checkpoint.model))]
    found: dict[int, Checkpoint] = {}
    for step, checkpoint in opened.items():
        tensors = None
        if are_torchtitan(checkpoint.tensors) and configs:
            tensors = as_hugging_face(checkpoint.tensors, configs[0])
        found[step] = replace(checkpoint, tensors=tensors) if tensors else checkpoint
    return found


def as_named(tensors: Shapes, reference: Shapes) -> dict[str, TensorInfo]:
    """The tensors under the names of `reference` where they are the same by a rule; the rest under their own."""
    left = {name: info for name, info in tensors.items() if name not in reference}
    wanted = {name: info for name, info in reference.items() if name not in tensors}
    found = {name: info for name, info in tensors.items() if name in reference}
    if not left or not wanted:
        return {**found, **left}
    known = _by_plain_name(left)
    sought = _by_plain_name(wanted)
    used: set[str] = set()
    for name, info in wanted.items():
        made = _made(plain(name), info, known, sought)
        if made is not None:
            tensor, parts = made
            found[name] = replace(tensor, name=name)
            used |= parts
    return {**found, **{name: info for name, info in left.items() if name not in used}}


def renamed(tensors: Shapes, reference: Shapes) -> dict[str, TensorInfo]:
    """The tensors under the names of `reference` where these are other names of the same; nothing is joined or cut."""
    known = _by_plain_name({name: info for name, info in reference.items() if name not in tensors})
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        other = known.get(plain(name)) if name not in reference else None
        alike = other is not None and _alike(info.shape, other.shape)
        short = other.name if other is not None and alike else name
        found[short] = replace(info, name=short)
    return found


def _by_plain_name(tensors: Shapes) -> dict[str, TensorInfo]:
    """Without names that two tensors come to."""
    found: dict[str, TensorInfo] = {}
    twice = set()
    for name, info in tensors.items():
        short = plain(name)
        if short in found:
            twice.add(short)
        found[short] = info
    return {short: info for short, info in found.items() if short not in twice}


@lru_cache(1 << 16)
def plain(name: str) -> str:
    """A name without what says in which model of a larger one it lies, and with one spelling for a mixture's experts."""
    parts = [part for part in name.split(".") if part not in ("model", "language_model", "text_model")]
    parts = parts[1:] if parts and parts[0] in _BACKBONES else parts
    parts = ["mlp" if part == "block_sparse_moe" else part for part in parts]
    parts = [part for part, after in zip(parts, [*parts[1:], ""], strict=True) if (part, after) != ("router", "gate")]
    parts = ["lm_head" if part == "embed_out" else part for part in parts]
    if parts[-3:] == ["mlp", "router", "weight"]:
        parts[-2] = "gate"
    if "experts" in parts:
        parts = [_EXPERT.get(part, part) for part in parts]
    return ".".join(parts)


Made = tuple[TensorInfo, set[str]]  # a tensor, and the names of those it is made of


def _made(name: str, wanted: TensorInfo, known: Shapes, sought: Shapes) -> Made | None:
    """The tensor of that plain name and shape, out of those that are known."""
    if name in known:
        return (known[name], {known[name].name}) if _alike(known[name].shape, wanted.shape) else None
    if (match := _FUSED_EXPERTS.match(name)) and len(wanted.shape) == 3:
        return _stacked(match[1], match[2], wanted, known)
    if match := _ONE_EXPERT.match(name):
        return _unstacked(match[1], int(match[2]), match[3], wanted, known)
    stem, _, last = name.rpartition(".")
    owner, _, projection = stem.rpartition(".")
    if projection in _JOINED:
        parts = [known.get(f"{owner}.{part}.{last}") for part in _JOINED[projection]]
        there = [part for part in parts if part is not None and part.shape and part.shape[1:] == wanted.shape[1:]]
        if not wanted.shape or len(there) < len(parts) or sum(part.shape[0] for part in there) != wanted.shape[0]:
            return None
        return chain(wanted.name, wanted.shape, there), {part.name for part in there}
    if projection in _OF_JOINED:
        joined, names = _OF_JOINED[projection]
        whole = known.get(f"{owner}.{joined}.{last}")
        sizes = [sought.get(f"{owner}.{part}.{last}") for part in names]
        if whole is None or any(part is None for part in sizes):
            return None
        there = [part for part in sizes if part is not None]
        if sum(part.size for part in there) != whole.size or whole.shape[1:] != wanted.shape[1:]:
            return None
        begin = sum(part.size for part in there[: names.index(projection)])
        return window(wanted.name, wanted.shape, whole, begin), {whole.name}
    return None


def _stacked(experts: str, kind: str, wanted: TensorInfo, known: Shapes) -> Made | None:
    """[experts, rows, columns] out of a matrix for each, gate above up."""
    projections = ("gate", "up") if kind == "gate_up" else (kind,)
    parts: list[TensorInfo] = []
    for expert in range(wanted.shape[0]):
        for projection in projections:
            info = known.get(f"{experts}.{expert}.{projection}_proj.weight")
            if info is None or info.shape != (wanted.shape[1] // len(projections), wanted.shape[2]):
                return None
            parts.append(info)
    if f"{experts}.{wanted.shape[0]}.{projections[0]}_proj.weight" in known:
        return None  # more experts than the fused tensor has
    return chain(wanted.name, wanted.shape, parts), {part.name for part in parts}


def _unstacked(experts: str, expert: int, kind: str, wanted: TensorInfo, known: Shapes) -> Made | None:
    """One expert's matrix out of the fused ones."""
    fused, count = known.get(f"{experts}.{kind}_proj"), 1
    if fused is None and kind != "down":
        fused, count = known.get(f"{experts}.gate_up_proj"), 2
    if fused is None or len(fused.shape) != 3 or len(wanted.shape) != 2 or expert >= fused.shape[0]:
        return None
    if fused.shape[1:] != (count * wanted.shape[0], wanted.shape[1]):
        return None
    begin = expert * fused.shape[1] * fused.shape[2] + (wanted.size if kind == "up" and count == 2 else 0)
    return window(wanted.name, wanted.shape, fused, begin), {fused.name}
