"""What an accelerator changes, on one GPU: decoding from one and two models, log-probs, the embedded server.

    python benchmarks/gpu.py [--keep]

Without a GPU it says so and measures nothing. With --keep the record has the card's name, and RESULTS.md its table.

Two pairs of random weights, each as far apart as neighbours in a real run (see generate_speed.py): 0.14 billion
parameters, on the CPU and on the GPU, in float32 and bfloat16, and 1.5 billion, in bfloat16. What the GPU gives for
the small pair is held against the CPU in float32: greedy tokens of extrapolated logits, and log-probs. Where vLLM is
installed, `engines.py` measures its engine on the same card; here are driftline's own loops alone.
"""

from __future__ import annotations

import argparse
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

BATCHES, NEW = (1, 16, 64), 64
GREEDY = 16  # prompts whose completions are held against the CPU's
RESPONSES, LENGTH = 64, 256
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
    {"key": "apart", "title": "log-probs from the CPU's, nats: mean, most"},
)
_WORDS: Any = SimpleNamespace(eos_token_id=None)
_PLACE = re.compile(r"(<!-- gpu -->\n).*?(<!-- end of gpu -->)", re.DOTALL)

Pair = tuple[Qwen2ForCausalLM, Qwen2ForCausalLM]
Held = tuple[np.ndarray, np.ndarray]  # greedy tokens [prompts, NEW], log-probs [tokens]


def prompts_of(count: int) -> list[list[int]]:
    draw = random.Random(count)
    return [[draw.randrange(32_000) for _ in range(PROMPT)] for _ in range(count)]


def decoded(pair: Pair, of: str) -> Iterator[dict[str, Any]]:
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
    draw, found = random.Random(0), []
    rollouts = [
        Rollout(tuple(prompt), tuple(draw.randrange(32_000) for _ in range(LENGTH))) for prompt in prompts_of(RESPONSES)
    ]
    token_logprobs(late, rollouts[:2])
    seconds = timed(lambda: found.append(token_logprobs(late, rollouts)))
    return found[0], RESPONSES * (PROMPT + LENGTH) / seconds


def alike(tokens: np.ndarray, others: np.ndarray) -> float:
    """The share of tokens before the first that differs, in each completion."""
    return float(np.logical_and.accumulate(tokens == others, axis=1).mean())


def measured(pair: Pair, of: str, cpu: Held | None) -> tuple[list[dict[str, Any]], Held]:
    rows = list(decoded(pair, of))
    logp, rate = scored(pair[1])
    held = greedy(pair), logp
    told: dict[str, Any] = {"what": f"{of}: log-probs", "rate": rate}
    if cpu is not None:
        apart = np.abs(logp - cpu[1])
        told["apart"] = f"{apart.mean():.1g}, {apart.max():.1g}"
        rows.append({"what": f"{of}: greedy, {GREEDY} prompts, two models", "alike": alike(held[0], cpu[0])})
    return [*rows, told], held


def clients(pair: Pair, of: str) -> Iterator[dict[str, Any]]:
    """The embedded server's own figures, of two models."""
    for count in server.CLIENTS:
        found = server.measured(server.made(pair), count, requests=2, tokens=NEW)
        what = f"{of}: embedded server, two models, {found['clients']} clients"
        yield {"what": what, **{key: found[key] for key in ("rate", "kept", "most")}}


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
    first = base(SHAPE)
    pair = first, neighbour(first, DIVERGENCES[0])
    rows, cpu = measured(pair, "0.14 billion, CPU, float32", None)
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        on_gpu = tuple(model.to("cuda", dtype) for model in pair)
        rows += measured(on_gpu, f"0.14 billion, GPU, {name}", cpu)[0]
    print(Table("python benchmarks/gpu.py", _COLUMNS, rows).text(), flush=True)
    first = base(LARGE, "cuda")
    pair = first, neighbour(first, DIVERGENCES[0])
    pair = tuple(model.to(torch.bfloat16) for model in pair)
    of = "1.5 billion, GPU, bfloat16"
    rows += [*measured(pair, of, None)[0], *clients(pair, of)]
    source = f"{torch.cuda.get_device_name()} and {torch.get_num_threads()} CPU threads, torch {torch.__version__}"
    table = Table("python benchmarks/gpu.py", _COLUMNS, rows, source=source)
    print(table.text(), flush=True)
    if keep:
        show(table)


if __name__ == "__main__":
    main()
