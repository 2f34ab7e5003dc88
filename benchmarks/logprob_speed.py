"""Teacher-forced log-probs against the plain loop: one rollout at a time, the whole log-softmax at once.

    python benchmarks/logprob_speed.py              0.1 billion parameters, vocabulary of 32,000, 64 rollouts
    python benchmarks/logprob_speed.py --small      0.04 billion, 16 rollouts

Each way runs in a process of its own; seconds are those of scoring, without start-up and loading.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from generate import VOCABULARY, generate
from tables import Table

GROUP = 8  # responses to a prompt, as GRPO samples them
_WAYS = {"plain": "the plain loop: batch 1, whole log-softmax", "driftline": "`driftline logprobs`"}
_COLUMNS = (
    {"key": "what", "title": ""},
    {"key": "rate", "title": "tokens a second", "digits": 3},
    {"key": "peak_gib", "title": "peak GiB above the model", "decimals": 2},
)


def rollouts(count: int) -> list[tuple[list[int], list[int]]]:
    """Eight responses to a prompt: prompts of 60 to 240 tokens, responses of log-normal length around 150."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(5, 0.6, count)), 16, 600).astype(int)
    prompts = [rng.integers(0, VOCABULARY, rng.integers(60, 240)).tolist() for _ in range(count // GROUP)]
    return [(prompts[i // GROUP], rng.integers(0, VOCABULARY, n).tolist()) for i, n in enumerate(lengths)]


def child(way: str, model_folder: str, count: int) -> None:
    """Score every rollout one way; print seconds, a checksum and peak memory."""
    import resource

    import torch

    from driftline import models
    from driftline.outputs.rollouts import Rollout
    from driftline.outputs.teacher_forcing import token_logprobs

    model = models.load_model(model_folder, dtype="float32")
    rows = rollouts(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if way == "driftline":
        scores = token_logprobs(model, [Rollout(tuple(p), tuple(r)) for p, r in rows])
    else:
        parts = []
        with torch.inference_mode():
            for prompt, response in rows:
                ids = torch.tensor([prompt + response])
                every = model(ids, use_cache=False).logits.float().log_softmax(-1)
                parts.append(every[0, len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])[:, 0])
        scores = torch.cat(parts).numpy()
    seconds = time.perf_counter() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    print(
        json.dumps(
            {"seconds": seconds, "sum": float(scores.sum(dtype=np.float64)), "tokens": len(scores), "peak": peak}
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--data", type=Path, default=Path("bench-data"))
    parser.add_argument("--keep", action="store_true", help="write the record that RESULTS.md is rendered from")
    parser.add_argument("--child", nargs=3)
    arguments = parser.parse_args()
    if arguments.child:
        way, folder, count = arguments.child
        return child(way, folder, int(count))
    size, count = (0.04e9, 16) if arguments.small else (0.1e9, 64)
    run = arguments.data / f"model-{size:.0e}"
    parameters = generate(run, size, 1)
    found = {}
    for way in ("plain", "driftline"):
        command = [sys.executable, __file__, "--child", way, str(run / "checkpoint-0"), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        found[way] = json.loads(done.stdout)
    difference = abs(found["plain"]["sum"] - found["driftline"]["sum"]) / found["plain"]["tokens"]
    print(
        f"{parameters / 1e9:.3f} billion parameters, {count} rollouts, {found['plain']['tokens']} response tokens, {os.cpu_count()} cores"
    )
    print(f"mean difference of a log-prob: {difference:.1e} nats\n")
    rows = [
        {"what": _WAYS[way], "rate": row["tokens"] / row["seconds"], "peak_gib": row["peak"]}
        for way, row in found.items()
    ]
    Table("python benchmarks/logprob_speed.py", _COLUMNS, rows).show("logprobs", keep=arguments.keep)
    print(f"\ndriftline / plain: {found['plain']['seconds'] / found['driftline']['seconds']:.2f} times the speed")


if __name__ == "__main__":
    main()
