"""Writing forecasts against mergekit, cp and the disk's own floor; RELEX against stored deltas; back-tests.

    python benchmarks/extrapolate.py              0.4 billion parameters x 8, and 1.5 billion x 2 (12 GB in all)
    python benchmarks/extrapolate.py --small      40 million, to see that it works

Ratios between things measured in one run; wall clock includes start-up. mergekit (its release 0.1.5, with
this project's PyTorch) is installed into an environment of its own, for this benchmark only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from generate import generate
from measure import DRIFTLINE, best, forget, measure
from tables import Goal, Table, goals

HERE = Path(__file__).parent
ALPHA = 1.5
_FLOOR = "the floor: read two files, write one, sync"
_RATIO = {"key": "over_driftline", "title": "time / driftline", "digits": 2}
_SECONDS = {"key": "seconds", "title": "seconds", "decimals": 2}
_PEAK = {"key": "peak_gib", "title": "peak GiB", "decimals": 2}


def columns(title: str) -> tuple[dict[str, Any], ...]:
    cold = {"key": "cold", "title": "cold", "decimals": 2}
    memory = {"key": "memory_over_driftline", "title": "memory / driftline", "digits": 3}
    return ({"key": "what", "title": title}, _SECONDS, cold, _RATIO, _PEAK, memory)


def mergekit(data: Path) -> str:
    """The path of mergekit's program, installed on first use."""
    environment = (data / "mergekit").absolute()
    program = environment / "bin" / "mergekit-yaml"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        for package in ("torch==2.13.0", "mergekit==0.1.5"):
            subprocess.run([environment / "bin" / "pip", "install", "--quiet", package], check=True)
    return str(program)


