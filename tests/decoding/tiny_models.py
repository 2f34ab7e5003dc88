"""Two small random models that differ as neighbours of a run do, and slow, plain ways to decode from them."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from driftline.models import default_device

VOCABULARY, CONTEXT = 2003, 96
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}w9"


def tokenizer(*, template: str | None = TEMPLATE, words: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Words w0, w1, ...; w0 pads, w1 ends."""
    built = Tokenizer(models.WordLevel({f"w{i}": i for i in range(words)}, unk_token="w2"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=built, pad_token="w0", eos_token="w1", padding_side="left")
    made.chat_template = template
    return made


def pair(*, apart: float = 0.01, seed: int = 0, **changes) -> tuple[Qwen3ForCausalLM, Qwen3ForCausalLM]:
    """An early and a late model in float32; weights of the late one are N(0, apart) away."""
    default_device()
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
        "initializer_range": 0.2,
    }
    early = Qwen3ForCausalLM(Qwen3Config(**(settings | changes))).eval()
    with torch.no_grad():
        early.lm_head.weight *= 3  # so that a few dozen tokens are likely, not all
        late = copy.deepcopy(early)
        for weights in late.parameters():
            weights += apart * torch.randn_like(weights)
    return early, late


def save(folder: Path, model: Qwen3ForCausalLM, words: PreTrainedTokenizerFast | None = None) -> Path:
    model.save_pretrained(folder)
    (words or tokenizer()).save_pretrained(folder)
    return folder


def prompts(count: int, seed: int = 1, longest: int = 20) -> list[list[int]]:
    """Random prompts of 1 to `longest` tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(2, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def next_logits(early, late, alpha: float, ids: torch.Tensor) -> torch.Tensor:
    """early + alpha (late - early) after `ids` [B, L], in float64, without caches or padding."""
    with torch.no_grad():
        first, last = (model(ids).logits[:, -1].double() for model in (early, late))
    return first + alpha * (last - first)


def greedy(early, late, alpha: float, prompt: list[int], new: int, end: int = 1) -> list[int]:
    """Greedy decoding, one row, everything read anew for each token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + new and (len(ids) == len(prompt) or ids[-1] != end):
        ids.append(int(next_logits(early, late, alpha, torch.tensor([ids])).argmax()))
    return ids[len(prompt) :]


def distribution(logits: torch.Tensor, temperature: float, top_p: float, top_k: int) -> torch.Tensor:
    """What tokens are drawn from, written out: temperature, the k likeliest, then the fewest that reach top_p."""
    p = (logits / temperature).softmax(-1)
    ranked, order = p.sort(descending=True)
    if top_k:
        ranked[:, top_k:] = 0
        ranked /= ranked.sum(-1, keepdim=True)
    ranked[ranked.cumsum(-1) - ranked >= top_p] = 0
    return torch.zeros_like(p).scatter(1, order, ranked / ranked.sum(-1, keepdim=True))
