"""Makes base models by supervised learning, from a seed: what RL starts from.

Two stages. First, right solutions, until the model knows the task. Then, briefly, solutions that are wrong with
probability 0.4 (of sums: each running sum, errors carried on): the model still knows the task (greedy answers
are mostly right) but errs when sampled, which is what RL can mend.

    python -m driftline.lab.warmup --out src/driftline/lab/base --seed 0

The weights of that base are saved as bfloat16 (4.8 MB) and are loaded as float32.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from driftline.lab import model as lab_model
from driftline.lab.scoring import accuracy
from driftline.lab.tasks import LabTask, lab_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STEPS = 1150
_SLIP_SHARE = 150 / 1150  # of the steps, at the end
SLIP = 0.4
_RATE, _TUNING_RATE = 1.5e-3, 5e-5  # of new weights, and of weights trained elsewhere
_TEXTS = 4096  # problems that a tokenizer learns from


def warm_up(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: LabTask,
    *,
    seed: int,
    steps: int = STEPS,
    batch_size: int = 256,
    rate: float = _RATE,
    say: Callable[[str], None] = print,
    say_every: int = 50,
) -> None:
    """Teach the model the task in place; `say` gets a line with loss and held-out accuracy every so often."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=max(steps, 11), pct_start=0.1)
    held_out = task.held_out(256, seed, chat=tokenizer.chat_template is not None)
    rng = random.Random(seed)
    right_steps = steps - round(steps * _SLIP_SHARE)
    started = time.monotonic()
    for step in range(1, steps + 1):
        slip = SLIP if step > right_steps else 0.0
        prompts, solutions = [], []
        drawn = task.batch(batch_size, rng)
        for index, problem in enumerate(drawn.problems):
            prompts.append(drawn.prompt(index, tokenizer).ids)
            text = task.solution(problem, rng, slip)
            solutions.append([*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id])
        ids = [prompt + solution for prompt, solution in zip(prompts, solutions, strict=True)]
        batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt", padding_side="left")
        labels = batch["input_ids"].clone()
        for row_labels, solution in zip(labels, solutions, strict=True):
            row_labels[: -len(solution)] = -100  # learn the completion only
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % say_every == 0 or step == steps:
            longest = max(map(len, solutions)) + 4
            scores = accuracy(model, tokenizer, held_out, seed=seed, samples=2, max_new_tokens=longest, batch_size=256)
            say(
                f"warm-up {step}/{steps}: loss {loss.item():.3f}, right {scores['greedy']:.3f} greedy, "
                f"{scores['sampled']:.3f} sampled ({time.monotonic() - started:.0f} s)"
            )


def fresh(family: str, task: LabTask, *, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A new model of a family and its tokenizer, untrained."""
    if task.name == "sums":
        return lab_model.new_model(seed, family), lab_model.new_tokenizer()
    problems = task.training(_TEXTS, seed).problems
    tokenizer = lab_model.new_tokenizer([f"{problem.prompt}{problem.answer}" for problem in problems])
    return lab_model.new_model(seed, family, vocabulary=len(tokenizer)), tokenizer


def base(
    name: str, task: LabTask, *, steps: int | None = None, say: Callable[[str], None] = print
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What a run starts from: the lab's own model of a family, warmed up; SmolLM2 or a folder, as it is or tuned."""
    if not lab_model.is_small(name):
        model, tokenizer = lab_model.load(name)
        if steps:
            warm_up(model, tokenizer, task, seed=0, steps=steps, batch_size=16, rate=_TUNING_RATE, say=say, say_every=5)
        return model, tokenizer
    if name == "qwen2" and task.name == "sums" and steps in (None, STEPS):
        return lab_model.load(lab_model.shipped_base())

    def make() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        made = fresh(name, task, seed=0)
        if steps != 0:
            warm_up(*made, task, seed=0, steps=steps or STEPS, batch_size=256 if task.name == "sums" else 64, say=say)
        return made

    return lab_model.load(lab_model.warmed(f"{name}-{task.name}-{STEPS if steps is None else steps}", make))


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.set_num_threads(2)
    task = lab_task("sums")
    model, tokenizer = fresh("qwen2", task, seed=args.seed)
    warm_up(model, tokenizer, task, seed=args.seed, steps=args.steps)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
