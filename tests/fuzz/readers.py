"""Mutated runs for everything that reads one: no crash, no hang, bounded memory, nothing read outside the folder.

    python tests/fuzz/readers.py --cases 100000 --seed 0 [--jobs 16]

A case is a run of two checkpoints, one of which, or a file beside it, is damaged at random: bits flipped, bytes cut,
doubled, moved or inserted, lengths of headers changed, numbers, names, patterns and brackets of JSON, YAML and TOML
replaced by ones made to hurt, a pickle put in its place, its name made to claim a billion ranks or steps or not to be
UTF-8, or a pipe, a socket, a device or a folder put in its place. It is then opened, inspected and read as `analyze`, `watch` and `inspect` do. The only exception allowed is
InputError, with a message of one sentence. A failure is kept: its files are left and its number is printed, which
makes it again with --first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from hostile import PATTERNS, SETTINGS, hostile_pickle, put

import driftline
from driftline.checkpoints.configuration import adam_beta1, clock_values, learning_rates
from driftline.checkpoints.inspection import inspect
from driftline.checkpoints.jumps import read_jumps, regrounded
from driftline.checkpoints.trajectory import open_trajectory
from driftline.errors import InputError
from driftline.files.record import record_text
from driftline.linearity.figures import jumped
from driftline.watching.checkpoint_files import files_of
from driftline.watching.sketch import parts_of, read_checkpoint, sample_positions

LONGEST, LARGEST = 5.0, 512  # seconds of computing of a case, MiB of the process
HANGING = 60.0  # seconds by the clock, on a machine that may do other things
_NUMBERS = [
    "-1",
    "0",
    "1",
    "4",
    "2147483648",
    "9223372036854775807",
    "18446744073709551616",
    "1e999",
    "0.5",
    "true",
    "null",
    "9" * 400,
    "9" * 5000,
]
_STRINGS = [
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "",
    ".",
    "a/b",
    "x" * 300,
    "x" * 5000,
    "\\u0000",
    "\\ud800",
    "~",
    "model.safetensors",
    "F32",
    "BF16",
    "F4",
    "F8_E4M3",
    "I64",
    "__metadata__",
    "新",
    "s3://b/c",
]
_PIECES = ["{", "}", "[", "]", ",", ":", '"', "[" * 5000, '{"a":' * 3000, "NaN", "\\", "\n", "\x1b[2J"]

_OURS = (sys.base_prefix, sys.prefix, str(Path(driftline.__file__).parent))  # modules that are imported late
_watched: dict[str, Any] = {"folder": None, "outside": []}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    folder = _watched["folder"]
    if folder is None or event not in ("open", "os.listdir", "os.scandir") or not isinstance(arguments[0], (str, Path)):
        return
    path = os.path.abspath(arguments[0])
    if path != folder and not path.startswith((folder + os.sep, *_OURS)):
        _watched["outside"].append(path)


@dataclass
class Figures:
    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)
    mebibytes: float = 0.0  # the most that a process had resident

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.cases + other.cases,
            self.outcomes + other.outcomes,
            max(self.slowest, other.slowest),
            self.failures + other.failures,
            max(self.mebibytes, other.mebibytes),
        )


def resident() -> float:
    """The most MiB that this process had resident (getrusage counts that of its parent before exec)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _save(path: Path, tensors: dict[str, np.ndarray]) -> None:
    names = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16", "int64": "int64"}
    specs = {
        name: safetensors.TensorSpec(
            dtype=names[str(value.dtype)], shape=list(value.shape), data_ptr=value.ctypes.data, data_len=value.nbytes
        )
        for name, value in tensors.items()
    }
    safetensors.serialize_file(specs, str(path))


def make_seeds(folder: Path) -> dict[str, bytes]:
    """The files that are damaged: `LAYOUT/PATH` inside a checkpoint of that layout, or beside the checkpoints."""
    rng = np.random.default_rng(0)
    one = {
        "model.embed_tokens.weight": rng.standard_normal((6, 4)).astype(ml_dtypes.bfloat16),
        "layers.0.up.weight": rng.standard_normal((5, 3)).astype(np.float32),
        "layers.0.norm.weight": rng.standard_normal(3).astype(np.float16),
        "ids": np.arange(4),
        "scale": np.float32(rng.standard_normal(1)).reshape(()),
    }
    folder.mkdir()
    _save(folder / "whole", one)
    parts = ({key: one[key] for key in list(one)[:2]}, {key: one[key] for key in list(one)[2:]})
    for number, part in enumerate(parts):
        _save(folder / f"part{number}", part)
    index = {key: f"part{number}.safetensors" for number, part in enumerate(parts) for key in part}
    state = {"log_history": [{"step": step, "learning_rate": 1e-6, "loss": 0.1} for step in (1, 2, 10)]}
    jump = {
        "cycle": 1,
        "trained_from": 0,
        "trained_to": 5,
        "projected_to": 9,
        "alpha": 2.0,
        "accepted": True,
        "step": 5,
    }
    made_by_torch = folder / "torch"
    subprocess.run([sys.executable, Path(__file__).with_name("torch_seeds.py"), made_by_torch], check=True)
    return {
        "whole/model.safetensors": (folder / "whole").read_bytes(),
        "whole/config.json": json.dumps({"tie_word_embeddings": True, "text_config": {}}).encode(),
        "whole/trainer_state.json": json.dumps(state).encode(),
        "sharded/model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": index}).encode(),
        "sharded/part0.safetensors": (folder / "part0").read_bytes(),
        "sharded/part1.safetensors": (folder / "part1").read_bytes(),
        "jumps.json": json.dumps([jump]).encode(),
        "run.json": json.dumps({"optimizer": {"name": "adamw", "adam_beta1": 0.9}}).encode(),
        "settings/model.safetensors": (folder / "whole").read_bytes(),
        "settings/config.yaml": b"trainer: {lr: 1.0e-6}\nmodel: &m {hidden: 8}\noptimizer:\n  <<: *m\n  betas: [0.8, 0.99]\n",
        "settings/trainer.toml": b"[optim]\nname = 'adamw'\nbetas = [0.8, 0.99]\n",
        **{
            str(path.relative_to(made_by_torch)): path.read_bytes()
            for path in sorted(made_by_torch.rglob("*"))
            if path.is_file()
        },
    }


