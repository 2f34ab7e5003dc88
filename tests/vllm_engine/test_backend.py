"""Commands by `--backend vllm` against the same by transformers in this process.

One engine serves all tests here that need one of its kind: a start costs half a minute and more on two cores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pairs import prompts, saved_pair

from commands import lab_run, prompts_file, rows, run
from driftline.decoding.backends import vllm_engine

NEW = 24


@pytest.fixture(scope="module", autouse=True)
def engines() -> Iterator[None]:
    yield
    vllm_engine.close_engines()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model with many end tokens, of which its greedy answers hold some."""
    saved = saved_pair(tmp_path_factory.mktemp("model"), "qwen3")[1]
    settings = json.loads((saved / "generation_config.json").read_text())
    changed = {"eos_token_id": [1, *range(2, 40)], "repetition_penalty": 1.5, "top_k": 3}  # the last two are not ours
    (saved / "generation_config.json").write_text(json.dumps(settings | changed))
    return saved


@pytest.fixture(scope="module")
def sums(tmp_path_factory) -> Path:
    return lab_run(tmp_path_factory.mktemp("run"))


def generated(backend: str, out: Path, file: Path, model: Path, *more: object) -> list[dict]:
    run(
        "generate",
        "--backend",
        backend,
        "--late",
        model,
        "--prompts",
        file,
        "--out",
        out,
        "--max-new-tokens",
        NEW,
        *more,
    )
    return rows(out)


def test_greedy_rows_are_those_of_the_embedded_backend(tmp_path, model) -> None:
    file = prompts_file(tmp_path, prompts(40))
    ours, theirs = (
        generated(name, tmp_path / f"{name}.jsonl", file, model, "--temperature", 0)
        for name in ("transformers", "vllm")
    )
    assert ours == theirs
    assert {row["finish_reason"] for row in ours} == {"stop", "length"}


def test_a_sample_depends_on_its_seed_alone(tmp_path, model) -> None:
    file = prompts_file(tmp_path, prompts(6))
    asked = ("--temperature", 1, "--samples", 3)
    whole = generated("vllm", tmp_path / "a.jsonl", file, model, *asked)
    cut = tmp_path / "b.jsonl"
    generated("vllm", cut, file, model, *asked)
    cut.write_text("".join(json.dumps(row) + "\n" for row in whole[:7]) + '{"index": 2, "sam')
    assert generated("vllm", cut, file, model, *asked) == whole
    assert whole[0]["response_ids"] != whole[1]["response_ids"]
    other = generated("vllm", tmp_path / "c.jsonl", file, model, *asked, "--seed", 1)
    assert [row["response_ids"] for row in other] != [row["response_ids"] for row in whole]


@pytest.mark.parametrize(("kind", "tied"), [("qwen3", False), ("llama", True)])
def test_weights_swapped_in_place_are_those_of_a_new_engine(tmp_path, kind, tied) -> None:
    """Prompts are the same, so that what the former model's prefixes left in the cache would show."""
    changes = {"early_tie_word_embeddings": True, "late_tie_word_embeddings": True} if tied else {}
    first, second = saved_pair(tmp_path, kind, apart=0.1, **changes)
    file = prompts_file(tmp_path, prompts(12, longest=60))
    asked = ("--temperature", 1)
    before = generated("vllm", tmp_path / "0.jsonl", file, first, *asked)
    engine = vllm_engine._running
    swapped = generated("vllm", tmp_path / "1.jsonl", file, second, *asked)
    assert vllm_engine._running is engine, "not swapped, but started anew"
    back = generated("vllm", tmp_path / "2.jsonl", file, first, *asked)
    assert vllm_engine._running is engine
    vllm_engine.close_engines()
    fresh = generated("vllm", tmp_path / "3.jsonl", file, second, *asked)
    assert vllm_engine._running is not engine
    assert swapped == fresh != before == back


