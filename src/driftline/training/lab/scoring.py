"""Accuracy of a model on held-out problems of the lab's task, greedy and sampled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from driftline.training.lab.model import load
from driftline.training.lab.sums import MAX_NEW_TOKENS, is_right, problems

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    *,
    sample: bool,
    batch_size: int = 512,
) -> list[str]:
    """One completion per prompt: greedy, or sampled at temperature 1 without truncation."""
    import torch

    was_training = model.training
    model.eval()
    texts: list[str] = []
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer(
            prompts[start : start + batch_size],
            return_tensors="pt",
            padding=True,
            return_token_type_ids=False,
        )
        with torch.inference_mode():
            output = model.generate(
                **batch,
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=sample,
                **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}),
            )
        new = output[:, batch["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    model.train(was_training)
    return texts


def accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, str]],
    *,
    seed: int,
    samples: int = 4,
) -> dict[str, float]:
    """``{"greedy", "sampled"}``: share of right answers; sampled is the mean over `samples` draws.

    The random state of the caller is left as it was, so scoring never changes a run.
    """
    import torch

    prompts = [row["prompt"] for row in rows]
    answers = [row["answer"] for row in rows]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        greedy = completions(model, tokenizer, prompts, sample=False)
        drawn = completions(model, tokenizer, prompts * samples, sample=True)
    return {
        "greedy": sum(map(is_right, greedy, answers)) / len(rows),
        "sampled": sum(map(is_right, drawn, answers * samples)) / len(drawn),
    }


def accuracy_of_folder(folder: Path, count: int, seed: int, *, samples: int) -> dict[str, float]:
    """`accuracy` of a saved model on the `count` held-out problems that a lab run of this seed is scored on."""
    model, tokenizer = load(folder)
    return accuracy(model, tokenizer, problems(count, seed, held_out=True), seed=seed, samples=samples)
