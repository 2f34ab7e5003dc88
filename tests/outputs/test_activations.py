"""Hooks against the model's own hidden states; the split of a change against direct computation."""

from pathlib import Path

import numpy as np
import pytest

from driftline import InputError
from driftline.outputs import activations as module
from driftline.outputs.activations import Sampling, caught, chosen_blocks, sampled_positions, sampled_units
from driftline.outputs.rollouts import Rollout
from driftline.outputs.source_of_change import change_of_outputs, split

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def model_of(seed: int):
    torch.manual_seed(seed)
    config = transformers.Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return transformers.Qwen2ForCausalLM(config).float().eval()


@pytest.fixture
def rollouts(rng: np.random.Generator) -> list[Rollout]:
    def ids(n: int) -> tuple[int, ...]:
        return tuple(map(int, rng.integers(0, 50, n)))

    return [Rollout(ids(int(rng.integers(1, 9))), ids(int(rng.integers(1, 20)))) for _ in range(12)]


def test_hidden_states_are_those_of_the_model(rollouts: list[Rollout], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftline.outputs.hooks._TOKENS", 60)
    model, sampling = model_of(0), Sampling(positions=40, units=5)
    positions = sampled_positions(rollouts, sampling)
    assert sum(map(len, positions)) == 40
    blocks = chosen_blocks(model, (1,))
    assert list(blocks) == ["layers.1.hidden", "layers.1.attention", "layers.1.mlp"]
    found = caught(model, blocks, rollouts, positions, sampling)
    assert found.shape == (3, 40 * 5)
    units = sampled_units("layers.1.hidden", 32, sampling)
    expected = []
    for rollout, where in zip(rollouts, positions, strict=True):
        ids = torch.tensor([rollout.prompt_ids + rollout.response_ids])
        with torch.inference_mode():
            states = model(ids, output_hidden_states=True).hidden_states
        expected.append(states[2][0, where][:, units].numpy())
        assert all(len(rollout.prompt_ids) - 1 <= p < rollout.length - 1 for p in where)
    np.testing.assert_allclose(found[0], np.concatenate(expected).ravel(), atol=1e-5)


def test_layers_are_spread_by_default_and_must_exist() -> None:
    assert {name.split(".")[1] for name in chosen_blocks(model_of(0), ())} == {"0", "1", "2"}
    with pytest.raises(InputError, match="--layers 7: the model has layers 0 to 2"):
        chosen_blocks(model_of(0), (7,))


def test_the_parts_of_a_change_add_up_to_it(rng: np.random.Generator) -> None:
    w, b, x = rng.standard_normal((2, 7, 5)), rng.standard_normal((2, 7)), rng.standard_normal((2, 20, 5))
    parts = split((w[0], w[1]), (b[0], b[1]), (x[0], x[1]))
    total = (x[1] @ w[1].T + b[1]) - (x[0] @ w[0].T + b[0])
    np.testing.assert_allclose(sum(parts.values()), total, atol=1e-12)
    np.testing.assert_allclose(parts["weight"], x[0] @ (w[1] - w[0]).T, atol=1e-12)


def test_the_parts_add_up_to_the_change_of_the_models_own_outputs(tmp_path: Path, rollouts: list[Rollout]) -> None:
    """Outputs caught in two real forward passes, not computed from the parts."""
    early, late = model_of(0), model_of(0)
    with torch.no_grad():
        for parameter in late.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    early.save_pretrained(tmp_path / "early")
    late.save_pretrained(tmp_path / "late")
    positions = sampled_positions(rollouts, Sampling(positions=30))
    changes = change_of_outputs(tmp_path / "early", tmp_path / "late", rollouts, positions, layers=[0, 2])
    assert len(changes) == 2 * 7
    for change in changes:
        assert change.total.shape[0] == 30
        assert change.record()["unexplained"] < 1e-4, change.name
        np.testing.assert_allclose(sum(change.parts.values()), change.total, atol=1e-4)
    assert any(np.std(change.parts["weight"]) > 0 for change in changes)


def test_units_are_seeded_by_name() -> None:
    first = sampled_units("layers.0.mlp", 1000, Sampling())
    np.testing.assert_array_equal(first, sampled_units("layers.0.mlp", 1000, Sampling()))
    assert (first != sampled_units("layers.1.mlp", 1000, Sampling())).any()
    assert module.Sampling().units == 64
