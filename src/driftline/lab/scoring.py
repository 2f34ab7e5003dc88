"""Accuracy of a model on held-out problems of a lab task, greedy and sampled.

Drawn with transformers' own `generate` from one random state for a batch, and not with `decoding.sampler`, which seeds
every row: the accuracies that runs have recorded are of these draws, and a run is scored as the runs before it were.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from driftline.evaluation.tasks import Task
from driftline.lab.model import load
from driftline.lab.tasks import lab_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    *,
    temperature: float,
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """One completion for each prompt (token ids): greedy at temperature 0, else sampled without truncation."""
    import torch

    was_training = model.training
    model.eval()
    texts: list[str] = []
    for start in range(0, len(prompts), batch_size):
        ids = {"input_ids": prompts[start : start + batch_size]}
        batch = tokenizer.pad(ids, return_tensors="pt", padding_side="left").to(model.device)
        sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
        with torch.inference_mode():
            output = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=max_new_tokens,
                do_sample=temperature > 0,
                pad_token_id=tokenizer.pad_token_id,
                **sampling,
            )
        new = output[:, batch["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    model.train(was_training)
    return texts


def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    seed: int,
    samples: int = 4,
    temperature: float = 1.0,
    max_new_tokens: int | None = None,
    batch_size: int = 512,
) -> dict[str, float]:
    """``{"greedy", "sampled"}``: share of right answers to the problems of a task; sampled over `samples` draws.

    The random state of the caller is left as it was, so scoring never changes a run.

    Args:
        max_new_tokens: None is the task's own.
    """
    import torch

    devices = [model.device] if model.device.type == "cuda" else []
    room = max_new_tokens or task.max_new_tokens
    problems = [*range(len(task.problems))]
    prompts = [task.prompt(index, tokenizer).ids for index in problems]

    def share(samples: int, temperature: float) -> float:
        asked = prompts * samples
        texts = completions(
            model, tokenizer, asked, temperature=temperature, max_new_tokens=room, batch_size=batch_size
        )
        right = [task.score(text, index) == 1 for text, index in zip(texts, problems * samples, strict=True)]
        return sum(right) / len(right)

    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        greedy = share(1, 0.0)
        return {"greedy": greedy, "sampled": share(samples, temperature)}


def accuracy_of_folder(folder: Path, count: int, seed: int, *, samples: int) -> dict[str, float]:
    """`accuracy` of a saved model on the `count` held-out problems that a lab run of this seed is scored on."""
    model, tokenizer = load(folder)
    task = lab_task("sums").held_out(count, seed, chat=tokenizer.chat_template is not None)
    return accuracy(model, tokenizer, task, seed=seed, samples=samples)
