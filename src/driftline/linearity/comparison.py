"""Several analyses side by side: R² and drift of each beside its own null."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driftline._version import __version__
from driftline.errors import InputError

MARK = "comparison.json"


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """The contents of `comparison.json`: a row for each result of analyze, logprobs or activations.

    Raises:
        InputError: fewer than two, the same twice, or one that is no such result.
    """
    if len(folders) < 2:
        raise InputError("nothing to compare: name two results of analyze, logprobs or activations, or more")
    names = [str(folder) for folder in folders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} is named twice: name each result once")
    return {"driftline": __version__, "rows": [_row(folder) for folder in folders]}


def _row(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    try:
        s = json.loads(path.read_bytes())
        drift = s["drift"]
        return {
            "folder": str(folder),
            "kind": s["kind"],
            "run": s["run"],
            "checkpoints": len(s["steps"]),
            "first": s["steps"][0],
            "last": s["steps"][-1],
            "filter": s["filter"],
            "r2": s["r2"],
            "null_r2": s["null_r2"],
            "increment_cosine": drift["increment_cosine"],
            "null_increment_cosine": drift["null"]["increment_cosine"],
            "growth_exponent": drift["growth_exponent"],
            "null_growth_exponent": drift["null"]["growth_exponent"],
            "persistence": s["persistence"],
            "skill": s["skill"]["methods"],
            "null_skill": s["skill"]["null"],
            "linear": s["verdict"]["linear"],
            "sentence": s["verdict"]["sentence"],
        }
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a folder that analyze wrote") from error
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise InputError(f"{path} is not a summary of analyze, logprobs or activations: make it again") from error
