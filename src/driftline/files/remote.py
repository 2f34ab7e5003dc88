"""Addresses with `://`: a folder of an object store, of a server, or of the Hub, seen as a path.

`folder` makes the path. universal-pathlib gives any fsspec filesystem the interface of pathlib, so what finds and
opens checkpoints need not know where they lie; only bytes are read differently, by range requests. fsspec is not
imported before an address asks for it. Passwords in an address go to its filesystem and are in no path, hence in
no message and no result.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

from driftline.errors import InputError, first_line

Result = TypeVar("Result")

_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+://")
_USER = re.compile(r"(?<=[\w+.-])://([^/\s]*)@")  # of an address; one pass, whatever the text
_LOGINS = ("http", "https", "ftp")  # of their addresses, what stands before the @ is a user even without a password
_HUB = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/+(.*?))?/*$")
_WAITS = (0.5, 1.0, 2.0)  # seconds before a request is sent again
_AT_ONCE = 32  # requests in flight
_one_at_a_time = threading.Lock()  # for filesystems that may share one connection, such as ftp's
BESIDE_WEIGHTS = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".py")
_FINAL = (
    FileNotFoundError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
    ImportError,
    ValueError,
    InputError,
)


def is_address(text: str | Path) -> bool:
    return isinstance(text, str) and _ADDRESS.match(text) is not None


def is_remote(path: Path) -> bool:
    """Whether a path was made by `folder`."""
    return not isinstance(path, Path)


def hub_name(path: Path) -> str | None:
    """`owner/name` of a remote folder on the Hub; None of other places."""
    match = _HUB.match(str(path))
    return match[1] if match else None


def refuse_output(out: Path) -> None:
    """Results are written locally, as only there they can appear whole or not at all.

    Raises:
        InputError: `out` was made from an address; a path has only one of its slashes left.
    """
    if re.match(r"[A-Za-z][\w+.-]+:/", str(out)):
        raise InputError(f"--out {redacted(str(out).replace(':/', '://', 1))} is a remote address: give a local folder")


def redacted(text: str) -> str:
    """The text without the user and password of any address in it."""

    def without(match: re.Match[str]) -> str:
        secret = ":" in match[1] or match.string.endswith(_LOGINS, 0, match.start())
        return "://" if secret else match[0]

    return _USER.sub(without, text)


def folder(address: str) -> Path:
    """The folder of an address. Of the Hub the commit is looked up now, so that later pushes change nothing.

    Raises:
        InputError: an unknown protocol, a library that is not installed, or no such repository or revision.
    """
    shown = redacted(address)
    protocol = address.partition("://")[0].lower()
    if protocol in ("file", "local"):
        return Path(unquote(address.partition("://")[2]))
    if protocol in ("http", "https") and "?" in address:
        raise InputError(f"{shown.partition('?')[0]} has a query, which addresses one file: give the folder's address")
    import fsspec
    from upath import UPath

    try:
        fsspec.get_filesystem_class(protocol)
        options = _login(address, protocol)
        with _sentences(shown):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of protocols without a path class of their own
                path = UPath(_pinned(shown) if protocol == "hf" else shown, **options)
            path.fs.invalidate_cache()
        return cast(Path, path)
    except ImportError as error:
        library = _library(protocol) or getattr(error.__cause__ or error, "name", None)
        raise InputError(f"{shown} needs {library}, which is not installed: pip install {library}") from error
    except ValueError as error:
        raise InputError(f"{shown} cannot be opened ({redacted(first_line(error))}): check the address") from error


def _library(protocol: str) -> str | None:
    """The package that a protocol needs, where its filesystem is not fsspec's own."""
    from fsspec.registry import known_implementations

    package = known_implementations.get(protocol, {}).get("class", "").partition(".")[0]
    return None if package in ("", "fsspec") else package


def _login(address: str, protocol: str) -> dict[str, Any]:
    url = urlsplit(address)
    if url.username is None or redacted(address) == address:
        return {}
    user, password = unquote(url.username), unquote(url.password or "")
    if protocol in ("http", "https"):
        basic = b64encode(f"{user}:{password}".encode()).decode()
        return {"client_kwargs": {"headers": {"Authorization": f"Basic {basic}"}}}
    return {"username": user, "password": password}


def branches(address: str) -> dict[str, Path]:
    """The branches of `hf://owner/name`, each a folder at the commit that it is at now; empty of other addresses.

    Raises:
        InputError: no such repository, or the Hub cannot be reached.
    """
    match = _HUB.match(address)
    if not match or match[2] or match[3]:
        return {}
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise InputError(f"{address} needs huggingface_hub: pip install huggingface_hub") from error
    from upath import UPath

    with _sentences(address):
        refs = HfApi().list_repo_refs(match[1])
    return {ref.name: cast(Path, UPath(f"hf://{match[1]}@{ref.target_commit}")) for ref in refs.branches}


def _pinned(address: str) -> str:
    from huggingface_hub import HfApi

    match = _HUB.match(address)
    if not match:
        raise InputError(f"{address} is not hf://owner/name, hf://owner/name@revision or a folder in one")
    revision = unquote(match[2]) if match[2] else None
    commit = HfApi().model_info(match[1], revision=revision).sha
    return f"hf://{match[1]}@{commit}" + (f"/{match[3]}" if match[3] else "")


