"""What a hostile checkpoint has in the place of a file, of a name, or of what a file says; for `readers.py` and the attacks."""

from __future__ import annotations

import os
import random
import socket
import zipfile
from pathlib import Path

PATTERNS = [
    "(a+)+b",
    "(.*)*x",
    "([a-z]+)*\\\\d",
    "(?:q|q)*k",
    "layers\\\\.[0-9]+\\\\.q",
    "(",
    "q{1,99999}",
    "^" + "(x|" * 200 + "y" + ")" * 200,
    "q",
]
SETTINGS = [
    b"a: &a [x, x]\nb: &b [*a, *a]\n? *b\n: 1\n",
    b"a: &a {x: 1}\nb: &b {<<: [*a, *a]}\noptimizer: {<<: [*b, *b], betas: [0.8, 0.9]}\n",
    b"optim: " + b"[" * 2000,
    b"optimizer: {adam_beta1: " + b"1:" * 3000 + b"1}\n",
    b"optimizer: {beta1: " + b"9" * 6000 + b"}\n",
    b"optimizer: {beta1: " + b"59:" * 3000 + b"59.5}\n",
    b"!!python/object/apply:os.system [true]\n",
    b"? {a: 1}\n: 2\n",
    b"a." * 5000 + b"b = 1\n",
    b"x = " + b"[" * 3000 + b"\n",
    b"optimizer = 2001-99-99\n",
]
_OTHER_NAMES = [
    "model_world_size_1000000000_rank_0.pt",
    "model_world_size_2_rank_999999999.pt",
    "zero_pp_rank_1000000000_mp_rank_00_optim_states.pt",
    "zero_pp_rank_" + "9" * 200 + "_mp_rank_00_optim_states.pt",
    "model-\udcff.safetensors",
    "line\nbreak.safetensors",
]
_FOLDERS = [
    "checkpoint-999999999999",
    "checkpoint-" + "9" * 13,
    "checkpoint-" + "9" * 240,
    "checkpoint-1000000000",
    "checkpoint-10\udcff",
    "global_step999999999999",
]


def put(run: Path, name: str, rng: random.Random) -> str:
    """Something else in the place of a file, or of its name; what was put there."""
    path = run / name
    kind = rng.choice(["pipe", "socket", "device", "folder", "gone", "pickle", "file name", "folder name"])
    if kind == "folder name":
        other = run / rng.choice(_FOLDERS)
        (run / "checkpoint-10").rename(other)
        return f"{kind} {other.name!r}"
    if not path.is_file():  # beside the checkpoints, where it is not always written
        path = run / "run.json"
    if kind == "file name":
        other = path.with_name(rng.choice(_OTHER_NAMES))
        path.rename(other)
        return f"{kind} {other.name!r}"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.open(path.parent, os.O_RDONLY)  # the address of a socket is short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)
    elif kind == "device":
        path.symlink_to(rng.choice(["/dev/zero", "/dev/null", "/dev/full"]))
    elif kind == "folder":
        path.mkdir()
    elif kind == "pickle":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", hostile_pickle(rng))
    return kind


def hostile_pickle(rng: random.Random) -> bytes:
    """One that is made to take time, or memory, or to be shown."""
    doubled = b")" + b"2\x86" * 60  # a tuple of itself twice, sixty times
    large = b"\x8b" + (20_000).to_bytes(4, "little") + b"\x7f" * 20_000  # LONG4
    key = rng.choice(
        [doubled, large, b"(" * 5000 + b"t" * 5000, b"]", b"(" + b"K\x01" * 5000 + b"t", b"X\x88\x13\0\0" + b"x" * 5000]
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(N" + key + b"(" + key + b"t(K\x01ttR"
    body = rng.choice(
        [
            b"}" + key + b"K\x01s",
            b"}(X\x01\0\0\0a" + key + b"u",
            b"\x8f(" + key + b"\x90",
            b"(" + key + b"\x91",
            b"}X\x01\0\0\0a" + tensor + b"s",
            b"ccollections\nOrderedDict\n(](" + key + b"K\x01\x86etR",
            b"ctorch\nSize\n(" + key + b"tR",
            b"]q\x01" + b"(" + b"}" * 40_000 + b"e" + b"h\x01a" * 3,
            b"\x96" + (1 << 40).to_bytes(8, "little"),
            b"}X\x0c\0\0\0param_groups](}X\x02\0\0\0lr" + key + b"sX\x05\0\0\0betas" + key + b"s" + b"es",
            b"".join(b"cx%d\ny\n0" % i for i in range(3000)) + b"N",
        ]
    )
    return b"\x80\x05" + body + b"."
