"""What a file of `torch.save`, or another pickle of a trainer, says of its tensors; nothing that it names is executed.

`unpickling` makes inert nodes of what a pickle names; storages are not loaded, their place in the file is noted. So torch is not needed,
files of classes that are not installed can be read, and a hostile file can at worst be nonsense.

A file of torch.save is a zip archive whose members are not compressed: `data.pkl`, and `data/KEY` for each storage.
"""

from __future__ import annotations

import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from driftline.checkpoints.dtypes import ITEM_BYTES
from driftline.checkpoints.git_lfs import refuse_pointer
from driftline.checkpoints.tensors import Stored
from driftline.checkpoints.unpickling import AXES, PICKLE_LIMIT, TorchStorage, called, counts, unpickle
from driftline.errors import UnreadableCheckpoint
from driftline.files.regular import open_regular

_DIRECTORY = 16 << 20  # bytes of an archive's list of members
DTYPES = {
    "float64": "F64",
    "double": "F64",
    "float32": "F32",
    "float": "F32",
    "float16": "F16",
    "half": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "complex64": "C64",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
_STATES = ("model", "state_dict", "model_state_dict", "module")  # what trainers call the model's among others
_REBUILT = ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_tensor")


@dataclass(frozen=True)
class Part:
    """A tensor in a file: contiguous elements from `offset` on."""

    shape: tuple[int, ...]
    dtype: str
    offset: int


def read_torch_file(path: Path) -> Any:
    """The object that torch.save wrote, its tensors as nodes: see `part_of`, and `sharding.box_of` for DTensors.

    Raises:
        UnreadableCheckpoint: not there, truncated, compressed, of the format before torch 1.6, or damaged.
    """
    refuse_pointer(path)
    try:
        with open_regular(path) as file:
            return read_torch_archive(file, str(path))
    except OSError as error:
        raise UnreadableCheckpoint(f"{path} cannot be read ({error.strerror})") from error


def read_torch_archive(file: IO[bytes], where: str, start: int = 0) -> Any:
    """The same of an open file, whose archive begins at byte `start` of the file on disk."""
    try:
        archive = zipfile.ZipFile(cast(Any, _Careful(file)))
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        pickled = members["data.pkl"]
    except (zipfile.BadZipFile, KeyError, ValueError, struct.error, NotImplementedError, UnicodeDecodeError) as error:
        raise UnreadableCheckpoint(
            f"{where} is not a whole file of torch.save: still being written, truncated, or saved before torch 1.6"
        ) from error
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in members.values()):
        raise UnreadableCheckpoint(f"{where} is compressed, which torch.save never does: save it anew with torch")
    if pickled.file_size > PICKLE_LIMIT:
        raise UnreadableCheckpoint(f"{where} is a pickle of more than {PICKLE_LIMIT >> 20} MiB: damaged")
    if "byteorder" in members and _member(file, members["byteorder"], where) == b"big":
        raise UnreadableCheckpoint(f"{where} was saved on a big-endian machine, which is not read")
    storages = {
        name.removeprefix("data/"): (start + _offset(file, info, where), info.file_size)
        for name, info in members.items()
        if name.startswith("data/")
    }
    return unpickle(_member(file, pickled, where), where, storages)


def read_state_dict(path: Path) -> dict[str, Stored]:
    """The tensors of a state dict that torch.save wrote; what is no tensor is left out.

    Raises:
        UnreadableCheckpoint: as of `read_torch_file`; or it is no state dict.
    """
    state = read_torch_file(path)
    if not isinstance(state, dict):
        raise UnreadableCheckpoint(f"{path} is not a state dict")
    state = _innermost(state, path)
    found = {str(key): part_of(value, f"{path}, tensor {str(key)!r},") for key, value in state.items()}
    tensors = {name: Stored(name, p.shape, p.dtype, path, p.offset) for name, p in found.items() if p is not None}
    if not tensors:
        raise UnreadableCheckpoint(f"{path} holds no tensors: damaged, or not a state dict")
    return tensors


def _innermost(state: dict[Any, Any], path: Path, depth: int = 4) -> dict[Any, Any]:
    """The state dict of the model where a trainer put it among other things, such as its step."""
    known: dict[int, int] = {}  # of each dict, by its id: one may stand in many places

    def tensors(values: Any) -> int:
        if not isinstance(values, dict):
            return 0
        if id(values) not in known:
            known[id(values)] = sum(called(value) in (*_REBUILT, "_rebuild_parameter") for value in values.values())
        return known[id(values)]

    inner = {key: value for key, value in state.items() if tensors(value)}
    if not inner or not depth or tensors(state) > max(map(tensors, inner.values())):
        return state
    named = [key for key in _STATES if key in inner] or list(inner)
    if len(named) > 1 and named[0] not in _STATES:
        raise UnreadableCheckpoint(
            f"{path} holds several state dicts ({', '.join(str(key) for key in list(inner)[:8])}), and none is called {_STATES[0]}: save the "
            "model's by itself"
        )
    return _innermost(inner[named[0]], path, depth - 1)


def _offset(file: IO[bytes], info: zipfile.ZipInfo, where: str) -> int:
    """Where a member's bytes begin in the archive."""
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise UnreadableCheckpoint(f"{where} is damaged: a member of the archive is not where its index says")
    name, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + name + extra


def _member(file: IO[bytes], info: zipfile.ZipInfo, where: str) -> bytes:
    file.seek(_offset(file, info, where))
    return file.read(info.file_size)


def part_of(value: Any, where: str) -> Part | None:
    """The part that a rebuilt tensor or parameter is; None for anything else, such as a DTensor, or a dtype not known here.

    Raises:
        UnreadableCheckpoint: its elements do not lie one after another, or reach beyond its storage.
    """
    kind = called(value)
    try:
        if kind == "_rebuild_parameter":
            return part_of(value.args[0], where)
        if kind == "_rebuild_from_type_v2" and called(value.args[0]) in _REBUILT:  # a tensor with attributes of its own
            if not isinstance(value.args[2], tuple) or len(value.args[2]) > AXES:
                raise ValueError
            return part_of(value.args[0](*value.args[2]), where)
        if kind not in _REBUILT:
            return None
        storage, first, shape, stride = value.args[:4]
        typed = called(value.args[6]) if kind == "_rebuild_tensor_v3" else storage.dtype
        dtype = DTYPES.get(typed, typed)
        shape, stride, _ = counts(shape), counts(stride), counts((first,))
        if not isinstance(storage, TorchStorage) or len(shape) != len(stride):
            raise ValueError
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableCheckpoint(f"{where} holds a tensor that is damaged") from error
    if dtype not in ITEM_BYTES:
        return None
    size = math.prod(shape)
    rows = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    if size and any(extent > 1 and step != row for extent, step, row in zip(shape, stride, rows, strict=True)):
        raise UnreadableCheckpoint(
            f"{where} holds a tensor of shape {list(shape)} that is a view of another ({list(stride)}): not read"
        )
    item = ITEM_BYTES[dtype]
    if (first + size) * item > storage.nbytes:
        raise UnreadableCheckpoint(f"{where} is damaged: a tensor reaches beyond its storage")
    return Part(shape, dtype, storage.offset + first * item)


class _Careful:
    """A file of which no large part is read at once, whatever a list of members claims to be as long as."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(size if 0 <= size <= _DIRECTORY else _DIRECTORY + 1)
        if len(found) > _DIRECTORY:
            raise zipfile.BadZipFile("its list of members is too long")
        return found
