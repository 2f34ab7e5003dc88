"""The examples run as they are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_the_trl_script_is_watched_and_regrounded(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "trl_regrounding.py"), str(tmp_path / "run"), "24"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    jumps = json.loads((tmp_path / "run" / "jumps.json").read_text())
    assert jumps[0]["step"] == 10
    assert jumps[0]["projected_to"] == 20
    logs = json.loads((tmp_path / "run" / "checkpoint-24" / "trainer_state.json").read_text())["log_history"]
    assert logs[-2]["linearity/r2_mean"] > 0
    assert logs[-2]["regrounding/virtual_step"] > 24
