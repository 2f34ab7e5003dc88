"""torchtitan's names and order of weights as Hugging Face's, by torchtitan's own public mapping (its state_dict_adapter):
Llama 3, whose query and key rows are ordered otherwise, and Qwen 3, dense or with experts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from driftline.checkpoints.composed import Unrotated, window
from driftline.checkpoints.tensors import LowRank, TensorInfo

_PLAIN = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "lm_head.weight": "lm_head.weight",
}
_LAYER = re.compile(r"^layers\.(\d+)\.(.+?)(\.weight|\.bias)?$")
_IN_LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "moe.router.gate": "mlp.gate",
}
_EXPERTS = re.compile(r"^moe\.(?:routed_experts\.inner_|)experts\.(w[123])(?:_[A-Z]{3})?$")
_PROJECTION = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_MOST_EXPERTS = 1 << 16
_KNOWN = ("llama", "qwen3", "qwen3_moe")


def are_torchtitan(names: Mapping[str, Any]) -> bool:
    return "tok_embeddings.weight" in names or any(name.startswith("layers.0.attention.w") for name in names)


def as_hugging_face(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> dict[str, TensorInfo] | None:
    """The tensors under the names, and in the order, of Hugging Face.

    Args:
        config: the model's config.json, which says its kind and its heads.

    Returns:
        None where the kind of model is not known, or a name has no counterpart.
    """
    heads = config.get("num_attention_heads")
    key_heads = config.get("num_key_value_heads", heads)
    if config.get("model_type") not in _KNOWN or not isinstance(heads, int) or not isinstance(key_heads, int):
        return None
    turned = {"attention.wq": heads, "attention.wk": key_heads} if config["model_type"] == "llama" else {}
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        if name in _PLAIN:
            found[_PLAIN[name]] = replace(info, name=_PLAIN[name])
            continue
        match = _LAYER.match(name)
        if match is None:
            return None
        inner = match[2].replace("attention.qkv_linear.", "attention.")
        if (experts := _EXPERTS.match(inner)) and len(info.shape) == 3 and info.shape[0] <= _MOST_EXPERTS:
            for expert in range(info.shape[0]):
                one = f"model.layers.{match[1]}.mlp.experts.{expert}.{_PROJECTION[experts[1]]}.weight"
                found[one] = window(one, info.shape[1:], info, expert * info.shape[1] * info.shape[2])
        elif inner in _IN_LAYER:
            other = f"model.layers.{match[1]}.{_IN_LAYER[inner]}{match[3] or ''}"
            found[other] = _turned(replace(info, name=other), turned.get(inner))
        else:
            return None
    return found


def _turned(info: TensorInfo, heads: int | None) -> TensorInfo:
    if heads is None or heads < 1 or not info.shape or info.shape[0] % (2 * heads):
        return info
    if isinstance(info, LowRank):  # the rows of B·A are those of B
        base = None if info.base is None else _turned(info.base, heads)
        return replace(info, left=_turned(info.left, heads), base=base)
    return Unrotated(info.name, info.shape, info.dtype, info.file, info, heads)
