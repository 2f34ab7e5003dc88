"""Small random models of several families, early and late, that vLLM's CPU attention can run, saved in folders."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

WORDS, CONTEXT = 503, 256
_SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "initializer_range": 0.2,
}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {},
    "llama": {},
    "qwen3_moe": _EXPERTS | {"norm_topk_prob": True},
}


def tokenizer() -> PreTrainedTokenizerFast:
    """Words w0, w1, ...; w0 pads, w1 ends."""
    built = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w2"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.decoder = decoders.Fuse()  # so that the text of a token is the same wherever it stands, as of bytes
    made = PreTrainedTokenizerFast(tokenizer_object=built, pad_token="w0", eos_token="w1", padding_side="left")
    made.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}w9"
    return made


def saved_pair(
    folder: Path, family: str = "qwen2", *, apart: float = 0.02, seed: int = 0, **changes: Any
) -> tuple[Path, Path]:
    """The folders of an early and a late model in float32; weights of the late one are N(0, apart) away.

    `changes` to the configuration may be of one alone: `late_` or `early_` before the name.
    """
    torch.manual_seed(seed)
    shared = {key: value for key, value in changes.items() if not key.startswith(("early_", "late_"))}
    config = AutoConfig.for_model(family, **(_SIZES | FAMILIES[family] | shared))
    early = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        early.get_output_embeddings().weight *= 3  # so that some tokens are likely and ties are not
        late = copy.deepcopy(early)
        for weights in late.parameters():
            weights += apart * torch.randn_like(weights)
    found = []
    for name, model in (("early", early), ("late", late)):
        mine = {key.removeprefix(f"{name}_"): value for key, value in changes.items() if key.startswith(f"{name}_")}
        model = _changed(model, mine)
        model.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
        found.append(folder / name)
    return found[0], found[1]


def _changed(model: Any, changes: dict[str, Any]) -> Any:
    """The model with a padded vocabulary, or tied to its own embeddings."""
    if size := changes.pop("vocab_size", None):
        model.resize_token_embeddings(size, mean_resizing=False)
        with torch.no_grad():
            for part in (model.get_input_embeddings(), model.get_output_embeddings()):
                part.weight[WORDS:] = 50.0  # rows that would win each time, were they tokens
    if changes.pop("tie_word_embeddings", False):
        model.config.tie_word_embeddings = True
        model.tie_weights()
    assert not changes, changes
    return model


def prompts(count: int, seed: int = 1, longest: int = 24) -> list[list[int]]:
    """Random prompts of 1 to `longest` tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(2, WORDS, (n,), generator=generator).tolist() for n in lengths]
