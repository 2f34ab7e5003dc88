"""The data sets of reasoning-gym, each judged by its own `score_answer`; the answer stands in `<answer>` tags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from driftline.errors import InputError
from driftline.evaluation.tasks.task import Problem, Task

_PROMPT = "DeepSeekZero"  # reasoning-gym's own for models trained with <think> and <answer>


def data_sets(wanted: str, *, extra: str = "eval") -> list[str]:
    """Names of all.

    Args:
        wanted: the task that they are needed for.
        extra: driftline's extra that brings reasoning-gym to who asks.

    Raises:
        InputError: reasoning-gym is not installed.
    """
    try:
        from reasoning_gym import factory
    except ImportError as error:
        raise InputError(f"task {wanted!r} needs {error.name}: pip install 'driftline[{extra}]'") from error
    return sorted(factory.DATASETS)


def maker(name: str, *, difficulty: int | None = None) -> Callable[[int, int], Task]:
    """(size, seed) -> the task of that many problems of a data set, one of `data_sets`.

    Args:
        difficulty: the level of every attribute of its curriculum; None takes the data set's own settings.

    Raises:
        InputError: it has no curriculum; from the maker, that it cannot make such problems.
    """
    from reasoning_gym import create_dataset
    from reasoning_gym.utils import SYSTEM_PROMPTS

    settings = {} if difficulty is None else _settings(name, difficulty)
    system = SYSTEM_PROMPTS[_PROMPT]

    def make(size: int, seed: int) -> Task:
        try:
            dataset = create_dataset(name, size=size, seed=seed, **settings)
            entries = [dataset[index] for index in range(size)]
        except (AssertionError, ValueError, TypeError, ImportError, OSError) as error:
            if difficulty is None:
                raise InputError(
                    f"reasoning-gym cannot make {size} problems of {name} ({error}): choose another --problems or --task"
                ) from error
            raise InputError(
                f"reasoning-gym cannot make {name} at --difficulty {difficulty} ({error}): choose another"
            ) from error

        def verify(answer: str, problem: Problem) -> float:
            return float(dataset.score_answer(answer, problem.entry))

        problems = tuple(_problem(entry, system) for entry in entries)
        return Task(f"reasoning-gym:{name}", problems, "tags", verify, "reasoning-gym", 1024, apart=True)

    return make


def _problem(entry: dict[str, Any], system: str) -> Problem:
    question = entry["question"]
    return Problem(
        str(entry["answer"]),
        prompt=f"{system}\n\nUser: {question}\nAssistant:",
        messages=[{"role": "system", "content": system}, {"role": "user", "content": question}],
        entry=entry,
    )


def _settings(name: str, difficulty: int) -> dict[str, Any]:
    """What the curriculum of a data set sets at a level."""
    from reasoning_gym.factory import CURRICULA, create_curriculum

    if name not in CURRICULA:
        if difficulty:
            raise InputError(f"--difficulty {difficulty}: reasoning-gym has no curriculum of {name}, leave it out")
        return {}
    curriculum = create_curriculum(name)
    for attribute in curriculum.attributes:
        for _ in range(difficulty):
            curriculum.increment_attr_level(attribute)
    settings = vars(curriculum.generate_configuration())
    return {key: value for key, value in settings.items() if key not in ("seed", "size")}