def layout_of(name: str) -> str:
    """The layout that a seed belongs to; what lies beside the checkpoints is damaged with the plainest one."""
    return name.split("/")[0] if "/" in name else "whole"


def mutate(data: bytes, rng: random.Random, *, framed: bool, binary: bool = False) -> bytes:
    """One to four random changes; of a `framed` file half the time to its JSON header, the length set right."""
    if framed and rng.random() < 0.6:
        length = int.from_bytes(data[:8], "little")
        text = data[8 : 8 + length]
        for _ in range(rng.randint(1, 4)):
            text = _mutate_json(text, rng)
        claimed = len(text) if rng.random() < 0.9 else rng.choice([0, len(text) + 1, 2**31, 2**63, 100_000_000, 2**25])
        return claimed.to_bytes(8, "little") + text + data[8 + length :]
    for _ in range(rng.randint(1, 4)):
        as_bytes = framed or rng.random() < (0.9 if binary else 0.4)
        data = _mutate_bytes(data, rng) if as_bytes else _mutate_json(data, rng)
    return data


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return bytes(rng.randrange(256) for _ in range(rng.randint(0, 20)))
    at, size = rng.randrange(len(data)), rng.choice([1, 1, 2, 8, 64])
    kind = rng.randrange(7)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + data[at + size :]
    if kind == 3:
        return data[:at] + bytes(rng.randrange(256) for _ in range(size)) + data[at:]
    if kind == 4:
        return data[:at] + data[at : at + size] * 2 + data[at + size :]
    if kind == 5:
        return data[:at] + rng.choice([b"\0", b"\xff", b"\x7f\xc0"]) * size + data[at + size :]
    other = rng.randrange(len(data))
    return data[:at] + data[other : other + size] + data[at + size :]


def _mutate_json(text: bytes, rng: random.Random) -> bytes:
    """Replace a number, a string or a piece of structure."""
    kind = rng.randrange(4)
    if kind == 0 or not text:
        return _mutate_bytes(text, rng)
    starts = {1: b"0123456789", 2: b'"', 3: b"{}[],:"}[kind]
    places = [i for i, byte in enumerate(text) if byte in starts]
    if not places:
        return _mutate_bytes(text, rng)
    at = rng.choice(places)
    if kind == 1:
        end = at
        while end < len(text) and text[end] in b"0123456789.":
            end += 1
        return text[:at] + rng.choice(_NUMBERS).encode() + text[end:]
    if kind == 2:
        end = text.find(b'"', at + 1)
        return text[: at + 1] + rng.choice(_STRINGS).encode() + (text[end:] if end > 0 else b"")
    return text[:at] + rng.choice(_PIECES).encode() + text[at + rng.randrange(2) :]


def read_everything(run: Path) -> str:
    """What the commands do with a run before they compute; the kind of outcome."""
    trajectory = open_trajectory([str(run)])
    record_text(inspect(trajectory)).encode()
    learning_rates(trajectory)
    jumps = regrounded(read_jumps(run), list(trajectory.steps))
    if jumps:
        record_text(jumped(jumps)).encode()
    clock_values(trajectory, "step")
    adam_beta1(trajectory)
    with contextlib.suppress(InputError):
        clock_values(trajectory, "lr")
    for folder in run.iterdir():
        files_of(folder)
    parts = parts_of(trajectory)
    for step in trajectory.steps:
        tensors = {tensor.name: tensor for tensor in trajectory.only([step])}
        if set(tensors) >= {part.name for part in parts}:
            read_checkpoint(tensors, parts, sample_positions(parts[-1].stop, 1000, 0))
    return "skipped" if trajectory.skipped else "left out" if len(trajectory.left_out) > 2 else "read"


