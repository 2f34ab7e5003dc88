"""What the callbacks cost inside a trainer, on the lab's model, task and step (256 completions of GRPO).

    python benchmarks/monitor.py [STEPS]

Time inside the monitor against the time of whole steps, the first (warm-up) left out; then the time of a
jump, of the lab's 2.4 million fp32 weights and of 256 million bfloat16 ones.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from msgspec import UNSET
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from driftline.evaluation.tasks.sums import MAX_NEW_TOKENS, is_right, problems
from driftline.lab.model import load, shipped_base
from driftline.training.monitor import LinearityCallback
from driftline.training.projection import deltas_gram, project
from driftline.training.regrounding import RegroundingCallback

GROUP = 16  # completions of a prompt


class Timed(LinearityCallback):
    """Notes when each log began and how long it took."""

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []
        self.spent: list[float] = []

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        started = time.perf_counter()
        super().on_log(args, state, control, logs=logs, model=model, **kwargs)
        if logs and "loss" in logs:
            self.at.append(started)
            self.spent.append(time.perf_counter() - started)


def right(completions: list[str], answer: list[str], **kwargs) -> list[float]:
    return [float(is_right(text, wanted)) for text, wanted in zip(completions, answer, strict=True)]


def run(out: Path, steps: int) -> tuple[Timed, RegroundingCallback]:
    monitor, jumps = Timed(), RegroundingCallback(steps, 1)
    model, tokenizer = load(shipped_base())
    config = GRPOConfig(
        output_dir=str(out),
        max_steps=steps,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        per_device_train_batch_size=256,
        num_generations=GROUP,
        max_completion_length=MAX_NEW_TOKENS,
        beta=0.0,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[right],
        args=config,
        train_dataset=Dataset.from_list(problems(4096, 0)),
        processing_class=tokenizer,
        callbacks=[monitor, jumps],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return monitor, jumps


def jump_seconds(size: int, dtype: torch.dtype) -> float:
    points = [{"w": torch.randn(size, dtype=dtype)} for _ in range(2)]
    started = time.perf_counter()
    deltas_gram(points)
    project(points, np.array([-1.0, 2.0]))
    return time.perf_counter() - started


def main(steps: int) -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as scratch:
        monitor, jumps = run(Path(scratch), steps)
    took = np.diff(monitor.at)
    spent = np.array(monitor.spent[:-1])
    print(
        f"step of the lab: median {np.median(took):.2f} s; monitor: median {1e3 * np.median(spent):.1f} ms a log, "
        f"worst {1e3 * spent.max():.0f} ms; overhead {100 * spent.sum() / (took.sum() - spent.sum()):.2f} %"
    )
    jump = jumps.jumps[0]
    assert jump.seconds is not UNSET
    assert jump.parameters is not UNSET
    for what, seconds, size in (
        ("the lab's model, fp32", jump.seconds, jump.parameters),
        ("256 million bfloat16 weights", jump_seconds(1 << 28, torch.bfloat16), 1 << 28),
    ):
        print(f"a jump of {what}: {1e3 * seconds:.1f} ms, {1e12 * seconds / size:.0f} ms per billion weights")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
