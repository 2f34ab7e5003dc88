"""Re-grounding in TRL's GRPOTrainer: jumps only where it samples afresh, and resume to the bit."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny_trainer import tiny_model, weights

from driftline.checkpoints.jumps import read_jumps
from driftline.errors import InputError
from driftline.evaluation.tasks.sums import problems
from driftline.lab.model import new_tokenizer
from driftline.training.regrounding import RegroundingCallback

pytestmark = pytest.mark.filterwarnings("ignore")


def grpo(out, callback, *, steps: int, seed: int = 0, bonus=lambda step: 0.0, **settings):
    """A trainer, and the steps at which it sampled."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    sampled: list[int] = []

    def reward(completions, **kwargs):
        sampled.append(trainer.state.global_step)
        return [float(text.count("1")) + bonus(trainer.state.global_step) for text in completions]

    arguments = {
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 4,
        "beta": 0.0,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }
    trainer = GRPOTrainer(
        model=tiny_model(seed),
        reward_funcs=[reward],
        args=GRPOConfig(output_dir=str(out), max_steps=steps, **(arguments | settings)),
        train_dataset=Dataset.from_list(problems(64, 0)),
        processing_class=new_tokenizer(),
        callbacks=[callback],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, sampled


def test_no_rollout_from_before_a_jump_trains_after_it(tmp_path):
    """Two generations' worth of reuse: 2 batches x 2 iterations. A resume in mid-buffer shifts the generations."""
    reuse = {"steps_per_generation": 2, "num_iterations": 2}
    trainer, sampled = grpo(tmp_path, RegroundingCallback(4, 6), steps=12, **reuse)
    trainer.train()
    assert sampled == [0, 4, 8]
    assert [jump.step for jump in read_jumps(tmp_path)] == [4, 8, 12]
    for step in (8, 10, 12):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    trainer, sampled = grpo(tmp_path, RegroundingCallback(4, 6), steps=16, **reuse)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert sampled == [6, 10, 14]
    jumps = read_jumps(tmp_path)
    assert [jump.step for jump in jumps] == [4, 10, 14]
    assert [(jump.trained_from, jump.trained_to, jump.projected_to) for jump in jumps] == [
        (0, 4, 10),
        (10, 16, 22),
        (22, 26, 32),
    ]


@pytest.mark.parametrize(
    ("settings", "unit"),
    [({"num_iterations": 3}, 3), ({"steps_per_generation": 4, "gradient_accumulation_steps": 2}, 2)],
)
def test_jumps_between_generations_are_refused(tmp_path, settings, unit):
    trainer, _ = grpo(tmp_path, RegroundingCallback(5, 6), steps=12, **settings)
    with pytest.raises(InputError, match=f"use a multiple of {unit}, such as 6"):
        trainer.train()


def test_a_resumed_grpo_run_ends_in_the_same_bits(tmp_path):
    trainer, _ = grpo(tmp_path / "whole", RegroundingCallback(4, 4, accept="reward", window=2), steps=10)
    trainer.train()
    assert read_jumps(tmp_path / "whole")[0].accepted is not None
    out = tmp_path / "resumed"
    shutil.copytree(tmp_path / "whole", out)
    for step in (8, 10):
        shutil.rmtree(out / f"checkpoint-{step}")
    again, _ = grpo(out, RegroundingCallback(4, 4, accept="reward", window=2), steps=10, seed=5)
    again.train(resume_from_checkpoint=str(out / "checkpoint-6"))
    for name, value in weights(trainer.model).items():
        assert torch.equal(value, weights(again.model)[name]), name


def test_the_guard_where_rollouts_are_used_twice(tmp_path):
    """Rewards are logged at every second step only, and a roll-back waits for the next generation."""
    callback = RegroundingCallback(6, 4, accept="reward", window=2)
    trainer, sampled = grpo(tmp_path, callback, steps=12, num_iterations=2, bonus=lambda step: 100.0 * (step < 6))
    trainer.train()
    assert sampled == [0, 2, 4, 6, 8, 10]
    (jump,) = read_jumps(tmp_path)
    assert (jump.step, jump.accepted, jump.rolled_back_at) == (6, False, 10)
