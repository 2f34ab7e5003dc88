"""The lab's tasks: problems from a seed, split into trained and held out, each with a right solution and a reward."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from driftline.errors import InputError
from driftline.evaluation.tasks import sums

Row = dict[str, Any]
_NUMBER = re.compile(r"\d+")
_POOL = 8192  # problems drawn from reasoning-gym, before repeated ones are left out
_FEWEST = 32  # held-out problems, below which a score says nothing


@dataclass(frozen=True)
class LabTask:
    """A verifiable task.

    Attributes:
        problems: (count, seed, held_out) -> that many distinct rows with at least `prompt`, `question` and `answer`;
            fewer where the task has no more. No held-out problem is ever a training one, whatever the seed.
        batch: (count, random) -> that many training rows, drawn afresh.
        solution: (row, random, slip) -> a completion that is right, or wrong with about the probability `slip`.
        reward: (completion, row) -> in [0, 1]; 1 is right.
        chat_reward: the same of a chat model's answer to `question`, whose last number or word counts.
    """

    name: str
    problems: Callable[[int, int, bool], list[Row]]
    batch: Callable[[int, random.Random], list[Row]]
    solution: Callable[[Row, random.Random, float], str]
    reward: Callable[[str, Row], float]
    chat_reward: Callable[[str, Row], float]


def open_task(name: str, difficulty: int = 0) -> LabTask:
    """`sums`, or a data set of reasoning-gym at a level of its curriculum.

    Raises:
        InputError: unknown, or not to be had at that difficulty.
    """
    return _sums(difficulty) if name == "sums" else _reasoning_gym(name.removeprefix("reasoning-gym:"), difficulty)


def _sums(difficulty: int) -> LabTask:
    if difficulty:
        raise InputError(f"--difficulty {difficulty}: the task sums has one level, give 0")

    def problems(count: int, seed: int, held_out: bool) -> list[Row]:
        rows = sums.problems(count, seed, held_out=held_out)
        return [row | {"question": f"What is {row['prompt'][:-1]}? Reply with the number only."} for row in rows]

    return LabTask(
        "sums",
        problems,
        lambda count, rng: problems(count, rng.randrange(2**31), False),
        lambda row, rng, slip: sums.solution(row["prompt"], rng, slip),
        lambda completion, row: float(sums.is_right(completion, row["answer"])),
        lambda completion, row: float(_NUMBER.findall(completion)[-1:] == [row["answer"]]),
    )


def _reasoning_gym(name: str, difficulty: int) -> LabTask:
    try:
        import reasoning_gym as gym
        from reasoning_gym.factory import CURRICULA, DATASETS, create_curriculum
    except ImportError as error:
        raise InputError(f"the task {name!r} needs {error.name}: pip install 'driftline[train]'") from error
    if name not in DATASETS:
        raise InputError(f"--task {name!r} is unknown: give sums, or a data set of reasoning-gym")
    options: dict[str, Any] = {}
    if name in CURRICULA:
        curriculum = create_curriculum(name)
        for attribute in curriculum.attributes:
            for _ in range(difficulty):
                curriculum.increment_attr_level(attribute)
        options = vars(curriculum.generate_configuration()) | {}
        options = {key: value for key, value in options.items() if key not in ("seed", "size")}
    elif difficulty:
        raise InputError(f"--difficulty {difficulty}: reasoning-gym has no curriculum of {name}, leave it out")

    made: dict[int, list[Row]] = {}

    def drawn(seed: int) -> list[Row]:
        if seed not in made:
            try:
                dataset = gym.create_dataset(name, size=_POOL, seed=seed, **options)
                entries = {str(entry["question"]): entry for entry in dataset}
            except (AssertionError, ValueError, TypeError, ImportError, OSError) as error:
                raise InputError(
                    f"reasoning-gym cannot make {name} at --difficulty {difficulty} ({error}): choose another"
                ) from error
            made[seed] = [
                {
                    "prompt": question + "\n",
                    "question": question + "\nReply with the answer only.",
                    "answer": str(entry["answer"]),
                    "entry": entry,
                    "score": dataset.score_answer,
                }
                for question, entry in entries.items()
            ]
        return made[seed]

    def problems(count: int, seed: int, held_out: bool) -> list[Row]:
        rows = [row for row in drawn(seed) if sums.is_held_out(row["prompt"]) == held_out]
        if held_out and len(rows) < min(count, _FEWEST):
            raise InputError(
                f"{name} has only {len(rows)} held-out problems at --difficulty {difficulty}: give a higher one"
            )
        return rows[:count]

    def solution(row: Row, rng: random.Random, slip: float) -> str:
        return spoil(row["answer"], rng) if rng.random() < slip else row["answer"]

    def reward(completion: str, row: Row) -> float:
        return float(row["score"](completion.strip(), row["entry"]))

    def chat_reward(completion: str, row: Row) -> float:
        last_word = completion.split()[-1:] or [""]
        return max(reward(completion, row), reward(last_word[0].rstrip("."), row))

    label = name if not difficulty else f"{name}-{difficulty}"
    label = name if not difficulty else f"{name}-{difficulty}"

    def batch(count: int, rng: random.Random) -> list[Row]:
        return rng.choices(problems(_POOL, 0, False), k=count)

    return LabTask(label, problems, batch, solution, reward, chat_reward)


def spoil(answer: str, rng: random.Random) -> str:
    """The answer with one character changed, to another of its kind."""
    places = [place for place, character in enumerate(answer) if character.isalnum()]
    if not places:
        return answer + "0"
    place = rng.choice(places)
    old = answer[place]
    kind = "0123456789" if old.isdigit() else "abcdefghijklmnopqrstuvwxyz"
    return answer[:place] + rng.choice(kind.replace(old.lower(), "")) + answer[place + 1 :]
