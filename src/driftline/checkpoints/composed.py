"""Tensors that no file holds as they are: made of others when they are read, range by range, never whole.

Experts kept one by one or fused, a vocabulary's common rows, fp8 values and their scales, rows that peft replaces: what
one checkpoint stores in one way and another in another is made the same here, so that both can be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from driftline.checkpoints import dtypes
from driftline.checkpoints.tensors import LowRank, TensorInfo


def _values_into(info: TensorInfo, start: int, out: np.ndarray) -> None:
    out[:] = info.values(start, start + out.size)


@dataclass(frozen=True)
class Composed(TensorInfo):
    """Made of `below`, and kept in a model as the first of these is."""

    @property
    def written(self) -> str:
        return self.below[0].written


@dataclass(frozen=True)
class Chain(Composed):
    """Other tensors one after another, flat: experts stacked, or projections joined along their first axis."""

    parts: tuple[TensorInfo, ...]

    @property
    def below(self) -> tuple[TensorInfo, ...]:
        return self.parts

    def read_into(self, start: int, buffer: np.ndarray) -> None:
        out = buffer.reshape(-1, dtypes.ITEM_BYTES[self.dtype])
        stop, at = start + len(out), 0
        for part in self.parts:
            first, last = max(start, at), min(stop, at + part.size)
            if first < last:
                target = out[first - start : last - start].reshape(-1)
                if part.dtype == self.dtype:
                    part.read_into(first - at, target)
                else:
                    _values_into(part, first - at, target.view(np.float32))
            at += part.size


def chain(name: str, shape: Sequence[int], parts: Sequence[TensorInfo]) -> TensorInfo:
    """Parts that make up a tensor of that shape, one after another; float32 where their dtypes differ."""
    kinds = {part.dtype for part in parts}
    return Chain(name, tuple(shape), kinds.pop() if len(kinds) == 1 else "F32", parts[0].file, tuple(parts))


@dataclass(frozen=True)
class Window(Composed):
    """Elements of another tensor that lie together, from flat element `begin` on."""

    of: TensorInfo
    begin: int

    @property
    def below(self) -> tuple[TensorInfo, ...]:
        return (self.of,)

    def read_into(self, start: int, buffer: np.ndarray) -> None:
        self.of.read_into(self.begin + start, buffer)


def window(name: str, shape: Sequence[int], of: TensorInfo, begin: int) -> TensorInfo:
    return Window(name, tuple(shape), of.dtype, of.file, of, begin)


@dataclass(frozen=True)
class Scaled(Composed):
    """Values times the scale of the block that each lies in, as float32.

    Attributes:
        of: the stored values, [..., out, in].
        scale: [..., out blocks, in blocks], or one for each row, or one for all.
        block: rows and columns of a block.
    """

    of: TensorInfo
    scale: TensorInfo
    block: tuple[int, int]

    @property
    def written(self) -> str:
        return "BF16"

    @property
    def below(self) -> tuple[TensorInfo, ...]:
        return (self.of, self.scale)

    def read_into(self, start: int, buffer: np.ndarray) -> None:
        out = buffer.view(np.float32)
        if self.scale.size == 1:
            np.multiply(self.of.values(start, start + out.size), self.scale.values(0, 1), out=out)
            return
        rows, columns = (*self.shape, 1)[-2:] if len(self.shape) == 1 else self.shape[-2:]
        of_rows, of_columns = self.block
        grid = self.scale.values(0, self.scale.size).reshape(-1, -(-columns // of_columns))
        position = np.arange(start, start + out.size)
        row, column = np.divmod(position, columns)
        matrix, row = np.divmod(row, rows)
        place = matrix * -(-rows // of_rows) + row // of_rows
        np.multiply(self.of.values(start, start + out.size), grid[place, column // of_columns], out=out)


@dataclass(frozen=True)
class RowsReplaced(Composed):
    """A matrix some of whose rows are another tensor's, as peft's trainable tokens leave an embedding."""

    of: TensorInfo
    rows: TensorInfo
    indices: tuple[int, ...]

    @property
    def below(self) -> tuple[TensorInfo, ...]:
        return (self.of, self.rows)

    def read_into(self, start: int, buffer: np.ndarray) -> None:
        out = buffer.view(np.float32)
        _values_into(self.of, start, out)
        width, stop = self.shape[1], start + out.size
        for place, row in enumerate(self.indices):
            first, last = max(start, row * width), min(stop, (row + 1) * width)
            if first < last:
                begin = place * width + first - row * width
                out[first - start : last - start] = self.rows.values(begin, begin + last - first)


@dataclass(frozen=True)
class Unrotated(Composed):
    """Query or key weights whose heads hold the two halves of each rotation side by side (Meta's Llama, torchtitan), as
    Hugging Face orders them: row (head, half, pair) is the stored row (head, pair, half)."""

    of: TensorInfo
    heads: int

    @property
    def below(self) -> tuple[TensorInfo, ...]:
        return (self.of,)

    def read_into(self, start: int, buffer: np.ndarray) -> None:
        item = dtypes.ITEM_BYTES[self.dtype]
        out = buffer.reshape(-1, item)
        width = self.size // self.shape[0]
        dimension = self.shape[0] // self.heads
        stop = start + len(out)
        for row in range(start // width, -(-stop // width)):
            head, within = divmod(row, dimension)
            half, pair = divmod(within, dimension // 2)
            stored = head * dimension + 2 * pair + half
            first, last = max(start, row * width), min(stop, (row + 1) * width)
            self.of.read_into(stored * width + first - row * width, out[first - start : last - start].reshape(-1))


@dataclass(frozen=True)
class Normed(Composed):
    """DoRA: the rows of base + scale·B·A brought to the lengths that were trained (arXiv 2402.09353)."""

    of: LowRank
    lengths: TensorInfo

    @property
    def below(self) -> tuple[TensorInfo, ...]:
        return (self.of, self.lengths)

    def read_into(self, start: int, buffer: np.ndarray) -> None:
        out = buffer.view(np.float32)
        width = self.shape[1]
        first, last = start // width, -(-(start + out.size) // width)
        rows = self.of.values(first * width, last * width).reshape(-1, width).astype(np.float64)
        norms = np.linalg.norm(rows, axis=1)
        rows *= (self.lengths.values(first, last) / np.where(norms == 0, 1, norms))[:, None]
        out[:] = rows.reshape(-1)[start - first * width :][: out.size]
