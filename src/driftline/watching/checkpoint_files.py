"""Whether the files of a checkpoint are still what they were."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from driftline.files.fingerprint import digest


def files_of(folder: Path) -> tuple[str, int]:
    """A digest of names, sizes and times of all files of a checkpoint, and the newest time (ns)."""
    found: list[Any] = []
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.stat(os.path.join(base, name))
            except OSError:
                continue  # gone, or a link to nowhere: whether it is needed shows when the checkpoint is opened
            found.append([os.path.relpath(os.path.join(base, name), folder), status.st_size, status.st_mtime_ns])
    text = json.dumps(sorted(found)).encode()
    return digest(text), max((f[2] for f in found), default=0)
