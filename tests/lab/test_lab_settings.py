"""Settings of the lab: a TOML file of them, and the tasks they name."""

import random
from pathlib import Path

import pytest

from driftline.errors import InputError
from driftline.lab.run import toml
from driftline.lab.settings import LabRun, check, read_config
from driftline.lab.tasks import open_task, spoil


def test_settings_written_as_toml_are_read_back(tmp_path: Path) -> None:
    settings = LabRun(steps=7, algorithm="reinforce++", learning_rate=3e-5, m=5, n=10, task="chain_sum", difficulty=1)
    (tmp_path / "lab.toml").write_text(toml(settings))
    assert LabRun(**read_config(tmp_path / "lab.toml")) == settings


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("steps = ", "is not TOML"),
        ("stepz = 3", "'stepz' is no setting of the lab: choose steps, save_every"),
        ("steps = 1.5", "steps is 1.5: it must be a whole number"),
        ("steps = true", "steps is True"),
        ("learning_rate = 'high'", "learning_rate is 'high': it must be a number"),
        ("model = 3", "model is 3: it must be a text"),
    ],
)
def test_configs_that_cannot_be_used_say_why(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "lab.toml").write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_config(tmp_path / "lab.toml")


def test_dashes_and_whole_numbers_are_taken(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text("save-every = 3\nlearning-rate = 1\n")
    assert read_config(tmp_path / "lab.toml") == {"save_every": 3, "learning_rate": 1.0}


def test_every_default_passes_its_own_check() -> None:
    check(LabRun())


def test_reasoning_gym_tasks_are_split_solved_and_graded_by_difficulty() -> None:
    easy, hard = open_task("chain_sum"), open_task("reasoning-gym:chain_sum", 2)
    assert (easy.name, hard.name) == ("chain_sum", "chain_sum-2")
    training, held_out = hard.problems(300, 1, False), hard.problems(100, 1, True)
    assert (len(training), len(held_out)) == (300, 100)
    other_seed = {row["prompt"] for row in hard.problems(4000, 2, False)}
    assert not other_seed & {row["prompt"] for row in held_out}
    assert max(len(row["prompt"]) for row in training) > max(len(row["prompt"]) for row in easy.problems(100, 1, False))
    rng = random.Random(0)
    for row in training[:50]:
        assert hard.reward(hard.solution(row, rng, 0.0), row) == 1
        assert hard.reward(hard.solution(row, rng, 1.0), row) < 1
        assert hard.chat_reward(f"The answer is {row['answer']}.", row) == 1
    assert len(hard.batch(8, rng)) == 8


def test_sums_of_a_chat_are_right_by_their_last_number() -> None:
    task = open_task("sums")
    row = task.problems(1, 0, False)[0]
    assert task.chat_reward(f"{row['prompt']} {row['answer']}.", row) == 1
    assert task.chat_reward(f"{row['answer']}, or 7", row) == 0
    assert task.chat_reward("I cannot tell", row) == 0


@pytest.mark.parametrize(
    ("name", "difficulty", "complaint"),
    [
        ("sums", 1, "the task sums has one level"),
        ("no_such_task", 0, "'no_such_task' is unknown"),
    ],
)
def test_tasks_that_cannot_be_had(name: str, difficulty: int, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        open_task(name, difficulty)


def test_a_spoilt_answer_is_another_one() -> None:
    rng = random.Random(3)
    for answer in ("12", "-7", "abc", "$", ""):
        assert spoil(answer, rng) != answer
