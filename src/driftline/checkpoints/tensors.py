"""A tensor as checkpoints store it, read by any flat range of elements into a buffer that the caller owns.

Whatever the layout, what matters of a tensor is the same: its name, shape and dtype, and how to get the bytes of
elements [start, stop). A safetensors file holds it in one run of bytes (`Stored`), trainers that shard spread it
over the files of their ranks (`Sharded`), and a LoRA adapter holds two factors of it (`LowRank`).
"""

from __future__ import annotations

import math
import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from driftline.checkpoints import dtypes
from driftline.errors import UnreadableCheckpoint
from driftline.files import regular, remote

_MOST_OPEN = regular.descriptors() // (2 * len(os.sched_getaffinity(0)))  # files of a thread: half of all, together
_in_use = threading.local()


class KeptFiles:
    """Files that stay open from one read to the next, the first `_MOST_OPEN` that each thread reads from.

    The kernel reads ahead of a pass over a file only as long as the same opened file is read on. In a process that gets
    this as a pickle they stay open for one `use` only: nobody would tell it that the pass has ended.
    """

    def __init__(self, *, for_long: bool = True) -> None:
        self._for_long = for_long
        self._descriptors: dict[int, dict[Path, int]] = {}  # by thread

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(KeptFiles, for_long=False), ()

    @contextmanager
    def use(self) -> Iterator[None]:
        """What this thread reads within the block is read from them."""
        _in_use.descriptors = self._descriptors.setdefault(threading.get_ident(), {})
        try:
            yield
        finally:
            del _in_use.descriptors
            if not self._for_long:
                self.close()

    def close(self) -> None:
        """Close them all; no thread may be using them."""
        for mine in self._descriptors.values():
            while mine:
                os.close(mine.popitem()[1])


