"""What a trainer left of an adapter's settings: the scale of its product, and what the product was trained against.

peft's `adapter_config.json`, or verl's `lora_train_meta.json`; beside the weights, or where a trainer puts it: in
`lora_adapter/`, in the folder of the model, in OpenRLHF's `global_stepN_hf/` of the same step, or in the run's own folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from driftline.checkpoints.adapter_patterns import first_matches
from driftline.checkpoints.git_lfs import refuse_pointer
from driftline.errors import UnreadableCheckpoint
from driftline.files import remote
from driftline.files.json import read_json

CONFIG, _VERL = "adapter_config.json", "lora_train_meta.json"
_EMBEDDING = ""  # whatever the model calls its input embedding
CONV1D_MODELS, CONV1D = ("gpt2", "openai-gpt"), ("c_attn", "c_proj", "c_fc", "q_attn")
_OTHER_KINDS = (
    "use_bdlora",
    "use_qalora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "layer_replication",
    "alora_invocation_tokens",
    "target_parameters",
)
# inits of peft that take the first product out of the base (or quantise it), so that the original base is another
_TAKEN_OUT = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class AdapterSettings:
    """Of one adapter.

    Attributes:
        path: the file they were found in.
        alpha: lora_alpha, as it stands there; None where no file says it.
        alpha_pattern: pattern -> alpha of the modules that match it; alphas: the same by module, see `for_modules`.
        tokens: token ids whose rows are trained, by the end of their module's name.
        taken_out: the init that changed the base, such as `pissa`; empty for those that leave it.
        model_type: of the model's configuration, where it is known.
        keeps_tie: what changes an embedding changes the head that is tied to it too (ensure_weight_tying).
    """

    path: Path
    alpha: Any = None
    alpha_pattern: Mapping[str, Any] = field(default_factory=dict)
    alphas: Mapping[str, Any] = field(default_factory=dict)
    stabilised: bool = False
    transposed: bool = False
    dora: bool = False
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    taken_out: str = ""
    keeps_tie: bool = False
    model_type: str = ""

    def for_modules(self, modules: Iterable[str]) -> AdapterSettings:
        """The settings with the alpha of each module that a pattern is of.

        Raises:
            UnreadableCheckpoint: the patterns take too long to match.
        """
        if self.alpha is None or not self.alpha_pattern:
            return self
        names, patterns = tuple(modules), tuple(self.alpha_pattern)
        matches = first_matches(patterns, names)
        if matches is None:
            raise UnreadableCheckpoint(
                f"{self.path} has an alpha_pattern that takes too long to match ({patterns[0][:60]!r}): name the modules plainly"
            )
        pairs = zip(names, matches, strict=True)
        return replace(self, alphas={name: self.alpha_pattern[patterns[i]] for name, i in pairs if i is not None})

    def scale(self, module: str, rank: int) -> float:
        """Of a module that `for_modules` was told of: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA; 1 where alpha is not known.

        Raises:
            UnreadableCheckpoint: alpha is no number.
        """
        if self.alpha is None:
            return 1.0
        alpha = self.alphas.get(module, self.alpha)
        if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not abs(alpha) < 1e15:
            raise UnreadableCheckpoint(f"{self.path} has no number as lora_alpha: the adapter's scale is not known")
        return alpha / (math.sqrt(rank) if self.stabilised else rank)

    def token_ids(self, module: str) -> tuple[int, ...] | None:
        """Of the rows of a module that are trained."""
        if _EMBEDDING in self.tokens:
            return self.tokens[_EMBEDDING]
        return next((ids for end, ids in self.tokens.items() if module == end or module.endswith(f".{end}")), None)


def find_settings(folder: Path, place: Path, model: Path) -> AdapterSettings:
    """The settings of the adapter of a checkpoint; without an alpha where no file has them.

    Args:
        folder: of the step; place: of its weights; model: of its configuration.

    Raises:
        UnreadableCheckpoint: the file is damaged, or the adapter is of a kind that is not scale·B·A.
    """
    for where in _places(folder, place, model):
        if (where / _VERL).is_file() and (alpha := _json(where / _VERL).get("lora_alpha")):  # 0 where verl knows none
            return AdapterSettings(where / _VERL, alpha)
        if (where / CONFIG).is_file():
            return read_settings(where / CONFIG)
    return AdapterSettings(place / CONFIG)


def _places(folder: Path, place: Path, model: Path) -> Iterable[Path]:
    found = [place, place / "lora_adapter", folder, folder / "lora_adapter", folder / "actor" / "lora_adapter", model]
    if not remote.is_remote(folder):
        run = folder.resolve().parent
        found += [run / f"{folder.name}_hf", run.parent / f"{folder.name}_hf", run, run.parent]
    return dict.fromkeys(found)


def read_settings(path: Path) -> AdapterSettings:
    """The settings in an `adapter_config.json`.

    Raises:
        UnreadableCheckpoint: it cannot be read, or the adapter is not of scale·B·A of each matrix.
    """
    config = _json(path)
    if config.get("peft_type", "LORA") != "LORA":
        raise UnreadableCheckpoint(f"{path} is not of a LoRA adapter: merge each checkpoint into a full model first")
    for option in _OTHER_KINDS:
        if config.get(option):
            raise UnreadableCheckpoint(
                f"{path} has {option}, whose change is not scale·B·A of one matrix: merge each checkpoint with peft's "
                "merge_and_unload(), and name the merged folders"
            )
    alpha = config.get("lora_alpha", False)
    init = config.get("init_lora_weights")
    init = init if isinstance(init, str) else ""
    pattern = config.get("alpha_pattern")
    return AdapterSettings(
        path,
        alpha=None if type(alpha) is int and alpha == 0 else alpha,  # what verl's merger writes where it knows none
        alpha_pattern=pattern if isinstance(pattern, dict) else {},
        stabilised=bool(config.get("use_rslora")),
        transposed=bool(config.get("fan_in_fan_out")),
        dora=bool(config.get("use_dora")),
        tokens=_tokens(config.get("trainable_token_indices")),
        taken_out=init if init.startswith(_TAKEN_OUT) else "",
        keeps_tie=bool(config.get("ensure_weight_tying")),
    )


def _tokens(given: Any) -> dict[str, tuple[int, ...]]:
    given = {_EMBEDDING: given} if isinstance(given, list) else given
    if not isinstance(given, dict):
        return {}
    return {
        str(module): tuple(ids)
        for module, ids in given.items()
        if isinstance(ids, list) and all(type(index) is int and index >= 0 for index in ids)
    }


def _json(path: Path) -> dict[str, Any]:
    refuse_pointer(path)
    try:
        found = read_json(path)
    except OSError as error:
        raise UnreadableCheckpoint(f"{path} cannot be read ({error.strerror}): the adapter's scale is in it") from error
    except ValueError as error:
        raise UnreadableCheckpoint(f"{path} is damaged or still being written") from error
    if not isinstance(found, dict):
        raise UnreadableCheckpoint(f"{path} is not of a LoRA adapter: merge each checkpoint into a full model first")
    return found
