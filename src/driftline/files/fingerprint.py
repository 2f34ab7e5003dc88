"""Telling one input from another without reading it whole: names, sizes and times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from driftline.files import remote

WEIGHT_SUFFIXES = (".safetensors", ".bin")


def hashing() -> hashlib.blake2b:
    """What makes the digest of bytes that come one after another."""
    return hashlib.blake2b(digest_size=16)


def digest(content: bytes) -> str:
    """Of some bytes: 32 hexadecimal digits."""
    hashed = hashing()
    hashed.update(content)
    return hashed.hexdigest()


def digest_of(value: Any) -> str:
    """Of what JSON can hold."""
    return digest(json.dumps(value).encode())


def stamp(file: Path) -> list[Any]:
    """What tells one state of a file from another: size and time, or a remote one's etag or commit."""
    if remote.is_remote(file):
        return [str(file), remote.origin(file)]
    status = file.stat()
    return [str(file.absolute()), status.st_size, status.st_mtime_ns]


def weights_of(folders: Iterable[str]) -> dict[str, list[list[Any]]]:
    """Name, size and time of each model's weight files: other weights under the same name are noticed."""
    return {
        folder: [
            [file.name, file.stat().st_size, file.stat().st_mtime_ns]
            for file in sorted(Path(folder).glob("*"))
            if file.suffix in WEIGHT_SUFFIXES
        ]
        for folder in folders
    }
