"""A task: problems, each with a prompt and a gold answer, and how a response to them is judged.

    score = verify(extract(response), problem)     in [0, 1]; 1 is right

A response from which no answer can be extracted scores 0.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.errors import InputError
from driftline.evaluation.tasks.extraction import EXTRACTORS
from driftline.prompts import Prompt, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Problem:
    """What is asked, and the gold answer.

    Attributes:
        prompt, messages: text used as it is, or a chat; with both, `messages` where the model has a chat template.
        entry: what the task's verifier needs besides the answer.
    """

    answer: str
    prompt: str | None = None
    messages: list[dict[str, str]] | None = None
    entry: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """Problems and how they are judged.

    Attributes:
        extraction: which part of a response is its answer, a name of `EXTRACTORS`.
        verify: score in [0, 1] of an extracted answer to a problem.
        verifier: its name, for the record.
        max_new_tokens: room for a response unless the user says otherwise.
    """

    name: str
    problems: tuple[Problem, ...]
    extraction: str
    verify: Callable[[str, Problem], float]
    verifier: str
    max_new_tokens: int

    def score(self, response: str, index: int) -> float:
        """Of a response to problem `index`."""
        answer = EXTRACTORS[self.extraction](response)
        return 0.0 if answer is None else float(self.verify(answer, self.problems[index]))

    def prompt(self, index: int, tokenizer: PreTrainedTokenizerBase) -> Prompt:
        """Of problem `index`, as the model is given it.

        Raises:
            InputError: it is a chat and the model has no chat template, or the template refuses it.
        """
        problem = self.problems[index]
        row: dict[str, Any] = {"prompt": problem.prompt, "messages": problem.messages}
        if problem.prompt is not None and tokenizer.chat_template is None:
            row["messages"] = None
        return encode(row, tokenizer, f"{self.name}, problem {index},")

    def first(self, problems: int | None) -> Task:
        """The same task with its first problems only."""
        return replace(self, problems=self.problems[:problems])

    @property
    def digest(self) -> str:
        """Tells one set of problems, and one way to judge them, from another."""
        rows = [(p.prompt, p.messages, p.answer) for p in self.problems]
        return hashlib.sha256(json.dumps([self.extraction, self.verifier, rows]).encode()).hexdigest()


def open_task(
    name: str,
    *,
    problems: int | None = None,
    seed: int = 0,
    verifier: str | None = None,
    extraction: str | None = None,
) -> Task:
    """The task of a name.

    Args:
        name: `sums`; `aime24`, `aime25` or `math-500`, or `NAME:PATH` for a local copy of one; a `.jsonl` file;
            a reasoning-gym data set, as `reasoning-gym:NAME` or just `NAME`.
        problems: how many; None takes all of a file or set, and 100 of a task that makes its own.
        seed: of problems that are made.
        verifier: of a file: `math` (the default) or `exact`.
        extraction: of a file: a name of `EXTRACTORS`; default `boxed` for math, `last-line` for exact.

    Raises:
        InputError: unknown, or it cannot be read; names near misses.
    """
    from driftline.evaluation.tasks import generated, hub, jsonl

    if problems is not None and problems < 1:
        raise InputError(f"--problems is {problems}: it must be at least 1")
    is_file = name.endswith(".jsonl")
    if not is_file and (verifier is not None or extraction is not None):
        raise InputError(f"--verifier and --extract are of a JSONL task: {name!r} has its own, leave them out")
    if is_file:
        return jsonl.task(Path(name), verifier=verifier, extraction=extraction).first(problems)
    if name == "sums":
        return generated.sums(problems or generated.SIZE, seed)
    if name.partition(":")[0] in hub.SETS:
        return hub.task(name).first(problems)
    return generated.reasoning_gym(name.removeprefix("reasoning-gym:"), problems or generated.SIZE, seed)


def unknown(name: str, known: list[str]) -> InputError:
    """That there is no such task, with the names nearest to it."""
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}" if near else "give sums, aime24, aime25, math-500, a .jsonl file"
    return InputError(f"--task {name!r} is unknown: {hint}, or a reasoning-gym data set")
