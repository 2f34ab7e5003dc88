"""How often driftline says what is not so, on simulated runs of which the truth is known: before, and now.

    python benchmarks/calibration.py [--runs 300] [--only drift watching ...] [--jobs 16] [--keep]

A row for each claim, from the modules of benchmarks/calibrating. `before` is the share that was measured when the
fault was filed; `now` is measured by this command, with its 95 % interval (Clopper and Pearson's).
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Iterator

import calibrating
from calibrating import side
from calibrating.row import Row
from tables import Table

_COLUMNS = (
    {"key": "what", "title": "simulated runs, and what is said of them"},
    {"key": "before", "title": "before"},
    {"key": "share", "title": "now", "percent": True},
    {"key": "interval", "title": "95 % interval", "percent": True},
    {"key": "runs", "title": "runs"},
    {"key": "promise", "title": "promised"},
    {"key": "holds", "title": "holds"},
    {"key": "note", "title": ""},
)


def rooms() -> list[str]:
    """The modules that have rows."""
    names = (module.name for module in pkgutil.iter_modules(calibrating.__path__))
    return [name for name in names if hasattr(importlib.import_module(f"calibrating.{name}"), "rows")]


def rows(room: str, runs: int) -> Iterator[Row]:
    yield from importlib.import_module(f"calibrating.{room}").rows(runs)


def table(found: list[Row], command: str) -> Table:
    return Table(command=command, columns=_COLUMNS, rows=[row.cells() for row in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="simulated runs of each row")
    parser.add_argument("--only", nargs="+", choices=rooms(), default=rooms(), help="some of the rooms")
    parser.add_argument("--jobs", type=int, default=1, help="processes; the figures are the same for any number")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/records/calibration-ROOM.json")
    asked = parser.parse_args()
    side.jobs = asked.jobs
    for room in asked.only:
        command = f"python benchmarks/calibration.py --runs {asked.runs} --only {room}"
        print(f"\n{room}", flush=True)
        table(list(rows(room, asked.runs)), command).show(f"calibration-{room}", keep=asked.keep)


if __name__ == "__main__":
    main()
