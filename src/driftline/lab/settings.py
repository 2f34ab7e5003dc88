"""What a lab run is asked to be: settings, their checks, and a TOML file of them."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from driftline.errors import InputError, first_line
from driftline.files.regular import read_given

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What each algorithm is in TRL's terms. Of GRPO, TRL's own loss is kept: averaged over all tokens of a batch. DAPO then
# differs by its clipping and its mask, which act only off policy (`iterations` above 1) and on truncated completions.
ALGORITHMS: Mapping[str, dict[str, Any]] = {
    "grpo": {},
    "dr-grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28, "mask_truncated_completions": True},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    "reinforce++": {"scale_rewards": "batch"},  # its baseline form: less the group's mean, over the batch's deviation
    "rloo": {},  # TRL's RLOOTrainer
    "sft": {},  # TRL's SFTTrainer on right solutions of the same problems
}
FAMILIES = ("qwen2", "qwen2-small", "qwen2-large", "llama", "qwen3", "qwen3-moe")
SMOLLM2 = "smollm2"
DTYPES = ("float32", "bfloat16")
_STEPS = 1_000_000
_COMPLETIONS = 1 << 16  # of a step
_FROM_TO: Mapping[str, tuple[int, int]] = {  # what is beyond would be allocated, or looped over, for nothing
    "steps": (1, _STEPS),
    "save_every": (1, _STEPS),
    "score_every": (1, _STEPS),
    "prompts_per_step": (1, _COMPLETIONS),
    "rollouts": (2, _COMPLETIONS),
    "iterations": (1, 1000),
    "held_out_problems": (1, 20_000),
    "warm_up": (0, _STEPS),
    "max_new_tokens": (1, 1 << 20),
    "difficulty": (0, 1000),
    "micro_batch": (1, _COMPLETIONS),
    "lora_rank": (1, 1 << 16),
    "m": (-_STEPS, _STEPS),  # re-grounding itself says what is too few
    "n": (-_STEPS, _STEPS),
    "seed": (0, (1 << 32) - 1),
}
_CONFIG = 64 << 10  # bytes of a file of settings
_DIGITS = 18  # of a whole number in it
_SAID = 40  # characters of a value that are quoted
Algorithm = Literal["grpo", "dr-grpo", "dapo", "gspo", "reinforce++", "rloo", "sft"]


@dataclass(frozen=True)
class LabRun:
    """Settings of a lab run."""

    steps: int = 150  # RL steps, or updates of sft
    save_every: int = 10  # steps between checkpoints
    score_every: int | None = None  # steps between scores on held-out problems; default: as checkpoints
    algorithm: Algorithm = "grpo"  # as TRL runs it; sft is the supervised baseline on the same task
    noise_db: float | None = None  # of sft: signal over noise, in dB, of random signs on the loss of every token
    optimizer: Literal["adamw", "sgd"] = "adamw"  # AdamW without weight decay, or SGD without momentum
    learning_rate: float = 1e-5  # constant
    prompts_per_step: int = 16  # problems of a step
    rollouts: int = 16  # completions sampled of each
    temperature: float = 1.0  # of the sampling
    iterations: int = 1  # updates from each batch of completions; above 1 they are off policy, and clipping acts
    task: str = "sums"  # sums, strategy, sums-of-two, larger, or a reasoning-gym data set
    difficulty: int = 0  # level of every attribute of the reasoning-gym curriculum
    model: str = "qwen2"  # qwen2, llama, qwen3, qwen3-moe, qwen2-small or -large, smollm2, or a model folder
    system: str | None = None  # what a chat model is told before each problem; default: what its template says
    warm_up: int | None = None  # supervised steps before the run; default 1150 for the small models, else 0
    max_new_tokens: int | None = None  # longest completion; default: the longest solution and a little
    reward: Literal["answer", "noised", "coin"] = (
        "answer"  # for the right answer; noised: half of them by coin toss; coin: all, a control that learns nothing
    )
    held_out_problems: int = 256  # problems that scores are taken on
    m: int | None = None  # re-ground: after every m steps ...
    n: int | None = None  # ... project n steps ahead
    accept: Literal["always", "reward", "validation"] = (
        "always"  # re-grounding: reward rolls back a jump that lowers it; validation takes the best of some lengths
    )
    spacing: Literal["even", "doubling"] = "even"  # re-grounding: doubling trains m, 2 m, 4 m, ... steps between jumps
    jump: Literal["two-point", "least-squares", "anchored", "damped"] = "two-point"  # re-grounding: how
    micro_batch: int | None = None  # completions in a forward pass; default: all of a step
    device: Literal["cpu", "auto"] = "cpu"  # auto: the accelerator, if there is one, in bfloat16 over fp32 weights
    precision: Literal["float32", "bfloat16"] = "float32"  # of products on the CPU; weights and optimizer stay float32
    lora_rank: int | None = None  # train a LoRA adapter of that rank on all linear layers, not the weights themselves
    save_dtype: Literal["float32", "bfloat16"] = "float32"  # of the checkpoints
    seed: int = 0  # of the problems, the sampling, the warm-up and the training

    @property
    def completions_per_step(self) -> int:
        return self.prompts_per_step * self.rollouts


def check(settings: LabRun) -> None:
    """Refuse settings that cannot work, before anything is loaded or written.

    Raises:
        InputError: what is wrong, by the name of its flag.
    """
    for name, (smallest, largest) in _FROM_TO.items():
        value = getattr(settings, name)
        if value is not None and not smallest <= value <= largest:
            wanted = f"at least {smallest}" if value < smallest else f"at most {largest:,}"
            raise InputError(f"--{name.replace('_', '-')} is {shortened(value)}: it must be {wanted}")
    if settings.completions_per_step > _COMPLETIONS:
        raise InputError(
            f"--prompts-per-step {settings.prompts_per_step} by --rollouts {settings.rollouts} are {settings.completions_per_step:,} completions a step: their product must be at most {_COMPLETIONS:,}"
        )
    for name in ("learning_rate", "temperature"):
        value = getattr(settings, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"--{name.replace('_', '-')} is {value}: it must be above 0")
    known = {
        "algorithm": ALGORITHMS,
        "optimizer": ("adamw", "sgd"),
        "device": ("cpu", "auto"),
        "reward": ("answer", "noised", "coin"),
        "precision": DTYPES,
        "save_dtype": DTYPES,
    }
    for name, choices in known.items():
        if getattr(settings, name) not in choices:
            raise InputError(f"--{name} {getattr(settings, name)!r} is unknown: choose {', '.join(choices)}")
    if settings.model not in (*FAMILIES, SMOLLM2) and not Path(settings.model).is_dir():
        raise InputError(
            f"--model {settings.model!r} is no model of the lab and no local folder: "
            f"choose {', '.join((*FAMILIES, SMOLLM2))}, or give the folder of a causal language model"
        )
    if settings.model == SMOLLM2 and settings.task == "strategy":
        raise InputError(
            "--task strategy is of the lab's own models, whose base answers directly: give --task sums for smollm2"
        )
    if settings.noise_db is not None and (settings.algorithm != "sft" or not math.isfinite(settings.noise_db)):
        raise InputError("--noise-db is of --algorithm sft only, and a finite number: leave it out, or give one")
    if (settings.m is None) != (settings.n is None):
        raise InputError("re-grounding needs both --m and --n: give the steps to train, and the steps to project")
    if settings.micro_batch and settings.completions_per_step % settings.micro_batch:
        raise InputError(
            f"--micro-batch {settings.micro_batch} does not divide the {settings.completions_per_step} completions of a step: choose one that does"
        )


def read_config(path: Path) -> dict[str, Any]:
    """Settings that a TOML file names, as keyword arguments of `LabRun`.

    Raises:
        InputError: the file cannot be read, or has a key or a type that no setting has.
    """
    try:
        text = read_given(path, _CONFIG).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"--config {path} cannot be read ({reason}): give a TOML file of settings") from error
    _refuse_nested(text, path)
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        known = isinstance(error, tomllib.TOMLDecodeError)
        reason = first_line(error) if known else "a number of thousands of digits"  # which Python does not take
        raise InputError(f"--config {path} is not TOML ({reason}): mend it") from error
    return {key.replace("-", "_"): _value(key, value, path) for key, value in found.items()}


_TEXTS = re.compile(
    r"""\"{3}(?:\\.|[^\\])*?(?:"{3}|\Z) | '{3}.*?(?:'{3}|\Z) | "(?:\\[^\n]|[^"\\\n])* ["]? | '[^'\n]*'? | \#[^\n]*""",
    re.DOTALL | re.VERBOSE,
)
_NESTED = re.compile(r"[\[{]|^[^=\n]*?\.", re.MULTILINE)


