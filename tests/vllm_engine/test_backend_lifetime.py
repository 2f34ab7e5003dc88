"""The engine of `--backend vllm` ends with driftline, however that ends, and little is lost."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from pairs import prompts, saved_pair
from processes import children_of, gone

from commands import lab_run, prompts_file, rows, run, start
from driftline.decoding.backends import vllm_engine


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_leaves_its_rows_and_no_engine(tmp_path, how) -> None:
    model = saved_pair(tmp_path / "model", "qwen3")[1]
    file, out = prompts_file(tmp_path, prompts(200)), tmp_path / "out.jsonl"
    words = ("generate", "--backend", "vllm", "--late", model, "--prompts", file, "--out", out, "--batch-size", 4)
    asked = (*words, "--max-new-tokens", 40, "--temperature", 0)
    child = start(*asked)
    try:
        deadline = time.monotonic() + 180
        while not (out.exists() and b"\n" in out.read_bytes()):
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        processes = children_of(child.pid)
        assert processes
        os.kill(child.pid, how)
        assert child.wait(60) == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[how]
        assert gone(processes), "the engine outlives the command"
    finally:
        child.kill()
        child.communicate()
    there = out.read_text().count("\n")
    assert 0 < there < 200
    if how == signal.SIGKILL:
        before = rows_of(out, there)
        run(*asked)
        assert len(rows(out)) == 200
        assert rows(out)[:there] == before
        vllm_engine.close_engines()


def rows_of(out: Path, count: int) -> list[dict]:
    return [json.loads(line) for line in out.read_text().split("\n")[:count]]


def test_a_whole_command_is_quiet_and_an_engine_that_cannot_start_says_why(tmp_path) -> None:
    model = lab_run(tmp_path / "run", steps=(0, 1)) / "checkpoint-0"
    (tmp_path / "p.jsonl").write_text('{"prompt": "23+45="}\n')
    words = ("generate", "--backend", "vllm", "--late", model, "--prompts", tmp_path / "p.jsonl", "--max-new-tokens", 8)
    child = start(*words, "--out", tmp_path / "a.jsonl")
    out, err = child.communicate(timeout=180)
    assert child.returncode == 0
    assert err == ""
    assert "vllm" not in out.lower()
    child = start(*words, "--out", tmp_path / "b.jsonl", DRIFTLINE_VLLM_ARGS='{"block_size": 7}')
    out, err = child.communicate(timeout=180)
    assert child.returncode == 2
    assert err.startswith(f"driftline: vLLM cannot run {model} (")
    assert err.count("\n") == 1
