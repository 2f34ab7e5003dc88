"""torch.distributed.checkpoint: torchtitan (`step-N/`), prime-rl (`checkpoints/step_N/trainer/`), NeMo-RL
(`step_N/policy/weights/`), accelerate's FSDP (`checkpoint-N/pytorch_model_fsdp_0/`), or any such folder.

`.metadata`, written last, is a pickle that says which box of which tensor lies where in which `.distcp` file; each box
is a small file of torch.save. Neither torch nor a process group is needed to read them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

from driftline.checkpoints.dtypes import FLOATS
from driftline.checkpoints.layouts import Checkpoint
from driftline.checkpoints.parameter_names import of_a_state
from driftline.checkpoints.tensors import Piece, TensorInfo, sharded
from driftline.checkpoints.torch_file import DTYPES, part_of, read_torch_archive
from driftline.checkpoints.unpickling import PICKLE_LIMIT, Node, called, counts, unpickle
from driftline.errors import UnreadableCheckpoint
from driftline.files.regular import open_regular

NAME = "dcp"
_METADATA = ".metadata"
# A box takes some sixty operations of the index, and stores six hundred bytes or more.
_FEWEST_OPERATIONS, _MOST_OPERATIONS = 300_000, 10_000_000
_SPARE = 64  # boxes that are described and empty
_OBJECTS = 4 << 20  # bytes of what is no tensor that are read
_FAR, _ROOM = 1 << 62, 1 << 16


def holds(place: Path) -> bool:
    return (place / _METADATA).is_file() or (place.is_dir() and any(place.glob("*.distcp")))


def open(place: Path) -> Checkpoint:
    """The tensors of the model; those of optimizer, scheduler and data loader are left out.

    Raises:
        UnreadableCheckpoint: no `.metadata` yet, a file missing or damaged, or boxes that do not make a tensor.
    """
    if not (place / _METADATA).is_file():
        raise UnreadableCheckpoint(f"{place} has no {_METADATA} yet: still being written, or lost")
    described, stored = _metadata(place / _METADATA)
    _refuse_claims(place, stored)
    names = of_a_state(name for name, tensor in described.items() if _is_floating(tensor))
    boxes: dict[str, list[tuple[Node, Node]]] = {}  # of each tensor: index and place
    for index, where in stored.items():
        boxes.setdefault(_name(index), []).append((index, where))
    tensors = {name: _tensor(place, name, described[name], boxes.get(name, [])) for name in names}
    if not tensors:
        raise UnreadableCheckpoint(f"{place} holds no tensors of a model")
    return Checkpoint(place, NAME, tensors)


def objects(place: Path, wanted: Callable[[str], bool], most: int = 256) -> dict[str, Any]:
    """What it holds that is no tensor, such as an optimizer's settings, of the names that are `wanted`: the first `most`.

    Raises:
        UnreadableCheckpoint: no `.metadata`, or a file missing or damaged.
    """
    described, stored = _metadata(place / _METADATA)
    names = {name for name, kind in described.items() if called(kind) == "BytesStorageMetadata" and wanted(name)}
    found: dict[str, Any] = {}
    room = _OBJECTS
    for index, where in stored.items():
        name = _name(index)
        if name in names and len(found) < most and room > 0:
            try:
                room -= counts((where.fields["length"],))[0]
                found[name] = _read(place, where, name)[1]
            except (KeyError, TypeError, ValueError) as error:
                raise UnreadableCheckpoint(f"{place / _METADATA} describes {name!r} in a way not understood") from error
    return found


def _metadata(path: Path) -> tuple[dict[str, Node], dict[Node, Node]]:
    """Name -> what it is, and index -> where it is stored."""
    try:
        with open_regular(path) as file:
            content = file.read(PICKLE_LIMIT + 1)
    except OSError as error:
        raise UnreadableCheckpoint(f"{path} cannot be read ({error.strerror})") from error
    operations = min(_FEWEST_OPERATIONS + _stored_bytes(path.parent) // 8, _MOST_OPERATIONS)
    found = unpickle(content, str(path), most=operations)
    fields = found.fields if isinstance(found, Node) else {}
    described, stored = fields.get("state_dict_metadata"), fields.get("storage_data")
    if not isinstance(described, dict) or not isinstance(stored, dict):
        raise UnreadableCheckpoint(f"{path} is not the index of a distributed checkpoint: damaged")
    if not all(isinstance(node, Node) for node in (*described.values(), *stored, *stored.values())):
        raise UnreadableCheckpoint(f"{path} is not understood: damaged, or saved by another torch")
    return {str(name): tensor for name, tensor in described.items()}, stored


def _stored_bytes(place: Path) -> int:
    return sum(file.stat().st_size for file in place.glob("*.distcp") if file.is_file())


def _refuse_claims(place: Path, stored: Mapping[Node, Node]) -> None:
    """Raise `UnreadableCheckpoint` where the index has far more boxes in a file than there is room for."""
    promised: dict[str, int] = {}
    for where in stored.values():
        name, length = where.fields.get("relative_path"), where.fields.get("length")
        if isinstance(name, str) and type(length) is int and 0 < length < _FAR:
            promised[name] = promised.get(name, 0) + length
    there = {file.name: file.stat().st_size for file in place.iterdir() if file.is_file()}
    for name, length in promised.items():
        if name in there and length > 2 * there[name] + _ROOM:
            raise UnreadableCheckpoint(
                f"{place / _METADATA} promises {length:,} bytes in {name}, which has {there[name]:,}: still being written, or "
                "truncated"
            )


def _name(index: Node) -> str:
    name = index.fields.get("fqn")
    return name if isinstance(name, str) else ""


def _is_floating(tensor: Node) -> bool:
    if called(tensor) != "TensorStorageMetadata":
        return False
    properties = getattr(tensor.fields.get("properties"), "state", None)
    listed = properties if isinstance(properties, tuple) and properties else (None,)
    first = properties.get("dtype") if isinstance(properties, dict) else listed[0]
    return DTYPES.get(called(first)) in FLOATS


def _tensor(place: Path, name: str, described: Node, boxes: list[tuple[Node, Node]]) -> TensorInfo:
    pieces = []
    dtypes = set()
    try:
        shape, chunks = counts(described.fields["size"]), described.fields["chunks"]
        if len(chunks) > 2 * len(boxes) + _SPARE:
            raise ValueError("more boxes than are stored")
        extents = {counts(chunk.fields["offsets"]): counts(chunk.fields["sizes"]) for chunk in chunks}
        for index, where in boxes:
            begin = counts(index.fields.get("offset") or ()) or (0,) * len(shape)
            file, part = _box(place, where, name)
            if part.shape != extents.get(begin):
                raise UnreadableCheckpoint(f"{file}: the box of {name!r} at {list(begin)} is not as large as promised")
            dtypes.add(part.dtype)
            pieces.append(Piece(file, part.offset, begin, part.shape))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnreadableCheckpoint(f"{place / _METADATA} describes {name!r} in a way that is not understood") from error
    if len(dtypes) > 1:
        raise UnreadableCheckpoint(f"{place}: the boxes of {name!r} are of different dtypes")
    return sharded(name, shape, dtypes.pop() if dtypes else "F32", pieces)


def _box(place: Path, where: Node, name: str) -> tuple[Path, Any]:
    """The file and the part in it."""
    file, value = _read(place, where, name)
    part = part_of(value, f"{file}, at {name!r},")
    if part is None:
        raise UnreadableCheckpoint(f"{file} holds no plain tensor for {name!r}: damaged, or saved by another torch")
    return file, part


def _read(place: Path, where: Node, name: str) -> tuple[Path, Any]:
    """The file, and what torch.save wrote into it there."""
    relative, start, length = (where.fields[key] for key in ("relative_path", "offset", "length"))
    if not isinstance(relative, str):
        raise ValueError
    if Path(relative).name != relative or relative in ("", ".", ".."):
        raise UnreadableCheckpoint(f"{place / _METADATA} names {relative!r}, which is outside its folder")
    if where.fields.get("transform_descriptors"):
        raise UnreadableCheckpoint(f"{place} stores {name!r} compressed, which is not read: save it without")
    start, length = counts((start, length))
    file = place / relative
    try:
        with open_regular(file) as opened:
            if start + length > os.fstat(opened.fileno()).st_size:
                raise UnreadableCheckpoint(
                    f"{file} is shorter than {_METADATA} says: still being written, or truncated"
                )
            value = read_torch_archive(_Window(opened, start, length), f"{file}, at {name!r},", start)
    except OSError as error:
        raise UnreadableCheckpoint(f"{file} cannot be read ({error.strerror}): still being written, or lost") from error
    return file, value


class _Window(io.RawIOBase, BinaryIO):
    """Bytes [start, start + length) of an open file, as a file."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file, self._start, self._length, self._at = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._length)[whence]
        if self._at < 0:
            raise ValueError("before the beginning")
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._length - self._at, 0)
        count = left if size is None or size < 0 else min(size, left)
        self._file.seek(self._start + self._at)
        got = self._file.read(count)
        self._at += len(got)
        return got
