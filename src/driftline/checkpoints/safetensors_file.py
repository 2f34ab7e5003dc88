"""The header of a safetensors file: what tensors it holds and where their bytes lie. Nothing in it is trusted.

Mapped pages count as resident memory and are slow on network disks, and the library's slices follow
tensor axes; the scan wants any flat range of elements, into a buffer it owns. So the header is read
and checked here, and `Stored.read_into` takes data straight from the file into the caller's buffer.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from driftline.checkpoints.dtypes import ITEM_BYTES
from driftline.checkpoints.git_lfs import BEGINNING, sentence
from driftline.checkpoints.tensors import Opaque, Stored
from driftline.errors import UnreadableCheckpoint
from driftline.files import remote
from driftline.files.regular import open_regular

# The format allows headers of 100 MB; these, enough for 200,000 tensors in one file, bound the memory that a
# hostile one can take when it is parsed.
HEADER_LIMIT = 32 << 20  # bytes
_ITEMS_LIMIT = 2_000_000  # brackets and commas
_NAME, _AXES, _FAR = 1024, 64, 1 << 62  # characters of a name, axes of a tensor, and what no disk can hold


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key appears twice")
    return keys


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one file, in file order; see `read_header_and_metadata`."""
    return read_header_and_metadata(path)[0]


def read_header_and_metadata(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors of one file, in file order, every offset checked against the file's size; and what was noted there.

    Raises:
        UnreadableCheckpoint: the file is short, damaged, or not a safetensors file.
    """
    try:
        file_bytes, text, length = _header_text(path)
    except OSError as error:
        raise UnreadableCheckpoint(f"{path} cannot be read: {error.strerror}") from error
    if len(text) < length:
        raise UnreadableCheckpoint(f"{path} ends inside its header: still being written, or truncated")
    if sum(map(text.count, (b"{", b"[", b","))) > _ITEMS_LIMIT:
        raise UnreadableCheckpoint(f"{path} has a header of more than {_ITEMS_LIMIT:,} items: damaged")
    try:
        header = json.loads(text, object_pairs_hook=_no_duplicates)
        noted = header.pop("__metadata__", None)
        tensors = [_tensor(path, name, entry, 8 + length) for name, entry in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableCheckpoint(f"{path} has a damaged header ({error})") from error
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    end = 8 + length
    for tensor in tensors:
        if tensor.offset != end:
            raise UnreadableCheckpoint(f"{path}: tensor {tensor.name!r} overlaps another or leaves a hole before it")
        end += tensor.nbytes
    if end > file_bytes:
        raise UnreadableCheckpoint(
            f"{path} is {file_bytes} bytes where its header promises {end}: still being written, or truncated"
        )
    if end < file_bytes:
        raise UnreadableCheckpoint(f"{path} has {file_bytes - end} bytes after its last tensor: damaged")
    return {tensor.name: tensor for tensor in tensors}, noted if isinstance(noted, dict) else {}


def _header_text(path: Path) -> tuple[int, bytes, int]:
    """Bytes of the file, its header's text, and the length that the header should have."""
    if remote.is_remote(path):
        file_bytes = remote.size(path)
        length = _length(path, file_bytes, remote.read(path, 0, min(8, file_bytes)))
        return file_bytes, remote.read(path, 8, min(length, file_bytes - 8)), length
    with open_regular(path) as file:
        file_bytes = os.fstat(file.fileno()).st_size
        length = _length(path, file_bytes, file.read(8))
        return file_bytes, file.read(length), length


def _length(path: Path, file_bytes: int, prefix: bytes) -> int:
    if len(prefix) < 8:
        raise UnreadableCheckpoint(f"{path} is only {file_bytes} bytes: still being written, or truncated")
    length = int.from_bytes(prefix, "little")
    if length > HEADER_LIMIT:
        if BEGINNING.startswith(prefix):
            raise UnreadableCheckpoint(sentence(path))
        raise UnreadableCheckpoint(f"{path} claims a header of {length} bytes: not a safetensors file, or damaged")
    return length


def _tensor(path: Path, name: str, entry: dict, data_start: int) -> Stored:
    name.encode()  # refuses half a character
    if len(name) > _NAME:
        raise ValueError(f"tensor {name[:40]!r}... has a name of {len(name):,} characters")
    shape, dtype, (begin, end) = tuple(entry["shape"]), entry["dtype"], entry["data_offsets"]
    if not isinstance(dtype, str) or not dtype.isidentifier() or len(dtype) > 24:
        raise ValueError(f"tensor {name!r} has no dtype")
    if len(shape) > _AXES or any(type(extent) is not int or not 0 <= extent < _FAR for extent in (*shape, begin, end)):
        raise ValueError(f"tensor {name!r} has a shape or offset that is not a count")
    if dtype not in ITEM_BYTES:
        return Opaque(name, shape, dtype, path, data_start + begin, end - begin)
    tensor = Stored(name, shape, dtype, path, data_start + begin)
    if end - begin != tensor.nbytes:
        raise ValueError(f"tensor {name!r} has {end - begin} bytes where its shape needs {tensor.nbytes}")
    return tensor
