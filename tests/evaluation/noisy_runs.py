"""Runs whose best checkpoint is known: the lab's base with noise, and sweeps of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from lab_samplers import base_sampler

from driftline.checkpoints.trajectory import Trajectory, open_trajectory
from driftline.decoding.settings import GenerationSettings
from driftline.evaluation.records import SweepRecord
from driftline.evaluation.sweep import sweep
from driftline.evaluation.tasks import Task
from driftline.forecast.request import ForecastRequest

SETTINGS = GenerationSettings(late="run", temperature=0.0, samples=1, max_new_tokens=16)


def noisy_run(folder: Path, noise_of: Mapping[int, float]) -> Trajectory:
    """Checkpoints by their steps: the base plus so much of one noise, which is as large as its weights."""
    base = base_sampler()
    torch.manual_seed(0)
    noise = {name: torch.randn_like(w) * w.std() for name, w in base.late.named_parameters() if w.ndim == 2}
    for step, amount in noise_of.items():
        model = copy.deepcopy(base.late)
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if name in noise:
                    weights += amount * noise[name]
        model.save_pretrained(folder / f"checkpoint-{step}")
        base.tokenizer.save_pretrained(folder / f"checkpoint-{step}")
    return open_trajectory(folder)


def colder_run(folder: Path, scale_of: Mapping[int, float]) -> Trajectory:
    """Checkpoints by their steps: the base with its last layer times so much, which makes it surer and nothing else."""
    base = base_sampler()
    for step, scale in scale_of.items():
        model = copy.deepcopy(base.late)
        model.lm_head.weight = torch.nn.Parameter(scale * base.late.lm_head.weight.detach())
        model.config.tie_word_embeddings = False
        model.save_pretrained(folder / f"checkpoint-{step}")
        base.tokenizer.save_pretrained(folder / f"checkpoint-{step}")
    return open_trajectory(folder)


def request(*targets: int, seen: tuple[int, ...] = ()) -> ForecastRequest:
    return ForecastRequest(targets=targets, method="two-point", seen=seen)


def swept(
    run: Trajectory, task: Task, out: Path, asked: ForecastRequest, settings: GenerationSettings = SETTINGS, **more
) -> SweepRecord:
    """The sweep for `out`, written into the folder beside it whose name ends in `-folder`."""
    folder = out.with_name(out.name + "-folder")
    folder.mkdir(exist_ok=True)
    found = sweep(run, task, out, asked, settings, batch_size=48, **more)
    found.write(folder)
    return found.record
