"""Rollouts, tasks and prompts of somebody else's: a sentence that names the line, or what they say; never a traceback."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "decoding"))

from tiny_models import tokenizer

from driftline.errors import InputError
from driftline.evaluation.tasks.registry import open_task
from driftline.outputs.rollouts import read_rollouts
from driftline.prompts import read_rows

LINES = [
    '{"prompt": "w5", "response": "w7 \\ud800", "answer": "1"}',
    '{"prompt": "w5 \\uDC00", "response": "w7", "answer": "1"}',
    '{"prompt": "w5", "response": "w7", "answer": "\\ud83d"}',
    '{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "[" * 100_000,
    '{"a":' * 100_000,
    '{"prompt": "w5", "response": "w7", "answer": "1", "n": ' + "9" * 5000 + "}",
    '{"prompt_ids": [' + "9" * 5000 + '], "response_ids": [5]}',
    '{"prompt": "w5",',
    "7",
    '"text"',
    "\ufeff{}",
]
ROLLOUTS = [
    '{"prompt_ids": [' + "9" * 30 + '], "response_ids": [5]}',
    '{"prompt_ids": [-1], "response_ids": [5]}',
    '{"prompt_ids": [5], "response_ids": [1e400]}',
    '{"prompt_ids": [5], "response_ids": [true]}',
    '{"prompt_ids": {"a": 1}, "response_ids": [5]}',
    '{"prompt": 7, "response": "w7"}',
    '{"messages": [7], "response": "w7"}',
    '{"messages": [{"role": "user", "content": {"a": 1}}], "response": "w7"}',
    '{"messages": "w5", "response": "w7"}',
    '{"prompt": "w5", "response": {"a": 1}}',
]


def file_of(folder: Path, line: str) -> Path:
    path = folder / "rows.jsonl"
    path.write_text('{"prompt": "w5", "response": "w7", "answer": "1"}\n' + line + "\n")
    return path


@pytest.mark.parametrize("line", LINES, ids=[line[:40] for line in LINES])
def test_a_line_that_is_no_row_is_named(line: str, tmp_path: Path) -> None:
    path = file_of(tmp_path, line)
    for read in (read_rows, lambda path: open_task(str(path)), lambda path: read_rollouts(path, tokenizer())):
        with pytest.raises(InputError, match=r"rows\.jsonl, line 2, is not ") as told:
            read(path)
        assert len(str(told.value)) < 700


@pytest.mark.parametrize("line", ROLLOUTS)
def test_a_row_that_is_no_rollout_is_named(line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rows\.jsonl, row 1,"):
        read_rollouts(file_of(tmp_path, line), tokenizer())


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    path = file_of(tmp_path, json.dumps({"prompt": "\U0001f600", "answer": "1"}))
    assert open_task(str(path)).problems[1].prompt == "\U0001f600"
