"""The lm-evaluation-harness model: log-probs against plain forward passes, and a small local task run by the harness."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from driftline.decoding.likelihood import log_probs
from driftline.decoding.sampler import Sampler
from driftline.errors import InputError
from driftline.evaluation.tasks.sums import problems
from driftline.lab.model import load, shipped_base

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    from driftline.evaluation.lm_eval_model import ExtrapolatedLM

ALPHA = 1.7
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{prompt}}}}"
target_delimiter: ""
{rest}
"""
GENERATE = """doc_to_target: "{{written}}"
generation_kwargs: {until: [";", "<end>"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
CHOOSE = """doc_to_choice: "{{[right, wrong]}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    early, tokenizer = load(shipped_base())
    late, _ = load(shipped_base())
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in late.parameters():
            weights += 0.004 * torch.randn_like(weights)
    return Sampler(late.eval(), tokenizer, early=early.eval(), alpha=ALPHA)


def plain(sampler: Sampler, context: list[int], continuation: list[int]) -> tuple[list[float], bool]:
    """One pair, unpadded."""
    with torch.no_grad():
        ids = torch.tensor([context + continuation])
        early, late = sampler.early(ids).logits.double(), sampler.late(ids).logits.double()
    logits = (early + ALPHA * (late - early))[0, len(context) - 1 : -1]
    values = logits.log_softmax(-1)[range(len(continuation)), continuation]
    return values.tolist(), logits.argmax(-1).tolist() == continuation


def test_log_probs_are_those_of_single_passes(sampler):
    encode = sampler.tokenizer
    pairs = [
        (encode(row["prompt"]).input_ids, encode(row["answer"][: 1 + k % 3] + "#" * (k % 2)).input_ids)
        for k, row in enumerate(problems(20, 0))
    ]
    pairs += [
        (prompt, sampler.sample([prompt], temperature=0, max_new_tokens=6, seeds=[0])[0].ids) for prompt, _ in pairs[:4]
    ]
    found = log_probs(sampler, pairs, batch_size=6)
    for (values, greedy), pair in zip(found, pairs, strict=True):
        wanted, wanted_greedy = plain(sampler, *pair)
        assert values == pytest.approx(wanted, abs=1e-4)
        assert greedy == wanted_greedy
    assert [greedy for _, greedy in found[-4:]] == [True] * 4


@pytest.mark.filterwarnings("default")
def test_the_harness_runs_a_local_task(sampler, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = []
    for row in problems(24, 0, held_out=True):
        first, second, _ = (int(term) for term in row["prompt"].rstrip("=").split("+"))
        rows.append(
            {**row, "written": str(first + second), "right": str(first + second), "wrong": str(first + second + 30)}
        )
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, kind, rest in (("sums", "generate_until", GENERATE), ("sums_choice", "multiple_choice", CHOOSE)):
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, data=data, kind=kind, rest=rest))
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = lm_eval.simple_evaluate(
        model=ExtrapolatedLM(sampler, batch_size=8),
        tasks=["sums", "sums_choice"],
        task_manager=tasks,
        bootstrap_iters=0,
    )["results"]

    encode = sampler.tokenizer
    asked = [encode(row["prompt"]).input_ids for row in rows]
    completions = sampler.sample(asked, temperature=0, max_new_tokens=12, seeds=[0] * 24, stop=[";"])
    exact = [sampler.text(c, [";"]) == row["written"] for c, row in zip(completions, rows, strict=True)]
    chosen = [
        sum(plain(sampler, ids, encode(row["right"]).input_ids)[0])
        > sum(plain(sampler, ids, encode(row["wrong"]).input_ids)[0])
        for ids, row in zip(asked, rows, strict=True)
    ]
    assert results["sums"]["exact_match,none"] == pytest.approx(sum(exact) / 24)
    assert results["sums_choice"]["acc,none"] == pytest.approx(sum(chosen) / 24)
    assert sum(exact) > 0


def test_rolling_log_probs_cover_a_text_longer_than_the_context(sampler):
    class Request:
        args = ("12+34=" * 30,)

    model = ExtrapolatedLM(sampler)
    ids = sampler.tokenizer(Request.args[0]).input_ids
    assert len(ids) > 2 * sampler.context
    (found,) = model.loglikelihood_rolling([Request()])
    wanted, place = 0.0, 0
    while place < len(ids):  # windows of the context's length, each after the one token before it
        end = min(place + sampler.context, len(ids))
        start = max(end - sampler.context - 1, -1) if place else -1
        context = [model.prefix_token_id] if start < 0 else ids[start:place]
        wanted += sum(plain(sampler, context, ids[place:end])[0])
        place = end
    assert found == pytest.approx(wanted, rel=1e-4)


def test_it_is_registered_and_says_what_it_needs():
    from lm_eval.api.registry import get_model

    assert get_model("driftline") is ExtrapolatedLM
    with pytest.raises(InputError, match="late="):
        ExtrapolatedLM.create_from_arg_string("alpha=1.5")
