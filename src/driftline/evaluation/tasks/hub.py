"""The usual sets of competition mathematics, from the Hub or from a local copy (`math-500:FOLDER`).

Each set names its columns differently; `SETS` says which one is the problem and which the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from driftline.errors import InputError, first_line
from driftline.evaluation.tasks.extraction import boxed
from driftline.evaluation.tasks.task import Problem, Task, judged

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class HubSet:
    """Where a set lies, and what its columns are called."""

    path: str
    split: str
    problem: str
    answer: str


SETS = {
    "aime24": HubSet("math-ai/aime24", "test", "problem", "solution"),  # the solution is \boxed{...} and no more
    "aime25": HubSet("math-ai/aime25", "test", "problem", "answer"),
    "math-500": HubSet("HuggingFaceH4/MATH-500", "test", "problem", "answer"),
}


def task(name: str) -> Task:
    """The set of a name, or `NAME:FOLDER` for a copy of it on this machine.

    Raises:
        InputError: `datasets` is not installed, the set cannot be had, or its columns are others.
    """
    try:
        from datasets import DownloadConfig, load_dataset
    except ImportError as error:
        raise InputError(f"task {name!r} needs {error.name}: pip install 'driftline[eval]'") from error
    short, _, local = name.partition(":")
    source = SETS[short]
    if local and not Path(local).is_dir():
        raise InputError(f"--task {name}: {local} is not a folder: give the folder of a copy of {source.path}")
    try:
        rows = load_dataset(
            local or source.path, split=source.split, download_config=DownloadConfig(max_retries=0, disable_tqdm=True)
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise InputError(
            f"{local or source.path} cannot be loaded ({reason}): where there is no network give a local copy, --task {short}:FOLDER"
        ) from error
    problems = []
    for index, row in enumerate(rows):
        problem, answer = row.get(source.problem), row.get(source.answer)
        if problem is None or answer is None:
            raise InputError(
                f"{name}, row {index}, has no {source.problem} or no {source.answer}: its columns are {', '.join(row)}; give a copy of {source.path}"
            )
        text = f"{problem}\n{INSTRUCTION}"
        gold = boxed(str(answer)) or str(answer)
        problems.append(Problem(gold, prompt=text, messages=[{"role": "user", "content": text}]))
    return judged(short, problems, "math", "boxed", 32768)
