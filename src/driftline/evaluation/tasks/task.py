"""A task: problems, each with a prompt and a gold answer, and how a response to them is judged.

    score = verify(extract(response), problem)     in [0, 1]; 1 is right

A response from which no answer can be extracted scores 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from driftline.evaluation.tasks.extraction import BARE, EXTRACTORS
from driftline.evaluation.tasks.verifiers import VERIFIERS
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

    def asked(self, *, chats: bool) -> dict[str, Any]:
        """Its `prompt` or its `messages`, whichever the model is given; `chats`: whether it takes messages."""
        if self.prompt is not None and (self.messages is None or not chats):
            return {"prompt": self.prompt}
        return {"messages": self.messages}


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
        asked = self.problems[index].asked(chats=tokenizer.chat_template is not None)
        return encode(asked, tokenizer, f"{self.name}, problem {index},")

    def first(self, problems: int | None) -> Task:
        """The same task with its first problems only."""
        return replace(self, problems=self.problems[:problems])

    @property
    def digest(self) -> str:
        """Tells one set of problems, and one way to judge them, from another."""
        rows = [(p.prompt, p.messages, p.answer) for p in self.problems]
        return hashlib.sha256(json.dumps([self.extraction, self.verifier, rows]).encode()).hexdigest()


def judged(name: str, problems: list[Problem], verifier: str, extraction: str, max_new_tokens: int) -> Task:
    """The task of these problems, their answers checked by a verifier of a name."""
    check = VERIFIERS[verifier]

    def verify(answer: str, problem: Problem) -> float:
        return check(answer, problem.answer, bare=extraction in BARE)

    return Task(name, tuple(problems), extraction, verify, verifier, max_new_tokens)
