"""A real RLVR run on this machine, with TRL: a model of the lab, a verifiable task, an algorithm.

fp32 weights, constant learning rate, no weight decay, no KL term, reward 1 for exactly the right answer. The run
is a folder in TRL's layout with model-only checkpoints, step 0 included, and beside them

    run.json         what made it: settings, optimizer, versions, and whether it was completed
    settings.toml    the settings alone: driftline train --config RUN/settings.toml makes it again
    accuracy.jsonl   greedy and sampled accuracy on held-out problems as it went
    held_out.jsonl   those problems with their answers, for rollouts, evaluate and sweep
    jumps.json       where re-grounding projected it ahead

What RL does here by default: the base knows the arithmetic (greedy accuracy is high) but errs when sampled; RL
sharpens what it knows.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.errors import InputError
from driftline.evaluation.tasks import Task
from driftline.files.json import json_text
from driftline.files.output import refuse_occupied
from driftline.lab.settings import ALGORITHMS, LabRun, check
from driftline.lab.tasks import LabTask, lab_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ADAM_BETA1 = 0.9
MARK = "run.json"
_POOL = 4096  # training problems
_SCORED_SAMPLES = 2
_SPARE = {False: 4, True: 32}  # tokens beyond the longest solution, for a text and for a chat model


def train(
    out: Path,
    settings: LabRun,
    *,
    overwrite: bool = False,
    on_step: Callable[[int, dict[str, float]], None] = lambda step, logged: None,
    say: Callable[[str], None] = lambda sentence: None,
    callbacks: Sequence[Any] = (),
) -> list[dict[str, float]]:
    """Make the run in `out`; returns the rows of `accuracy.jsonl`.

    Under `accelerate launch` the steps are shared by all processes, and the first one writes.

    Args:
        on_step: called after each step with its number and what the trainer logged (reward, ...).
        say: told what a warm-up does, if one is made.
        callbacks: more of them for the trainer.

    Raises:
        InputError: settings that cannot work, something is not installed, or `out` is occupied.
    """
    check(settings)
    refuse_occupied(out, overwrite=overwrite, mark=MARK)
    task = lab_task(settings.task, settings.difficulty)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import torch
        import trl
        from accelerate import PartialState
        from datasets import Dataset, disable_progress_bars
        from transformers import PrinterCallback, TrainerCallback, set_seed
        from transformers.utils import logging as transformers_logging

        from driftline.lab.warmup import base
    except ImportError as error:
        raise InputError(f"the lab needs {error.name}: pip install 'driftline[train]'") from error

    warnings.filterwarnings("ignore", module=r"(torch|transformers|trl|accelerate)\b")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    everyone = PartialState(cpu=settings.device == "cpu")
    if settings.completions_per_step % everyone.num_processes:
        raise InputError(
            f"{settings.completions_per_step} completions per step cannot be shared by {everyone.num_processes} processes: choose another --prompts-per-step or --rollouts"
        )
    with everyone.main_process_first():
        if everyone.is_main_process:
            model, tokenizer = base(settings.model, task, steps=settings.warm_up, say=say)
    if not everyone.is_main_process:  # made by the first process, if it was not there
        model, tokenizer = base(settings.model, task, steps=settings.warm_up)
    chat = tokenizer.chat_template is not None
    trained = task.training(_POOL, settings.seed, chat=chat)
    held_out = task.held_out(settings.held_out_problems, settings.seed, chat=chat)
    room = settings.max_new_tokens or _room(task, trained, tokenizer)
    record: dict[str, Any] = {
        "kind": "lab",
        "optimizer": {"name": settings.optimizer, "adam_beta1": ADAM_BETA1 if settings.optimizer == "adamw" else 0.0},
        "settings": asdict(settings),
        "max_new_tokens": room,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "processes": everyone.num_processes,
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "completed": False,
    }
    if everyone.is_main_process:
        if out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True)
        (out / MARK).write_text(json_text(record))
        (out / "settings.toml").write_text(toml(settings))
        with open(out / "held_out.jsonl", "w", encoding="utf-8") as file:
            for problem in held_out.problems:
                asked = {**problem.asked(tokenizer), "answer": problem.answer}
                file.write(json.dumps(asked, ensure_ascii=False) + "\n")
    everyone.wait_for_everyone()
    set_seed(settings.seed)

    from driftline.lab.scoring import accuracy

    rows: list[dict[str, float]] = []
    scoring = 0.0  # seconds
    reground = _regrounding(settings)
    every = settings.score_every or settings.save_every

    class Follow(TrainerCallback):
        started = time.monotonic()

        def on_log(self, args, state, control, logs=None, **kwargs):
            if state.is_world_process_zero and logs and ("reward" in logs or "loss" in logs):
                on_step(state.global_step, logs)

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % every == 0 or state.global_step == state.max_steps:
                self.score(state.global_step)

        def score(self, step: int) -> None:
            nonlocal scoring
            if not everyone.is_main_process:
                return
            begun = time.monotonic()
            scores = accuracy(
                model,
                tokenizer,
                held_out,
                seed=settings.seed,
                samples=_SCORED_SAMPLES,
                temperature=settings.temperature,
                max_new_tokens=room,
                batch_size=settings.micro_batch or 512,
            )
            now = time.monotonic()
            trained_for = begun - self.started - scoring
            scoring += now - begun
            ahead = {} if reground is None else {"virtual_step": step + reground.virtual_steps_ahead}
            seconds = {"seconds": round(now - self.started, 1), "train_seconds": round(trained_for, 2)}
            rows.append({"step": step, **ahead, **scores, **seconds})
            with open(out / "accuracy.jsonl", "a") as file:
                file.write(json.dumps(rows[-1]) + "\n")

    follow = Follow()
    trainer = _trainer(trl, settings, out, room, everyone.num_processes)(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(_dataset(settings, task, trained, tokenizer)),
        callbacks=[*callbacks, *([] if reground is None else [reground]), follow],
        **({} if settings.algorithm == "sft" else {"reward_funcs": [_reward(trained)]}),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.save_model(str(out / "checkpoint-0"))
    follow.started = time.monotonic()
    follow.score(0)
    trainer.train()
    if everyone.is_main_process:
        done = {"completed": True, "seconds": time.monotonic() - follow.started}
        (out / MARK).write_text(json_text(record | done))
    everyone.wait_for_everyone()
    return rows


def toml(settings: LabRun) -> str:
    """The settings as a file that `--config` takes; those left to their defaults by None are left out."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in asdict(settings).items() if value is not None)


