"""Tasks: every source's prompts, gold answers and judgement, and what is refused in a sentence."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from driftline.errors import InputError
from driftline.evaluation.tasks import Problem, Task, open_task, verifiers
from driftline.evaluation.tasks.extraction import EXTRACTORS
from driftline.evaluation.tasks.hub import INSTRUCTION
from driftline.evaluation.tasks.verifiers import exact, math


def jsonl(folder: Path, *rows: dict) -> str:
    path = folder / "task.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("rule", "response", "answer"),
    [
        ("boxed", r"so \boxed{1}, no: \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("boxed", r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("boxed", r"\boxed {7} and then \boxed{8", "7"),
        ("boxed", "the answer is 7", None),
        ("boxed", "", None),
        ("tags", "<answer>1</answer> no, <answer> 2\n</answer>", "2"),
        ("tags", "<answer>2", None),
        ("hash", "5+6=11\n#### 11", "11"),
        ("hash", "5;11#11", "11"),
        ("hash", "11", None),
        ("last-line", "I think\n\n 42 \n\n", "42"),
        ("last-line", " \n ", None),
        ("whole", " 42 ", "42"),
    ],
)
def test_extraction(rule: str, response: str, answer: str | None) -> None:
    assert EXTRACTORS[rule](response) == answer


def test_tags_are_extracted_as_reasoning_gym_does() -> None:
    utils = pytest.importorskip("reasoning_gym.utils")
    for response in (
        "<answer>1</answer>",
        "<answer>\n a b \n</answer> x",
        "<answer></answer>",
        "none",
        "<answer>1 <answer>2</answer>",
    ):
        assert EXTRACTORS["tags"](response) == utils.extract_answer(response)


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("0.5", "1/2", True),
        (r"\frac{1}{2}", "0.5", True),
        ("1 + x^2", "x^2+1", True),
        ("33", "033", True),
        (r"(3, \pi/2)", r"\left( 3, \frac{\pi}{2} \right)", True),
        ("(3, 1)", r"\left( 3, \frac{\pi}{2} \right)", False),
        ("32348", r"\$32,\!348", True),
        ("32349", r"\$32,\!348", False),
        (r"\text{Evelyn}", "Evelyn", True),
        ("5", "$5$", True),
        ("6, 5", "5,6", True),
        ("6", "5,6", False),
        ("", "5", False),
        ("}{", "5", False),
        ("x=5", "5", True),
        ("(1, 2)", "1 < x < 2", True),
        ("1 < x < 2", "(1, 2)", False),  # unlike the one before: math-verify takes the gold answer first
    ],
)
def test_mathematics_is_compared_not_letters(answer: str, gold: str, right: bool) -> None:
    assert math(answer, gold) == right


def test_exact_is_letter_by_letter() -> None:
    assert exact(" a b ", "a b") == 1
    assert exact("1/2", "0.5") == 0


def test_the_labs_sums_are_held_out_and_strict() -> None:
    from driftline.evaluation.tasks.sums import is_held_out

    task = open_task("sums", problems=20, seed=3)
    assert len(task.problems) == 20
    assert all(is_held_out(problem.prompt or "") for problem in task.problems)
    assert task == open_task("sums", problems=20, seed=3)
    assert task.digest != open_task("sums", problems=20, seed=4).digest
    answer = task.problems[0].answer
    assert task.score(f"1;2#{answer}", 0) == 1
    assert task.score(f"1;2#{answer}#{answer}", 0) == 0
    assert task.score(answer, 0) == 0


@pytest.mark.parametrize(
    ("name", "problems", "seed", "digest"),
    [
        ("sums", 100, 0, "90663f7d4185e167c01d1de57ab3932ba230e93b7dd0d43f54b1cd7d09f94e17"),
        ("sums", 7, 3, "187a45a7e6868aa7cd364aaf9f9390f3dfe662b4723465abd25cc562190930d1"),
        ("chain_sum", 5, 3, "4652dbfc740261624c71018ef6c57b5f78270988ad3424108b7a955dbd514aff"),
        ("basic_arithmetic", 5, 0, "b7206ae4c7d0e7b24ad2145b9b5454d1c289aca27e223a7db46768d1725b1294"),
        ("reasoning-gym:countdown", 3, 3, "47df277e0dd3843c080fe7b84b68189a0e04b596009304ae86cea2adfbdd3b80"),
    ],
)
def test_a_seed_gives_the_problems_that_it_always_gave(name: str, problems: int, seed: int, digest: str) -> None:
    """Evaluations on disk are compared by it; reasoning-gym's as of 0.1.25."""
    if name != "sums" and version("reasoning-gym") != "0.1.25":
        pytest.skip("other versions of reasoning-gym make other problems")
    assert open_task(name, problems=problems, seed=seed).digest == digest


