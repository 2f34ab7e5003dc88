"""Tables of results in the documentation, rendered from the records beside it.

    python benchmarks/tables.py            write the tables anew, into docs/findings.md, RESULTS.md, ...
    python benchmarks/tables.py --check    only say which document is not up to date

Benchmarks write a record with `--keep`, `benchmarks/evidence.py` makes one of a study.json. In a document a table stands between `<!-- table: RECORD -->` and `<!-- end of table -->`, RECORD a path from the
repository's root. A record is a JSON object:

    command   what made the figures
    source    where they are from
    zero      false: numbers below 1 are written without their leading zero
    columns   in their order: `key`, `title`, and `decimals`, significant `digits` (4 if left out), or `percent` of a share
    rows      an object each, by the columns' keys; a cell is null, a text, a number, a list of numbers, or
              {"median", "low", "high", "never"}, {"low", "high"}, {"first", "last"}
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records"
DOCUMENTS = tuple(
    ROOT / name
    for name in (
        "docs/findings.md",
        "docs/advise.md",
        "docs/extrapolate.md",
        "docs/big-models.md",
        "benchmarks/RESULTS.md",
    )
)
_MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

Column = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """What a record holds; see above."""

    command: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    source: str = "measured by the command"
    zero: bool = field(default=True, kw_only=True)

    def cells(self) -> list[list[str]]:
        """Titles, then every row, as text."""
        body = [[cell(row.get(c["key"]), c, zero=self.zero) for c in self.columns] for row in self.rows]
        return [[column["title"] for column in self.columns], *body]

    def markdown(self) -> str:
        head, *body = self.cells()
        lines = [head, *body]
        rows = [re.sub(r" {2,}", " ", f"| {' | '.join(line)} |") for line in lines]
        return "\n".join([rows[0], "|" + "---|" * len(head), *rows[1:]])

    def text(self) -> str:
        """For a terminal: the first column to the left, the others to the right."""
        lines = self.cells()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines
        )

    def show(self, name: str, *, keep: bool) -> None:
        """Print what a benchmark measured; with `keep` write it to benchmarks/records, for the documents."""
        print(self.text(), flush=True)
        if keep:
            self.keep(RECORDS / f"{name}.json")

    def keep(self, file: Path) -> None:
        """Write the record: an object, a line for each column and row."""
        file.parent.mkdir(parents=True, exist_ok=True)
        parts = [f" {json.dumps(key)}: {_listed(value)}" for key, value in asdict(self).items()]
        file.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


@dataclass(frozen=True)
class Goal:
    """What was aimed at, at most or at least so much or nothing, beside what was measured; `unit` follows both."""

    what: str
    measured: float
    most: float | None = None
    least: float | None = None
    unit: str = ""

    @property
    def reached(self) -> bool:
        return (self.most is None or self.measured <= self.most) and (self.least is None or self.measured >= self.least)

    def row(self) -> Row:
        bounds = (("at most", self.most), ("at least", self.least))
        return {
            "what": self.what,
            "goal": ", ".join(f"{word} {bound:g} {self.unit}".rstrip() for word, bound in bounds if bound is not None),
            "measured": f"{self.measured:.3g} {self.unit}".rstrip(),
            "reached": ("reached" if self.reached else "**not reached**") if self.most or self.least else None,
        }


def goals(command: str, aimed: Sequence[Goal]) -> Table:
    """Each goal beside what was measured, and whether it was reached."""
    titles = {"what": "", "goal": "goal", "measured": "measured", "reached": "reached?"}
    columns = [{"key": key, "title": title} for key, title in titles.items()]
    return Table(command, columns, [goal.row() for goal in aimed])


def _listed(value: Any) -> str:
    if not isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return "[\n" + ",\n".join(f"  {json.dumps(item, ensure_ascii=False)}" for item in value) + "\n ]"


def read(file: Path) -> Table:
    return Table(**json.loads(file.read_text(encoding="utf-8")))


def cell(value: Any, column: Column, *, zero: bool = True) -> str:
    def number(x: float) -> str:
        return _number(x, column, zero=zero)

    match value:
        case None:
            return ""
        case str():
            return value
        case {"median": None}:
            return "- (never)"
        case {"median": middle, "low": low, "high": high, **more}:
            never = f", {more['never']} never" if more.get("never") else ""
            return f"{number(middle)} ({number(low)} to {number(high)}{never})"
        case {"low": low, "high": high} | {"first": low, "last": high}:
            return f"{number(low)} to {number(high)}"
        case list():
            return ", ".join("-" if x is None else number(x) for x in value)
        case _:
            return number(value)


def _number(value: float, column: Column, *, zero: bool) -> str:
    if column.get("percent"):
        share = 100 * value
        text = f"{share:.0f} %" if share >= 9.95 else f"{share:.{2 if share >= 0.1 else 1}g} %"
    elif "decimals" in column:
        text = f"{value:.{column['decimals']}f}"
    else:
        digits = column.get("digits", 4)
        text = f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return text if zero else re.sub(r"^(-?)0\.", r"\1.", text)


def rendered(document: str) -> str:
    """A document with every table in it rendered anew."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{read(ROOT / found[2]).markdown()}\n\n{found[3]}", document)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        if (new := rendered(text)) != text:
            stale.append(str(document.relative_to(ROOT)))
            if not check:
                document.write_text(new, encoding="utf-8")
    if check and stale:
        sys.exit(f"not what the records say: {', '.join(stale)}; run make tables")


if __name__ == "__main__":
    main()
