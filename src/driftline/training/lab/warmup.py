"""Makes the lab's base model by supervised learning, from a seed: what RL starts from.

Two stages. First, right solutions, until the model knows the arithmetic. Then, briefly, solutions
whose running sums slip with probability 0.4, errors carried on: the model still knows the
arithmetic (greedy answers are mostly right) but errs when sampled, which is what RL can mend.

    python -m driftline.training.lab.warmup --out src/driftline/training/lab/base --seed 0

The weights are saved as bfloat16 (4.8 MB) and are loaded as float32.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from driftline.training.lab import model as lab_model
from driftline.training.lab.scoring import accuracy
from driftline.training.lab.sums import problems, solution


def warm_up(*, seed: int, right_steps: int, slip_steps: int, batch_size: int, slip: float, log_every: int = 50):
    """A warmed-up ``(model, tokenizer)``; prints loss and held-out accuracy as it goes."""
    import torch

    tokenizer = lab_model.new_tokenizer()
    model = lab_model.new_model(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    steps = right_steps + slip_steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.5e-3, total_steps=steps, pct_start=0.1)
    held_out = problems(256, seed, held_out=True)
    rng = random.Random(seed)
    started = time.monotonic()
    for step in range(1, steps + 1):
        stage_slip = slip if step > right_steps else 0.0
        rows = problems(batch_size, rng.randrange(2**31))
        texts = [row["prompt"] + solution(row["prompt"], rng, stage_slip) for row in rows]
        batch = tokenizer(
            [text + lab_model.END for text in texts],
            return_tensors="pt",
            padding=True,
            return_token_type_ids=False,
        )
        labels = batch["input_ids"].clone()
        for row, text in enumerate(texts):  # learn the completion only
            padding = int((batch["attention_mask"][row] == 0).sum())
            labels[row, : padding + text.index("=") + 1] = -100
        loss = model(**batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % log_every == 0 or step == steps:
            scores = accuracy(model, tokenizer, held_out, seed=seed, samples=2)
            print(
                f"step {step}/{steps} slip {stage_slip} loss {loss.item():.3f} greedy {scores['greedy']:.3f} "
                f"sampled {scores['sampled']:.3f} ({time.monotonic() - started:.0f} s)",
                flush=True,
            )
    return model, tokenizer


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--right-steps", type=int, default=1000)
    parser.add_argument("--slip-steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--slip", type=float, default=0.4)
    args = parser.parse_args()
    torch.set_num_threads(2)
    model, tokenizer = warm_up(
        seed=args.seed,
        right_steps=args.right_steps,
        slip_steps=args.slip_steps,
        batch_size=args.batch_size,
        slip=args.slip,
    )
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
