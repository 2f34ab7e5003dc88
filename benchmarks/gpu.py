"""What an accelerator changes, on one GPU: decoding from one and two models, log-probs, the embedded server.

    python benchmarks/gpu.py [--keep]

Without a GPU it says so and measures nothing. With --keep the record has the card's name, and RESULTS.md its table.

Two pairs of random weights, each as far apart as neighbours in a real run (see generate_speed.py): 0.14 billion
parameters, in float32 and bfloat16, and 1.5 billion, in bfloat16. What the GPU gives for the small pair is held
against the CPU in float32: greedy tokens of extrapolated logits, and log-probs. The CPU's own speeds are those of
generate_speed.py and logprob_speed.py. vLLM's engine on the same card is measured by `engines.py`, where it is
installed; here are driftline's own loops alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import Qwen2ForCausalLM

import server
from driftline.decoding.sampler import Sampler
from driftline.models import default_device, quiet_libraries
from driftline.outputs.rollouts import Rollout
from driftline.outputs.teacher_forcing import token_logprobs
from generate_speed import ALPHA, DIVERGENCES, PROMPT, SHAPE, base, neighbour
from measure import timed
from tables import RECORDS, ROOT, Table, rendered

BATCHES, NEW, CLIENTS = (1, 16), 64, 8
GREEDY = 8  # prompts whose completions are held against the CPU's
RESPONSES, LENGTH = 32, 256
LARGE = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}
_COLUMNS = (
    {"key": "what", "title": ""},
    {"key": "rate", "title": "tokens a second", "digits": 3},
    {"key": "over_late", "title": "time / late alone", "decimals": 2},
    {"key": "kept", "title": "drafts kept", "decimals": 3},
    {"key": "most", "title": "p99 s", "decimals": 2},
    {"key": "alike", "title": "greedy tokens as on the CPU", "percent": True},
    {"key": "mean", "title": "log-probs from the CPU's, mean, nats", "digits": 2},
    {"key": "apart", "title": "largest, nats", "digits": 2},
)
_WORDS: Any = SimpleNamespace(eos_token_id=None)
_PLACE = re.compile(r"(<!-- gpu -->\n).*?(<!-- end of gpu -->)", re.DOTALL)

Pair = tuple[Qwen2ForCausalLM, Qwen2ForCausalLM]
Row = dict[str, Any]


def made(shape: dict[str, int]) -> Pair:
    early = base(shape, "cuda")
    return early, neighbour(early, DIVERGENCES[0])


def prompts_of(count: int) -> list[list[int]]:
    draw = random.Random(count)
    return [[draw.randrange(32_000) for _ in range(PROMPT)] for _ in range(count)]


def decoded(pair: Pair, of: str) -> Iterator[Row]:
    """A row for each batch, of the late model and of both: NEW tokens a prompt, which nothing ends."""
    early, late = pair
    for batch in BATCHES:
        alone = Sampler(late, _WORDS)
        both = Sampler(late, _WORDS, early=early, alpha=ALPHA)
        prompts = prompts_of(batch)

        def draw(sampler: Sampler, prompts: list[list[int]] = prompts) -> None:
            sampler.sample(prompts, max_new_tokens=NEW, seeds=range(len(prompts)), temperature=0.6, top_p=0.95)

        draw(both)
        taken = [min(timed(lambda one=one: draw(one)) for _ in range(2)) for one in (alone, both)]  # type: ignore[misc]
        what = f"{of}, batch {batch}: "
        yield {"what": f"{what}late alone", "rate": batch * NEW / taken[0]}
        yield {
            "what": f"{what}two models",
            "rate": batch * NEW / taken[1],
            "over_late": taken[1] / taken[0],
            "kept": both.acceptance.rate,
        }


def greedy(pair: Pair) -> np.ndarray:
    """Tokens [GREEDY, NEW] of extrapolated logits, each the likeliest."""
    sampler = Sampler(pair[1], _WORDS, early=pair[0], alpha=ALPHA)
    found = sampler.sample(prompts_of(GREEDY), max_new_tokens=NEW, seeds=range(GREEDY), temperature=0.0)
    return np.array([one.ids for one in found])


def scored(late: Qwen2ForCausalLM) -> tuple[np.ndarray, float]:
    """Log-probs of responses of random tokens, and tokens a second."""
    draw = random.Random(0)
    rollouts = [
        Rollout(tuple(prompt), tuple(draw.randrange(32_000) for _ in range(LENGTH))) for prompt in prompts_of(RESPONSES)
    ]
    token_logprobs(late, rollouts[:2])
    found: list[np.ndarray] = []
    seconds = timed(lambda: found.append(token_logprobs(late, rollouts)))
    return found[0], RESPONSES * (PROMPT + LENGTH) / seconds


def alike(tokens: np.ndarray, others: np.ndarray) -> float:
    """The share of tokens before the first that differs, in each completion."""
    return float(np.logical_and.accumulate(tokens == others, axis=1).mean())


def beside_the_cpu(pair: Pair, of: str, tokens: np.ndarray, logp: np.ndarray) -> Iterator[Row]:
    """Speeds of a pair on the GPU, and how near it comes to the CPU's tokens and log-probs."""
    yield {"what": f"{of}: greedy, two models", "alike": alike(greedy(pair), tokens)}
    found, rate = scored(pair[1])
    apart = np.abs(found - logp)
    yield {"what": f"{of}: log-probs", "rate": rate, "mean": float(apart.mean()), "apart": float(apart.max())}
    yield from decoded(pair, of)


def rows() -> Iterator[Row]:
    small = made(SHAPE)
    on_cpu = tuple(copy.deepcopy(model).to("cpu") for model in small)
    expected = greedy(on_cpu), scored(on_cpu[1])[0]
    yield from beside_the_cpu(small, "0.14 billion, float32", *expected)
    half = tuple(model.to(torch.bfloat16) for model in small)
    yield from beside_the_cpu(half, "0.14 billion, bfloat16", *expected)
    large = tuple(model.to(torch.bfloat16) for model in made(LARGE))
    yield {"what": "1.5 billion, bfloat16: log-probs", "rate": scored(large[1])[1]}
    found = server.measured(server.made(large), CLIENTS, requests=2, tokens=NEW)
    what = f"1.5 billion, bfloat16: embedded server, two models, {CLIENTS} clients"
    yield {"what": what, **{key: found[key] for key in ("rate", "kept", "most")}}
    yield from decoded(large, "1.5 billion, bfloat16")


def show(table: Table) -> None:
    """Keep the record, and put its table where RESULTS.md has a place for it."""
    table.keep(RECORDS / "gpu.json")
    results = ROOT / "benchmarks" / "RESULTS.md"
    marks = "<!-- table: benchmarks/records/gpu.json -->\n<!-- end of table -->\n"
    told = f"Measured on {table.source}.\n\n{marks}"
    text = _PLACE.sub(lambda found: f"{found[1]}\n{told}\n{found[2]}", results.read_text(encoding="utf-8"))
    results.write_text(rendered(text), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="write the record that RESULTS.md is rendered from")
    keep = parser.parse_args().keep
    if not torch.cuda.is_available():
        print("no GPU is here: nothing was measured")
        return
    default_device()
    quiet_libraries()
    found = []
    for row in rows():
        print(json.dumps(row), flush=True)  # at once, as a machine may be gone before the table is whole
        found.append(row)
    table = Table("python benchmarks/gpu.py", _COLUMNS, found, source=torch.cuda.get_device_name())
    print(table.text(), flush=True)
    if keep:
        show(table)


if __name__ == "__main__":
    main()