@contextmanager
def _sentences(address: str) -> Iterator[None]:
    """What an address's server refuses, as one sentence."""
    try:
        yield
    except (InputError, ImportError):
        raise
    except Exception as error:
        kind = type(error).__name__
        if kind in ("RepositoryNotFoundError", "GatedRepoError"):
            raise InputError(
                f"{address}: the Hub knows no such repository, or it is private: check the name, or log in with HF_TOKEN"
            ) from error
        if kind == "RevisionNotFoundError":
            raise InputError(f"{address}: the repository has no such branch, tag or commit: check its name") from error
        raise InputError(
            f"{address} cannot be reached ({_reason(error)}): check the address, the network and the credentials"
        ) from error


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Whatever a remote filesystem raises as an OSError with a reason; nothing is changed for a local path."""
    try:
        yield
    except Exception as error:
        if not is_remote(path) or isinstance(error, InputError):
            raise
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
        if isinstance(error, PermissionError):
            raise PermissionError(errno.EACCES, f"no permission: {_reason(error)}") from error
        raise OSError(errno.EIO, _reason(error)) from error


def _reason(error: BaseException) -> str:
    return redacted(first_line(error))[:200]


def _patiently(path: Path, request: Callable[[], Result]) -> Result:
    """A request, sent again a few times when the network or the server fails; the Hub's library does so itself."""
    for wait in () if _HUB.match(str(path)) else _WAITS:
        try:
            return request()
        except _FINAL:
            raise
        except Exception:
            time.sleep(wait)
    return request()


def size(file: Path) -> int:
    """Bytes of a remote file, in one request or, where its folder was listed, none.

    Raises:
        OSError: it is not there, or cannot be reached.
    """
    with faults(file):
        found = _patiently(file, lambda: _information(file))["size"]
        if found is None:
            raise InputError(f"{file}: its server does not tell its size: copy the run to a folder")
        return int(found)


def _information(file: Path) -> dict[str, Any]:
    return cast(Any, file).fs.info(cast(Any, file).path)


def read(file: Path, start: int, count: int) -> bytes:
    """Bytes [start, start + count) of a remote file, in one range request; fewer where the file ends before.

    A request that fails is sent again three times, over 3.5 seconds.

    Raises:
        OSError: it is not there, cannot be reached, or its server does not serve ranges.
    """
    filesystem, path = cast(Any, file).fs, cast(Any, file).path
    exact = {} if filesystem.async_impl else {"cache_type": "none"}  # no reading ahead
    turn = nullcontext() if filesystem.async_impl or _HUB.match(str(file)) else _one_at_a_time

    def request() -> bytes:
        try:
            with turn:
                return filesystem.cat_file(path, start=start, end=start + count, **exact)
        except _FINAL:
            raise
        except Exception:
            filesystem.invalidate_cache(os.path.dirname(path))
            if _information(file)["size"] < start + count:  # some servers refuse a range beyond the end
                return b""
            raise

    if count == 0:
        return b""
    with faults(file):
        found = _patiently(file, request)
        if len(found) > count:
            raise InputError(
                f"{file}: its server sends whole files where a range is asked for: copy the run to a folder"
            )
        return found


def together(reads: Sequence[Callable[[], None]]) -> None:
    """Independent reads of remote files, up to 32 of the process under way at once: what takes long is the answer."""
    for future in [_pool(os.getpid()).submit(read) for read in reads]:
        future.result()


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="driftline-remote")


def origin(file: Path) -> dict[str, Any]:
    """What tells one version of a remote file from another without reading it: bytes, and commit, etag or fingerprint.

    The fingerprint, where a filesystem gives no etag, is fsspec's hash of the file's name, size and times.

    Raises:
        OSError: it is not there, or cannot be reached.
    """
    with faults(file):
        known = _patiently(file, lambda: _information(file))
        found: dict[str, Any] = {"bytes": known["size"]}
        if (match := _HUB.match(str(file))) and match[2]:
            return found | {"commit": match[2]}
        etag = known.get("ETag") or known.get("etag")
        if etag:
            return found | {"etag": str(etag).strip('"')}
        return found | {"fingerprint": str(cast(Any, file).fs.ukey(cast(Any, file).path))}


@contextmanager
def local_copy(source: str | Path, *, weights: bool = True) -> Iterator[str | Path]:
    """A folder on this disk with a remote model's files, gone afterwards; what is not remote, as it is.

    Only the files that make a model are fetched: weights (safetensors) if asked for, configuration and tokenizer,
    nothing of the trainer's. Those of the Hub go through its own cache, which stays.

    Raises:
        InputError: they cannot be fetched.
    """
    if isinstance(source, str) or not is_remote(source):
        yield source
        return
    suffixes = (*BESIDE_WEIGHTS, ".safetensors") if weights else BESIDE_WEIGHTS
    with tempfile.TemporaryDirectory(prefix="driftline-") as copy:
        with _sentences(str(source)):
            names = [
                file.name for file in _patiently(source, lambda: list(source.iterdir())) if file.name.endswith(suffixes)
            ]
            target = _from_hub(source, names) or _fetched(source, names, Path(copy))
        yield target


def _from_hub(source: Path, names: list[str]) -> Path | None:
    match = _HUB.match(str(source))
    if not match:
        return None
    from huggingface_hub import snapshot_download

    below = f"{match[3]}/" if match[3] else ""
    wanted = [below + name for name in names]
    return Path(snapshot_download(match[1], revision=match[2], allow_patterns=wanted)) / below


def _fetched(source: Path, names: list[str], target: Path) -> Path:
    for name in names:
        with (source / name).open("rb") as file, open(target / name, "wb") as copy:
            shutil.copyfileobj(file, copy, 1 << 24)
    return target
