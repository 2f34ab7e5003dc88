import pytest

from driftline.linearity.names import layer_and_module


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.3.mlp.down_proj.weight", (3, "mlp.down_proj")),
        ("model.layers.12.self_attn.q_proj.bias", (12, "self_attn.q_proj.bias")),
        ("model.layers.0.mlp.experts.17.up_proj.weight", (0, "mlp.experts.*.up_proj")),
        ("transformer.h.5.attn.c_attn.weight", (5, "attn.c_attn")),
        ("model.embed_tokens.weight", (None, "embed_tokens")),
        ("lm_head.weight", (None, "lm_head")),
        ("model.norm.weight", (None, "norm")),
        ("weight", (None, "weight")),
    ],
)
def test_layer_and_module(name: str, expected: tuple[int | None, str]) -> None:
    assert layer_and_module(name) == expected
