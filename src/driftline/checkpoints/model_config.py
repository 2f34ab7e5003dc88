"""A model's config.json: what it says of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from driftline.files.json import read_json


def configuration(folder: Path) -> dict[str, Any]:
    """The model's config.json; empty where there is none that can be read."""
    try:
        found = read_json(folder / "config.json")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def says_tied(config: Mapping[str, Any]) -> bool | None:
    """What a configuration says of its embeddings; None where it leaves it to the kind of model."""
    inner = config.get("text_config")
    said = config.get("tie_word_embeddings", inner.get("tie_word_embeddings") if isinstance(inner, dict) else None)
    return said if isinstance(said, bool) else None
