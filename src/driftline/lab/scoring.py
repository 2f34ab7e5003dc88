"""Accuracy of a model on held-out problems of a lab task, greedy and sampled.

Drawn with transformers' own `generate` from one random state for a batch, and not with `decoding.sampler`, which seeds
every row: the accuracies that runs have recorded are of these draws, and a run is scored as the runs before it were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from driftline.evaluation.metrics import ks, pass_at_k
from driftline.evaluation.tasks import Task
from driftline.files.record import UNSET, Record, UnsetType
from driftline.lab.model import load
from driftline.lab.tasks import lab_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Scores(Record, kw_only=True, rename={"pass_at_k": "pass@k"}):
    """Shares of right answers, greedy and sampled; the share of sampled answers that were worked out, where they may not be."""

    greedy: float
    sampled: float
    pass_at_k: dict[str, float]
    worked: float | UnsetType = UNSET


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
    worked: Callable[[str], bool] | None = None,
) -> Scores:
    """Shares of right answers to the problems of a task.

    The random state of the caller is left as it was, so scoring never changes a run.

    Args:
        samples: completions of each problem.
        max_new_tokens: None is the task's own.
        worked: whether a completion is worked out, of a task whose answers may be direct.
    """
    import torch

    devices = [model.device] if model.device.type == "cuda" else []
    room = max_new_tokens or task.max_new_tokens
    problems = [*range(len(task.problems))]
    prompts = [task.prompt(index, tokenizer).ids for index in problems]

    def drawn(samples: int, temperature: float) -> list[str]:
        asked = prompts * samples
        return completions(model, tokenizer, asked, temperature=temperature, max_new_tokens=room, batch_size=batch_size)

    def right(texts: list[str]) -> np.ndarray:
        scores = [task.score(text, index % len(problems)) == 1 for index, text in enumerate(texts)]
        return np.array(scores).reshape(-1, len(problems)).T

    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        greedy, sampled = drawn(1, 0.0), drawn(samples, temperature)
    found = right(sampled)
    return Scores(
        greedy=float(right(greedy).mean()),
        sampled=float(found.mean()),
        pass_at_k={str(k): float(pass_at_k(found, k).mean()) for k in ks(samples)},
        worked=UNSET if worked is None else sum(map(worked, sampled)) / len(sampled),
    )


def accuracy_of_folder(folder: Path, count: int, seed: int, *, samples: int) -> Scores:
    """`accuracy` of a saved model on the `count` held-out problems that a lab run of this seed is scored on."""
    model, tokenizer = load(folder)
    task = lab_task("sums").held_out(count, seed, chat=tokenizer.chat_template is not None)
    return accuracy(model, tokenizer, task, seed=seed, samples=samples)
