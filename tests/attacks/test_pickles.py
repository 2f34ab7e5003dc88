"""Pickles that are made to take time or memory, or to be shown."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path

import pytest

from driftline.checkpoints.momentum import beta1_of
from driftline.checkpoints.opening import open_checkpoint
from driftline.checkpoints.torch_file import read_state_dict, read_torch_file
from driftline.checkpoints.unpickling import unpickle
from driftline.errors import UnreadableCheckpoint

pytestmark = pytest.mark.timeout(120)  # seconds; what the attacks want is hours
DOUBLED = b")" + b"2\x86" * 60  # a tuple of itself twice, sixty times: 2 ** 60 to hash, compare or show
LARGE = b"\x8b" + (20_000).to_bytes(4, "little") + b"\x7f" * 20_000  # a number of 48,000 digits
DEEP = b")" + b"\x85" * 50_000
LONG = b"X" + (100_000).to_bytes(4, "little") + b"x" * 100_000
NAME = b"X\x01\0\0\0a"
MANY = b"(" + b"K\x01" * 100_000 + b"t"
KEYS = {"doubled": DOUBLED, "large": LARGE, "deep": DEEP, "long": LONG, "many": MANY}


def pickled(body: bytes) -> bytes:
    return b"\x80\x05" + body + b"."


def saved(path: Path, body: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(body))
        archive.writestr("archive/data/0", bytes(64))
    return path


@pytest.mark.parametrize(
    "body",
    [
        b"}%sK\x01s",
        b"}(%sK\x01u",
        b"(%sK\x01d",
        b"\x8f(%s\x90",
        b"(%s\x91",
        b"ccollections\nOrderedDict\n(](%sK\x01\x86etR",
    ],
    ids=["setitem", "setitems", "dict", "additems", "frozenset", "OrderedDict"],
)
@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_what_may_be_a_key_is_flat_and_short(body: bytes, key: bytes) -> None:
    with pytest.raises(UnreadableCheckpoint, match="key that is"):
        unpickle(pickled(body % key), "file")


def test_keys_that_trainers_have_are_read() -> None:
    key = b"(NK\x01X\x01\0\0\0aC\x01b\x88G\x3f\xf0\0\0\0\0\0\0t"
    assert unpickle(pickled(b"}(%sK\x01K\x07NX\x01\0\0\0aK\x02u" % key), "file") == {
        (None, 1, "a", b"b", True, 1.0): 1,
        7: None,
        "a": 2,
    }


@pytest.mark.parametrize("count", KEYS.values(), ids=KEYS)
def test_shapes_and_offsets_are_counts(tmp_path: Path, count: bytes) -> None:
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0" + b"X\x03\0\0\0cpuK\x10tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n"
    for arguments in (
        storage + count + b"K\x04\x85K\x01\x85",  # the offset
        storage + b"K\0" + count + b"\x85K\x01\x85",
        storage + b"K\0" + count + count,
        storage + b"K\0K\x04\x85" + count,
        count + b"K\0K\x04\x85K\x01\x85",
    ):
        path = saved(tmp_path / "state.pt", b"}" + NAME + call + b"(" + arguments + b"tRs")
        with pytest.raises(UnreadableCheckpoint, match="damaged"):
            read_state_dict(path)
    whole = saved(tmp_path / "state.pt", b"}" + NAME + call + b"(" + storage + b"K\0K\x04\x85K\x01\x85tRs")
    assert read_state_dict(whole)["a"].shape == (4,)


@pytest.mark.parametrize(
    "body",
    [
        b"(" + b"}" * 4_000_000 + b"l",
        b"\x96" + (1 << 40).to_bytes(8, "little"),  # a bytearray of a tebibyte
        b"T" + (1 << 30).to_bytes(4, "little"),
        b"\x95" + (1 << 50).to_bytes(8, "little"),  # a frame
        b"".join(b"cx%d\ny\n0" % number for number in range(100_000)) + b"N",
        b"ctorch\nSize\nq\x01(" + b"K\x01" * 500_000 + b"tq\x02" + b"h\x01h\x02\x85R0" * 50_000 + b"N",
        b"cx\ny\nq\x01(" + b"K\x01" * 500_000 + b"tq\x02" + b"h\x01h\x02R0" * 50_000 + b"N",
        b"}("
        + b"".join(b"J" + i.to_bytes(4, "little") + b"N" for i in range(100_000))
        + b"uq\x01ccollections\nOrderedDict\n)R"
        + b"h\x01b" * 100_000,
        b"X\x00\0\0\x01" + b"x" * (1 << 24) + b"Q",
    ],
    ids=["objects", "bytearray", "string", "frame", "names", "sizes", "arguments", "states", "storage"],
)
def test_there_is_an_end(body: bytes) -> None:
    with contextlib.suppress(UnreadableCheckpoint):
        unpickle(pickled(body), "file")


@pytest.mark.parametrize("value", KEYS.values(), ids=KEYS)
def test_nothing_of_it_is_shown_or_compared_unseen(tmp_path: Path, value: bytes) -> None:
    """Wherever a trainer's state has a value, something else stands."""
    folder = tmp_path / "checkpoint-10"
    folder.mkdir()
    for key in (b"param_groups", b"optimizer_state_dict", b"betas", b"optimizer", b"ds_config"):
        name = b"X" + len(key).to_bytes(4, "little") + key
        group = b"](}X\x05\0\0\0betas" + value + b"sX\x03\0\0\0eps" + value + b"sX\x08\0\0\0momentum" + value + b"se"
        for body in (value, group):
            saved(folder / "optimizer.pt", b"}" + name + body + b"s")
            assert beta1_of([folder]) == (0.9, "assumed")
    node = (
        b"ctransformers\nTrainingArguments\n)\x81}(X\x05\0\0\0optim" + value + b"X\x0a\0\0\0adam_beta1" + value + b"ub"
    )
    saved(folder / "training_args.bin", node)
    (folder / "optimizer.pt").unlink()
    assert beta1_of([folder]) == (0.9, "assumed")


