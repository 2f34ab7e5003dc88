"""The writer against this project's reader and the safetensors library."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from driftline.checkpoints.safetensors_file import read_header_and_metadata
from driftline.checkpoints.safetensors_writer import Entry, Placed, place, reserved, write_index, write_range
from driftline.errors import InputError

ENTRIES = [Entry("a", (3, 5), "F32"), Entry("b.é", (), "F32"), Entry("c", (7,), "I64"), Entry("d", (0, 2), "BF16")]


def test_what_is_written_by_range_is_read_back(tmp_path: Path, rng: np.random.Generator) -> None:
    """In any order, into several folders at once; the bytes do not depend on the order."""
    values = {"a": rng.standard_normal((3, 5), np.float32), "b.é": np.float32(2.5), "c": np.arange(7)}
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    placed = place(ENTRIES, shard_bytes=1 << 20)
    with reserved(folders, placed) as handles:
        assert [list(files) for files in handles] == [["model.safetensors"]] * 2
        for folder, order in zip(folders, (placed, placed[::-1]), strict=True):
            for one in order:
                if one.entry.nbytes:
                    raw = np.frombuffer(np.ascontiguousarray(values[one.entry.name]).tobytes(), np.uint8)
                    write_range(folder / one.shard, one.offset + 4, raw[4:])
                    write_range(folder / one.shard, one.offset, raw[:4])
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second
    found = load_file(tmp_path / "one" / "model.safetensors")
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], value)
    tensors, noted = read_header_and_metadata(tmp_path / "one" / "model.safetensors")
    assert noted == {"format": "pt"}
    assert [(t.name, t.shape, t.dtype, t.offset) for t in tensors.values()] == [
        (one.entry.name, one.entry.shape, one.entry.dtype, one.offset) for one in placed
    ]


def test_a_shard_is_begun_where_the_next_tensor_would_pass_its_size() -> None:
    entries = [Entry(name, (size,), "F32") for name, size in (("a", 10), ("b", 10), ("c", 100), ("d", 5))]
    placed = place(entries, shard_bytes=80)
    assert [one.shard for one in placed] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 1, 2, 3)]
    assert placed[1].offset == placed[0].end
    assert placed[0].offset % 8 == 0
    assert {one.shard for one in place(entries, shard_bytes=500)} == {"model.safetensors"}


def test_the_index_is_written_for_several_shards_only(tmp_path: Path) -> None:
    one, two = ENTRIES[0], ENTRIES[2]
    write_index(tmp_path, [Placed(one, "model.safetensors", 8), Placed(two, "model.safetensors", 68)])
    assert list(tmp_path.iterdir()) == []
    write_index(tmp_path, [Placed(one, "x", 8), Placed(two, "y", 8)])
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {"metadata": {"total_size": 60 + 56}, "weight_map": {"a": "x", "c": "y"}}


def test_a_file_that_was_removed_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model.safetensors is not there: it was removed while it was being written"):
        write_range(tmp_path / "model.safetensors", 8, np.zeros(4, np.uint8))
