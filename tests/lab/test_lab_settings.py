"""Settings of the lab: a TOML file of them, and the tasks they name."""

import hashlib
import json
import random
from importlib.metadata import version
from pathlib import Path

import pytest

from driftline.errors import InputError
from driftline.evaluation.tasks import Task, open_task
from driftline.lab.settings import LabRun, check, read_config, toml
from driftline.lab.tasks import lab_task, spoil


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
        ("steps = " + "[" * 10_000 + "]" * 10_000, "line 1, has a table, a list or a dotted key"),
        ("# settings\nsteps = " + "{a=" * 10_000, "line 2, has a table, a list"),
        ("seed = 1\n" + ".".join(["a"] * 30_000) + " = 1", "line 2, has a table, a list or a dotted key"),
        (".".join(["'a'"] * 10_000) + " = 1", "line 1, has a table, a list or a dotted key"),
        ("[a]\n" * 10_000, "line 1, has a table"),
        ('system = """\n"""\n[a]', "line 3, has a table"),
        ("steps = " + "9" * 5000, "is not TOML .a number of thousands of digits"),
        ("learning_rate = " + "9" * 400, "learning_rate has more than 18 digits"),
        ("steps = 0x" + "f" * 50_000, "steps has more than 18 digits"),
        ("seed = '" + "9" * 60_000 + "'", "seed is '9{39}…: it must be a whole number"),
        ("k" * 60_000 + " = 1", "'k{39}… is no setting of the lab"),
        ('system = """' + r"\"" "" * 15_000, "is not TOML"),
        (r'model = "a\u0000b"', "model has a NUL in it"),
        ("#" * 70_000, "more than 64 KiB"),
        ("system = '\udcff'", "it is not UTF-8 text"),
    ],
)
def test_configs_that_cannot_be_used_say_why(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "lab.toml").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=complaint):
        read_config(tmp_path / "lab.toml")