@pytest.mark.parametrize("name", ["reasoning-gym:chain_sum", "chain_sum", "basic_arithmetic", "simple_equations"])
def test_reasoning_gym_by_name(name: str) -> None:
    pytest.importorskip("reasoning_gym")
    task = open_task(name, problems=5, seed=2)
    assert task.name == f"reasoning-gym:{name.removeprefix('reasoning-gym:')}"
    assert task.digest == open_task(name, problems=5, seed=2).digest != open_task(name, problems=5, seed=1).digest
    for index, problem in enumerate(task.problems):
        assert problem.prompt
        assert problem.messages
        assert problem.entry["question"] in problem.messages[1]["content"]
        assert problem.entry["question"] in problem.prompt
        assert "<answer>" in problem.messages[0]["content"]
        assert task.score(f"<think>…</think> <answer>{problem.answer}</answer>", index) == 1
        assert task.score(f"<answer>{problem.answer}1</answer>", index) < 1
        assert task.score(problem.answer, index) == 0  # not in tags


def test_reasoning_gym_judges_by_its_own_rule() -> None:
    pytest.importorskip("reasoning_gym")
    task = open_task("countdown", problems=3, seed=0)  # any expression with the numbers given will do
    problem = task.problems[0]
    numbers, target = problem.entry["metadata"]["numbers"], problem.entry["metadata"]["target"]
    assert task.score(f"<answer>{problem.entry['metadata']['expression']}</answer>", 0) == 1
    assert task.score(f"<answer>{target}</answer>", 0) < 1
    assert numbers


def test_a_file_checked_as_mathematics(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "2 + 2?"}]
    task = open_task(jsonl(tmp_path, {"prompt": "1/2 + 0 = ", "answer": 0.5}, {"messages": chat, "answer": 4}))
    assert [problem.answer for problem in task.problems] == ["0.5", "4"]
    assert task.problems[1].messages == chat
    assert (task.extraction, task.verifier) == ("boxed", "math")
    assert task.score(r"hence \boxed{\frac{1}{2}}", 0) == 1
    assert task.score("hence 0.5", 0) == 0
    assert open_task(task.name, extraction="whole").score("hence 0.5", 0) == 1
    assert len(open_task(task.name, problems=1).problems) == 1


def test_a_file_checked_letter_by_letter(tmp_path: Path) -> None:
    task = open_task(jsonl(tmp_path, {"prompt": "capital of France", "answer": "Paris"}), verifier="exact")
    assert task.extraction == "last-line"
    assert task.score("it is\nParis", 0) == 1
    assert task.score("it is Paris", 0) == 0
    assert open_task(task.name, verifier="exact", extraction="hash").score("so # Paris", 0) == 1


