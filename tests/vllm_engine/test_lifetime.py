"""What `driftline serve --backend vllm` starts is gone when it is, and so are the copies that it wrote."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path

import openai
import pytest
import torch
from pairs import prompts
from processes import children_of
from servers import serving

from driftline.decoding.sources import load_sampler


def gone(processes: set[int], seconds: float = 40) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        left = {one for one in processes if Path(f"/proc/{one}").exists() and not _zombie(one)}
        if not left:
            return True
        time.sleep(0.2)
    return False


def _zombie(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def copies() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob(".driftline-model.partial-*"))


def test_an_adapter_on_its_base_and_the_end_by_sigterm(tmp_path, pair):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = pair[0]
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                weights += 0.05 * torch.randn_like(weights)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    before = copies()
    sampler = load_sampler(tmp_path / "adapter", alpha=1.5, dtype="float32")
    with serving(tmp_path / "log", "--late", str(tmp_path / "adapter"), "--alpha", "1.5") as server:
        assert len(copies() - before) == 1
        for prompt in prompts(16, seed=4):
            answer = server.client().completions.create(model="driftline", prompt=prompt, temperature=0, max_tokens=12)
            expected = sampler.sample([prompt], temperature=0, max_new_tokens=12, seeds=[0])[0]
            assert answer.choices[0].text == sampler.text(expected)
        below = children_of(server.process.pid)
        assert len(below) >= 2  # the server and its engine
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 143
    assert gone(below)
    assert copies() == before


def test_one_model_alone_refuses_alpha_and_dies_with_a_killed_parent(tmp_path, pair):
    late = pair[1]
    sampler = load_sampler(late, dtype="float32")
    with serving(tmp_path / "log", "--late", str(late)) as server:
        client = server.client()
        for prompt in prompts(8, seed=4):
            answer = client.completions.create(model="driftline", prompt=prompt, temperature=0, max_tokens=12)
            expected = sampler.sample([prompt], temperature=0, max_new_tokens=12, seeds=[0])[0]
            assert answer.choices[0].text == sampler.text(expected)
        with pytest.raises(openai.BadRequestError, match="alpha needs an early model"):
            client.completions.create(model="driftline", prompt=[5], extra_body={"vllm_xargs": {"alpha": 1.5}})
        below = children_of(server.process.pid)
        server.process.kill()
        assert gone(below)
