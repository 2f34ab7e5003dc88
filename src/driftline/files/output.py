"""Results that are either complete or absent: written beside the target, fsynced, renamed last.

While it is written, the folder is `.NAME.partial-XXXX` beside the target, held by the process that writes it. What a
killed process left is removed by the next call for the same place; a former result that was set aside to be
replaced, and was not, is put back.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from driftline.errors import InputError
from driftline.files import remote
from driftline.files.atomic import sync
from driftline.files.lock import Held, hold

_PARTIAL, _FORMER = "partial-", "old-"


def refuse_occupied(out: Path, *, overwrite: bool, mark: str) -> None:
    """Refuse an `out` that holds something, before any work is done.

    With `overwrite`, a folder is replaced only if it holds the file `mark`, which the same command
    leaves in its results: neither checkpoints nor anyone's own files are ever deleted.
    """
    remote.refuse_output(out)
    clear_leftovers(out)
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


def clear_leftovers(out: Path) -> None:
    """Put back what a killed process had set aside, and remove what it had half written."""
    out = out.absolute()
    try:
        partials = out.parent.glob(f".{glob.escape(out.name)}.{_PARTIAL}*")
        still_written = [partial for partial in partials if not _removed_if_left(partial)]
        if not still_written:
            for former in out.parent.glob(f".{glob.escape(out.name)}.{_FORMER}*"):
                _put_back(former, out)
    except OSError:
        return  # nothing can be listed or removed there: what is asked for will say why


@contextmanager
def output_folder(out: Path, *, overwrite: bool = False, mark: str = "summary.json") -> Iterator[Path]:
    """A fresh folder to write into; it becomes `out` when the block ends well, and vanishes otherwise."""
    refuse_occupied(out, overwrite=overwrite, mark=mark)
    out = out.absolute()
    try:
        with scratch_folder(out) as partial:
            yield partial
            for path in partial.rglob("*"):
                sync(path)
            sync(partial)
            _rename_over(partial, out)
            sync(out.parent)
    except OSError as error:
        if error.errno is not None and (error.filename is None or error.errno in (errno.ENOSPC, errno.EDQUOT)):
            raise InputError(
                f"--out {out} could not be written ({error.strerror}): nothing was left there; make room or mend that, and repeat the call"
            ) from error
        raise


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that is gone when the block ends, or, of a killed process, with the next call for `out`."""
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial, holding = _fresh(out)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}): choose another folder") from error
    try:
        yield partial
    finally:
        if holding is not None:
            os.close(holding)
        shutil.rmtree(partial, ignore_errors=True)


def _fresh(out: Path) -> tuple[Path, int | None]:
    """A new folder beside `out`, and what holds it where the file system has locks.

    Another process may take one that is not held yet for a leftover, and remove it: then the next one is made.
    """
    while True:
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.{_PARTIAL}", dir=out.parent))
        try:
            partial.chmod(0o777 & ~_umask())
            holding = hold(partial)
        except (Held, FileNotFoundError):
            continue
        except OSError:
            return partial, None
        if partial.exists():
            return partial, holding
        os.close(holding)


def _rename_over(new: Path, out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        former = Path(tempfile.mkdtemp(prefix=f".{out.name}.{_FORMER}", dir=out.parent))
        os.rename(out, former)
        os.rename(new, out)
        shutil.rmtree(former, ignore_errors=True)
    else:
        os.rename(new, out)


def _put_back(former: Path, out: Path) -> None:
    """The result is where it was, or its replacement is, and it can go."""
    if out.exists() and any(out.iterdir()):
        shutil.rmtree(former, ignore_errors=True)
    elif any(former.iterdir()):
        os.rename(former, out)
    else:
        former.rmdir()


def _removed_if_left(partial: Path) -> bool:
    """Remove what a process that is gone was writing; False where one still is, or the file system cannot tell."""
    holding = _hold_if_possible(partial)
    if holding is None:
        return False
    try:
        shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(holding)
    return True


def _hold_if_possible(folder: Path) -> int | None:
    try:
        return hold(folder)
    except (Held, OSError):
        return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
