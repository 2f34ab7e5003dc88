"""Models of about 30,000 weights, the same at every call; sizes that two ranks do not share evenly."""

import peft
import torch
import transformers

_SIZES = {
    "vocab_size": 203,
    "hidden_size": 32,
    "intermediate_size": 52,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def qwen2(*, tie: bool = False, **sizes: int) -> torch.nn.Module:
    settings = {**_SIZES, "num_key_value_heads": 2, "tie_word_embeddings": tie, **sizes}
    return _built(transformers.Qwen2ForCausalLM, transformers.Qwen2Config(**settings))


def llama(*, tie: bool = False) -> torch.nn.Module:
    settings = {**_SIZES, "num_key_value_heads": 2, "tie_word_embeddings": tie}
    return _built(transformers.LlamaForCausalLM, transformers.LlamaConfig(**settings))


def deepseek() -> torch.nn.Module:
    """Experts, and a persistent buffer: the router's `e_score_correction_bias`."""
    experts = {
        "moe_intermediate_size": 16,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    }
    attention = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    settings = {**_SIZES, "num_key_value_heads": 4, "tie_word_embeddings": False, **experts, **attention}
    return _built(transformers.DeepseekV3ForCausalLM, transformers.DeepseekV3Config(**settings))


def with_adapter(model: torch.nn.Module, **settings: object) -> torch.nn.Module:
    """peft's LoRA of rank 4 around `model`, with a B that is not zero."""
    chosen = {
        "r": 4,
        "lora_alpha": 16,
        "target_modules": "all-linear",
        "task_type": peft.TaskType.CAUSAL_LM,
        **settings,
    }
    torch.manual_seed(1)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**chosen))
    for name, weights in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weights, std=0.01)
    return adapted


def batch(step: int, rank: int = 0, vocabulary: int = 203) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, vocabulary, (2, 12), generator=torch.Generator().manual_seed(100 * step + rank))
    return {"input_ids": ids, "labels": ids}


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int, rank: int) -> None:
    """Two updates, on other tokens at every step and rank."""
    for repeat in range(2):
        model(**batch(step + repeat, rank)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _built(kind: type, config: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return kind(config)
