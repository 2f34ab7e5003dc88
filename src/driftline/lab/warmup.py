"""Makes base models by supervised learning, from a seed: what RL starts from.

First, right solutions, until the model knows the task. Then one of two endings:

    slips    solutions that are wrong with probability 0.4 (of sums: each running sum, errors carried on): the model
             still knows the task (greedy answers are mostly right) but errs when sampled, which is what RL can mend
    habit    of the task strategy, after the slips: seven in ten solutions are the bare answer, the others are worked
             out. The model then answers directly seven times in ten, and is seldom right when it does; greedy answers
             are mostly wrong, and RL can mend that by changing what the model does

The bases of sums and strategy come with the package (bfloat16, 4.8 MB each, loaded as float32) and were made by

    python -m driftline.lab.warmup --task sums --out src/driftline/lab/bases/sums --seed 0
    python -m driftline.lab.warmup --task strategy --out src/driftline/lab/bases/strategy --seed 0
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from driftline.evaluation.tasks import Problem, sums
from driftline.lab import model as lab_model
from driftline.lab.scoring import accuracy
from driftline.lab.tasks import LabTask, lab_task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STEPS = 1150
_SLIP_SHARE = 150 / 1150  # of the steps, at the end
SLIP = 0.4
_RATE, _TUNING_RATE = 1.5e-3, 5e-5  # of new weights, and of weights trained elsewhere
_RISE, _SHORTEST = 0.1, 11  # the share of steps in which the rate rises, and the fewest that such a schedule takes
SHIPPED = ("sums", "strategy")
HABIT_STEPS = 150
HABIT = 0.7  # share of solutions that are the bare answer
_HABIT_RATE, _HABIT_RISE = 3e-4, 10  # learning rate, and the steps in which it rises
_TEXTS = 4096  # problems that a tokenizer learns from


Solve = Callable[[Problem, random.Random, int], str]
"""(problem, random, step) -> the solution that is learned."""


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
    """Teach the model the task in place, with slips at the end; `say` gets a line with the scores every so often."""
    import torch

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=rate, total_steps=max(steps, _SHORTEST), pct_start=_RISE
        )

    def solve(problem: Problem, rng: random.Random, step: int) -> str:
        return task.solution(problem, rng, SLIP if step > right_steps else 0.0)

    right_steps = steps - round(steps * _SLIP_SHARE)
    _teach(model, tokenizer, task, solve, schedule, seed, steps, batch_size, say, say_every)


def take_habit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: LabTask,
    *,
    seed: int,
    steps: int = HABIT_STEPS,
    batch_size: int = 256,
    say: Callable[[str], None] = print,
    say_every: int = 50,
) -> None:
    """Teach a model that knows the task to answer it directly most of the time, in place; the task has a habit."""
    import torch

    habit = task.habit
    assert habit is not None

    def schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        def factor(done: int) -> float:
            return min(1.0, (done + 1) / _HABIT_RISE) * max(1 - (done + 1) / (steps + 1), 0.0)

        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] = _HABIT_RATE
        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def solve(problem: Problem, rng: random.Random, step: int) -> str:
        return habit.answer(problem) if rng.random() < HABIT else task.solution(problem, rng, 0.0)

    _teach(model, tokenizer, task, solve, schedule, seed, steps, batch_size, say, say_every)


def _teach(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: LabTask,
    solve: Solve,
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler],
    seed: int,
    steps: int,
    batch_size: int,
    say: Callable[[str], None],
    say_every: int,
) -> None:
    """Supervised steps on fresh problems, the loss on the solutions alone."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    rates = schedule(optimizer)
    held_out = task.held_out(256, seed, chat=tokenizer.chat_template is not None)
    rng = random.Random(seed)
    started = time.monotonic()
    for step in range(1, steps + 1):
        prompts, solutions = [], []
        drawn = task.batch(batch_size, rng)
        for index, problem in enumerate(drawn.problems):
            prompts.append(drawn.prompt(index, tokenizer).ids)
            text = solve(problem, rng, step)
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
        rates.step()
        optimizer.zero_grad()
        if step % say_every == 0 or step == steps:
            longest = max(map(len, solutions)) + 4
            scores = accuracy(model, tokenizer, held_out, seed=seed, samples=2, max_new_tokens=longest, batch_size=256)
            say(
                f"warm-up {step}/{steps}: loss {loss.item():.3f}, right {scores.greedy:.3f} greedy, "
                f"{scores.sampled:.3f} sampled ({time.monotonic() - started:.0f} s)"
            )


def fresh(family: str, task: LabTask, *, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A new model of a family and its tokenizer, untrained."""
    if task.knowledge in sums.TERMS:
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
    if name == "qwen2" and task.name in SHIPPED and steps in (None, STEPS):
        return lab_model.load(lab_model.shipped_base(task.name))

    def make() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        return made(name, task, steps=STEPS if steps is None else steps, seed=0, say=say)

    return lab_model.load(lab_model.warmed(f"{name}-{task.name}-{STEPS if steps is None else steps}", make))


def made(
    family: str, task: LabTask, *, steps: int, seed: int, say: Callable[[str], None] = print
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A base model of the lab, warmed up here; a habit is taken by the base of the task that is known."""
    if task.name != task.knowledge:
        model, tokenizer = base(family, lab_task(task.knowledge), steps=steps, say=say)
        take_habit(model.train(), tokenizer, task, seed=seed, say=say)
        return model, tokenizer
    model, tokenizer = fresh(family, task, seed=seed)
    if steps:
        warm_up(
            model,
            tokenizer,
            task,
            seed=seed,
            steps=steps,
            batch_size=256 if task.knowledge in sums.TERMS else 64,
            say=say,
        )
    return model, tokenizer


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", choices=SHIPPED, default=SHIPPED[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the warm-up that a habit is taken after")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = made("qwen2", lab_task(args.task), steps=args.steps, seed=args.seed)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
