"""The embedded server with 1, 8 and 32 clients: tokens a second of all together, and what each waits.

    python benchmarks/server.py [--early MODEL --late MODEL] [--keep]

Each client streams completions one after another, without pause, of prompts of its own: as many tokens as asked for,
since nothing ends a completion. The first request of each client is not counted. Without models, the pair of
generate_speed.py whose distance is that of neighbours in a real run is made. The server runs in a thread of this
process, so that the clients' own work, which is little, is in the figures.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from driftline.decoding.sampler import Sampler
from driftline.decoding.server.application import Limits, application
from driftline.decoding.server.listen import Server, listen
from driftline.decoding.sources import load_sampler
from driftline.models import default_device, quiet_libraries
from generate_speed import ALPHA, DIVERGENCES, base, neighbour
from tables import Table

CLIENTS = (1, 8, 32)
PROMPT = 64
_COLUMNS = (
    {"key": "clients", "title": "clients"},
    {"key": "rate", "title": "tokens a second, all", "digits": 3},
    {"key": "over_one", "title": "of one client's", "decimals": 2},
    {"key": "first", "title": "p50 first token s", "decimals": 2},
    {"key": "half", "title": "p50 s", "decimals": 2},
    {"key": "most", "title": "p99 s", "decimals": 2},
    {"key": "most_over_one", "title": "p99 / one client's", "decimals": 2},
    {"key": "kept", "title": "drafts kept", "decimals": 3},
)


def made(pair: tuple[Qwen2ForCausalLM, Qwen2ForCausalLM] | None = None) -> Sampler:
    """Two random models as near as neighbours of a run, or those given, and a tokenizer with a word for each token."""
    early = base() if pair is None else pair[0]
    late = neighbour(early, DIVERGENCES[0]) if pair is None else pair[1]
    size = early.config.vocab_size
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)})))
    return Sampler(late, words, early=early, alpha=ALPHA)


@contextmanager
def served(sampler: Sampler) -> Iterator[str]:
    """The address of completions."""
    limits = Limits(timeout=3600)
    listener = listen("127.0.0.1", 0)
    server = Server(application(sampler, "model", None, limits), limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/completions"
    finally:
        server.should_exit = True
        thread.join()


def ask(address: str, prompt: list[int], tokens: int, seed: int) -> tuple[float, float, float, int]:
    """When a streamed request began, had its first token, and ended (s), and its tokens."""
    body = {"model": "model", "prompt": prompt, "max_tokens": tokens, "seed": seed, "temperature": 0.6, "top_p": 0.95}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    request = urllib.request.Request(address, json.dumps(body).encode(), {"content-type": "application/json"})
    began, first = time.perf_counter(), 0.0
    usage: dict[str, int] = {}
    with urllib.request.urlopen(request, timeout=3600) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                first = first or time.perf_counter()
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise SystemExit(f"the server says: {chunk['error']['message']}")
                usage = chunk["usage"] or usage
    return began, first, time.perf_counter(), usage["completion_tokens"]


def measured(sampler: Sampler, clients: int, requests: int, tokens: int) -> dict[str, Any]:
    """Figures of so many clients, each with `requests` requests after a first one."""
    size = sampler.late.config.get_text_config().vocab_size
    draw = random.Random(clients)
    prompts = [[[draw.randrange(size) for _ in range(PROMPT)] for _ in range(requests + 1)] for _ in range(clients)]
    ready = threading.Barrier(clients)

    def client(k: int) -> list[tuple[float, float, float, int]]:
        ask(address, prompts[k][0], tokens, k)
        ready.wait()
        return [ask(address, prompt, tokens, k) for prompt in prompts[k][1:]]

    with served(sampler) as address, ThreadPoolExecutor(clients) as pool:
        answers = [answer for found in pool.map(client, range(clients)) for answer in found]
    began, firsts, ends, counts = (np.array(column) for column in zip(*answers, strict=True))
    waits = ends - began
    return {
        "clients": str(clients),
        "rate": float(counts.sum() / (ends.max() - began.min())),
        "first": float(np.median(firsts - began)),
        "half": float(np.median(waits)),
        "most": float(np.percentile(waits, 99)),
        "kept": sampler.acceptance.rate if sampler.early is not None else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--early", metavar="MODEL", help="folder of the early model")
    parser.add_argument("--late", metavar="MODEL", help="folder of the late model; alone, it is served by itself")
    parser.add_argument("--alpha", type=float, default=ALPHA)
    parser.add_argument("--requests", type=int, default=2, help="of each client")
    parser.add_argument("--tokens", type=int, default=64, help="of each request")
    parser.add_argument("--keep", action="store_true", help="write the record that RESULTS.md is rendered from")
    asked = parser.parse_args()
    if asked.early and not asked.late:
        parser.error("--early needs --late")
    default_device()
    quiet_libraries()
    if asked.late:
        sampler = load_sampler(asked.late, early=asked.early, alpha=asked.alpha if asked.early else None)
        sampler.end_ids = frozenset()
    else:
        sampler = made()
    rows = [measured(sampler, clients, asked.requests, asked.tokens) for clients in CLIENTS]
    for row in rows:
        row["over_one"] = row["rate"] / rows[0]["rate"]
        row["most_over_one"] = row["most"] / rows[0]["most"]
    Table("python benchmarks/server.py", _COLUMNS, rows).show("server", keep=asked.keep)


if __name__ == "__main__":
    main()
