"""What makes a run's updates resemble each other: its optimizer's momentum, and an average of weights that was saved.

The momentum is read as data from what the trainer left; no pickle is executed. First that is found:

- `run.json` beside the checkpoints (`optimizer.adam_beta1`);
- the optimizer's state in the last checkpoint that has one: transformers and accelerate (`optimizer.pt`, `optimizer.bin`),
  verl (`optim_world_size_W_rank_0.pt`), DeepSpeed (`*zero_pp_rank_0_mp_rank_00_optim_states.pt`, or its configuration in
  `mp_rank_00_model_states.pt`), Megatron (`common.pt`), and torch's distributed checkpoints (torchtitan, prime-rl,
  NeMo-RL, accelerate's FSDP);
- `training_args.bin` of transformers and TRL;
- the trainer's configuration in YAML or TOML, see `optimizer_settings`.

A file that is not understood is as if it were not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from driftline.checkpoints.layouts import dcp
from driftline.checkpoints.optimizer_settings import NAMES, beta1_in_settings, decay, remembered
from driftline.checkpoints.torch_file import read_torch_file
from driftline.checkpoints.unpickling import Node
from driftline.errors import InputError, UnreadableCheckpoint
from driftline.files import remote
from driftline.files.json import read_json

DEFAULT_BETA1 = 0.9  # AdamW's default in every trainer we read
ASSUMED = "assumed"
_SLOW = 0.9999  # AdEMAMix's third beta, by default

_BESIDE = ("", "actor", "policy")  # where in a checkpoint its state is
_STATES = (
    "optimizer.pt",
    "optimizer.bin",
    "optim_world_size_*_rank_0.pt",
    "*zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "global_step*/*zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "mp_rank_00_model_states.pt",
    "global_step*/mp_rank_00_model_states.pt",
    "common.pt",
    "iter_*/common.pt",
    "dist_ckpt/common.pt",
)
_DISTRIBUTED = ".metadata"
_ARGUMENTS = "training_args.bin"
_OUTPUTS = ("weights", "checkpoints", "ckpt", "ckpts")  # folders of a run that hold nothing but checkpoints


@dataclass(frozen=True)
class Momentum:
    """The memory of a run's updates.

    Attributes:
        beta1: of the optimizer, 0 for none; source: the file it was read from, `--beta1` or `assumed`.
        ema: decay per step of an average of the weights that was saved in their place; 0 for none.
    """

    beta1: float
    source: str
    ema: float = 0.0

    @property
    def effective(self) -> float:
        """The one beta1 whose updates have the long memory of both: the same variance of their sum over many steps, for the
        variance of one.

        Updates of averaged weights are filtered twice, an autoregression with the roots beta1 and ema.
        """
        b, e = self.beta1, self.ema
        if not e:
            return b
        ratio = (1 - b * e) * (1 + b) * (1 + e) / ((1 + b * e) * (1 - b) * (1 - e))
        return (ratio - 1) / (ratio + 1)


def momentum_of(folders: Sequence[Path], beta1: float | None = None, ema: float | None = None) -> Momentum:
    """Of the run whose checkpoints are in `folders`, in order of step.

    Args:
        beta1, ema: as the user says; None for what the run's files say, and for no average.

    Raises:
        InputError: one that the user gave is no decay.
    """
    refuse_impossible(beta1, ema)
    if beta1 is not None:
        return Momentum(beta1, "--beta1", ema or 0.0)
    return Momentum(*beta1_of(folders), ema or 0.0)


def refuse_impossible(beta1: float | None, ema: float | None) -> None:
    """Raise `InputError` where one is given that is no decay."""
    for name, value in (("beta1", beta1), ("ema", ema)):
        if value is not None and not 0 <= value < 1:
            raise InputError(f"--{name} {value:g} is no decay: give 0 (none) or more, and less than 1")


def beta1_of(folders: Sequence[Path]) -> tuple[float, str]:
    """The optimizer's beta1 (0 for plain SGD) and where it was found."""
    try:
        record = read_json(folders[-1].parent / "run.json")
    except (OSError, ValueError):
        record = None
    optimizer = record.get("optimizer") if isinstance(record, dict) else None
    value = decay(optimizer.get("adam_beta1")) if isinstance(optimizer, dict) else None
    if value is not None:
        return value, "run.json"
    if not remote.is_remote(folders[-1]):  # where each look is a request
        for file in _files(folders):
            value = _beta1_in(file)
            if value is not None:
                return value, f"{file.parent.name}/{file.name}" if file.name == _DISTRIBUTED else file.name
    return DEFAULT_BETA1, ASSUMED


def beta1_in_training(optimizer: Any, arguments: Any) -> float | None:
    """Of a run that is being trained: the longest memory of its optimizer's groups, else what its arguments say; None
    where neither tells.

    Args:
        optimizer: as the trainer made it, with torch's `param_groups`, or None; arguments: transformers' TrainingArguments.
    """
    groups = getattr(optimizer, "param_groups", None)
    made = getattr(optimizer, "optimizer", optimizer)  # accelerate's and DeepSpeed's stand around another
    value = _of_groups(groups, type(made).__name__.lower()) if isinstance(groups, list) else None
    return _of_arguments(vars(arguments)) if value is None else value


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    last = [folder for folder in reversed(folders) if folder.parent == folders[-1].parent][:2]
    for folder in last:
        for name in _STATES:
            for place in _BESIDE:
                try:
                    yield from sorted((folder / place).glob(name))
                except OSError:
                    continue
        for depth in range(4):
            yield from sorted(folder.glob("*/" * depth + _DISTRIBUTED))
    run = folders[-1].parent
    for folder in (*last, run):
        yield folder / _ARGUMENTS
    for folder in (*last, run, *([run.parent] if run.name in _OUTPUTS else [])):
        for name in NAMES:
            yield folder / name


