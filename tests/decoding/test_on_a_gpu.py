"""What runs on a GPU says what the CPU says: decoding, log-probs and the server, from the command line.

Skipped where there is none. In float32 the likeliest tokens are the same, and log-probs to rounding; bfloat16 keeps
eight bits of logits of about ten.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny_models import pair, save

from driftline.decoding.sampler import Sampler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

PROMPTS = [f"w{3 + i} w{40 + 7 * i} w{900 + i}" for i in range(12)]
NEW = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three checkpoints, and what is asked of it."""
    folder = tmp_path_factory.mktemp("gpu")
    early, late = pair()
    for step, share in ((0, 0.0), (10, 0.5), (20, 1.0)):
        between = pair()[0]
        with torch.no_grad():
            for weights, a, b in zip(between.parameters(), early.parameters(), late.parameters(), strict=True):
                weights.copy_(a + share * (b - a))
        save(folder / "run" / f"checkpoint-{step}", between)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in PROMPTS))
    rows = [{"prompt": one, "response": " ".join(f"w{50 + k}" for k in range(30))} for one in PROMPTS]
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def driftline(*words: str | Path, gpu: bool) -> None:
    seen = {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "driftline", *map(str, words)]
    done = subprocess.run(command, env=os.environ | seen, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def ends(run: Path) -> list[str | Path]:
    return ["--early", run / "run" / "checkpoint-0", "--late", run / "run" / "checkpoint-20", "--alpha", "1.5"]


def generated(run: Path, name: str, *more: str, gpu: bool) -> list[str]:
    asked: list[str | Path] = ["--prompts", run / "prompts.jsonl", "--out", run / name, "--max-new-tokens", str(NEW)]
    driftline("generate", *ends(run), *asked, "--temperature", "0", *more, gpu=gpu)
    rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [row["response"] for row in rows]


def logprobs(run: Path, name: str, *more: str, gpu: bool) -> np.ndarray:
    """[tokens, checkpoints]"""
    driftline("logprobs", run / "run", "--rollouts", run / "rollouts.jsonl", "--out", run / name, *more, gpu=gpu)
    return np.array(pq.read_table(run / name / "tokens.parquet")["logprob"].to_pylist())


def test_samplers_of_both_devices_take_the_same_tokens() -> None:
    early, late = pair()
    ids = [[3 + i, 40 + 7 * i, 900 + i] for i in range(12)]
    found = []
    for device in ("cpu", "cuda"):
        sampler = Sampler(late.to(device), Words(), early=early.to(device), alpha=1.5)
        found.append([one.ids for one in sampler.sample(ids, max_new_tokens=NEW, seeds=range(12), temperature=0.0)])
    assert found[0] == found[1]


class Words:
    eos_token_id = 1


def test_generate_takes_the_same_tokens(run: Path) -> None:
    assert generated(run, "gpu.jsonl", gpu=True) == generated(run, "cpu.jsonl", gpu=False)


def test_generate_in_bfloat16(run: Path) -> None:
    found = generated(run, "half.jsonl", "--dtype", "bfloat16", gpu=True)
    assert len(found) == len(PROMPTS)
    assert all(found)


def test_log_probs_are_the_same_to_rounding(run: Path) -> None:
    expected = logprobs(run, "on-cpu", gpu=False)
    np.testing.assert_allclose(logprobs(run, "on-gpu", gpu=True), expected, atol=1e-4, rtol=0)
    half = logprobs(run, "on-gpu-half", "--dtype", "bfloat16", gpu=True)
    assert np.abs(half - expected).mean() < 0.1


def test_the_server_says_what_generate_writes(run: Path) -> None:
    expected = generated(run, "beside.jsonl", gpu=True)
    command = [sys.executable, "-m", "driftline", "serve", *map(str, ends(run)), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            address = next(word for line in server.stdout for word in line.split() if word.startswith("http://"))
            for prompt, text in zip(PROMPTS, expected, strict=True):
                body = {"model": "driftline", "prompt": prompt, "max_tokens": NEW, "temperature": 0}
                request = urllib.request.Request(
                    f"{address.rstrip('/').removesuffix('/v1')}/v1/completions",
                    json.dumps(body).encode(),
                    {"content-type": "application/json"},
                )
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert json.load(answer)["choices"][0]["text"] == text
        finally:
            server.terminate()
    assert server.returncode == 143
