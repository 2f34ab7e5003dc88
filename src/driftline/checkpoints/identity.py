"""What makes two requests about a run the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from driftline.checkpoints.trajectory import Trajectory
from driftline.files.fingerprint import stamp


def identity(trajectory: Trajectory, sequences: Sequence[Sequence[int]], **settings: Any) -> dict[str, Any]:
    """Files by size and time (remote ones by etag or commit), token ids by hash, settings."""
    files = [
        [step, *stamp(file)]
        for step, checkpoint in zip(trajectory.steps, trajectory.checkpoints, strict=True)
        for file in sorted({file for info in checkpoint.tensors.values() for file in info.files})
    ]
    tokens = hashlib.sha256()
    for ids in sequences:
        tokens.update(np.asarray([len(ids), *ids], np.int64).tobytes())
    return {"files": files, "tokens": tokens.hexdigest(), **settings}
