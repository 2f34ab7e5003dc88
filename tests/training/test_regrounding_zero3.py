"""Re-grounding under DeepSpeed ZeRO-3 on two processes gives the weights of one process without it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_trainer import falling, rewarded, trainer, weights

from driftline.training.regrounding import RegroundingCallback

DEEPSPEED = Path(sys.prefix) / "deepspeed"  # beside the environment, not in it: where make test-slow puts it
HERE = Path(__file__).parent

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("accept", ["always", "reward"])
def test_partitioned_weights_jump_as_whole_ones_do(tmp_path: Path, accept: Any) -> None:
    assert DEEPSPEED.is_dir(), "make test-slow installs DeepSpeed there"
    path = os.pathsep.join([str(DEEPSPEED), str(HERE), os.environ.get("PYTHONPATH", "")])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, HERE / "zero3_script.py", tmp_path / "sharded", accept],
        env=os.environ | {"PYTHONPATH": path, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    final = tmp_path / "sharded" / "final.safetensors"  # how the processes take leave of each other is not our matter
    assert final.is_file(), "\n".join(line for line in done.stderr.splitlines() if "Warning" not in line)
    whole = trainer(tmp_path / "whole", [RegroundingCallback(6, 6, accept=accept, window=2)])
    rewarded(whole, falling).train()
    found = load_file(final)
    for name, value in weights(whole.model).items():
        if name in found:  # a tied head is saved once
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    jumps, alone = (json.loads((tmp_path / run / "jumps.json").read_text()) for run in ("sharded", "whole"))
    assert [jump["accepted"] for jump in jumps] == [jump["accepted"] for jump in alone]
    assert jumps[0]["accepted"] is (accept == "always")
    assert jumps[0]["jump_length"] == pytest.approx(alone[0]["jump_length"], rel=1e-4)
