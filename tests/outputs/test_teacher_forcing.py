"""Log-probs against the plain way: one sequence at a time, the whole softmax at once."""

import numpy as np
import pytest

from driftline.outputs import teacher_forcing
from driftline.outputs.rollouts import Rollout
from driftline.outputs.teacher_forcing import token_logprobs

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}


def model_of(name: str, **settings: object):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SMALL, **settings})
    kind = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    return getattr(transformers, kind)(config).float().eval()


def rollouts_of(rng: np.random.Generator, count: int) -> list[Rollout]:
    def ids(n: int) -> tuple[int, ...]:
        return tuple(map(int, rng.integers(3, 97, n)))

    return [Rollout(ids(int(rng.integers(1, 12))), ids(int(rng.integers(1, 30)))) for _ in range(count)]


def plain(model, rollout: Rollout) -> np.ndarray:
    ids = torch.tensor([rollout.prompt_ids + rollout.response_ids])
    with torch.inference_mode():
        scores = model(ids).logits.float().log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
    return scores[len(rollout.prompt_ids) - 1 :].numpy()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Qwen2", {}),
        ("Llama", {"tie_word_embeddings": True}),
        ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 3.0}),
        ("Granite", {"logits_scaling": 4.0}),
        ("Cohere", {"logit_scale": 0.25}),
        ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    ],
)
def test_batched_blocks_are_the_plain_way(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str, settings: dict
) -> None:
    model, rollouts = model_of(name, **settings), rollouts_of(rng, 40)
    monkeypatch.setattr(teacher_forcing, "_TOKENS", 200)
    monkeypatch.setattr(teacher_forcing, "_LOGITS", 97 * 7)  # seven positions at a time
    counted: list[int] = []
    found = token_logprobs(model, rollouts, progress=counted.append)
    expected = np.concatenate([plain(model, rollout) for rollout in rollouts])
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert sum(counted) == sum(rollout.length for rollout in rollouts)


@pytest.mark.parametrize("name", ["Qwen2", "Gemma2", "Llama"])
def test_shared_prompts_are_run_once_and_change_nothing(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Groups of responses to one prompt, single tokens among them, mixed with others."""
    monkeypatch.setattr(teacher_forcing, "_TOKENS", 120)
    settings = {"head_dim": 8, "final_logit_softcapping": 3.0, "sliding_window": 16} if name == "Gemma2" else {}
    model, singles = model_of(name, **settings), rollouts_of(rng, 6)
    first, second = singles[0].prompt_ids, singles[1].prompt_ids
    shared = [Rollout(first, rollout.response_ids) for rollout in rollouts_of(rng, 12)]
    short = [Rollout(second, (token,)) for token in (5, 6, 7)]
    rollouts = [row for rows in zip(shared[:6], singles, strict=True) for row in rows] + shared[6:] + short
    fed: list[int] = []
    model.model.register_forward_hook(lambda m, a, kwargs, o: fed.append(kwargs["input_ids"].numel()), with_kwargs=True)
    found = token_logprobs(model, rollouts)
    assert sum(fed) < 0.9 * sum(rollout.length for rollout in rollouts)
    expected = np.concatenate([plain(model, rollout) for rollout in rollouts])
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_never_more_logits_than_a_block(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rollouts = model_of("Qwen2"), rollouts_of(rng, 20)
    monkeypatch.setattr(teacher_forcing, "_LOGITS", 97 * 5)
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.numel()))
    token_logprobs(model, rollouts)
    assert max(seen) <= 97 * 5
