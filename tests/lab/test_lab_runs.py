"""Real runs of the lab, two steps each: every algorithm, family, optimizer and kind of model."""

import hashlib
import json
import sys
from pathlib import Path
from subprocess import run as run_process
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from driftline.checkpoints.safetensors_file import read_header
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.forecast.request import ForecastRequest
from driftline.lab.model import shipped_base
from driftline.lab.run import train
from driftline.lab.settings import ALGORITHMS, FAMILIES, LabRun
from driftline.writing.extrapolate import extrapolate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SMALL: dict[str, Any] = {"steps": 2, "save_every": 2, "prompts_per_step": 4, "rollouts": 4, "held_out_problems": 32}


def weights(run: Path, step: int) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(run / f"checkpoint-{step}" / "model.safetensors")


def test_every_algorithm_trains_its_own_way(tmp_path: Path) -> None:
    """Off policy and at a rate at which ratios are clipped: on policy DAPO is GRPO with TRL's loss, to the bit."""
    digests, rate = {}, 3e-4
    for algorithm in ALGORITHMS:
        run = tmp_path / algorithm
        rows = train(run, LabRun(**SMALL, algorithm=algorithm, iterations=2, learning_rate=rate))  # type: ignore[arg-type]
        assert [row["step"] for row in rows] == [0, 2]
        record = json.loads((run / "run.json").read_text())
        assert record["completed"] is True
        assert record["settings"]["algorithm"] == algorithm
        before, after = weights(run, 0), weights(run, 2)
        moved = np.concatenate([(after[name] - before[name]).ravel() for name in after])
        assert 0.5 * rate < np.abs(moved).max() < 2.5 * rate  # two AdamW steps
        assert {value.dtype for value in after.values()} == {np.dtype(np.float32)}
        digests[algorithm] = hashlib.sha256(moved.tobytes()).hexdigest()
        state = json.loads((run / "checkpoint-2" / "trainer_state.json").read_text())
        assert ("reward" in state["log_history"][0]) == (algorithm != "sft")
    assert len(set(digests.values())) == len(ALGORITHMS)


