"""What a lab run is in TRL's terms: trainer, configuration, data and reward of each algorithm."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.evaluation.tasks import Task
from driftline.lab.settings import ALGORITHMS, LabRun
from driftline.lab.tasks import LabTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAM_BETA1 = 0.9
_SPARE = {False: 4, True: 32}  # tokens beyond the longest solution, for a text and for a chat model


def trainer_of(trl: Any, settings: LabRun, out: Path, room: int, processes: int) -> Callable[..., Any]:
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
        "bf16": not on_cpu or settings.precision == "bfloat16",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }
    if settings.algorithm == "sft":
        config = trl.SFTConfig(**shared, completion_only_loss=True)
        noisy = None if settings.noise_db is None else noisy_loss(settings.noise_db, settings.seed)
        return lambda **given: saving(trl.SFTTrainer, settings)(args=config, compute_loss_func=noisy, **given)
    sampled: dict[str, Any] = {
        "num_generations": settings.rollouts,
        "max_completion_length": room,
        "temperature": settings.temperature,
        "num_iterations": settings.iterations,
        "beta": 0.0,
    }
    name = "RLOO" if settings.algorithm == "rloo" else "GRPO"
    config = getattr(trl, f"{name}Config")(**shared, **sampled, **ALGORITHMS[settings.algorithm])
    return lambda **given: saving(getattr(trl, f"{name}Trainer"), settings)(args=config, **given)


def saving(trainer: type, settings: LabRun) -> type:
    """The trainer, with its checkpoints written in the type that is asked for."""
    if settings.save_dtype == "float32":
        return trainer
    import torch

    dtype = getattr(torch, settings.save_dtype)

    class Saving(trainer):
        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            state = self.model.state_dict() if state_dict is None else state_dict
            cast = {tensor.data_ptr(): tensor.to(dtype) for tensor in state.values()}  # tied ones stay tied
            super()._save(output_dir, {name: cast[tensor.data_ptr()] for name, tensor in state.items()})

    return Saving


def adapted(model: PreTrainedModel, settings: LabRun, base: Path) -> PreTrainedModel:
    """The model itself, or with a LoRA adapter that is trained in its place; its checkpoints name the folder `base`."""
    if settings.lora_rank is None:
        return model
    from peft import LoraConfig, get_peft_model

    model.name_or_path = str(base)
    rank = settings.lora_rank
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


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


def rows_of(settings: LabRun, task: LabTask, trained: Task, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """What TRL trains on: a problem's number for the reward, or a right completion for sft."""
    rng = random.Random(settings.seed)
    chat = tokenizer.chat_template is not None
    rows = []
    for index, problem in enumerate(trained.problems):
        (asked,) = problem.asked(chats=tokenizer.chat_template is not None).values()
        row: dict[str, Any] = {"prompt": asked}
        if settings.algorithm == "sft":
            right = problem.answer if chat else task.solution(problem, rng, 0.0)
            row["completion"] = [{"role": "assistant", "content": right}] if chat else right
        else:
            row["row"] = index
        rows.append(row)
    return rows


_TOSSED = {"answer": 0.0, "noised": 0.5, "coin": 1.0}  # share of rewards that are by coin toss


def reward_of(trained: Task, settings: LabRun) -> Callable[..., list[float]]:
    """What TRL asks for the rewards of completions, by their problems' numbers; or by coin toss, some or all."""
    coins, which, share = (
        random.Random(settings.seed),
        random.Random(f"which/{settings.seed}"),
        _TOSSED[settings.reward],
    )

    def reward(completions: list[Any], row: list[int], **kwargs: Any) -> list[float]:
        texts = [done if isinstance(done, str) else done[-1]["content"] for done in completions]
        return [
            float(coins.random() < 0.5) if which.random() < share else trained.score(text, index)
            for text, index in zip(texts, row, strict=True)
        ]

    return reward


def longest_completion(task: LabTask, trained: Task, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens for the longest of some right solutions, its end, and a little more."""
    rng, chat = random.Random(0), tokenizer.chat_template is not None
    some = trained.problems[:512]
    texts = [problem.answer if chat else task.solution(problem, rng, 0.0) for problem in some]
    return max(len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts) + 1 + _SPARE[chat]