def test_dashes_and_whole_numbers_are_taken(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text("save-every = 3\nlearning-rate = 1\n")
    assert read_config(tmp_path / "lab.toml") == {"save_every": 3, "learning_rate": 1.0}


def test_texts_and_comments_of_a_config_may_hold_anything(tmp_path: Path) -> None:
    text = 'system = """a.b [x] {y}\nc.d = "1"\n# no"""\nsteps = 7 # a.b [c]\nmodel = "q[.]"\nlearning-rate = 1.5e-6\n'
    (tmp_path / "lab.toml").write_text(text)
    read = {"system": 'a.b [x] {y}\nc.d = "1"\n# no', "steps": 7, "model": "q[.]", "learning_rate": 1.5e-6}
    assert read_config(tmp_path / "lab.toml") == read


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (LabRun(steps=10**30), "--steps is 10{30}: it must be at most 1,000,000"),
        (LabRun(steps=10**6000), "--steps is a number of more than 40 digits"),
        (LabRun(rollouts=10**12), "--rollouts is 10{12}: it must be at most 65,536"),
        (LabRun(rollouts=60_000), "are 960,000 completions a step: their product must be at most 65,536"),
        (LabRun(max_new_tokens=10**30), "--max-new-tokens is 1"),
        (LabRun(held_out_problems=10**9), "--held-out-problems is"),
        (LabRun(warm_up=10**12), "--warm-up is"),
        (LabRun(lora_rank=10**9), "--lora-rank is"),
        (LabRun(difficulty=10**9), "--difficulty is"),
        (LabRun(m=10**30, n=1), "--m is"),
        (LabRun(seed=-1), "--seed is -1: it must be at least 0"),
    ],
)
def test_numbers_that_nobody_can_mean_are_refused(settings: LabRun, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        check(settings)


def test_every_default_passes_its_own_check() -> None:
    check(LabRun())


def texts(task: Task) -> set[str]:
    return {problem.prompt or "" for problem in task.problems}


@pytest.mark.parametrize(
    ("name", "difficulty", "digest"),
    [
        ("sums", 0, "3f21a297e99a47c3d909929bebcc51377265230795adf64ca7ad0c323bb039d8"),
        ("chain_sum", 2, "696ddb1a2833170c6bd1459d56f54b8e5cfa330fc3a6b1b8b357a4e866757450"),
    ],
)
def test_a_seed_trains_on_what_it_always_trained_on(name: str, difficulty: int, digest: str) -> None:
    """So that a run is made again from its settings; reasoning-gym's problems as of 0.1.25."""
    if name != "sums" and version("reasoning-gym") != "0.1.25":
        pytest.skip("other versions of reasoning-gym make other problems")
    task, rng = lab_task(name, difficulty), random.Random(5)
    parts = task.training(300, 1), task.held_out(60, 1), task.batch(50, rng)
    facts = []
    for problem in (problem for part in parts for problem in part.problems):
        (message,) = problem.messages or []
        facts.append([problem.prompt, message["content"], problem.answer, task.solution(problem, rng, 0.4)])
    assert hashlib.sha256(json.dumps(facts).encode()).hexdigest() == digest


def test_the_held_out_sums_of_a_run_are_those_of_the_evaluation() -> None:
    ours, theirs = lab_task("sums").held_out(20, 3), open_task("sums", problems=20, seed=3)
    assert [(p.prompt, p.answer) for p in ours.problems] == [(p.prompt, p.answer) for p in theirs.problems]
    assert (ours.verify, ours.extraction) == (theirs.verify, theirs.extraction)


def test_reasoning_gym_tasks_are_split_solved_and_graded_by_difficulty() -> None:
    easy, hard = lab_task("chain_sum"), lab_task("reasoning-gym:chain_sum", 2)
    assert (easy.name, hard.name) == ("chain_sum", "chain_sum-2")
    training, held_out = hard.training(300, 1), hard.held_out(100, 1)
    assert (len(training.problems), len(held_out.problems)) == (300, 100)
    assert not texts(hard.training(4000, 2)) & texts(held_out)
    assert max(map(len, texts(training))) > max(map(len, texts(easy.training(100, 1))))
    rng = random.Random(0)
    chat = hard.training(300, 1, chat=True)
    for index, problem in enumerate(training.problems[:50]):
        assert training.score(hard.solution(problem, rng, 0.0), index) == 1
        assert training.score(hard.solution(problem, rng, 1.0), index) < 1
        assert chat.score(f"The answer is {problem.answer}.", index) == 1
    assert len(hard.batch(8, rng).problems) == 8


@pytest.mark.parametrize("name", ["strategy", "sums-of-two"])
def test_other_sums_are_those_of_the_evaluation_too(name: str) -> None:
    ours, theirs = lab_task(name).held_out(20, 3), open_task(name, problems=20, seed=3)
    assert [(p.prompt, p.answer) for p in ours.problems] == [(p.prompt, p.answer) for p in theirs.problems]
    assert {f"{p.prompt}".count("+") for p in ours.problems} == {1 if name == "sums-of-two" else 2}


def test_a_bare_answer_is_right_and_not_worked_out() -> None:
    task = lab_task("strategy")
    (problem,) = task.training(1, 0).problems
    assert task.habit is not None
    bare, worked = task.habit.answer(problem), task.solution(problem, random.Random(0), 0.0)
    assert [task.habit.worked(text) for text in (bare, worked)] == [False, True]
    assert [task.training(1, 0).score(text, 0) for text in (bare, worked)] == [1, 1]


def test_there_are_only_so_many_sums_of_two() -> None:
    every = lab_task("sums-of-two").held_out(10_000, 0)
    assert 400 < len(every.problems) < 600
    assert not texts(every) & texts(lab_task("sums-of-two").training(2000, 5))


def test_the_larger_number_is_right_by_itself_or_last_in_a_chat() -> None:
    task = lab_task("larger")
    training, chat = task.training(200, 0), task.training(200, 0, chat=True, system="Answer.")
    assert not texts(training) & texts(task.held_out(200, 0))
    assert len(texts(training)) == 200
    for index, problem in enumerate(training.problems[:20]):
        low, high = sorted(int(number) for number in f"{problem.prompt}".rstrip("=").split(","))
        assert problem.answer == str(high)
        assert [training.score(text, index) for text in (str(high), str(low))] == [1, 0]
        assert [chat.score(f"Of {low} and {high} it is {one}.", index) for one in (high, low)] == [1, 0]
    messages = chat.problems[0].messages or []
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[0]["content"] == "Answer."


def test_coins_pay_half_of_all_answers_and_repeat() -> None:
    from driftline.lab.trainer import reward_of

    task = lab_task("strategy").training(4, 0)
    given = [f"#{problem.answer}" for problem in task.problems] * 100
    rows = [*range(4)] * 100
    assert set(reward_of(task, LabRun())(given, rows)) == {1.0}
    tosses = [reward_of(task, LabRun(reward="coin", seed=seed))(given, row=rows) for seed in (0, 0, 1)]
    assert tosses[0] == tosses[1] != tosses[2]
    assert 0.4 < sum(tosses[0]) / 400 < 0.6
    noised = reward_of(task, LabRun(reward="noised"))
    assert 0.65 < sum(noised(given, row=rows)) / 400 < 0.85  # three in four of right answers
    assert 0.15 < sum(noised(["#wrong"] * 400, row=rows)) / 400 < 0.35  # and one in four of wrong ones


def test_sums_of_a_chat_are_right_by_their_last_number() -> None:
    task = lab_task("sums").training(1, 0, chat=True)
    (problem,) = task.problems
    assert task.score(f"{problem.prompt} {problem.answer}.", 0) == 1
    assert task.score(f"{problem.answer}, or 7", 0) == 0
    assert task.score("I cannot tell", 0) == 0


@pytest.mark.parametrize(
    ("name", "difficulty", "complaint"),
    [
        ("sums", 1, "the task sums has one level"),
        (
            "no_such_task",
            0,
            "'no_such_task' is unknown: give sums, strategy, sums-of-two, larger, or a data set of reasoning-gym",
        ),
    ],
)
def test_tasks_that_cannot_be_had(name: str, difficulty: int, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        lab_task(name, difficulty)


def test_a_spoilt_answer_is_another_one() -> None:
    rng = random.Random(3)
    for answer in ("12", "-7", "abc", "$", ""):
        assert spoil(answer, rng) != answer
