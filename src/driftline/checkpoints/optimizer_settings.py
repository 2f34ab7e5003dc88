"""The optimizer's momentum in the configuration that a trainer left beside its checkpoints, in YAML or TOML.

NeMo-RL writes `step_N/config.yaml`, prime-rl `configs/trainer.toml`, hydra (verl) `.hydra/config.yaml`, others `config.yaml`
in the run's folder. Where the optimizer stands in it differs: what is under a key with `optim` in it counts, or flat keys
such as `adam_beta1`; what is of another model (critic, reward) or switched off does not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from driftline.errors import first_line
from driftline.files.regular import open_regular

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = (
    "config.yaml",
    "config.yml",
    ".hydra/config.yaml",
    "configs/trainer.toml",
    "configs/rl.toml",
    "trainer.toml",
    "config.toml",
)
WITHOUT = ("sgd", "adafactor", "adagrad", "rmsprop", "lomo", "adalomo")  # no momentum unless their arguments say so
UNLIKE = ("ademamix", "schedule_free", "schedulefree")  # which average over more than beta1 says
_LIMIT = 128 << 10  # bytes; a configuration of a trainer is some ten thousand
_NUMBER, _DOTS = 40, 200  # digits of a number, dots of a line
_OTHERS = ("critic", "reward", "teacher", "value", "reference", "inference", "orchestrator", "generator", "eval")
_PAIRS = ("betas", "adam_betas")
_FIRSTS = ("adam_beta1", "adam_betas1", "beta1", "beta_1", "betas1")
_KINDS = ("name", "type", "optim", "optimizer", "optimizer_type", "_target_")


def beta1_in_settings(file: Path) -> float | None:
    """The longest memory that the configuration gives an optimizer of the model; None where it says nothing of it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not YAML or TOML, or larger than 128 KiB.
    """
    with open_regular(file) as opened:
        text = opened.read(_LIMIT + 1)
    if len(text) > _LIMIT:
        raise ValueError(f"more than {_LIMIT >> 10} KiB")
    try:
        settings = _toml(text) if file.suffix == ".toml" else _yaml(text)
        found = list(_memories(settings, False, set()))
    except (RecursionError, OverflowError) as error:
        raise ValueError("nested too deeply, or of numbers too large") from error
    return None if None in found else max((value for value in found if value is not None), default=None)


def remembered(name: str, betas: Sequence[Any], momentum: Any = None) -> float | None:
    """The beta1 of the updates of an optimizer of that name; None where that and its settings do not tell.

    Args:
        name: in small letters; betas: in its own order, none where it has none; momentum: as settings have it, None for none.
    """
    if any(word in name for word in UNLIKE):
        return None
    if "lion" in name:  # its memory is the second's
        return decay(betas[1]) if len(betas) > 1 else None
    value = decay(betas[0]) if betas else None
    if any(word in name for word in ("sgd", "muon")) or (value is None and any(word in name for word in WITHOUT)):
        return 0.0 if momentum is None and "muon" not in name else decay(momentum)
    return value


def decay(value: Any) -> float | None:
    """A number that can be a decay per step, else None."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1
    return float(value) if known else None


def _toml(text: bytes) -> Any:
    if any(line.count(b".") > _DOTS for line in text.splitlines()):  # its reader takes the square of a key's parts
        raise ValueError("a key of too many parts")
    return tomllib.loads(text.decode())


def _yaml(text: bytes) -> Any:
    import yaml  # slow to import, and seldom needed

    class Plain(yaml.SafeLoader):
        """Plain values only, as safe_load; `<<` is a key like others, since to merge is to copy, again and again."""

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            pass

    def number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
        if len(node.value) > _NUMBER:
            return None
        return loader.construct_yaml_int(node) if node.tag.endswith("int") else loader.construct_yaml_float(node)

    for kind in ("int", "float"):
        Plain.add_constructor(f"tag:yaml.org,2002:{kind}", number)
    Plain.add_constructor("tag:yaml.org,2002:merge", yaml.SafeLoader.construct_yaml_str)
    try:
        return yaml.load(text, Plain)
    except yaml.YAMLError as error:
        raise ValueError(first_line(error)) from error


def _memories(settings: Any, in_optimizer: bool, seen: set[int]) -> Iterator[float | None]:
    """Of each optimizer in it; None for one whose memory is not told by a beta1."""
    if not isinstance(settings, (dict, list)) or id(settings) in seen:  # an anchor of YAML may stand often
        return
    seen.add(id(settings))
    if isinstance(settings, list):
        for item in settings:
            yield from _memories(item, in_optimizer, seen)
        return
    settings = _merged(settings)
    if settings.get("enabled") is False or settings.get("enable") is False:
        return
    found, known = _memory(settings, in_optimizer)
    if known:
        yield found
    for key, value in settings.items():
        word = str(key).lower()
        if not any(other in word for other in _OTHERS):
            yield from _memories(value, in_optimizer or "optim" in word, seen)


def _merged(settings: dict[Any, Any]) -> dict[Any, Any]:
    """With what YAML's `<<` brings in, each key once."""
    if "<<" not in settings:
        return settings
    own = {key: value for key, value in settings.items() if key != "<<"}
    brought = settings["<<"]
    for other in brought if isinstance(brought, list) else [brought]:
        if isinstance(other, dict):
            for key, value in other.items():
                own.setdefault(key, value)
    return _merged(own) if "<<" in own else own


def _memory(settings: dict[Any, Any], in_optimizer: bool) -> tuple[float | None, bool]:
    """Of one level: beta1, and whether it says anything."""
    kind = " ".join(str(settings[key]).lower() for key in _KINDS if isinstance(settings.get(key), str))
    betas: Any = next((settings[key] for key in _PAIRS if isinstance(settings.get(key), (list, tuple))), [])
    first = next((value for key in _FIRSTS if (value := decay(settings.get(key))) is not None), None)
    betas = betas if first is None else [first, *betas[1:]]
    if not in_optimizer and not any(str(key).startswith("adam_beta") for key in settings):
        return None, False  # beta1 may be anything's
    name = kind.replace("-", "_")
    if not in_optimizer and not any(word in name for word in (*UNLIKE, "lion")):
        name = ""  # of something else, maybe
    found = remembered(name, betas, settings.get("momentum", settings.get("mu")))
    return found, found is not None or any(word in name for word in (*UNLIKE, "lion", "sgd", "muon"))
