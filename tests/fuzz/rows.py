"""Mutated rollouts, tasks, prompts and requests, for everything that reads one: no crash, no hang, bounded memory.

    python tests/fuzz/rows.py --cases 100000 --seed 0

A case is a JSONL file, or the body of a request to `serve`, damaged at random as in `readers.py`. The only exception
allowed is InputError, with a message of one sentence.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))

from readers import HANGING, LARGEST, LONGEST, Figures, mutate, resident, tell
from tiny_models import pair, tokenizer

from driftline.decoding.sampler import Sampler
from driftline.decoding.server.bodies import ChatBody, CompletionBody, chat_rows, completion_rows, parsed
from driftline.errors import InputError
from driftline.evaluation.tasks.registry import open_task
from driftline.models import Limits
from driftline.outputs.rollouts import read_rollouts

_CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "w5 w6"},
    {"role": "assistant", "content": [{"type": "text", "text": "w7"}]},
]
_ROWS: list[dict[str, Any]] = [
    {"prompt": "w5 w6", "response": "w7 w8", "answer": "7"},
    {"prompt_ids": [5, 6], "response_ids": [7, 8, 9], "prompt": "w5", "answer": 7.5},
    {"messages": _CHAT, "response": "w7", "answer": r"\frac{1}{2}", "index": 3, "sample": 0, "score": 1.0},
]
_SETTINGS: dict[str, Any] = {
    "model": "tiny",
    "n": 2,
    "seed": 7,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "stop": ["w9", "w10"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "alpha": 1.5,
    "vllm_xargs": {"alpha": 1.5},
    "return_token_ids": True,
    "best_of": 1,
}
SEEDS: dict[str, bytes] = {
    "rows": "".join(json.dumps(row) + "\n" for row in _ROWS).encode(),
    "completions": json.dumps(
        _SETTINGS | {"prompt": ["w5 w6", "w7"], "max_tokens": 9, "logprobs": 2, "echo": True}
    ).encode(),
    "token ids": json.dumps(_SETTINGS | {"prompt": [[5, 6], [7]], "max_tokens": 9}).encode(),
    "chat": json.dumps(
        _SETTINGS | {"messages": _CHAT, "max_completion_tokens": 9, "logprobs": True, "top_logprobs": 3}
    ).encode(),
}


def read(kind: str, data: bytes, folder: Path, sampler: Sampler) -> None:
    """As the commands, or the server, do before anything is decoded."""
    if kind == "rows":
        path = folder / "rows.jsonl"
        path.write_bytes(data)
        for opened in (lambda: read_rollouts(path, sampler.tokenizer, limits=Limits(96)), lambda: _task(path, sampler)):
            try:
                opened()
            except InputError as error:
                _must_be_a_sentence(error)
        return
    if kind == "chat":
        chat_rows(parsed(ChatBody, data), sampler, 4096)
    else:
        completion_rows(parsed(CompletionBody, data), sampler, 4096)


def _task(path: Path, sampler: Sampler) -> None:
    task = open_task(str(path))
    for index in range(len(task.problems)):
        task.prompt(index, sampler.tokenizer)
    json.dumps(task.digest)


def _must_be_a_sentence(error: InputError) -> None:
    said = str(error)
    assert 10 <= len(said) < 2000, said[:200]
    assert "Traceback" not in said
    said.encode()


def fuzz(cases: int, *, seed: int, first: int = 0) -> Figures:
    """Run the cases; failures are described in `failures`."""

    def too_long(*_: Any) -> None:
        raise TimeoutError

    early, late = pair()
    sampler = Sampler(late, tokenizer(), early=early, alpha=1.5)
    figures = Figures()
    previous = signal.signal(signal.SIGALRM, too_long)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        for kind, data in SEEDS.items():
            read(kind, data, Path(folder), sampler)
        before = resident()  # of which torch has most
        for number in range(first, first + cases):
            rng = random.Random(f"{seed}/{number}")
            kind = rng.choice(sorted(SEEDS))
            data = mutate(SEEDS[kind], rng, framed=False)
            started = time.process_time()
            signal.setitimer(signal.ITIMER_REAL, HANGING)
            failure, outcome = None, "read"
            try:
                read(kind, data, Path(folder), sampler)
            except InputError as error:
                outcome = "refused"
                _must_be_a_sentence(error)
            except Exception as error:
                outcome, failure = "crash", f"{type(error).__name__}: {str(error)[:200]}"
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            taken = time.process_time() - started
            figures.slowest = max(figures.slowest, taken)
            if taken > LONGEST:
                failure = failure or f"{taken:.1f} s"
            figures.outcomes[outcome] += 1
            if failure:
                figures.failures.append(f"case {number} ({kind}): {failure}: {data[:300]!r}")
            figures.cases += 1
    signal.signal(signal.SIGALRM, previous)
    figures.mebibytes = resident()
    if figures.mebibytes - before > LARGEST:
        figures.failures.append(f"{figures.mebibytes - before:.0f} MiB more at most")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    settings = parser.parse_args()
    started = time.monotonic()
    figures = fuzz(settings.cases, seed=settings.seed, first=settings.first)
    tell(figures, started)


if __name__ == "__main__":
    main()
