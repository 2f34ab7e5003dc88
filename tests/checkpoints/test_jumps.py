"""jumps.json: written in one piece, read with suspicion, and what it makes of the checkpoints' steps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from driftline.checkpoints.jumps import read_jumps, regrounded, virtual_step, write_jumps
from driftline.errors import InputError


def jump(cycle: int, step: int, start: int, end: int, to: int, back: int | None = None) -> dict[str, Any]:
    return {
        "cycle": cycle, "trained_from": start, "trained_to": end, "projected_to": to, "alpha": (to - start) / (end - start),
        "accepted": back is None, "step": step, "rolled_back_at": back,
    }  # fmt: skip


# 10 steps, 20 ahead; 10 more, 20 ahead but back after 4; 10 more, 10 ahead
JUMPS = [jump(1, 10, 0, 10, 30), jump(2, 20, 30, 40, 60, back=24), jump(3, 34, 40, 50, 60)]


def test_virtual_steps_count_what_was_projected_and_not_taken_back():
    told = {0: 0, 9: 9, 10: 30, 19: 39, 20: None, 23: None, 24: 40, 25: 41, 33: 49, 34: 60, 40: 66}
    assert {step: virtual_step(JUMPS, step) for step in told} == told


def test_a_run_is_cut_where_it_jumped(tmp_path):
    write_jumps(tmp_path, JUMPS)
    assert read_jumps(tmp_path) == JUMPS
    assert [path.name for path in tmp_path.iterdir()] == ["jumps.json"]
    found = regrounded(read_jumps(tmp_path), range(0, 41, 4))
    assert found is not None
    assert found.virtual == {0: 0, 4: 4, 8: 8, 12: 32, 16: 36, 24: 40, 28: 44, 32: 48, 36: 62, 40: 66}
    assert list(found.discarded) == [20]
    assert found.stretches == [[0, 4, 8], [12, 16], [24, 28, 32], [36, 40]]
    assert "left out: 1" in found.sentence
    assert regrounded(read_jumps(tmp_path), [0, 4, 8]) is None  # before the first jump


def test_runs_without_jumps_and_damaged_files(tmp_path):
    assert read_jumps(tmp_path) == []
    assert regrounded([], [0, 10]) is None
    texts = ["{", '{"cycle": 1}', '[{"cycle": 1}]']
    texts += [json.dumps([JUMPS[0] | {key: None}]) for key in ("step", "trained_to", "projected_to")]
    texts += [json.dumps([JUMPS[1] | {"rolled_back_at": bad}]) for bad in ("24", float("inf"), [1])]
    for text in texts:
        (tmp_path / "jumps.json").write_text(text)
        with pytest.raises(InputError, match=r"jumps\.json"):
            read_jumps(tmp_path)