def test_experts_are_not_swapped_as_vllm_would_keep_the_former_ones(tmp_path) -> None:
    first, second = saved_pair(tmp_path, "qwen3_moe", apart=0.1)
    file = prompts_file(tmp_path, prompts(12))
    generated("vllm", tmp_path / "0.jsonl", file, first, "--temperature", 0)
    engine = vllm_engine._running
    found = generated("vllm", tmp_path / "1.jsonl", file, second, "--temperature", 0)
    assert vllm_engine._running is not engine
    assert found == generated("transformers", tmp_path / "2.jsonl", file, second, "--temperature", 0)


def scores(folder: Path) -> dict:
    return json.loads((folder / "sweep.json").read_text())


@pytest.mark.parametrize("space", [("--output-space",), ()], ids=["logits", "weights"])
def test_sweep(tmp_path, sums, space) -> None:
    """Greedy answers, so that both backends must find the same."""
    found = {}
    for backend in ("transformers", "vllm"):
        words = ("sweep", sums, "--to", "40,60,80", "--task", "sums", "--problems", 24, "--samples", 1, "--observed", 2)
        run(*words, "--temperature", 0, "--backend", backend, "--out", tmp_path / backend, *space)
        found[backend] = scores(tmp_path / backend)
    for part in ("candidates", "observed", "best", "rounds"):
        assert found["vllm"][part] == found["transformers"][part]
    assert not list(tmp_path.glob("**/.forecast-*"))


def test_log_probs_are_those_of_the_embedded_backend(tmp_path, sums) -> None:
    asked = [f"{a}+{b}=" for a in (23, 47) for b in (45, 18, 90)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in asked))
    base, file = sums / "checkpoint-0", tmp_path / "rollouts.jsonl"
    run("rollouts", base, "--backend", "vllm", "--prompts", tmp_path / "p.jsonl", "--out", file, "--samples", 3)
    whole = json.loads((base / "config.json").read_text())["max_position_embeddings"]
    long = {"prompt_ids": [3, 4, 5], "response_ids": [3 + i % 9 for i in range(whole - 3)]}  # all of the context
    short = {"prompt_ids": [5], "response_ids": [6]}
    with file.open("a") as more:
        more.writelines(json.dumps(row) + "\n" for row in (long, short))
    for backend in ("transformers", "vllm"):
        words = ("logprobs", sums, "--rollouts", file, "--dtype", "float32", "--backend", backend)
        run(*words, "--out", tmp_path / backend)
    ours, theirs = (pq.read_table(tmp_path / name / "tokens.parquet") for name in ("transformers", "vllm"))
    values = [np.array(table["logprob"].to_pylist()) for table in (ours, theirs)]
    assert values[0].shape == values[1].shape
    assert np.abs(values[0] - values[1]).max() < 1e-4
    assert np.abs(values[0][:, -1] - values[0][:, 0]).max() > 1e-3, "the checkpoints are the same: nothing was tested"


def test_evaluate_a_pair_beside_its_controls(tmp_path, sums) -> None:
    early, late = sums / "checkpoint-0", sums / "checkpoint-30"
    words = ("evaluate", "--early", early, "--late", late, "--alpha", 2, "--task", "sums", "--problems", 24)
    run(*words, "--temperature", 1, "--samples", 4, "--backend", "vllm", "--out", tmp_path / "out")
    run(*words, "--temperature", 1, "--samples", 4, "--out", tmp_path / "ours")
    record, ours = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("out", "ours"))
    arms = {row["arm"] for row in rows(tmp_path / "out" / "samples.jsonl")}
    assert arms == {"forecast", "late", "late-matched", "forecast-greedy", "late-greedy"}
    assert record["control"]["greedy"] == ours["control"]["greedy"]
    assert abs(record["avg@k"] - ours["avg@k"]) < 0.2  # 96 samples each, by other dice
    matched = [one["control"]["late_matched"]["temperature"] for one in (record, ours)]
    assert abs(matched[0] - matched[1]) < 0.25


def test_a_temperature_that_vllm_would_change(tmp_path, model, capsys) -> None:
    file = prompts_file(tmp_path, prompts(2))
    with pytest.raises(SystemExit) as stopped:
        generated("vllm", tmp_path / "out.jsonl", file, model, "--temperature", 0.001)
    assert stopped.value.code == 2
    assert "vLLM samples at 0.01 or above" in capsys.readouterr().err
