"""Accuracy of a model on held-out problems of a lab task, greedy and sampled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftline.evaluation.tasks.sums import MAX_NEW_TOKENS
from driftline.lab.model import load
from driftline.lab.tasks import LabTask, Row, open_task
from driftline.prompts import encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def asked(row: Row, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The problem as the model is given it: a chat where it has a chat template, else text."""
    if tokenizer.chat_template is None:
        return {"prompt": row["prompt"]}
    return {"messages": [{"role": "user", "content": row["question"]}]}


def completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    temperature: float,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 512,
) -> list[str]:
    """One completion for each row: greedy at temperature 0, else sampled without truncation."""
    import torch

    was_training = model.training
    model.eval()
    texts: list[str] = []
    for start in range(0, len(rows), batch_size):
        ids = [encode(asked(row, tokenizer), tokenizer, "a problem").ids for row in rows[start : start + batch_size]]
        batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt", padding_side="left").to(model.device)
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
    rows: Sequence[Row],
    *,
    seed: int,
    samples: int = 4,
    task: LabTask | None = None,
    temperature: float = 1.0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 512,
) -> dict[str, float]:
    """``{"greedy", "sampled"}``: share of right answers to the task, default sums; sampled over `samples` draws.

    The random state of the caller is left as it was, so scoring never changes a run.
    """
    import torch

    task = task or open_task("sums")
    reward = task.reward if tokenizer.chat_template is None else task.chat_reward
    devices = [model.device] if model.device.type == "cuda" else []

    def share(rows: Sequence[Row], temperature: float) -> float:
        texts = completions(
            model, tokenizer, rows, temperature=temperature, max_new_tokens=max_new_tokens, batch_size=batch_size
        )
        return sum(reward(text, row) == 1 for text, row in zip(texts, rows, strict=True)) / len(rows)

    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        greedy = share(rows, 0.0)
        return {"greedy": greedy, "sampled": share([*rows] * samples, temperature)}


def accuracy_of_folder(folder: Path, count: int, seed: int, *, samples: int) -> dict[str, float]:
    """`accuracy` of a saved model on the `count` held-out problems that a lab run of this seed is scored on."""
    model, tokenizer = load(folder)
    return accuracy(model, tokenizer, open_task("sums").problems(count, seed, True), seed=seed, samples=samples)
