"""Following a lab run from inside its trainer: what it logged is told, and held-out problems are scored as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from driftline.evaluation.tasks import Task
from driftline.files.lines import continued
from driftline.files.record import UNSET
from driftline.lab.record import ACCURACY, ScoredStep
from driftline.lab.scoring import accuracy
from driftline.lab.settings import LabRun
from driftline.lab.tasks import LabTask

OnStep = Callable[[int, dict[str, float]], None]


@dataclass(eq=False)
class Follow(TrainerCallback):
    """Keeps `accuracy.jsonl`, in the process that writes.

    Attributes:
        writes: whether this process is the one.
        rows: the scores so far.
        started: where the seconds are counted from, on the monotonic clock.
        reground: the callback that projects the run ahead, or None.
    """

    out: Path
    settings: LabRun
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: LabTask
    held_out: Task
    longest: int
    writes: bool
    on_step: OnStep
    reground: Any
    rows: list[ScoredStep] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    scoring: float = 0.0  # seconds

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs and ("reward" in logs or "loss" in logs):
            self.on_step(state.global_step, logs)

    def on_step_end(self, args, state, control, **kwargs):
        every = self.settings.score_every or self.settings.save_every
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            self.score(state.global_step)

    def score(self, step: int) -> None:
        """Score the model as it is, and add the row; nothing in a process that does not write."""
        if not self.writes:
            return
        begun = time.monotonic()
        scores = accuracy(
            self.model,
            self.tokenizer,
            self.held_out,
            seed=self.settings.seed,
            samples=self.task.samples,
            temperature=self.settings.temperature,
            max_new_tokens=self.longest,
            batch_size=self.settings.micro_batch or 512,
            worked=None if self.task.habit is None or self.tokenizer.chat_template else self.task.habit.worked,
        )
        now = time.monotonic()
        row = ScoredStep(
            step=step,
            virtual_step=UNSET if self.reground is None else step + self.reground.virtual_steps_ahead,
            greedy=scores.greedy,
            sampled=scores.sampled,
            pass_at_k=scores.pass_at_k,
            worked=scores.worked,
            seconds=round(now - self.started, 1),
            train_seconds=round(begun - self.started - self.scoring, 2),
        )
        self.scoring += now - begun
        self.rows.append(row)
        with continued(self.out / ACCURACY) as lines:
            lines.append([msgspec.to_builtins(row)])
