"""Where does the change of a layer's output come from? (paper, Fig. 4)

For every linear layer, between the first checkpoint and a later one, the change of its output is split into what came
from below (W_0 dx), what its own weights did (dW x_0), and the product of both. The paper finds that the input's term
dominates, and that the product is small: then a line in the weights is a line in the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from driftline.checkpoints.trajectory import open_trajectory
from driftline.files.record import Figure, Record
from driftline.lab.settings import LabRun
from driftline.linearity.names import layer_and_module
from driftline.outputs.activations import Sampling, sampled_positions
from driftline.outputs.logprobs import limits_of, tokenizer_of
from driftline.outputs.rollouts import read_rollouts
from driftline.outputs.source_of_change import change_of_outputs
from driftline.studies.measures import rollouts_of, spread
from driftline.studies.record import SUMS, Findings, StudyRecord

SEEDS = (0, 1, 2)
AT = (0.2, 0.5, 1.0)  # of the run
_TERMS = {"input": "from its input", "weight": "from its weights", "second_order": "from both together"}


class LayerChange(Record):
    """Of a layer's change to a step: deviation of each term over that of the whole, and histograms of the terms."""

    run: str
    step: int
    layer: str
    input: Figure
    weight: Figure
    second_order: Figure
    unexplained: float
    histogram: dict[str, float | list[int]]


class OutputChangeRecord(StudyRecord, kw_only=True):
    rows: list[LayerChange]


RECORD = OutputChangeRecord


def plan(quick: bool, task: str = SUMS) -> dict[str, LabRun]:
    if quick:
        return {
            "seed 0": LabRun(task=task, steps=4, save_every=1, score_every=4, prompts_per_step=2, held_out_problems=16)
        }
    return {f"seed {seed}": LabRun(task=task, steps=100, save_every=10, score_every=100, seed=seed) for seed in SEEDS}


def measure(runs: Mapping[str, Path], quick: bool) -> Findings:
    """A row for each run, step and layer: deviation of each term over that of the whole change."""
    rows = []
    for name, folder in runs.items():
        trajectory = open_trajectory(folder)
        steps = np.array(trajectory.steps)
        file = rollouts_of(folder, folder.parent / f".{folder.name}.rollouts.jsonl", samples=1)
        rollouts = read_rollouts(file, tokenizer_of(trajectory), limits=limits_of(trajectory))
        sampling = Sampling(positions=64 if quick else 512)
        positions = sampled_positions(rollouts, sampling)
        layers = sorted({layer for tensor in trajectory if (layer := layer_and_module(tensor.name)[0]) is not None})
        for step in sorted({int(steps[1:][np.abs(steps[1:] - share * steps[-1]).argmin()]) for share in AT}):
            late = trajectory.checkpoints[trajectory.steps.index(step)]
            for change in change_of_outputs(trajectory.checkpoints[0], late, rollouts, positions, layers=layers):
                record = change.record()
                size = record.sd_total or np.nan
                rows.append(
                    LayerChange(
                        run=name,
                        step=step,
                        layer=change.name,
                        **{term: record.sd[term] / size for term in _TERMS},
                        unexplained=record.unexplained,
                        histogram=record.histogram,
                    )
                )
    return Findings(rows, _findings(rows))


def _findings(rows: list[LayerChange]) -> list[str]:
    found = []
    for step in sorted({row.step for row in rows}):
        runs = dict.fromkeys(row.run for row in rows if row.step == step)
        parts = [
            f"{label} {spread(_middle([row[term] for row in rows if (row.run, row.step) == (run, step)]) for run in runs)}"
            for term, label in _TERMS.items()
        ]
        found.append(
            f"To step {step}, median over layers of each term's deviation over that of the change: {', '.join(parts)}."
        )
    worst = max(row.unexplained for row in rows)
    found.append(f"The terms add up to the change within {worst:.1e} of its size.")
    return found


def _middle(values: list[Figure]) -> float:
    return float(np.nanmedian(np.array(values, float)))
