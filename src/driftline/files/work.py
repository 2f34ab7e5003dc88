"""Results of single parts of a long request, kept while others are still to come: what makes it resumable.

They lie in a hidden folder beside the output, each written whole and renamed; the output itself appears
when everything is done. Work for another request is thrown away.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from driftline.errors import InputError
from driftline.files.atomic import replacing
from driftline.files.regular import open_regular, read_regular


class Work:
    """The hidden folder of one request: an array for each finished step, or whatever else is put there."""

    def __init__(self, out: Path, request: dict[str, Any]) -> None:
        self.folder = out.absolute().parent / f".{out.name}.work"
        text = json.dumps(request, sort_keys=True)
        note = self.folder / "request.json"
        try:
            if not note.is_file() or read_regular(note) != text.encode():
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                note.write_text(text)
        except OSError as error:
            raise InputError(f"--out {out} cannot be written ({error.strerror}): choose another folder") from error

    def load(self, step: int) -> np.ndarray | None:
        """The finished result of a step; None where there is none, or it is damaged, so that it is made again."""
        try:
            with open_regular(self.folder / f"{step}.npy") as file:
                found = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError, MemoryError):
            return None
        return found if isinstance(found, np.ndarray) else None

    def save(self, step: int, values: np.ndarray) -> None:
        with replacing(self.folder / f"{step}.npy") as file:
            np.save(file, values, allow_pickle=False)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
