"""GRPO with TRL, watched and re-grounded by two lines, on the small model that comes with driftline.

    python examples/trl_regrounding.py OUT [STEPS]

In a script of your own only the two callbacks are new; `OUT/jumps.json` says where the run was projected.
"""

import sys

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from driftline import LinearityCallback, RegroundingCallback
from driftline.evaluation.tasks.sums import is_right, problems
from driftline.lab.model import load, shipped_base


def right(completions, answer, **kwargs):
    return [float(is_right(text, wanted)) for text, wanted in zip(completions, answer, strict=True)]


def main(out: str, steps: int) -> None:
    model, tokenizer = load(shipped_base())
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[right],
        train_dataset=Dataset.from_list(problems(4096, seed=0)),
        args=GRPOConfig(
            output_dir=out,
            max_steps=steps,
            learning_rate=1e-5,
            lr_scheduler_type="constant",
            beta=0.0,
            per_device_train_batch_size=128,
            num_generations=16,
            max_completion_length=16,
            temperature=1.0,
            logging_steps=1,
            save_steps=10,
            report_to="none",
            use_cpu=True,
            bf16=False,
            dataloader_pin_memory=False,
        ),
        callbacks=[
            LinearityCallback(),  # linearity/... in every log
            RegroundingCallback(m=10, n=10, accept="reward"),  # 10 steps trained, 10 projected, and again
        ],
    )
    trainer.train()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60)
