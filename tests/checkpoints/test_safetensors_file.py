"""The reader against files of the safetensors library, and against damaged ones."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from conftest import save_tensors
from driftline.checkpoints.safetensors_file import read_header
from driftline.errors import UnreadableCheckpoint


@pytest.fixture
def file(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"a": rng.standard_normal((3, 5)), "b": rng.standard_normal(()), "n": np.arange(4)})
    return path


def _write(path: Path, header: object, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_reads_any_flat_range(file: Path, rng: np.random.Generator) -> None:
    expected = save_tensors(file, {"a": rng.standard_normal((3, 5)), "b": np.float32(2.5)})
    tensors = read_header(file)
    assert tensors["a"].shape == (3, 5)
    assert tensors["b"].shape == ()
    for start, stop in [(0, 15), (4, 9), (14, 15)]:
        out = np.empty(stop - start, np.float32)
        tensors["a"].read_into(start, out.view(np.uint8))
        np.testing.assert_array_equal(out, expected["a"].ravel()[start:stop])


@pytest.mark.parametrize("cut", [0, 4, 20, -1])
def test_short_file_is_named_as_still_being_written(file: Path, cut: int) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:cut])
    with pytest.raises(UnreadableCheckpoint, match="still being written, or truncated"):
        read_header(file)


def test_trailing_bytes_are_damage(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(UnreadableCheckpoint, match="1 bytes after its last tensor"):
        read_header(file)


F4 = {"dtype": "F32", "shape": [1]}


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (b"not json", "damaged header"),
        (b"[1, 2]", "damaged header"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": 1}', "a key appears twice"),
        ({"a": {**F4, "data_offsets": [0, 4]}, "b": {**F4, "data_offsets": [0, 4]}}, "overlaps"),
        ({"a": {**F4, "data_offsets": [4, 8]}}, "leaves a hole"),
        ({"a": {**F4, "data_offsets": [0, 8]}}, "8 bytes where its shape needs 4"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}, "not a count"),
        ({"a": {"dtype": "F32", "shape": [1]}}, "damaged header"),
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, header: object, complaint: str) -> None:
    with pytest.raises(UnreadableCheckpoint, match=complaint):
        read_header(_write(tmp_path / "x.safetensors", header, b"\0" * 8))


def test_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 2**31) + b"{}")
    with pytest.raises(UnreadableCheckpoint, match="claims a header of 2147483648 bytes"):
        read_header(path)


def test_a_file_that_shrinks_while_read_is_named(file: Path) -> None:
    tensor = read_header(file)["a"]
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UnreadableCheckpoint, match="became shorter"):
        tensor.read_into(0, np.empty(tensor.nbytes + 40, np.uint8))


def test_a_file_that_vanishes_is_named(file: Path) -> None:
    tensor = read_header(file)["a"]
    file.unlink()
    with pytest.raises(UnreadableCheckpoint, match=r"model\.safetensors cannot be read"):
        tensor.read_into(0, np.empty(4, np.uint8))
