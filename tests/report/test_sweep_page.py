"""What the page of a sweep says to do next: write the forecast, confirm the pair, sample colder, or look elsewhere."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from driftline.report import sweep


def scored(step: int, score: float) -> dict[str, Any]:
    return {
        "step": step, "problems": 8, "avg@k": score, "interval": [score - 0.1, score + 0.1], "pass@k": {"1": score},
        "response_tokens": 9.0, "truncated": 0.0,
    }  # fmt: skip


def next_command(folder: Path, *, space: str, better: bool, surer: bool, command: str) -> list[str]:
    late = scored(100, 0.5)
    record = {
        "driftline": "0", "run": "r", "steps": [0, 50, 100], "space": space, "forecast": "f", "task": "sums",
        "problems": 8, "samples": 2, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 9, "seed": 3,
        "rounds": [{"candidates": 1, "problems": 8}], "candidates": [scored(150, 0.9)], "observed": [late],
        "early": {"step": 0, "folder": "r/checkpoint-0"}, "late": {"step": 100, "folder": "r/checkpoint-100"},
        "best": {"step": 150, "baseline": 100, "better": better, "surer": surer, "p_value_corrected": 0.00014,
                 "difference": {"mean": 0.4, "interval": [0.3, 0.5]}},
        "control": {"sentence": "s", "late": late, "late_matched": late | {"temperature": 0.54321},
                    "entropy": {"forecast": 0.1, "late": 0.2, "matched": 0.1}},
        "sentence": "s", "versions": {}, "seconds": 1.0,
    }  # fmt: skip
    sweep.write(folder, record, command)
    page = (folder / "report.html").read_text()
    assert "p = 0.00014" in page
    (shown,) = re.findall(r'<div class="command"><pre><code>(.*?)</code></pre>', page)
    return shlex.split(html.unescape(re.sub("<[^>]+>", "", shown)))


@pytest.mark.parametrize(
    ("space", "better", "surer", "expected"),
    [
        ("weights", True, False, "extrapolate r --to 150 --method damped --out s-step-150"),
        ("logits", True, False, "evaluate --early r/checkpoint-0 --late r/checkpoint-100 --alpha 1.5 --task sums "
         "--samples 2 --seed 4 --temperature 1 --out s-confirm"),
        ("weights", False, True, "evaluate r/checkpoint-100 --task sums --samples 2 --seed 4 --temperature 0.543 --out s-colder"),
        ("logits", False, False, "backtest r --out s-backtest"),
    ],
)  # fmt: skip
def test_what_to_do_next(tmp_path: Path, space: str, better: bool, surer: bool, expected: str) -> None:
    asked = "driftline sweep r --to 150 --task sums --samples 2 --method damped --temperature 1 --out s"
    found = next_command(tmp_path, space=space, better=better, surer=surer, command=asked)
    assert found == ["driftline", *expected.split()]
