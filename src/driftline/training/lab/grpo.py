"""A real RLVR run on this machine: TRL's GRPOTrainer, the lab's base model, the lab's task.

CPU, fp32 weights, AdamW without weight decay, constant learning rate, no KL term, temperature 1,
groups of 16 completions, reward 1 for exactly the right answer and 0 otherwise. The run is a folder in
TRL's layout with model-only checkpoints, step 0 included, and two files beside them: `run.json`, with
everything that made it, and `accuracy.jsonl`, greedy and sampled accuracy on held-out problems.

What RL does here: the base knows the arithmetic (greedy accuracy is high) but errs when sampled; RL
sharpens what it knows.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from driftline.checkpoints.writer import json_text, refuse_occupied
from driftline.errors import InputError
from driftline.training.lab import model as lab_model
from driftline.training.lab.scoring import accuracy
from driftline.training.lab.sums import MAX_NEW_TOKENS, is_right, problems

GROUP = 16  # completions per prompt
ADAM_BETA1 = 0.9


@dataclass(frozen=True)
class LabRun:
    """Settings of a lab run."""

    steps: int = 150
    save_every: int = 10
    learning_rate: float = 1e-5
    completions_per_step: int = 256
    held_out_problems: int = 256
    seed: int = 0
    model: str | None = None  # a local folder; default the base model that comes with driftline


def check(settings: LabRun) -> None:
    """Refuse settings that cannot work, before anything is loaded or written."""
    for name in ("steps", "save_every", "completions_per_step", "held_out_problems"):
        if getattr(settings, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(settings, name)}: it must be at least 1")
    if settings.completions_per_step % GROUP:
        raise InputError(f"--completions-per-step must be a multiple of {GROUP}, the completions per prompt")
    if not settings.learning_rate > 0:
        raise InputError(f"--learning-rate is {settings.learning_rate}: it must be above 0")
    if settings.model is not None and not Path(settings.model).is_dir():
        raise InputError(f"--model {settings.model} is not a local folder: give the folder of a causal language model")


def train(
    out: Path,
    settings: LabRun,
    *,
    overwrite: bool = False,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, logged: None,
) -> list[dict[str, float]]:
    """Make the run in `out`; returns the rows of `accuracy.jsonl`.

    Args:
        on_step: called after each step with its number and what the trainer logged (reward, ...).
    """
    check(settings)
    refuse_occupied(out, overwrite=overwrite, mark="run.json")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import torch
        from datasets import Dataset, disable_progress_bars
        from transformers import TrainerCallback, set_seed
        from transformers.utils import logging as transformers_logging
        from trl import GRPOConfig, GRPOTrainer
    except ImportError as error:
        raise InputError(f"the lab needs {error.name}: pip install 'driftline[train]'") from error

    warnings.filterwarnings("ignore", module=r"(torch|transformers|trl|accelerate)\b")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    record: dict[str, Any] = {
        "kind": "lab",
        "algorithm": "grpo",
        "optimizer": {"name": "adamw", "adam_beta1": ADAM_BETA1},
        "task": "sums",
        **asdict(settings),
        "completed": False,
    }
    (out / "run.json").write_text(json_text(record))

    set_seed(settings.seed)
    model, tokenizer = lab_model.load(settings.model or lab_model.shipped_base())
    held_out = problems(settings.held_out_problems, settings.seed, held_out=True)
    rows: list[dict[str, float]] = []
    started = time.monotonic()

    def score(step: int) -> None:
        scores = accuracy(model, tokenizer, held_out, seed=settings.seed, samples=2)
        rows.append({"step": step, **scores, "seconds": round(time.monotonic() - started, 1)})
        with open(out / "accuracy.jsonl", "a") as file:
            file.write(json.dumps(rows[-1]) + "\n")

    class Follow(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if "reward" in (logs or {}):
                on_step(state.global_step, logs)

        def on_save(self, args, state, control, **kwargs):
            score(state.global_step)

    def reward(completions: list[str], answer: list[str], **kwargs) -> list[float]:
        return [float(is_right(text, right)) for text, right in zip(completions, answer, strict=True)]

    config = GRPOConfig(
        output_dir=str(out),
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        adam_beta1=ADAM_BETA1,
        per_device_train_batch_size=settings.completions_per_step,
        num_generations=GROUP,
        max_completion_length=MAX_NEW_TOKENS,
        temperature=1.0,
        beta=0.0,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_only_model=True,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
    )
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=[reward],
        args=config,
        train_dataset=Dataset.from_list(problems(4096, settings.seed)),
        processing_class=tokenizer,
        callbacks=[Follow()],
    )
    trainer.remove_callback(_printer())
    trainer.save_model(str(out / "checkpoint-0"))
    score(0)
    trainer.train()
    (out / "run.json").write_text(json_text(record | {"completed": True, "seconds": time.monotonic() - started}))
    return rows


def _printer() -> type:
    from transformers import PrinterCallback

    return PrinterCallback