def _trainer(trl: Any, settings: LabRun, out: Path, room: int, processes: int) -> Callable[..., Any]:
    """TRL's trainer of the algorithm with its configuration, to be given a model, data and callbacks."""
    import torch

    total = settings.completions_per_step // processes
    at_once = min(settings.micro_batch or total, total)
    on_cpu = settings.device == "cpu" or not torch.cuda.is_available()
    shared: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused" if settings.optimizer == "adamw" else "sgd",
        "weight_decay": 0.0,
        "adam_beta1": ADAM_BETA1,
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": total // at_once,
        "save_strategy": "steps",
        "save_steps": settings.save_every,
        "save_only_model": True,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": settings.seed,
        "use_cpu": settings.device == "cpu",
        "bf16": not on_cpu,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }
    if settings.algorithm == "sft":
        config = trl.SFTConfig(**shared, completion_only_loss=True)
        noisy = None if settings.noise_db is None else noisy_loss(settings.noise_db, settings.seed)
        return lambda **given: trl.SFTTrainer(args=config, compute_loss_func=noisy, **given)
    sampled: dict[str, Any] = {
        "num_generations": settings.rollouts,
        "max_completion_length": room,
        "temperature": settings.temperature,
        "num_iterations": settings.iterations,
        "beta": 0.0,
    }
    name = "RLOO" if settings.algorithm == "rloo" else "GRPO"
    config = getattr(trl, f"{name}Config")(**shared, **sampled, **ALGORITHMS[settings.algorithm])
    return lambda **given: getattr(trl, f"{name}Trainer")(args=config, **given)


def noisy_loss(db: float, seed: int) -> Callable[..., Any]:
    """Cross entropy with a random weight on every token: w = (1 + s r) / sqrt(1 + r²), s = ±1, r = 10^(-dB / 20).

    The mean weight is the signal, 1 / sqrt(1 + r²), the rest of w noise of r times its size; E[w²] = 1. Far below 0 dB
    what is left is noise alone. A reconstruction: the paper adds such noise to SFT (its Fig. 3) without its formula.
    """
    import torch

    r = 10 ** (-db / 20)
    random_state = torch.Generator().manual_seed(seed)

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        targets = labels[:, 1:].to(outputs.logits.device)
        logits = outputs.logits[:, :-1].float()
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100, reduction="none")
        signs = torch.randint(0, 2, each.shape, generator=random_state).to(each.device) * 2 - 1
        weights = (1 + signs * r) / math.sqrt(1 + r * r)
        items = num_items_in_batch if num_items_in_batch is not None else (targets != -100).sum()
        return (each * weights).sum() / items

    return loss


def _dataset(
    settings: LabRun, task: LabTask, trained: Task, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """What TRL trains on: a problem's number for the reward, or a right completion for sft."""
    rng = random.Random(settings.seed)
    chat = tokenizer.chat_template is not None
    rows = []
    for index, problem in enumerate(trained.problems):
        (asked,) = problem.asked(tokenizer).values()
        row: dict[str, Any] = {"prompt": asked}
        if settings.algorithm == "sft":
            right = problem.answer if chat else task.solution(problem, rng, 0.0)
            row["completion"] = [{"role": "assistant", "content": right}] if chat else right
        else:
            row["row"] = index
        rows.append(row)
    return rows


def _reward(trained: Task) -> Callable[..., list[float]]:
    def reward(completions: list[Any], row: list[int], **kwargs: Any) -> list[float]:
        texts = [done if isinstance(done, str) else done[-1]["content"] for done in completions]
        return [trained.score(text, index) for text, index in zip(texts, row, strict=True)]

    return reward


def _room(task: LabTask, trained: Task, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens for the longest of some right solutions, its end, and a little more."""
    rng, chat = random.Random(0), tokenizer.chat_template is not None
    some = trained.problems[:512]
    texts = [problem.answer if chat else task.solution(problem, rng, 0.0) for problem in some]
    return max(len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts) + 1 + _SPARE[chat]


def _regrounding(settings: LabRun) -> Any:
    if settings.m is None or settings.n is None:
        return None
    from driftline.training.regrounding import RegroundingCallback

    return RegroundingCallback(settings.m, settings.n, method=settings.jump, accept=settings.accept)
