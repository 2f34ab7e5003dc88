"""Forecast models in transformers: they load, tied stays tied, and they are where the formula says."""

from pathlib import Path

import pytest

from driftline import open_trajectory
from driftline.forecast.request import ForecastRequest
from driftline.writing.extrapolate import extrapolate
from driftline.writing.storage import Storage

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 20_000])
def test_from_pretrained_loads_a_forecast(tmp_path: Path, tied: bool, shard_bytes: int) -> None:
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        dtype="bfloat16",
    )
    model = transformers.Qwen2ForCausalLM(config).to(torch.bfloat16)
    states = []
    for step in (0, 100):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        model.save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
    storage = Storage(keep=(), shard_bytes=shard_bytes)
    extrapolate(open_trajectory(tmp_path / "run"), tmp_path / "out", ForecastRequest((250,), "two-point"), storage)
    loaded, notes = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype="auto", output_loading_info=True
    )
    assert not any(notes.values()), notes
    assert loaded.dtype == torch.bfloat16
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    for name, value in loaded.state_dict().items():
        early, late = states[0][name].float(), states[1][name].float()
        assert torch.equal(value, (early + 2.5 * (late - early)).bfloat16()), name
    assert torch.isfinite(loaded(torch.arange(10)[None]).logits).all()
