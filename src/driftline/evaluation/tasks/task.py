"""A task: problems, each with a prompt and a gold answer, and how a response to them is judged.

    score = verify(extract(response), problem)     in [0, 1]; 1 is right

A response from which no answer can be extracted scores 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from driftline.apart import Apart, Refused, TooMuch
from driftline.errors import InputError
from driftline.evaluation.tasks.extraction import BARE, EXTRACTORS
from driftline.evaluation.tasks.verifiers import VERIFIERS, make_ready
from driftline.prompts import Prompt, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_SECONDS = 5.0  # of the processor, for one answer


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
        apart: whether a library interprets the answer. It then does so in a process of its own, since some answers take
            it for ever; what takes more than five seconds of the processor, or 512 MiB, or cannot be read scores 0.
    """

    name: str
    problems: tuple[Problem, ...]
    extraction: str
    verify: Callable[[str, Problem], float]
    verifier: str
    max_new_tokens: int
    apart: bool = False

    def score(self, response: str, index: int) -> float:
        """Of a response to problem `index`.

        Raises:
            InputError: what the verifier needs is not installed, or it cannot even judge the gold answer.
        """
        answer = EXTRACTORS[self.extraction](response)
        if answer is None:
            return 0.0
        return self._bounded(answer, index) if self.apart else float(self.verify(answer, self.problems[index]))

    def _bounded(self, answer: str, index: int) -> float:
        try:
            found = self._judge(answer, index)
        except TooMuch:
            return 0.0
        except Refused:
            self._must_judge_gold(index)
            return 0.0
        if isinstance(found, str):
            raise InputError(found)
        return found

    def _must_judge_gold(self, index: int) -> None:
        try:
            self._judge(self.problems[index].answer, index)
        except TooMuch:
            return
        except Refused as error:
            raise InputError(
                f"{self.name}, problem {index}, cannot be judged, not even its own answer ({error}): mend or leave it out"
            ) from error

    @cached_property
    def _judge(self) -> Apart:
        make_ready(self.verifier)
        return Apart(partial(_judgement, self.verify, self.problems), seconds=_SECONDS)

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


def _judgement(
    verify: Callable[[str, Problem], float], problems: tuple[Problem, ...], answer: str, index: int
) -> float | str:
    """The score, or what hinders it whatever the answer."""
    try:
        return float(verify(answer, problems[index]))
    except InputError as error:
        return str(error)


def judged(name: str, problems: list[Problem], verifier: str, extraction: str, max_new_tokens: int) -> Task:
    """The task of these problems, their answers checked by a verifier of a name."""
    check = VERIFIERS[verifier]

    def verify(answer: str, problem: Problem) -> float:
        return check(answer, problem.answer, bare=extraction in BARE)

    return Task(name, tuple(problems), extraction, verify, verifier, max_new_tokens, apart=verifier == "math")
