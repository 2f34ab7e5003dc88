"""Embeddings that are one parameter under two names: counted once, and written so that both come back equal.

What the weights say goes before what the configuration says, as in transformers: two tensors that are stored and differ
are not tied, and two that are equal at every step are one, whether or not a configuration says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.model_config import configuration, says_tied
from driftline.checkpoints.tensors import Stored, TensorInfo

_INPUTS = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "word_embeddings.weight",
    ".embeddings.weight",
)
_OUTPUTS = ("lm_head.weight", "embed_out.weight", "output.weight", "output_layer.weight")
_SAMPLES, _SAMPLE = 64, 1 << 10
_SLICE = 1 << 22  # elements


def input_embedding(names: Iterable[str]) -> str | None:
    """The embedding of tokens; of several (a draft head's) the shortest name."""
    return min((name for name in names if name.endswith(_INPUTS)), key=len, default=None)


def output_embedding(names: Iterable[str]) -> str | None:
    return min(
        (
            name
            for name in names
            if name == "lm_head.weight" or name.endswith(tuple(f".{o}" for o in _OUTPUTS)) or name in _OUTPUTS
        ),
        key=len,
        default=None,
    )


def is_of_vocabulary(name: str) -> bool:
    """Whether a tensor has a row for each token: an embedding, or the head with its bias."""
    weight = [f"{name.removesuffix('.bias')}.weight" if name.endswith(".bias") else name]
    return input_embedding(weight) is not None or output_embedding(weight) is not None


def with_ties(opened: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
    """The checkpoints of a run with `tied` filled in, the same for all of them.

    An embedding that differs from the head at any step is not tied; a checkpoint that stores one of them alone, and whose
    configuration ties them, then has both, the same.
    """
    names = {name for checkpoint in opened.values() for name in checkpoint.tensors}
    pairs = {copy: source for checkpoint in opened.values() for copy, source in checkpoint.tied.items()}
    head, embedding = output_embedding(names), input_embedding(names)
    if head and embedding:
        pairs.setdefault(head, embedding)
    found = {step: replace(checkpoint, tied={}) for step, checkpoint in opened.items()}
    for copy, source in pairs.items():
        both = [c for c in opened.values() if copy in c.tensors and source in c.tensors]
        if both and all(
            c.tied.get(copy) == source or _same(c.tensors[copy], c.tensors[source], whole=c is both[-1]) for c in both
        ):
            found = {step: replace(c, tied={**c.tied, copy: source}) for step, c in found.items()}
        elif both:
            found = {step: _with_both(c, copy, source) for step, c in found.items()}
    return found


def _with_both(checkpoint: Checkpoint, copy: str, source: str) -> Checkpoint:
    there = checkpoint.tensors.get(source)
    if copy in checkpoint.tensors or there is None or not says_tied(configuration(checkpoint.model)):
        return checkpoint
    return replace(checkpoint, tensors={**checkpoint.tensors, copy: replace(there, name=copy)})


def _same(one: TensorInfo, other: TensorInfo, *, whole: bool) -> bool:
    """Whether two tensors hold the same values, by samples, or `whole` (of remote ones by samples only)."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if isinstance(one, Stored) and isinstance(other, Stored) and (one.file, one.offset) == (other.file, other.offset):
        return True
    size = one.size
    count = 4 if one.remote else _SAMPLES
    starts = sorted({int(start) for start in np.linspace(0, max(size - _SAMPLE, 0), count)})
    if not all(_equal(one, other, start, min(start + _SAMPLE, size)) for start in starts):
        return False
    if not whole or one.remote:
        return True
    return all(_equal(one, other, start, min(start + _SLICE, size)) for start in range(0, size, _SLICE))


def _equal(one: TensorInfo, other: TensorInfo, start: int, stop: int) -> bool:
    return np.array_equal(one.values(start, stop), other.values(start, stop), equal_nan=True)
