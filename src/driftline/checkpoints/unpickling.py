"""Pickles of trainers as data: nothing that they name is executed, and what one can take is bounded.

A pickle is a program that may call anything, for as long as it likes. Here every name in it stands for an inert `Node`,
which records what it was called with and does nothing; what may be the key of a dict is what can be hashed and shown at
once; and there is an end to the operations.
"""

from __future__ import annotations

import io
import pickle
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, ClassVar

from driftline.errors import UnreadableCheckpoint, first_line

PICKLE_LIMIT = 64 << 20  # bytes of a pickle; it says where tensors are, not what they hold
AXES = 64  # of a tensor
_OPERATIONS = 3_000_000  # of a pickle; a tensor takes some thirty
_NAMES = 1000  # classes and functions that a pickle may name
_FAR = 1 << 62  # counts beyond this are nonsense
_INT, _TEXT = 1 << 64, 1 << 10  # largest number, and characters, of a key
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


class Node:
    """Something that a pickle makes: what it is called, what it was made with, and the state it was given."""

    __slots__ = ("args", "state")
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

    def __init__(self, items: Any = ()) -> None:
        super().__init__()
        for key, value in items if isinstance(items, (list, tuple)) else ():
            self[_key(key)] = value


class _Size(tuple):
    """A torch.Size."""

    def __new__(cls, counts: Any = ()) -> _Size:
        return super().__new__(cls, counts if isinstance(counts, (list, tuple)) else ())


def _key(value: Any) -> Any:
    """A key of a dict, or a member of a set: what is looked up, compared and shown at once, whatever made it.

    Raises:
        ValueError: it is nested, or longer than any key.
    """
    for item in value if type(value) is tuple and len(value) <= AXES else (value,):
        if isinstance(item, (tuple, frozenset)) or (isinstance(item, (str, bytes)) and len(item) > _TEXT):
            raise ValueError("a key that is nested or too long")
        if isinstance(item, int) and abs(item) >= _INT:
            raise ValueError("a key that is too large a number")
    return value


def called(value: Any) -> str:
    """The last part of the name of a node, or of a class named in a pickle; '' for anything else."""
    path = value.path if isinstance(value, Node) or (isinstance(value, type) and issubclass(value, Node)) else ""
    return path.rpartition(".")[2]


@lru_cache(1 << 12)
def _named(module: str, name: str) -> type:
    if (module, name) == ("collections", "OrderedDict"):
        return _Dict
    if (module, name) == ("torch", "Size"):
        return _Size
    return type("Node", (Node,), {"path": f"{module}.{name}", "__slots__": ()})


def counts(values: Any) -> tuple[int, ...]:
    """Extents or places along the axes of a tensor.

    Raises:
        ValueError: they are not, or are larger than any that a disk can hold.
    """
    if not isinstance(values, (list, tuple)) or len(values) > AXES:
        raise ValueError("not the counts of a tensor")
    if any(type(count) is not int or not 0 <= count < _FAR for count in values):
        raise ValueError("not counts")
    return tuple(values)


@dataclass(frozen=True, slots=True)
class TorchStorage:
    """A storage by its key in the archive: bytes from `offset` of the file on."""

    dtype: str
    offset: int
    nbytes: int


_BASE: Any = pickle._Unpickler
_PICKLE: Any = pickle


# The interpreter's own unpickler, in Python: that in C reserves as much memory as a damaged file asks for.
class _Unpickler(_BASE):
    dispatch: ClassVar[dict[int, Any]] = dict(_BASE.dispatch)

    def __init__(self, file: BinaryIO, storages: dict[str, tuple[int, int]], most: int) -> None:
        super().__init__(file, encoding="latin-1")
        self._storages, self._most, self._done = storages, most, 0
        self._names: set[tuple[str, str]] = set()

    def load(self) -> Any:
        """As its base's, but for the number of operations."""
        self._unframer = _PICKLE._Unframer(self._file_read, self._file_readline)
        self.read, self.readinto, self.readline = self._unframer.read, self._unframer.readinto, self._unframer.readline
        self.metastack: list[Any] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.proto = 0
        try:
            while self._done < self._most:
                self._done += 1
                self.dispatch[self.read(1)[0]](self)
        except _PICKLE._Stop as stop:
            return stop.value
        raise ValueError(f"more than {self._most:,} operations")

    def find_class(self, module: str, name: str) -> type:
        self._names.add((module, name))
        if len(self._names) > _NAMES:
            raise ValueError(f"more than {_NAMES} names")
        return _named(module, name)

    def persistent_load(self, pid: Any) -> TorchStorage:
        if not isinstance(pid, tuple) or len(pid) > AXES:
            raise ValueError("it names a storage in a way that is not understood")
        kind, storage, key, *_ = pid
        if kind != "storage" or not isinstance(key, str) or key not in self._storages:
            raise ValueError("it names a storage that is not in the file")
        return TorchStorage(_STORAGES.get(called(storage), called(storage)), *self._storages[key])

    def _set(self, target: Any, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def load_setitem(self) -> None:
        items = self.stack[-2:]
        del self.stack[-2:]
        self._set(self.stack[-1], items)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def load_dict(self) -> None:
        items, made = self.pop_mark(), dict[Any, Any]()
        self._set(made, items)
        self.append(made)

    def load_additems(self) -> None:
        items = self.pop_mark()
        for item in items:
            self.stack[-1].add(_key(item))

    def load_frozenset(self) -> None:
        self.append(frozenset(map(_key, self.pop_mark())))

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))  # no room is made before it is read

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Node):
            self.stack[-1].state = state

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._make(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    def _make(self, kind: Any, arguments: Any) -> Any:
        if not isinstance(arguments, tuple) or len(arguments) > AXES:
            raise ValueError("it makes something of too much")
        self._done += sum(len(given) for given in arguments if isinstance(given, (list, tuple)))  # may be copied
        return kind(*arguments) if kind not in (_Dict, _Size) or self._done < self._most else None

    for _operation, _load in (
        (pickle.BYTEARRAY8, load_bytearray8),
        (pickle.BUILD, load_build),
        (pickle.REDUCE, load_reduce),
        (pickle.NEWOBJ, load_newobj),
        (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.SETITEM, load_setitem),
        (pickle.SETITEMS, load_setitems),
        (pickle.DICT, load_dict),
        (pickle.ADDITEMS, load_additems),
        (pickle.FROZENSET, load_frozenset),
    ):
        dispatch[_operation[0]] = _load


def unpickle(
    content: bytes, where: str, storages: dict[str, tuple[int, int]] | None = None, *, most: int = _OPERATIONS
) -> Any:
    """The object of a pickle, every class and function in it an inert `Node`.

    Args:
        most: operations that it may take.

    Raises:
        UnreadableCheckpoint: it is no pickle, damaged, larger than 64 MiB, or takes more operations.
    """
    if len(content) > PICKLE_LIMIT:
        raise UnreadableCheckpoint(f"{where} is a pickle of more than {PICKLE_LIMIT >> 20} MiB: damaged")
    try:
        return _Unpickler(io.BytesIO(content), storages or {}, most).load()
    except Exception as error:  # whatever a damaged program does
        raise UnreadableCheckpoint(
            f"{where} is damaged, or no file of torch.save ({first_line(error)[:200]})"
        ) from error