def _beta1_in(file: Path) -> float | None:
    try:
        about = file.stat()
    except OSError:
        return None
    return _read(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=256)  # a run that is watched is asked at every checkpoint
def _read(file: Path, changed: int, size: int) -> float | None:
    try:
        if file.suffix in (".yaml", ".yml", ".toml"):
            return beta1_in_settings(file)
        if file.name == _DISTRIBUTED:
            return _of_objects(dcp.objects(file.parent, _says_of_momentum))
        content = read_torch_file(file)
    except (UnreadableCheckpoint, OSError, ValueError):
        return None
    return _of_arguments(content.fields) if isinstance(content, Node) else _of_state(content)


def _says_of_momentum(name: str) -> bool:
    return name.rpartition(".")[2] in ("param_groups", "betas", "momentum", "beta1", "eps", "weight_sum")


def _of_objects(objects: dict[str, Any]) -> float | None:
    """Of an optimizer's groups in a distributed checkpoint, as lists of groups or a setting of each parameter."""
    groups: list[Any] = []
    settings: dict[str, dict[Any, Any]] = {}
    for name, value in objects.items():
        of, _, key = name.rpartition(".")
        if key == "param_groups":
            groups += value if isinstance(value, list) else []
        else:
            settings.setdefault(of, {})[key] = value
    settings = {of: group for of, group in settings.items() if group.keys() != {"eps"}}
    return _of_state({"param_groups": [*groups, *settings.values()]})


def _of_state(state: Any, depth: int = 4) -> float | None:
    """The longest memory of the groups of parameters in an optimizer's state, wherever a trainer put it."""
    if not isinstance(state, dict) or not depth:  # a pickle may hold itself
        return None
    groups = state.get("param_groups")
    value = _of_groups(groups) if isinstance(groups, list) else None
    if value is not None:
        return value
    keys = ("optimizer_state_dict", "base_optimizer_state", "optimizer", "ds_config", "params")
    inner = (_of_state(state.get(key), depth - 1) for key in keys)
    value = next((value for value in inner if value is not None), None)
    return value if value is not None else _of_betas(state.get("betas"))


def _of_groups(groups: list[Any], kind: str = "") -> float | None:
    """The longest memory of an optimizer's groups, None where one does not tell; `kind` is what it is called, if that is known."""
    found = [_of_group(group, kind) for group in groups if isinstance(group, dict)]
    known = [value for value in found if value is not None]
    return max(known) if known and len(known) == len(found) else None


def _of_group(group: dict[Any, Any], kind: str) -> float | None:
    if "weight_sum" in group:  # schedule-free: what is saved is an average
        return None
    if "betas" in group:
        betas = group["betas"]
        pair = isinstance(betas, (tuple, list)) and len(betas) == 2
        if pair and "rmsprop" in kind:  # bitsandbytes' has the decay of squares first
            return decay(betas[1])
        if isinstance(betas, (tuple, list)) and (
            not group.get("eps") or "lion" in kind or not pair
        ):  # Lion's memory is the second's; bitsandbytes gives it an eps of 0
            return max((value for value in map(decay, betas) if value is not None), default=None)
        return _of_betas(betas)
    if "beta1" in group:  # Adafactor
        return 0.0 if group["beta1"] is None else decay(group["beta1"])
    return decay(group.get("momentum"))


def _of_betas(betas: Any) -> float | None:
    return decay(betas[0]) if isinstance(betas, (tuple, list)) and betas else None


def _of_arguments(arguments: dict[str, Any]) -> float | None:
    """Of transformers' TrainingArguments; None where DeepSpeed's, or arguments not understood, may say otherwise."""
    optim = arguments.get("optim")
    said = optim.args[0] if isinstance(optim, Node) and optim.args else optim
    name = said.lower() if isinstance(said, str) else ""
    own = _optim_args(arguments.get("optim_args"))
    if own is None or arguments.get("deepspeed"):
        return None
    betas = [arguments.get("adam_beta1"), arguments.get("adam_beta2")]
    if "ademamix" in name:  # as its groups have them; the last is its slow average's
        mixed = (own.get("beta1", betas[0]), own.get("beta2", betas[1]), own.get("beta3", _SLOW))
        return max((value for value in map(decay, mixed) if value is not None), default=None)
    return remembered(name, betas if "adam" in name or "lion" in name else [], own.get("momentum"))


def _optim_args(text: Any) -> dict[str, Any] | None:
    """`key=value,...`, numbers as such; None where it is not of that form."""
    if not text:
        return {}
    if not isinstance(text, str):
        return None
    found: dict[str, Any] = {}
    for pair in text.replace(" ", "").split(","):
        key, equals, value = pair.partition("=")
        if not equals:
            return None
        try:
            found[key] = float(value)
        except ValueError:
            found[key] = value
    return found
