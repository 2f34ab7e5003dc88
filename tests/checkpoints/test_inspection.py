"""What `inspect` says of each checkpoint and of the run: taken from where, what is not used and why."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_folders import checkpoint, run_of

from conftest import plain, save_tensors
from driftline import cli, terminal
from driftline.checkpoints.inspection import inspect
from driftline.checkpoints.trajectory import open_trajectory

RANK, WIDTH = 2, 40


def adapters(run: Path) -> Path:
    rng = np.random.default_rng(0)
    for step in (10, 20, 30):
        folder = run / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        factors = {
            "base_model.model.up.lora_A.weight": rng.standard_normal((RANK, WIDTH)),
            "base_model.model.up.lora_B.weight": rng.standard_normal((WIDTH, RANK)),
        }
        save_tensors(folder / "adapter_model.safetensors", factors)
        config = {"peft_type": "LORA", "lora_alpha": 4, "r": RANK}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return run


def test_each_checkpoint_says_what_was_read_of_it(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["global_step_10", "global_step_20/actor/huggingface", "best"])
    (run / "global_step_10" / "pytorch_model.bin").touch()
    record = inspect(open_trajectory(run))
    assert [one.source for one in record.checkpoints] == ["model.safetensors", "actor/huggingface/model.safetensors"]
    (note,) = record.checkpoints[0].notes or []
    assert "holds huggingface and torch-state-dict" in note
    assert record.checkpoints[1].notes == []
    assert f"step 10: {note}" in record.problems
    assert plain(record)["unused"] == {
        str(run / "best"): "named as the best by some score, not as a step of its own; give it as STEP=PATH to use it"
    }


def test_the_folder_is_the_source_of_shards(tmp_path: Path) -> None:
    run = run_of(tmp_path, ["step_10"])
    place = run / "step_20" / "actor" / "huggingface"
    place.mkdir(parents=True)
    for name in "ab":
        save_tensors(place / f"{name}.safetensors", {name: np.ones(3)})
    index = {"weight_map": {name: f"{name}.safetensors" for name in "ab"}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    pair = f"30={place}"
    sources = [one.source for one in inspect(open_trajectory([f"20={run / 'step_20'}", pair])).checkpoints]
    assert sources == ["actor/huggingface", "."]


def test_bytes_are_those_of_the_files_that_are_read(tmp_path: Path) -> None:
    run = adapters(tmp_path / "run")
    factors = 2 * RANK * WIDTH * 4
    record = inspect(open_trajectory(run))
    assert [one.bytes for one in record.checkpoints] == [factors] * 3
    assert record.bytes == 3 * factors
    base = tmp_path / "base"
    base.mkdir()
    save_tensors(base / "model.safetensors", {"up.weight": np.ones((WIDTH, WIDTH)), "norm": np.ones(5)})
    (base / "config.json").write_text("{}")
    record = inspect(open_trajectory(run, base=base))
    whole = (WIDTH * WIDTH + 5) * 4
    assert [one.bytes for one in record.checkpoints] == [whole, *[whole + factors] * 3]
    assert [one.source for one in record.checkpoints][1:] == ["adapter_model.safetensors"] * 3


def test_reasons_are_printed_once_for_all_that_share_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run", [f"step_{step}" for step in range(10, 80, 10)])
    for step in (40, 50, 60):
        (run / f"step_{step}" / "model.safetensors").unlink()
    checkpoint(run / "best")
    checkpoint(run / "step_70-v2")
    terminal.inspection(inspect(open_trajectory(run)))
    printed = capsys.readouterr().out
    skipped = [line for line in printed.splitlines() if line.startswith("skipped")]
    assert skipped == [
        "skipped: 3 checkpoints (40 to 60): FOLDER holds no weights yet: still being written, or not a model"
    ]
    assert "not a checkpoint: best: named as the best" in printed
    assert "not a checkpoint: step_70-v2: its name says more than a step" in printed


def test_tensors_left_out_for_one_reason_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2, 3):
        folder = checkpoint(tmp_path / f"step_{step}", step)
        names = [f"layers.{layer}.up" for layer in range(9)] if step == 1 else [f"size.{n:02}" for n in range(30)]
        sizes = {name: np.ones(step + place if step > 1 else 2) for place, name in enumerate(names)}
        save_tensors(folder / "model.safetensors", {"w": np.full(5000, float(step)), **sizes})
    terminal.inspection(inspect(open_trajectory(tmp_path)))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert lines == [
        f"left out: {', '.join(f'size.{n:02}' for n in range(3))} and 27 more: absent at step 1",
        f"left out: layers.0.up, layers.1.up, layers.2.up and 6 more: only in {tmp_path / 'step_1'}: forecasts take it from there",
    ]
    terminal.inspection(inspect(open_trajectory(tmp_path, steps="2:3")))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert len(lines) == 21  # a reason for each, of shapes of its own
    assert lines[-1] == "left out: tensors for 10 more reasons (--json lists all)"


def test_commands_say_what_is_not_used_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path / "run", [f"step_{step}" for step in range(10, 80, 10)])
    for step in (40, 50, 60):
        (run / f"step_{step}" / "model.safetensors").unlink()
    checkpoint(run / "best")
    (run / "latest_checkpointed_iteration.txt").write_text("release")
    monkeypatch.setattr("sys.argv", ["driftline", "analyze", str(run), "--out", str(tmp_path / "out"), "--quiet"])
    cli.main()
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1] for line in said] == [" skipped 3 checkpoints (40 to 60)", " not a checkpoint", " note"]
    for step in (10, 20):
        (run / f"step_{step}" / "model.safetensors").unlink()
    monkeypatch.setattr("sys.argv", ["driftline", "analyze", str(run), "--out", str(tmp_path / "more"), "--quiet"])
    with pytest.raises(SystemExit):
        cli.main()
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "has 2 usable checkpoints" in sentence
    assert sentence.count("holds no weights yet") == 1
