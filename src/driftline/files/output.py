"""Results that are either complete or absent: written beside the target, fsynced, renamed last."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from driftline.errors import InputError
from driftline.files import remote


def refuse_occupied(out: Path, *, overwrite: bool, mark: str) -> None:
    """Refuse an `out` that holds something, before any work is done.

    With `overwrite`, a folder is replaced only if it holds the file `mark`, which the same command
    leaves in its results: neither checkpoints nor anyone's own files are ever deleted.
    """
    remote.refuse_output(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: give a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise InputError(f"--out {out} is not empty: choose another folder, or add --overwrite to replace it")
    if not (out / mark).is_file():
        raise InputError(
            f"--out {out} holds files that driftline did not write: --overwrite will not delete them, choose another folder"
        )


@contextmanager
def output_folder(out: Path, *, overwrite: bool = False, mark: str = "summary.json") -> Iterator[Path]:
    """A fresh folder to write into; it becomes `out` when the block ends well, and vanishes otherwise."""
    refuse_occupied(out, overwrite=overwrite, mark=mark)
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
        partial.chmod(0o777 & ~_umask())
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}): choose another folder") from error
    try:
        yield partial
        for path in partial.rglob("*"):
            _sync(path)
        _sync(partial)
        _rename_over(partial, out)
        _sync(out.parent)
    except OSError as error:
        if error.errno is not None and (error.filename is None or error.errno in (errno.ENOSPC, errno.EDQUOT)):
            raise InputError(
                f"--out {out} could not be written ({error.strerror}): nothing was left there; make room or mend that, and repeat the call"
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename_over(new: Path, out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
        os.rename(out, old)
        os.rename(new, out)
        shutil.rmtree(old)
    else:
        os.rename(new, out)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_text(value: Any) -> str:
    """JSON for other programs: a number that is not finite becomes null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
