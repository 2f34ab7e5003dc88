"""Benchmarks by those who keep them, against `driftline serve`: code by evalplus, anything by lm-evaluation-harness.

The model is made here: bytes, two layers, trained for seconds on the answers to two problems.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from driftline.models import default_device

EVALPLUS = Path(sys.prefix) / "evalplus"  # beside the environment, not in it: where make test-slow puts it
TEMPLATE = "{{ messages[-1]['content'][-60:] }}>"  # the problem is at the end of the last message
HARNESS = "import driftline.evaluation.lm_eval_model; from lm_eval.__main__ import cli_evaluate; cli_evaluate()"
BODIES = {"double": "return 2 * x", "square": "return x * x"}
PROMPT = 'def {name}(x):\n    """The {name} of x."""\n'


def problem(number: int, name: str) -> dict[str, object]:
    """As HumanEval+ has it."""
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": PROMPT.format(name=name),
        "entry_point": name,
        "contract": "",
        "canonical_solution": f"    {BODIES[name]}\n",
        "base_input": [[3], [-1]],
        "plus_input": [[10**9], [0]],
        "atol": 0,
    }


def answer(name: str) -> str:
    return f"```python\ndef {name}(x):\n    {BODIES[name]}\n```"


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, and an end."""
    vocabulary = {token: index for index, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    built = Tokenizer(models.BPE(vocabulary | {"<end>": len(vocabulary)}, []))
    built.pre_tokenizer, built.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<end>", pad_token="<end>")
    made.chat_template = TEMPLATE
    return made


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Half trained, and a little further."""
    default_device()
    torch.manual_seed(0)
    folder, words = tmp_path_factory.mktemp("checkpoints"), tokenizer()
    end = words.eos_token_id
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    rows = []
    for name in BODIES:
        said = f"{' ' * 60}\n```python\n{PROMPT.format(name=name).strip()}\n```"  # as evalplus ends what it asks
        chat = [{"role": "user", "content": said}]
        asked = words.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        rows.append([words(part, add_special_tokens=False).input_ids for part in (asked, answer(name))])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(1, 161):
        loss = torch.zeros(())
        for prompt, reply in rows:
            ids = torch.tensor([[*prompt, *reply, end]])
            labels = ids.clone()
            labels[:, : len(prompt)] = -100
            loss = loss + model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (120, 160):
            model.save_pretrained(folder / f"checkpoint-{step}")
            words.save_pretrained(folder / f"checkpoint-{step}")
    return folder / "checkpoint-120", folder / "checkpoint-160"


@pytest.fixture(scope="module")
def endpoint(checkpoints: tuple[Path, Path]) -> Iterator[str]:
    early, late = checkpoints
    asked = ["serve", "--early", str(early), "--late", str(late), "--alpha", "1.5", "--port", "0"]
    with subprocess.Popen([sys.executable, "-m", "driftline", *asked], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()[2]
        server.terminate()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_evalplus_scores_code_from_the_endpoint(endpoint: str, tmp_path: Path) -> None:
    if not EVALPLUS.exists():
        pytest.skip("evalplus is not installed beside this environment: make test-slow puts it there")
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps(problem(n, name)) + "\n" for n, name in enumerate(BODIES)))
    where = {"PYTHONPATH": str(EVALPLUS), "HUMANEVAL_OVERRIDE_PATH": str(problems), "HOME": str(tmp_path)}
    asked = [
        "--model",
        "driftline",
        "--dataset",
        "humaneval",
        "--backend",
        "openai",
        "--base_url",
        endpoint,
        "--greedy",
    ]
    found = subprocess.run(
        [sys.executable, "-m", "evalplus.evaluate", *asked],
        cwd=tmp_path,
        env=os.environ | where | {"OPENAI_API_KEY": "none"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    (results,) = tmp_path.rglob("*_eval_results.json")
    judged = json.loads(results.read_text())["eval"]
    for number, name in enumerate(BODIES):
        (one,) = judged[f"HumanEval/{number}"]
        assert (one["base_status"], one["plus_status"]) == ("pass", "pass"), one["solution"]
        assert BODIES[name] in one["solution"]
    assert found.stdout.count("pass@1:\t1.000") == 2


TASK = """
task: bodies
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{asked}}}}"
target_delimiter: ""
doc_to_choice: "{{{{[wrong, right]}}}}"
doc_to_target: 1
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_harness_scores_choices_by_the_endpoint_as_in_this_process(
    endpoint: str, checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    """`local-completions` asks for log-probs of what is given, which must be those of the extrapolated logits."""
    early, late = checkpoints
    data = tmp_path / "choices.jsonl"
    wrong = {name: next(answer(other) for other in BODIES if other != name) for name in BODIES}
    rows = [{"asked": f"{PROMPT.format(name=n).strip()}\n```>", "right": answer(n), "wrong": wrong[n]} for n in BODIES]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bodies.yaml").write_text(TASK.format(data=data))

    def scored(model: str, arguments: str) -> list[list[float]]:
        out = tmp_path / model
        asked = ["--model", model, "--model_args", arguments, "--tasks", "bodies", "--include_path", str(tmp_path)]
        found = subprocess.run(
            [sys.executable, "-c", HARNESS, *asked, "--log_samples", "--output_path", str(out)],
            cwd=tmp_path,
            env=os.environ | {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert found.returncode == 0, found.stderr
        (samples,) = out.rglob("samples_*.jsonl")
        lines = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
        assert [row["acc"] for row in lines] == [1.0, 1.0]
        return [[float(one[0]) for one in row["filtered_resps"]] for row in lines]

    through = f"model=driftline,base_url={endpoint}/completions,tokenizer={late},num_concurrent=2,max_length=512"
    by_endpoint = scored("local-completions", through)
    here = scored("driftline", f"late={late},early={early},alpha=1.5")
    for found, wanted in zip(by_endpoint, here, strict=True):
        assert found == pytest.approx(wanted, abs=1e-3)
