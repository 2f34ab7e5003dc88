"""Rollout files and how rows are grouped for the model."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline import InputError
from driftline.lab.model import new_tokenizer
from driftline.models import Limits
from driftline.outputs.rollouts import Rollout, batches, read_rollouts


def write_lines(path: Path, rows: list[object]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_ids_are_taken_as_they_are_and_text_is_tokenised_apart(tmp_path: Path) -> None:
    tokenizer = new_tokenizer()
    rows = [{"prompt_ids": [2, 3], "response_ids": [4, 1]}, {"prompt": "1+2=", "response": "3#3"}]
    found = read_rollouts(write_lines(tmp_path / "r.jsonl", rows), tokenizer)
    assert found[0] == Rollout((2, 3), (4, 1))
    assert found[1].prompt_ids == tuple(tokenizer("1+2=")["input_ids"])
    assert found[1].response_ids == tuple(tokenizer("3#3")["input_ids"])


def test_messages_go_through_the_chat_template(tmp_path: Path) -> None:
    tokenizer = new_tokenizer()
    rows: list[object] = [{"messages": [{"role": "user", "content": "1+2"}], "response": "3"}]
    path = write_lines(tmp_path / "r.jsonl", rows)
    with pytest.raises(InputError, match="row 0, has messages, but the model has no chat template"):
        read_rollouts(path, tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}={% endif %}"
    )
    assert read_rollouts(path, tokenizer)[0].prompt_ids == tuple(tokenizer("1+2=")["input_ids"])


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "1", "response": ""}, "row 1, has an empty response"),
        ({"prompt": "", "response": "1"}, "row 1, has neither prompt"),
        ({"prompt": "1"}, "row 1, has neither response_ids nor a response"),
        ({"response": "1"}, "row 1, has neither prompt"),
        ({"prompt_ids": [1, "a"], "response": "1"}, "row 1, has prompt_ids that are not a list of token ids"),
        ({"prompt_ids": [1], "response_ids": [999]}, "row 1, holds a token id that the tokenizer does not have"),
        ({"prompt": "1" * 9, "response": "2" * 9}, "row 1, is 18 tokens long, more than the model's context of 16"),
        ("[1, 2]", "line 2, is not a JSON object"),
        ("{", "line 2, is not JSON"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: object, complaint: str) -> None:
    path = write_lines(tmp_path / "r.jsonl", [{"prompt": "1", "response": "2"}, row])
    with pytest.raises(InputError, match=complaint):
        read_rollouts(path, new_tokenizer(), limits=Limits(16))


def test_no_file_and_no_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_rollouts(tmp_path / "none.jsonl", new_tokenizer())
    with pytest.raises(InputError, match="has no rows"):
        read_rollouts(write_lines(tmp_path / "r.jsonl", []), new_tokenizer())


@given(st.lists(st.integers(1, 500), min_size=1, max_size=200), st.integers(100, 2000))
def test_batches_hold_every_row_once_with_little_padding(lengths: list[int], tokens: int) -> None:
    grouped = batches(lengths, tokens)
    assert sorted(row for batch in grouped for row in batch) == list(range(len(lengths)))
    for batch in grouped:
        width, used = max(lengths[row] for row in batch), sum(lengths[row] for row in batch)
        assert width * len(batch) <= max(tokens, width)
        assert width * len(batch) - used <= 0.1 * width * len(batch)
