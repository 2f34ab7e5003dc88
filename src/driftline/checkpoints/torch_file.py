"""What a file of `torch.save`, or another pickle of a trainer, says of its tensors; nothing that it names is executed.

A pickle is a program that may call anything. Here every name in it stands for an inert `Node`, which records what it
was called with and does nothing; storages are not loaded, their place in the file is noted. So torch is not needed,
files of classes that are not installed can be read, and a hostile file can at worst be nonsense.

A file of torch.save is a zip archive whose members are not compressed: `data.pkl`, and `data/KEY` for each storage.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from driftline.checkpoints.dtypes import ITEM_BYTES
from driftline.checkpoints.git_lfs import refuse_pointer
from driftline.checkpoints.tensors import Stored
from driftline.errors import UnreadableCheckpoint

PICKLE_LIMIT = 64 << 20  # bytes of a pickle; it says where tensors are, not what they hold
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
_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
    "ComplexFloatStorage": "C64",
}


_STATES = ("model", "state_dict", "model_state_dict", "module")  # what trainers call the model's among others
_REBUILT = ("_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_tensor")


class Node:
    """Something that a pickle makes: what it is called, what it was made with, and the state it was given."""

    path = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **named: Any) -> Node:
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __init__(self, *args: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass

    @property
    def fields(self) -> dict[str, Any]:
        """The attributes of an object, or of a dataclass, that it stands for."""
        state = self.state
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = state[1]
        return state if isinstance(state, dict) else {}


class _Dict(dict):
    """An OrderedDict, which may have attributes too: a state_dict has."""


def called(value: Any) -> str:
    """The last part of the name of a node, or of a class named in a pickle; '' for anything else."""
    path = value.path if isinstance(value, Node) or (isinstance(value, type) and issubclass(value, Node)) else ""
    return path.rpartition(".")[2]


@cache
def _named(module: str, name: str) -> type:
    if (module, name) == ("collections", "OrderedDict"):
        return _Dict
    if (module, name) == ("torch", "Size"):
        return tuple
    return type("Node", (Node,), {"path": f"{module}.{name}"})


@dataclass(frozen=True)
class TorchStorage:
    """A storage by its key in the archive: bytes from `offset` of the file on."""

    dtype: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Part:
    """A tensor in a file: contiguous elements from `offset` on."""

    shape: tuple[int, ...]
    dtype: str
    offset: int


# The interpreter's own unpickler, in Python: that in C reserves as much memory as a damaged file asks for.
class _Unpickler(pickle._Unpickler):
    def __init__(self, file: BinaryIO, storages: dict[str, tuple[int, int]]) -> None:
        super().__init__(file, encoding="latin-1")
        self._storages = storages

    def find_class(self, module: str, name: str) -> type:
        return _named(module, name)

    def persistent_load(self, pid: Any) -> TorchStorage:
        kind, storage, key, *_ = pid
        if kind != "storage" or key not in self._storages:
            raise ValueError("it names a storage that is not in the file")
        return TorchStorage(_STORAGES.get(called(storage), called(storage)), *self._storages[key])


def unpickle(content: bytes, where: str, storages: dict[str, tuple[int, int]] | None = None) -> Any:
    """The object of a pickle, every class and function in it an inert `Node`.

    Raises:
        UnreadableCheckpoint: it is no pickle, damaged, or larger than 64 MiB.
    """
    if len(content) > PICKLE_LIMIT:
        raise UnreadableCheckpoint(f"{where} is a pickle of more than {PICKLE_LIMIT >> 20} MiB: damaged")
    try:
        return _Unpickler(io.BytesIO(content), storages or {}).load()
    except Exception as error:  # whatever a damaged program does
        raise UnreadableCheckpoint(f"{where} is damaged, or no file of torch.save ({error})") from error


def read_torch_file(path: Path) -> Any:
    """The object that torch.save wrote, its tensors as nodes: see `part_of`, and `sharding.box_of` for DTensors.

    Raises:
        UnreadableCheckpoint: not there, truncated, compressed, of the format before torch 1.6, or damaged.
    """
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            return read_torch_archive(file, str(path))
    except OSError as error:
        raise UnreadableCheckpoint(f"{path} cannot be read ({error.strerror})") from error


def read_torch_archive(file: BinaryIO, where: str, start: int = 0) -> Any:
    """The same of an open file, whose archive begins at byte `start` of the file on disk."""
    try:
        archive = zipfile.ZipFile(file)
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


def _innermost(state: dict[Any, Any], path: Path) -> dict[Any, Any]:
    """The state dict of the model where a trainer put it among other things, such as its step."""

    def tensors(values: Any) -> int:
        return (
            sum(called(value) in (*_REBUILT, "_rebuild_parameter") for value in values.values())
            if isinstance(values, dict)
            else 0
        )

    inner = {key: value for key, value in state.items() if tensors(value)}
    if not inner or tensors(state) > max(map(tensors, inner.values())):
        return state
    named = [key for key in _STATES if key in inner] or list(inner)
    if len(named) > 1 and named[0] not in _STATES:
        raise UnreadableCheckpoint(
            f"{path} holds several state dicts ({', '.join(map(str, inner))}), and none is called {_STATES[0]}: save the "
            "model's by itself"
        )
    return _innermost(inner[named[0]], path)


def _offset(file: BinaryIO, info: zipfile.ZipInfo, where: str) -> int:
    """Where a member's bytes begin in the archive."""
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise UnreadableCheckpoint(f"{where} is damaged: a member of the archive is not where its index says")
    name, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + name + extra


def _member(file: BinaryIO, info: zipfile.ZipInfo, where: str) -> bytes:
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
            return part_of(value.args[0](*value.args[2]), where)
        if kind not in _REBUILT:
            return None
        storage, first, shape, stride = value.args[:4]
        typed = called(value.args[6]) if kind == "_rebuild_tensor_v3" else storage.dtype
        dtype = DTYPES.get(typed, typed)
        counts = [*shape, *stride, first]
        if not isinstance(storage, TorchStorage) or any(type(count) is not int or count < 0 for count in counts):
            raise ValueError
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
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
    return Part(tuple(shape), dtype, storage.offset + first * item)
