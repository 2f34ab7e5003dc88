"""Names that are not UTF-8, or hold what a name seldom holds, in every command of the weight path."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from attack import driftline, refused, save_run

from driftline.checkpoints.trajectory import open_trajectory
from driftline.writing.card import base_model

ODD = os.fsdecode(b"run-\xff\xfe")
NAMES = {"bytes": ODD, "line": "run\nof two lines", "escape": "run\x1b[2J", "quote": "run'\"<b>&", "long": "r" * 200}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_run_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    run = save_run(tmp_path / name)
    assert open_trajectory(run).steps == (0, 10, 20)


@pytest.mark.slow
@pytest.mark.parametrize("name", [ODD, NAMES["line"]], ids=["bytes", "line"])
def test_commands_work(tmp_path: Path, name: str) -> None:
    run = save_run(tmp_path / name, (0, 10, 20, 30, 40))
    shown = driftline("inspect", run)
    assert (shown.code, "5 checkpoints" in shown.out) == (0, True), shown.said
    record = json.loads(driftline("inspect", run, "--json").out)
    assert record["steps"] == [0, 10, 20, 30, 40]
    calls: list[list[str | Path]] = [
        ["analyze", run, "--out", tmp_path / "a"],
        ["backtest", run, "--out", tmp_path / "b"],
        ["watch", run, "--once", "--settle", "0", "--out", tmp_path / "w"],
        ["watch", run, "--once", "--settle", "0", "--out", tmp_path / "w"],
        ["extrapolate", run, "--to", "60", "--out", tmp_path / "m"],
        ["advise", run],
        ["compare", tmp_path / "a", tmp_path / "w", "--out", tmp_path / "c"],
        ["analyze", run, "--out", tmp_path / f"{name}-out"],
    ]
    for words in calls:
        answer = driftline(*words)
        assert answer.code == 0, (words, answer.said)
    for page in (tmp_path / "a" / "report.html", tmp_path / f"{name}-out" / "report.html"):
        page.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["steps"] == [0, 10, 20, 30, 40]


def test_what_is_wrong_with_it_is_said(tmp_path: Path) -> None:
    run = save_run(tmp_path / ODD)
    (run / "checkpoint-20" / "model.safetensors").write_bytes(b"short")
    assert "\\udcff" in refused("analyze", run, "--strict", out=tmp_path / "out")
    assert "does not exist" in refused("inspect", tmp_path / (ODD + "x"))


def test_a_checkpoint_of_such_a_name_is_no_step(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run")
    (run / "checkpoint-20").rename(run / os.fsdecode(b"checkpoint-20\xff"))
    answer = driftline("inspect", run)
    assert answer.code == 0
    assert "not a checkpoint" in answer.out


@pytest.mark.parametrize(
    "base",
    ["\ud800/x", "a/\udcff", "a\0/b", "\n/\n", "../../etc/passwd", "x" * 5000 + "/y", "owner/na\u202eme", 7, ["a/b"]],
)
def test_a_base_of_an_adapter_is_a_name_of_the_hub_or_none(tmp_path: Path, base: object) -> None:
    run = save_run(tmp_path / "run")
    for file in ("adapter_config.json", "config.json"):
        (run / "checkpoint-20" / file).write_text(
            json.dumps({"base_model_name_or_path": base, "_name_or_path": base, "lora_alpha": 1})
        )
    assert base_model(open_trajectory(run)) is None