def _refuse_nested(text: str, path: Path) -> None:
    """Refuse tables, lists and dotted keys before they are made: of many, parsing takes minutes and gigabytes."""
    bare = _TEXTS.sub(lambda found: "\n" * found[0].count("\n"), text)
    if nested := _NESTED.search(bare):
        line = bare.count("\n", 0, nested.end()) + 1
        raise InputError(
            f"--config {path}, line {line}, has a table, a list or a dotted key: settings are flat, write each as name = value"
        )


def _value(key: str, value: Any, path: Path) -> Any:
    """A value as its setting has it.

    Raises:
        InputError: there is no such setting, or it has another type.
    """
    known = {field.name: str(field.type) for field in fields(LabRun)}
    name = key.replace("-", "_")
    if name not in known:
        raise InputError(f"--config {path}: {shortened(key)} is no setting of the lab: choose {', '.join(known)}")
    kind = next((kind for kind in (int, float) if known[name].startswith(kind.__name__)), str)
    taken = (int, float) if kind is float else (kind,)
    if not isinstance(value, taken) or isinstance(value, bool):
        wanted = {int: "a whole number", float: "a number", str: "a text"}[kind]
        raise InputError(f"--config {path}: {key} is {shortened(value)}: it must be {wanted}")
    if isinstance(value, int) and abs(value) >= 10**_DIGITS:
        raise InputError(
            f"--config {path}: {key} has more than {_DIGITS} digits: it must be a number that can be meant"
        )
    if isinstance(value, str) and "\0" in value:
        raise InputError(f"--config {path}: {key} has a NUL in it: leave it out")
    return kind(value)


def shortened(value: Any) -> str:
    """A value as a sentence quotes it, whatever its length."""
    if isinstance(value, int) and abs(value) >= 10**_SAID:  # Python itself refuses to write some out
        return f"a number of more than {_SAID} digits"
    said = repr(value)
    return said if len(said) <= _SAID else f"{said[:_SAID]}…"


def toml(settings: LabRun) -> str:
    """The settings as a file that `--config` takes; those left to their defaults by None are left out."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in asdict(settings).items() if value is not None)
