"""Tokens per second from extrapolated logits: the speculative loop, two models in lockstep, the late model alone.

    python benchmarks/generate_speed.py

The pair: a Qwen2-shaped model of 0.14 billion random float32 weights, and the same with noise on every weight.
Two things make it behave as neighbours of a run do. The last norm is scaled until the mean entropy of a token
is that of a reasoning model (0.4 nats; random logits are flat otherwise). The noise is scaled until the mean
divergence KL(late || early) per token is that between checkpoints of real GRPO runs of the lab: 0.007 to
0.016 nats between steps 20 and 60, or 60 and 120. Three distances are tried, since acceptance decides the speed:
the middle of that range, and four and sixteen times it. Nothing ends a completion before its 128th token.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from driftline.decoding.distribution import SamplingParams
from driftline.decoding.processor import ExtrapolatedLogits
from driftline.decoding.sampler import Sampler
from driftline.models import default_device, quiet_libraries
from measure import timed
from tables import Table

ALPHA, PARAMS = 1.5, SamplingParams(temperature=0.6, top_p=0.95)
PROMPT, NEW = 64, 128
ENTROPY, DIVERGENCES = 0.4, (0.012, 0.048, 0.19)
_COLUMNS = (
    {"key": "what", "title": ""},
    {"key": "rate", "title": "tokens a second", "digits": 3},
    {"key": "over_late", "title": "time / late alone", "decimals": 2},
    {"key": "kept", "title": "drafts kept", "decimals": 3},
    {"key": "per_early_pass", "title": "tokens for each early pass", "decimals": 1},
)


SHAPE = {
    "hidden_size": 640,
    "intermediate_size": 2560,
    "num_hidden_layers": 16,
    "num_attention_heads": 10,
    "num_key_value_heads": 2,
}


def base(shape: Mapping[str, int] = SHAPE, device: str = "cpu") -> Qwen2ForCausalLM:
    """Random weights whose next-token distributions have the wanted mean entropy."""
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=32_000, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, **shape)
    with torch.device(device):
        model = Qwen2ForCausalLM(config).eval()
        ids = torch.randint(0, 32_000, (4, 64))
    with torch.no_grad():
        logits = model(ids).logits
        low, high = 1.0, 1000.0
        while high / low > 1.001:
            middle = (low * high) ** 0.5
            log_p = (middle * logits).log_softmax(-1)
            low, high = (middle, high) if -(log_p.exp() * log_p).sum(-1).mean() > ENTROPY else (low, middle)
        model.model.norm.weight *= low
    return model


def neighbour(early: Qwen2ForCausalLM, divergence: float) -> Qwen2ForCausalLM:
    """`early` with noise on every weight, as far away as `divergence` says."""
    ids = torch.randint(0, 32_000, (4, 64), generator=torch.Generator().manual_seed(1)).to(early.device)
    noise = 1e-4
    with torch.no_grad():
        log_p = early(ids).logits.log_softmax(-1)
        for _ in range(4):  # the divergence grows about as the noise squared
            late = copy.deepcopy(early)
            generator = torch.Generator(early.device).manual_seed(2)
            for name, weights in late.named_parameters():
                if "norm" not in name:
                    weights += noise * torch.randn(weights.shape, generator=generator, device=early.device)
            log_q = late(ids).logits.log_softmax(-1)
            found = (log_q.exp() * (log_q - log_p)).sum(-1).mean().item()
            noise *= (divergence / found) ** 0.5
    return late


def compare(
    early: Qwen2ForCausalLM, lates: dict[float, Qwen2ForCausalLM], batch: int, repeats: int
) -> list[dict[str, Any]]:
    """A row for each way: every one is called in turn, several times, and its fastest call counts."""
    prompts = torch.randint(0, 32_000, (batch, PROMPT), generator=torch.Generator().manual_seed(3))
    settings: dict[str, Any] = {"temperature": PARAMS.temperature, "top_p": PARAMS.top_p, "max_new_tokens": NEW}
    words: Any = SimpleNamespace(eos_token_id=None)
    nearest = next(iter(lates.values()))

    def sample(sampler: Sampler) -> None:
        sampler.sample(prompts.tolist(), seeds=range(batch), **settings)

    def generate(*processors: ExtrapolatedLogits) -> None:
        mask = torch.ones_like(prompts)
        nearest.generate(prompts, attention_mask=mask, do_sample=True, logits_processor=list(processors), **settings)

    samplers = {kl: Sampler(late, words, early=early, alpha=ALPHA) for kl, late in lates.items()}
    ways: dict[str, Callable[[], Any]] = {
        "late alone": partial(sample, Sampler(nearest, words)),
        "late alone, transformers": generate,
        "lockstep (`ExtrapolatedLogits`)": lambda: generate(ExtrapolatedLogits(early, ALPHA)),
    }
    ways |= {f"speculative, KL {kl}": partial(sample, sampler) for kl, sampler in samplers.items()}
    calls = [{name: timed(work) for name, work in ways.items()} for _ in range(repeats)]
    taken = {name: min(call[name] for call in calls) for name in ways}
    rows: list[dict[str, Any]] = []
    for name, s in taken.items():
        kl = float(name.split()[-1]) if name.startswith("speculative") else None
        rates = None if kl is None else samplers[kl].acceptance
        rows.append(
            {
                "what": name if rows else f"batch {batch}: {name}",
                "rate": batch * NEW / s,
                "over_late": s / taken["late alone"],
                "kept": rates and rates.rate,
                "per_early_pass": rates and rates.tokens_per_early_pass,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="write the record that RESULTS.md is rendered from")
    keep = parser.parse_args().keep
    default_device()
    quiet_libraries()
    early = base()
    lates = {divergence: neighbour(early, divergence) for divergence in DIVERGENCES}
    print(f"{sum(weights.numel() for weights in early.parameters()):,} parameters, alpha {ALPHA}, {PARAMS}")
    rows = [row for batch, repeats in ((1, 3), (16, 2)) for row in compare(early, lates, batch, repeats)]
    Table("python benchmarks/generate_speed.py", _COLUMNS, rows).show("generate", keep=keep)


if __name__ == "__main__":
    main()