@pytest.mark.parametrize("value", KEYS.values(), ids=KEYS)
def test_an_index_of_a_distributed_checkpoint_is_held_to_its_form(tmp_path: Path, value: bytes) -> None:
    place = tmp_path / "checkpoint-10"
    place.mkdir()
    (place / "__0_0.distcp").write_bytes(bytes(100))

    def text(word: bytes) -> bytes:
        return b"X" + len(word).to_bytes(4, "little") + word

    def node(name: bytes, **fields: bytes) -> bytes:
        inner = b"".join(text(key.encode()) + field for key, field in fields.items())
        return b"ctorch.distributed.checkpoint.metadata\n" + name + b"\n)\x81}(" + inner + b"ub"

    properties = node(b"TensorProperties", dtype=b"ctorch\nfloat32\n")
    for number in range(8):
        good = [text(b"a"), b"K\0\x85", b"K\x04\x85", text(b"__0_0.distcp"), b"K\0", b"K\x08", b"K\0\x85", properties]
        good[number] = value
        fqn, offset, size, file, start, length, offsets, described = good
        chunk = node(b"ChunkStorageMetadata", offsets=offsets, sizes=size)
        tensor = node(b"TensorStorageMetadata", properties=described, size=size, chunks=b"](" + chunk + b"e")
        index = node(b"MetadataIndex", fqn=fqn, offset=offset)
        where = node(b"_StorageInfo", relative_path=file, offset=start, length=length)
        whole = node(
            b"Metadata", state_dict_metadata=b"}" + text(b"a") + tensor + b"s", storage_data=b"}" + index + where + b"s"
        )
        (place / ".metadata").write_bytes(pickled(whole))
        with pytest.raises(UnreadableCheckpoint) as caught:
            open_checkpoint(place)
        assert len(str(caught.value)) < 1000


def test_a_list_of_members_is_not_read_beyond_what_an_archive_has(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    claimed = 900 << 20
    with path.open("wb") as file:
        file.truncate(claimed)
        file.seek(0, 2)
        end = b"PK\x05\x06" + bytes(4) + (1).to_bytes(2, "little") * 2
        file.write(end + claimed.to_bytes(4, "little") + bytes(4) + bytes(2))
    with pytest.raises(UnreadableCheckpoint, match="not a whole file"):
        read_torch_file(path)
