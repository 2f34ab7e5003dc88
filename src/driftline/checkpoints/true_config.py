"""What a model's config.json has to say where its weights are otherwise."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from driftline.checkpoints.composed import Scaled
from driftline.checkpoints.model_config import says_tied
from driftline.checkpoints.tensors import TensorInfo
from driftline.checkpoints.ties import input_embedding, output_embedding


def _is_scaled(info: TensorInfo) -> bool:
    return isinstance(info, Scaled) or any(map(_is_scaled, info.below))


def true_to(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], tied: Mapping[str, str], dtype: str = "same"
) -> dict[str, Any]:
    """A configuration changed where the weights are otherwise: the rows of the vocabulary, whether embeddings are tied, that
    they are not quantised, and their dtype.

    Args:
        tensors: of the model; tied: a copy -> the tensor it is a copy of.
        dtype: that they are stored in; `same` as the configuration says.
    """
    found = copy.deepcopy(dict(config))
    parts = [found, *(part for part in (found.get("text_config"),) if isinstance(part, dict))]
    scaled = any(map(_is_scaled, tensors.values()))
    if not any(info.dtype.startswith("F8") for info in tensors.values()):
        found.pop("quantization_config", None)
    if dtype != "same" or scaled:
        for key in ("dtype", "torch_dtype"):
            if key in found or key == "dtype":
                found[key] = "bfloat16" if dtype == "same" else dtype
    embedding, head = input_embedding(tensors), output_embedding(tensors)
    rows = tensors[embedding].shape[0] if embedding else 0
    if head and tensors[head].shape[0] != rows:  # by design, as in Llama's models of vision
        rows = 0
    for part in parts if rows else ():
        if isinstance(part.get("vocab_size"), int) and part["vocab_size"] != rows:
            part["vocab_size"] = rows
    if embedding and head and head not in tied and says_tied(found) is not False:
        for part in parts:
            if part is found or "tie_word_embeddings" in part:
                part["tie_word_embeddings"] = False
    return found
