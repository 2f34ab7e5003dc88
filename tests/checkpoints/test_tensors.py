"""A tensor spread over files in boxes, or as two factors, read by any range, is the tensor."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftline.checkpoints import tensors
from driftline.checkpoints.tensors import KeptFiles, LowRank, Piece, Stored, read_range, sharded
from driftline.errors import UnreadableCheckpoint

Box = tuple[tuple[int, ...], tuple[int, ...]]


@st.composite
def cut(draw, shape: tuple[int, ...]) -> list[Box]:
    """Boxes (begin, shape) that make up `shape`: cut in two along some axis, some times over."""
    boxes = [((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, 6))):
        begin, extent = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, len(shape) - 1))
        at = draw(st.integers(0, extent[axis]))
        first = tuple(at if i == axis else n for i, n in enumerate(extent))
        second = tuple(extent[axis] - at if i == axis else n for i, n in enumerate(extent))
        boxes += [(begin, first), (tuple(b + at if i == axis else b for i, b in enumerate(begin)), second)]
    return boxes


def write(folder: Path, values: np.ndarray, boxes: list[Box]) -> list[Piece]:
    """Each box in one of two files, somewhere."""
    files = [bytearray(b"head"), bytearray(b"longer head")]
    pieces = []
    for place, (begin, extent) in enumerate(boxes):
        held = files[place % 2]
        part = values[tuple(slice(b, b + n) for b, n in zip(begin, extent, strict=True))]
        pieces.append(Piece(folder / f"{place % 2}.bin", len(held), begin, extent))
        held += np.ascontiguousarray(part).tobytes() + b"gap"
    for place, held in enumerate(files):
        (folder / f"{place}.bin").write_bytes(held)
    return pieces


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_range_of_any_boxes(tmp_path, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    dtype, name = data.draw(st.sampled_from([(np.float32, "F32"), (ml_dtypes.bfloat16, "BF16")]))
    values = np.random.default_rng(0).normal(size=shape).astype(dtype)
    pieces = write(tmp_path, values, data.draw(cut(shape)))
    tensor = sharded("w", shape, name, data.draw(st.permutations(pieces)))
    start = data.draw(st.integers(0, values.size - 1))
    stop = data.draw(st.integers(start + 1, values.size))
    np.testing.assert_array_equal(tensor.values(start, stop), values.reshape(-1)[start:stop].astype(np.float32))


def test_flat_pieces_of_a_matrix(tmp_path):
    values = np.arange(35, dtype=np.float32).reshape(5, 7)
    flat = write(tmp_path, values.reshape(-1), [((0,), (11,)), ((11,), (24,))])
    tensor = sharded("w", (5, 7), "F32", flat)
    assert tensor.files == (tmp_path / "0.bin", tmp_path / "1.bin")
    np.testing.assert_array_equal(tensor.values(9, 30), values.reshape(-1)[9:30])


def test_one_piece_and_its_replicas_are_a_plain_tensor(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    pieces = write(tmp_path, values, [((0, 0), (2, 3)), ((0, 0), (2, 3))])
    tensor = sharded("w", (2, 3), "F32", pieces)
    assert isinstance(tensor, Stored)
    np.testing.assert_array_equal(tensor.values(1, 5), [1, 2, 3, 4])


def test_a_scalar(tmp_path):
    (piece,) = write(tmp_path, np.float32(3), [((), ())])
    assert sharded("w", (), "F32", [piece]).values(0, 1) == 3


@pytest.mark.parametrize(
    ("boxes", "complaint"),
    [
        ([], "no pieces"),
        ([((0, 0), (2, 3))], "hold 6 elements where its shape .* needs 12"),
        ([((0, 0), (3, 3)), ((1, 0), (1, 3))], "each once"),
        ([((0, 0), (3, 3)), ((2, 0), (2, 3))], "each once"),
        ([((0, 0), (2, 3)), ((0, 0), (2, 2)), ((1, 0), (1, 2))], "each once"),
        ([((3, 0), (2, 3)), ((0, 0), (2, 3))], "reaches beyond"),
        ([((-1, 0), (4, 3))], "reaches beyond"),
        ([((0, 0, 0), (4, 3, 1))], "reaches beyond"),
    ],
)
def test_pieces_that_do_not_make_the_tensor(tmp_path, boxes, complaint):
    pieces = [Piece(tmp_path / "0.bin", 0, begin, shape) for begin, shape in boxes]
    with pytest.raises(UnreadableCheckpoint, match=complaint):
        sharded("w", (4, 3), "F32", pieces)


def test_a_file_that_ends_early_is_named(tmp_path):
    pieces = write(tmp_path, np.zeros((4, 4), np.float32), [((0, 0), (4, 2)), ((0, 2), (4, 2))])
    with open(tmp_path / "1.bin", "r+b") as file:
        file.truncate(20)
    with pytest.raises(UnreadableCheckpoint, match=r"1\.bin became shorter while 'w' was read"):
        sharded("w", (4, 4), "F32", pieces).values(0, 16)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("with_base", [False, True])
def test_a_product_is_computed_by_range(tmp_path, transposed, with_base):
    rng = np.random.default_rng(1)
    left, right = (rng.normal(size=shape).astype(ml_dtypes.bfloat16) for shape in [(11, 3), (3, 7)])
    product = left.astype(np.float64) @ right.astype(np.float64) * 0.25
    expected = product.T if transposed else product
    (tmp_path / "b").write_bytes(left.tobytes())
    (tmp_path / "a").write_bytes(right.tobytes())
    base = None
    if with_base:
        below = rng.normal(size=expected.shape).astype(np.float32)
        (tmp_path / "base").write_bytes(below.tobytes())
        base = Stored("w", expected.shape, "F32", tmp_path / "base", 0)
        expected = expected + below
    tensor = LowRank(
        "w",
        expected.shape,
        "F32",
        tmp_path / "a",
        Stored("B", (11, 3), "BF16", tmp_path / "b", 0),
        Stored("A", (3, 7), "BF16", tmp_path / "a", 0),
        0.25,
        transposed,
        base,
    )
    flat = expected.reshape(-1).astype(np.float32)
    for start, stop in [(0, 77), (5, 6), (6, 9), (10, 70), (76, 77)]:
        np.testing.assert_allclose(tensor.values(start, stop), flat[start:stop], rtol=1e-7)
    assert len(tensor.files) == 2 + with_base


@pytest.mark.parametrize(("limit", "most"), [(-1, 1 << 20), (256, 256), (1 << 62, 1 << 20)])
def test_a_process_without_a_limit_of_open_files_has_one_here(
    monkeypatch: pytest.MonkeyPatch, limit: int, most: int
) -> None:
    monkeypatch.setattr(tensors.regular.resource, "getrlimit", lambda which: (limit, limit))
    assert tensors.regular.descriptors() == most


@pytest.mark.parametrize("sent", [False, True])
def test_files_stay_open_few_of_them_and_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bool
) -> None:
    monkeypatch.setattr(tensors, "_MOST_OPEN", 2)
    opened: list[int] = []
    open_it = tensors.regular.descriptor

    def counted(file: Path) -> int:
        opened.append(open_it(file))
        return opened[-1]

    monkeypatch.setattr(tensors.regular, "descriptor", counted)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(path.name.encode() * 8)
    buffer = np.empty(4, np.uint8)
    files = pickle.loads(pickle.dumps(KeptFiles())) if sent else KeptFiles()

    def read_all(*positions: int) -> None:
        with files.use():
            for position in positions:
                for path in paths:
                    read_range(path, position, buffer, "w")
                    assert bytes(buffer) == path.name.encode() * 4

    read_all(0, 4)
    assert len(opened) == 4  # the third file was opened for each read
    with pytest.raises(UnreadableCheckpoint, match="became shorter"):
        read_all(4, 6)
    assert len(opened) == (7 if sent else 5)
    files.close()
    for number in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
    read_range(paths[0], 0, buffer, "w")
    assert len(opened) == (8 if sent else 6)