@contextmanager
def _opened(file: Path) -> Iterator[int]:
    """A descriptor of the file: one that is kept, or one for the time of the block."""
    kept: dict[Path, int] | None = getattr(_in_use, "descriptors", None)
    if kept is not None and file in kept:
        yield kept[file]
        return
    descriptor = regular.descriptor(file)
    if kept is not None and len(kept) < _MOST_OPEN:
        kept[file] = descriptor
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        yield descriptor
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_range(file: Path, position: int, buffer: np.ndarray, what: str) -> None:
    """Fill uint8 `buffer` with the bytes of `file` from `position` on.

    Of a remote file it is one range request.

    Args:
        what: the tensor, for the sentence that says what could not be read.

    Raises:
        UnreadableCheckpoint: the file has gone, shrunk or cannot be read.
    """
    view = memoryview(buffer)  # type: ignore[arg-type]
    try:
        if remote.is_remote(file):
            found = remote.read(file, position, len(view))
            if len(found) < len(view):
                raise UnreadableCheckpoint(f"{file} became shorter while {what!r} was read")
            view[:] = found
            return
        with _opened(file) as descriptor:
            while view:
                got = os.preadv(descriptor, [view], position)
                if got == 0:
                    raise UnreadableCheckpoint(f"{file} became shorter while {what!r} was read")
                view, position = view[got:], position + got
    except OSError as error:
        raise UnreadableCheckpoint(f"{file} cannot be read ({error.strerror}), at tensor {what!r}") from error


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a checkpoint.

    Attributes:
        dtype: its safetensors name.
        file: the file that sentences about it name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * dtypes.ITEM_BYTES[self.dtype]

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that holds some of it."""
        return tuple(dict.fromkeys(file for part in self.below for file in part.files)) or (self.file,)

    @property
    def remote(self) -> bool:
        return any(remote.is_remote(file) for file in self.files)

    @property
    def written(self) -> str:
        """The dtype in which a model keeps it, where nothing else is asked for."""
        return self.dtype

    @property
    def below(self) -> tuple[TensorInfo, ...]:
        """The tensors that it is made of, where no file holds it as it is; see `composed`."""
        return ()

    @property
    def read_bytes(self) -> int:
        """Bytes of the files that one reading of it takes."""
        return sum(part.read_bytes for part in self.below) or self.nbytes

    def read_into(self, start: int, buffer: np.ndarray) -> None:
        """Fill uint8 `buffer` with the bytes of the tensor from flat element `start` on.

        Raises:
            UnreadableCheckpoint: a file has gone, shrunk or cannot be read.
        """
        raise NotImplementedError

    def values(self, start: int, stop: int) -> np.ndarray:
        """Elements [start, stop) as float32."""
        raw = np.empty((stop - start) * dtypes.ITEM_BYTES[self.dtype], np.uint8)
        self.read_into(start, raw)
        out = np.empty(stop - start, np.float32)
        dtypes.decode(raw, self.dtype, out)
        return out


def read_each(tensors: Sequence[TensorInfo], start: int, buffers: Sequence[np.ndarray]) -> None:
    """`read_into` for one tensor of several checkpoints; of remote ones at once, as each waits for its server.

    Raises:
        UnreadableCheckpoint: a file has gone, shrunk or cannot be read.
    """
    reads = [partial(info.read_into, start, buffer) for info, buffer in zip(tensors, buffers, strict=True)]
    if any(info.remote for info in tensors):
        remote.together(reads)
    else:
        for read in reads:
            read()


@dataclass(frozen=True)
class Stored(TensorInfo):
    """All of it in one run of bytes, from `offset` of the file on."""

    offset: int

    def read_into(self, start: int, buffer: np.ndarray) -> None:
        read_range(self.file, self.offset + start * dtypes.ITEM_BYTES[self.dtype], buffer, self.name)


@dataclass(frozen=True)
class Opaque(Stored):
    """A tensor of a dtype that is not known here; it takes no part in anything.

    Attributes:
        length: its bytes.
    """

    length: int

    @property
    def nbytes(self) -> int:
        return self.length


@dataclass(frozen=True)
class Piece:
    """A box of a tensor, stored row by row from `offset` of `file` on.

    Attributes:
        begin: its first element's place, one number for each axis of the tensor; or one number, its flat position.
        shape: its extent along the same axes.
    """

    file: Path
    offset: int
    begin: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Sharded(TensorInfo):
    """Pieces that make up the tensor together; see `sharded`."""

    pieces: tuple[Piece, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(piece.file for piece in self.pieces))

    def read_into(self, start: int, buffer: np.ndarray) -> None:
        item = dtypes.ITEM_BYTES[self.dtype]
        out = buffer.reshape(-1, item)
        for piece in self.pieces:
            self._read_piece(piece, start, start + len(out), out)

    def _read_piece(self, piece: Piece, start: int, stop: int, out: np.ndarray) -> None:
        """The piece is a row of flat runs of one length; those within [start, stop) lie together in its file."""
        axes = self.shape if len(piece.begin) == len(self.shape) else (self.size,)
        strides = [math.prod(axes[axis + 1 :]) for axis in range(len(axes))]
        cut = max((axis for axis, extent in enumerate(axes) if piece.shape[axis] != extent), default=0)
        length = math.prod(piece.shape[cut:])
        counts = piece.shape[:cut]

        def flat(run: int) -> int:
            position = piece.begin[cut] * strides[cut]
            for axis in reversed(range(cut)):
                run, index = divmod(run, counts[axis])
                position += (piece.begin[axis] + index) * strides[axis]
            return position

        runs = range(math.prod(counts))
        first = bisect_right(runs, start - length, key=flat)  # the first run that ends after start
        last = bisect_left(runs, stop, key=flat)
        if first >= last:
            return
        skipped = max(start - flat(first), 0)
        end = (last - 1) * length + min(stop - flat(last - 1), length)
        begin = first * length + skipped
        item = out.shape[1]
        raw = np.empty((end - begin, item), np.uint8)
        read_range(piece.file, piece.offset + begin * item, raw.reshape(-1), self.name)
        done = 0
        for run in range(first, last):
            target = max(flat(run), start)
            count = min(flat(run) + length, stop) - target
            out[target - start : target - start + count] = raw[done : done + count]
            done += count


def sharded(name: str, shape: Sequence[int], dtype: str, pieces: Sequence[Piece]) -> TensorInfo:
    """A tensor of pieces, which must cover it exactly once; a copy of a piece (a replica) is left out.

    Raises:
        UnreadableCheckpoint: a piece is missing, reaches beyond the tensor, or overlaps another.
    """
    shape = tuple(shape)
    unique = list({(piece.begin, piece.shape): piece for piece in reversed(pieces) if piece.size}.values())[::-1]
    if not pieces:
        raise UnreadableCheckpoint(f"tensor {name!r} has no pieces: still being written, or a file is missing")
    file = pieces[0].file
    size = math.prod(shape)
    for piece in unique:
        axes = shape if len(piece.begin) == len(shape) else (size,)
        inside = len(piece.begin) == len(piece.shape) == len(axes) and all(
            begin >= 0 and begin + extent <= axis
            for begin, extent, axis in zip(piece.begin, piece.shape, axes, strict=True)
        )
        if not inside:
            raise UnreadableCheckpoint(
                f"{piece.file}: a piece of tensor {name!r} reaches beyond its shape {list(shape)}"
            )
    if sum(piece.size for piece in unique) != size or _overlap(unique):
        raise UnreadableCheckpoint(
            f"{file}: the pieces of tensor {name!r} hold {sum(piece.size for piece in unique)} elements where its shape "
            f"{list(shape)} needs {size}, each once: a rank's file is missing, or of another save"
        )
    if len(unique) == 1:
        return Stored(name, shape, dtype, unique[0].file, unique[0].offset)
    return Sharded(name, shape, dtype, file, tuple(unique))


def _overlap(pieces: Sequence[Piece]) -> bool:
    if len(pieces) < 2:
        return False
    if len({len(piece.begin) for piece in pieces}) > 1:
        return True
    begin = np.array([piece.begin for piece in pieces])
    end = begin + np.array([piece.shape for piece in pieces])
    order = np.argsort(begin[:, 0], kind="stable")
    begin, end = begin[order], end[order]
    for place in range(len(pieces) - 1):  # only pieces that begin before this one ends can meet it
        last = np.searchsorted(begin[:, 0], end[place, 0])
        meets = (begin[place + 1 : last] < end[place]) & (begin[place] < end[place + 1 : last])
        if meets.all(axis=1).any():
            return True
    return False


@dataclass(frozen=True)
class LowRank(TensorInfo):
    """scale · B · A of a LoRA adapter (transposed where the layer stores its weight so), plus the base's weight if given.

    Each range is computed when it is read, in double precision, and rounded to float32 once: neither the product nor
    the sum is ever held whole.

    Attributes:
        left: B, [out, rank].
        right: A, [rank, in].
        transposed: the weight is [in, out].
    """

    left: TensorInfo
    right: TensorInfo
    scale: float
    transposed: bool = False
    base: TensorInfo | None = None

    @property
    def written(self) -> str:
        return self.base.written if self.base else self.dtype

    @property
    def below(self) -> tuple[TensorInfo, ...]:
        return (self.left, self.right, *((self.base,) if self.base else ()))

    def read_into(self, start: int, buffer: np.ndarray) -> None:
        out = buffer.view(np.float32)
        rank, fan_in = self.right.shape
        width = self.shape[1]
        first, last = start // width, -(-(start + out.size) // width)
        if self.transposed:
            left = self.left.values(0, self.left.size).reshape(-1, rank).astype(np.float64)
            right = self.right.values(0, self.right.size).reshape(rank, fan_in)[:, first:last].astype(np.float64)
            product = right.T @ left.T
        else:
            left = self.left.values(first * rank, last * rank).reshape(-1, rank).astype(np.float64)
            right = self.right.values(0, self.right.size).reshape(rank, fan_in).astype(np.float64)
            product = left @ right
        change = product.reshape(-1)[start - first * width :][: out.size] * self.scale
        if self.base is not None:
            change += self.base.values(start, start + out.size)
        out[:] = change
