"""Is the straightness there in every setting? (paper, Fig. 2)

Weights and log-probs over settings grouped as in the paper: kind of post-training, scale, architecture, dense or mixture
of experts, reasoning or not, algorithm, optimizer, learning rate, batch, rollouts. One setting at a time is changed from
the demo's. (Without any warm-up a lab model earns no reward, so there is no RL from scratch; half of it comes nearest.) Each row's own null stands beside it: the paper's line at 0.7 is crossed by chance as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.files.record import UNSET, Figure, Record, UnsetType
from driftline.lab.record import read_run
from driftline.lab.settings import LabRun
from driftline.linearity.summary import R2, NullR2
from driftline.studies.measures import logprob_summary, rollouts_of, spread, summaries
from driftline.studies.record import STRATEGY, SUMS, Findings, StudyRecord

SEEDS = (0, 1, 2)
GROUPS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "post-training": {"RL": {}, "SFT": {"algorithm": "sft"}, "RL after half the warm-up": {"warm_up": 600}},
    "scale": {
        "0.6 million": {"model": "qwen2-small"},
        "5.3 million": {"model": "qwen2-large", "warm_up": 600},  # to be held against half the warm-up
    },
    "architecture": {"Llama": {"model": "llama"}, "Qwen3": {"model": "qwen3"}},
    "mixture of experts": {"Qwen3 MoE": {"model": "qwen3-moe"}},
    "task": {"spelling backward": {"task": "spell_backward"}},
    "algorithm": {
        "Dr. GRPO": {"algorithm": "dr-grpo"},
        "GSPO": {"algorithm": "gspo"},
        "REINFORCE++": {"algorithm": "reinforce++"},
        "RLOO": {"algorithm": "rloo"},
    },
    "optimizer": {"SGD": {"optimizer": "sgd", "learning_rate": 0.1}},
    "learning rate": {"3e-6": {"learning_rate": 3e-6}, "3e-5": {"learning_rate": 3e-5}},
    "batch": {"4 problems a step": {"prompts_per_step": 4}, "32 problems a step": {"prompts_per_step": 32}},
    "rollouts": {"8 of each": {"rollouts": 8}, "32 of each": {"rollouts": 32}},
}
IN_STRATEGY: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "post-training": {"RL": {}, "SFT": {"algorithm": "sft"}},
    "architecture": {"Llama": {"model": "llama", "warm_up": 600}, "Qwen3": {"model": "qwen3", "warm_up": 600}},
    "algorithm": GROUPS["algorithm"],
    "learning rate": GROUPS["learning rate"],
}
_SHAPE: dict[str, Any] = {
    "steps": 60,
    "save_every": 4,
    "score_every": 60,
    "prompts_per_step": 8,
    "held_out_problems": 128,
}
_QUICK: dict[str, Any] = {"steps": 6, "save_every": 1, "score_every": 6, "prompts_per_step": 2, "held_out_problems": 16}
_QUICK_SETTINGS = ("RL", "SFT", "SGD")


class SettingR2(Record, kw_only=True, rename={"share_above_07": "share_above_0.7"}):
    """R² of weights or log-probs, or of their null; of what was not measured, quartiles that are None."""

    mean: Figure | UnsetType = UNSET
    median: Figure
    q25: Figure
    q75: Figure
    share_above_07: Figure | UnsetType = UNSET
    changed_share: float | UnsetType = UNSET
    kept_share: float | UnsetType = UNSET


class InSetting(Record):
    """A run in its setting; the seed is None of a run that is none of the lab's."""

    group: str
    setting: str
    seed: int | None
    weights: SettingR2
    null_weights: SettingR2
    logprobs: SettingR2
    null_logprobs: SettingR2
    cosine: Figure
    skill: Figure
    linear: bool


class RobustnessRecord(StudyRecord, kw_only=True):
    rows: list[InSetting]


RECORD = RobustnessRecord
_UNKNOWN = SettingR2(median=None, q25=None, q75=None)


def plan(quick: bool, task: str = SUMS) -> dict[str, LabRun]:
    shape = {"task": task, **(_QUICK if quick else _SHAPE)}
    return {
        f"{group}: {name}, seed {seed}": LabRun(**{**shape, "seed": seed, **change})
        for seed in SEEDS[: 1 if quick else None]
        for group, settings in (IN_STRATEGY if task == STRATEGY else GROUPS).items()
        for name, change in settings.items()
        if not quick or name in _QUICK_SETTINGS
    }


def measure(runs: Mapping[str, Path], quick: bool) -> Findings:
    """A row for each run: R² of weights and, of a run of the lab, of log-probs, each beside its null."""
    rows = [of_run(name, folder, samples=1 if quick else 4) for name, folder in runs.items()]
    return Findings(rows, findings(rows))


def of_run(name: str, folder: Path, *, samples: int) -> InSetting:
    """Of a label such as `group: setting, seed 0`, or of any run by its name."""
    trajectory = open_trajectory(folder)
    (weights,) = summaries(trajectory, "none")
    outputs = null_outputs = _UNKNOWN
    if (folder / "held_out.jsonl").is_file():  # a run of the lab: its problems are there
        rollouts = folder.parent / f".{folder.name}.rollouts.jsonl"
        found = logprob_summary(trajectory, rollouts_of(folder, rollouts, samples=samples))
        outputs, null_outputs = _r2(found.r2), _r2(found.null_r2)
    group, _, setting = name.rpartition(", seed ")[0].partition(": ")
    return InSetting(
        group=group or "runs",
        setting=setting or name,
        seed=_seed(folder),
        weights=_r2(weights.r2),
        null_weights=_r2(weights.null_r2),
        logprobs=outputs,
        null_logprobs=null_outputs,
        cosine=weights.drift.increment_cosine,
        skill=weights.skill.methods["damped"],
        linear=weights.verdict.linear,
    )


def _r2(figures: R2 | NullR2) -> SettingR2:
    return SettingR2(**msgspec.structs.asdict(figures))


def _seed(folder: Path) -> int | None:
    """Of a run of the lab."""
    try:
        return read_run(folder).settings.seed
    except InputError:
        return None


def findings(rows: list[InSetting]) -> list[str]:
    found = [_overall(rows)]
    for group, setting in dict.fromkeys((row.group, row.setting) for row in rows):
        mine = [row for row in rows if (row.group, row.setting) == (group, setting)]
        told = sum(row.linear for row in mine)
        found.append(
            f"{group}, {setting}: median R² of weights {spread(row.weights.median for row in mine)} (chance "
            f"{spread(row.null_weights.median for row in mine)}), of log-probs "
            f"{spread(row.logprobs.median for row in mine)}; drift told from chance in {told} of {len(mine)}."
        )
    return found


def _overall(rows: list[InSetting]) -> str:
    def between(figures: Iterable[SettingR2]) -> str:
        medians = [one.median for one in figures if one.median is not None]
        return f"{min(medians):.2f} to {max(medians):.2f}" if medians else "unknown"

    told = sum(row.linear for row in rows)
    return (
        f"Drift is told from chance in {told} of {len(rows)} runs. The median R² of weights is "
        f"{between(row.weights for row in rows)} (chance {between(row.null_weights for row in rows)}), of log-probs "
        f"{between(row.logprobs for row in rows)} (chance {between(row.null_logprobs for row in rows)})."
    )