COPIES: dict[str, tuple[dict[str, Any], str]] = {  # columns as on the Hub
    "aime24": ({"id": 60, "problem": "Find $x$.", "solution": "\\boxed{204}", "url": "u"}, "204"),
    "aime25": ({"problem": "Find $y$.", "answer": "70", "id": "0"}, "70"),
    "math-500": (
        {
            "problem": "Convert.",
            "solution": "It is \\boxed{(3, 1)}.",
            "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
            "subject": "Precalculus",
            "level": 2,
            "unique_id": "test/precalculus/807.json",
        },
        "\\left( 3, \\frac{\\pi}{2} \\right)",
    ),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_the_sets_of_the_hub_from_local_copies(tmp_path: Path, name: str, form: str, monkeypatch) -> None:
    pytest.importorskip("datasets")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    row, gold = COPIES[name]
    copy = tmp_path / "copy"
    copy.mkdir()
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([row, row]), copy / "test-00000-of-00001.parquet")
    else:
        (copy / "test.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    task = open_task(f"{name}:{copy}")
    assert task.name == name
    assert len(task.problems) == 2
    problem = task.problems[0]
    assert problem.answer == gold
    assert problem.prompt == f"{row['problem']}\n{INSTRUCTION}"
    assert problem.messages == [{"role": "user", "content": problem.prompt}]
    assert task.score(f"so \\boxed{{{gold}}}", 0) == 1
    assert task.score("so \\boxed{0}", 0) == 0
    assert task.score(f"so {gold}", 0) == 0


def test_a_copy_with_other_columns_is_named(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("datasets")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "test.jsonl").write_text('{"Problem": "x", "Answer": "1"}\n')
    with pytest.raises(InputError, match="row 0, has no problem or no answer: its columns are Problem, Answer"):
        open_task(f"aime25:{copy}")
    with pytest.raises(InputError, match="is not a folder"):
        open_task("aime25:absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"cannot be loaded .*give a local copy, --task aime25:FOLDER"):
        open_task(f"aime25:{tmp_path / 'empty'}")


class Words:
    """As much of a tokenizer as a prompt needs."""

    bos_token = None

    def __init__(self, chat_template: str | None) -> None:
        self.chat_template = chat_template

    def apply_chat_template(self, messages: list[dict[str, str]], **settings: object) -> str:
        return "chat " + messages[0]["content"]

    def __call__(self, text: str, **settings: object):
        return type("Encoded", (), {"input_ids": [len(word) for word in text.split()]})


def test_a_chat_is_used_where_the_model_has_a_template() -> None:
    chat = [{"role": "user", "content": "hello"}]
    task = Task("t", (Problem("1", "plain text", chat), Problem("1", messages=chat)), "whole", lambda a, p: 1.0, "v", 8)
    assert task.prompt(0, Words("template")).text == "chat hello"
    assert task.prompt(0, Words(None)).text == "plain text"
    with pytest.raises(InputError, match="t, problem 1, has messages, but the model has no chat template"):
        task.prompt(1, Words(None))


@pytest.mark.parametrize(
    ("name", "settings", "complaint"),
    [
        ("chain_smu", {}, "'chain_smu' is unknown: did you mean chain_sum"),
        ("xyzxyz", {}, "'xyzxyz' is unknown: give sums"),
        ("sums", {"problems": 0}, "--problems is 0"),
        ("sums", {"verifier": "exact"}, "--verifier and --extract are of a JSONL task"),
        ("absent.jsonl", {}, "absent.jsonl cannot be read"),
    ],
)
def test_unknown_tasks_are_refused(name: str, settings: dict, complaint: str) -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(InputError, match=complaint):
        open_task(name, **settings)


@pytest.mark.parametrize(
    ("row", "settings", "complaint"),
    [
        ({"prompt": "x"}, {}, "row 0, has no answer"),
        ({"prompt": "x", "answer": " "}, {}, "row 0, has no answer"),
        ({"prompt": "x", "answer": True}, {}, "row 0, has no answer"),
        ({"answer": "1"}, {}, "row 0, needs either prompt or messages"),
        ({"prompt": "x", "messages": [], "answer": "1"}, {}, "row 0, needs either prompt or messages"),
        ({"prompt": "x", "answer": "1"}, {"verifier": "judge"}, "--verifier 'judge' is unknown: choose math or exact"),
        ({"prompt": "x", "answer": "1"}, {"extraction": "box"}, "--extract 'box' is unknown: choose boxed, tags"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, row: dict, settings: dict, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        open_task(jsonl(tmp_path, row), **settings)


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch) -> None:
    for module, name in (("reasoning_gym", "chain_sum"), ("datasets", "aime24")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match=f"needs {module}: pip install 'driftline\\[eval\\]'"):
            open_task(name)
    monkeypatch.setitem(sys.modules, "math_verify", None)
    verifiers._math_verify.cache_clear()
    task = open_task(jsonl(tmp_path, {"prompt": "x", "answer": "1"}))
    with pytest.raises(InputError, match="needs math_verify"):
        task.score(r"\boxed{2}", 0)
