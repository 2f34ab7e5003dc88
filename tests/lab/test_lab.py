"""The lab's task, tokenizer and base model; and a real run, end to end (slow)."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from driftline.checkpoints.safetensors_file import read_header
from driftline.errors import InputError
from driftline.evaluation.tasks.sums import is_held_out, is_right, problems, solution
from driftline.files.record import UNSET
from driftline.lab.model import shipped_base
from driftline.lab.settings import LabRun, check
from driftline.lab.tasks import lab_task
from driftline.lab.warmup import SHIPPED


def test_problems_are_seeded_distinct_and_split() -> None:
    training, held_out = problems(300, 1), problems(100, 1, held_out=True)
    assert training == problems(300, 1)
    assert training != problems(300, 2)
    assert len({row["prompt"] for row in training}) == 300
    assert not any(is_held_out(row["prompt"]) for row in training)
    assert all(is_held_out(row["prompt"]) for row in held_out)
    assert all(int(row["answer"]) == sum(map(int, row["prompt"][:-1].split("+"))) for row in training)


def test_solutions_are_right_unless_they_slip() -> None:
    rng = random.Random(0)
    assert solution("21+28+15=", rng) == "49;64#64"
    rows = problems(500, 3)
    right = [is_right(solution(row["prompt"], rng, slip=0.4), row["answer"]) for row in rows]
    assert np.mean(right) == pytest.approx(0.6**2, abs=0.08)  # both sums without a slip; slips seldom cancel


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("49;64#64", True),
        ("50;65#64", True),
        ("#64", True),
        ("49;64#65", False),
        ("49;64", False),
        ("49;64#64#64", False),
        ("64", False),
        ("", False),
    ],
)
def test_only_the_answer_after_the_mark_counts(completion: str, right: bool) -> None:
    assert is_right(completion, "64") is right


@pytest.mark.parametrize("task", SHIPPED)
def test_the_shipped_bases_are_small_and_tied(task: str) -> None:
    base = shipped_base(task)
    assert sum(file.stat().st_size for file in base.iterdir()) < 6_000_000
    tensors = read_header(base / "model.safetensors")
    assert sum(tensor.size for tensor in tensors.values()) == 2_366_400
    assert "lm_head.weight" not in tensors
    assert json.loads((base / "config.json").read_text())["tie_word_embeddings"] is True


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (LabRun(steps=0), "--steps is 0"),
        (LabRun(rollouts=1), "--rollouts is 1: it must be at least 2"),
        (LabRun(m=10), "needs both --m"),
        (LabRun(micro_batch=100), "does not divide the 256 completions"),
        (LabRun(algorithm="ppo"), "choose grpo, dr-grpo"),  # type: ignore[arg-type]
        (LabRun(model="smollm2", task="strategy"), "give --task sums for smollm2"),
        (LabRun(lora_rank=0), "--lora-rank is 0"),
        (LabRun(precision="float16"), "choose float32, bfloat16"),  # type: ignore[arg-type]
        (LabRun(learning_rate=float("nan")), "--learning-rate is nan"),
        (LabRun(model="Qwen/Qwen2.5-0.5B"), "no model of the lab and no local folder"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: LabRun, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        check(settings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tokenizer_and_base_model_do_the_task(tmp_path: Path) -> None:
    from driftline.lab.model import load
    from driftline.lab.scoring import accuracy

    model, tokenizer = load(shipped_base())
    ids = tokenizer("21+28+15=").input_ids
    assert len(ids) == 9
    assert tokenizer.decode(ids) == "21+28+15="
    task = lab_task("sums").held_out(128, 0)
    scores = accuracy(model, tokenizer, task, seed=0)
    assert scores.greedy > 0.9  # it knows the arithmetic
    assert 0.2 < scores.sampled < 0.6  # and errs when sampled
    assert scores.pass_at_k["1"] == scores.sampled < scores.pass_at_k["2"] < scores.pass_at_k["4"]
    assert scores == accuracy(model, tokenizer, task, seed=0)


@pytest.mark.filterwarnings("ignore")
def test_the_base_of_strategy_answers_directly_and_wrong() -> None:
    """Seven in ten of its answers are direct, and seldom right; what it works out is mostly right."""
    from driftline.lab.model import load
    from driftline.lab.scoring import accuracy, completions

    model, tokenizer = load(shipped_base("strategy"))
    lab = lab_task("strategy")
    task = lab.held_out(96, 0)
    assert lab.habit is not None
    scores = accuracy(model, tokenizer, task, seed=0, samples=2, worked=lab.habit.worked)
    assert scores.greedy < 0.2
    assert 0.2 < scores.sampled < 0.5
    assert scores.worked is not UNSET
    assert 0.2 < scores.worked < 0.45
    prompts = [task.prompt(index, tokenizer).ids for index in range(96)]
    texts = completions(model, tokenizer, prompts, temperature=1.0, max_new_tokens=16, batch_size=96)
    right = {True: [0, 0], False: [0, 0]}
    for index, text in enumerate(texts):
        told = right[lab.habit.worked(text)]
        told[0] += task.score(text, index) == 1
        told[1] += 1
    assert right[True][0] > 0.7 * right[True][1] > 0
    assert right[False][0] < 0.3 * right[False][1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_warm_up_learns_from_its_seed() -> None:
    import torch

    from driftline.lab.warmup import fresh, warm_up

    task, models = lab_task("sums"), []
    for _ in range(2):
        model, tokenizer = fresh("qwen2", task, seed=3)
        before = [parameter.clone() for parameter in model.parameters()]
        said: list[str] = []
        warm_up(model, tokenizer, task, seed=3, steps=4, batch_size=16, say=said.append)
        assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert said[0].startswith("warm-up 4/4: loss ")
        models.append(model)
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("steps", [1, 10])
def test_a_warm_up_may_be_short(steps: int) -> None:
    from driftline.lab.warmup import fresh, warm_up

    said: list[str] = []
    task = lab_task("sums")
    model, tokenizer = fresh("qwen2-small", task, seed=3)
    warm_up(model, tokenizer, task, seed=3, steps=steps, batch_size=4, say=said.append)
    assert said[-1].startswith(f"warm-up {steps}/{steps}: loss ")


def test_a_habit_is_taken_by_one_that_knows_the_task() -> None:
    from driftline.lab.warmup import fresh, take_habit

    said: list[str] = []
    task = lab_task("strategy")
    model, tokenizer = fresh("qwen2-small", lab_task(task.knowledge), seed=3)
    take_habit(model, tokenizer, task, seed=3, steps=12, batch_size=16, say=said.append)
    assert said[-1].startswith("warm-up 12/12: loss ")
