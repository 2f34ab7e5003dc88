"""Files that Git LFS left as pointers, because a repository was cloned without it."""

from __future__ import annotations

from pathlib import Path

from driftline.errors import UnreadableCheckpoint
from driftline.files import remote
from driftline.files.regular import open_regular

BEGINNING = b"version https://git-lfs"
_LARGEST = 1024  # bytes, by the specification


def refuse_pointer(path: Path) -> None:
    """Raise `UnreadableCheckpoint` where a file is the pointer that stands for it; a remote one is not looked at."""
    if is_pointer(path):
        raise UnreadableCheckpoint(sentence(path))


def sentence(path: Path) -> str:
    return f"{path} is a Git LFS pointer, not the file itself: type `git lfs pull` in {path.parent}"


def is_pointer(path: Path) -> bool:
    try:
        if remote.is_remote(path) or not path.is_file() or path.stat().st_size > _LARGEST:
            return False
        with open_regular(path) as file:
            return file.read(len(BEGINNING)) == BEGINNING
    except OSError:
        return False


def refuse_pointers(folder: Path) -> None:
    """Raise `UnreadableCheckpoint` where a file in the folder, or in one below it, is a pointer."""
    for path in [] if remote.is_remote(folder) else sorted(folder.rglob("*")):
        refuse_pointer(path)
