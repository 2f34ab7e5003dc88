"""Results of single checkpoints, kept while others are still to come: what makes long measurements resumable.

They lie in a hidden folder beside the output, each written whole and renamed; the output itself appears
when everything is done. Work for another request is thrown away.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from driftline.checkpoints.trajectory import Trajectory
from driftline.errors import InputError
from driftline.files import remote


class Work:
    """The hidden folder of one request: an array for each finished step."""

    def __init__(self, out: Path, request: dict[str, Any]) -> None:
        self.folder = out.absolute().parent / f".{out.name}.work"
        text = json.dumps(request, sort_keys=True)
        note = self.folder / "request.json"
        try:
            if not note.is_file() or note.read_text() != text:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                note.write_text(text)
        except OSError as error:
            raise InputError(f"--out {out} cannot be written ({error.strerror}): choose another folder") from error

    def load(self, step: int) -> np.ndarray | None:
        """The finished result of a step."""
        path = self.folder / f"{step}.npy"
        return np.load(path, allow_pickle=False) if path.is_file() else None

    def save(self, step: int, values: np.ndarray) -> None:
        partial = self.folder / f"{step}.partial"
        with open(partial, "wb") as file:
            np.save(file, values, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.folder / f"{step}.npy")

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def identity(trajectory: Trajectory, sequences: Sequence[Sequence[int]], **settings: Any) -> dict[str, Any]:
    """What makes two requests the same: files by size and time (remote ones by etag or commit), token ids by hash, settings."""
    files = []
    for step, checkpoint in zip(trajectory.steps, trajectory.checkpoints, strict=True):
        for file in sorted({file for info in checkpoint.tensors.values() for file in info.files}):
            if remote.is_remote(file):
                files.append([step, str(file), remote.origin(file)])
                continue
            stat = file.stat()
            files.append([step, str(file.absolute()), stat.st_size, stat.st_mtime_ns])
    digest = hashlib.sha256()
    for ids in sequences:
        digest.update(np.asarray([len(ids), *ids], np.int64).tobytes())
    return {"files": files, "tokens": digest.hexdigest(), **settings}
