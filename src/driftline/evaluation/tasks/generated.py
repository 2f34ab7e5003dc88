"""Tasks that make their problems from a seed: the lab's sums, and every data set of reasoning-gym."""

from __future__ import annotations

from driftline.errors import InputError
from driftline.evaluation.tasks import sums as lab
from driftline.evaluation.tasks.task import Problem, Task, unknown

SIZE = 100  # problems, unless the user says otherwise
_GYM_PROMPT = "DeepSeekZero"  # reasoning-gym's own for models trained with <think> and <answer>


def sums(size: int, seed: int) -> Task:
    """The lab's held-out problems; the answer is what follows `#`, in a response of the lab's form."""
    rows = lab.problems(size, seed, held_out=True)
    problems = tuple(Problem(row["answer"], prompt=row["prompt"]) for row in rows)
    return Task("sums", problems, "whole", _right_sum, "sums", lab.MAX_NEW_TOKENS)


def _right_sum(answer: str, problem: Problem) -> float:
    return float(lab.is_right(answer, problem.answer))


def reasoning_gym(name: str, size: int, seed: int) -> Task:
    """A data set of reasoning-gym, judged by its own `score_answer`; the answer stands in `<answer>` tags.

    Raises:
        InputError: reasoning-gym is not installed, has no such data set, or cannot make it.
    """
    try:
        import reasoning_gym as gym
        from reasoning_gym.factory import DATASETS
        from reasoning_gym.utils import SYSTEM_PROMPTS
    except ImportError as error:
        raise InputError(f"task {name!r} needs {error.name}: pip install 'driftline[eval]'") from error
    if name not in DATASETS:
        raise unknown(name, sorted(DATASETS))
    try:
        dataset = gym.create_dataset(name, size=size, seed=seed)
        entries = [dataset[index] for index in range(size)]
    except (AssertionError, ValueError, TypeError, ImportError, OSError) as error:
        raise InputError(
            f"reasoning-gym cannot make {size} problems of {name} ({error}): choose another --problems or --task"
        ) from error
    system = SYSTEM_PROMPTS[_GYM_PROMPT]
    problems = tuple(
        Problem(
            str(entry["answer"]),
            prompt=f"{system}\n\nUser: {entry['question']}\nAssistant:",
            messages=[{"role": "system", "content": system}, {"role": "user", "content": entry["question"]}],
            entry=entry,
        )
        for entry in entries
    )

    def verify(answer: str, problem: Problem) -> float:
        return float(dataset.score_answer(answer, problem.entry))

    return Task(f"reasoning-gym:{name}", problems, "tags", verify, "reasoning-gym", 1024)