def test_sgd_moves_along_the_gradient(tmp_path: Path) -> None:
    train(tmp_path / "sgd", LabRun(**SMALL, optimizer="sgd", learning_rate=0.1))
    moved = [weights(tmp_path / "sgd", 2)[name] - value for name, value in weights(tmp_path / "sgd", 0).items()]
    sizes = np.abs(np.concatenate([value.ravel() for value in moved]))
    assert sizes.max() > 30 * np.median(sizes[sizes > 0])  # AdamW would move all weights about as far
    assert json.loads((tmp_path / "sgd" / "run.json").read_text())["optimizer"]["adam_beta1"] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_runs_from_its_own_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    monkeypatch.setenv("DRIFTLINE_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    train(tmp_path / "run", LabRun(**SMALL, model=family, warm_up=3), say=said.append)
    assert said[-1].startswith("warm-up 3/3")
    trajectory = open_trajectory(tmp_path / "run")
    config = json.loads((tmp_path / "run" / "checkpoint-2" / "config.json").read_text())
    kind, _, size = family.partition("-") if family.startswith("qwen2") else (family, "", "")
    assert config["model_type"] == kind.replace("-", "_")
    low, high = {"small": (5e5, 7e5), "large": (5e6, 6e6)}.get(size, (2e6, 6e6))
    assert low < trajectory.parameters < high
    assert [path.name for path in (tmp_path / "cache" / "lab").iterdir()] == [f"{family}-sums-3"]
    said.clear()
    train(tmp_path / "again", LabRun(**SMALL, model=family, warm_up=3), say=said.append)
    assert said == []  # the base was kept
    assert all(
        np.array_equal(weights(tmp_path / "again", 2)[name], value)
        for name, value in weights(tmp_path / "run", 2).items()
    )


def test_a_reasoning_gym_task_with_difficulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_CACHE", str(tmp_path / "cache"))
    train(tmp_path / "run", LabRun(**SMALL, task="chain_sum", difficulty=1, warm_up=2))
    held_out = [json.loads(line) for line in (tmp_path / "run" / "held_out.jsonl").read_text().splitlines()]
    assert len(held_out) == 32
    assert held_out[0]["prompt"].startswith("State the final answer")
    assert set(held_out[0]) == {"prompt", "answer"}


def test_a_run_is_made_again_from_its_own_settings_and_flags_have_the_last_word(tmp_path: Path) -> None:
    train(tmp_path / "a", LabRun(**SMALL, seed=5))
    command = [sys.executable, "-m", "driftline", "train", "--config", "a/settings.toml", "--quiet", "--out"]
    assert run_process([*command, "b"], cwd=tmp_path, check=False).returncode == 0
    assert run_process([*command, "c", "--seed", "6"], cwd=tmp_path, check=False).returncode == 0
    a, b, c = (weights(tmp_path / name, 2) for name in "abc")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not all(np.array_equal(a[name], c[name]) for name in a)


def test_regrounding_in_the_lab(tmp_path: Path) -> None:
    rows = train(tmp_path / "run", LabRun(**SMALL | {"steps": 4, "save_every": 1}, m=2, n=6))
    assert [(row["step"], row["virtual_step"]) for row in rows] == [(0, 0), (1, 1), (2, 8), (3, 9), (4, 16)]
    trajectory = open_trajectory(tmp_path / "run")
    assert trajectory.regrounded is not None
    assert trajectory.regrounded.stretches == [[0, 1], [2, 3], [4]]


def test_two_launched_processes_share_the_steps(tmp_path: Path) -> None:
    """As `accelerate launch` does it, which starts processes by torch.distributed.run where there are GPUs."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    flags = [
        "--steps",
        "2",
        "--save-every",
        "1",
        "--prompts-per-step",
        "4",
        "--rollouts",
        "4",
        "--held-out-problems",
        "32",
    ]
    command = [*launch, "-m", "driftline", "train", "--out", "run", *flags]
    done = run_process(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["completed"], record["processes"]) == (True, 2)
    assert open_trajectory(tmp_path / "run").steps == (0, 1, 2)
    assert len((tmp_path / "run" / "accuracy.jsonl").read_text().splitlines()) == 3


def test_smollm2_trains_from_its_package(tmp_path: Path) -> None:
    one = {"steps": 1, "save_every": 1, "prompts_per_step": 1, "rollouts": 2, "held_out_problems": 2}
    small: dict[str, Any] = {**one, "max_new_tokens": 6, "model": "smollm2", "temperature": 0.7, "algorithm": "sft"}
    train(tmp_path / "run", LabRun(**small))
    config = json.loads((tmp_path / "run" / "checkpoint-1" / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert "quantization_config" not in config
    trajectory = open_trajectory(tmp_path / "run")
    assert trajectory.parameters == 134_515_008
    assert trajectory["model.embed_tokens.weight"].dtype == "F32"
    problem = json.loads((tmp_path / "run" / "held_out.jsonl").read_text().splitlines()[0])
    assert problem["messages"][0]["content"].startswith("What is ")


@pytest.mark.parametrize("rank", [None, 4])
def test_checkpoints_in_bfloat16_whole_or_as_an_adapter(tmp_path: Path, rank: int | None) -> None:
    """A forecast of either is a model that transformers loads, and that has moved."""
    from transformers import AutoModelForCausalLM

    halves: dict[str, Any] = {"precision": "bfloat16", "save_dtype": "bfloat16", "learning_rate": 1e-3}
    run, out = tmp_path / "run", tmp_path / "out"
    train(run, LabRun(task="strategy", lora_rank=rank, **{**SMALL, "save_every": 1}, **halves))
    trajectory = open_trajectory(run, base=None if rank is None else run / "base")
    assert trajectory.steps == (0, 1, 2)
    stored = {header.dtype for file in run.glob("checkpoint-*/*.safetensors") for header in read_header(file).values()}
    assert stored == {"BF16"}
    assert (run / "checkpoint-0").is_dir() == (rank is None)
    assert (run / "base").is_dir() == (rank is not None)
    extrapolate(trajectory, out, ForecastRequest((4,), method="two-point"))
    forecast, base = (AutoModelForCausalLM.from_pretrained(f).float() for f in (out, shipped_base("strategy")))
    moved = [
        not torch.equal(one, other)
        for one, other in zip(forecast.parameters(), base.parameters(), strict=True)
        if one.ndim == 2
    ]
    assert sum(moved) > len(moved) // 2
    rows = [json.loads(line) for line in (run / "accuracy.jsonl").read_text().splitlines()]
    assert all(0 <= row["worked"] <= 1 and "4" in row["pass@k"] for row in rows)


def test_steps_that_processes_cannot_share_and_occupied_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("keep me")
    with pytest.raises(InputError, match="did not write"):
        train(tmp_path / "run", LabRun(**SMALL), overwrite=True)
    assert (tmp_path / "run" / "thesis.txt").read_text() == "keep me"
