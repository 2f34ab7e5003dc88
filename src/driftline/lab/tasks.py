"""The lab's tasks: tasks of `driftline.evaluation.tasks` in two parts, trained and held out, with right solutions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from driftline.errors import InputError
from driftline.evaluation.tasks import Problem, Task, gym, sums
from driftline.evaluation.tasks.extraction import last_number
from driftline.evaluation.tasks.verifiers import VERIFIERS

LARGER = "larger"
_WHICH = "Which is larger, {} or {}? Reply with the number only."
_ROOM = 16  # tokens
_POOL = 8192  # problems drawn from reasoning-gym, before repeated ones are left out
_FEWEST = 32  # held-out problems, below which a score says nothing


@dataclass(frozen=True)
class Habit:
    """The bare answer to a problem, and whether a completion is more than that: worked out before it is answered."""

    answer: Callable[[Problem], str]
    worked: Callable[[str], bool]


@dataclass(frozen=True)
class LabTask:
    """A task to train on. The reward of a response is `Task.score`; 1 is right.

    Attributes:
        made: (count, seed, held_out) -> the task of that many distinct problems, each with a text and a chat; fewer
            where there are no more. No held-out problem is ever a training one, whatever the seed.
        batch: (count, random) -> a task of that many training problems, drawn afresh.
        solution: (problem, random, slip) -> a completion of its text that is right, or wrong with about the
            probability `slip`.
        chat_answers: (response) -> what the answer may be in a chat model's, as a completion of the text; the best
            of them counts.
        knowledge: the task whose warm-up teaches what this one takes for known; its own name where it is none other's.
        habit: of a task whose base has learned to answer directly, that way of answering.
        samples: of each held-out problem, when a run is scored.
    """

    name: str
    made: Callable[[int, int, bool], Task]
    batch: Callable[[int, random.Random], Task]
    solution: Callable[[Problem, random.Random, float], str]
    chat_answers: Callable[[str], list[str]]
    knowledge: str
    habit: Habit | None = None
    samples: int = 2

    def training(self, count: int, seed: int, *, chat: bool = False, system: str | None = None) -> Task:
        """Problems to train on; with `chat`, responses are judged as those of a chat model, and chats begin with `system`."""
        return self._judged(self.made(count, seed, False), chat, system)

    def held_out(self, count: int, seed: int, *, chat: bool = False, system: str | None = None) -> Task:
        """Problems that are never trained on, judged in the same way.

        Raises:
            InputError: there are too few.
        """
        return self._judged(self.made(count, seed, True), chat, system)

    def _judged(self, task: Task, chat: bool, system: str | None) -> Task:
        def verify(response: str, problem: Problem) -> float:
            return max((task.verify(answer, problem) for answer in self.chat_answers(response)), default=0.0)

        if not chat:
            return task
        before = [] if system is None else [{"role": "system", "content": system}]
        problems = tuple(replace(problem, messages=[*before, *(problem.messages or [])]) for problem in task.problems)
        return replace(task, problems=problems, verify=verify, verifier=f"{task.verifier}-chat")


def lab_task(name: str, difficulty: int = 0) -> LabTask:
    """`sums`, `strategy` (the same, for a base that mostly answers directly), `sums-of-two`, `larger`, or one of reasoning-gym.

    Args:
        difficulty: level of the data set's curriculum.

    Raises:
        InputError: unknown, or not to be had at that difficulty.
    """
    if name == LARGER and not difficulty:
        return _larger()
    if name not in sums.TERMS:
        return _reasoning_gym(name.removeprefix("reasoning-gym:"), difficulty)
    if difficulty:
        raise InputError(f"--difficulty {difficulty}: the task {name} has one level, give 0")

    def made(count: int, seed: int, held_out: bool) -> Task:
        return _asked(sums.task(count, seed, held_out=held_out, name=name), _sum_in_words)

    def batch(count: int, rng: random.Random) -> Task:
        return made(count, rng.randrange(2**31), False)

    if name != "strategy":
        return LabTask(name, made, batch, _written_out, _last_number, knowledge=name)
    habit = Habit(lambda problem: sums.direct(problem.answer), sums.is_worked)
    return LabTask(name, made, batch, _written_out, _last_number, knowledge="sums", habit=habit, samples=4)


def _larger() -> LabTask:
    """Which of two numbers below a thousand is larger."""

    def made(count: int, seed: int, held_out: bool) -> Task:
        rng, pairs = random.Random(f"{seed}-{held_out}"), dict[tuple[int, int], None]()
        while len(pairs) < count:
            first, second = rng.sample(range(10, 1000), 2)
            if sums.is_held_out(f"{first},{second}") == held_out:
                pairs[first, second] = None
        problems = tuple(
            Problem(str(max(pair)), prompt=f"{pair[0]},{pair[1]}=", messages=_told(_WHICH.format(*pair)))
            for pair in pairs
        )
        return Task(LARGER, problems, "whole", _same, "exact", _ROOM)

    def batch(count: int, rng: random.Random) -> Task:
        return made(count, rng.randrange(2**31), False)

    return LabTask(LARGER, made, batch, _answer, _numbers, knowledge=LARGER)


def _reasoning_gym(name: str, difficulty: int) -> LabTask:
    if name not in gym.data_sets(name, extra="train"):
        raise InputError(
            f"--task {name!r} is unknown: give {', '.join(sums.TERMS)}, {LARGER}, or a data set of reasoning-gym"
        )
    make = gym.maker(name, difficulty=difficulty)

    @cache
    def drawn(seed: int) -> Task:
        """All distinct problems of a seed; a response is the answer and nothing beside it."""
        task = make(_POOL, seed)
        distinct = {str(problem.entry["question"]): problem for problem in task.problems}
        return _asked(replace(task, problems=tuple(distinct.values()), extraction="whole"), _question)

    def made(count: int, seed: int, held_out: bool) -> Task:
        task = drawn(seed)
        part = tuple(problem for problem in task.problems if sums.is_held_out(f"{problem.prompt}") == held_out)
        if held_out and len(part) < min(count, _FEWEST):
            raise InputError(
                f"{name} has only {len(part)} held-out problems at --difficulty {difficulty}: give a higher one"
            )
        return replace(task, problems=part[:count])

    def batch(count: int, rng: random.Random) -> Task:
        task = made(_POOL, 0, False)
        return replace(task, problems=tuple(rng.choices(task.problems, k=count)))

    title = name if not difficulty else f"{name}-{difficulty}"
    return LabTask(title, made, batch, _answer, _all_or_last_word, knowledge=title)


def _asked(task: Task, ask: Callable[[Problem], tuple[str, str]]) -> Task:
    """The task with its problems put as the lab does: `ask` gives the text of one, and what a chat model is told."""
    return replace(
        task,
        problems=tuple(
            replace(problem, prompt=text, messages=_told(told))
            for problem in task.problems
            for text, told in [ask(problem)]
        ),
    )


def _told(what: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": what}]


def _same(answer: str, problem: Problem) -> float:
    return VERIFIERS["exact"](answer, problem.answer)


def _sum_in_words(problem: Problem) -> tuple[str, str]:
    text = f"{problem.prompt}"
    return text, f"What is {text[:-1]}? Reply with the number only."


def _question(problem: Problem) -> tuple[str, str]:
    question = problem.entry["question"]
    return f"{question}\n", f"{question}\nReply with the answer only."


def _written_out(problem: Problem, rng: random.Random, slip: float) -> str:
    return sums.solution(f"{problem.prompt}", rng, slip)


def _answer(problem: Problem, rng: random.Random, slip: float) -> str:
    return spoil(problem.answer, rng) if rng.random() < slip else problem.answer


def _numbers(response: str) -> list[str]:
    """The last of them."""
    return [number for number in [last_number(response)] if number is not None]


def _last_number(response: str) -> list[str]:
    return [f"#{number}" for number in _numbers(response)]


def _all_or_last_word(response: str) -> list[str]:
    return [response, *(word.rstrip(".") for word in response.split()[-1:])]


def spoil(answer: str, rng: random.Random) -> str:
    """The answer with one character changed, to another of its kind."""
    places = [place for place, character in enumerate(answer) if character.isalnum()]
    if not places:
        return answer + "0"
    place = rng.choice(places)
    old = answer[place]
    kind = "0123456789" if old.isdigit() else "abcdefghijklmnopqrstuvwxyz"
    return answer[:place] + rng.choice(kind.replace(old.lower(), "")) + answer[place + 1 :]