def two_point(run: Path, program: str, scratch: Path, repeats: int, title: str, keep: str | None) -> Goal:
    """Two checkpoints into one model: driftline, mergekit, cp, and reading two files and writing one, which is the floor.

    Returns:
        How many times as long as the floor driftline takes, warm.
    """
    folders = sorted(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    early, late = folders[0], folders[-1]
    out = scratch / "out"
    files = [str(folder / "model.safetensors") for folder in (early, late)]

    def clean() -> None:
        """Nothing left to write from the call before."""
        shutil.rmtree(out, ignore_errors=True)
        os.sync()

    def cold() -> None:
        clean()
        forget(files)

    # mergekit takes a plus sign in a path for a LoRA, so it sees the run through a link
    link = scratch / "run"
    link.unlink(missing_ok=True)
    link.symlink_to(run.absolute())
    recipe = scratch / "merge.yml"
    settings = {
        "merge_method": "task_arithmetic",
        "dtype": "bfloat16",
        "base_model": str(link / early.name),
        "models": [{"model": str(link / late.name), "parameters": {"weight": ALPHA}}],
    }
    recipe.write_text(json.dumps(settings))  # JSON is YAML
    ours = [
        *DRIFTLINE,
        "extrapolate",
        str(run),
        "--method",
        "two-point",
        "--alpha",
        str(ALPHA),
        "--keep",
        "none",
        "--quiet",
        "--out",
        str(out),
    ]
    theirs = [program, str(recipe), str(out), "--no-copy-tokenizer"]
    copy = ["cp", files[0], str(out)]
    floor = ["sh", "-c", f"cat {files[1]} > /dev/null; cp {files[0]} {out}; sync {out}"]

    def clean_file() -> None:
        out.unlink(missing_ok=True)
        os.sync()

    def cold_file() -> None:
        clean_file()
        forget(files)

    clean()
    measure(ours)  # compiles the kernels once, as after an installation
    rows = {
        "`driftline extrapolate`": best(ours, repeats, before=clean),
        "mergekit": best(theirs, repeats, before=clean, HF_HUB_OFFLINE="1"),
    }
    cold_rows = {
        "`driftline extrapolate`": best(ours, repeats, before=cold),
        "mergekit": best(theirs, 1, before=cold, HF_HUB_OFFLINE="1"),
    }
    programs = tuple(rows)
    clean()
    rows |= {
        "`cp` of one checkpoint": best(copy, repeats, before=clean_file),
        _FLOOR: best(floor, repeats, before=clean_file),
    }
    cold_rows |= {_FLOOR: best(floor, repeats, before=cold_file)}
    clean_file()
    reference = rows["`driftline extrapolate`"]
    shown = [
        {
            "what": what,
            "seconds": seconds,
            "cold": cold_rows[what][0] if what in cold_rows else None,
            "over_driftline": seconds / reference[0],
            "peak_gib": memory if what in programs else None,
            "memory_over_driftline": memory / reference[1] if what in programs else None,
        }
        for what, (seconds, memory) in rows.items()
    ]
    table = Table("python benchmarks/extrapolate.py", columns(title), shown)
    table.show(f"extrapolate-{keep}", keep=keep is not None)
    return Goal(f"`extrapolate` warm, {title}", reference[0] / rows[_FLOOR][0], most=1.6, unit="× the floor")


def relex(run: Path, scratch: Path, repeats: int, title: str, keep: str | None) -> None:
    """Rank-1 RELEX of all checkpoints, one interval ahead."""
    target = str(int(max(run.glob("checkpoint-*"), key=lambda f: int(f.name.split("-")[1])).name.split("-")[1]) + 100)
    out = scratch / "out"
    clean = partial(shutil.rmtree, out, ignore_errors=True)
    ours = [
        *DRIFTLINE,
        "extrapolate",
        str(run),
        "--method",
        "relex",
        "--to",
        target,
        "--keep",
        "none",
        "--quiet",
        "--out",
        str(out),
    ]
    plain = [sys.executable, str(HERE / "plain_relex.py"), str(run), target, str(out)]
    rows = {
        "`driftline extrapolate --method relex`, nothing stored": best(ours, repeats, before=clean),
        "deltas stored in float16 and read back": best(plain, 1, before=clean),
    }
    clean()
    (reference, _), _ = rows.values()
    shown = [
        {"what": what, "seconds": seconds, "peak_gib": memory, "over_driftline": seconds / reference}
        for what, (seconds, memory) in rows.items()
    ]
    print()
    table = Table("python benchmarks/extrapolate.py", ({"key": "what", "title": title}, _SECONDS, _PEAK, _RATIO), shown)
    table.show(f"relex-{keep}", keep=keep is not None)


def backtests(run: Path, scratch: Path) -> None:
    """Seconds that back-tests take once the scan is done."""
    measure([*DRIFTLINE, "backtest", str(run), "--quiet", "--out", str(scratch / "backtest")])
    record = json.loads((scratch / "backtest" / "backtest.json").read_text())
    print(
        f"\nback-tests of {len(record['pooled'])} methods: {record['cost']['seconds_after_the_scan']:.2f} s after the scan"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--data", type=Path, default=Path("bench-data"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="write the records that RESULTS.md is rendered from")
    arguments = parser.parse_args()
    arguments.data.mkdir(exist_ok=True)
    program = mergekit(arguments.data)
    sizes = [(0.04e9, 8)] if arguments.small else [(0.4e9, 8), (1.5e9, 2)]
    aimed = []
    with tempfile.TemporaryDirectory(dir=arguments.data) as scratch:
        for size, checkpoints in sizes:
            run = arguments.data / f"run-{size:.0e}"
            parameters = generate(run, size, checkpoints)
            print(
                f"\n{parameters / 1e9:.3f} billion parameters x {checkpoints} bf16 checkpoints, {os.cpu_count()} cores\n"
            )
            here, keep = Path(scratch).absolute(), f"{size:.3g}".replace("+0", "") if arguments.keep else None
            title = f"{parameters / 1e9:.3f} billion parameters"
            aimed.append(two_point(run, program, here, arguments.repeats, title, keep))
            if checkpoints > 2:
                relex(
                    run,
                    here,
                    arguments.repeats,
                    f"rank-1 RELEX over {checkpoints} checkpoints of {title[:5]} billion",
                    keep,
                )
                backtests(run, Path(scratch).absolute())
    print()
    goals("python benchmarks/extrapolate.py", aimed[-1:]).show(
        "extrapolate-goal", keep=arguments.keep
    )  # of the largest


if __name__ == "__main__":
    main()