def fuzz(cases: int, *, seed: int, first: int = 0, keep: Path | None = None) -> Figures:
    """Run the cases; failures are described in `failures`, their files copied to `keep`."""

    def too_long(*_: Any) -> None:
        raise TimeoutError

    figures = Figures()
    sys.addaudithook(_audit)
    previous = signal.signal(signal.SIGALRM, too_long)
    base = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    try:
        seeds = make_seeds(base / "seeds")
        run = base / "run"
        for layout in sorted({layout_of(name) for name in seeds}):  # what is imported late is imported here
            _write(run, {}, seeds, layout)
            if read_everything(run) == "skipped":
                raise RuntimeError(f"the seeds of {layout} cannot be read as they are")
        for number in range(first, first + cases):
            name = _write_case(run, seeds, random.Random(f"{seed}/{number}"))
            _watched["folder"], _watched["outside"] = str(run), []
            started = time.process_time()
            signal.setitimer(signal.ITIMER_REAL, HANGING)
            failure = None
            try:
                outcome = read_everything(run)
            except InputError as error:
                outcome = "refused"
                if len(str(error)) < 10:
                    failure = f"says only {error}"
            except Exception as error:
                outcome, failure = "crash", f"{type(error).__name__}: {str(error)[:200]}"
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                _watched["folder"] = None
            taken = time.process_time() - started
            figures.slowest = max(figures.slowest, taken)
            if taken > LONGEST:
                failure = failure or f"{taken:.1f} s"
            figures.outcomes[outcome] += 1
            if _watched["outside"]:
                failure = f"read outside the folder: {_watched['outside'][0]}"
            if failure:
                figures.failures.append(f"case {number} ({name}): {failure}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    subprocess.run(["cp", "-a", run, keep / str(number)], check=True)  # pipes and devices as they are
            figures.cases += 1
    finally:
        signal.signal(signal.SIGALRM, previous)
        shutil.rmtree(base, ignore_errors=True)
    figures.mebibytes = resident()
    if figures.mebibytes > LARGEST:
        figures.failures.append(f"{figures.mebibytes:.0f} MiB at most")
    return figures


def side_by_side(cases: int, jobs: int, *, seed: int, first: int, keep: Path | None) -> Figures:
    """The same cases, dealt to so many processes."""
    each = -(-cases // jobs)
    starts = range(first, first + cases, each)
    counts = [min(each, first + cases - start) for start in starts]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        return sum(pool.map(partial(_part, seed=seed, keep=keep), counts, starts), Figures())


def _part(cases: int, first: int, *, seed: int, keep: Path | None) -> Figures:
    return fuzz(cases, seed=seed, first=first, keep=keep)


def _write_case(run: Path, seeds: dict[str, bytes], rng: random.Random) -> str:
    """A run with one damaged file, which is named."""
    layout = rng.choice(sorted({layout_of(name) for name in seeds}))
    name = rng.choice([name for name in seeds if layout_of(name) == layout])
    binary = name.endswith((".pt", ".metadata", ".distcp"))
    if rng.random() < 0.2:
        _write(run, {}, seeds, layout)
        return f"{name}, {put(run, name.replace(layout, 'checkpoint-10', 1), rng)}"
    data = seeds[name]
    if name.endswith(("config.yaml", "trainer.toml")) and rng.random() < 0.5:
        data = rng.choice([b"", data]) + rng.choice(SETTINGS)
    elif name.endswith("adapter_config.json") and rng.random() < 0.3:
        data = data.replace(b'"k"', b'"' + rng.choice(PATTERNS).encode() + b'"')
    elif name.endswith(".metadata") and rng.random() < 0.2:
        data = hostile_pickle(rng)
    if data is seeds[name] or rng.random() < 0.3:
        data = mutate(data, rng, framed=name.endswith(".safetensors"), binary=binary)
    _write(run, {name: data}, seeds, layout)
    return name


def _write(run: Path, damaged: dict[str, bytes], seeds: dict[str, bytes], layout: str) -> None:
    """A run of two checkpoints of a layout, the first of them whole."""
    shutil.rmtree(run, ignore_errors=True)
    files = {}
    for name, data in seeds.items():
        if "/" not in name:
            if name != "jumps.json" or name in damaged:
                files[name] = damaged.get(name, data)
        elif layout_of(name) == layout:
            files[name.replace(layout, "checkpoint-0", 1)] = data
            files[name.replace(layout, "checkpoint-10", 1)] = damaged.get(name, data)
    for path, data in files.items():
        target = run / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def tell(figures: Figures, started: float) -> None:
    """Print what was found since a moment of the clock, and end with 1 where something failed."""
    print(f"{figures.cases:,} cases in {time.monotonic() - started:.0f} s: {dict(figures.outcomes)}")
    print(f"slowest {figures.slowest:.3f} s, at most {figures.mebibytes:.0f} MiB, {len(figures.failures)} failures")
    print("\n".join(figures.failures[:20]))
    sys.exit(bool(figures.failures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=None)
    parser.add_argument("--jobs", type=int, default=1, help="processes; the cases are the same for any number")
    settings = parser.parse_args()
    started = time.monotonic()
    figures = side_by_side(settings.cases, settings.jobs, seed=settings.seed, first=settings.first, keep=settings.keep)
    tell(figures, started)


if __name__ == "__main__":
    main()
