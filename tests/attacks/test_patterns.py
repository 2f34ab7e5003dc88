"""An adapter's patterns are regular expressions of a stranger."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from attack import refused

from driftline.checkpoints.adapter_patterns import LONGEST, first_matches
from driftline.checkpoints.opening import open_checkpoint
from driftline.errors import UnreadableCheckpoint

MODULES = tuple(
    f"model.layers.{layer}.{part}" for layer in range(3) for part in ("mlp.up_proj", "self_attn.q_proj", "qk.proj")
)


def by_peft(patterns: tuple[str, ...], module: str) -> int | None:
    """peft's rule, as its `get_pattern_key` has it."""
    matches = (index for index, key in enumerate(patterns) if re.match(rf"(.*\.)?({key})$", module))
    return next(matches, None)


@pytest.mark.parametrize(
    "patterns",
    [
        ("q_proj", "up_proj"),
        ("self_attn.q_proj", "proj"),
        ("layers.1.mlp.up_proj", "up_proj", "q_proj"),
        (r"layers\.[01]\..*proj", "q_proj", "up_proj"),
        ("up_proj", r".*\.up_proj", r"model\.layers\.(0|2)\.self_attn\.q_proj"),
        ("^model.*q_proj", "q_proj|up_proj"),
        (),
        ("layers", "model", "", "missing"),
    ],
)
def test_they_match_as_in_peft(patterns: tuple[str, ...]) -> None:
    assert first_matches(patterns, MODULES) == tuple(by_peft(patterns, module) for module in MODULES)


def test_what_is_no_pattern_is_passed_over() -> None:
    assert first_matches(("(", "q_proj", "*"), MODULES)[1] == 1  # type: ignore[index]


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", "(.*)*x", "(?:[a-z._0-9]+)*!", "(" * 400 + "a" + ")" * 400, "a{1,99999}" * 90, "x" * 2000]
)
def test_what_takes_long_is_given_up(tmp_path: Path, pattern: str) -> None:
    save(tmp_path, {pattern: 2}, "a" * 60)
    before = time.monotonic(), time.process_time()
    with contextlib.suppress(UnreadableCheckpoint):  # some are no patterns, and passed over
        open_checkpoint(tmp_path)
    assert time.process_time() - before[1] < 2
    assert time.monotonic() - before[0] < LONGEST + 30  # where the machine has other work too


def save(folder: Path, patterns: dict[str, int], module: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    factors = {
        f"{module}.lora_A.weight": np.ones((2, 4), np.float32),
        f"{module}.lora_B.weight": np.ones((3, 2), np.float32),
    }
    safetensors.numpy.save_file(factors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "lora_alpha": 4, "alpha_pattern": patterns, "rank_pattern": patterns}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_a_run_of_such_adapters_is_refused(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path / "run" / f"checkpoint-{step}", {"(a+)+b": 2}, "a" * 60)
    assert "takes too long to match" in refused("analyze", tmp_path / "run", out=tmp_path / "out")


def test_alphas_of_patterns_scale_the_product(tmp_path: Path) -> None:
    save(tmp_path, {"other": 2, "q|k": 8}, "layers.0.q")
    assert open_checkpoint(tmp_path).tensors["layers.0.q.weight"].values(0, 1)[0] == 2 * 8 / 2
