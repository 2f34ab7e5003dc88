"""The processes below one, and whether they are gone."""

from __future__ import annotations

import time
from pathlib import Path


def children_of(root: int) -> set[int]:
    """All processes below one."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit():
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
        except (OSError, IndexError):
            continue
    found, open_ = set(), [root]
    while open_:
        below = parents.get(open_.pop(), [])
        found |= set(below)
        open_ += below
    return found


def gone(processes: set[int], seconds: float = 40) -> bool:
    """Whether all of them end within that time."""
    deadline = time.monotonic() + seconds
    while any(_runs(one) for one in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
