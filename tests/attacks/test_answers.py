"""Answers of a model, made to hang what judges them, or to fill its memory."""

from __future__ import annotations

import threading
import time

import pytest

from driftline.errors import InputError
from driftline.evaluation.tasks.registry import open_task
from driftline.evaluation.tasks.task import Problem, Task, judged

pytestmark = pytest.mark.usefixtures("soon")
HANGING = ["9^{9^{9^{9}}}", r"\frac{1}{10^{10^{8}}!}", "(" * 3000 + "1" + ")" * 3000, "1" + "+x^{77}" * 3000]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that is passed sooner than the real one."""
    monkeypatch.setattr("driftline.evaluation.tasks.task._SECONDS", 1.0)


@pytest.mark.parametrize("answer", HANGING)
def test_math_of_a_hostile_answer_ends_and_scores_nothing_and_the_next_is_right(answer: str) -> None:
    task = judged("t", [Problem(r"\frac{1}{2}", prompt="p")], "math", "boxed", 8)
    started = time.monotonic()
    assert task.score(rf"so \boxed{{{answer}}}", 0) == 0.0
    assert time.monotonic() - started < 60
    assert task.score(r"so \boxed{0.5}", 0) == 1.0


def test_a_thread_may_judge() -> None:
    """math-verify's own time limit works in the main thread only."""
    task = judged("t", [Problem("2", prompt="p")], "math", "boxed", 8)
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(task.score(r"\boxed{1+1}", 0)))
    thread.start()
    thread.join()
    assert found == [1.0]


def hostile(answer: str, problem: Problem) -> float:
    match answer:
        case "hang":
            while True:
                pass
        case "hoard":
            return len(bytearray(1 << 30))
        case "raise":
            raise ValueError("unreadable")
    return float(answer == problem.answer)


@pytest.mark.parametrize("answer", ["hang", "hoard", "raise"])
def test_a_verifier_that_fails_on_an_answer_grants_nothing(answer: str) -> None:
    task = Task("t", (Problem("1", prompt="p"),), "whole", hostile, "v", 8, apart=True)
    assert [task.score(answer, 0), task.score("1", 0)] == [0.0, 1.0]


def test_one_that_fails_on_the_gold_answer_too_says_so() -> None:
    task = Task("t", (Problem("raise", prompt="p"),), "whole", hostile, "v", 8, apart=True)
    with pytest.raises(InputError, match=r"t, problem 0, cannot be judged, not even its own answer \(unreadable\)"):
        task.score("raise", 0)


def test_reasoning_gyms_scorers_are_called_apart() -> None:
    task = open_task("reasoning-gym:countdown", problems=2)
    assert task.apart
    gold = f"<answer>{task.problems[1].answer}</answer>"
    assert [task.score("<answer>9**9**9**9</answer>", 1), task.score(gold, 1)] == [pytest.approx(0, abs=0.1), 1.0]
