"""LoRA runs: the base and its adapters from one set of weights, against merged models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import greedy, pair, prompts, save, tokenizer

from driftline.decoding.sources import load_sampler
from driftline.errors import InputError

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks for it


def adapter(folder: Path, base: Path, seed: int) -> torch.nn.Module:
    """An adapter with random weights, written to `folder`; returns the merged model."""
    model, _ = pair()
    model.name_or_path = str(base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                weights += 0.05 * torch.randn_like(weights)
    adapted.save_pretrained(str(folder))
    return adapted.merge_and_unload().eval()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save(tmp_path / "base", pair()[0])


def check(sampler, early, late) -> None:
    asked = prompts(8)
    found = sampler.sample(asked, temperature=0, max_new_tokens=12, seeds=[0] * 8)
    assert [c.ids for c in found] == [greedy(early, late, 1.5, prompt, 12) for prompt in asked]


def test_without_an_early_model_it_is_the_base(tmp_path, base):
    merged = adapter(tmp_path / "late", base, 1)
    check(load_sampler(tmp_path / "late", alpha=1.5), pair()[0], merged)
    check(load_sampler(tmp_path / "late", early=base, alpha=1.5), pair()[0], merged)


def test_two_adapters_share_their_base(tmp_path, base):
    first, last = adapter(tmp_path / "early", base, 1), adapter(tmp_path / "late", base, 2)
    sampler = load_sampler(tmp_path / "late", early=tmp_path / "early", alpha=1.5)
    assert sampler.early.model is sampler.late.model
    check(sampler, first, last)


def test_an_adapter_alone_is_sampled(tmp_path, base):
    merged = adapter(tmp_path / "late", base, 1)
    check(load_sampler(tmp_path / "late"), merged, merged)


def test_adapters_that_do_not_fit_are_refused(tmp_path, base):
    adapter(tmp_path / "late", base, 1)
    other = save(tmp_path / "other", pair(seed=1)[0], tokenizer())
    with pytest.raises(InputError, match="must be that, or another adapter"):
        load_sampler(tmp_path / "late", early=other, alpha=1.5)
    adapter(tmp_path / "elsewhere", other, 1)
    with pytest.raises(InputError, match="give two of one run"):
        load_sampler(tmp_path / "late", early=tmp_path / "elsewhere", alpha=1.5)
    (tmp_path / "late" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="does not name its base"):
        load_sampler(tmp_path / "late", alpha=1.5)
