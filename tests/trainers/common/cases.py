"""`save.py OUT NAME...`: each case writes `OUT/NAME/run` with the trainer's own code, and beside it what is true."""

import datetime
import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

LIMIT = 120  # seconds for one case


class Case(NamedTuple):
    """`write` is called with the folder, the rank and the number of ranks; on 0 ranks, without a process group."""

    ranks: int
    write: Callable[[Path, int, int], None]


def main(cases: Mapping[str, Case]) -> None:
    """Forks the ranks of each case, so that the trainer is imported once for all; a failure is left in `failed.txt`."""
    out, names = Path(sys.argv[1]), sys.argv[2:] or list(cases)
    for name in names:
        folder = out / name
        folder.mkdir(parents=True)
        if said := _forked(cases[name], folder):
            (folder / "failed.txt").write_text(said)


def _forked(case: Case, folder: Path) -> str:
    """Runs a case; returns what its ranks said if one of them failed."""
    sys.stdout.flush()
    sys.stderr.flush()
    logs = [folder / f"rank_{rank}.log" for rank in range(max(case.ranks, 1))]
    running = {_started(case, folder, rank, log): rank for rank, log in enumerate(logs)}
    failed, end = set(), time.monotonic() + LIMIT
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child in running:
            rank = running.pop(child)
            if status:
                failed.add(rank)
                end = min(end, time.monotonic() + 5)  # the others wait for it in vain
        elif time.monotonic() > end:
            failed |= set(running.values())
            for child in running:
                os.kill(child, 9)
            end = float("inf")
        time.sleep(0.02)
    said = ""
    for rank in sorted(failed):
        lines = logs[rank].read_text(errors="replace").splitlines()
        said += "\n".join([f"rank {rank}:", *lines[-30:], ""])
    return said


def _started(case: Case, folder: Path, rank: int, log: Path) -> int:
    child = os.fork()
    if child:
        return child
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        import torch

        torch.set_num_threads(1)
        faulthandler.dump_traceback_later(LIMIT - 10)
        if case.ranks:
            _join(folder, rank, case.ranks)
        case.write(folder, rank, case.ranks)
        status = 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _join(folder: Path, rank: int, ranks: int) -> None:
    import torch.distributed as dist

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # asked for, not used
    limit = datetime.timedelta(seconds=LIMIT)
    store = f"file://{folder.resolve()}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=limit)
