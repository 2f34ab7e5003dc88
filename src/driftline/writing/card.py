"""The model card of a forecast model: what the Hub shows of its base, and the recipe in short."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from driftline.checkpoints.trajectory import Trajectory
from driftline.files import remote
from driftline.files.json import read_json
from driftline.files.regular import open_regular
from driftline.writing.record import Recipe

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NAMED_IN_CARD = re.compile(r"^base_model:\s*[\"']?([^\s\"']+)", re.MULTILINE)
_CARD_LIMIT = 64 << 10  # bytes of a trainer's model card that are looked at


def card(record: Recipe, trajectory: Trajectory) -> str:
    """The text of `README.md`, with the fields that the Hub reads."""
    base = base_model(trajectory)
    named = f"base_model: {json.dumps(base)}\nbase_model_relation: finetune\n" if base else ""
    used = ", ".join(str(step) for step in sorted({source.step for source in record.sources}))
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: text-generation\n{named}"
        f"tags:\n- driftline\n- rlvr\n- extrapolated\n{_recipe(record)}---\n\n"
        f"# {_what(record)}\n\n"
        f"These weights were not trained: driftline {record.driftline} computed them from the checkpoints of steps {used}, "
        f"method `{record.method}`. `driftline.json` holds the recipe: coefficients, sources with their hashes, "
        f"kept tensors, dtype. Rounding lost {record.rounding_loss:.2%} of the update.\n"
    )


def base_model(trajectory: Trajectory) -> str | None:
    """The Hub name of the model that the run is of, where the run says it; None where nothing does.

    Looked for in this order: the run's own address on the Hub; the last checkpoint's configuration (of transformers 4)
    and that of its adapter; the model card that trainers leave in a checkpoint or beside it.
    """
    last = trajectory.checkpoints[-1]
    if remote.is_remote(last.path):
        return remote.hub_name(last.path)
    said = (
        *_in_json(last.model / "config.json", "_name_or_path"),
        *_in_json(last.path / "adapter_config.json", "base_model_name_or_path"),
        *_in_card(last.path / "README.md"),
        *_in_card(last.path.parent / "README.md"),
    )
    return next((name for name in said if _HUB_NAME.fullmatch(name) and not Path(name).exists()), None)


def _in_json(path: Path, key: str) -> Iterator[str]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return
    name = found.get(key) if isinstance(found, dict) else None
    if isinstance(name, str):
        yield name


def _in_card(path: Path) -> Iterator[str]:
    """The base that the front matter of a model card names."""
    try:
        with open_regular(path) as file:
            text = file.read(_CARD_LIMIT).decode("utf-8", "replace")
    except OSError:
        return
    if text.startswith("---\n") and (found := _NAMED_IN_CARD.search(text.split("\n---", 1)[0])):
        yield found[1]


def _recipe(record: Recipe) -> str:
    """The recipe in short, as a field of the card; JSON is YAML too."""
    short = {
        key: record[key] for key in ("driftline", "method", "target", "reached", "steps", "alpha") if key in record
    }
    return f"driftline: {json.dumps(short)}\n"


def _what(record: Recipe) -> str:
    if record.method == "alpharl":
        return f"Forecast at score {record.target:g}"
    if record.method == "hold":
        return f"Step {record.steps[-1]}, held"
    asked = f" (asked for {record.target:g})" if record.goal != record.target else ""
    return f"Forecast of step {record.goal:g}{asked}"
